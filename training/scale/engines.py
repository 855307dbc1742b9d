"""Vectors and products to engines, and their changes.

    python -m training.scale.engines --vectors runs/myshop/vectors --to lance:runs/myshop/products.lance
    python -m training.scale.engines --vectors runs/myshop/vectors --to lance:runs/myshop/products.lance --sync
    python -m training.scale.engines --vectors runs/myshop/vectors --to milvus:http://milvus:19530#products
    python -m training.scale.engines --to milvus:http://milvus:19530#products --drop
    python -m training.scale.engines --vectors runs/myshop/vectors --to parquet:bulk

`training/scale/engine.py` has the addresses of all engines. What is loaded takes the place of the collection once it
is all there; --sync writes only what is new or changed, by a digest of each product, and deletes what is gone. All
products are looked at before anything is written. `parquet` is for bulk loads of other engines and warehouses: `_id`,
`vector` (float32) and the columns to show, the price as a number. On one machine we recommend Lance: it is searched
exactly, without a server, from many processes at a time. Engines want `pip install -e '.[engines]'`.
"""

from training.common.cli import run
from training.scale.options import EngineArguments

if __name__ == "__main__":
    run("training.scale.engines", EngineArguments, __doc__)


import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index_products import with_large_strings
from training.common.files import beside, cannot_write, check_folder, new_folder
from training.features.product_columns import with_numeric_price
from training.features.shards import iterate_shown, read_vectors_manifest
from training.scale.engine import (
    DIGEST,
    Engine,
    ProductSchema,
    check_products,
    conform,
    digests_of,
    open_engine,
    shown,
)

WRITER = "training.scale.engines"
PARQUET = "parquet:"


def main(arguments: EngineArguments) -> int:
    """Writes, loads, brings up to date or drops, and returns the number of products that are there now."""
    if arguments.sync and arguments.drop:
        raise DataError("--sync and --drop are two things; give one of them")
    if arguments.drop and not arguments.to:
        raise DataError("--drop wants the address of what to delete; give --to")
    address = arguments.to or f"{PARQUET}{beside(arguments.vectors, 'bulk')}"
    if address.startswith(PARQUET):
        return write(arguments, address.removeprefix(PARQUET))
    with open_engine(address) as engine:
        if arguments.drop:
            engine.drop()
            print(f"{shown(address)}: dropped", flush=True)
            return 0
        return (synchronise if arguments.sync else load)(engine, Path(arguments.vectors), shown(address))


def write(arguments: EngineArguments, output: str) -> int:
    """Writes Parquet files, and returns the number of products."""
    if arguments.sync or arguments.drop or not output:
        raise DataError("files are written anew into --to parquet:FOLDER; --sync and --drop are of engines")
    folder = Path(arguments.vectors)
    read_vectors_manifest(folder)
    check_folder(output, WRITER)
    count = write_parquet(tqdm(bulk_tables(folder), desc="parquet", unit="shard", leave=False), Path(output))
    print(f"parquet: {count:,} products in {output}", flush=True)
    return count


def load(engine: Engine, folder: Path, name: str) -> int:
    """Loads an engine anew with a folder of vectors, prints what it did and how fast, and returns the number of
    products.

    Raises:
        DataError: if there are none, or one can't be stored.
    """
    schema, count = look_at(folder, engine)
    started = time.perf_counter()
    with tqdm(total=count, desc="load", unit=" products", unit_scale=True, leave=False) as bar:
        count = engine.load(watched(bulk_tables(folder), bar), schema)
    engine.problems.report()
    rate = count / max(time.perf_counter() - started, 1e-3)
    print(f"{name}: {count:,} products, {rate:,.0f} a second", flush=True)
    return count


