"""What models are compared with, and rankings on disk."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import make_text_tower, shop_rows, write_shop
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from transformers import BertConfig, BertForMaskedLM

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex
from training import evaluate
from training.catalogue.layout import load_split
from training.catalogue.writing import write_card, write_split
from training.evaluation import measuring
from training.evaluation.options import EvaluateArguments
from training.evaluation.rankers import (
    RankFusion,
    SparseRanker,
    WordRanker,
    best_rows,
    is_other_encoder,
    listing_texts,
)
from training.evaluation.trec import read_run
from training.features.encoder import Encoder


@pytest.fixture
def saved(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_ties_go_to_the_lower_row():
    assert best_rows(np.array([0.5, 0.9, 0.5000000001, 0.9, 0.1]), 3).tolist() == [1, 3, 0]
    assert best_rows(np.array([0.5, 0.4]), 9).tolist() == [0, 1]


def test_bm25_ranks_by_shared_rare_words(tmp_path):
    corpus, queries, qrels = shop_rows()
    corpus[5]["description"] = "a zebra, and a mug"
    queries = [{**queries[0], "text": "ZEBRA mug"}, {**queries[1], "text": "quux"}]
    split = load_split(write_shop(tmp_path, corpus, queries, qrels[:2]), "test")
    found, unknown = WordRanker().rank(split, 12)
    assert found[0] == 5 and sorted(found[1:].tolist()) == [0, 1, 2], "products without a shared word are not found"
    assert len(unknown) == 0


def test_reciprocal_ranks_by_hand():
    first, second = [np.array([3, 1, 2])], [np.array([2, 3])]
    (found,) = RankFusion([first, second]).rank(None, depth=9)
    scores = {3: 1 / 61 + 1 / 62, 2: 1 / 63 + 1 / 61, 1: 1 / 62}
    assert found.tolist() == sorted(scores, key=lambda row: -scores[row]) == [3, 2, 1]
    assert RankFusion([first, second]).rank(None, depth=1)[0].tolist() == [3]


def test_other_views_are_measured_beside_ours_and_compared(saved, shop, tmp_path):
    views = ["fused", "text", "image", "bm25", "rrf", "hybrid", "oracle"]
    report = evaluate.main(EvaluateArguments(saved, str(shop), views=views, metrics=["ndcg@10", "recall@10"]))
    assert list(report["views"]) == views and set(report["comparisons"]) >= {
        "fused_vs_bm25",
        "fused_vs_rrf",
    }
    for name in ("ndcg@10", "recall@10"):
        means = {view: found[name]["mean"] for view, found in report["views"].items()}
        assert means["oracle"] >= max(means["text"], means["image"])
    alone = evaluate.main(EvaluateArguments("bm25", str(shop), metrics=["ndcg@10"]))
    assert alone["views"]["bm25"]["ndcg@10"] == report["views"]["bm25"]["ndcg@10"] and list(alone["views"]) == ["bm25"]


def test_any_text_model_of_sentence_transformers(shop, tmp_path, saved):
    make_text_tower(tmp_path / "bert")
    transformer = Transformer(str(tmp_path / "bert"))
    encoder = SentenceTransformer(modules=[transformer, Pooling(16)])
    encoder.save_pretrained(str(tmp_path / "encoder"))
    assert is_other_encoder(tmp_path / "encoder") and not is_other_encoder(saved) and not is_other_encoder(tmp_path)
    report = evaluate.main(EvaluateArguments(str(tmp_path / "encoder"), str(shop), metrics=["ndcg@10"]))
    split = load_split(shop, "test")
    products = encoder.encode(
        [f"plain {name.split('-')[0]}. the soft {name.split('-')[0]}" for name in split.product_ids]
    )
    queries = encoder.encode(split.query_texts)
    unit = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (queries, products)]
    expected = measuring.measure_rankings(split, measuring.search_exact(*unit, 10), ("ndcg@10",))["ndcg@10"]
    assert report["views"]["text"]["ndcg@10"]["mean"] == pytest.approx(expected.mean())
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="encoder: can't load it as a sentence-transformers model"):
        evaluate.main(EvaluateArguments(str(tmp_path / "encoder"), str(shop)))


def test_a_sparse_encoder_of_sentence_transformers(shop, tmp_path):
    make_text_tower(tmp_path / "bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=64, initializer_range=0.5, **sizes)).save_pretrained(tmp_path / "bert")
    modules = [MLMTransformer(str(tmp_path / "bert")), SpladePooling("max")]
    SparseEncoder(modules=modules).save_pretrained(str(tmp_path / "sparse"))
    split, encoder = load_split(shop, "test"), SparseEncoder(str(tmp_path / "sparse"))
    options = {"convert_to_sparse_tensor": False, "show_progress_bar": False}
    queries = encoder.encode_query(split.query_texts, **options).numpy()
    products = encoder.encode_document(listing_texts(split), **options).numpy()
    assert queries.shape == (12, 64) and (queries @ products.T).std() > 0
    expected = measuring.search_exact(queries, products, 10)
    report = evaluate.main(EvaluateArguments(str(tmp_path / "sparse"), str(shop), metrics=["ndcg@10"], batch_size=5))
    values = measuring.measure_rankings(split, expected, ("ndcg@10",))["ndcg@10"]
    assert report["views"]["text"]["ndcg@10"]["mean"] == pytest.approx(values.mean())
    found = SparseRanker(str(tmp_path / "sparse"), batch_size=5).rank(split, 3, [np.array([row]) for row in range(12)])
    assert [rows.tolist() for rows in found] == [[row] for row in range(12)]


def test_bm25_is_tuned_on_dev_alone(tmp_path, capsys):
    corpus, queries, qrels = shop_rows()
    stems = [{**query, "text": f"{query['text']}s"} for query in queries]  # mugs, of which there is mug alone
    for split, asked in (("train", queries), ("dev", stems), ("test", stems)):
        write_split(tmp_path / "shop", split, corpus, asked, qrels)
    write_card(tmp_path / "shop", "Shop", "apache-2.0", ["train", "dev", "test"], "For tests.")
    report = evaluate.main(EvaluateArguments("bm25-tuned", str(tmp_path / "shop"), metrics=["ndcg@10"]))
    plain = evaluate.main(EvaluateArguments("bm25", str(tmp_path / "shop"), metrics=["ndcg@10"]))
    assert report["bm25"]["stemmed"] and "bm25" not in plain and "stems; ndcg@10" in capsys.readouterr().out
    assert report["views"]["bm25"]["ndcg@10"]["mean"] > plain["views"]["bm25"]["ndcg@10"]["mean"]
    with pytest.raises(DataError, match="tuned on the split dev; measure another"):
        evaluate.main(EvaluateArguments("bm25-tuned", str(tmp_path / "shop"), split="dev"))
    write_split(tmp_path / "bare", "test", corpus, stems, qrels)
    write_card(tmp_path / "bare", "Shop", "apache-2.0", ["test"], "For tests.")
    report = evaluate.main(EvaluateArguments("bm25-tuned", str(tmp_path / "bare"), metrics=["ndcg@10"]))
    assert report["views"] == plain["views"] and "no split dev to tune BM25 on" in capsys.readouterr().err
    options = {"metrics": ["ndcg@10"], "tune_on": str(tmp_path / "shop")}
    assert evaluate.main(EvaluateArguments("bm25-tuned", str(tmp_path / "bare"), **options))["bm25"]["stemmed"]
    with pytest.raises(DataError, match="--tune-on: only bm25-tuned is tuned, bm25 is not"):
        evaluate.main(EvaluateArguments("bm25", str(tmp_path / "bare"), **options))


def test_the_hybrid_view_is_what_the_index_finds(saved, shop, tmp_path):
    run = str(tmp_path / "run.trec")
    arguments = EvaluateArguments(saved, str(shop), views=["hybrid"], metrics=["ndcg@10"], run_file=run)
    assert list(evaluate.main(arguments)["views"]) == ["hybrid"]
    encoder, split = Encoder.load(saved), load_split(shop, "test")
    products, queries = encoder.embed_products(split), encoder.embed_queries(split.query_texts)
    blocks = encoder.model.config.truncated_dims(products.shape[1])
    columns = [name for name in split.corpus.column_names if name != "image"]
    index = ProductIndex.build(
        products, split.corpus.select_columns(columns).with_format("arrow")[:], "", "f32", blocks, words=True
    )
    found = index.search(queries, 10, texts=split.query_texts)
    expected = [[one.product_id for one in results] for results in found]
    assert list(read_run(run).values()) == expected
    assert expected != [[one.product_id for one in results] for results in index.search(queries, 10)]


def test_quantised_and_approximate_search(saved, shop):
    vectors = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    losses = [np.abs(measuring.quantize(vectors, how) - vectors).max() for how in ("f32", "f16", "i8")]
    assert losses[0] == 0 < losses[1] < 1e-3 < losses[2] < 1 / 127
    assert set(np.unique(measuring.quantize(vectors, "b1"))) == {-1.0, 1.0}
    exact, approximate = (
        search(vectors[:5], vectors, 3) for search in (measuring.search_exact, measuring.search_index)
    )
    assert [rows.tolist() for rows in exact] == [rows.tolist() for rows in approximate]
    report = evaluate.main(EvaluateArguments(saved, str(shop), quantization="i8", ann=True, views=["fused"]))
    assert report["quantization"] == "i8"


def test_rankings_and_queries_on_disk(saved, shop, tmp_path):
    files = {"run_file": str(tmp_path / "out" / "run.trec"), "per_query": str(tmp_path / "out" / "queries.parquet")}
    report = evaluate.main(EvaluateArguments(saved, str(shop), metrics=["ndcg@10"], **files))
    lines = [line.split() for line in (tmp_path / "out" / "run.trec").read_text().splitlines()]
    rows = pq.read_table(files["per_query"]).to_pylist()
    assert lines[0][:2] == ["q-mug-red", "Q0"] and len(lines) == 12 * 10
    assert rows[0]["fused top 10"][:2] == [lines[0][2], lines[1][2]] and rows[0]["slice"] == "both"
    found = np.mean([row["fused ndcg@10"] for row in rows])
    assert found == pytest.approx(report["views"]["fused"]["ndcg@10"]["mean"])


def test_the_rankings_on_disk_are_those_of_the_first_view(saved, shop, tmp_path):
    files = {"run_file": str(tmp_path / "run.trec"), "per_query": str(tmp_path / "queries.parquet")}
    for views in (["rrf"], ["image", "rrf", "text"]):
        evaluate.main(EvaluateArguments(saved, str(shop), metrics=["ndcg@10"], views=views, **files))
        rows, rankings = pq.read_table(files["per_query"]).to_pylist(), read_run(files["run_file"])
        assert [rankings[row["query-id"]] for row in rows] == [row[f"{views[0]} top 10"] for row in rows]
    with pytest.raises(DataError, match="--run-file: the oracle is no ranking"):
        evaluate.main(EvaluateArguments(saved, str(shop), views=["oracle", "text"], **files))


@pytest.mark.parametrize(
    "option, value",
    [
        ("views", ["fused"]),
        ("views", ["fused", "text", "image", "bm25"]),
        ("views", ["rrf"]),
        ("examples", "page.html"),
        ("quantization", "i8"),
        ("ann", True),
        ("truncate_dim", 8),
        ("missing_images", 0.5),
    ],
)
@pytest.mark.parametrize("kind", ["bm25", "a text model"])
def test_what_a_baseline_cannot_do_is_refused_before_any_work(tmp_path, monkeypatch, kind, option, value):
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setattr(evaluate, "load_split", lambda *words: pytest.fail("work was done"))
    arguments = EvaluateArguments("bm25" if kind == "bm25" else str(tmp_path), **{option: value})
    with pytest.raises(DataError, match=f"^--{option.replace('_', '-')}: .* has only the view") as caught:
        evaluate.main(arguments)
    assert "\n" not in str(caught.value)


def test_what_a_baseline_can_do_works(shop, tmp_path):
    files = {"per_query": str(tmp_path / "queries.parquet"), "run_file": str(tmp_path / "run.txt")}
    files |= {"report": str(tmp_path / "report.json")}
    report = evaluate.main(EvaluateArguments("bm25", str(shop), views=["bm25"], judged_only=True, **files))
    assert set(report["views"]) == {"bm25", "random"}
    assert all((tmp_path / name).stat().st_size > 0 for name in ("queries.parquet", "run.txt", "report.json"))
