"""Vectors on their way to engines; embedded Milvus and Lance find exactly what comparing all vectors finds."""

import fcntl
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import drawn_catalogue

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_filters import parse_where, passes
from modeling_mmfusion.index_products import with_large_strings
from training.features.shards import vector_column, write_shard, write_vectors_manifest
from training.scale import engines
from training.scale.engines import LanceEngine, MilvusEngine, bulk_tables

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


def unit_vectors(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_vectors(target: Path, vectors: np.ndarray, products: pa.Table, shards: int = 2) -> Path:
    """A folder of vectors, as training.embed writes it."""
    table = products.append_column("hash", pa.array(["a"] * len(vectors)))
    table = table.append_column("vector", vector_column(vectors))
    rows = len(vectors) // shards
    facts = [write_shard(target, number, "key", table.slice(rows * number, rows), {}) for number in range(shards)]
    write_vectors_manifest(target, {"model": "m", "count": len(vectors), "dim": vectors.shape[1]}, facts)
    return target


@pytest.fixture
def folder(tmp_path):
    """400 products."""
    vectors, products = drawn_catalogue(400)
    columns = {"category": [["mugs", "lamps", None, 'a "b"'][number % 4] for number in range(400)]}
    columns["price"] = [f"{number / 10:.2f}" if number % 9 else "on request" for number in range(400)]
    columns["in_stock"] = [bool(number % 2) for number in range(400)]
    for name, values in columns.items():
        products = products.append_column(name, pa.array(values))
    return write_vectors(tmp_path / "vectors", vectors, products)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """5,000 products with all kinds of columns."""
    target = tmp_path_factory.mktemp("shop") / "vectors"
    return write_vectors(target, unit_vectors(COUNT, 0), pa.table(shop_columns()))


@pytest.fixture(scope="module")
def milvus(shop):
    """A database that a process of its own loaded; it printed one line, and nothing went wrong."""
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    command = [sys.executable, "-m", "training.scale.engines", "--vectors", str(shop), "--to", "milvus"]
    done = subprocess.run(command, capture_output=True, text=True)
    output = str(shop.parent / "milvus.db")
    assert done.returncode == 0 and done.stdout == f"milvus: 5,000 products in {output}\n"
    assert "Traceback" not in done.stderr and "ERROR" not in done.stderr
    return output


@pytest.fixture(scope="module")
def lance(shop):
    pytest.importorskip("lance")
    assert engines.main(engines.EngineArguments(str(shop), "lance")) == COUNT
    return str(shop.parent / "products.lance")


def brute_force(shop: Path, queries: np.ndarray, k: int, where: dict | None) -> list[list[tuple[str, float, dict]]]:
    """Ids, scores and products by comparing all vectors of the products that pass."""
    table = pa.concat_tables(bulk_tables(shop)).combine_chunks()
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(COUNT, DIM)
    products = with_large_strings(table.drop_columns("vector"))
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


def check_exact(engine: MilvusEngine | LanceEngine, shop: Path, where: dict | None) -> None:
    queries = unit_vectors(20, 1)
    found, expected = engine.search(queries, 10, where), brute_force(shop, queries, 10, where)
    for results, best in zip(found, expected, strict=True):
        assert [result.product_id for result in results] == [product_id for product_id, _, _ in best]
        assert [result.score for result in results] == pytest.approx([score for _, score, _ in best], abs=1e-5)
        assert [result.product for result in results] == [product for _, _, product in best]


def test_bulk_files_hold_vectors_and_products(folder, tmp_path):
    pytest.importorskip("lance")
    import lance

    for to in ("parquet", "lance"):
        arguments = engines.EngineArguments(str(folder), to, str(tmp_path / to))
        assert engines.main(arguments) == engines.main(arguments) == 400
    parquet = pq.read_table(tmp_path / "parquet")
    found = lance.dataset(str(tmp_path / "lance")).to_table()
    assert found.to_pylist() == parquet.to_pylist() and len(found) == 400
    row = parquet.slice(10, 1).to_pylist()[0]
    assert (
        row["_id"] == "sku-010"
        and row["price"] == 1.0
        and row["vector"] == pytest.approx(drawn_catalogue()[0][10], abs=1e-3)
    )
    assert parquet.column("price").null_count == 45, "prices that are no number"


def test_parquet_holds_columns_of_all_types(shop, tmp_path):
    arguments = engines.EngineArguments(str(shop), "parquet", str(tmp_path / "bulk"))
    assert engines.main(arguments) == COUNT
    found = pq.read_table(arguments.output).drop_columns("vector").to_pylist()
    assert found == pa.table(shop_columns()).to_pylist()


def test_shards_that_differ_in_their_columns_are_one_line(tmp_path):
    vectors = unit_vectors(2, 0)
    for name, sizes, message in (("whole", [1, 2], None), ("other", [1, "L"], "its shards differ in their columns")):
        tables = [pa.table({"_id": [f"{size}"], "size": [size], "hash": ["a"]}) for size in sizes]
        facts = [
            write_shard(tmp_path / name, number, "key", table.append_column("vector", vector_column(vectors[:1])), {})
            for number, table in enumerate(tables)
        ]
        write_vectors_manifest(tmp_path / name, {"model": "m", "count": 2, "dim": DIM}, facts)
        if message is None:
            assert len(pa.concat_tables(bulk_tables(tmp_path / name))) == 2
            continue
        with pytest.raises(DataError, match=message):
            engines.main(engines.EngineArguments(str(tmp_path / name), "parquet", str(tmp_path / "bulk")))


@pytest.mark.slow
def test_milvus_finds_the_same_products(folder, tmp_path):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    arguments = engines.EngineArguments(str(folder), "milvus", str(tmp_path / "new" / "shop.db"))
    for _ in range(2):  # the second replaces the first
        assert engines.main(arguments) == 400
    table = pa.concat_tables(engines.bulk_tables(folder)).combine_chunks()
    vectors = np.array(table.column("vector").to_pylist(), dtype=np.float32)
    index = ProductIndex.build(vectors, table.drop_columns("vector"))
    engine = engines.MilvusEngine(arguments.output)
    try:
        assert len(engine.client.list_collections()) == 1
        for where in (
            None,
            {"category": ["mugs", 'a "b"'], "price": (5, 30)},
            {"in_stock": True, "category": "LAMPS"},
        ):
            expected, found = index.search(vectors[:10], 5, where), engine.search(vectors[:10], 5, where)
            assert [[r.product_id for r in one] for one in found] == [[r.product_id for r in one] for one in expected]
            assert found[3][1].score == pytest.approx(expected[3][1].score, abs=1e-5)
            assert found[3][1].product == expected[3][1].product
        engine.remove(["sku-003", "unknown"])
        engine.upsert(table.slice(4, 1).set_column(1, "title", [["New title"]]))
        assert engine.search(vectors[3:4], 1)[0][0].product_id != "sku-003"
        assert engine.search(vectors[4:5], 1)[0][0].product["title"] == "New title"
    finally:
        engine.close()


@pytest.mark.slow
def test_milvus_is_exact_in_another_process_than_the_one_that_loaded(milvus, shop):
    with closing(MilvusEngine(milvus)) as engine:
        for where in FILTERS:
            check_exact(engine, shop, where)
        assert [len(results) for results in engine.search(unit_vectors(1, 1), 2 * COUNT)] == [COUNT]


def test_lance_is_exact(lance, shop):
    engine = LanceEngine(lance)
    for where in FILTERS:
        check_exact(engine, shop, where)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["milvus", "lance"])
