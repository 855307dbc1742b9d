"""Agreement as other tools measure it, and corrected means that are right however bad the model is."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from training.evaluation.agreement import agreement, alpha, confusion, corrected, kappa
from training.evaluation.pooling import Pool, PooledQuery

# Krippendorff 2011, section C: four observers, twelve units, five values, and what he finds for ordinal data.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
ORDINAL = 0.815


def judged(rows, per_query=3):
    """Grades and their pool of a list of grades, `None` where there is none."""
    grades, queries = {}, []
    for start in range(0, len(rows), per_query):
        found = {f"p{start + place}": {} for place in range(len(rows[start : start + per_query]))}
        queries.append(PooledQuery(f"q{start}", "", found))
        given = dict(zip(found, rows[start : start + per_query], strict=True))
        grades[f"q{start}"] = {product: int(grade) for product, grade in given.items() if grade is not None}
    return grades, Pool("", "", 10, [], queries)


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 4, 300)
    other = np.where(rng.random(300) < 0.6, one, rng.integers(0, 4, 300))
    (first, pool), (second, _) = judged(one.tolist(), 10), judged(other.tolist(), 10)
    found = agreement(first, second, pool)
    assert found["kappa"]["value"] == pytest.approx(cohen_kappa_score(one, other))
    assert found["weighted_kappa"]["value"] == pytest.approx(cohen_kappa_score(one, other, weights="quadratic"))
    for cut in (1, 2):
        assert found[f"kappa_from_{cut}"]["value"] == pytest.approx(cohen_kappa_score(one >= cut, other >= cut))
        assert found[f"equal_from_{cut}"]["value"] == pytest.approx(np.mean((one >= cut) == (other >= cut)))
    assert found["equal"]["value"] == pytest.approx(np.mean(one == other)) and found["pairs"] == 300
    for name in ("kappa", "weighted_kappa", "equal", "kappa_from_2"):
        low, high = found[name]["ci95"]
        assert low < found[name]["value"] < high < low + 0.35
    assert np.array(found["confusion"])[1, 3] == np.sum((one == 1) & (other == 3)), "rows are the first judge's"


def test_judges_who_say_one_thing_only_are_told_and_not_measured():
    (first, pool), (second, _) = judged([2] * 6), judged([2] * 6)
    found = agreement(first, second, pool)
    assert found["kappa"] == {"value": None, "ci95": [None, None]} and found["alpha"] is None
    assert found["equal"] == {"value": 1, "ci95": [1, 1]}
    assert np.isnan(kappa(np.zeros((4, 4))))


def test_the_interval_is_over_queries_and_not_over_pairs():
    """Ten queries that are judged alike or not as a whole say as little as ten pairs."""
    one = np.repeat(np.arange(10) % 4, 50)
    other = np.repeat((np.arange(10) + (np.arange(10) > 6)) % 4, 50)
    (first, pool), (second, _) = judged(one.tolist(), 50), judged(other.tolist(), 50)
    low, high = agreement(first, second, pool)["equal"]["ci95"]
    assert low <= 0.4 and high >= 0.9


def test_alpha_is_that_of_krippendorffs_example(monkeypatch):
    monkeypatch.setattr("training.evaluation.agreement.CATEGORIES", 5)
    judges = [judged([None if sign == "." else int(sign) - 1 for sign in row]) for row in OBSERVERS]
    value = alpha([grades for grades, _ in judges], judges[0][1])
    assert value == pytest.approx(ORDINAL, abs=5e-4)


def test_what_one_of_two_has_not_judged_does_not_count():
    (first, pool), (second, _) = judged([0, 1, 2, None, None, None]), judged([0, 1, None, 3, 3, 3])
    tables = confusion(first, second, pool)
    assert tables.shape == (1, 4, 4) and tables.sum() == 2 and tables[0, 0, 0] == tables[0, 1, 1] == 1


@pytest.mark.parametrize("bias, noise", [(0.0, 0.05), (0.3, 0.05), (0.0, 0.6)])
def test_corrected_means_are_right_as_often_as_their_interval_says(bias, noise):
    """Of a lenient model, too; and a model that knows something makes the interval narrower than the person's."""
    rng, held, widths = np.random.default_rng(1), 0, []
    for _ in range(400):
        truth = rng.beta(2, 2, 240)
        model = truth + bias + noise * rng.standard_normal(240)
        found = corrected(truth[:40], model[:40], model[40:])
        low, high = found["ci95"]
        held += low <= 0.5 <= high
        widths.append((high - low) / (2 * 1.96 * truth[:40].std(ddof=1) / np.sqrt(40)))
    assert 0.91 < held / 400 < 0.98
    assert np.mean(widths) < 0.6 if noise < 0.1 else np.mean(widths) > 1
