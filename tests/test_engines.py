"""Vectors on their way to engines; the embedded Milvus finds what our index finds."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_index import catalogue

from modeling_mmfusion.index_mmfusion import ProductIndex
from training import engines
from training.data import DataError
from training.vector_shards import vector_column, write_manifest, write_shard


@pytest.fixture
def folder(tmp_path):
    """A folder of vectors of 400 products, as training.embed writes it."""
    vectors, products = catalogue(400)
    columns = {"category": [["mugs", "lamps", None, 'a "b"'][number % 4] for number in range(400)]}
    columns["price"] = [f"{number / 10:.2f}" if number % 9 else "on request" for number in range(400)]
    columns["in_stock"] = [bool(number % 2) for number in range(400)]
    for name, values in columns.items():
        products = products.append_column(name, pa.array(values))
    table = products.append_column("hash", pa.array(["a"] * 400)).append_column("vector", vector_column(vectors))
    target = tmp_path / "vectors"
    shards = [write_shard(target, number, "key", table.slice(200 * number, 200), {}) for number in range(2)]
    write_manifest(target, {"model": "m", "count": 400, "dim": 16}, shards)
    return target


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
        and row["vector"] == pytest.approx(catalogue()[0][10], abs=1e-3)
    )
    assert parquet.column("price").null_count == 45, "prices that are no number"


def test_milvus_finds_the_same_products(folder, tmp_path):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    arguments = engines.EngineArguments(str(folder), "milvus", str(tmp_path / "shop.db"))
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
            {"in_stock": True, "category": "lamps"},
        ):
            expected, found = index.search(vectors[:10], 5, where), engine.search(vectors[:10], 5, where)
            assert [[r.product_id for r in one] for one in found] == [[r.product_id for r in one] for one in expected]
            assert found[3][1].score == pytest.approx(expected[3][1].score, abs=1e-5)
            assert found[3][1].product == expected[3][1].product
        engine.remove(["sku-003"])
        engine.upsert(table.slice(4, 1).set_column(1, "title", [["New title"]]))
        assert engine.search(vectors[3:4], 1)[0][0].product_id != "sku-003"
        assert engine.search(vectors[4:5], 1)[0][0].product["title"] == "New title"
    finally:
        engine.close()


def test_an_engine_that_is_not_there_is_one_line(folder):
    pytest.importorskip("pymilvus")
    with pytest.raises(DataError, match="nowhere.*milvus can't be reached"):
        engines.MilvusEngine("http://nowhere.invalid:19530")
