"""What every engine must do, as tests: [`EngineContract`], to be subclassed for each engine.

class TestMilvus(EngineContract):
    @pytest.fixture(scope="class")
    def address_of(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("milvus")
        return lambda name: f"milvus:{folder}/shop.db#{name}"

    def somebody_elses(self, address):
        ...  # make something of that name that is not ours
        return lambda: ...  # what there is of it now
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_filters import passes
from modeling_mmfusion.index_products import with_large_strings
from training.scale.engine import Engine, ProductSchema, conform, digests_of, open_engine, stored_columns, vectors_of

ROOT = Path(__file__).resolve().parents[2]
COUNT, DIM = 5000, 64
BRANDS = ["Çelik", "日本", 'a "quoted" one', "back\\slash", "it's", "new\nline\r\ttab", "plain", None]
FILTERS = (
    None,
    {"price": (0, 0.4)},  # 5 of 5,000 products
    {"price": (0, 4.9)},  # 50
    {"price": (None, 49.9)},  # 500
    *({"brand": brand} for brand in BRANDS if brand),
    {"brand": ["Çelik", "new\nline\r\ttab"], "in_stock": True},
    {"brand": None},
    {"brand": [None, "nobody's"]},
    {"brand": []},
    {"size": (36, 38.5)},  # of strings
    {"size": "36"},
    {"größe": "日本"},
    {"in": "it's"},
    {"pages": (-1.5, 2)},
    {"pages": -3},
    {"pages": (2**40, None)},
    {"weight": 0.1},
    {"weight": (1, 2)},
    {"weight": (None, None)},
    {"used": True},  # strings
    {"in_stock": (1, None)},
    {"_id": ["sku-00007", "sku-00008"]},
    {"column_1": 'says "ç"'},
    {"column_1": ' SAYS  "Ç" '},
    {"brand": ["ÇELIK", "IT'S"]},
    {"used": [True, "NO"]},
    {"used": "false"},
    {"_id": "SKU-00009"},
    {"size": "36-40"},  # no such text, so a range of numbers
    {"size": ["xl", "36-40"]},
    {"pages": ["1", 2, 2.5, "5-9"]},
    {"in stock": [300, -1, 7]},
    {"weight": ["1-2", "4.5"]},
    {"in_stock": "yes"},
    {"brand": float("nan")},
    {"category": "home"},
    {"category": "HOME>Kitchen"},
    {"category": ["Home > Kitchen > Mugs", "Home_x"]},
    {"category": "100%"},
    {"category": 'a "b"\\c'},
    {"category": "Home > Kit"},
    {"category": "ｈｏｍｅ　>　kitchen"},
)
CATEGORIES = ["Home", "home > Kitchen", "Home  >  KITCHEN > Mugs", "Homeware > Kitchen", "home_x", "homeax > y", None]
CATEGORIES += ["100% > Wool", "100a > Wool", 'A "B"\\C > D', "Home > Kitsch", "Home >Kitchen", "Home > !"]
IDS = [
    "日本",
    "it's",
    'a "quoted" one',
    "a/b/../c",
    "a\\b",
    " lead",
    "trail ",
    "two  spaces",
    "A",
    "a",
    "é",
    "e\u0301",
]
IDS += [
    "ü" * 256,
    "x" * 512,
    "100%",
    "a'; drop table products; --",
    "new\nline",
    "#",
    "?x=1&y",
    "🙂",
    "0",
    "null",
    "_id",
]
NAMES = ["Größe", "in", "select", "in stock", "a.b", "a`b", 'a"b', "it's", "_rowid", "_distance", "_seq", "column_1"]
NAMES += ["vector_", "id", "_source", "x" * 60, "x" * 300, "日本", "a\\b", "a/b", "A", "payload", "name", " a", "%s"]
NAMES += ["$id", "_score", "ctid", "digest", "a__number", "a__plain"]


def shop_columns() -> dict[str, pa.Array]:
    """Columns of all types that training.embed keeps, some of names that are no identifiers."""
    numbers = range(COUNT)
    return {
        "_id": pa.array([f"sku-{number:05d}" for number in numbers]),
        "brand": pa.array([BRANDS[number % 8] for number in numbers], pa.large_string()),
        "price": pa.array([number / 10 for number in numbers]),
        "in_stock": pa.array([bool(number % 3) for number in numbers]),
        "size": pa.array([["36", " 38.5", "XL", "44", None][number % 5] for number in numbers]),
        "größe": pa.array([BRANDS[number % 7] for number in numbers]),
        "in": pa.array([BRANDS[number % 8] for number in numbers]),
        "in stock": pa.array([number % 200 for number in numbers], pa.uint8()),
        "pages": pa.array([None if number % 11 == 0 else number % 7 - 3 for number in numbers], pa.int32()),
        "weight": pa.array([None if number % 9 == 0 else number % 50 / 10 for number in numbers], pa.float32()),
        "used": pa.array([["true", "False", "TRUE", "no", None][number % 5] for number in numbers]),
        "column_1": pa.array([['says "ç"', '{"a": [1]}'][number % 2] for number in numbers]),
        "category": pa.array([CATEGORIES[number % len(CATEGORIES)] for number in numbers]),
        "nothing": pa.nulls(COUNT, pa.string()),
    }


def unit_vectors(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    """Random unit vectors `(rows, dim)`."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def with_vectors(columns: dict[str, Any], vectors: np.ndarray) -> pa.Table:
    """Products as [`bulk_tables`] gives them."""
    flat = pa.array(np.asarray(vectors, dtype=np.float32).ravel())
    return pa.table({**columns, "vector": pa.FixedSizeListArray.from_arrays(flat, np.shape(vectors)[1])})


