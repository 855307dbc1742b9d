"""Vectors on their way to engines; embedded Milvus and Lance find exactly what comparing all vectors finds."""

import fcntl
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from engine_contract import (
    COUNT,
    DIM,
    EngineContract,
    digests_by_id,
    found_ids,
    schema_of,
    shop_columns,
    small_table,
    unit_vectors,
)
from helpers import drawn_catalogue

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import ProductIndex
from modeling_mmfusion.index_filters import parse_where
from training.features.shards import vector_column, write_shard, write_vectors_manifest
from training.scale import engines
from training.scale.engine import open_engine, shown, stored_products, vectors_of
from training.scale.engines import bulk_tables


@pytest.fixture
def milvus_is_there():
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")


class TestLance(EngineContract):
    @pytest.fixture(scope="class")
    def address_of(self, tmp_path_factory):
        pytest.importorskip("lance")
        folder = tmp_path_factory.mktemp("lance")
        return lambda name: f"lance:{folder}/{name}.lance"

    def somebody_elses(self, address):
        import lance

        folder = Path(address.removeprefix("lance:"))
        lance.write_dataset(pa.table({"a": [1]}), str(folder))
        return lambda: contents(folder)


class TestMilvus(EngineContract):
    @pytest.fixture(scope="class")
    def address_of(self, tmp_path_factory):
        pytest.importorskip("pymilvus")
        pytest.importorskip("milvus_lite")
        folder = tmp_path_factory.mktemp("milvus")
        return lambda name: f"milvus:{folder}/{name}.db"

    def somebody_elses(self, address):
        with open_engine(f"{address}#other") as engine:
            engine.client.create_collection("products", 4)
        return lambda: collections(address)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def collections(address: str) -> list[str]:
    """The names of all collections of a Milvus."""
    with open_engine(f"{address}#other") as engine:
        return sorted(engine.client.list_collections())


def write_vectors(target: Path, vectors: np.ndarray, products: pa.Table, shards: int = 2, model: str = "m") -> Path:
    """A folder of vectors, as training.embed writes it."""
    table = products.append_column("hash", pa.array(["a"] * len(vectors)))
    table = table.append_column("vector", vector_column(vectors))
    rows = len(vectors) // shards
    facts = [write_shard(target, number, "key", table.slice(rows * number, rows), {}) for number in range(shards)]
    write_vectors_manifest(target, {"model": model, "count": len(vectors), "dim": vectors.shape[1]}, facts)
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


def test_bulk_files_hold_vectors_and_products(folder, tmp_path):
    arguments = engines.EngineArguments(str(folder), f"parquet:{tmp_path}/bulk")
    assert engines.main(arguments) == engines.main(arguments) == 400
    parquet = pq.read_table(tmp_path / "bulk")
    row = parquet.slice(10, 1).to_pylist()[0]
    assert (
        row["_id"] == "sku-010"
        and row["price"] == 1.0
        and row["vector"] == pytest.approx(drawn_catalogue()[0][10], abs=1e-3)
    )
    assert parquet.column("price").null_count == 45, "prices that are no number"


