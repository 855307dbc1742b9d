"""Retrieval metrics with confidence intervals, as plain functions and as a metric of the `evaluate` library.

The arithmetic is that of `ir_measures` (https://ir-measur.es), which runs trec_eval's own code: nDCG with linear gains
(`score`) and a logarithmic discount; a product is relevant to the binary metrics if its score is at least 1.
"""

import datasets
import evaluate
import ir_measures
import numpy as np

MEASURES = {"ndcg": "nDCG", "recall": "R", "mrr": "RR", "map": "AP", "precision": "P", "success": "Success"}
DEFAULT_METRICS = ("ndcg@10", "recall@100", "mrr@10")
_DESCRIPTION = """
Product retrieval: nDCG@k with graded gains, Recall@k, MRR@k, MAP@k, Precision@k and Success@k of rankings.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[str]]`): for each query the product ids that were found, best first.
    references (`list[list[dict]]`): for each query its judged products, each `{"id": str, "score": int}`.
    metrics (`list[str]`, *optional*): such as `["ndcg@10", "recall@100", "mrr@10"]`.

Returns:
    `dict[str, float]`: the mean of each metric over the queries.
"""
_CITATION = ""
MAX_SIGNS = 2**24  # numbers that the randomisation test holds at a time


def measure_of(name: str) -> "ir_measures.measures.Measure":
    """The `ir_measures` measure of a name such as `ndcg@10`.

    Raises:
        ValueError: if the name is none of `ndcg, recall, mrr, map, precision, success` with a cutoff.
    """
    kind, _, cutoff = name.lower().partition("@")
    if kind not in MEASURES or not cutoff.isdigit():
        raise ValueError(f"unknown metric {name!r}; use one of {', '.join(f'{kind}@k' for kind in MEASURES)}")
    return ir_measures.parse_measure(f"{MEASURES[kind]}@{cutoff}")


def per_query(
    rankings: dict[str, list[str]], qrels: dict[str, dict[str, int]], metrics: tuple[str, ...] = DEFAULT_METRICS
) -> dict[str, np.ndarray]:
    """Each metric of each query.

    Args:
        rankings (`dict[str, list[str]]`): query id to product ids, best first. Ties are already broken: the order
            given is the order measured.
        qrels (`dict[str, dict[str, int]]`): query id to product id to score.
        metrics (`tuple[str, ...]`): such as `("ndcg@10",)`.

    Returns:
        `dict[str, np.ndarray]`: name to float64 values of shape `(queries,)`, in the order of `rankings`. A query
        without judgments or without results counts 0.
    """
    measures = {measure_of(name): name for name in metrics}
    run = {query: {product: -float(rank) for rank, product in enumerate(ids)} for query, ids in rankings.items()}
    rows = {query: row for row, query in enumerate(rankings)}
    values = {name: np.zeros(len(rankings)) for name in metrics}
    judged = {query: qrels[query] for query in rankings if qrels.get(query)}
    for found in ir_measures.iter_calc(list(measures), judged, run):
        values[measures[found.measure]][rows[found.query_id]] = found.value
    return values


def bootstrap_interval(values: np.ndarray, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the mean of `values` `(queries,)`, by bootstrap over queries."""
    means = _bootstrap_means(np.asarray(values, dtype=np.float64), samples, seed)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def summarise(values: np.ndarray, samples: int = 1000, seed: int = 0) -> dict:
    """`{"mean", "ci95": [lo, hi]}` of a metric's values `(queries,)`."""
    return {"mean": float(np.mean(values)), "ci95": list(bootstrap_interval(values, samples, seed))}


def compare(first: np.ndarray, second: np.ndarray, samples: int = 1000, seed: int = 0) -> dict:
    """How much better `first` is than `second` on the same queries.

    Args:
        first (`np.ndarray` of shape `(queries,)`): a metric's values of one system.
        second (`np.ndarray` of shape `(queries,)`): of the other, query by query.
        samples (`int`, *optional*, defaults to 1000): draws of the bootstrap, a tenth of the randomisation test's.
        seed (`int`, *optional*, defaults to 0): seed of both.

    Returns:
        `dict`: `diff` (mean difference), `ci95` (paired bootstrap) and `p` (two-sided paired randomisation test,
        Smucker et al. 2007).
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    diff = float(np.mean(difference))
    rng, draws, as_extreme = np.random.default_rng(seed), 10 * samples, 0
    at_a_time = max(1, min(1000, MAX_SIGNS // max(len(difference), 1)))
    for start in range(0, draws, at_a_time):
        signs = rng.integers(0, 2, (min(at_a_time, draws - start), len(difference)), dtype=np.int8) * 2.0 - 1.0
        as_extreme += int(np.sum(np.abs(signs @ difference) / len(difference) >= abs(diff) - 1e-12))
    interval = list(bootstrap_interval(difference, samples, seed))
    return {"diff": diff, "ci95": interval, "p": (as_extreme + 1) / (draws + 1)}


def _bootstrap_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(samples)])


class ProductRetrieval(evaluate.Metric):
    """The metric as `evaluate.load("training/metrics/product_retrieval")` gives it."""

    def _info(self):
        features = {
            "predictions": datasets.List(datasets.Value("string")),
            "references": datasets.List({"id": datasets.Value("string"), "score": datasets.Value("int64")}),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references, metrics=DEFAULT_METRICS):
        rankings = {str(row): ids for row, ids in enumerate(predictions)}
        qrels = {str(row): {item["id"]: item["score"] for item in judged} for row, judged in enumerate(references)}
        return {name: float(np.mean(values)) for name, values in per_query(rankings, qrels, tuple(metrics)).items()}
