import copy
import json
import math
import tracemalloc

import evaluate as evaluate_library
import numpy as np
import pytest
import torch
from helpers import ROOT, shop_rows, write_shop
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sklearn.metrics import ndcg_score

from modeling_mmfusion.errors import DataError
from training import evaluate
from training.catalogue.layout import load_split
from training.evaluation import measuring, report
from training.evaluation.product_retrieval.metrics import measure_of, per_query
from training.evaluation.statistics import bootstrap_interval, holm, over_seeds, paired_difference
from training.features.encoder import Encoder, embed_products


def by_hand(ranking, judged, k):
    """nDCG@k, Recall@k and MRR@k of one ranking, from their definitions."""
    gains = [judged.get(product, 0) for product in ranking[:k]]
    discounts = [1 / math.log2(rank + 2) for rank in range(k)]
    ideal = sum(gain * d for gain, d in zip(sorted(judged.values(), reverse=True), discounts, strict=False))
    ndcg = sum(gain * d for gain, d in zip(gains, discounts, strict=False)) / ideal if ideal else 0
    relevant = sum(score > 0 for score in judged.values())
    recall = sum(gain > 0 for gain in gains) / relevant if relevant else 0
    mrr = next((1 / (rank + 1) for rank, gain in enumerate(gains) if gain > 0), 0)
    return {f"ndcg@{k}": ndcg, f"recall@{k}": recall, f"mrr@{k}": mrr}


@pytest.mark.parametrize("k", [1, 3, 10])
def test_metrics_equal_their_definitions_on_random_rankings(k):
    rng, products = np.random.default_rng(k), [f"p{n}" for n in range(30)]
    rankings, qrels = {}, {}
    for number in range(200):
        query, judged = f"q{number}", rng.choice(products, rng.integers(0, 8), replace=False)
        rankings[query] = rng.permutation(products)[: rng.integers(0, 15)].tolist()
        qrels[query] = {str(product): int(rng.integers(0, 4)) for product in judged}
    found = per_query(rankings, qrels, (f"ndcg@{k}", f"recall@{k}", f"mrr@{k}"))
    expected = [by_hand(rankings[query], qrels[query], k) for query in rankings]
    for name, values in found.items():
        np.testing.assert_allclose(values, [row[name] for row in expected], atol=1e-9, err_msg=name)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_metrics_equal_a_second_library_on_adversarial_rankings(k):
    rng, products = np.random.default_rng(k), [f"p{n:02d}" for n in range(12)]
    rankings, qrels = {"too short": ["p01"], "unjudged": ["p00", "p01"], "all relevant": products[::-1]}, {}
    qrels = {"too short": {"p01": 1, "p02": 3}, "unjudged": {"p05": 2}, "all relevant": dict.fromkeys(products, 1)}
    for number in range(100):
        rankings[f"q{number}"] = rng.permutation(products).tolist()
        grades = rng.integers(0, 4, 12) * (rng.random(12) < 0.5)
        qrels[f"q{number}"] = {name: int(grade) for name, grade in zip(products, grades, strict=True)}
        qrels[f"q{number}"][products[number % 12]] = 1  # something is relevant
    names = [f"{kind}@{k}" for kind in ("ndcg", "recall", "mrr", "precision", "success")]
    found = per_query(rankings, qrels, tuple(names))

    def baseline(query):
        relevant = {product for product, grade in qrels[query].items() if grade > 0}
        cutoffs = [f"{name}_at_k" for name in ("mrr", "ndcg", "accuracy", "precision_recall", "map")]
        evaluator = InformationRetrievalEvaluator(
            {query: query}, dict.fromkeys(products, ""), {query: relevant}, **dict.fromkeys(cutoffs, [k])
        )
        hits = [{"corpus_id": name, "score": -float(rank)} for rank, name in enumerate(rankings[query])]
        scores = evaluator.compute_metrics([hits])
        kinds = {"recall": "recall@k", "mrr": "mrr@k", "precision": "precision@k", "success": "accuracy@k"}
        return {f"{name}@{k}": scores[kind][k] for name, kind in kinds.items()}

    expected = [baseline(query) for query in rankings]
    for name in names[1:]:
        np.testing.assert_allclose(found[name], [float(np.squeeze(row[name])) for row in expected], atol=1e-9)
    full = [query for query in rankings if len(rankings[query]) == 12]
    gains = np.array([[qrels[query].get(name, 0) for name in products] for query in full])
    scores = np.array([[-rankings[query].index(name) for name in products] for query in full])
    ndcg = [ndcg_score([gain], [score], k=k) for gain, score in zip(gains, scores, strict=True)]
    rows = [list(rankings).index(query) for query in full]
    np.testing.assert_allclose(found[f"ndcg@{k}"][rows], ndcg, atol=1e-9)