def test_parquet_holds_columns_of_all_types(tmp_path):
    vectors = write_vectors(tmp_path / "vectors", unit_vectors(COUNT, 0), pa.table(shop_columns()))
    assert engines.main(engines.EngineArguments(str(vectors))) == COUNT
    found = pq.read_table(tmp_path / "bulk").drop_columns("vector").to_pylist()
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
            engines.main(engines.EngineArguments(str(tmp_path / name), f"parquet:{tmp_path}/bulk"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lance:{}/new/products.lance", "milvus:{}/new/shop.db"])
def test_filters_find_what_the_index_finds(name, folder, tmp_path):
    pytest.importorskip("lance" if name.startswith("lance") else "milvus_lite")
    address = name.format(tmp_path)
    for _ in range(2):  # the second replaces the first
        assert engines.main(engines.EngineArguments(str(folder), address)) == 400
    table = pa.concat_tables(bulk_tables(folder)).combine_chunks()
    vectors = vectors_of(table)
    index = ProductIndex.build(vectors, table.drop_columns("vector"))
    typed = ["category=MUGS|lamps; price<30", 'category=a "B"', "price=10-20; in_stock=yes"]
    with open_engine(address) as engine:
        for where in (None, *map(parse_where, typed), {"in_stock": True, "category": "LAMPS"}):
            expected, found = index.search(vectors[:10], 5, where), engine.search(vectors[:10], 5, where)
            assert [[r.product_id for r in one] for one in found] == [[r.product_id for r in one] for one in expected]
            assert found[3][1].score == pytest.approx(expected[3][1].score, abs=1e-5)
            assert found[3][1].product == expected[3][1].product


def products_and_vectors(target: Path, ids: list[str], titles: list[str], seeds: list[int], model: str = "m") -> str:
    """A folder of vectors, each drawn by a seed."""
    vectors = np.concatenate([unit_vectors(1, seed) for seed in seeds])
    table = pa.table({"_id": ids, "title": titles})
    table = table.append_column("hash", pa.array(ids)).append_column("vector", vector_column(vectors))
    facts = [write_shard(target, 0, "key", table, {})]
    write_vectors_manifest(target, {"model": model, "count": len(ids), "dim": DIM, "blocks": {"text": DIM}}, facts)
    return str(target)


@pytest.mark.parametrize("name", ["lance:{}/products.lance", "milvus:{}/shop.db#things"])
def test_a_sync_writes_what_is_new_or_changed_and_deletes_what_is_gone(name, tmp_path, capfd):
    pytest.importorskip("lance" if name.startswith("lance") else "milvus_lite")
    address = name.format(tmp_path)
    older = products_and_vectors(tmp_path / "a", ["a", "b", "c", "d"], ["A", "B", "C", "D"], [1, 2, 3, 4])
    newer = products_and_vectors(tmp_path / "b", ["b", "c", "d", "e"], ["B", "new", "D", "E"], [2, 3, 40, 5])
    with pytest.raises(DataError, match="there is no collection '(products|things)'; load it"):
        engines.main(engines.EngineArguments(older, address, sync=True))
    assert engines.main(engines.EngineArguments(older, address)) == 4
    assert re.search(r": 4 products, [\d,]+ a second\n$", capfd.readouterr().out)
    for counts in ("1 added, 2 updated, 1 unchanged, 1 removed", "0 added, 0 updated, 4 unchanged, 0 removed"):
        assert engines.main(engines.EngineArguments(newer, address, sync=True)) == 4
        assert capfd.readouterr().out == f"{address}: {counts}\n"
    with open_engine(address) as engine:
        assert engine.digests() == digests_by_id(next(bulk_tables(Path(newer)))) and engine.model == "m"
        assert engine.blocks == {"text": DIM} and found_ids(engine, unit_vectors(1, 40)[0], 1) == ["d"]
    assert engines.main(engines.EngineArguments(to=address, drop=True)) == 0
    with open_engine(address) as engine:
        assert engine.read_schema() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, r"its vectors are of another model \(other\) than the collection's \(m\)"),
        ({"dim": 8}, "its vectors have 8 dimensions, the collection's 64"),
        ({"column": "colour"}, "there is no column 'colour'.*load it without --sync"),
        ({"_id": "x" * 513}, "its _id has more than the 512 bytes"),
    ],
)
def test_a_sync_that_does_not_fit_writes_nothing(change, message, tmp_path):
    pytest.importorskip("lance")
    address, column = f"lance:{tmp_path}/products.lance", change.get("column", "title")
    older = write_vectors(tmp_path / "a", unit_vectors(2, 0), pa.table({"_id": ["a", "b"], "title": ["A", "B"]}))
    products = pa.table({"_id": ["new", change.get("_id", "b")], column: ["N", "B"]})
    vectors = unit_vectors(2, 1)[:, : change.get("dim", DIM)]
    newer = write_vectors(tmp_path / "b", vectors, products, model=change.get("model", "m"))
    engines.main(engines.EngineArguments(str(older), address))
    before = contents(tmp_path / "products.lance")
    with pytest.raises(DataError, match=message):
        engines.main(engines.EngineArguments(str(newer), address, sync=True))
    assert contents(tmp_path / "products.lance") == before


