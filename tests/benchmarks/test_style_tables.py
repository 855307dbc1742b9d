"""Styles of queries by system: made and measured once, tested within a catalogue, and shown."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import write_shop

from modeling_mmfusion.errors import DataError
from training import styles
from training.benchmarks import baseline_trainer, compare
from training.benchmarks import styles as bench
from training.benchmarks.styles import StyleBenchArguments
from training.common.cli import parse


@pytest.fixture
def arguments(saved, shop, tmp_path) -> StyleBenchArguments:
    files = {"output": str(tmp_path / "kept"), "results": str(tmp_path / "results.json")}
    return StyleBenchArguments({"ours": str(saved), "bm25 tuned": "bm25-tuned"}, [str(shop)], **files)


def not_called(*words):
    raise AssertionError("was made already")


def test_each_style_has_costs_harm_and_tests_and_nothing_is_made_twice(
    arguments, saved, tmp_path, monkeypatch, capsys
):
    results = bench.main(arguments)
    assert results == json.loads((tmp_path / "results.json").read_text())
    (found,) = results["catalogues"].values()
    typos = found["typo 1"]
    assert list(typos["systems"]) == ["ours, fused", "ours, hybrid", "ours, text", "ours, image", "bm25 tuned"]
    assert typos["queries"] == typos["systems"]["bm25 tuned"]["n_pairs"] > 0
    assert typos["systems"]["bm25 tuned"]["cost"] < 0 and found["as asked"]["systems"]["ours, text"]["cost"] is None
    assert {view: list(tests) for view, tests in typos["tests"].items()} == dict.fromkeys(
        ("fused", "hybrid"), ["ours, text", "ours, image", "bm25 tuned"]
    )
    assert found["as asked"]["harm"]["share"] + found["as asked"]["harm"]["better"] <= 1
    report = next(path for path in (tmp_path / "kept").glob("*.json") if '"bm25-tuned"' in path.read_text())
    assert json.loads(report.read_text())["bm25"], "tuned on the dev split of the catalogue that styles were made of"
    assert "split dev to tune" not in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(compare.evaluate, "main", not_called)
        patched.setattr(styles, "styled_queries", not_called)
        assert bench.main(arguments)["catalogues"] == results["catalogues"]
        arguments.queries = 3
        with pytest.raises(AssertionError, match="was made already"):
            bench.main(arguments)
    assert bench.main(arguments)["catalogues"]["shop"]["typo 1"]["queries"] == 3
    assert (tmp_path / "results.md").read_text().startswith("| shop, ndcg@10 | queries | ours, fused |")


def test_a_report_of_another_model_is_not_kept(arguments, model, processor, tmp_path, monkeypatch):
    arguments.models["ours"] = str(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    bench.main(arguments)
    (tmp_path / "model" / "more.txt").write_text("another model")
    monkeypatch.setattr(compare.evaluate, "main", not_called)
    with pytest.raises(AssertionError, match="was made already"):
        bench.main(arguments)


def values_and_queries() -> tuple[dict[str, np.ndarray], list[dict]]:
    """Forty queries as asked, and as many with a typing error; fused is above text on the first alone."""
    queries = [{"_id": f"q{row}", "style": "as asked", "source": None} for row in range(40)]
    queries += [{"_id": f"t{row}", "style": "typo 1", "source": f"q{row}"} for row in range(40)]
    ours = np.concatenate([np.linspace(0.4, 0.9, 40), np.linspace(0.2, 0.7, 40)])
    text = ours - np.repeat([0.1, -0.05], 40)
    return {"m, fused": ours, "m, hybrid": ours, "m, text": text, "m, image": ours, "words": ours + 0.01}, queries


def test_tests_are_corrected_over_all_of_a_catalogue():
    found = bench.summary(*values_and_queries(), "m")
    test = found["as asked"]["tests"]["fused"]["m, text"]
    assert test["diff"] == pytest.approx(0.1) and test["p_holm"] == pytest.approx(12 * test["p"], rel=1e-6)
    assert compare.said(test) == "better" and compare.said(found["typo 1"]["tests"]["fused"]["m, text"]) == "worse"
    assert compare.said(found["typo 1"]["tests"]["hybrid"]["m, image"]) == "no difference"
    assert found["as asked"]["harm"] == pytest.approx({"share": 0, "loss": 0, "better": 1, "gain": 0.1})
    assert found["typo 1"]["harm"] == pytest.approx({"share": 1, "loss": 0.05, "better": 0, "gain": 0})
    assert found["typo 1"]["systems"]["m, fused"]["cost"] == pytest.approx(0.45 / 0.65 - 1)


def test_the_small_table_has_ours_a_mark_and_the_best_other(arguments):
    found = bench.summary(*values_and_queries(), "m")
    results = {"metric": "ndcg@10", "split": "test", "ours": "m", "left_out": ["Left out: nothing."]}
    results["catalogues"] = {"one": found, "two": {"german": found["as asked"], "odd": found["typo 1"]}}
    small = bench.format_shown_styles(results).splitlines()
    assert small[0] == "| ndcg@10, test | one | two |"
    assert small[2:] == ["| typo 1 | 0.450 < 0.460 |  |", "| german |  | 0.650 < 0.660 |"]
    first, _, legend = bench.format_styles_benchmark(results)
    row = first.splitlines()[-1]
    assert row.startswith("| typo 1 | 40 | 0.450 [") and row.endswith("| 100% (.050), 0% |") and "-31% [" in row
    assert row.count("↑") == 2 and row.count("=") == 1 and legend.endswith("\nLeft out: nothing.")


def write_baseline(folder, shop) -> None:
    folder.mkdir()
    (folder / "weights.safetensors").write_text("trained")
    options = {"data": [str(shop)], "seed": 7, "tests": [], "output": "elsewhere"}
    (folder / "report.json").write_text(json.dumps({"options": options}))


def test_the_other_librarys_models_are_measured_on_the_styles_once(arguments, shop, tmp_path, monkeypatch):
    write_baseline(tmp_path / "baseline", shop)
    arguments.baseline = [str(tmp_path / "baseline")]
    asked = []

    def measure(wanted):
        asked.append(wanted)
        file = next(path for path in (tmp_path / "kept").glob("*.parquet"))
        ids = pq.read_table(file)["query-id"]
        pq.write_table(
            pa.table({"query-id": ids, "text ndcg@10": np.full(len(ids), 0.25)}), tmp_path / "values.parquet"
        )
        views = {"text": {"ndcg@10": {"mean": 0.25, "ci95": [0.25, 0.25]}}}
        report = {"data": wanted.tests[0], "views": views, "slices": {}, "per_query": str(tmp_path / "values.parquet")}
        found = {"baseline": "theirs", "catalogues": {"shop": report}}
        (tmp_path / "kept" / wanted.report).write_text(json.dumps(found))
        return found

    monkeypatch.setattr(baseline_trainer, "main", measure)
    found = bench.main(arguments)["catalogues"]["shop"]["typo 1"]
    assert found["systems"]["theirs, text"]["mean"] == 0.25 and "theirs, text" in found["tests"]["hybrid"]
    assert asked[0].seed == 7 and asked[0].output == arguments.baseline[0]
    assert asked[0].tests == [f"{arguments.output}/shop"]
    bench.main(arguments)
    assert len(asked) == 1
    (tmp_path / "baseline" / "weights.safetensors").write_text("trained anew")
    bench.main(arguments)
    assert len(asked) == 2
    (tmp_path / "values.parquet").unlink()
    with pytest.raises(DataError, match="values.parquet: no such file; give each query's values"):
        bench.main(arguments)


@pytest.mark.parametrize("there", ["nothing", "a report", "weights"])
def test_a_baseline_that_was_not_trained_is_left_out_and_said(arguments, tmp_path, there, capsys):
    arguments.baseline = [str(tmp_path / "baseline")]
    if there != "nothing":
        (tmp_path / "baseline").mkdir()
        name = {"a report": "report.json", "weights": "a.safetensors"}[there]
        (tmp_path / "baseline" / name).write_text('{"options": {}}')
    results = bench.main(arguments)
    told = f"Left out: {arguments.baseline[0]} has no models of training.benchmarks.baseline_trainer."
    assert results["left_out"] == [told]
    assert told == capsys.readouterr().out.splitlines()[-1]


def test_what_cant_be_compared_is_refused_before_anything_is_made(arguments, saved, shop, tmp_path):
    other = write_shop(tmp_path / "elsewhere" / "shop")
    for change, message in (
        ({"models": {}}, "--models: names no model"),
        ({"data": []}, "--data: names no catalogue"),
        ({"models": {"words": "bm25", "ours": str(saved)}}, "--models: the first is measured as ours, but bm25 is no"),
        ({"models": {"ours": str(saved), "gone": "runs/gone/model"}}, "runs/gone/model"),
        ({"data": [str(shop), str(other)]}, "--data: two catalogues are called shop"),
        ({"results": str(tmp_path)}, "is a folder"),
    ):
        wrong = StyleBenchArguments(**(vars(arguments) | change))
        with pytest.raises(DataError, match=message) as error:
            bench.main(wrong)
        assert "\n" not in str(error.value) and not (tmp_path / "kept").exists()


def test_the_command_line_takes_several_seeds(saved):
    words = ["--models", "{ours: [a-0, a-1], words: bm25}", "--data", "a,b", "--baseline", "c-0,c-1"]
    found = parse(StyleBenchArguments, "", words)
    assert found.models["ours"] == ["a-0", "a-1"] and found.data == ["a", "b"] and found.baseline == ["c-0", "c-1"]
