"""Vectors of a catalogue on disk: Parquet shards and a manifest that tells which of them count.

    folder/manifest.json
    folder/queries.npy              vectors of some queries of the catalogue, to measure searches with
    folder/shards/000000-1f0c....parquet

A shard holds some consecutive products of the catalogue: `_id`, `hash` (of all that decides the vector), `vector` (a
fixed-size list of float16) and the catalogue's own columns, to be shown and filtered by. Its name tells its content,
and it appears whole or not at all. A run changes the folder's state by replacing the manifest, at its end: one that
was killed leaves the state from before, and shards whose vectors the next run uses again. The manifest has the sha256
of each file, and of itself.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_mmfusion.checksums import checksum_of, existing_file
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.json_files import parse_json
from training.catalogue.stream import ROW, id_keys
from training.common.errors import Problems
from training.common.files import sha256_of, write_bytes, write_json
from training.features.product_columns import PICTURE, picture_names

FORMAT = 2
MANIFEST = "manifest.json"
QUERIES = "queries.npy"
OWN_COLUMNS = ("_id", "hash", "vector")
ROW_BITS = 32
OPEN_SHARDS = 4


def read_vectors_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder that `training.embed` wrote.

    Returns:
        `format`, `model` (its fingerprint), `data`, `split`, `count`, `dim`, `blocks` (name to width, in order),
        `fields` (that make a product's text, in order), `queries` (see [`write_sampled_queries`]) and `shards`, a
        list of `file`, `rows` and `sha256`.

    Raises:
        DataError: if there is none, it is of another format, or not as it was written.
    """
    file = existing_file(Path(folder, MANIFEST), "a folder that training.embed wrote")
    again = "run training.embed again, which takes the vectors that are there"
    try:
        manifest = parse_json(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file}: is damaged ({error}); {again}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "shards" not in manifest:
        raise DataError(f"{file}: is not of format {FORMAT}; {again}")
    if manifest.pop("checksum", None) != checksum_of(manifest):
        raise DataError(f"{file}: is not as it was written (its checksum is wrong); {again}")
    return manifest


def iterate_shards(folder: str | Path) -> Iterator[pa.Table]:
    """The shards of a folder, in the catalogue's order, each as a table of all its columns.

    Raises:
        DataError: if a shard is missing, or is not the one that the manifest tells of.
    """
    for facts in read_vectors_manifest(folder)["shards"]:
        file = Path(folder, "shards", facts["file"])
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: can't be read ({error.strerror}); run training.embed again") from error
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise DataError(f"{file}: is damaged (its sha256 is not the manifest's); delete it and run training.embed")
        yield pq.read_table(pa.BufferReader(content))


def read_vectors(folder: str | Path) -> tuple[np.ndarray, pa.Table]:
    """Vectors `(N, dim)`, float32, and the table of the other columns, all in memory.

    Raises:
        DataError: as `iterate_shards` does.
    """
    vectors, others = [], []
    for table in iterate_shards(folder):
        vectors.append(vectors_of(table).astype(np.float32))
        others.append(table.drop_columns("vector").replace_schema_metadata(None))
    return np.concatenate(vectors), pa.concat_tables(others, promote_options="permissive").combine_chunks()


def iterate_shown(folder: str | Path) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """The vectors `(rows, dim)` of each shard, float16, and the columns to show."""
    for table in iterate_shards(folder):
        yield vectors_of(table), table.drop_columns(["vector", "hash"]).replace_schema_metadata(None)


def shown_schema(folder: str | Path) -> pa.Schema:
    """The schema of all products' columns to show, as [`iterate_shown`] gives them in parts."""
    manifest = read_vectors_manifest(folder)
    schemas = [pq.read_schema(Path(folder, "shards", shard["file"])) for shard in manifest["shards"]]
    shown = [pa.schema([field for field in schema if field.name not in OWN_COLUMNS[1:]]) for schema in schemas]
    return pa.unify_schemas([pa.schema([("_id", pa.string())]), *shown], promote_options="permissive")


def write_sampled_queries(folder: Path, vectors: np.ndarray) -> dict[str, Any] | None:
    """Writes vectors `(Q, dim)` of queries as float16; `file` and `sha256` for the manifest, `None` without any."""
    if not len(vectors):
        return None
    stream = io.BytesIO()
    np.save(stream, vectors.astype(np.float16), allow_pickle=False)
    write_bytes(folder / QUERIES, stream.getvalue())
    return {"file": QUERIES, "sha256": hashlib.sha256(stream.getvalue()).hexdigest()}


