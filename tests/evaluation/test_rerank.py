"""Cross-encoders: what they rank anew, what they teach, and their training."""

import numpy as np
import pytest
import torch
from helpers import make_text_tower, shop_rows, write_shop
from sentence_transformers import CrossEncoder

from modeling_mmfusion.errors import DataError
from training import evaluate, rerank
from training.catalogue.layout import load_split
from training.evaluation.options import EvaluateArguments
from training.evaluation.rankers import listing_texts
from training.evaluation.trec import read_run, write_run
from training.learning.reranker import judged_pairs
from training.learning.scores import read_scores


@pytest.fixture
def shop(tmp_path):
    """The tiny shop with the colours in the listings, as a cross-encoder sees no pictures."""
    corpus, queries, qrels = shop_rows()
    corpus = [{**row, "description": f"the {row['_id'].split('-')[1]} {row['_id'].split('-')[0]}"} for row in corpus]
    return write_shop(tmp_path / "shop", corpus[::-1], queries, qrels)


@pytest.fixture
def cross_encoder(tmp_path):
    """A random cross-encoder's folder."""
    make_text_tower(tmp_path / "bert")
    CrossEncoder(str(tmp_path / "bert"), num_labels=1, device="cpu").save_pretrained(str(tmp_path / "cross"))
    return str(tmp_path / "cross")


def test_the_first_candidates_are_ranked_anew_and_the_rest_follows(cross_encoder, shop, tmp_path):
    run, new, scores = (str(tmp_path / name) for name in ("run.trec", "new.trec", "scores.parquet"))
    evaluate.main(EvaluateArguments("bm25", str(shop), run_file=run, metrics=["ndcg@10"]))
    options = {"depth": 2, "run_file": new, "scores": scores, "report": str(tmp_path / "report.json")}
    report = rerank.main(
        rerank.RerankArguments(cross_encoder, str(shop), candidates=run, metrics=["ndcg@10"], **options)
    )
    before, after, split = read_run(run), read_run(new), load_split(shop, "test")
    texts = dict(zip(split.product_ids, listing_texts(split), strict=True))
    asked = {query["_id"]: query["text"] for query in split.queries}
    encoder, (said,) = CrossEncoder(cross_encoder), read_scores([scores], 1)
    assert len(before) == 12 and any(before[query] != after[query] for query in before)
    for query, ids in before.items():
        logits = encoder.predict([(asked[query], texts[one]) for one in ids[:2]], activation_fn=torch.nn.Identity())
        assert after[query] == [ids[row] for row in np.argsort(-logits, kind="stable")] + ids[2:]
        assert said[query] == pytest.approx(dict(zip(ids[:2], logits.tolist(), strict=True)), abs=1e-5)
    again = evaluate.main(EvaluateArguments("bm25", str(shop), metrics=["ndcg@10"]))
    assert report["views"]["candidates"] == again["views"]["bm25"] and report["n_queries"] == 12
    assert "reranked_vs_candidates" in report["comparisons"]
    direct = rerank.main(rerank.RerankArguments(cross_encoder, str(shop), depth=2, metrics=["ndcg@10"]))
    assert direct["views"] == report["views"], "candidates by bm25 itself"


@pytest.mark.parametrize(
    ("rankings", "message"),
    [({"q-no": ["mug-red"]}, "query q-no is not in"), ({"q-mug-red": ["no"]}, "q-mug-red: product no is not in")],
)
def test_a_run_of_another_catalogue_is_refused(cross_encoder, shop, tmp_path, rankings, message):
    write_run(tmp_path / "run.trec", rankings)
    with pytest.raises(DataError, match=message):
        rerank.main(rerank.RerankArguments(cross_encoder, str(shop), candidates=str(tmp_path / "run.trec")))


def test_queries_without_candidates_are_counted(cross_encoder, shop, tmp_path, capsys):
    write_run(tmp_path / "run.trec", {"q-mug-red": ["mug-red", "lamp-red"]})
    arguments = rerank.RerankArguments(cross_encoder, str(shop), candidates=str(tmp_path / "run.trec"))
    report = rerank.main(arguments)
    assert "11 x query without candidates" in capsys.readouterr().out
    assert report["views"]["reranked"]["recall@100"]["mean"] <= 1 / 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": True}, "--train and --output"),
        ({"output": "folder"}, "--train and --output"),
        ({"train": True, "output": "folder", "run_file": "run"}, "^--run-file: --train only trains"),
        ({"report": "report.txt"}, "report.txt: .* .txt file"),
        ({"metrics": ["ndcg"]}, "unknown metric"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(monkeypatch, options, message):
    monkeypatch.setattr(rerank, "load_split", lambda *words: pytest.fail("work was done"))
    with pytest.raises(DataError, match=message):
        rerank.main(rerank.RerankArguments("model", **options))


def test_more_than_one_score_is_refused(shop, tmp_path):
    make_text_tower(tmp_path / "bert")
    CrossEncoder(str(tmp_path / "bert"), num_labels=3, device="cpu").save_pretrained(str(tmp_path / "three"))
    with pytest.raises(DataError, match="three: tells 3 scores of a pair"):
        rerank.main(rerank.RerankArguments(str(tmp_path / "three"), str(shop)))
    with pytest.raises(DataError, match="nothing: "):
        rerank.main(rerank.RerankArguments(str(tmp_path / "nothing"), str(shop)))


def test_pairs_are_the_judged_ones_and_candidates_that_nobody_judged(shop):
    split = load_split(shop, "train")
    texts, rows = listing_texts(split), np.arange(len(split.product_ids))
    pairs = judged_pairs(split, [rows] * len(split.queries), depth=9, negatives=3).to_list()
    for query in split.queries:
        mine = [pair for pair in pairs if pair["query"] == query["text"]]
        relevant = {texts[split.product_ids.index(product)] for product in split.qrels[query["_id"]]}
        assert {pair["product"] for pair in mine if pair["label"] == 1} == relevant
        assert len([pair for pair in mine if pair["label"] == 0]) == 3
    assert pairs == judged_pairs(split, [rows] * len(split.queries), depth=9, negatives=3).to_list()


@pytest.mark.slow
def test_a_cross_encoder_learns_which_products_are_relevant(tmp_path):
    corpus, queries, _ = shop_rows()
    corpus = [{**row, "description": f"the {row['_id'].split('-')[1]} {row['_id'].split('-')[0]}"} for row in corpus]
    queries = [{**query, "text": query["_id"].split("-")[1]} for query in queries[::3]]
    judged = [{"query-id": query["_id"], "corpus-id": f"{query['text']}-blue", "score": 1} for query in queries]
    shop = str(write_shop(tmp_path / "blue", corpus, queries, judged))  # of all kinds the blue ones
    make_text_tower(tmp_path / "bert")
    options = {"train": True, "output": str(tmp_path / "cross"), "split": "train", "batch_size": 8}
    options |= {"epochs": 30, "learning_rate": 1e-2}
    rerank.main(rerank.RerankArguments(str(tmp_path / "bert"), shop, **options))
    found = rerank.main(rerank.RerankArguments(str(tmp_path / "cross"), shop, metrics=["mrr@10"]))
    assert found["views"]["reranked"]["mrr@10"]["mean"] == 1 > found["views"]["candidates"]["mrr@10"]["mean"]
