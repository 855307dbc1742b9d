"""How sure a mean over queries is, and whether one system is better than another on the same queries."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

SIGNIFICANT = 0.05
RESAMPLES = 1000  # of the bootstrap; ten times as many of the randomisation test
AT_A_TIME = 2**20  # numbers that are resampled at a time


def bootstrap_interval(values: np.ndarray, samples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the mean of `values` `(queries,)`, by bootstrap over queries.

    One query's interval is its value.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 1:
        return float(values[0]), float(values[0])
    rng, batch = np.random.default_rng(seed), _batch(values)
    options = {"n_resamples": samples, "method": "percentile", "confidence_level": 0.95, "batch": batch, "rng": rng}
    low, high = stats.bootstrap((values,), np.mean, vectorized=True, **options).confidence_interval
    return float(low), float(high)


def summarise(values: np.ndarray, samples: int = RESAMPLES, seed: int = 0) -> dict:
    """`{"mean", "ci95": [lo, hi]}` of a metric's values `(queries,)`."""
    return {"mean": float(np.mean(values)), "ci95": list(bootstrap_interval(values, samples, seed))}


def ratio_interval(
    values: np.ndarray, others: np.ndarray, samples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The 95% percentile interval of the mean of `values` over that of `others`, by bootstrap over pairs.

    Args:
        values (`np.ndarray` of shape `(pairs,)`): such as a metric of changed queries.
        others (`np.ndarray` of shape `(pairs,)`): such as that of the queries that they were made of; not all 0.
        samples (`int`, *optional*, defaults to 1000): draws. One whose others are all 0 has no ratio and is left out.
        seed (`int`, *optional*, defaults to 0): seed of the draws.
    """
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), samples)
    sums = counts @ np.asarray(values, dtype=np.float64), counts @ np.asarray(others, dtype=np.float64)
    low, high = np.percentile(sums[0][sums[1] > 0] / sums[1][sums[1] > 0], [2.5, 97.5])
    return float(low), float(high)


def over_seeds(values: Sequence[np.ndarray]) -> dict:
    """[`summarise`] of each query's mean over seeds, and `seeds`, each one's mean.

    Args:
        values (`list[np.ndarray]`): a metric's values `(queries,)` of each seed, query by query.
    """
    return summarise(np.mean(values, axis=0)) | {"seeds": [round(float(np.mean(one)), 4) for one in values]}


def paired_difference(first: np.ndarray, second: np.ndarray, samples: int = RESAMPLES, seed: int = 0) -> dict:
    """How much better `first` is than `second` on the same queries.

    Args:
        first (`np.ndarray` of shape `(queries,)`): a metric's values of one system.
        second (`np.ndarray` of shape `(queries,)`): of the other, query by query.
        samples (`int`, *optional*, defaults to 1000): draws of the bootstrap, a tenth of the randomisation test's.
        seed (`int`, *optional*, defaults to 0): seed of both.

    Returns:
        `dict`: `diff` (mean difference), `ci95` (paired bootstrap) and `p` (two-sided paired randomisation test,
        Smucker et al. 2007). `scipy.stats.permutation_test` is the same, and a hundred times slower here.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    rng = np.random.default_rng(seed)

    def flipped(size: tuple[int, ...]) -> np.ndarray:
        return difference * rng.choice(np.array([-1, 1], dtype=np.int8), size)

    options = {"n_resamples": 10 * samples, "batch": _batch(difference), "vectorized": True}
    test = stats.monte_carlo_test(difference, flipped, np.mean, **options)
    interval = list(bootstrap_interval(difference, samples, seed))
    return {"diff": float(np.mean(difference)), "ci95": interval, "p": float(test.pvalue)}


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family of tests, corrected so that at .05 one family of 20 has a false finding, not one test.

    The `i`-th smallest of `m`, from `i = 0`, is multiplied by `m - i`, and is at least the one before it (Holm, A
    Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 1979).
    """
    order, corrected = np.argsort(p_values), np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.take(p_values, order) * np.arange(len(order), 0, -1)).clip(max=1)
    return corrected.tolist()


def with_holm(tests: dict[str, dict]) -> dict[str, dict]:
    """A family of tests, by name, of which each has `p`, with `p_holm` too; see [`holm`]."""
    corrected = holm([found["p"] for found in tests.values()])
    return {name: found | {"p_holm": p} for (name, found), p in zip(tests.items(), corrected, strict=True)}


def _batch(values: np.ndarray) -> int:
    return max(1, min(1000, AT_A_TIME // max(len(values), 1)))