def synchronise(engine: Engine, folder: Path, name: str) -> int:
    """Brings an engine to what a folder of vectors holds, prints what it did, and returns the number of products.

    Raises:
        DataError: if there is no collection, its vectors are another model's, it has no such columns, or a product
            can't be stored.
    """
    check_same(engine.schema, folder)
    schema, count = look_at(folder, engine, engine.schema)
    counts = apply_changes(engine, tqdm(bulk_tables(folder), desc="update", unit="shard", leave=False), schema)
    engine.problems.report()
    print(f"{name}: {', '.join(f'{number:,} {what}' for what, number in counts.items())}", flush=True)
    return count


def look_at(folder: Path, engine: Engine, schema: ProductSchema | None = None) -> tuple[ProductSchema, int]:
    """Looks at all products before anything is written.

    Args:
        folder (`Path`): the vectors.
        engine (`Engine`): where they go.
        schema (`ProductSchema`, *optional*): that of the collection that they go to; the folder's if not given.

    Returns:
        The schema, and the number of products.

    Raises:
        DataError: if there is none, an id comes twice, or one can't be stored.
    """
    ids, hint = set(), "; load it without --sync" if schema else ""
    for table in tqdm(bulk_tables(folder), desc="check", unit="shard", leave=False):
        if schema is None:
            schema = ProductSchema.of(table.schema, read_vectors_manifest(folder))
            engine.check(schema)
        try:
            check_products(table)
            conform(table, schema.columns)
        except DataError as error:
            raise DataError(f"{folder}: {error}{hint}") from error
        for one in table.column("_id").to_pylist():
            if one in ids:
                raise DataError(f"{folder}: product {one[:40]!r} comes twice; run training.embed again")
            ids.add(one)
    if not ids:
        raise DataError(f"{folder}: there are no products to load")
    return schema, len(ids)


def check_same(schema: ProductSchema, folder: Path) -> None:
    """Refuses vectors that don't belong to a collection.

    Raises:
        DataError: if they are another model's or cut to another length.
    """
    manifest = read_vectors_manifest(folder)
    if manifest["model"] != schema.model:
        raise DataError(
            f"{folder}: its vectors are of another model ({manifest['model']}) than the collection's "
            f"({schema.model or 'unknown'}); load it without --sync"
        )
    if manifest["dim"] != schema.dim:
        lengths = f"its vectors have {manifest['dim']} dimensions, the collection's {schema.dim}"
        raise DataError(f"{folder}: {lengths}; load it without --sync")


def apply_changes(engine: Engine, tables: Iterator[pa.Table], schema: ProductSchema) -> dict[str, int]:
    """Brings an engine to what tables hold, and counts what it did: `added`, `updated`, `unchanged`, `removed`."""
    known, counts = engine.digests(), dict.fromkeys(("added", "updated", "unchanged"), 0)
    for table in tables:
        table = conform(table, schema.columns)
        older = [known.pop(one, None) for one in table.column("_id").to_pylist()]
        changed = np.flatnonzero([one != new for one, new in zip(older, digests_of(table).to_pylist(), strict=True)])
        if len(changed):
            engine.upsert(table.take(pa.array(changed)))
        counts["added"] += older.count(None)
        counts["updated"] += len(changed) - older.count(None)
        counts["unchanged"] += len(older) - len(changed)
    engine.delete(list(known))
    return counts | {"removed": len(known)}


def watched(tables: Iterator[pa.Table], bar: tqdm) -> Iterator[pa.Table]:
    """Tables, whose rows a bar counts once they were taken."""
    for table in tables:
        yield table
        bar.update(len(table))


def bulk_tables(folder: Path) -> Iterator[pa.Table]:
    """The shards of a folder of vectors: `_id`, the columns to show and `vector` (float32); see
    `training/features/product_columns.py`.

    Raises:
        DataError: if a shard has other columns than the first, or one is called `_digest`.
    """
    schema = None
    for vectors, table in iterate_shown(folder):
        table = with_large_strings(table)
        if DIGEST in table.column_names:
            raise DataError(f"{folder}: column {DIGEST!r}: its name is taken by the engines' own; rename it")
        table = with_numeric_price(table)
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
