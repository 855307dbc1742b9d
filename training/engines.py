"""Vectors and products to engines that hold more than one machine does.

    python -m training.engines --vectors runs/myshop/vectors --to parquet --output bulk/
    python -m training.engines --vectors runs/myshop/vectors --to lance --output products.lance
    python -m training.engines --vectors runs/myshop/vectors --to milvus --output http://milvus:19530
    python -m training.engines --vectors runs/myshop/vectors --to milvus --output runs/myshop/milvus.db

`parquet` and `lance` are for bulk loads: `_id`, `vector` (float32) and the columns to show, the price as a number.
Most engines and warehouses load Parquet; LanceDB searches a Lance dataset as it is.

`milvus` loads a collection, and [`MilvusEngine`] searches it. Of the engines that are distributed (search and storage
on nodes of their own) Milvus is the one whose embedded form comes from the package registry (`milvus-lite`) and is
spoken to by the same client: what is tested in a file on a laptop is what a cluster is asked, only the address
differs. Qdrant's local mode is Python code of its own and its server no package; LanceDB is embedded alone. A cluster
has not been tried here. All want `pip install -e '.[engines]'`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jsonargparse.typing import PositiveInt
from tqdm.auto import tqdm

from modeling_mmfusion.catalogue_mmfusion import numbers_of, with_large_strings
from modeling_mmfusion.index_mmfusion import SearchResult
from training.arguments import run
from training.data import DataError
from training.files import beside, cannot_write, check_folder, new_folder
from training.index import read_tables
from training.vector_shards import read_manifest

WRITER = "training.engines"
OUTPUTS = {"parquet": "bulk", "lance": "products.lance", "milvus": "milvus.db"}
ENGINES_INSTALL = "pip install -e '.[engines]'"
ROWS_TOGETHER = 1000
MAX_ID_BYTES = 512
MAX_TEXT_BYTES = 65_535  # of a field of text in Milvus


@dataclass
class EngineArguments:
    """Which vectors go where.

    Args:
        vectors: Folder that training.embed wrote.
        to: parquet or lance files, or milvus.
        output: Folder for the files; for milvus its address, or a file for the embedded one. Null is bulk/,
            products.lance/ or milvus.db beside the vectors.
        collection: Name in milvus; one of that name is replaced once the new one is loaded.
        token: User and password, or key, of milvus.
        shards: Shards of the collection in milvus, which write in parallel.
    """

    vectors: str = "runs/quickstart/vectors"
    to: Literal["parquet", "lance", "milvus"] = "parquet"
    output: str | None = None
    collection: str = "products"
    token: str = ""
    shards: PositiveInt = 1


def main(arguments: EngineArguments) -> int:
    """Writes or loads, and returns the number of products."""
    folder = Path(arguments.vectors)
    manifest = read_manifest(folder)
    output = arguments.output or str(beside(arguments.vectors, OUTPUTS[arguments.to]))
    if arguments.to != "milvus":
        check_folder(output, WRITER)
    tables = tqdm(bulk_tables(folder), desc=arguments.to, unit="shard", leave=False)
    if arguments.to == "milvus":
        engine = MilvusEngine(output, arguments.collection, arguments.token)
        count = engine.load(tables, manifest["dim"], arguments.shards)
        engine.close()
    else:
        count = {"parquet": write_parquet, "lance": write_lance}[arguments.to](tables, Path(output))
    print(f"{arguments.to}: {count:,} products in {output}", flush=True)
    return count


def bulk_tables(folder: Path) -> Iterator[pa.Table]:
    """The shards of a folder of vectors: `_id`, the columns to show (`price` as a number) and `vector` (float32)."""
    for vectors, table in read_tables(folder):
        table = with_large_strings(table)
        if "price" in table.column_names:
            place = table.column_names.index("price")
            table = table.set_column(place, "price", numbers_of(table.column("price")))
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
        yield table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))


def write_parquet(tables: Iterator[pa.Table], output: Path) -> int:
    """Writes a Parquet file a shard, with plain lists, which every engine reads; returns the number of products."""
    count = 0
    with new_folder(output, WRITER) as partial, cannot_write(output):
        for number, table in enumerate(tables):
            vectors = table.column("vector").cast(pa.list_(pa.float32()))
            table = table.set_column(table.column_names.index("vector"), "vector", vectors)
            pq.write_table(table, partial / f"products-{number:05d}.parquet")
            count += len(table)
    return count


def write_lance(tables: Iterator[pa.Table], output: Path) -> int:
    """Writes a Lance dataset; returns the number of products.

    Raises:
        DataError: if `pylance` is not installed.
    """
    try:
        import lance
    except ImportError as error:
        raise DataError(f"lance is not installed; run: {ENGINES_INSTALL}") from error
    tables = iter(tables)
    first = next(tables)

    def batches() -> Iterator[pa.RecordBatch]:
        yield from first.to_batches()
        for table in tables:
            yield from table.cast(first.schema).to_batches()

    with new_folder(output, WRITER) as partial, cannot_write(output):
        return lance.write_dataset(batches(), str(partial), schema=first.schema, mode="create").count_rows()


class MilvusEngine:
    """Products in a collection of Milvus, searched as [`ProductIndex`] is.

    Args:
        uri (`str`): its address such as `http://milvus:19530`, or a file such as `shop.db` for the embedded one.
        collection (`str`, *optional*, defaults to `"products"`): an alias, which leads to the collection that was
            loaded last; so searches go on while another one is loaded.
        token (`str`, *optional*): user and password, or key.

    Raises:
        DataError: if `pymilvus` is not installed or the engine can't be reached.
    """

    def __init__(self, uri: str, collection: str = "products", token: str = ""):
        try:
            import pymilvus
        except ImportError as error:
            raise DataError(f"pymilvus is not installed; run: {ENGINES_INSTALL}") from error
        self.milvus = pymilvus
        self.collection = collection
        try:
            self.client = pymilvus.MilvusClient(uri, token=token)
        except (pymilvus.MilvusException, OSError) as error:
            raise DataError(f"{uri}: milvus can't be reached: {' '.join(str(error).split())[:200]}") from error

    def load(self, tables: Iterator[pa.Table], dim: int, shards: int = 1) -> int:
        """Loads [`bulk_tables`] into a new collection and then leads the alias to it; returns the number of products.

        Raises:
            DataError: if there is nothing to load.
        """
        name, number = None, 0
        for table in tables:
            if name is None:
                name = self._create(table.schema, dim, shards)
            number += self._insert(name, table)
        if name is None:
            raise DataError("there are no products to load")
        self.client.flush(name)
        older = self._behind_alias()
        if older:
            self.client.alter_alias(name, self.collection)
            self.client.drop_collection(older)
        else:
            self.client.create_alias(name, self.collection)
        return number

    def upsert(self, table: pa.Table) -> None:
        """Adds products or takes them in place of older ones; a table as [`bulk_tables`] gives."""
        self._insert(self.collection, table)

    def remove(self, product_ids: Sequence[str]) -> None:
        """Removes products; unknown ids are no error."""
        self.client.delete(self.collection, ids=list(product_ids))

    def search(
        self, queries: np.ndarray, k: int = 10, where: Mapping[str, Any] | None = None
    ) -> list[list[SearchResult]]:
        """The best products for each query; see [`ProductIndex.search`]. Filters are the engine's."""
        fields = self.client.describe_collection(self._behind_alias() or self.collection)["fields"]
        shown = [field["name"] for field in fields if field["name"] not in ("_id", "vector")]
        found = self.client.search(
            self.collection,
            data=np.asarray(queries, dtype=np.float32).tolist(),
            anns_field="vector",
            limit=k,
            filter=filter_expression(where or {}),
            output_fields=shown,
            search_params={"metric_type": "IP", "params": {"ef": max(100, 2 * k)}},
        )
        return [
            [SearchResult(hit["_id"], float(hit["distance"]), dict(hit["entity"])) for hit in hits] for hits in found
        ]

    def close(self) -> None:
        """Ends the connection."""
        self.client.close()

    def _create(self, schema: pa.Schema, dim: int, shards: int) -> str:
        """Makes an empty collection of a name that is not in use, and gives the name."""
        types, milvus_schema = self.milvus.DataType, self.client.create_schema(auto_id=False)
        milvus_schema.add_field("_id", types.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
        milvus_schema.add_field("vector", types.FLOAT_VECTOR, dim=dim)
        for field in schema:
            if field.name in ("_id", "vector"):
                continue
            kind = {pa.bool_(): types.BOOL, pa.float64(): types.DOUBLE, pa.int64(): types.INT64}.get(field.type)
            options = {} if kind else {"max_length": MAX_TEXT_BYTES}
            milvus_schema.add_field(field.name, kind or types.VARCHAR, nullable=True, **options)
        index = self.client.prepare_index_params()
        index.add_index("vector", index_type="HNSW", metric_type="IP", params={"M": 16, "efConstruction": 128})
        numbers = (number for number in range(1, 10**6) if f"{self.collection}_{number}" != self._behind_alias())
        name = f"{self.collection}_{next(numbers)}"
        if self.client.has_collection(name):  # of a load that was killed
            self.client.drop_collection(name)
        self.client.create_collection(name, schema=milvus_schema, index_params=index, num_shards=shards)
        return name

    def _insert(self, collection: str, table: pa.Table) -> int:
        """Puts a table's products into a collection."""
        for batch in table.to_batches(max_chunksize=ROWS_TOGETHER):
            rows = batch.to_pylist()
            for row in rows:
                for name, value in row.items():
                    if isinstance(value, str) and len(value.encode()) > MAX_TEXT_BYTES:
                        row[name] = value.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")
            self.client.upsert(collection, rows)
        return len(table)

    def _behind_alias(self) -> str | None:
        """The collection that the alias leads to."""
        try:
            return self.client.describe_alias(self.collection)["collection_name"]
        except self.milvus.MilvusException:
            return None


def filter_expression(where: Mapping[str, Any]) -> str:
    """Conditions as Milvus writes them; see [`ProductIndex.search`].

    >>> filter_expression({"category": ["mugs"], "price": (5, None), "in_stock": True})
    'category in ["mugs"] and price >= 5 and in_stock == true'
    """
    parts = []
    for column, wanted in where.items():
        if isinstance(wanted, tuple):
            bounds = zip((">=", "<="), wanted, strict=True)
            parts += [f"{column} {sign} {bound}" for sign, bound in bounds if bound is not None]
        elif isinstance(wanted, (list, set, frozenset)):
            parts.append(f"{column} in {json.dumps(sorted(wanted))}")
        else:
            parts.append(f"{column} == {json.dumps(wanted)}")
    return " and ".join(parts)


if __name__ == "__main__":
    run(main, EngineArguments, __doc__)