def test_map_by_hand_and_queries_that_nothing_can_be_said_of():
    rankings = {"q": ["a", "b", "c"], "no judgment": ["a"], "nothing relevant": ["a"], "nothing found": []}
    qrels = {"q": {"a": 1, "c": 2, "d": 1}, "nothing relevant": {"a": 0}, "nothing found": {"a": 1}}
    found = per_query(rankings, qrels, ("map@3", "ndcg@3", "mrr@3"))
    assert found["map@3"].tolist() == pytest.approx([(1 / 1 + 2 / 3) / 3, 0, 0, 0])
    assert found["ndcg@3"][1:].tolist() == found["mrr@3"][1:].tolist() == [0, 0, 0]


def test_the_metric_loads_by_the_evaluate_library():
    metric = evaluate_library.load(str(ROOT / "training" / "evaluation" / "product_retrieval"))
    references = [[{"id": "b", "score": 2}], [{"id": "c", "score": 1}, {"id": "d", "score": 1}]]
    found = metric.compute(predictions=[["a", "b"], ["c"]], references=references, metrics=["mrr@10", "recall@1"])
    assert found == {"mrr@10": 0.75, "recall@1": 0.25}


@pytest.mark.parametrize("name", ["ndcg", "ndcg@", "ndcg@x", "accuracy@1"])
def test_an_unknown_metric_is_refused(name):
    with pytest.raises(ValueError, match="unknown metric"):
        measure_of(name)


def test_intervals_and_comparisons():
    rng = np.random.default_rng(0)
    values = rng.random(400)
    low, high = bootstrap_interval(values)
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.006) and high == pytest.approx(
        values.mean() + error, abs=0.006
    )
    better = paired_difference(values + 0.02 + 0.02 * rng.standard_normal(400), values)
    assert better["p"] < 0.001 and 0 < better["ci95"][0] < better["diff"] < better["ci95"][1]
    assert paired_difference(values, values) == {"diff": 0.0, "ci95": [0.0, 0.0], "p": 1.0}
    noise = paired_difference(values, rng.permutation(values))
    assert noise["p"] > 0.05 and noise["ci95"][0] < 0 < noise["ci95"][1]


def test_holms_correction_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9, 0.5]) == [1, 1, 1] and holm([0.2]) == [0.2] and holm([]) == []


def test_views_that_differ_beyond_chance_are_marked_and_others_not(shop):
    split, rng = load_split(shop, "test"), np.random.default_rng(0)
    fused = np.linspace(0.4, 0.9, 12)
    views = {"fused": fused, "worse": fused - 0.3, "alike": fused - 0.01 * rng.choice([-1, 1], 12)}
    views |= {f"{n}": fused - 0.02 * np.array([1] * 10 + [-1, -0.5]) for n in range(8)}  # p < .05 each, not all nine
    found = evaluate.make_report({view: {"mrr@10": values} for view, values in views.items()}, split)
    tests = {pair: metrics["mrr@10"] for pair, metrics in found["comparisons"].items()}
    assert (
        tests["fused_vs_0"]["p"] < 0.05 < tests["fused_vs_0"]["p_holm"] == pytest.approx(tests["fused_vs_0"]["p"] * 9)
    )
    found |= {"data": "shop", "split": "test"}
    lines = {line.split(" | ")[0].strip("| "): line for line in report.format_report(found).splitlines()}
    assert [view for view in views if "]*" in lines[view]] == ["worse"] and report.LEGEND in lines
    for test in tests.values():
        del test["p_holm"]
    assert report.format_report(found).splitlines() == list(lines.values()), "reports from before the correction"


