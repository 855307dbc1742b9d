"""Builds a search index from the vectors that training.embed wrote, or brings one up to date with them.

    python -m training.index --vectors runs/quickstart/vectors --output runs/quickstart/index
    python -m training.index --vectors runs/myshop/vectors --output runs/myshop/index --dtype i8 --words=false
    python -m training.index --vectors runs/myshop/vectors --output runs/myshop/index --sync
    python -m training.index --output runs/myshop/index --compact      # after many products were removed
    python -m training.index --vectors runs/myshop/vectors --shards 4  # index/shard-0-of-4 to index/shard-3-of-4

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


from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from modeling_mmfusion.checksums import checksum_of, existing_file
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import ProductIndex, check_measured_queries
from modeling_mmfusion.index_files import check_target, is_index
from modeling_mmfusion.index_graph import SearchWidth
from modeling_mmfusion.index_products import ProductRows
from modeling_mmfusion.index_shards import Shard, check_count, check_only_shards, shard_names, shard_of
from modeling_mmfusion.index_words import WordCounts
from modeling_mmfusion.text_mmfusion import PRODUCT_FIELDS
from training.common.files import beside
from training.features.product_columns import PICTURE
from training.features.shards import iterate_shown, read_sampled_queries, read_vectors_manifest, shown_schema

MEASURED_AGAIN = 0.2  # share of the products
LEAST_QUERIES = 50


def main(arguments: IndexArguments) -> ProductIndex:
    """Builds, updates or compacts, saves and returns the index; of several shards the last one."""
    if not arguments.compact:
        manifest = read_vectors_manifest(arguments.vectors)
    output = Path(arguments.output or beside(arguments.vectors, "index"))
    folders = {output / shard.folder if shard else output: shard for shard in parts_of(arguments, output)}
    for place in folders:
        check_target(place)
    if arguments.compact:
        return [compact(arguments, place) for place in folders][-1]
    folder = Path(arguments.vectors)
    queries = read_query_vectors(arguments.queries, manifest["dim"]) if arguments.queries else known_queries(folder)
    catalogue = Catalogue.of(folder, manifest, arguments.words, list(folders.values()))
    if arguments.sync:  # saved one right after the other, as searches want all of one state
        indexes = [update(arguments, place, catalogue, shard, queries) for place, shard in folders.items()]
    else:
        indexes = (build(catalogue, arguments, queries, shard) for shard in folders.values())
    for place, index in zip(folders, indexes, strict=True):
        print(f"index: {format_measured(index.measured)}", flush=True)
        index.save(place)
        print(f"index: {len(index):,} products in {place}", flush=True)
    return index


def parts_of(arguments: IndexArguments, output: Path) -> list[Shard | None]:
    """The shards that a command is about; `[None]` of an index in one piece.

    Raises:
        DataError: if the options don't go together, or with what the folder holds.
    """
    if arguments.compact and arguments.sync:
        raise DataError("--compact and --sync are two things; give --compact after --sync")
    if arguments.shards and arguments.shard:
        raise DataError("--shards builds all shards, --shard one of them; give one of the two")
    one = read_shard(arguments.shard) if arguments.shard else None
    of = one.of if one else arguments.shards
    held = shard_names(output)
    if (of or held) and is_index(output):
        raise DataError(f"{output}: is an index in one piece; give another folder for shards, or delete it")
    if of and not held and (arguments.sync or arguments.compact):
        raise DataError(f"{output}: holds no shards; build them first, without --sync and --compact")
    if held and not (of or arguments.sync or arguments.compact):
        raise DataError(f"{output}: holds {held[0].of} shards; give --shards {held[0].of}, or another folder")
    if of and any(shard.of != of for shard in held):
        raise DataError(f"{output}: holds {held[0].of} shards, not {of}; delete them, or give another folder")
    if of and output.exists():
        check_only_shards(output)
    if one:
        return [one]
    of = of or (held[0].of if held else None)
    return [None] if of is None else [check_count(Shard(number, of)) for number in range(of)]


def read_shard(text: str) -> Shard:
    """A shard as it is typed, such as `0/4`.

    Raises:
        DataError: if it is none.
    """
    number, slash, of = text.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise DataError(f"--shard is {text!r}; give its number, from 0, and how many there are, such as 0/4")
    return check_count(Shard(int(number), int(of)))


@dataclass
class Catalogue:
    """A folder of vectors, and what a part of its products has to know of all of them.

    Attributes:
        folder (`Path`): the folder.
        manifest (`dict`): its manifest.
        digest (`str`): of its state; equal for all shards that are built of it.
        schema (`pyarrow.Schema`): the columns of all products; not read of an index in one piece.
        counts (`WordCounts`, *optional*): of all products' words, if they are indexed.
    """

    folder: Path
    manifest: dict
    digest: str = ""
    schema: pa.Schema | None = None
    counts: WordCounts | None = None

    @classmethod
    def of(cls, folder: Path, manifest: dict, words: bool, parts: list[Shard | None]) -> "Catalogue":
        """Reads what the parts have to know; nothing for an index in one piece."""
        if parts == [None]:
            return cls(folder, manifest)
        facts = {name: manifest[name] for name in ("model", "count", "dim", "shards")}
        found = cls(folder, manifest, checksum_of(facts), shown_schema(folder))
        found.counts = WordCounts()
        if words:
            for _, table in tqdm(found.products(None), desc="words", unit="shard", leave=False):
                found.counts += WordCounts.of(ProductRows(table).texts(manifest.get("fields", PRODUCT_FIELDS)))
        return found

    def products(self, shard: Shard | None) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """The vectors and columns of a shard's products, or of all, part by part."""
        for vectors, table in iterate_shown(self.folder):
            if self.schema is not None:
                table = pa.concat_tables([self.schema.empty_table(), table], promote_options="permissive")
            if shard is not None:
                ids = table.column("_id").to_pylist()
                rows = np.array([row for row, one in enumerate(ids) if shard_of(one, shard.of) == shard.number], int)
                vectors, table = vectors[rows], table.take(rows)
            yield vectors, table

    def told(self, shard: Shard | None) -> Shard | None:
        """A shard as it is once it is brought to this state."""
        return shard and replace(shard, catalogue=self.digest)