def test_filters_find_what_the_index_finds(name, request, shop):
    engine = {"milvus": MilvusEngine, "lance": LanceEngine}[name](request.getfixturevalue(name))
    table = pa.concat_tables(bulk_tables(shop)).combine_chunks()
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().reshape(COUNT, DIM)
    index = ProductIndex.build(vectors, table.drop_columns("vector"))
    typed = [
        "category=home>KITCHEN|homeware",
        "brand=ÇELIK; price<300",
        "size=36-40; in_stock=yes",
        "pages=1|2",
        "used=TRUE",
    ]
    for where in [*map(parse_where, typed), *(where for where in FILTERS if where and None not in where.values())]:
        found, expected = (one.search(unit_vectors(3, 2), 10, where) for one in (engine, index))
        assert [[one.product_id for one in row] for row in found] == [
            [one.product_id for one in row] for row in expected
        ], where
    assert len(engine.search(unit_vectors(1, 1), COUNT, {"category": "Home"})[0]) == sum(
        (CATEGORIES[number % len(CATEGORIES)] or "").lower().split(">")[0].strip() == "home" for number in range(COUNT)
    )
    if name == "milvus":
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["milvus", "lance"])
def test_what_a_search_can_not_do_is_one_line(name, request):
    engine = {"milvus": MilvusEngine, "lance": LanceEngine}[name](request.getfixturevalue(name))
    queries = unit_vectors(2, 1)
    assert engine.search(queries[:0]) == []
    for k in (0, -1, 2.5, True, None):
        with pytest.raises(DataError, match="k is .*give a positive integer"):
            engine.search(queries, k)
    for wrong in (queries * np.nan, queries * np.inf, queries[0]):
        with pytest.raises(DataError, match="finite"):
            engine.search(wrong)
    with pytest.raises(DataError, match="queries have 8 dimensions, the vectors have 64"):
        engine.search(queries[:, :8])
    with pytest.raises(DataError, match="there is no column 'colour' to filter by; there are _id, brand,.*größe"):
        engine.search(queries, where={"colour": "red"})
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
            engine.search(queries, where=where)
    if name == "milvus":
        engine.close()


