"""What rankings, judgments and cutoffs the metric takes, refuses and never misreads."""

import shutil
import subprocess
import sys

import evaluate as evaluate_library
import ir_measures
import numpy as np
import pytest
from helpers import ROOT, shop_rows, write_shop

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index_words import best_rows
from training.catalogue import layout
from training.evaluation import measuring
from training.evaluation.product_retrieval import metrics
from training.evaluation.product_retrieval.metrics import MEASURES, measure_of, per_query

METRIC = str(ROOT / "training" / "evaluation" / "product_retrieval")


def values(rankings, qrels, *names):
    found = per_query(rankings, qrels, names or ("ndcg@3", "mrr@3"))
    return [found[name].tolist() for name in names or ("ndcg@3", "mrr@3")]


def test_valid_input_gives_what_ir_measures_gives():
    rng = np.random.default_rng(0)
    ids = ["7", "007", "a/b", "x" * 200, "1e5", "😀", "12.0", *(f"p{n}" for n in range(30))]
    rankings, qrels = {}, {}
    for query in (f"q{n}" for n in range(300)):
        rankings[query] = rng.permutation(ids)[: rng.integers(1, 25)].tolist()
        judged = rng.permutation(ids)[: rng.integers(1, 12)]
        qrels[query] = {str(name): int(rng.choice([0, 0, 1, 2, 3, 100])) for name in judged}
    theirs = [kind for kind in MEASURES if kind not in ("err", "rbp8", "rbp9")]
    names = [f"{kind}@{k}" for kind in theirs for k in (1, 2, 5, 10, 1000)]
    found = per_query(rankings, qrels, names)
    run = {query: {name: float(-place) for place, name in enumerate(names_)} for query, names_ in rankings.items()}
    rows, asked = {query: row for row, query in enumerate(rankings)}, {measure_of(name): name for name in names}
    count = 0
    for expected in ir_measures.iter_calc(list(asked), qrels, run):
        count += 1
        assert found[asked[expected.measure]][rows[expected.query_id]] == expected.value
    assert count == 300 * len(names)


def test_err_and_rbp_by_hand():
    rankings = {"q": ["a", "x", "b", "c"], "nothing found": [], "nothing relevant": ["a"], "high": ["a"]}
    qrels = {"q": {"a": 1, "b": 3, "c": 0}, "nothing found": {"a": 1}, "nothing relevant": {"a": 0}}
    qrels["high"] = {"a": metrics.MAX_SCORE}
    err, short, rbp, others, judged = values(rankings, qrels, "err@4", "err@2", "rbp9@4", "rbp8@4", "judged@4")
    assert err == pytest.approx([1 / 8 + (7 / 8) * (7 / 8) / 3, 0, 0, 1])
    assert short == pytest.approx([1 / 8, 0, 0, 1])
    assert rbp == pytest.approx([0.1 * (1 / 3 + 0.81), 0, 0, 0.1])
    assert others == pytest.approx([0.2 * (1 / 3 + 0.64), 0, 0, 0.2])
    assert judged == [0.75, 0, 1, 1], "the share of what was found"


@pytest.mark.skipif(shutil.which("perl") is None, reason="TREC's gdeval is a Perl program")
def test_err_is_that_of_gdeval_where_each_query_has_its_highest_score():
    rng, ids = np.random.default_rng(0), [f"p{n}" for n in range(30)]
    rankings = {str(n): rng.permutation(ids)[: rng.integers(1, 25)].tolist() for n in range(100)}
    judged = {query: rng.permutation(ids)[: rng.integers(2, 12)].tolist() for query in rankings}
    qrels = {query: {name: int(rng.integers(5)) for name in names} | {names[0]: 4} for query, names in judged.items()}
    run = {query: {name: float(-place) for place, name in enumerate(names)} for query, names in rankings.items()}
    expected = {found.query_id: found.value for found in ir_measures.iter_calc([ir_measures.ERR @ 10], qrels, run)}
    assert values(rankings, qrels, "err@10")[0] == pytest.approx([expected[query] for query in rankings], abs=6e-6)


