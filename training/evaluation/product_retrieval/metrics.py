"""Retrieval metrics of rankings, query by query.

The arithmetic is that of `ir_measures` (https://ir-measur.es), which runs trec_eval's own code: nDCG with linear gains
(`score`) and a logarithmic discount; a product is relevant to the binary metrics if its score is at least 1. What
trec_eval would silently misread or die of (ids that C can't hold, a product twice, a score that is no whole number, a
cutoff of 0) never gets that far: products go to it by number, and what has no meaning is refused.

trec_eval has neither ERR nor RBP, so they are computed here, with a query's highest judged score `g_max` for its own
scale, as in Marqo's GCL (https://huggingface.co/papers/2404.08535), whose tables have `ndcg@10`, `err@1000` and
`rbp9@1000`. `judged@k` says nothing of quality: it is the share of the first k that anybody judged.

References:
    Chapelle et al., Expected Reciprocal Rank for Graded Relevance (CIKM 2009); Moffat and Zobel, Rank-Biased Precision
    for Measurement of Retrieval Effectiveness (TOIS 2008).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import ir_measures
import numpy as np

MEASURES = {"ndcg": "nDCG", "recall": "R", "mrr": "RR", "map": "AP", "precision": "P", "success": "Success"}
MEASURES |= {"err": "ERR", "rbp8": "RBP(p=0.8)", "rbp9": "RBP(p=0.9)", "judged": "Judged"}
DEFAULT_METRICS = ("ndcg@10", "judged@10", "recall@100", "mrr@10")
NAME = re.compile(r"([a-z]+[0-9]?)@([1-9][0-9]{0,8})")
MAX_SCORE = 1_000_000  # trec_eval keeps a counter for each score up to the highest


def measure_of(name: str) -> "ir_measures.measures.Measure":
    """The `ir_measures` measure of a name such as `ndcg@10`.

    Raises:
        ValueError: if the name is none of `MEASURES` with a cutoff from 1.
    """
    found = NAME.fullmatch(name.lower()) if isinstance(name, str) else None
    if found is None or found[1] not in MEASURES:
        kinds = ", ".join(f"{kind}@k" for kind in MEASURES)
        raise ValueError(f"unknown metric {name!r}; use one of {kinds}, with a whole k from 1 to 999999999")
    return ir_measures.parse_measure(f"{MEASURES[found[1]]}@{found[2]}")


def of_quality(metrics: Iterable[str]) -> list[str]:
    """Those metrics of which more is better: all but `judged@k`."""
    return [name for name in metrics if measure_of(name).NAME != "Judged"]


def per_query(
    rankings: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> dict[str, np.ndarray]:
    """Each metric of each query.

    Args:
        rankings (`dict[str, list[str]]`): query id to product ids, best first. Ties are already broken: the order
            given is the order measured. A product counts where it stands first; where it stands again it takes up a
            place and is not relevant. Ids are texts or whole numbers, and 7 is "7".
        qrels (`dict[str, dict[str, int]]`): query id to product id to score, a whole number, whatever its type. A
            negative one is not relevant, like 0. Queries that have no ranking aren't measured.
        metrics (`Sequence[str]`): such as `("ndcg@10",)`.

    Returns:
        `dict[str, np.ndarray]`: name to float64 values of shape `(queries,)`, in the order of `rankings`. A query
        without judgments or without results counts 0.

    Raises:
        ValueError: if a metric, an id, a ranking or a score is none, a product is judged twice with different scores,
            or no query has judgments although there are some. The message is one sentence.
    """
    measures = {name: measure_of(name) for name in metrics}
    if not measures:
        raise ValueError(f"no metric is given; name some, such as {', '.join(DEFAULT_METRICS)}")
    depth = max(measure.params["cutoff"] for measure in measures.values())
    scores_of = {_id_text(query, "query"): scores for query, scores in qrels.items()}
    run, judged = {}, {}
    for row, (query, ids) in enumerate(rankings.items()):
        name = _id_text(query, "query")
        scores = _scores(name, scores_of.get(name, {}))
        run[str(row)] = _numbered(name, ids, depth, scores)
        judged[str(row)] = {str(number): score for number, score in enumerate(scores.values())}
    if scores_of and rankings and not any(_id_text(query, "query") in scores_of for query in rankings):
        first = next(iter(rankings)), next(iter(scores_of))
        raise ValueError(f"no query has judgments: the rankings are of {first[0]!r} and others, qrels of {first[1]!r}")
    return _measure(measures, run, judged)


def _measure(measures: dict, run: dict[str, dict], judged: dict[str, dict[str, int]]) -> dict[str, np.ndarray]:
    """The values of rankings and judgments by the rows of queries and the numbers of products."""
    values = {measure: np.zeros(len(run)) for measure in measures.values()}
    judged = {row: scores for row, scores in judged.items() if scores}
    run = {row: found for row, found in run.items() if found}
    ours = [measure for measure in values if measure.NAME in OURS]
    theirs = [measure for measure in values if measure not in ours]
    for found in ir_measures.iter_calc(theirs, judged, run) if judged and theirs else ():
        values[found.measure][int(found.query_id)] = found.value
    for row in run.keys() & judged.keys() if ours else ():
        scores, highest = np.array([judged[row].get(product, 0) for product in run[row]]), max(judged[row].values())
        for measure in ours:
            values[measure][int(row)] = OURS[measure.NAME](scores[: measure.params["cutoff"]], highest, measure)
    return {name: values[measure].copy() for name, measure in measures.items()}


def _err(scores: np.ndarray, highest: int, measure: "ir_measures.measures.Measure") -> float:
    """Expected reciprocal rank of a ranking's scores `(products,)`: a product of score `g` ends the search of whoever
    comes to it by the chance `(2^g - 1) / 2^g_max`."""
    ends = np.exp2(scores - highest) - np.exp2(-float(highest))
    reached = np.concatenate([[1.0], np.cumprod(1 - ends[:-1])])
    return float(np.sum(reached * ends / np.arange(1, len(ends) + 1)))


def _rbp(scores: np.ndarray, highest: int, measure: "ir_measures.measures.Measure") -> float:
    """Rank-biased precision with gains `g / g_max`: whoever looks at a product looks at the next by the chance `p`."""
    persistence = measure.params["p"]
    looked = persistence ** np.arange(len(scores))
    return float((1 - persistence) * np.sum(looked * scores / max(highest, 1)))


OURS = {"ERR": _err, "RBP": _rbp}


def _id_text(value: Any, what: str) -> str:
    """An id as text."""
    if isinstance(value, str) or (isinstance(value, Integral) and not isinstance(value, bool)):
        return str(value)
    raise ValueError(f"{value!r} is no {what} id; give a text or a whole number")


def _scores(query: str, given: Mapping[str, Any]) -> dict[str, int]:
    """The scores of a query's judged products, from 0."""
    scores: dict[str, int] = {}
    for product, value in given.items():
        name, score = _id_text(product, "product"), _whole(value)
        if score is None:
            raise ValueError(
                f"query {query!r}, product {product!r}: score {value!r} is no whole number up to {MAX_SCORE:,}; "
                "multiply or round the scores (0 is not relevant)"
            )
        if scores.setdefault(name, score) != score:
            raise ValueError(f"query {query!r}, product {name!r}: judged twice, {scores[name]} and {score}; keep one")
    return scores


def _whole(value: Any) -> int | None:
    """A score as a whole number from 0, `None` if it is none or too large."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return max(int(number), 0) if number.is_integer() and number <= MAX_SCORE else None


def _numbered(query: str, ids: Sequence[str], depth: int, scores: dict[str, int]) -> dict[str, float]:
    """The first `depth` of a ranking for trec_eval: the number of each judged product, another name for each other
    place, and a value that falls."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence | np.ndarray):
        raise ValueError(f"query {query!r}: a ranking is a list of product ids, best first, and not {ids!r:.100}")
    number_of = {product: str(number) for number, product in enumerate(scores)}
    places = enumerate(_id_text(product, "product") for product in ids[:depth])
    return {number_of.pop(product, f"-{rank}"): -float(rank) for rank, product in places}
