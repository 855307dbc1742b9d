"""MTEB evaluates a published model by its id, with queries from the query tower and products with their pictures.

The tasks are the tiny shop's, in memory: nothing of MTEB's own tasks is loaded.
"""

import json

import mteb
import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from helpers import assert_same, product_vectors, query_vectors, shop_rows
from hub_release import IDS, push_folder
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.models.model_meta import ScoringFunction
from sentence_transformers import SentenceTransformer

from modeling_mmfusion.model_folder import load_model

CORPUS, QUERIES, QRELS = shop_rows()
TEXTS = [f"{row['description']} in {row['_id'].split('-')[1]}" for row in CORPUS]  # or the colour is in no word
UNKNOWN = "date domains task_subtypes license annotations_creators dialect sample_creation bibtex_citation".split()


def describe(category: str, modalities: list[str]) -> TaskMetadata:
    """What MTEB asks of a task; `category` tells what queries and documents are, as `t2it`."""
    return TaskMetadata(
        name=f"TinyShop-{category}",
        description="Twelve products of four kinds and three colours.",
        reference=None,
        dataset={"path": "none", "revision": "1"},
        type="Any2AnyRetrieval" if "image" in modalities else "Retrieval",
        category=category,
        modalities=modalities,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        **dict.fromkeys(UNKNOWN),
    )


class TextTask(AbsTaskRetrieval):
    """Words for words."""

    metadata = describe("t2t", ["text"])

    def load_data(self, num_proc=None, **options):
        queries = [{"id": row["_id"], "text": row["text"]} for row in QUERIES]
        corpus = [
            {"id": row["_id"], "title": row["title"], "text": text, "image": row["image"]}
            for row, text in zip(CORPUS, TEXTS, strict=True)
        ]
        split = {"queries": Dataset.from_list(queries), "top_ranked": None}
        split["corpus"] = Dataset.from_list(corpus).cast_column("image", ImageFeature())
        split["relevant_docs"] = {row["query-id"]: {row["corpus-id"]: row["score"]} for row in QRELS}
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


class PictureTask(TextTask):
    """Words for products with pictures."""

    metadata = describe("t2it", ["text", "image"])


def evaluate(model, task, folder) -> tuple[float, np.ndarray]:
    """MTEB's NDCG@10, and its scores of all queries and products."""
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, prediction_folder=folder)
    predictions = json.loads((folder / f"{task.metadata.name}_predictions.json").read_text())["default"]["test"]
    scores = [[predictions[query["_id"]][row["_id"]] for row in CORPUS] for query in QUERIES]
    return result.task_results[0].get_score(), np.array(scores)


def own_scores(folder, task, dim=None) -> np.ndarray:
    """The model's own scores of queries and products; MTEB makes one text of title and text."""
    parts = load_model(folder)
    parts[0].config.truncate_dim = dim
    texts = [row["text"] for row in QUERIES]
    products = [{"title": f"{row['title']} {text}"} for row, text in zip(CORPUS, TEXTS, strict=True)]
    if task is PictureTask:
        products = [product | {"image": row["image"]} for product, row in zip(products, CORPUS, strict=True)]
    products = product_vectors(parts, products)
    scores = query_vectors(parts, texts) @ products.T
    other_tower = product_vectors(parts, [{"title": text} for text in texts]) @ products.T
    assert np.abs(scores - other_tower).max() > 0.01, "this would not tell which tower embeds queries"
    return scores


def ndcg(scores: np.ndarray) -> float:
    """Mean NDCG@10 where the product of a query's own row is all that is relevant."""
    ranks = (scores > scores.diagonal()[:, None]).sum(1)
    return float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean())


@pytest.fixture
def published(release, hub) -> str:
    """The id of a model on the Hub."""
    push_folder(release, "model")
    return IDS["model"]


@pytest.mark.parametrize("dim", [None, 22], ids=["whole", "truncated"])
@pytest.mark.parametrize("task", [TextTask, PictureTask])
def test_a_model_by_its_id(release, published, task, dim, tmp_path):
    expected = own_scores(release.hub / "model", task, dim)
    model = mteb.get_model(published, trust_remote_code=True, device="cpu", embed_dim=dim)
    found, scores = evaluate(model, task(), tmp_path)
    assert_same(scores, expected)
    assert found == pytest.approx(ndcg(expected), abs=1e-4)


def test_what_mteb_reads_of_a_repository(published, hub):
    found = mteb.get_model_meta(published, fetch_from_hf=True)
    assert set(found.modalities) == {"text", "image"} and found.model_type == ["dense"]
    assert found.similarity_fn_name == ScoringFunction.DOT_PRODUCT
    assert found.revision == hub.repos[f"models/{published}"].refs["main"]
    assert found.license == "apache-2.0" and found.languages == ["eng-Latn"] and found.n_parameters


def test_a_model_as_an_object(release, tmp_path):
    """MTEB takes any `SentenceTransformer` for one of texts, until it is told."""
    folder = release.hub / "model"
    encoder = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    found, scores = evaluate(encoder, TextTask(), tmp_path)
    expected = own_scores(folder, TextTask)
    assert_same(scores, expected)
    assert found == pytest.approx(ndcg(expected), abs=1e-4)

    encoder = SentenceTransformerEncoderWrapper(encoder)
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update={"modalities": ["image", "text"]})
    assert_same(evaluate(encoder, PictureTask(), tmp_path)[1], own_scores(folder, PictureTask))