@pytest.mark.slow
def test_a_milvus_file_is_free_after_the_last_engine_of_a_process_is_closed(milvus):
    first, second = MilvusEngine(milvus), MilvusEngine(milvus)
    first.close()
    assert len(second.search(unit_vectors(1, 1))[0]) == 10
    with open(Path(milvus, "LOCK")) as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second.close()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(DataError, match="is it open in another process?"):
            MilvusEngine(milvus)


def small_table(**columns) -> pa.Table:
    """Three products."""
    ids = columns.pop("_id", ["a", "b", "c"])
    vectors = np.eye(3, 4, dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(columns.pop("vectors", vectors).ravel()), 4)
    return pa.table({"_id": ids, **columns, "vector": vectors})


BROKEN = np.eye(3, 4, dtype=np.float32)
BROKEN[1, 2] = np.nan


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (small_table(_id=["a", "b", "ü" * 300]), "product 'ü.*: its _id has more than the 512 bytes"),
        (small_table(_id=["a", None, "c"]), "need the column '_id', a value in each row"),
        (small_table(_id=[1, 2, 3]), "need strings as _id, not int64"),
        (small_table(vectors=BROKEN), "product 'b': its vector is not finite"),
        (small_table(many=pa.array([2**64 - 1, 0, 1], pa.uint64())), "column 'many' can't be stored as int64"),
        (small_table(tags=[["a"], ["b"], None]), "column 'tags' can't be stored as large_string"),
        (small_table(**{"x" * 101 + "-": [1, 2, 3]}), "its name has more than 100 bytes"),
    ],
)
def test_what_milvus_can_not_hold_is_refused_and_all_is_as_it_was(table, message, tmp_path):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    with closing(MilvusEngine(str(tmp_path / "shop.db"))) as engine:
        engine.load([small_table(brand=["x", "y", "z"])], 4)
        before = engine.client.list_collections()
        with pytest.raises(DataError, match=message):
            engine.load([small_table(brand=["x", "y", "z"]), table], 4)
        with pytest.raises(DataError):
            engine.upsert(table)
        assert engine.client.list_collections() == before
        assert [one.product["brand"] for one in engine.search(np.eye(1, 4), 1)[0]] == ["x"]


def test_a_load_that_is_refused_writes_nothing(tmp_path):
    pytest.importorskip("pymilvus")
    long = pa.table({"_id": ["a", "b" * 600], "title": ["A", "B"]})
    for name, products, message, options in (
        ("long", long, "its _id has more than", {}),
        ("name", long.slice(0, 1), "--collection 'bad name': give letters", {"collection": "bad name"}),
        ("where", long.slice(0, 1), "is neither an address", {"output": str(tmp_path / "shop.sqlite")}),
    ):
        vectors = write_vectors(tmp_path / name, unit_vectors(len(products), 0), products, shards=1)
        output = options.pop("output", str(tmp_path / "shop.db"))
        with pytest.raises(DataError, match=message):
            engines.main(engines.EngineArguments(str(vectors), "milvus", output, **options))
        assert not list(tmp_path.glob("shop*"))