@pytest.mark.parametrize(
    ("products", "to", "message"),
    [
        ({"_id": ["a", "b" * 600]}, "milvus:{}/shop.db", "its _id has more than"),
        ({"_id": ["a", "b" * 600]}, "lance:{}/shop.lance", "its _id has more than"),
        ({"_id": ["a", "a"]}, "lance:{}/shop.lance", "product 'a' comes twice; run training.embed again"),
        ({"_id": ["a", "b"], "a.b": [1, 2]}, "lance:{}/shop.lance", "'a.b': Lance takes no such name; rename it"),
        ({"_id": ["a", "b"], "c": [1, 2], "C": [1, 2]}, "lance:{}/shop.lance", "no two that differ in case alone"),
        ({"_id": ["a", "b"], "x" * 101 + "-": [1, 2]}, "milvus:{}/shop.db", "its name has more than 100 bytes"),
        ({"_id": ["a", "b"], "_digest": [1, 2]}, "lance:{}/shop.lance", "'_digest': its name is taken"),
        ({"_id": ["a", "b"]}, "milvus:{}/shop.db#bad name", "collection 'bad name': give letters"),
        ({"_id": ["a", "b"]}, "milvus:{}/shop.sqlite", "is neither an address"),
        ({"_id": ["a", "b"]}, "lance:{}/shop.lance#other", "has no collections; give each a folder of its own"),
        ({"_id": ["a", "b"]}, "{}/shop.lance", "names no engine; an address begins with lance, milvus,"),
        ({"_id": ["a", "b"]}, "lance:", "lance:: tells of no place"),
    ],
)
def test_a_load_that_is_refused_writes_nothing(products, to, message, tmp_path):
    pytest.importorskip("pymilvus")
    pytest.importorskip("lance")
    vectors = write_vectors(tmp_path / "vectors", unit_vectors(2, 0), pa.table(products), shards=2)
    with pytest.raises(DataError, match=message) as error:
        engines.main(engines.EngineArguments(str(vectors), to.format(tmp_path)))
    assert "\n" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["vectors"]


@pytest.mark.parametrize("options", [{"sync": True}, {"drop": True}, {"to": "parquet:"}])
def test_files_are_written_anew_alone(options, folder):
    with pytest.raises(DataError, match="^files are written anew|^--drop wants the address"):
        engines.main(engines.EngineArguments(str(folder), **options))
    with pytest.raises(DataError, match="are two things"):
        engines.main(engines.EngineArguments(str(folder), "lance:x", sync=True, drop=True))


def test_passwords_are_in_no_message(folder, monkeypatch):
    for address, said in (
        ("postgresql://me:s3cret@host/shop?password=s3cret", "postgresql://me:***@host/shop?password=***"),
        ("milvus:http://root:s3:cr@t/s3cret@host:1#a", "milvus:http://root:***@host:1#a"),
        ("milvus:https://s3cret@host:1", "milvus:https://***@host:1"),
        ("qdrant:http://host:6333?api_key=s3cret", "qdrant:http://host:6333?api_key=***"),
        ("lance:runs/my@shop", "lance:runs/my@shop"),
        ("postgresql://me@host/shop", "postgresql://me@host/shop"),
    ):
        assert shown(address) == said
    pytest.importorskip("pymilvus")
    monkeypatch.setenv("MMFUSION_ENGINE_TOKEN", "also:s3cret")
    for user in ("root:s3cret@", "s3cret@", ""):
        with pytest.raises(DataError, match="nowhere.*milvus can't be reached") as error:
            engines.main(engines.EngineArguments(str(folder), f"milvus:http://{user}nowhere.invalid:19530"))
        assert "s3cret" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_a_milvus_file_is_free_after_the_last_engine_of_a_process_is_closed(milvus_is_there, tmp_path):
    address = f"milvus:{tmp_path}/shop.db"
    first = open_engine(address)
    first.load([small_table()], schema_of(small_table()))
    second = open_engine(address)
    first.close()
    assert len(second.search(np.eye(1, 4))[0]) == 3
    with open(tmp_path / "shop.db" / "LOCK") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second.close()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(DataError, match="is it open in another process?"):
            open_engine(address)


