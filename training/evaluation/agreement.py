"""How far two judges agree, and what a metric would be if the better one had judged everything.

Kappa is 1 for judges who agree in all, 0 for those who agree as often as chance would have it. Intervals are by
bootstrap over queries, since the grades of one query's products are made in one go.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from training.evaluation.grades import GUIDELINES, Grades
from training.evaluation.pooling import Pool
from training.evaluation.product_retrieval.metrics import per_query
from training.evaluation.statistics import RESAMPLES, summarise

CATEGORIES = len(GUIDELINES)
CUTS = (1, 2)  # a product is relevant from this grade on
NAMES = ("kappa", "weighted_kappa", "equal", *(f"{what}_from_{cut}" for cut in CUTS for what in ("kappa", "equal")))


def confusion(first: Grades, second: Grades, pool: Pool) -> np.ndarray:
    """How often the one gives a grade where the other gives one: `(queries, 4, 4)`, the first judge's grades in rows.

    Only pairs of the pool that both have judged count, and queries with none are left out.
    """
    tables = []
    for query in pool:
        one, other = first.get(query.id, {}), second.get(query.id, {})
        if both := [product for product in query.found if product in one and product in other]:
            table = np.zeros((CATEGORIES, CATEGORIES))
            np.add.at(table, ([one[product] for product in both], [other[product] for product in both]), 1)
            tables.append(table)
    return np.array(tables).reshape(-1, CATEGORIES, CATEGORIES)


def kappa(tables: np.ndarray, weighted: bool = False) -> np.ndarray:
    """Cohen's kappa of confusion tables.

    Args:
        tables (`np.ndarray` of shape `(..., C, C)`): confusion tables.
        weighted (`bool`, *optional*, defaults to `False`): a disagreement counts by its square.

    Returns:
        `np.ndarray` of shape `(...)`: NaN where both judges gave one and the same grade only.

    References:
        Cohen 1960, Cohen 1968; the same as `sklearn.metrics.cohen_kappa_score`, here for many tables at a time.
    """
    grade = np.arange(tables.shape[-1])
    weight = (grade[:, None] - grade) ** 2 if weighted else (grade[:, None] != grade).astype(float)
    total = tables.sum(axis=(-2, -1), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = tables.sum(axis=-1, keepdims=True) * tables.sum(axis=-2, keepdims=True) / total
        return 1 - (weight * tables).sum(axis=(-2, -1)) / (weight * chance).sum(axis=(-2, -1))


def alpha(judges: Sequence[Grades], pool: Pool) -> float:
    """Krippendorff's alpha for ordinal grades of any number of judges, each of whom may have left out any pairs.

    Returns:
        `float`: 1 where all agree; NaN if no pair was judged twice or all grades are one.

    References:
        Krippendorff, Computing Krippendorff's alpha-reliability (2011).
    """
    seen = np.zeros((CATEGORIES, CATEGORIES))
    for query in pool:
        for product in query.found:
            given = [judged[query.id][product] for judged in judges if product in judged.get(query.id, {})]
            if len(given) > 1:
                counts = np.bincount(given, minlength=CATEGORIES)
                seen += (np.outer(counts, counts) - np.diag(counts)) / (len(given) - 1)
    totals = seen.sum(axis=1)
    middle = np.cumsum(totals) - totals / 2
    weight = (middle[:, None] - middle) ** 2
    chance = (np.outer(totals, totals) - np.diag(totals)) / max(totals.sum() - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(1 - np.divide((weight * seen).sum(), (weight * chance).sum()))


def agreement(first: Grades, second: Grades, pool: Pool, samples: int = RESAMPLES, seed: int = 0) -> dict:
    """How far two judges agree.

    Returns:
        `dict`: `queries` and `pairs` that both have judged, `confusion` (rows are the first one's grades), `alpha`,
        and each of `kappa`, `weighted_kappa` (quadratic) and `equal` (share of pairs with the same grade), and
        of relevance from grade 1 and from grade 2 on, as `{"value", "ci95"}`. What is not defined is `None`.
    """
    tables = confusion(first, second, pool)
    draws = np.random.default_rng(seed).multinomial(len(tables), np.full(len(tables), 1 / len(tables)), samples)
    drawn, whole = np.tensordot(draws, tables, axes=1), tables.sum(axis=0)
    found = {"queries": len(tables), "pairs": int(whole.sum()), "confusion": whole.astype(int).tolist()}
    found["alpha"] = _number(alpha([first, second], pool))
    for name, value, values in zip(NAMES, _measures(whole), _measures(drawn), strict=True):
        values = values[~np.isnan(values)]
        ends = np.quantile(values, (0.025, 0.975)) if len(values) else (np.nan, np.nan)
        found[name] = {"value": _number(value), "ci95": [_number(end) for end in ends]}
    return found


def _measures(tables: np.ndarray) -> list[np.ndarray]:
    """What is measured of confusion tables `(..., 4, 4)`, in the order of `NAMES`."""
    found = [kappa(tables), kappa(tables, weighted=True), _equal(tables)]
    for cut in CUTS:
        halves = (slice(cut), slice(cut, None))
        binary = [[tables[..., one, other].sum(axis=(-2, -1)) for other in halves] for one in halves]
        two = np.moveaxis(np.array(binary), (0, 1), (-2, -1))
        found += [kappa(two), _equal(two)]
    return found


def _equal(tables: np.ndarray) -> np.ndarray:
    return np.trace(tables, axis1=-2, axis2=-1) / tables.sum(axis=(-2, -1))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def corrected(person: np.ndarray, model: np.ndarray, others: np.ndarray) -> dict:
    """A mean over queries by a model's grades, corrected by how much a person's differ where both have judged.

    Args:
        person (`np.ndarray` of shape `(labelled,)`): a metric by the person's grades; at least two queries, which must
            be a random sample.
        model (`np.ndarray` of shape `(labelled,)`): of the same queries by the model's grades.
        others (`np.ndarray` of shape `(unlabelled,)`): of all other queries by the model's grades; at least two.

    Returns:
        `dict`: `{"mean", "ci95"}`. However bad the model is the mean is right on average, and the interval says how
        far it may be off; a good model makes it narrower than the person's queries alone do.

    References:
        Angelopoulos et al., Prediction-powered inference (Science 2023), https://huggingface.co/papers/2301.09633.
    """
    errors = np.asarray(person, dtype=np.float64) - model
    mean = float(np.mean(others) + np.mean(errors))
    spread = np.var(others, ddof=1) / len(others) + np.var(errors, ddof=1) / len(errors)
    half = float(stats.norm.ppf(0.975) * np.sqrt(spread))
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def corrected_metrics(person: Grades, model: Grades, pool: Pool, labelled: list[str], others: list[str]) -> dict:
    """Each system's nDCG, and the share of pooled products that are relevant, by a person, a model and both.

    Args:
        person (`Grades`): of the labelled queries.
        model (`Grades`): of all queries.
        pool (`Pool`): with the systems' rankings.
        labelled (`list[str]`): ids of queries that both have judged, at least two.
        others (`list[str]`): ids of those that the model alone has judged, at least two.

    Returns:
        `dict`: name to `person`, `model` (each `{"mean", "ci95"}` of its queries) and `corrected` (see [`corrected`]).
        A query for which nothing in the pool is relevant counts 0.
    """

    def summary(measure) -> dict:
        hand, same, rest = measure(person, labelled), measure(model, labelled), measure(model, others)
        by_model = np.concatenate([same, rest])
        return {"person": summarise(hand), "model": summarise(by_model), "corrected": corrected(hand, same, rest)}

    found = {}
    for system in pool.systems:
        rankings = pool.rankings(system)
        found[f"ndcg@{pool.depth} {system}"] = summary(
            lambda grades, ids, of=rankings: ndcg(of, grades, ids, pool.depth)
        )
    for cut in CUTS:
        found[f"share from grade {cut}"] = summary(lambda grades, ids, cut=cut: _share(grades, ids, cut))
    return found


def ndcg(rankings: dict[str, list[str]], grades: Grades, queries: list[str], depth: int) -> np.ndarray:
    """The nDCG of some queries, `(queries,)`; 0 where nothing is relevant."""
    name = f"ndcg@{depth}"
    return per_query({query: rankings[query] for query in queries}, grades, (name,))[name]


def _share(grades: Grades, queries: list[str], cut: int) -> np.ndarray:
    """The share of each query's products that are relevant, `(queries,)`."""
    return np.array([np.mean([grade >= cut for grade in grades[query].values()]) for query in queries])
