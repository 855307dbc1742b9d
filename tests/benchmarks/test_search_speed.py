"""The benchmark of the search on a tiny shop, and plans made from its figures."""

import json
from dataclasses import replace

import numpy as np
import pytest

from modeling_mmfusion.errors import DataError
from training.benchmarks import search_speed
from training.benchmarks.search_speed import SearchBenchArguments
from training.scale import planning


@pytest.fixture
def arguments(model, processor, shop, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = {"count": 400, "model": str(tmp_path / "model"), "data": [str(shop)], "judged": str(shop), "dim": 22}
    files = {"work": str(tmp_path / "work"), "output": str(tmp_path / "results.json"), "plot": str(tmp_path / "p.png")}
    return SearchBenchArguments(**options, **files)


def test_tasks_run_and_plans_are_made_of_their_figures(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(
        search_speed, "in_a_process", lambda given, task: search_speed.main(replace(given, task=task)) | {"x": 1}
    )
    monkeypatch.setitem(search_speed.TASKS, "end", lambda _: {"int8 p50 ms": 6.0, "int8 p99 ms": 9.0})
    contestants = ["ours i8", "ours f32"]
    search_speed.main(replace(arguments, contestants=contestants))
    report = json.loads((tmp_path / "results.json").read_text())
    figures, summary = report["figures"], report["summary"]
    assert figures["prepare"]["vectors"] == 400 and figures["prepare"]["of real products"] == 12
    vectors = np.load(tmp_path / "work" / "vectors.npy").astype(np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
    assert np.sort(vectors @ vectors.T, axis=1)[:, -2].min() > 0.8, "copies are near real ones"
    assert summary["i8 as built"]["recall@10"] > 0.95 and summary["memory of i8 / f32"] >= 0
    assert figures["quality"]["i8"]["of f32"] == pytest.approx(1, abs=0.02)
    assert (tmp_path / "p.png").is_file() and "| 400 | ours i8, as built |" in search_speed.format_search(report)
    monkeypatch.setattr(search_speed, "in_a_process", lambda given, task: pytest.fail("was measured already"))
    search_speed.main(replace(arguments, contestants=contestants))
    with pytest.raises(DataError, match="unknown contestant 'x'"):
        search_speed.main(replace(arguments, contestants=["x"]))


@pytest.mark.parametrize("name", ["hnswlib", "faiss"])
def test_baselines_search_the_same_vectors(arguments, name):
    pytest.importorskip(name)
    search_speed.main(replace(arguments, task="prepare"))
    search_speed.main(replace(arguments, task=f"build {name}"))
    settings = search_speed.main(replace(arguments, task=f"search {name}"))["settings"]
    assert settings[-1]["recall@10"] > 0.95


def test_generated_vectors_are_compared_at_several_counts(tmp_path, monkeypatch):
    pytest.importorskip("hnswlib")
    monkeypatch.setattr(search_speed, "in_a_process", lambda given, task: search_speed.main(replace(given, task=task)))
    monkeypatch.setattr(search_speed, "CURVE", (200,))
    files = {"work": str(tmp_path / "work"), "output": str(tmp_path / "results.json"), "plot": str(tmp_path / "p.png")}
    options = {"count": 2000, "smaller": [500], "model": None, "dim": 24, "queries": 50, **files}
    names = ["ours i8", "ours i8 128", "hnswlib"]
    report = search_speed.main(SearchBenchArguments(contestants=names, threads=2, mapped=True, **options))
    assert "quality" not in report["figures"] and "end to end" not in report["figures"]
    vectors, queries = np.load(tmp_path / "work" / "vectors.npy"), np.load(tmp_path / "work" / "queries.npy")
    for some in (vectors.astype(np.float32), queries):
        assert np.linalg.norm(some, axis=1) == pytest.approx(1, abs=1e-3)
    assert report["figures"]["search ours i8 at 500"]["as built"]["recall@10"] > 0.98
    for summary in (report["summary"], report["summary"]["of 500 products"]):
        for kind in ("in batches", "alone"):
            assert summary[f"ours / hnswlib {kind} at recall 0.99"] > 0
    assert list(report["summary"]["curve, p50 ms"]) == ["200", "500", "2000"]
    for name in names[:2]:
        assert report["figures"][f"search {name}"]["of a shelf"]["recall@10"] == 1
        assert report["summary"]["of a shelf / of all, p50 ms"][name] > 0
    table = search_speed.format_search(report)
    assert "built with 2" in table and "| 2,000 | ours i8 128, 1% pass |" in table
    names = ["| 500 | ours i8 |", "| 500 | ours i8, as built |", "| 500 | hnswlib |", "| 2,000 | hnswlib |"]
    assert all(name in table for name in names) and "| 200 |" not in table
    found = {
        "settings": [{"recall@10": 0.99, "queries/s": 9, "p50 ms": 2}, {"recall@10": 1, "queries/s": 8, "p50 ms": 1}]
    }
    assert search_speed.at_recall(found, 0.99)["queries/s"] == 9
    assert search_speed.at_recall(found, 0.99, "p50 ms")["queries/s"] == 8
    for wrong in ([2000], [100, 5000]):
        with pytest.raises(DataError, match="write numbers below --count 2000"):
            search_speed.main(SearchBenchArguments(**(options | {"smaller": wrong})))


def results(tmp_path, **summary):
    setting = {"expansion": 256, "recall@10": 0.995, "queries/s": 1000.0, "p50 ms": 1.0}
    figures = {
        "prepare": {"dim": 384},
        "build ours i8": {"products": 10**6, "bytes on disk": {"graph": 5 * 10**8, "vectors": 8 * 10**8}},
        "search ours i8": {"products": 10**6, "bytes in memory": 6 * 10**8, "settings": [setting]},
        "end to end": {"int8 p50 ms": 8.0},
    }
    curve = {"curve, p50 ms": {"10000": 0.6, "1000000": 1.0}}
    (tmp_path / "results.json").write_text(json.dumps({"figures": figures, "summary": curve}))
    return str(tmp_path / "results.json")


def test_a_plan_has_as_many_machines_as_memory_and_queries_want(tmp_path):
    arguments = planning.SizeArguments(results=results(tmp_path), speed=10.0, changes=25.0, memory=100.0, share=0.5)
    measured = planning.read_measured(arguments)
    assert (measured.memory, measured.disk, measured.tower) == (600, 1300, 7.0)
    one = planning.plan(measured, 10**6, 10, arguments)
    assert (one["shards"], one["replicas"], one["machines"], one["ms a query"]) == (1, 2, 2, 8.0)
    assert one["device hours"] == pytest.approx(10**5 / 3600, abs=0.1) and one["devices"] == 2
    assert one["devices for changes"] == 3 and one["memory GB"] == pytest.approx(1.2)
    many = planning.plan(measured, 5 * 10**8, 10, arguments)
    assert many["shards"] == 6 and many["machines"] == 12  # 300 GB in parts of 50
    busy = planning.plan(measured, 10**6, 10_000, arguments)
    assert busy["replicas"] == 10  # 80 busy cores, 8 a machine
    assert "| 1,000,000 | 100.0 |" in planning.make_plans(arguments)
    embedded = {"embed, torch": 12.0, "embed, onnx": 30.04, "forward, onnx": 99.0}
    speeds = {name: {"products_per_second": speed} for name, speed in embedded.items()}
    (tmp_path / "embed.json").write_text(json.dumps({"figures": speeds}))
    unknown = replace(arguments, speed=None, embedding=str(tmp_path / "embed.json"))
    assert planning.read_measured(unknown).embedded == 30.0
    assert planning.read_measured(replace(unknown, embedding="nowhere.json")).embedded is None
    with pytest.raises(DataError, match="has no figures of b1"):
        planning.make_plans(replace(arguments, storage="b1"))
    with pytest.raises(DataError, match="write products:queries"):
        planning.make_plans(replace(arguments, plans="many"))