def test_a_product_counts_where_it_stands_first_and_its_repeats_take_up_places():
    judged = {"q": {"a": 1, "b": 1}}
    assert values({"q": ["a", "b", "a"]}, judged) == [[1.0], [1.0]]
    repeated, apart = ({"q": ["a", other, "b"]} for other in ("a", "nobody judged this"))
    assert values(repeated, judged, "ndcg@3", "precision@2") == values(apart, judged, "ndcg@3", "precision@2")
    assert values(repeated, judged, "ndcg@3")[0][0] < 1


def test_negative_scores_are_not_relevant():
    """They are an index into trec_eval's counters of scores, from -2 on one before the first: it crashes at times."""
    rng, ids = np.random.default_rng(0), [f"p{n}" for n in range(37)]
    rankings = {f"q{n}": rng.permutation(ids)[: rng.integers(1, 25)].tolist() for n in range(300)}
    judged = {query: rng.permutation(ids)[: rng.integers(1, 12)].tolist() for query in rankings}
    qrels = {
        query: {name: int(rng.choice([-3, -1, 0, 1, 2, 100])) for name in names} for query, names in judged.items()
    }
    clipped = {query: {name: max(score, 0) for name, score in scores.items()} for query, scores in qrels.items()}
    names = [f"{kind}@10" for kind in MEASURES]
    assert values(rankings, qrels, *names) == values(rankings, clipped, *names)
    assert values({"q": ["a", "b"]}, {"q": {"a": -1, "b": 1}}, "mrr@9", "recall@9") == [[0.5], [1.0]]


@pytest.mark.parametrize("score", [2.0, "2", "2.0", np.int64(2), np.float32(2), np.int8(2)])
def test_a_whole_score_counts_whatever_its_type(score):
    assert values({"q": ["a", "b"]}, {"q": {"a": 1, "b": score}}) == values({"q": ["a", "b"]}, {"q": {"a": 1, "b": 2}})


@pytest.mark.parametrize("score", [0.5, "0.5", "high", None, float("nan"), float("inf"), 10**7, 10**400, [1]])
def test_a_score_that_is_none_is_refused_in_one_sentence(score):
    with pytest.raises(
        ValueError, match="query 'q', product 'b': score .* is no whole number up to 1,000,000"
    ) as found:
        per_query({"q": ["a", "b"]}, {"q": {"a": 1, "b": score}})
    assert "\n" not in str(found.value)


def test_ids_are_compared_as_text():
    assert values({1: [7, "8"]}, {"1": {"7": 1, 8: 1}}) == [[1.0], [1.0]]
    ids = ["a\0b", "a\0c", "\ud800", "", "a b"]
    for place, name in enumerate(ids, start=1):
        assert values({"q": ids}, {"q": {name: 1}}, "mrr@9") == [[1 / place]], "C takes a NUL for the end of a text"
    for wrong in (None, 12.0, True, ("a",)):
        with pytest.raises(ValueError, match="is no product id; give a text or a whole number"):
            per_query({"q": ["a", wrong]}, {"q": {"a": 1}})
    with pytest.raises(ValueError, match="product '7': judged twice, 1 and 2; keep one"):
        per_query({"q": ["7"]}, {"q": {"7": 1, 7: 2}})


@pytest.mark.parametrize("ranking", [None, "abc", {"a": 0.1, "b": 0.9}, {"a", "b"}])
def test_what_has_no_order_is_no_ranking(ranking):
    with pytest.raises(ValueError, match="query 'q': a ranking is a list of product ids, best first"):
        per_query({"q": ranking}, {"q": {"a": 1}})


def test_queries_that_do_not_meet_are_refused_and_others_count_nothing():
    with pytest.raises(ValueError, match="no query has judgments: the rankings are of 'q1' and others, qrels of '1'"):
        per_query({"q1": ["a"]}, {"1": {"a": 1}})
    assert values({"q": ["a"], "r": ["a"], "s": []}, {"q": {"a": 1}, "s": {"a": 1}, "t": {"a": 1}}, "mrr@1") == [
        [1, 0, 0]
    ]
    assert values({"q": ["a"]}, {}, "mrr@1") == [[0]] and values({}, {"q": {"a": 1}}, "mrr@1") == [[]]


