"""The metric as the `evaluate` library loads it from this folder, or from the Hub as `OWNER/product_retrieval`.

Nothing of ours imports it: our own measurements call `metrics.py`.
"""

import datasets
import evaluate
import numpy as np

from .metrics import DEFAULT_METRICS, per_query

_DESCRIPTION = """
Product retrieval: nDCG@k with graded gains, Recall@k, MRR@k, MAP@k, Precision@k, Success@k, ERR@k and RBP@k of
rankings, and Judged@k, the share of the first k products that is judged.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[list[str]]`): for each query the product ids that were found, best first. A product counts where
        it stands first; where it stands again it takes up a place and is not relevant.
    references (`list[list[dict]]`): for each query its judged products, each `{"id": str, "score": int}`; a score is a
        whole number up to 1,000,000, and a negative one is not relevant, like 0.
    metrics (`list[str]`, *optional*): such as `["ndcg@10", "recall@100", "mrr@10"]`; besides these `map`, `precision`,
        `success`, `judged`, `err` and, with a persistence of .8 or .9, `rbp8` and `rbp9`, each with `@k`.

Returns:
    `dict[str, float]`: the mean of each metric over the queries.

Raises:
    ValueError: if there are no queries, or a metric, a cutoff, an id or a score has no meaning.
"""
_CITATION = ""


class ProductRetrieval(evaluate.Metric):
    """The metric that `evaluate.load("training/evaluation/product_retrieval")` gives."""

    def _info(self):
        features = {
            "predictions": datasets.List(datasets.Value("string")),
            "references": datasets.List({"id": datasets.Value("string"), "score": datasets.Value("float64")}),
        }
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references, metrics=DEFAULT_METRICS):
        if not predictions:
            raise ValueError("there are no predictions; give the ranking and the judgments of at least one query")
        names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        rankings = {str(row): ids for row, ids in enumerate(predictions)}
        qrels = {str(row): _scores_by_id(row, judged) for row, judged in enumerate(references)}
        return {name: float(np.mean(values)) for name, values in per_query(rankings, qrels, names).items()}


def _scores_by_id(row: int, judged: list[dict]) -> dict[str, float]:
    """The judgments of a query by product."""
    scores: dict[str, float] = {}
    for item in judged:
        if item["id"] in scores and scores[item["id"]] != item["score"]:
            both = f"{scores[item['id']]:g} and {item['score']:g}"
            raise ValueError(f"query {row}, product {item['id']!r}: judged twice, {both}; keep one")
        scores[item["id"]] = item["score"]
    return scores
