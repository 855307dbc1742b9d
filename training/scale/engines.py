"""Vectors and products to engines that hold more than one machine does.

    python -m training.scale.engines --vectors runs/myshop/vectors --to parquet --output bulk/
    python -m training.scale.engines --vectors runs/myshop/vectors --to lance --output products.lance
    python -m training.scale.engines --vectors runs/myshop/vectors --to milvus --output http://milvus:19530
    python -m training.scale.engines --vectors runs/myshop/vectors --to milvus --output runs/myshop/milvus.db

`parquet` and `lance` are for bulk loads: `_id`, `vector` (float32) and the columns to show, the price as a number.
Most engines and warehouses load Parquet. A Lance dataset is searched as it is, by LanceDB or [`LanceEngine`]: exactly,
without a server, from many processes at a time; it is what we recommend on one machine. `milvus` loads a collection,
and [`MilvusEngine`] searches it: in a file, exactly but slower, or on a cluster. Both want
`pip install -e '.[engines]'`.
"""

from training.common.cli import run
from training.scale.options import EngineArguments

if __name__ == "__main__":
    run("training.scale.engines", EngineArguments, __doc__)

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import SearchResult
from modeling_mmfusion.index_filters import numbers_of
from modeling_mmfusion.index_products import with_large_strings
from training.common.files import beside, cannot_write, check_folder, new_folder
from training.features.shards import iterate_shown, read_vectors_manifest
from training.scale.filters import Condition, bounds_expression, check_search, conditions, is_text, passing_texts
from training.scale.milvus import ENGINES_INSTALL, MilvusEngine, check_collection, check_products

WRITER = "training.scale.engines"
OUTPUTS = {"parquet": "bulk", "lance": "products.lance", "milvus": "milvus.db"}
LANCE_NAMES = {"_distance", "_rowid", "_rowaddr", "_rowoffset"}


def main(arguments: EngineArguments) -> int:
    """Writes or loads, and returns the number of products."""
    folder = Path(arguments.vectors)
    manifest = read_vectors_manifest(folder)
    output = arguments.output or str(beside(arguments.vectors, OUTPUTS[arguments.to]))
    if arguments.to == "milvus":
        check_collection(arguments.collection)
        for table in bulk_tables(folder):  # before anything is written
            check_products(table)
    else:
        check_folder(output, WRITER)
    tables = tqdm(bulk_tables(folder), desc=arguments.to, unit="shard", leave=False)
    if arguments.to == "milvus":
        if output.endswith(".db"):
            Path(output).parent.mkdir(parents=True, exist_ok=True)
        with closing(MilvusEngine(output, arguments.collection, arguments.token)) as engine:
            count = engine.load(tables, manifest["dim"], arguments.shards)
        engine.problems.report()
    else:
        count = {"parquet": write_parquet, "lance": write_lance}[arguments.to](tables, Path(output))
    print(f"{arguments.to}: {count:,} products in {output}", flush=True)
    return count


def bulk_tables(folder: Path) -> Iterator[pa.Table]:
    """The shards of a folder of vectors: `_id`, the columns to show (`price` as a number) and `vector` (float32).

    Raises:
        DataError: if a shard has other columns than the first.
    """
    schema = None
    for vectors, table in iterate_shown(folder):
        table = with_large_strings(table)
        if "price" in table.column_names:
            place = table.column_names.index("price")
            table = table.set_column(place, "price", numbers_of(table.column("price")))
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
        table = table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        schema = schema or table.schema
        try:
            yield table.cast(schema)
        except (ValueError, pa.ArrowException) as error:
            raise DataError(f"{folder}: its shards differ in their columns; embed into a new folder") from error


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
        DataError: if `pylance` is not installed, or a column has a name that Lance does not take.
    """
    lance = import_lance()
    tables = iter(tables)
    first = next(tables)
    for name in first.column_names:
        if name in LANCE_NAMES or {".", "`"} & set(name):
            raise DataError(f"column {name!r}: Lance takes no such name; rename it, or write --to parquet")

    faults = []

    def batches() -> Iterator[pa.RecordBatch]:
        yield from first.to_batches()
        try:
            for table in tables:
                yield from table.to_batches()
        except DataError as error:  # Lance makes a text of it, traceback and all
            faults.append(error)
            raise

    with new_folder(output, WRITER) as partial, cannot_write(output):
        try:
            return lance.write_dataset(batches(), str(partial), schema=first.schema, mode="create").count_rows()
        except (OSError, ValueError) as error:
            raise (faults[0] if faults else error) from None


class LanceEngine:
    """Products in a Lance dataset, searched as [`ProductIndex`] is: all vectors are compared, so what is found is
    exact, with and without filters.

    Args:
        path (`str`): the folder that [`write_lance`] wrote.

    Raises:
        DataError: if `pylance` is not installed, or there is no Lance dataset.
    """

    def __init__(self, path: str):
        lance = import_lance()
        try:
            self.dataset = lance.dataset(str(path))
        except (ValueError, OSError) as error:
            raise DataError(
                f"{path}: is no Lance dataset; write one with training.scale.engines --to lance"
            ) from error
        fields = self.dataset.schema
        self.dim = fields.field("vector").type.list_size
        self.columns = {field.name: field.type for field in fields if field.name != "vector"}
        self.texts: dict[str, pa.ChunkedArray] = {}

    def search(
        self, queries: np.ndarray, k: int = 10, where: Mapping[str, Any] | None = None
    ) -> list[list[SearchResult]]:
        """The best products for each query; see [`ProductIndex.search`].

        Raises:
            DataError: if `k` is no positive integer, queries are not finite or not as wide as the vectors, or a column
                is unknown or compared with what it does not hold.
        """
        check_search(queries, k, self.dim)
        wanted = conditions(where or {}, self.columns)
        for name in wanted:
            if is_text(self.columns[name]):
                wanted[name] = passing_texts(self._distinct(name), where[name])
        passing = " and ".join(_expression(name, condition) for name, condition in wanted.items()) or None
        return [self._nearest(query, int(k), passing) for query in np.asarray(queries, dtype=np.float32)]

    def _nearest(self, query: np.ndarray, k: int, passing: str | None) -> list[SearchResult]:
        nearest = {"column": "vector", "q": query, "k": k, "metric": "dot", "use_index": False}
        columns = [*self.columns, "_distance"]
        found = self.dataset.to_table(columns, filter=passing, nearest=nearest, prefilter=True).to_pylist()
        return [SearchResult(row.pop("_id"), 1 - row.pop("_distance"), row) for row in found]

    def _distinct(self, name: str) -> pa.ChunkedArray:
        """The texts of a column, each once; read when it is first filtered by."""
        if name not in self.texts:
            self.texts[name] = pa.chunked_array([self.dataset.to_table([name]).column(0).unique()])
        return self.texts[name]


def _expression(name: str, wanted: Condition) -> str:
    """A condition in Lance's SQL."""
    values = [_literal(one) for one in wanted if not isinstance(one, tuple)]
    parts = [f"`{name}` in ({', '.join(values)})"] if values else []
    parts += [bounds_expression(f"`{name}`", *one) for one in wanted if isinstance(one, tuple)]
    return f"({' or '.join(parts)})" if parts else "false"


def _literal(value: str | bool | float) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def import_lance() -> Any:
    """The module `lance`.

    Raises:
        DataError: if `pylance` is not installed.
    """
    try:
        import lance
    except ImportError as error:
        raise DataError(f"lance is not installed; run: {ENGINES_INSTALL}") from error
    return lance
