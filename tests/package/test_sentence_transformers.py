"""sentence-transformers loads a saved folder as it is and gives the model's own vectors."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import (
    ROOT,
    WITHOUT_PACKAGE,
    assert_same,
    make_parts,
    picture,
    product_vectors,
    query_vectors,
    run_python,
)
from PIL import Image
from safetensors.numpy import load_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.fusion_mmfusion import MMFusionTruncatableVectors, truncate_vectors

QUERIES = ["red mug", "a big soft blue striped cotton shirt of clay"]
LOAD = """
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

def save_vectors(folder):
    encoder = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    documents = [{"text": "red mug", "image": sys.argv[1] + "/mug.png"}, {"text": "big lamp", "image": None}]
    found = {"queries": encoder.encode_query(["red mug", "lamp"]), "products": encoder.encode_document(documents)}
    save_file(found, folder + "/found.safetensors")
    return encoder

encoder = save_vectors(sys.argv[1])
encoder.save_pretrained(sys.argv[1] + "/again")
encoder.transformers_model.save_pretrained(sys.argv[1] + "/parts")
encoder.processor.save_pretrained(sys.argv[1] + "/parts")
save_vectors(sys.argv[1] + "/again")
save_vectors(sys.argv[1] + "/parts")
"""


@pytest.fixture
def parts(towers) -> tuple[MMFusionModel, MMFusionProcessor]:
    """Model and processor with a query tower of its own."""
    return make_parts(towers, towers["query"])


def save(parts, folder) -> SentenceTransformer:
    """Saves model and processor and loads the folder."""
    for part in parts:
        part.save_pretrained(folder)
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.mark.parametrize("query", [None, "query"], ids=["shared text tower", "own query tower"])
def test_queries_and_documents_get_the_models_vectors(towers, query, tmp_path):
    parts = make_parts(towers, query and towers[query])
    encoder = save(parts, tmp_path)
    (tmp_path / "mug.png").write_bytes(picture("blue"))
    path, red = str(tmp_path / "mug.png"), Image.new("RGB", (40, 48), "red")

    assert_same(encoder.encode_query(QUERIES), query_vectors(parts, QUERIES))
    titles = product_vectors(parts, [{"title": text} for text in QUERIES])
    assert_same(encoder.encode_document(QUERIES), titles)
    assert_same(encoder.encode_document([{"text": text} for text in QUERIES]), titles)
    assert_same(encoder.encode(QUERIES), titles)
    pictures = product_vectors(parts, [{"image": red}, {"image": path}])
    assert_same(encoder.encode_document([red, path]), pictures)
    assert_same(encoder.encode_query([red, path]), pictures)
    assert_same(encoder.encode_document([{"image": red}, {"image": path}]), pictures)
    both = product_vectors(parts, [{"title": "red mug", "image": red}, {"title": "Big lamp.", "image": [path, red]}])
    documents = [{"text": "red mug", "image": red}, {"image": [path, red], "text": "Big lamp."}]
    assert_same(encoder.encode_document(documents), both)
    assert encoder.get_embedding_dimension() == both.shape[1]


def test_documents_of_several_kinds_need_both_keys(parts, tmp_path):
    encoder = save(parts, tmp_path)
    red = Image.new("RGB", (40, 48), "red")
    with pytest.raises(ValueError, match="mixes multiple modalities"):
        encoder.encode_document([{"text": "red mug", "image": red}, {"text": "lamp"}, {"image": red}])
    found = encoder.encode_document(
        [{"text": "red mug", "image": red}, {"text": "lamp", "image": None}, {"text": None, "image": red}]
    )
    products = [{"title": "red mug", "image": red}, {"title": "lamp"}, {"image": red}]
    assert_same(found, product_vectors(parts, products))


def test_queries_may_have_both_keys(parts, tmp_path):
    """A row gets its tower by what it has, not by what else is in the batch."""
    encoder = save(parts, tmp_path)
    red = Image.new("RGB", (40, 48), "red")
    texts = [{"text": text, "image": None} for text in QUERIES]
    pictures = [{"text": "red mug", "image": red}, {"text": None, "image": red}]
    queries = query_vectors(parts, QUERIES)
    products = product_vectors(parts, [{"title": "red mug", "image": red}, {"image": red}])
    assert_same(encoder.encode_query(texts), queries)
    assert_same(encoder.encode_query(texts + pictures), np.concatenate([queries, products]))
    assert_same(encoder.encode_query(pictures), products)
    assert_same(encoder.encode_document(texts), product_vectors(parts, [{"title": text} for text in QUERIES]))
    found = encoder.encode_query(texts + pictures, truncate_dim=22)
    parts[0].config.truncate_dim = 22
    assert_same(found[: len(texts)], query_vectors(parts, QUERIES))


def test_the_prompt_of_queries_is_the_query_tower(parts, tmp_path):
    encoder = save(parts, tmp_path / "model")
    assert_same(encoder.encode(QUERIES, prompt_name="query"), query_vectors(parts, QUERIES))
    assert_same(encoder.encode(QUERIES, prompt=encoder.prompts["query"]), query_vectors(parts, QUERIES))
    titles = product_vectors(parts, [{"title": text} for text in QUERIES])
    assert_same(encoder.encode(QUERIES, prompt_name="document"), titles)
    encoder.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu", truncate_dim=22)
    parts[0].config.truncate_dim = 22
    assert_same(again.encode(QUERIES, prompt_name="query"), query_vectors(parts, QUERIES))


LOSSES = {
    "ranking": lambda encoder: losses.MultipleNegativesRankingLoss(encoder),
    "cached": lambda encoder: losses.CachedMultipleNegativesRankingLoss(encoder, mini_batch_size=2),
    "matryoshka": lambda encoder: losses.MatryoshkaLoss(
        encoder, losses.MultipleNegativesRankingLoss(encoder), [44, 22]
    ),
    "triplet": lambda encoder: losses.TripletLoss(encoder),
}


@pytest.mark.parametrize("route", ["router_mapping", "prompts"])
@pytest.mark.parametrize("loss", LOSSES)
def test_its_trainer_trains_both_towers(towers, tmp_path, loss, route):
    encoder = save(make_parts(towers), tmp_path / "model")
    red, blue = (Image.new("RGB", (40, 48), colour) for colour in ("red", "blue"))
    rows = [("red mug", "plain mug", red, blue), ("blue mug", "plain mug", blue, red)]
    data = Dataset.from_dict(
        {
            "query": [row[0] for row in rows] * 2,
            "document": [{"text": row[1], "image": row[2]} for row in rows] * 2,
            "negative": [{"text": row[1], "image": row[3]} for row in rows] * 2,
        }
    )
    routes = {"router_mapping": {"query": "query"}, "prompts": encoder.prompts}
    settings = {"per_device_train_batch_size": 2, "max_steps": 2, "report_to": [], "save_strategy": "no"}
    settings |= {"learning_rate": 1e-2, "use_cpu": True, route: routes[route]}
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    SentenceTransformerTrainer(
        encoder,
        SentenceTransformerTrainingArguments(str(tmp_path / "run"), **settings),
        data,
        loss=LOSSES[loss](encoder),
    ).train()
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    for part in ("query_heads", "product_heads", "text_model", "vision_model"):
        assert any(part in name for name in changed), f"{part} is not trained"
    assert not any("familiarity" in name for name in changed)


def test_unknown_tasks_are_refused(parts, tmp_path):
    encoder = save(parts, tmp_path)
    with pytest.raises(ValueError, match="task must be query or document, got 'queries'"):
        encoder.encode(QUERIES, task="queries")


@pytest.mark.slow
def test_a_folder_loads_and_is_saved_again_without_the_package(parts, tmp_path):
    save(parts, tmp_path)
    (tmp_path / "mug.png").write_bytes(picture("red"))
    ran = run_python(WITHOUT_PACKAGE + LOAD, tmp_path, ROOT, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert ran.returncode == 0, ran.stderr[-2000:]
    queries = query_vectors(parts, ["red mug", "lamp"])
    products = product_vectors(parts, [{"title": "red mug", "image": tmp_path / "mug.png"}, {"title": "big lamp"}])
    for folder in (tmp_path, tmp_path / "again", tmp_path / "parts"):
        found = load_file(folder / "found.safetensors")
        assert_same(found["queries"], queries)
        assert_same(found["products"], products)


@pytest.mark.parametrize("dim", [22, 11])
def test_truncate_dim_truncates_as_the_model_does(parts, tmp_path, dim):
    """It cuts behind the model, where the first dimensions are the first blocks' alone."""
    documents = [{"text": "red mug", "image": Image.new("RGB", (40, 48), "red")}, {"text": "big lamp", "image": None}]
    encoder = save(parts, tmp_path)
    shorter = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu", truncate_dim=dim)
    parts[0].config.truncate_dim = dim
    queries = query_vectors(parts, QUERIES)
    products = product_vectors(parts, [{"title": d["text"], "image": d["image"]} for d in documents])
    pictures = product_vectors(parts, [{"image": documents[0]["image"]}])
    for found in (shorter, encoder):
        options = {} if found is shorter else {"truncate_dim": dim}
        assert_same(found.encode_query(QUERIES, **options), queries)
        assert_same(found.encode_document(documents, **options), products)
        assert_same(found.encode_document([documents[0]["image"]], normalize_embeddings=True, **options), pictures)
        assert_same(found.encode_query(QUERIES, convert_to_tensor=True, **options).numpy(), queries)
    assert_same(np.linalg.norm(shorter.encode_document(documents), axis=1), 1)
    assert shorter.get_embedding_dimension() == dim == queries.shape[1]
    parts[0].config.truncate_dim = None
    whole = encoder.encode_query(QUERIES, truncate_dim=4_000)
    assert_same(whole, query_vectors(parts, QUERIES))
    with pytest.raises(ValueError, match="can't truncate blocks"):
        encoder.encode_query(QUERIES, truncate_dim=2)


