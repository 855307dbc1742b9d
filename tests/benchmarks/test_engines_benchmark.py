"""The table of engines: what they find beside exact search, on products that are dropped afterwards."""

import json

import numpy as np
import pytest

pytest.importorskip("lance")

from training.benchmarks.engines import eight_bits, exact, generated, main, quantised
from training.benchmarks.options import EngineBenchArguments
from training.scale.engine import open_engine


def test_an_engine_is_loaded_measured_and_dropped(tmp_path, capsys):
    place, output = f"lance:{tmp_path}/shop.lance", tmp_path / "engines.json"
    gone = "postgresql://me:secret@127.0.0.1:1/shop#bench"
    report = main(EngineBenchArguments(300, 16, 5, [place, gone], str(output)))
    figures = json.loads(output.read_text())["figures"]
    assert figures == report["figures"] and list(figures) == ["our index", "lance", "postgresql"]
    for name in ("our index", "lance"):
        assert [figures[name][one]["recall"] for one in ("no filter", "1 in 5", "1 in 100")] == [1, 1, 1]
    assert figures["lance"]["products a second"] > 0 and "error" in figures["postgresql"]
    assert "secret" not in output.read_text() + capsys.readouterr().out
    with open_engine(place) as engine:
        assert engine.read_schema() is None


def test_products_that_are_there_stay(tmp_path):
    table, _, schema = generated(50, 16, 2)
    place = f"lance:{tmp_path}/shop.lance"
    with open_engine(place) as engine:
        engine.load([table], schema)
    report = main(EngineBenchArguments(60, 16, 2, [place], str(tmp_path / "engines.json")))
    assert "already" in report["figures"]["lance"]["error"]
    with open_engine(place) as engine:
        assert engine.count() == 50


def test_quantisation_is_measured_by_blocks(tmp_path):
    arguments = EngineBenchArguments(2000, 32, 20, ["lance:" + str(tmp_path / "x")], str(tmp_path / "engines.json"))
    found = quantised(arguments)
    for kinds in found.values():
        assert kinds["16 bits"]["alone"] == 1
        assert all(one["alone"] <= one["scored again"] <= 1 for one in kinds.values())
        assert kinds["1 bit"]["alone"] < kinds["8 bits"]["alone"]
    assert found["97 and 3%"]["1 bit"]["alone"] < found["two alike"]["1 bit"]["alone"]
    vectors = np.array([[0.5, -0.5], [0.25, 0.0]], dtype=np.float32)
    assert np.abs(eight_bits(vectors) - vectors).max() < 0.01


def test_exact_search_heeds_filters():
    table, queries, _ = generated(300, 16, 3)
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, 16)
    groups = dict(zip(table.column("_id").to_pylist(), table.column("group").to_pylist(), strict=True))
    assert all(len(found) == 10 for found in exact(vectors, table, queries, {}))
    for found in exact(vectors, table, queries, {"group": "g1"}):
        assert {groups[one] for one in found} == {"G1"}
