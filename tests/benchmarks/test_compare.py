import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from modeling_mmfusion.errors import DataError
from training.benchmarks import compare
from training.benchmarks.compare import CompareArguments, Measured
from training.common.cli import parse


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


def write_baseline(folder, shop, values) -> str:
    """A report of another system as `baseline_trainer` writes it, with each query's nDCG@10."""
    means = {"fused": {"ndcg@10": {"mean": float(np.mean(values)), "ci95": [0.0, 1.0]}}}
    ids = [f"q-{kind}-{colour}" for kind in ("mug", "shirt", "lamp", "bowl") for colour in ("red", "green", "blue")]
    pq.write_table(pa.table({"query-id": ids[: len(values)], "fused ndcg@10": values}), folder / "values.parquet")
    report = {"data": str(shop), "views": means, "slices": {"both": means}, "per_query": f"{folder}/values.parquet"}
    (folder / "baseline.json").write_text(json.dumps({"baseline": "a baseline", "catalogues": {"shop": report}}))
    return str(folder / "baseline.json")


def test_a_row_a_system_and_nothing_is_measured_twice(arguments, shop, tmp_path, monkeypatch, capsys):
    arguments.baseline = [write_baseline(tmp_path, shop, np.full(12, 0.25))]
    results = compare.main(arguments)
    views = ["ours, fused", "ours, text", "ours, image", "bm25", "rrf", "hybrid", "oracle"]
    assert list(results["rows"]) == [*views, "words", "other", "text only", "a baseline, fused"]
    found = {name: cells[str(shop)]["ndcg@10"]["mean"] for name, cells in results["rows"].items()}
    assert found["other"] == found["ours, fused"] and found["words"] == found["bm25"]
    assert found["text only"] == found["ours, text"] != found["ours, fused"]
    assert found["oracle"] >= max(found["ours, text"], found["ours, image"])
    assert results["ratios"]["a baseline, fused"][str(shop)] == pytest.approx(found["ours, fused"] / 0.25)
    assert "| a baseline, fused | 0.250 [0.250, 0.250] " in capsys.readouterr().out
    monkeypatch.setattr(compare.evaluate, "main", lambda *words: 1 / 0)
    assert compare.main(arguments)["rows"] == results["rows"]
    (tmp_path / "other" / "more.txt").write_text("another model")
    with pytest.raises(ZeroDivisionError):
        compare.main(arguments)


def test_a_row_of_several_seeds_has_each_querys_mean(arguments, model, shop, processor, tmp_path):
    torch.manual_seed(0)
    for parameter in model.product_heads.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "seed")
    processor.save_pretrained(tmp_path / "seed")
    alone = {"ours": str(tmp_path / "ours"), "seed": str(tmp_path / "seed")}
    arguments.models = {"words": "bm25"} | alone | {"both": list(alone.values())}
    results = compare.main(arguments)
    ours, seed, both = (results["rows"][name][str(shop)] for name in ("ours", "seed", "both"))
    seeds = [round(one["ndcg@10"]["mean"], 4) for one in (ours, seed)]
    assert both["ndcg@10"]["seeds"] == seeds and seeds[0] != seeds[1]
    for metric in ("ndcg@10", "mrr@10"):
        assert both[metric]["mean"] == pytest.approx((ours[metric]["mean"] + seed[metric]["mean"]) / 2)
    assert both["slices"]["both"] == pytest.approx((ours["slices"]["both"] + seed["slices"]["both"]) / 2)
    between = "({:.3f} to {:.3f})".format(*sorted(seeds))
    line = next(line for line in compare.format_comparison(results).splitlines() if line.startswith("| both |"))
    assert between in line


def test_what_was_kept_of_a_model_stands_for_it_where_it_is_gone(arguments, shop, tmp_path):
    arguments.baseline = [write_baseline(tmp_path, shop, np.linspace(0, 1, 12))]
    arguments.keep = str(tmp_path / "numbers")
    arguments.models["text only"] = arguments.models.pop("other")
    arguments.models["words"] = str(tmp_path / "ours")
    results = compare.main(arguments)
    kept = sorted(str(file.relative_to(tmp_path)) for file in (tmp_path / "numbers").rglob("*.parquet"))
    assert kept == [f"numbers/{name}/{shop.name}.parquet" for name in ("baseline.json", "other", "ours")]
    assert set(pq.read_table(tmp_path / kept[2]).column_names) > {"query-id", "fused ndcg@10", "hybrid ndcg@10"}
    for name in ("ours", "other", "kept"):
        shutil.rmtree(tmp_path / name)
    Path(arguments.baseline[0]).unlink()
    again = compare.main(arguments)
    assert list(again["rows"]) == list(results["rows"])
    for name, cells in again["rows"].items():
        now, before = cells[str(shop)], results["rows"][name][str(shop)]
        assert now["ndcg@10"]["mean"] == pytest.approx(before["ndcg@10"]["mean"]) and now["slices"] == before["slices"]
    assert again["rows"]["words"] != again["rows"]["text only"]


