"""The metric as the `evaluate` library loads it from this folder, or from the Hub as `OWNER/product_retrieval`.

Nothing of ours imports it: our own measurements call `metrics.py`.
"""

import datasets
import evaluate
import numpy as np

from .metrics import DEFAULT_METRICS, per_query

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


class ProductRetrieval(evaluate.Metric):
    """The metric that `evaluate.load("training/evaluation/product_retrieval")` gives."""

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
