"""What a style costs and how often fusion harms, as a report tells it."""

import numpy as np
import pytest
from helpers import shop_rows, write_shop

from training import evaluate, styles
from training.catalogue.layout import load_split
from training.evaluation.report import format_report, make_report
from training.evaluation.styles import harm_rates, style_costs


@pytest.fixture
def styled_shop(tmp_path):
    """Twelve queries as asked, and three typing errors of the last three of them."""
    corpus, queries, qrels = shop_rows()
    rows = [query | {"slice": "text", "frequency": 5, "style": "as asked", "source": None} for query in queries]
    for number, query in enumerate(queries[-3:]):
        rows.append({"_id": f"t{number}", "text": query["text"][1:], "style": "head", "source": query["_id"]})
        qrels += [row | {"query-id": f"t{number}"} for row in qrels if row["query-id"] == query["_id"]]
    folder = write_shop(tmp_path / "shop", corpus, queries, qrels)
    return folder, rows, qrels


def test_costs_are_those_beside_the_sources_alone(styled_shop):
    folder, rows, qrels = styled_shop
    split = load_split(folder, "test")
    split.queries = rows
    split.qrels = {row["_id"]: {} for row in rows}
    for row in qrels:
        split.qrels[row["query-id"]][row["corpus-id"]] = row["score"]
    text = np.array([0.1] * 9 + [0.8, 0.6, 0.4] + [0.3, 0.3, 0.3])
    fused = text + np.array([0.2] * 9 + [-0.1, 0.1, -0.3] + [0, 0, 1e-12])
    report = make_report({"fused": {"ndcg@10": fused}, "text": {"ndcg@10": text}}, split)
    found = report["styles"]["head"]["text"]
    assert found["n"] == found["n_pairs"] == 3
    assert found["source_mean"] == pytest.approx(0.6) and found["cost"] == pytest.approx(-0.5)
    assert report["styles"]["as asked"]["text"]["cost"] is None
    assert report["slice_sizes"]["text"] == 12 and report["slice_sizes"]["style head"] == 3
    assert report["slice_sizes"]["head"] < 12, "the most frequent ones, of those as asked alone"
    harm = report["harm"]
    assert harm["all"] == pytest.approx({"share": 2 / 15, "loss": 0.2, "better": 10 / 15, "gain": 0.19})
    assert harm["text"]["share"] == pytest.approx(2 / 12) and set(harm["style head"].values()) == {0}
    table = format_report(report | {"data": "shop", "split": "test"})
    assert "| head | 3 | 0.300 (-40%) | 0.300 (-50%) | 0% (0.000) |" in table and "ndcg@10 style head" not in table
    assert "all 13% (0.200), text 17% (0.200)" in table


def test_harm_and_help_are_counted_apart():
    fused, text = np.array([0.5, 0.2, 1.0, 0.0]), np.array([0.5, 0.6, 0.0, 1e-12])
    harm = harm_rates(fused, text, {"a": np.array([False, True, True, False])})
    assert harm == {
        "all": pytest.approx({"share": 1 / 4, "loss": 0.4, "better": 1 / 4, "gain": 1.0}),
        "a": pytest.approx({"share": 1 / 2, "loss": 0.4, "better": 1 / 2, "gain": 1.0}),
    }


def test_a_costs_interval_is_that_of_pairs():
    rng = np.random.default_rng(0)
    source = rng.uniform(0.2, 1.0, 200)
    queries = [{"_id": f"q{row}", "style": "as asked", "source": None} for row in range(200)]
    queries += [{"_id": f"t{row}", "style": "typo 1", "source": f"q{row}"} for row in range(200)]
    cost = style_costs({"text": np.concatenate([source, 0.8 * source])}, queries)["typo 1"]["text"]
    assert cost["cost"] == pytest.approx(-0.2) and cost["cost_ci95"] == pytest.approx([-0.2, -0.2])
    noisy = style_costs({"text": np.concatenate([source, rng.permutation(0.8 * source)])}, queries)["typo 1"]["text"]
    low, high = noisy["cost_ci95"]
    assert low < -0.21 < noisy["cost"] < -0.19 < high
    silent = style_costs({"text": np.concatenate([0 * source, source])}, queries)["typo 1"]["text"]
    assert silent["cost"] is silent["cost_ci95"] is None and silent["source_mean"] == 0
    rare = np.zeros(200)
    rare[0] = 1.0
    low, high = style_costs({"text": np.concatenate([rare, rare])}, queries)["typo 1"]["text"]["cost_ci95"]
    assert low == high == 0, "draws without the one query that finds anything have no cost"


def test_a_model_of_one_view_has_costs_and_no_harm(shop, tmp_path):
    styles.main(styles.StylesArguments(str(shop), output=str(tmp_path / "styled")))
    report = evaluate.main(evaluate.EvaluateArguments("bm25", str(tmp_path / "styled")))
    assert "harm" not in report and report["styles"]["typo 1"]["bm25"]["cost"] < 0