def test_a_model_of_short_vectors_is_truncated_further(parts, tmp_path):
    save(parts, tmp_path)
    options = {"trust_remote_code": True, "device": "cpu", "config_kwargs": {"truncate_dim": 22}}
    found = SentenceTransformer(str(tmp_path), **options).encode_query(QUERIES, truncate_dim=11)
    parts[0].config.truncate_dim = 11
    assert_same(found, query_vectors(parts, QUERIES))


def test_only_a_slice_of_the_first_dimensions_is_a_truncation(model):
    vectors = torch.nn.functional.normalize(torch.rand(3, model.config.embedding_dim), dim=-1).requires_grad_()
    found = MMFusionTruncatableVectors.of(vectors, model.config)
    for key in (0, slice(2), (..., slice(1, 9)), (slice(None), 4), ([0, 2],), (slice(1), slice(9)), torch.tensor([1])):
        assert torch.equal(found[key], vectors[key]) and type(found[key]) is torch.Tensor
    for short in (found[..., :11], found[:, :11]):
        assert torch.equal(short, truncate_vectors(vectors, model.config, 11)) and type(short) is torch.Tensor
    assert type(found @ found.T) is type(found.cpu().float() + 0) is torch.Tensor
    found[..., :11].sum().backward()
    assert vectors.grad.abs().sum() > 0