def test_one_measure_by_two_names_is_measured_by_both():
    assert values({"q": ["a"]}, {"q": {"a": 1}}, "ndcg@10", "NDCG@10") == [[1.0], [1.0]]


@pytest.mark.parametrize(
    "cutoff", ["0", "-1", "00", "010", "1.5", "True", "", " 1", "1 ", "²", "٣", "1" * 10, "1" * 20]
)
def test_a_cutoff_that_is_none_is_refused(cutoff):
    with pytest.raises(ValueError, match="unknown metric .* with a whole k from 1 to 999999999"):
        per_query({"q": ["a"]}, {"q": {"a": 1}}, [f"recall@{cutoff}"])


def test_the_largest_cutoff_is_measured():
    assert (
        values({"q": ["a"]}, {"q": {"a": 1}}, *(f"{kind}@999999999" for kind in ("ndcg", "recall", "map")))
        == [[1]] * 3
    )


def test_a_cutoff_of_zero_no_longer_ends_the_process():
    code = "from training.evaluation.product_retrieval.metrics import per_query; "
    run = [sys.executable, "-c", code + "per_query({'q': ['a']}, {'q': {'a': 1}}, ['ndcg@0'])"]
    found = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and found.stderr.splitlines()[-1].startswith("ValueError: unknown metric 'ndcg@0'")


def test_the_metric_of_the_evaluate_library_is_as_strict():
    metric = evaluate_library.load(METRIC)

    def compute(ranking, judged, **options):
        references = [{"id": name, "score": score} for name, score in judged]
        return metric.compute(predictions=[ranking], references=[references], **{"metrics": "mrr@3"} | options)

    assert compute(["a", "b", "a"], [("a", 1)]) == {"mrr@3": 1.0}
    assert compute(["a", "b"], [("a", -3), ("b", 2.0), ("b", 2)], metrics=["mrr@3"]) == {"mrr@3": 0.5}
    for judged, message in (
        ([("a", 0.5)], "score 0.5 is no whole number"),
        ([("a", float("nan"))], "score nan is no whole number"),
        ([("a", 1), ("a", 0)], "query 0, product 'a': judged twice, 1 and 0"),
    ):
        with pytest.raises(ValueError, match=message):
            compute(["a"], judged)
    with pytest.raises(ValueError, match="unknown metric 'mrr@0'"):
        compute(["a"], [("a", 1)], metrics="mrr@0")
    with pytest.raises(ValueError, match="no metric is given"):
        compute(["a"], [("a", 1)], metrics=[])
    with pytest.raises(ValueError, match="there are no predictions"):
        metric.compute(predictions=[], references=[])


def test_a_catalogue_tells_of_scores_that_metrics_cannot_measure(tmp_path):
    corpus, queries, qrels = shop_rows()
    qrels.append({"query-id": qrels[0]["query-id"], "corpus-id": qrels[1]["corpus-id"], "score": -1})
    split = layout.load_split(write_shop(tmp_path / "negative", corpus, queries, qrels), "test")
    assert split.qrels[qrels[0]["query-id"]][qrels[1]["corpus-id"]] == 0
    assert split.problems.counts == {"negative score (taken for 0, not relevant)": 1}
    assert layout.MAX_SCORE == metrics.MAX_SCORE
    qrels[-1]["score"] = layout.MAX_SCORE + 1
    with pytest.raises(DataError, match=r"row \d+, field score: 1000001 is no whole number up to 1,000,000"):
        layout.load_split(write_shop(tmp_path / "high", corpus, queries, qrels), "test")


def test_nothing_to_measure_and_scores_that_are_no_numbers_are_refused():
    for names, option in (((("fused",), ())), "--metrics"), (((), ("ndcg@10",)), "--views"):
        with pytest.raises(DataError, match=f"^{option}: names nothing to measure"):
            measuring.check_names(*names)
    with pytest.raises(DataError, match="score of row 1 is not a number"):
        best_rows(np.array([0.1, np.nan, 0.3]), 2)
    assert best_rows(np.array([-np.inf, 1, np.inf, np.inf]), 4).tolist() == [2, 3, 1, 0]