def test_numbers_of_another_catalogue_are_not_taken_and_damaged_ones_named(arguments, shop, tmp_path):
    arguments.keep, arguments.models = str(tmp_path / "numbers"), {"ours": str(tmp_path / "ours")}
    compare.main(arguments)
    shutil.rmtree(tmp_path / "ours")
    other = shutil.copytree(shop, tmp_path / "elsewhere" / shop.name)
    arguments.data = [str(other)]
    assert compare.main(arguments)["rows"]
    (other / "note.txt").write_text("something else")
    with pytest.raises(DataError, match=f"{shop.name}.parquet: was measured on another state of .*elsewhere"):
        compare.main(arguments)
    arguments.data = [str(shop)]
    (tmp_path / "numbers" / "ours" / f"{shop.name}.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="parquet: holds no numbers that were kept"):
        compare.main(arguments)


def test_the_command_line_takes_one_folder_or_a_list_of_them():
    words = ["--models", "{ours: [a-0, a-1], words: bm25}", "--baseline", "b-0.json,b-1.json"]
    found = parse(CompareArguments, "", words)
    assert found.models == {"ours": ["a-0", "a-1"], "words": "bm25"} and found.baseline == ["b-0.json", "b-1.json"]


def rows_of(**values) -> dict[str, dict[str, Measured]]:
    return {name: {"data/shop": Measured([["q"]], {"ndcg@10": found}, [{}])} for name, found in values.items()}


def test_the_first_row_is_better_where_the_corrected_test_says_so(tmp_path):
    rng, ours = np.random.default_rng(0), np.linspace(0.4, 0.9, 40)
    noise = 0.2 * rng.standard_normal(40)
    alike = ours - 0.01 + noise - noise.mean()  # lower in the mean, within chance
    measured = rows_of(ours=[ours - 0.05, ours + 0.05], low=[ours - 0.1], high=[ours + 0.1], alike=[alike])
    rows = {name: {path: cell.summary() for path, cell in cells.items()} for name, cells in measured.items()}
    results = {"metric": "ndcg@10", "split": "test", "rows": rows, "tests": compare.first_against_others(measured)}
    said = {name: compare.verdict(results, "data/shop", name) for name in ("low", "high", "alike")}
    assert said == {"low": "better", "high": "worse", "alike": "no difference"}
    tests = results["tests"]["data/shop"]
    assert tests["low"]["p_holm"] == pytest.approx(3 * tests["low"]["p"]) and tests["low"]["diff"] == pytest.approx(
        0.1
    )
    table = {line.split(" | ")[0].strip("| "): line for line in compare.format_comparison(results).splitlines()}
    assert [table[name].split()[-2] for name in ("low", "high", "alike")] == ["↓", "↑", "="]
    assert table["ours"].endswith("(0.600 to 0.700) |") and compare.LEGEND in table


def test_a_results_file_from_before_the_tests_says_so():
    mean = {"data/shop": {"ndcg@10": {"mean": 0.5, "ci95": [0.4, 0.6]}}}
    results = {"split": "test", "rows": {"mmfusion, fused": mean, "oracle": mean, "bm25": mean}}
    assert compare.format_best(results).splitlines()[-1].endswith("| bm25 | not tested |")
    assert compare.format_comparison(results).endswith(compare.UNTESTED)
    results["tests"] = {"data/shop": {name: {"diff": 0.0, "p_holm": 1.0} for name in ("oracle", "bm25")}}
    assert compare.format_best(results).splitlines()[-1].endswith("| bm25 | no difference |")


def test_a_baseline_without_a_report_or_of_other_queries_is_named(arguments, shop, tmp_path):
    arguments.baseline = ["nowhere.json"]
    with pytest.raises(
        DataError, match="nowhere.json: no such file; give a report of training.benchmarks.baseline_trainer"
    ):
        compare.main(arguments)
    arguments.baseline = [write_baseline(tmp_path, shop, np.full(7, 0.25))]
    with pytest.raises(DataError, match="a baseline, fused: was measured on other queries of .*shop than ours, fused"):
        compare.main(arguments)
    (tmp_path / "values.parquet").unlink()
    with pytest.raises(DataError, match="the values of .*shop's queries are not there; run the baseline again"):
        compare.main(arguments)
    arguments.models, arguments.baseline = {}, []
    with pytest.raises(DataError, match="--models: names no model to compare"):
        compare.main(arguments)