def test_what_somebody_else_made_is_no_milvus_to_replace(tmp_path):
    pytest.importorskip("pymilvus")
    file, notes = tmp_path / "accounts.db", tmp_path / "folder.db" / "notes.txt"
    notes.parent.mkdir()
    for path in (file, notes):
        path.write_text("mine")
    for path in (file, notes.parent):
        with pytest.raises(DataError, match="is no database of milvus; give another --output"):
            MilvusEngine(str(path))
    assert file.read_text() == notes.read_text() == "mine" and list(notes.parent.iterdir()) == [notes]


@pytest.mark.slow
def test_collections_that_somebody_else_made_stay(tmp_path):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    uri, table = str(tmp_path / "shop.db"), small_table()
    with closing(MilvusEngine(uri)) as engine:
        for name in ("products", "accounts", "other_mmfusion_1"):
            engine.client.create_collection(name, 4)
        engine.client.create_alias("accounts", "people")
        before = engine.client.list_collections()
    for name in ("products", "people", "other"):
        with closing(MilvusEngine(uri, name)) as engine:
            with pytest.raises(DataError, match="was not loaded by training.scale.engines and is left as it is"):
                engine.load([table], 4)
            for change in (engine.upsert, lambda _: engine.remove(["a"]), lambda _: engine.search(np.eye(1, 4))):
                with pytest.raises(DataError, match="training.scale.engines"):
                    change(table)
            assert engine.client.list_collections() == before
    with closing(MilvusEngine(uri, "new")) as engine:
        assert engine.load([table], 4) == 3


def test_a_load_that_was_killed_is_cleared_away_by_the_next(tmp_path):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    table = small_table()
    with closing(MilvusEngine(str(tmp_path / "shop.db"))) as engine:
        engine.load([table], 4)
        fields = {"primary_field_name": "_id", "id_type": "string", "max_length": 512, "vector_field_name": "vector"}
        engine.client.create_collection("products_mmfusion_2", 4, **fields)
        assert len(engine.search(np.eye(1, 4))[0]) == 3
        assert engine.load([table.slice(1)], 4) == 2
        assert len(engine.search(np.eye(1, 4))[0]) == 2 and len(engine.client.list_collections()) == 1


def test_text_that_milvus_cuts_is_counted(tmp_path, capfd):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    products = pa.table({"_id": ["a", "b", "c"], "title": ["x" + "ü" * 40_000, "y", None], "text": ["z" * 70_000] * 3})
    vectors = write_vectors(tmp_path / "vectors", unit_vectors(3, 0), products, shards=1)
    arguments = engines.EngineArguments(str(vectors), "milvus", str(tmp_path / "shop.db"))
    assert engines.main(arguments) == 3
    out = capfd.readouterr().out
    assert "warning: 4 x text of more than 65,535 bytes (cut); first: product a, column title" in out
    with closing(MilvusEngine(arguments.output)) as engine:
        found = {one.product_id: one.product for one in engine.search(unit_vectors(1, 0), 3)[0]}
    assert found["a"]["title"] == "x" + "ü" * 32_767 and found["c"] == {"title": None, "text": "z" * 65_535}


def test_a_column_that_lance_does_not_take_is_one_line(tmp_path):
    pytest.importorskip("lance")
    for name in ("a.b", "a`b", "_rowid", "_distance"):
        with pytest.raises(DataError, match="Lance takes no such name; rename it"):
            engines.write_lance(iter([small_table(**{name: ["x", "y", "z"]})]), tmp_path / "lance")
        assert not (tmp_path / "lance").exists()
    with pytest.raises(DataError, match="is no Lance dataset; write one with training.scale.engines --to lance"):
        LanceEngine(str(tmp_path / "lance"))


def test_an_engine_that_is_not_there_is_one_line(folder):
    pytest.importorskip("pymilvus")
    with pytest.raises(DataError, match="nowhere.*milvus can't be reached"):
        engines.MilvusEngine("http://nowhere.invalid:19530")