def test_prompts_and_similarity_of_ones_own_survive_saving(parts, tmp_path):
    encoder = save(parts, tmp_path / "model")
    assert encoder.similarity_fn_name == "dot"
    encoder.prompts["query"] = "big "
    encoder.similarity_fn_name = "cosine"
    encoder.save_pretrained(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    assert again.similarity_fn_name == "cosine"
    assert_same(again.encode_query(["mug"]), query_vectors(parts, ["big mug"]))


def test_the_information_retrieval_evaluator_ranks_as_the_model_does(parts, tmp_path):
    encoder = save(parts, tmp_path)
    queries = ["red mug", "soft shirt", "clay bowl"]
    documents = ["plain red mug", "striped cotton shirt", "big bowl of clay", "small lamp"]
    best = (query_vectors(parts, queries) @ product_vectors(parts, [{"title": text} for text in documents]).T).argmax(
        1
    )
    evaluator = InformationRetrievalEvaluator(
        queries={str(row): text for row, text in enumerate(queries)},
        corpus={str(row): text for row, text in enumerate(documents)},
        relevant_docs={str(row): {str(column)} for row, column in enumerate(best)},
        accuracy_at_k=[1],
        write_csv=False,
    )
    assert evaluator(encoder)["dot_accuracy@1"] == 1.0


def test_its_trainer_sees_one_input_a_column(parts, tmp_path):
    encoder = save(parts, tmp_path)
    tasks = {"anchor": "query", "positive": "document"}
    collate = SentenceTransformerDataCollator(encoder.preprocess, router_mapping=tasks)
    rows = [{"anchor": text, "positive": f"striped {text}"} for text in QUERIES]
    features, _ = SentenceTransformerTrainer.collect_features(None, collate(rows))
    anchors, positives = (encoder(column)["sentence_embedding"].detach().numpy() for column in features)
    assert_same(anchors, query_vectors(parts, QUERIES))
    assert_same(positives, product_vectors(parts, [{"title": f"striped {text}"} for text in QUERIES]))