def shop_table() -> pa.Table:
    """5,000 products with all kinds of columns."""
    return with_vectors(shop_columns(), unit_vectors(COUNT, 0))


def small_table(**columns) -> pa.Table:
    """Three products `a`, `b` and `c`, whose vectors are the first three axes of four."""
    ids = columns.pop("_id", ["a", "b", "c"])
    vectors = columns.pop("vectors", np.eye(len(ids), 4))
    return with_vectors({"_id": ids, **columns}, vectors)


WORDS = "red blue green mug lamp shirt cotton steel oak table XJ-900 café 500ml small large box".split()
TEXTS = ["red mug", "Red MUGS mugs", "xj-900", "café 500 ml lamp", "unknown", "", "acme steel oak table small box"]


def worded(count: int) -> pa.Table:
    """Products with drawn titles, some of them without a word."""
    drawn = np.random.default_rng(5)
    titles = [" ".join(drawn.choice(WORDS, drawn.integers(0, 7))) or None for _ in range(count)]
    brands = [["Acme Mugs", "Çelik", None][number % 3] for number in range(count)]
    columns = {"_id": [f"p{number:03d}" for number in range(count)], "title": titles, "brand": brands}
    columns["price"] = [float(number) for number in range(count)]
    return with_vectors(columns, unit_vectors(count, 2, 16))


def schema_of(table: pa.Table) -> ProductSchema:
    """The schema of a table, of a model and with blocks."""
    dim = table.schema.field("vector").type.list_size
    return ProductSchema(dim, stored_columns(table.schema), "fingerprint", {"text": dim - 1, "image": 1})


def digests_by_id(table: pa.Table) -> dict[str, int]:
    """What [`Engine.digests`] must say of products that were stored."""
    table = conform(table, stored_columns(table.schema))
    return dict(zip(table.column("_id").to_pylist(), digests_of(table).to_pylist(), strict=True))


def brute_force(table: pa.Table, queries: np.ndarray, k: int, where: dict | None) -> list[list[tuple]]:
    """Ids, scores and products by comparing all vectors of the products that pass."""
    table = table.combine_chunks()
    vectors, products = vectors_of(table), with_large_strings(table.drop_columns("vector"))
    wanted = {name: value for name, value in (where or {}).items() if value is not None}
    wanted = {
        name: [one for one in value if one is not None] if isinstance(value, list) else value
        for name, value in wanted.items()
    }
    passing = np.flatnonzero(passes(products, wanted))
    passing = passing[:0] if where and None in where.values() else passing
    scores = queries @ vectors[passing].T
    best = [passing[np.argsort(-row, kind="stable")[:k]] for row in scores]
    ids = products.column("_id").to_pylist()
    rows = [products.take(pa.array(one, pa.int64())).drop_columns("_id").to_pylist() for one in best]
    return [
        list(zip([ids[row] for row in one], query @ vectors[one].T, shown, strict=True))
        for query, one, shown in zip(queries, best, rows, strict=True)
    ]


