"""What a style costs and how often fusion harms, in the report and in tables."""

import json

import numpy as np
import pytest
from helpers import shop_rows, write_shop

from modeling_mmfusion.errors import DataError
from training import evaluate, styles
from training.benchmarks import compare
from training.benchmarks import styles as style_tables
from training.benchmarks.compare import CompareArguments
from training.benchmarks.styles import StyleTableArguments
from training.catalogue.layout import load_split
from training.evaluation.report import format_report, make_report
from training.evaluation.styles import harm_rates


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
    assert harm["all"] == {"share": pytest.approx(2 / 15), "loss": pytest.approx(0.2)}
    assert harm["text"]["share"] == pytest.approx(2 / 12) and harm["style head"] == {"share": 0, "loss": 0}
    table = format_report(report | {"data": "shop", "split": "test"})
    assert "| head | 3 | 0.300 (-40%) | 0.300 (-50%) | 0% (0.000) |" in table and "ndcg@10 style head" not in table
    assert "all 13% (0.200), text 17% (0.200)" in table


@pytest.fixture
def split_folder(shop, tmp_path):
    styles.main(styles.StylesArguments(str(shop), output=str(tmp_path / "styled")))
    return tmp_path / "styled"


def test_harm_counts_losses_alone():
    harm = harm_rates(np.array([0.5, 0.2, 1.0]), np.array([0.5, 0.6, 0.0]), {"a": np.array([False, True, True])})
    assert harm == {
        "all": {"share": pytest.approx(1 / 3), "loss": pytest.approx(0.4)},
        "a": {"share": pytest.approx(1 / 2), "loss": pytest.approx(0.4)},
    }


def test_a_model_of_one_view_has_costs_and_no_harm_and_gets_a_column(split_folder, tmp_path, capsys):
    report = evaluate.main(evaluate.EvaluateArguments("bm25", str(split_folder)))
    assert "harm" not in report and report["styles"]["typo 1"]["bm25"]["cost"] < 0
    files = {"output": str(tmp_path / "kept"), "results": str(tmp_path / "table.json")}
    compare.main(CompareArguments({"words": "bm25", "again": "bm25"}, {}, [str(split_folder)], **files))
    capsys.readouterr()
    style_tables.main(StyleTableArguments(files["results"], output=str(tmp_path / "styles.md")))
    found = report["styles"]["typo 1"]["bm25"]
    cell = f"{found['mean']:.3f} ({found['cost']:+.0%})"
    text = (tmp_path / "styles.md").read_text()
    assert text in capsys.readouterr().out and f"| typo 1 | {found['n']} | {cell} | {cell} |" in text
    with pytest.raises(DataError, match="has no row 'rrf'; use bm25; again"):
        style_tables.main(StyleTableArguments(files["results"], "bm25; rrf"))
    results = json.loads((tmp_path / "table.json").read_text())
    for cells in results["rows"].values():
        del cells[str(split_folder)]["styles"]
    (tmp_path / "table.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match="no query has a style"):
        style_tables.main(StyleTableArguments(files["results"]))