def test_what_somebody_else_made_is_no_milvus_to_replace(tmp_path):
    pytest.importorskip("pymilvus")
    file, notes = tmp_path / "accounts.db", tmp_path / "folder.db" / "notes.txt"
    notes.parent.mkdir()
    for path in (file, notes):
        path.write_text("mine")
    for path in (file, notes.parent):
        with pytest.raises(DataError, match="is no database of milvus; give another --to"):
            open_engine(f"milvus:{path}")
    assert file.read_text() == notes.read_text() == "mine" and list(notes.parent.iterdir()) == [notes]


@pytest.mark.slow
def test_collections_of_milvus_that_somebody_else_made_stay(milvus_is_there, tmp_path):
    address, table = f"milvus:{tmp_path}/shop.db", small_table()
    with open_engine(address) as engine:
        for name in ("products", "accounts", "other_mmfusion_1"):
            engine.client.create_collection(name, 4)
        engine.client.create_alias("accounts", "people")
    before = collections(address)
    for name in ("products", "people"):
        with open_engine(f"{address}#{name}") as engine:
            for change in (
                lambda engine: engine.load([table], schema_of(table)),
                lambda engine: engine.upsert(table),
                lambda engine: engine.delete(["a"]),
                lambda engine: engine.search(np.eye(1, 4)),
                lambda engine: engine.drop(),
            ):
                with pytest.raises(DataError, match="was not loaded by training.scale.engines and is left as it is"):
                    change(engine)
    with open_engine(f"{address}#other") as engine, pytest.raises(DataError, match="is left as it is"):
        engine.load([table], schema_of(table))
    assert collections(address) == before
    with open_engine(f"{address}#new") as engine:
        assert engine.load([table], schema_of(table)) == 3
        engine.drop()
    assert collections(address) == before


def test_text_that_milvus_cuts_is_counted(milvus_is_there, tmp_path, capfd):
    products = pa.table({"_id": ["a", "b", "c"], "title": ["x" + "ü" * 40_000, "y", None], "text": ["z" * 70_000] * 3})
    vectors = write_vectors(tmp_path / "vectors", unit_vectors(3, 0), products, shards=1)
    arguments = engines.EngineArguments(str(vectors), f"milvus:{tmp_path}/shop.db")
    assert engines.main(arguments) == 3
    out = capfd.readouterr().out
    assert "warning: 4 x text of more than 65,535 bytes (cut); first: product a, column title" in out
    with open_engine(arguments.to) as engine:
        found = {one.product_id: one.product for one in engine.search(unit_vectors(1, 0), 3)[0]}
    assert found["a"]["title"] == "x" + "ü" * 32_767 and found["c"] == {"title": None, "text": "z" * 65_535}
    arguments.sync = True
    assert engines.main(arguments) == 3 and "0 updated, 3 unchanged" in capfd.readouterr().out


def test_a_folder_of_lances_with_notes_of_somebody_elses_is_not_dropped(tmp_path):
    pytest.importorskip("lance")
    with open_engine(f"lance:{tmp_path}/products.lance") as engine:
        engine.load([small_table()], schema_of(small_table()))
        (tmp_path / "products.lance" / "notes.txt").write_text("mine")
        with pytest.raises(DataError, match="holds notes.txt, which mmfusion did not write"):
            engine.drop()
        assert engine.count() == 3
        (tmp_path / "products.lance" / "notes.txt").unlink()
        engine.drop()
    assert list(tmp_path.iterdir()) == []


def test_products_that_no_engine_stores_are_one_line():
    schema = schema_of(small_table())
    for table, message in (
        (small_table(vectors=np.eye(3, 5)), "vectors of 5 dimensions, the collection has 4"),
        (small_table(_id=["a", "b", "a"]), "product 'a' comes twice"),
        (pa.table({"_id": ["a"], "vector": [[1.0, 0, 0, 0]]}), "fixed-size lists of floats as vector"),
    ):
        with pytest.raises(DataError, match=message):
            stored_products(table, schema)