def update(
    arguments: IndexArguments, place: Path, catalogue: Catalogue, shard: Shard | None, queries: np.ndarray | None
) -> ProductIndex:
    """Brings the index of a folder to what the catalogue holds; it is not saved yet."""
    index = ProductIndex.load(place)
    index.check_model(catalogue.manifest["model"], catalogue.manifest.get("blocks"))
    counts = synchronise(index, catalogue.products(shard), arguments.threads)
    print(f"index: {', '.join(f'{count:,} {what}' for what, count in counts.items())}", flush=True)
    if index.measured.recall is None or index.measured.changed > MEASURED_AGAIN * len(index):
        index.choose_width(arguments.recall, queries, arguments.threads)
    if shard and index.hybrid and index.shard != catalogue.told(shard):
        index.index_words(catalogue.counts)  # words of products in other shards count too
    elif not shard and index.hybrid and counts["removed"]:
        index.index_words()  # those that went count no more
    index.shard = catalogue.told(shard)
    return index


def compact(arguments: IndexArguments, folder: Path) -> ProductIndex:
    """Compacts, saves and returns the index of a folder."""
    index = ProductIndex.load(folder)
    free = len(index.catalogue.free)
    index.compact(arguments.threads, progress=True)
    print(f"index: {format_measured(index.measured)}", flush=True)
    index.save(folder)
    print(f"index: {len(index):,} products in {folder}; {free:,} free rows were dropped", flush=True)
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


def build(
    catalogue: Catalogue, arguments: IndexArguments, queries: np.ndarray | None = None, shard: Shard | None = None
) -> ProductIndex:
    """An index of all vectors of a folder, or of a shard's; they are read part by part and held in half precision.

    Raises:
        DataError: if the manifest promises another number of products than there are.
    """
    manifest, exact = catalogue.manifest, np.float32 if arguments.dtype == "f32" else np.float16
    vectors, tables, count = np.empty((manifest["count"], manifest["dim"]), dtype=exact), [], 0
    for some, table in catalogue.products(shard):
        if count + len(some) <= len(vectors):
            vectors[count : count + len(some)] = some
        tables.append(table)
        count += len(some)
    if count > len(vectors) or (shard is None and count < len(vectors)):
        raise DataError(
            f"{catalogue.folder}: manifest.json tells of {manifest['count']:,} products, there are {count:,}; "
            "embed again"
        )
    options = {"words": arguments.words, "threads": arguments.threads, "progress": True}
    options |= {"recall": arguments.recall, "queries": queries, "fields": manifest.get("fields", PRODUCT_FIELDS)}
    return ProductIndex.build(
        vectors[:count],
        pa.concat_tables(tables, promote_options="permissive"),
        manifest["model"],
        arguments.dtype,
        manifest.get("blocks"),
        shard=catalogue.told(shard),
        counts=catalogue.counts if shard else None,
        **options,
    )


def synchronise(
    index: ProductIndex, products: Iterator[tuple[np.ndarray, pa.Table]], threads: int = 1
) -> dict[str, int]:
    """Brings an index to what a catalogue holds, part by part, and counts what it did.

    A product whose vector is the same but whose columns changed, such as the price, costs next to nothing.
    """
    counts = dict.fromkeys(("added", "updated", "shown anew", "removed", "unchanged"), 0)
    gone, columns_there = set(index.catalogue.rows), index.catalogue.table.column_names
    for vectors, table in tqdm(products, desc="update", unit="shard", leave=False):
        if PICTURE in table.column_names and PICTURE not in columns_there:  # built when no names were kept
            table = table.drop_columns(PICTURE)
        ids = table.column("_id").to_pylist()
        gone.difference_update(ids)
        is_known = np.array([product_id in index for product_id in ids], dtype=bool)
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
