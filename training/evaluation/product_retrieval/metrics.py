"""Retrieval metrics of rankings, query by query.

The arithmetic is that of `ir_measures` (https://ir-measur.es), which runs trec_eval's own code: nDCG with linear gains
(`score`) and a logarithmic discount; a product is relevant to the binary metrics if its score is at least 1.
"""

import ir_measures
import numpy as np

MEASURES = {"ndcg": "nDCG", "recall": "R", "mrr": "RR", "map": "AP", "precision": "P", "success": "Success"}
DEFAULT_METRICS = ("ndcg@10", "recall@100", "mrr@10")


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
