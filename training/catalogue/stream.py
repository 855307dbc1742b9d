"""Reads the products of a catalogue of any size in order, a few at a time; the layout is that of `layout.py`."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_mmfusion.errors import DataError
from training.catalogue.layout import (
    EMPTY,
    add_unusable,
    check_content,
    check_exists,
    check_required,
    error_reason,
    id_strings,
    load_table,
    quiet_datasets,
    source_name,
    split_files,
    split_names,
    undecoded,
    unreadable,
)
from training.catalogue.options import ALL
from training.common.errors import Problems

ROW = "row in its stream"  # a column that no catalogue has
IN_TWO_SPLITS = "product that an earlier split holds, too (taken once)"
SCANNED_ROWS = 65_536
READ_BYTES = 2**20  # read ahead in a column; else a row group's column is read whole


@dataclass
class ProductStream:
    """The products of a catalogue, or of some of its splits, read from their files a few at a time; made by
    [`stream_products`].

    Attributes:
        name (`str`): where they come from and which split, such as `data/demo_shop[test]`.
        sources (`list[str]`): each split's file, or its data set and name, for messages.
        starts (`list[int]`): the row that each split begins at.
        files (`list[str]`): Parquet files, or Hub addresses of such.
        table (`datasets.Dataset` or `None`): the rows, memory-mapped, of files that are no Parquet.
        schema (`pyarrow.Schema`): the columns of all splits.
        problems (`Problems`): what was left out, counted.
        count (`int`): rows in the source, with those that are left out.
        left_out (`set[int]`): rows whose id is missing or was seen before.
    """

    name: str
    sources: list[str]
    starts: list[int]
    files: list[str]
    table: datasets.Dataset | None
    schema: pa.Schema
    problems: Problems = field(default_factory=Problems)
    count: int = 0
    left_out: set[int] = field(default_factory=set)

    def tables(self, spans: list[tuple[int, int]], size: int) -> Iterator[tuple[int, bool, pa.Table]]:
        """The products of some spans of rows; row groups outside of them are not read.

        Args:
            spans (`list[tuple[int, int]]`): first row and the one after the last, in ascending order.
            size (`int`): most rows of a table; a table never has rows of two spans.

        Yields:
            The number of the span, whether it ends here, and a table with ids as strings and the extra column
            `ROW` of row numbers.

        Raises:
            DataError: if a file can't be read.
        """
        pieces, first, piece = self._pieces(spans, size), 0, None
        for number, span in enumerate(spans):
            for start in range(*span, size):
                row, end, parts = start, min(start + size, span[1]), []
                while row < end:
                    while piece is None or first + len(piece) <= row:
                        first, piece = next(pieces, (row, None))
                        if piece is None:
                            raise DataError(f"{self.name}: ends before row {row}; was it written anew? run again")
                    parts.append(piece.slice(row - first, end - row))
                    row += len(parts[-1])
                yield number, end == span[1], self._usable(pa.concat_tables(parts, promote_options="default"), start)

    def where(self, row: int, column: str) -> str:
        """Names a cell for a message: file, row (counted from 0) and field."""
        part = self._part_of(row)
        return f"{self.sources[part]} row {row - self.starts[part]}, field {column}"

    def _part_of(self, row: int) -> int:
        return bisect_right(self.starts, row) - 1

    def scan(self) -> None:
        """Counts the rows and finds those to leave out, from the ids alone and with 8 bytes of memory a row.

        Raises:
            DataError: if no row has an id.
        """
        keys = [id_keys(ids) for ids in self._ids()]
        self.count = sum(map(len, keys))
        once, times = np.unique(np.concatenate(keys), return_counts=True) if keys else (np.zeros(0), np.zeros(0))
        doubtful = set(once[times > 1].tolist()) | set(id_keys([""]).tolist())
        if len(doubtful) > 1 or np.isin(list(doubtful), once).any():
            self._leave_out(doubtful)
        if len(self.left_out) == self.count:
            raise DataError(f"{self.sources[0]}: {EMPTY}")

    def _leave_out(self, doubtful: set[int]) -> None:
        """Looks at all rows whose key is doubtful, since different ids may have the same key."""
        seen, row = {}, 0
        for ids in self._ids():
            for key, product_id in zip(id_keys(ids).tolist(), ids, strict=True):
                if key in doubtful and (not product_id or product_id in seen):
                    where, part = self.where(row, "_id"), self._part_of(row)
                    if seen.get(product_id, part) == part:
                        add_unusable(self.problems, product_id, where)
                    else:
                        self.problems.add(IN_TWO_SPLITS, f"{where}: {product_id}")
                    self.left_out.add(row)
                elif key in doubtful:
                    seen[product_id] = self._part_of(row)
                row += 1

    def _ids(self) -> Iterator[list[str]]:
        for _, piece in self._pieces(None, SCANNED_ROWS, ["_id"]):
            yield id_strings(piece.column("_id").to_pylist())

    def _pieces(self, spans, size, columns=None) -> Iterator[tuple[int, pa.Table]]:
        """Tables, each with the number of its first row, that hold at least the rows of the spans (`None`: all)."""
        if self.table is not None:
            table = self.table.select_columns(columns) if columns else self.table
            for start, stop in spans or [(0, len(table))]:
                for row in range(start, stop, size):
                    yield row, table.with_format("arrow")[row : min(row + size, stop)]
            return
        row, stops = 0, [stop for _, stop in spans or []]
        for file in self.files:
            try:
                with fsspec.open(file, "rb") as opened:
                    parquet = pq.ParquetFile(opened, buffer_size=READ_BYTES)
                    for group in range(parquet.num_row_groups):
                        end = row + parquet.metadata.row_group(group).num_rows
                        following = bisect_right(stops, row)
                        if spans is None or (following < len(spans) and spans[following][0] < end):
                            for batch in parquet.iter_batches(size, row_groups=[group], columns=columns):
                                yield row, pa.Table.from_batches([batch])
                                row += len(batch)
                        row = end
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{file}: can't be read: {error_reason(error)}") from error

    def _usable(self, table: pa.Table, first: int) -> pa.Table:
        rows = [row for row in range(first, first + len(table)) if row not in self.left_out]
        if len(rows) < len(table):
            table = table.take(pa.array([row - first for row in rows], pa.int64()))
        ids = pa.array(id_strings(table.column("_id").to_pylist()), pa.string())
        table = table.set_column(table.column_names.index("_id"), "_id", ids)
        return table.append_column(ROW, pa.array(rows, pa.int64()))


def stream_products(data: str | os.PathLike, split: str = ALL) -> ProductStream:
    """Opens and checks the products of a catalogue of any size; see [`load_products`].

    Parquet files are read where they are, also on the Hub; of other formats `datasets` makes a memory-mapped copy.

    Args:
        data (`str`): a local folder or a Hub dataset id with a configuration `corpus`.
        split (`str`, *optional*, defaults to `"all"`): a split's name such as `test`, several with `+` between, or
            `all`: the whole catalogue. A product that several splits hold is taken once.

    Raises:
        DataError: as `load_products` does, or if the splits' columns differ.
    """
    names = split_names(data) if split == ALL else split.split("+")
    parts = [_open_split(data, name) for name in names]
    tables = [part.table for part in parts if part.table is not None]
    try:
        table = datasets.concatenate_datasets(tables) if tables else None
        schema = pa.unify_schemas([part.schema.remove_metadata() for part in parts], promote_options="permissive")
    except (ValueError, pa.ArrowException) as error:
        raise DataError(f"{data}: its splits have different columns: {error_reason(error)}") from error
    starts = [0, *accumulate(part.count for part in parts)][:-1]
    sources, files = [part.sources[0] for part in parts], [file for part in parts for file in part.files]
    stream = ProductStream(str(data) if split == ALL else f"{data}[{split}]", sources, starts, files, table, schema)
    stream.scan()
    return stream


def _open_split(data: str | os.PathLike, split: str) -> ProductStream:
    """One split, its rows counted but not looked at."""
    check_exists(data)
    count, source = 0, f"{data} corpus[{split}]"
    try:
        with quiet_datasets():
            reader, files, _ = split_files(data, "corpus", split)
        source = source_name(data, "corpus", split, files)
        for file in files if reader == "parquet" else ():
            with fsspec.open(file, "rb") as opened:
                parquet = pq.ParquetFile(opened)
                schema, count = parquet.schema_arrow, count + parquet.metadata.num_rows
    except Exception as error:  # see load_table
        raise unreadable(source, data, "corpus", split, error) from error
    if reader == "parquet":
        table = None
        check_required(schema.names, "corpus", source)
    else:
        table, source = load_table(data, "corpus", split)
        table, count, files = undecoded(table), len(table), []
        schema = table.features.arrow_schema
    check_content(schema.names, source)
    return ProductStream(f"{data}[{split}]", [source], [0], files, table, schema, count=count)


def id_keys(texts: Iterable[str]) -> np.ndarray:
    """A 64-bit digest of each text: `uint64` of shape `(N,)`."""
    return np.frombuffer(b"".join(hashlib.blake2b(t.encode(), digest_size=8).digest() for t in texts), np.uint64)
