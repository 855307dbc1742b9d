"""Builds a search index from the vectors that training.embed wrote, or brings one up to date with them.

    python -m training.index --vectors runs/quickstart/vectors --output runs/quickstart/index
    python -m training.index --vectors runs/myshop/vectors --output runs/myshop/index --dtype i8 --words=false
    python -m training.index --vectors runs/myshop/vectors --output runs/myshop/index --sync
    python -m training.index --output runs/myshop/index --compact      # after many products were removed

The output folder gets the graph, the exact vectors, the products that are shown, and index.json with their checksums.
Who has the older index open goes on reading it. How --dtype stores vectors of 384 dimensions:

    f32    1,700 bytes a product in memory
    i8       540 bytes, and 770 bytes of exact vectors on disk that the best candidates are scored with: the default;
             340 bytes from 20,000 products on, where the graph holds the vectors' 192 main directions alone
    b1       200 bytes, and the same on disk: the fastest, and needs more candidates
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt
from tqdm.auto import tqdm

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import ProductIndex, check_measured_queries
from modeling_mmfusion.index_files import check_target
from modeling_mmfusion.index_graph import SearchWidth
from modeling_mmfusion.processing_mmfusion import PRODUCT_FIELDS
from training.common.cli import run
from training.common.files import beside
from training.features.product_columns import PICTURE
from training.features.shards import iterate_shown, read_sampled_queries, read_vectors_manifest

MEASURED_AGAIN = 0.2  # share of the products
LEAST_QUERIES = 50


@dataclass
class IndexArguments:
    """Which vectors to index.

    Args:
        vectors: Folder that training.embed wrote.
        output: Folder for the index; null is index/ beside the vectors.
        dtype: How the graph stores vectors: f32, bf16, f16, i8 or b1 (signs alone). Scores are exact with any.
        words: Index the products' words too (BM25), which searches count beside the vectors.
        threads: Threads to build with; 0 for one a core. More than one build a little differently each time.
        sync: Bring the index in the output folder up to date: products that are new, changed or gone.
        recall: Share of the best ten products that searches shall find; how wide they are is measured, and again by
            --sync where more than a fifth of the products changed.
        compact: Drop what is left of removed products from the index in the output folder, and do nothing else; it is
            done by itself where more than half of the rows are free, and some thousand.
        queries: File of queries' vectors (.npy) to measure that with, some hundred; null is those of the catalogue's
            own that training.embed left beside the products' or, where it has fewer than 50, made ones.
    """

    vectors: str = "runs/quickstart/vectors"
    output: str | None = None
    dtype: Literal["f32", "bf16", "f16", "i8", "b1"] = "i8"
    words: bool = True
    threads: NonNegativeInt = 1
    sync: bool = False
    recall: ClosedUnitInterval = 0.99
    queries: str | None = None
    compact: bool = False


def main(arguments: IndexArguments) -> ProductIndex:
    """Builds, updates or compacts, saves and returns the index."""
    if arguments.compact:
        return compact(arguments)
    folder = Path(arguments.vectors)
    manifest = read_vectors_manifest(folder)
    output = Path(arguments.output or beside(arguments.vectors, "index"))
    check_target(output)
    queries = read_query_vectors(arguments.queries, manifest["dim"]) if arguments.queries else known_queries(folder)
    if arguments.sync:
        index = ProductIndex.load(output)
        index.check_model(manifest["model"], manifest.get("blocks"))
        counts = synchronise(index, folder, arguments.threads)
        print(f"index: {', '.join(f'{count:,} {what}' for what, count in counts.items())}", flush=True)
        if index.measured.recall is None or index.measured.changed > MEASURED_AGAIN * len(index):
            index.choose_width(arguments.recall, queries, arguments.threads)
    else:
        index = build(folder, manifest, arguments, queries)
    print(f"index: {format_measured(index.measured)}", flush=True)
    index.save(output)
    print(f"index: {len(index):,} products in {output}", flush=True)
    return index


def compact(arguments: IndexArguments) -> ProductIndex:
    """Compacts, saves and returns the index of the output folder."""
    if arguments.sync:
        raise DataError("--compact and --sync are two things; give --compact after --sync")
    output = Path(arguments.output or beside(arguments.vectors, "index"))
    index = ProductIndex.load(output)
    free = len(index.catalogue.free)
    index.compact(arguments.threads, progress=True)
    print(f"index: {format_measured(index.measured)}", flush=True)
    index.save(output)
    print(f"index: {len(index):,} products in {output}; {free:,} free rows were dropped", flush=True)
    return index


def read_query_vectors(file: str, dim: int) -> np.ndarray:
    """The vectors `(Q, dim)` of a `.npy` file.

    Raises:
        DataError: if it is none.
    """
    existing_file(file, "queries' vectors, a .npy file")
    try:  # mapped, so that a header that tells of more than there is asks for no memory
        queries = np.load(file, mmap_mode="r", allow_pickle=False)
        check_measured_queries(queries, dim)
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise DataError(f"{file}: is no .npy file of queries' vectors: {one_line(error)}") from error
    return np.array(queries)


def known_queries(folder: Path) -> np.ndarray | None:
    """The catalogue's own queries' vectors, if there are enough to measure with."""
    queries = read_sampled_queries(folder)
    return None if queries is None or len(queries) < LEAST_QUERIES else queries


def format_measured(measured: SearchWidth) -> str:
    """How widely the index is searched, and what that finds."""
    if measured.recall is None:
        return f"searched with width {measured.width}; recall@10 was not measured"
    line = f"searched with width {measured.width}, which finds {measured.recall:.1%} of the best ten products"
    if measured.recall < measured.wanted:
        line += f"; no width up to that finds the {measured.wanted:.1%} that are wanted"
    return line


def build(folder: Path, manifest: dict, arguments: IndexArguments, queries: np.ndarray | None = None) -> ProductIndex:
    """An index of all vectors of a folder; they are read shard by shard and held in half precision.

    Raises:
        DataError: if the manifest promises another number of products than there are.
    """
    exact = np.float32 if arguments.dtype == "f32" else np.float16
    vectors, tables, count = np.empty((manifest["count"], manifest["dim"]), dtype=exact), [], 0
    for some, table in iterate_shown(folder):
        if count + len(some) <= len(vectors):
            vectors[count : count + len(some)] = some
        tables.append(table)
        count += len(some)
    if count != len(vectors):
        raise DataError(
            f"{folder}: manifest.json tells of {len(vectors):,} products, there are {count:,}; embed again"
        )
    options = {"words": arguments.words, "threads": arguments.threads, "progress": True}
    options |= {"recall": arguments.recall, "queries": queries, "fields": manifest.get("fields", PRODUCT_FIELDS)}
    return ProductIndex.build(
        vectors,
        pa.concat_tables(tables, promote_options="permissive"),
        manifest["model"],
        arguments.dtype,
        manifest.get("blocks"),
        **options,
    )


def synchronise(index: ProductIndex, folder: Path, threads: int = 1) -> dict[str, int]:
    """Brings an index to what a folder of vectors holds, shard by shard, and counts what it did.

    A product whose vector is the same but whose columns changed, such as the price, costs next to nothing.
    """
    counts = dict.fromkeys(("added", "updated", "shown anew", "removed", "unchanged"), 0)
    gone, columns_there = set(index.catalogue.rows), index.catalogue.table.column_names
    for vectors, table in tqdm(iterate_shown(folder), desc="update", unit="shard", leave=False):
        if PICTURE in table.column_names and PICTURE not in columns_there:  # built when no names were kept
            table = table.drop_columns(PICTURE)
        ids = table.column("_id").to_pylist()
        gone.difference_update(ids)
        is_known = np.array([product_id in index for product_id in ids])
        rows = np.array([index.catalogue.rows[one] for one in ids if one in index], dtype=np.int64)
        places = np.flatnonzero(is_known)
        same_vector = np.zeros(len(ids), dtype=bool)
        stored = index.graph.stored(rows)
        same_vector[places] = (stored == vectors[places].astype(stored.dtype)).all(axis=1)
        same_columns = np.zeros(len(ids), dtype=bool)
        shown = index.catalogue.conform(table).to_pylist()
        same_columns[places] = [
            shown[place] == product for place, product in zip(places, index.catalogue.take(rows), strict=True)
        ]
        new, other = np.flatnonzero(~is_known), np.flatnonzero(is_known & ~same_vector)
        columns = np.flatnonzero(is_known & same_vector & ~same_columns)
        index.add(vectors[new], table.take(new), threads)
        index.update(table.take(other), vectors[other], threads)
        index.update(table.take(columns))
        for what, changed in (("added", new), ("updated", other), ("shown anew", columns)):
            counts[what] += len(changed)
        counts["unchanged"] += int((same_vector & same_columns).sum())
    index.remove(gone)
    return counts | {"removed": len(gone)}


if __name__ == "__main__":
    run(main, IndexArguments, __doc__)