def read_sampled_queries(folder: str | Path) -> np.ndarray | None:
    """What [`write_sampled_queries`] wrote, float32; `None` if the catalogue has no queries.

    Raises:
        DataError: if the file is missing or damaged.
    """
    facts = read_vectors_manifest(folder).get("queries")
    if facts is None:
        return None
    file = Path(folder, facts["file"])
    if not file.is_file() or sha256_of(file) != facts["sha256"]:
        raise DataError(f"{file}: is missing or damaged (its sha256 is not the manifest's); run training.embed again")
    return np.load(file, allow_pickle=False).astype(np.float32)


def vectors_of(table: pa.Table) -> np.ndarray:
    """The column `vector` of a shard's table: float16 of shape `(N, dim)`."""
    column = table.column("vector").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def vector_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """The other way round."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1])


def unkept_columns(schema: pa.Schema) -> dict[str, str]:
    """The columns of a catalogue that can't be kept beside the vectors, but for the pictures, and why."""
    reasons = {}
    for field in schema:
        if field.name in OWN_COLUMNS[1:]:
            reasons[field.name] = "its name is taken by the vectors' own columns; rename it"
        elif field.name != PICTURE and _holds_bytes(field.type):
            reasons[field.name] = "it holds bytes"
    return reasons


def kept_columns(table: pa.Table) -> pa.Table:
    """The columns of products that are kept beside their vectors: `_id`, `image` as the first picture's name, and all
    but what [`unkept_columns`] tells of; see `product_columns.py`.

    Strings, numbers and truth values stay what they are; times become text and decimals numbers; lists and structures
    become JSON.
    """
    left_out = {ROW, *unkept_columns(table.schema)}
    columns = {"_id": table.column("_id")}
    for name in table.column_names:
        if name not in left_out:
            columns[name] = picture_names(table.column(name)) if name == PICTURE else _plain(table.column(name))
    return pa.table(columns)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind):
        texts = [
            None if value is None else json.dumps(value, ensure_ascii=False, default=str)
            for value in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.cast(pa.float32() if pa.types.is_float16(kind) else kind)
    return column.cast(pa.float64() if pa.types.is_decimal(kind) else pa.string())


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def write_shard(folder: Path, number: int, key: str, table: pa.Table, unreadable: dict[str, str]) -> dict[str, Any]:
    """Writes a shard, unless the same file is there already.

    Args:
        folder (`Path`): the folder of the manifest.
        number (`int`): the shard's place in the catalogue.
        key (`str`): digest of all but the products that decides the vectors; vectors are used again where it is equal.
        table (`pyarrow.Table`): as the module tells.
        unreadable (`dict[str, str]`): why a picture can't be read, by product id.

    Returns:
        `file`, `rows` and `sha256`, for the manifest.
    """
    facts = json.dumps({"key": key, "unreadable": unreadable}, sort_keys=True, ensure_ascii=False)
    shown = json.dumps(table.drop_columns("vector").to_pylist(), ensure_ascii=False, default=str)
    digest = hashlib.sha256(f"{facts}\0{shown}".encode()).hexdigest()[:16]
    file = folder / "shards" / f"{number:06d}-{digest}.parquet"
    stream, text_columns = io.BytesIO(), [name for name in table.column_names if name != "vector"]
    table = table.replace_schema_metadata({"mmfusion": facts})
    pq.write_table(table, stream, compression="zstd", use_dictionary=text_columns, write_page_checksum=True)
    content = stream.getvalue()
    if not file.is_file() or file.read_bytes() != content:
        write_bytes(file, content)
    return {"file": file.name, "rows": len(table), "sha256": hashlib.sha256(content).hexdigest()}


def write_vectors_manifest(folder: Path, facts: dict[str, Any], shards: list[dict[str, Any]]) -> None:
    """Makes some shards the folder's state, and removes all others.

    Args:
        folder (`Path`): the folder.
        facts (`dict`): the manifest's other entries; see [`read_vectors_manifest`].
        shards (`list[dict]`): what `write_shard` returned, in any order; more entries are left out.
    """
    shards = [{name: shard[name] for name in ("file", "rows", "sha256")} for shard in shards]
    shards.sort(key=lambda shard: shard["file"])
    manifest = {"format": FORMAT} | facts | {"shards": shards}
    write_json(folder / MANIFEST, manifest | {"checksum": checksum_of(manifest)})
    kept = {shard["file"] for shard in shards}
    for file in [*folder.glob("shards/*-*.parquet"), *folder.glob("shards/.*.mmfusion-partial.parquet")]:
        if file.name not in kept:
            file.unlink()


class KnownVectors:
    """Vectors of all shards in a folder that were made with the same key, found by product id and hash.

    Needs 16 bytes of memory a product; vectors are read when they are asked for.

    Args:
        folder (`Path`): the folder of the manifest; shards of a run that was killed count as well.
        key (`str`): see [`write_shard`].
        problems (`Problems`): gets shards that can't be read; they count as not there.
    """

    def __init__(self, folder: Path, key: str, problems: Problems):
        self.problems = problems
        self.files, self.unreadable = [], {}
        keys, places = [], []
        for file in sorted(folder.glob("shards/*-*.parquet")):
            if (found := self._open(file, key)) is not None:
                keys.append(found)
                places.append(np.arange(len(found), dtype=np.uint64) + (len(self.files) << ROW_BITS))
                self.files.append(file)
        self.keys = np.concatenate([*keys, np.empty(0, np.uint64)])
        order = np.argsort(self.keys, kind="stable")
        self.keys = self.keys[order]
        self.places = np.concatenate([*places, np.empty(0, np.uint64)])[order]
        self._read = lru_cache(OPEN_SHARDS)(self._read_file)

    def find(self, ids: list[str], hashes: list[str], dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of some products.

        Args:
            ids (`list[str]`): N ids.
            hashes (`list[str]`): their hashes.
            dim (`int`): width of the vectors.

        Returns:
            Whether each was found, `(N,)`, and float16 `(N, dim)`, zeros where not.
        """
        found, vectors = np.zeros(len(ids), dtype=bool), np.zeros((len(ids), dim), dtype=np.float16)
        if not len(self.keys) or not ids:
            return found, vectors
        wanted = content_keys(ids, hashes)
        positions = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        hits = np.flatnonzero(self.keys[positions] == wanted)
        places = self.places[positions[hits]]
        for number in np.unique(places >> ROW_BITS).tolist():
            if (shard := self._read(number)) is None:
                continue
            if shard[2].shape[1] != dim:
                self._damaged(self.files[number], ValueError(f"its vectors are not of {dim} dimensions"))
                continue
            of_file = places >> ROW_BITS == number
            for row, place in zip(hits[of_file].tolist(), places[of_file].tolist(), strict=True):
                place &= (1 << ROW_BITS) - 1
                if (ids[row], hashes[row]) == (shard[0][place], shard[1][place]):  # else two have one 64-bit key
                    found[row], vectors[row] = True, shard[2][place]
        return found, vectors

    def _open(self, file: Path, key: str) -> np.ndarray | None:
        try:
            facts = json.loads((pq.read_schema(file).metadata or {}).get(b"mmfusion", b"{}"))
            if facts.get("key") != key:
                return None
            table = pq.read_table(file, columns=["_id", "hash"], page_checksum_verification=True)
        except (OSError, ValueError, pa.ArrowException) as error:
            return self._damaged(file, error)
        self.unreadable.update(facts["unreadable"])
        return content_keys(table.column("_id").to_pylist(), table.column("hash").to_pylist())

    def _read_file(self, number: int) -> tuple[list[str], list[str], np.ndarray] | None:
        file = self.files[number]
        try:
            table = pq.read_table(file, columns=["_id", "hash", "vector"], page_checksum_verification=True)
            vectors = vectors_of(table)
        except (OSError, ValueError, AttributeError, pa.ArrowException) as error:  # a column of something else
            return self._damaged(file, error)
        return table.column("_id").to_pylist(), table.column("hash").to_pylist(), vectors

    def _damaged(self, file: Path, error: Exception) -> None:
        file.unlink(missing_ok=True)  # else it would be taken for the shard of its name
        self.problems.add("damaged shard (its products are embedded anew)", f"{file}: {one_line(error)}")


def content_keys(ids: list[str], hashes: list[str]) -> np.ndarray:
    """64-bit digests of products and their contents: `uint64` of shape `(N,)`."""
    return id_keys(f"{product_id}\0{content}" for product_id, content in zip(ids, hashes, strict=True))