def test_several_seeds_are_averaged_query_by_query():
    found = over_seeds([np.array([0.2, 0.4, 0.9]), np.array([0.4, 0.4, 0.7])])
    assert found["mean"] == pytest.approx(0.5) and found["seeds"] == [0.5, 0.5]
    assert found["ci95"] == pytest.approx(bootstrap_interval(np.array([0.3, 0.4, 0.8])))
    assert report.format_mean(found | {"seeds": [0.48, 0.52]}).endswith("] (0.480 to 0.520)")
    assert report.format_mean(found).endswith("]"), "no range where all seeds are the same"


def test_many_queries_need_little_memory(shop, monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.random((2, 200_000))
    tracemalloc.start()
    paired_difference(*values, samples=20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e8, "all draws at once would take more"
    split = load_split(shop, "test")
    found = [rng.permutation(len(split.product_ids)) for _ in split.queries]
    whole = measuring.measure_rankings(split, found, ("ndcg@10", "mrr@3"))
    monkeypatch.setattr(measuring, "MEASURED_QUERIES", 5)
    for name, values in measuring.measure_rankings(split, found, ("ndcg@10", "mrr@3")).items():
        assert values.tolist() == whole[name].tolist()


def test_exact_search_finds_the_best_and_breaks_ties_by_row():
    rng = np.random.default_rng(0)
    queries, products = (rng.standard_normal((n, 8)).astype(np.float32) for n in (300, 50))
    products[40] = products[7]
    found = measuring.search_exact(queries, products, 10)
    scores = np.round(queries @ products.T, 6)
    expected = [sorted(range(50), key=lambda row: (-line[row], row))[:10] for line in scores]  # noqa: B023
    assert [row.tolist() for row in found] == expected
    assert [row.tolist() for row in measuring.search_exact(np.zeros((1, 8), np.float32), products, 4)] == [
        [0, 1, 2, 3]
    ]
    assert len(measuring.search_exact(queries[:1], products, 99)[0]) == 50
    half = np.float32(0.5)
    nearly_tied = np.array([[half], [np.nextafter(half, np.float32(1))]])
    assert measuring.search_exact(np.ones((1, 1), np.float32), nearly_tied, 2)[0].tolist() == [0, 1]


def test_report_has_views_slices_and_comparisons(model, processor, tmp_path):
    corpus, queries, qrels = shop_rows()
    for number, query in enumerate(queries):
        query["slice"], query["novel"] = ("text", "image")[number % 2], number < 3
    split = load_split(write_shop(tmp_path, corpus, queries, qrels), "test")
    features = (
        Encoder(model, processor).product_states(split),
        Encoder(model, processor).query_states(split.query_texts),
    )
    values = measuring.evaluate(model, split, *features)
    report = json.loads(json.dumps(evaluate.make_report(values, split)))
    assert (report["n_queries"], report["n_products"]) == (12, 12)
    assert set(report["views"]) == {"fused", "text", "image"}
    assert list(report["views"]["fused"]) == ["ndcg@10", "judged@10", "recall@100", "mrr@10"]
    assert set(report["comparisons"]["fused_vs_text"]) == {"ndcg@10", "recall@100", "mrr@10"}, "judged is no quality"
    assert report["slice_sizes"] == {"image": 6, "text": 6, "novel": 3, "seen": 9}
    assert set(report["comparisons"]) == {"fused_vs_text", "fused_vs_image"}
    parts = [report["slices"][name]["image"]["ndcg@10"]["mean"] for name in ("text", "image")]
    assert np.mean(parts) == pytest.approx(report["views"]["image"]["ndcg@10"]["mean"])
    assert report["views"]["text"]["recall@100"]["mean"] == 1, "twelve products are all found among the first hundred"
    assert not np.array_equal(values["text"]["ndcg@10"], values["image"]["ndcg@10"])


def test_vectors_are_kept_for_the_same_model_and_data_alone(model, processor, shop, tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSION_CACHE", str(tmp_path / "cache"))
    for name, part in (("a", model), ("b", copy.deepcopy(model))):
        if name == "b":
            torch.nn.init.normal_(next(part.product_heads.parameters()))
        part.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    asked = []

    def embed(model, products, view="fused"):
        asked.append(view)
        return embed_products(model, products, view)

    monkeypatch.setattr(measuring, "embed_products", embed)
    first = evaluate.main(evaluate.EvaluateArguments(str(tmp_path / "a"), str(shop)))
    assert asked == ["fused", "text", "image"]
    again = evaluate.main(evaluate.EvaluateArguments(str(tmp_path / "a"), str(shop)))
    assert len(asked) == 3 and again["views"] == first["views"]
    evaluate.main(evaluate.EvaluateArguments(str(tmp_path / "b"), str(shop), views=["fused"]))
    evaluate.main(evaluate.EvaluateArguments(str(tmp_path / "a"), str(shop), views=["fused"], truncate_dim=8))
    evaluate.main(evaluate.EvaluateArguments(str(tmp_path / "a"), str(shop), views=["fused"], missing_images=1.0))
    assert len(asked) == 6


def test_slices_by_frequency_and_by_missing_pictures(tmp_path):
    corpus, queries, qrels = shop_rows()
    for query, count in zip(queries, (60, 5, 30, 30, *[5] * 7, 10), strict=True):
        query["frequency"] = count
    corpus[1]["image"] = None
    qrels.append({"query-id": "q-lamp-red", "corpus-id": "mug-green", "score": 1})
    qrels.append({"query-id": "q-lamp-blue", "corpus-id": "mug-green", "score": 0})
    split = load_split(write_shop(tmp_path / "shop", corpus, queries, qrels), "test")
    found = {name: np.flatnonzero(mask).tolist() for name, mask in report.slice_masks(split).items()}
    assert found["head"] == [0] and found["torso"] == [2, 3], "60 of 170 searches, 60 more, and the rest"
    assert sorted(found["head"] + found["torso"] + found["tail"]) == list(range(12))
    assert found["picture missing"] == [1, 6]
    del queries[3]["frequency"]
    split = load_split(write_shop(tmp_path / "other", corpus, queries, qrels), "test")
    assert not {"head", "torso", "tail"} & report.slice_masks(split).keys()


def test_unknown_views_and_metrics_are_refused_before_work():
    with pytest.raises(DataError, match="unknown view 'both'"):
        evaluate.check_names(("both",), ())
    with pytest.raises(DataError, match="unknown metric"):
        evaluate.check_names(("fused",), ("hits@3",))


def test_queries_are_corrected_to_the_corpus_unless_they_are_not_to_be(saved, tmp_path):
    corpus, queries, qrels = shop_rows()
    right = write_shop(tmp_path / "right", corpus, [row | {"text": "plain shirt"} for row in queries], qrels)
    wrong = write_shop(tmp_path / "wrong", corpus, [row | {"text": "plian shrit"} for row in queries], qrels)
    asked = {"views": ["fused"], "metrics": ["ndcg@3"]}
    expected, found = (evaluate.main(evaluate.EvaluateArguments(saved, str(shop), **asked)) for shop in (right, wrong))
    assert found["views"] == expected["views"] and found["spelling"]
    strict = [evaluate.EvaluateArguments(saved, str(shop), **asked, spelling=False) for shop in (right, wrong)]
    expected, found = map(evaluate.main, strict)
    assert found["views"] != expected["views"] and not found["spelling"]
    with pytest.raises(DataError, match="--spelling: bm25"):
        evaluate.main(evaluate.EvaluateArguments("bm25", str(right), spelling=False))
