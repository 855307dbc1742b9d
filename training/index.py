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

from training.common.cli import run
from training.options import IndexArguments

if __name__ == "__main__":
    run("training.index", IndexArguments, __doc__)

from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import ProductIndex, check_measured_queries
from modeling_mmfusion.index_files import check_target
from modeling_mmfusion.index_graph import SearchWidth
from modeling_mmfusion.text_mmfusion import PRODUCT_FIELDS
from training.common.files import beside
from training.features.shards import iterate_shown, read_sampled_queries, read_vectors_manifest

MEASURED_AGAIN = 0.2  # share of the products
LEAST_QUERIES = 50


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
    gone = set(index.catalogue.rows)
    for vectors, table in tqdm(iterate_shown(folder), desc="update", unit="shard", leave=False):
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
