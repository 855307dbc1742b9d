import json

import pytest

from modeling_mmfusion.errors import DataError
from training.benchmarks import compare
from training.benchmarks.compare import CompareArguments


@pytest.fixture
def arguments(model, processor, shop, tmp_path) -> CompareArguments:
    for name in ("ours", "other"):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    models = {"ours": str(tmp_path / "ours"), "words": "bm25", "other": str(tmp_path / "other")}
    models["text only"] = models["ours"]
    views = {"text only": "text"}
    files = {"output": str(tmp_path / "kept"), "results": str(tmp_path / "table.json")}
    return CompareArguments(models, views, [str(shop)], **files)


def test_a_row_a_system_and_nothing_is_measured_twice(arguments, shop, tmp_path, monkeypatch, capsys):
    baseline = {"fused": {"ndcg@10": {"mean": 0.25, "ci95": [0.2, 0.3]}}}
    report = {"data": str(shop), "views": baseline, "slices": {"both": baseline}}
    (tmp_path / "baseline.json").write_text(json.dumps({"baseline": "a baseline", "catalogues": {"shop": report}}))
    arguments.baseline = str(tmp_path / "baseline.json")
    results = compare.main(arguments)
    views = ["ours, fused", "ours, text", "ours, image", "bm25", "rrf", "oracle"]
    assert list(results["rows"]) == [*views, "words", "other", "text only", "a baseline, fused"]
    found = {name: cells[str(shop)]["ndcg@10"]["mean"] for name, cells in results["rows"].items()}
    assert found["other"] == found["ours, fused"] and found["words"] == found["bm25"]
    assert found["text only"] == found["ours, text"] != found["ours, fused"]
    assert found["oracle"] >= max(found["ours, text"], found["ours, image"])
    assert results["ratios"]["a baseline, fused"][str(shop)] == pytest.approx(found["ours, fused"] / 0.25)
    assert "| a baseline, fused | 0.250 [0.200, 0.300] |" in capsys.readouterr().out
    monkeypatch.setattr(compare.evaluate, "main", lambda *words: 1 / 0)
    assert compare.main(arguments)["rows"] == results["rows"]
    (tmp_path / "other" / "more.txt").write_text("another model")
    with pytest.raises(ZeroDivisionError):
        compare.main(arguments)


def test_a_baseline_without_a_report_is_named(arguments):
    arguments.models, arguments.baseline = {}, "nowhere.json"
    with pytest.raises(
        DataError, match="nowhere.json: no such file; give a report of training.benchmarks.baseline_trainer"
    ):
        compare.main(arguments)