def found_ids(engine: Engine, query: np.ndarray, k: int = 10, where: dict | None = None) -> list[str]:
    """Ids of what one query finds."""
    return [one.product_id for one in engine.search(np.asarray(query, dtype=np.float32)[None], k, where)[0]]


def in_process(code: str, address: str) -> str:
    """What a process of its own prints that has `engine` open."""
    start = f"import json, os, sys; from training.scale.engine import *; engine = open_engine({address!r})\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "scale")])}
    command = [sys.executable, "-c", start + code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.stdout


def state_of(engine: Engine) -> tuple:
    """All that a collection holds, for comparison."""
    found = engine.search(np.eye(1, engine.dim, dtype=np.float32), 100)[0]
    shown = sorted((one.product_id, json.dumps(one.product, sort_keys=True)) for one in found)
    return engine.count(), engine.digests(), engine.read_schema(), engine.read_note("place"), shown


BROKEN = np.eye(3, 4, dtype=np.float32)
BROKEN[1, 2] = np.nan
REFUSED = [
    (small_table(_id=["a", "b", "ü" * 257], brand=["x", "y", "z"]), "product 'ü.*: its _id has more than the"),
    (small_table(_id=["a", None, "c"], brand=["x", "y", "z"]), "need the column '_id', a value in each row"),
    (small_table(_id=[1, 2, 3], brand=["x", "y", "z"]), "need strings as _id, not int64"),
    (small_table(brand=["x", "y", "z"]).drop_columns("vector"), "need the column 'vector'"),
    (small_table(brand=["x", "y", "z"], vectors=BROKEN), "product 'b': its vector is not finite"),
    (small_table(brand=[["a"], ["b"], None]), "column 'brand' can't be stored as large_string"),
    (small_table(pages=pa.array([2**64 - 1, 0, 1], pa.uint64())), "column 'pages' can't be stored as int64"),
    (small_table(colour=["x", "y", "z"]), "there is no column 'colour'"),
    (small_table(brand=["x", "y", "z"], vectors=np.eye(3, 5)), "dim|vector|width"),
]


class EngineContract:
    """Tests of one engine. A collection's address is new in each test; the places where they lie are the class's."""

    least_recall = 1.0  # of the ten best; engines that search approximately may find less, but what they find is right
    tolerance = 1e-5  # of scores
    rounding = 0.0  # of vectors' numbers

    @pytest.fixture(scope="class")
    def address_of(self, tmp_path_factory) -> Callable[[str], str]:
        """A function that gives the address of a collection by its name: letters, digits and underscores."""
        raise NotImplementedError

    def somebody_elses(self, address: str) -> Callable[[], Any]:
        """Makes something at an address that is not ours, and returns a function that tells what is in it."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    def numbers(self) -> Iterator[int]:
        return count(1)

    @pytest.fixture
    def address(self, address_of, numbers) -> str:
        return address_of(f"products_{next(numbers)}")

    @pytest.fixture
    def engine(self, address) -> Iterator[Engine]:
        """An engine without a collection."""
        with open_engine(address) as engine:
            yield engine

    @pytest.fixture
    def loaded(self, engine) -> Engine:
        """An engine with three products and a note."""
        table = small_table(brand=["x", "y", None], pages=[1, 2, 3])
        assert engine.load([table.slice(0, 2), table.slice(2)], schema_of(table)) == 3
        engine.write_note("place", "before")
        return engine

    @pytest.fixture(scope="class")
    def shop(self, address_of) -> Iterator[Engine]:
        """An engine with 5,000 products, which a process of its own loaded."""
        code = "from engine_contract import *; table = shop_table(); half = table.slice(0, 2500), table.slice(2500)\n"
        code += "print(engine.load(iter(half), schema_of(table))); engine.close()"
        assert in_process(code, address_of("shop")).strip() == "5000"
        with open_engine(address_of("shop")) as engine:
            yield engine

    def test_nothing_is_there_at_first(self, engine):
        assert engine.read_schema() is None
        table = small_table()
        uses = [lambda: engine.upsert(table), lambda: engine.search(np.eye(1, 4))]
        uses += [lambda ids=ids: engine.read(ids) for ids in ([], ["a"])]
        for use in (engine.count, engine.digests, *uses):
            with pytest.raises(DataError, match="there is no collection") as error:
                use()
            assert "\n" not in str(error.value)
        engine.drop()

    def test_a_collection_that_is_made_is_empty_and_fills(self, engine):
        table = small_table(brand=["x", "y", None])
        engine.create(schema_of(table))
        assert engine.count() == 0 and engine.digests() == {} and engine.search(np.eye(1, 4)) == [[]]
        assert engine.read_schema() == schema_of(table)
        with pytest.raises(DataError, match="there is a collection .* already; drop it first"):
            engine.create(schema_of(table))
        engine.upsert(table)
        assert engine.count() == 3 and found_ids(engine, np.eye(4)[1], 1) == ["b"]

    def test_a_load_replaces_all_and_other_columns_may_come(self, loaded):
        table = small_table(_id=["b", "n"], title=["B", "N"], price=[1.5, None])
        assert loaded.load(iter([table]), schema_of(table)) == 2
        assert loaded.count() == 2 and loaded.read_schema() == schema_of(table)
        assert (loaded.dim, loaded.model, loaded.blocks) == (4, "fingerprint", {"text": 3, "image": 1})
        assert list(loaded.blocks) == ["text", "image"]
        found = loaded.search(np.eye(1, 4), 10)[0]
        assert [(one.product_id, one.product) for one in found] == [
            ("b", {"title": "B", "price": 1.5}),
            ("n", {"title": "N", "price": None}),
        ]
        assert loaded.digests() == digests_by_id(table)
        assert loaded.read_note("place") is None, "notes of the older collection are gone"

    def test_vectors_of_another_width_may_replace_those_that_are_there(self, loaded):
        table = small_table(vectors=np.eye(3, 7))
        loaded.load([table], schema_of(table))
        assert loaded.dim == 7 and found_ids(loaded, np.eye(7)[2], 1) == ["c"]

    @pytest.mark.parametrize(("table", "message"), REFUSED, ids=[message[-25:] for _, message in REFUSED])
    def test_after_a_refusal_all_is_as_it_was(self, table, message, loaded):
        before, good = state_of(loaded), small_table(brand=["x", "y", "z"], pages=[1, 2, 3])
        with pytest.raises(DataError, match=message) as error:
            loaded.load([good, table], schema_of(good))
        assert "\n" not in str(error.value)
        assert state_of(loaded) == before
        with pytest.raises(DataError, match=message):
            loaded.upsert(table)
        assert state_of(loaded) == before

    def test_nothing_to_load_and_tables_that_fail_leave_all_as_it_was(self, loaded):
        before, good = state_of(loaded), small_table(brand=["x", "y", "z"], pages=[1, 2, 3])

        def tables() -> Iterator[pa.Table]:
            yield good
            raise DataError("shard 2 is damaged; run training.embed again")

        with pytest.raises(DataError, match="nothing|no products"):
            loaded.load([], schema_of(good))
        with pytest.raises(DataError, match="^shard 2 is damaged; run training.embed again$"):
            loaded.load(tables(), schema_of(good))
        assert state_of(loaded) == before

    def test_a_load_that_was_killed_changes_nothing_and_the_next_one_works(self, address):
        table = small_table(brand=["x", "y", "z"])
        with open_engine(address) as engine:
            engine.load([table], schema_of(table))
            engine.write_note("place", "before")
            before = state_of(engine)
        code = "from engine_contract import *\n"
        code += "def tables():\n  yield small_table(brand=['1', '2', '3'])\n  os.kill(os.getpid(), 9)\n"
        code += "engine.load(tables(), schema_of(small_table(brand=['x', 'y', 'z'])))"
        assert in_process(code, address) == ""
        with open_engine(address) as engine:
            assert state_of(engine) == before
            assert engine.load([table.slice(1)], schema_of(table)) == engine.count() == 2

    def test_a_first_load_that_was_killed_is_cleared_away_by_the_next(self, address):
        code = "from engine_contract import *\n"
        code += "def tables():\n  yield small_table()\n  os.kill(os.getpid(), 9)\n"
        code += "engine.load(tables(), schema_of(small_table()))"
        assert in_process(code, address) == ""
        with open_engine(address) as engine:
            assert engine.read_schema() is None
            assert engine.load([small_table()], schema_of(small_table())) == engine.count() == 3

    def test_upserted_products_are_new_or_take_the_place_of_older_ones(self, loaded):
        changed = small_table(_id=["b", "new"], pages=[20, 30], vectors=np.eye(4)[2:])  # no brand
        loaded.upsert(changed)
        assert loaded.count() == 4
        found = {one.product_id: one.product for one in loaded.search(np.eye(1, 4), 10)[0]}
        assert found["b"] == {"brand": None, "pages": 20} and found["a"] == {"brand": "x", "pages": 1}
        assert found_ids(loaded, np.eye(4)[3], 1) == ["new"] and found_ids(loaded, np.eye(4)[1], 4)[0] != "b"
        assert loaded.digests()["b"] == digests_by_id(changed)["b"] and loaded.read_note("place") == "before"
        loaded.upsert(changed)
        loaded.upsert(changed.slice(0, 0))
        assert loaded.count() == 4 == len(loaded.digests())

    def test_an_id_that_comes_twice_is_no_two_products(self, loaded):
        twice = small_table(_id=["b", "b"], brand=["1", "2"])
        try:
            loaded.upsert(twice)
        except DataError as error:
            assert "\n" not in str(error)
        assert loaded.count() == 3 == len(loaded.search(np.eye(1, 4), 10)[0])

    def test_deleted_products_are_gone_and_unknown_ids_are_no_error(self, loaded):
        loaded.delete(["b", "unknown", "日本", "it's", "", "x" * 2000])
        assert loaded.count() == 2 and sorted(loaded.digests()) == ["a", "c"]
        assert "b" not in found_ids(loaded, np.eye(4)[1])
        loaded.delete([])
        loaded.delete(["b"])
        assert loaded.count() == 2 and loaded.read_note("place") == "before"

    def test_digests_are_those_of_what_was_stored(self, shop):
        digests = shop.digests()
        assert digests == digests_by_id(shop_table()) and len(digests) == COUNT == shop.count()
        assert min(digests.values()) < -(2**62) and max(digests.values()) > 2**62

    def test_products_are_read_as_they_were_stored(self, shop):
        wanted = [f"sku-{number:05d}" for number in range(10_000)]  # half of which there are
        table = shop.read(wanted)
        assert table.schema.names == [*shop.schema.columns, "vector"]
        assert {name: table.schema.field(name).type for name in shop.schema.columns} == shop.schema.columns
        assert table.schema.field("vector").type == pa.list_(pa.float32(), DIM)
        stored = conform(shop_table(), shop.schema.columns)
        table, columns = table.sort_by("_id"), [*shop.schema.columns]
        assert table.select(columns).equals(stored.select(columns))
        np.testing.assert_allclose(vectors_of(table), vectors_of(stored), atol=self.rounding, rtol=0)

    def test_ids_that_are_read_may_be_any_text(self, engine):
        table = with_vectors({"_id": IDS, "place": range(len(IDS))}, unit_vectors(len(IDS), 3))
        engine.load([table], schema_of(table))
        for place, one in enumerate(IDS):
            assert engine.read([one]).select(["_id", "place"]).to_pylist() == [{"_id": one, "place": place}]
        assert sorted(engine.read(IDS).column("_id").to_pylist()) == sorted(IDS)

    def test_unknown_ids_are_not_read_and_none_is_read_twice(self, loaded):
        unknown = ["unknown", "A", "a ", "", "x" * 2000, "a\0", "\ud800", "a') or ('1' = '1", '"] or _id != ["']
        assert sorted(loaded.read([*unknown, "c", "a", "c"]).column("_id").to_pylist()) == ["a", "c"]
        loaded.delete(["c"])
        loaded.upsert(small_table(_id=["a", "new"], pages=[10, 20]))
        rows = loaded.read(["a", "c", "new"]).select(["_id", "brand", "pages"]).sort_by("_id").to_pylist()
        assert rows == [{"_id": "a", "brand": None, "pages": 10}, {"_id": "new", "brand": None, "pages": 20}]
        for ids in ([], ["unknown"]):
            empty = loaded.read(ids)
            assert len(empty) == 0 and empty.schema == loaded.read(["a"]).schema

    def test_what_is_read_and_upserted_changes_nothing_else(self, engine):
        vectors = unit_vectors(300, 5).astype(np.float16)  # as shards hold them
        table = with_vectors({name: column[:300] for name, column in shop_columns().items()}, vectors)
        engine.load([table], schema_of(table))
        ids, before = table.column("_id").to_pylist(), engine.digests()
        found = engine.read(ids)
        assert digests_by_id(found) == before
        engine.upsert(found)
        assert engine.digests() == before
        place = found.column_names.index("price")
        changed = found.set_column(place, "price", pa.array([1.25] * 300))
        engine.upsert(changed.slice(0, 10))
        some = changed.slice(0, 10).sort_by("_id")
        assert engine.read(some.column("_id").to_pylist()).sort_by("_id").equals(some)
        assert engine.digests() == before | digests_by_id(some)

    def test_a_collection_that_was_replaced_is_read_with_its_own_columns(self, loaded):
        for _ in range(7):  # drivers keep what they ask often
            assert len(loaded.read(["a", "b"])) == 2
        table = small_table(_id=["a"], brand=[True], pages=["many"], vectors=np.eye(1, 7))
        loaded.load([table], schema_of(table))
        found = loaded.read(["a", "b"]).to_pylist()
        assert found == [{"_id": "a", "brand": True, "pages": "many", "vector": [1, 0, 0, 0, 0, 0, 0]}]

    def test_notes_survive_and_are_replaced(self, loaded, address):
        assert loaded.read_note("unknown") is None
        text = json.dumps({"it's": ['"', "\\", "日本", "\n"]}) + "x" * 8000
        for name, written in (("place", "one"), ("place", text), ("it's", ""), ("other", "three")):
            loaded.write_note(name, written)
        loaded.upsert(small_table(_id=["new"]))
        loaded.delete(["a"])
        loaded.close()
        with open_engine(address) as engine:
            assert [engine.read_note(name) for name in ("place", "it's", "other")] == [text, "", "three"]
            assert engine.count() == 3 == len(engine.search(np.eye(1, 4), 10)[0])
            engine.drop()
            engine.create(schema_of(small_table()))
            assert engine.read_note("place") is None

    @pytest.mark.slow
    def test_filters_find_what_comparing_all_vectors_finds(self, shop):
        table, queries = shop_table(), unit_vectors(20, 1)
        for where in FILTERS:
            found, expected = shop.search(queries, 10, where), brute_force(table, queries, 10, where)
            hits = total = 0
            for results, best in zip(found, expected, strict=True):
                assert len(results) == len(best), where
                ids = [result.product_id for result in results]
                assert len(set(ids)) == len(ids)
                hits, total = hits + len(set(ids) & {one for one, _, _ in best}), total + len(best)
                if ids == [one for one, _, _ in best]:
                    scores = [score for _, score, _ in best]
                    assert [result.score for result in results] == pytest.approx(scores, abs=self.tolerance)
                    assert [result.product for result in results] == [product for _, _, product in best]
                else:
                    assert self.least_recall < 1, where
            assert hits >= self.least_recall * total, where

    def test_all_products_are_found_where_more_are_wanted(self, shop, loaded):
        assert len(found_ids(loaded, np.eye(4)[0], 50)) == len(found_ids(loaded, np.eye(4)[0], 1_000_000)) == 3
        assert len(found_ids(shop, unit_vectors(1, 1)[0], 2 * COUNT)) >= self.least_recall * COUNT
        passing = sum(number % 3 > 0 for number in range(COUNT))
        found = found_ids(shop, unit_vectors(1, 1)[0], COUNT, {"in_stock": True})
        assert self.least_recall * passing <= len(found) <= passing

    def test_a_product_of_which_nothing_is_known_is_stored(self, loaded):
        loaded.upsert(small_table(_id=["zeros"], vectors=np.zeros((1, 4))))
        found = {one.product_id: one.score for one in loaded.search(np.eye(1, 4), 10)[0]}
        assert found.keys() == {"a", "b", "c", "zeros"} and found["zeros"] == pytest.approx(0, abs=self.tolerance)

    def test_ids_may_be_any_text(self, engine):
        vectors = unit_vectors(len(IDS), 3)
        table = with_vectors({"_id": IDS, "place": range(len(IDS))}, vectors)
        engine.load([table], schema_of(table))
        assert engine.digests() == digests_by_id(table) and engine.count() == len(IDS)
        assert [found_ids(engine, vector, 1)[0] for vector in vectors] == IDS
        for place, one in enumerate(IDS):
            assert one in found_ids(engine, vectors[place], 10, {"_id": one})
        changed = table.set_column(1, "place", pa.array(range(100, 100 + len(IDS))))
        engine.upsert(changed)
        assert engine.digests() == digests_by_id(changed)
        for left, one in enumerate(IDS, start=1):
            engine.delete([one])
            assert engine.count() == len(IDS) - left

    @pytest.mark.parametrize("name", NAMES)
    def test_a_columns_name_is_stored_as_it_is_or_refused_before_anything_is_written(self, name, engine):
        table = small_table(**{name: ["x", "Y y", None]})
        try:
            engine.check(schema_of(table))
        except DataError as error:
            assert "\n" not in str(error) and engine.read_schema() is None
            return
        engine.load([table], schema_of(table))
        assert engine.read_schema() == schema_of(table)
        assert [one.product for one in engine.search(np.eye(4)[:1], 1)[0]] == [{name: "x"}]
        assert found_ids(engine, np.eye(4)[0], 10, {name: "y  Y"}) == ["b"]
        assert engine.digests() == digests_by_id(table) == digests_by_id(engine.read(["a", "b", "c"]))

    def test_what_a_search_can_not_do_is_one_line(self, shop):
        queries = unit_vectors(2, 1)
        assert shop.search(queries[:0]) == []
        for k in (0, -1, 2.5, True, None):
            with pytest.raises(DataError, match="k is .*give a positive integer"):
                shop.search(queries, k)
        for wrong in (queries * np.nan, queries * np.inf, queries[0]):
            with pytest.raises(DataError, match="finite"):
                shop.search(wrong)
        with pytest.raises(DataError, match="queries have 8 dimensions, the vectors have 64"):
            shop.search(queries[:, :8])
        with pytest.raises(DataError, match="there is no column 'colour' to filter by; there are _id, brand,.*größe"):
            shop.search(queries, where={"colour": "red"})
        for where in (
            {"price": "cheap"},
            {"price": True},
            {"price": (1, 2, 3)},
            {"price": ("low", None)},
            {"price": (float("nan"), 2)},
            {"in_stock": "perhaps"},
            {"pages": ["1", "many"]},
        ):
            with pytest.raises(DataError, match="can't filter column .*, which holds"):
                shop.search(queries, where=where)

    def test_texts_are_searched_too_or_refused(self, engine):
        table = small_table(title=["red mug", "blue lamp", "green shirt XJ-900"], vectors=np.eye(1, 4).repeat(3, 0))
        engine.load([table], schema_of(table))
        query = np.eye(1, 4, dtype=np.float32)
        if not engine.hybrid:
            with pytest.raises(DataError, match="there is no hybrid search here"):
                engine.search(query, texts=["xj-900"])
            return
        with pytest.raises(DataError, match="texts must be a list of one string for each of the 1 queries"):
            engine.search(query, texts=["one", "two"])
        for text, best in (("xj-900", "c"), ("lamp", "b"), ("red mug", "a")):
            assert engine.search(query, texts=[text])[0][0].product_id == best
        for text in ("", "   ", "日本", "'\"\\ ( ) AND : * ~ !", "unknown words"):
            assert len(engine.search(query, texts=[text])[0]) == 3

    @pytest.mark.parametrize("where", [None, {"price": (40, 120)}, {"brand": "çelik"}, {"brand": "nobody's"}])
    def test_hybrid_search_is_that_of_our_index(self, engine, where):
        if not engine.hybrid:
            pytest.skip("this engine has no hybrid search")
        table, blocks = worded(300), {"text": 10, "image": 6}
        vectors, queries = unit_vectors(300, 2, 16), unit_vectors(len(TEXTS), 3, 16)
        vectors = vectors.astype(np.float16) if self.rounding else vectors
        ours = ProductIndex.build(vectors, table.drop_columns("vector"), blocks=blocks, words=True)
        engine.load([table], ProductSchema(16, schema_of(table).columns, "m", blocks))
        found, tolerance = engine.search(3 * queries, 12, where, TEXTS), max(3 * self.tolerance, 1e-5)
        for results, expected in zip(found, ours.search(3 * queries, 60, where, TEXTS), strict=True):
            best, by_id = expected[:12], {one.product_id: one for one in expected}
            assert [one.score for one in results] == pytest.approx([one.score for one in best], abs=tolerance)
            for one in results:
                assert one.score == pytest.approx(by_id[one.product_id].score, abs=tolerance)
                assert one.product == by_id[one.product_id].product
            if not self.rounding:
                assert [one.product_id for one in results] == [one.product_id for one in best]

    def test_words_follow_changes(self, engine):
        if not engine.hybrid:
            pytest.skip("this engine has no hybrid search")
        table = small_table(title=["red mug", "blue lamp", "green shirt"], vectors=np.eye(1, 4).repeat(3, 0))
        engine.load([table], schema_of(table))
        changed = small_table(title=["red mug", "zebra", "green shirt"], vectors=np.eye(1, 4).repeat(3, 0))
        engine.upsert(changed.slice(1, 1))
        query = np.eye(1, 4, dtype=np.float32)
        assert engine.search(query, 1, texts=["zebras"])[0][0].product_id == "b"
        before = engine.search(query, 3, texts=["lamp"])[0]
        assert max(one.score for one in before) == pytest.approx(1, abs=1e-3)
        engine.delete(["b"])
        assert {one.product_id for one in engine.search(query, 3, texts=["zebra"])[0]} == {"a", "c"}

    def test_what_is_somebody_elses_stays_as_it_is(self, address):
        theirs = self.somebody_elses(address)
        before, table = theirs(), small_table()
        with pytest.raises(DataError) as error, open_engine(address) as engine:
            engine.load([table], schema_of(table))
        assert "\n" not in str(error.value)
        for change in (
            lambda engine: engine.create(schema_of(table)),
            lambda engine: engine.upsert(table),
            lambda engine: engine.delete(["a"]),
            lambda engine: engine.write_note("place", "x"),
            lambda engine: engine.search(np.eye(1, 4)),
            lambda engine: engine.drop(),
            lambda engine: engine.read_schema(),
            lambda engine: engine.read(["a"]),
        ):
            with pytest.raises(DataError), open_engine(address) as engine:
                change(engine)
            assert theirs() == before

    def test_a_dropped_collection_is_gone_and_others_stay(self, loaded, address_of, numbers):
        with open_engine(address_of(f"other_{next(numbers)}")) as other:
            other.load([small_table()], schema_of(small_table()))
            loaded.drop()
            assert loaded.read_schema() is None and other.count() == 3
            loaded.drop()
            loaded.load([small_table()], schema_of(small_table()))
            assert loaded.count() == 3 and loaded.read_note("place") is None
            other.drop()

    def test_an_engine_that_is_open_sees_what_another_changes(self, loaded, address):
        with open_engine(address) as reader:
            assert found_ids(reader, np.eye(4)[1], 1) == ["b"]
            loaded.delete(["b"])
            assert "b" not in found_ids(reader, np.eye(4)[1], 3)
            table = small_table(_id=["n"], title=["new"])
            loaded.load([table], schema_of(table))
            assert [one.product for one in reader.search(np.eye(1, 4))[0]] == [{"title": "new"}]
            assert reader.count() == 1 and reader.digests() == digests_by_id(table)

    def test_another_process_finds_the_same(self, loaded, address):
        before = json.loads(
            json.dumps([loaded.count(), loaded.digests(), loaded.schema.dumps(), found_ids(loaded, np.eye(4)[2])])
        )
        loaded.close()
        code = "from engine_contract import *\n"
        code += "found = found_ids(engine, np.eye(4)[2])\n"
        code += "print(json.dumps([engine.count(), engine.digests(), engine.schema.dumps(), found])); engine.close()"
        assert json.loads(in_process(code, address)) == before

    def test_messages_are_one_line_and_name_the_place(self, engine, address):
        with pytest.raises(DataError) as error:
            engine.search(np.eye(1, 4))
        assert "\n" not in str(error.value) and re.search(r"load it with training\.scale\.engines", str(error.value))
