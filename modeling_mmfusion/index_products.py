"""What an index shows of its products: rows of a memory-mapped Arrow table, ids, and changes."""

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import ProductIndexError
from .index_filters import NO_READINGS, Readings, UnknownValue, column_readings, passes, unknown_values
from .text_mmfusion import join_fields

CACHED_FILTERS = 32


class ProductRows:
    """Products by row. A row that is free has a null `_id` and is given to the next product that is added.

    Changes are kept beside the table, which may be a file's, until [`~ProductRows.rebase`].

    Args:
        table (`pyarrow.Table`): a row a product, with the column `_id` and any others.
    """

    def __init__(self, table: pa.Table):
        self.table = with_large_strings(table)
        self.changed: dict[int, dict] = {}  # the whole product, or {} where it was removed
        self.size = table.num_rows
        self.free = np.flatnonzero(self.table.column("_id").is_null().to_numpy()).tolist()[::-1]
        self._rows: dict[str, int] | None = None
        self._masks: dict[str, tuple[Mapping, Readings, np.ndarray]] = {}
        self._passing_rows: dict[str, np.ndarray] = {}
        self._one_at_a_time = Lock()

    def __len__(self) -> int:
        return self.size - len(self.free)

    @property
    def rows(self) -> dict[str, int]:
        """Row by product id, made when it is first asked for: searches don't need it."""
        if self._rows is None:
            ids = self.merged().column("_id").to_pylist()
            self._rows = {product_id: row for row, product_id in enumerate(ids) if product_id is not None}
        return self._rows

    def next_rows(self, count: int) -> list[int]:
        """The rows that the next `count` new products will get: free ones, then new ones."""
        reused = self.free[::-1][:count]
        return reused + list(range(self.size, self.size + count - len(reused)))

    def put(self, row: int, product: dict) -> None:
        """Stores a product in a row that holds its earlier version, or in the next row for a new one."""
        if self.free and row == self.free[-1]:
            self.free.pop()
        self.size = max(self.size, row + 1)
        self._change(row, product)
        self.rows[product["_id"]] = row

    def remove(self, product_id: str) -> int:
        """Frees a product's row and gives it."""
        row = self.rows.pop(product_id)
        self._change(row, {})
        self.free.append(row)
        return row

    def take(self, rows: np.ndarray) -> list[dict]:
        """The products of some rows, with all their columns."""
        kept = [row for row in rows.tolist() if row not in self.changed]
        stored = dict(zip(kept, self.table.take(pa.array(kept, pa.int64())).to_pylist(), strict=True))
        return [stored[row] if row in stored else self._whole(self.changed[row]) for row in rows.tolist()]

    def ids(self, rows: np.ndarray) -> pa.Array:
        """The ids of some rows."""
        if not self.changed:
            return self.table.column("_id").take(pa.array(rows, pa.int64())).combine_chunks()
        return pa.array([product["_id"] for product in self.take(rows)], pa.large_string())

    def places(self, rows: np.ndarray) -> np.ndarray:
        """The place of each of some rows among them in the order of their ids, in which ties are found."""
        return pc.rank(self.ids(rows), sort_keys="ascending", tiebreaker="first").to_numpy()

    def _whole(self, product: dict) -> dict:
        return {name: product.get(name) for name in self.table.column_names}

    def texts(self, fields: Sequence[str]) -> Iterator[str]:
        """Some fields of each row as one text, as [`MMFusionProcessor`] joins them; `""` for free rows."""
        table = self.merged()
        for batch in table.to_batches(max_chunksize=10_000):
            yield from (
                join_fields(product, fields) if product["_id"] is not None else "" for product in batch.to_pylist()
            )

    def merged(self) -> pa.Table:
        """The table with all changes, free rows included."""
        if not self.changed:
            return self.table
        places = np.arange(self.size)
        places[list(self.changed)] = self.table.num_rows + np.arange(len(self.changed))
        changes = pa.Table.from_pylist(list(self.changed.values()), schema=self.table.schema)
        return pa.concat_tables([self.table, changes]).combine_chunks().take(pa.array(places))

    def rebase(self, table: pa.Table) -> None:
        """Takes a table that [`~ProductRows.merged`] gave, or its file, in place of the changes."""
        self.table, self.changed = table, {}

    def conform(self, products: pa.Table) -> pa.Table:
        """Products with this catalogue's columns; those that are missing are null.

        Raises:
            ProductIndexError: if a column is unknown or holds something else than here.
        """
        if unknown := sorted(set(products.column_names) - set(self.table.column_names)):
            raise ProductIndexError(f"the index has no column {unknown[0]!r}; it has {self._names()}")
        columns = {}
        for field in self.table.schema:
            if field.name not in products.column_names:
                columns[field.name] = pa.nulls(len(products), field.type)
                continue
            try:
                columns[field.name] = products.column(field.name).cast(field.type)
            except pa.ArrowException as error:
                raise ProductIndexError(
                    f"column {field.name!r} of the index holds {field.type}, not {products.column(field.name).type}"
                ) from error
        return pa.table(columns, schema=self.table.schema)

    def passing(self, where: Mapping[str, Any], readings: Readings = NO_READINGS) -> np.ndarray:
        """Which rows pass a filter; see [`ProductIndex.search`]. Kept for the next query that filters alike.

        Args:
            where (`Mapping[str, Any]`): conditions by column.
            readings (`Mapping[str, Reading]`, *optional*): how the whole catalogue's columns are read, if these rows
                are a part of it.

        Returns:
            Booleans, one a row or more; those beyond the last row are False.
        """
        with self._one_at_a_time:
            return self._passing(_key(where, readings), where, readings)

    def passing_rows(self, where: Mapping[str, Any], readings: Readings = NO_READINGS) -> np.ndarray:
        """The rows that pass a filter, in their order; kept as [`~ProductRows.passing`] keeps them."""
        with self._one_at_a_time:
            key = _key(where, readings)
            mask = self._passing(key, where, readings)
            if (rows := self._passing_rows.get(key)) is None:
                rows = np.flatnonzero(mask)
                if len(rows) < len(mask) / 8:  # others take memory, and are seldom asked for
                    self._passing_rows[key] = rows
            return rows

    def _passing(self, key: str, where: Mapping[str, Any], readings: Readings) -> np.ndarray:
        if key not in self._masks:
            self._check_columns(where)
            mask = np.zeros(self.size, dtype=bool)
            mask[: self.table.num_rows] = passes(self.table, where, readings)
            if len(self._masks) >= CACHED_FILTERS:
                oldest = next(iter(self._masks))
                self._masks.pop(oldest)
                self._passing_rows.pop(oldest, None)
            self._masks[key] = deepcopy(where), readings, mask
            self._update_mask(key, list(self.changed))
        return self._masks[key][2]

    def _check_columns(self, where: Mapping[str, Any]) -> None:
        if unknown := sorted(set(where) - set(self.table.column_names), key=str):
            raise ProductIndexError(f"there is no column {unknown[0]!r} to filter by; there are {self._names()}")

    def readings(self, where: Mapping[str, Any]) -> Readings:
        """How these rows' columns are read for a filter; see [`column_readings`]."""
        self._check_columns(where)
        return column_readings(self.merged(), where)

    def unknown_values(
        self, where: Mapping[str, Any], readings: Readings = NO_READINGS
    ) -> dict[tuple[str, int], UnknownValue]:
        """What a filter asks for that no product has; see [`unknown_values`]."""
        self.passing(where, readings)
        return unknown_values(self.merged(), where, readings)

    def _change(self, row: int, product: dict) -> None:
        self.changed[row] = product
        for key in self._masks:
            self._update_mask(key, [row])

    def _update_mask(self, key: str, rows: list[int]) -> None:
        if not rows:
            return
        where, readings, mask = self._masks[key]
        if (more := max(rows) + 1 - len(mask)) > 0:
            mask = np.concatenate([mask, np.zeros(more + len(mask) // 8, dtype=bool)])
        changes = pa.Table.from_pylist([self.changed[row] for row in rows], schema=self.table.schema)
        mask[rows] = passes(changes, where, readings)
        self._passing_rows.pop(key, None)
        self._masks[key] = where, readings, mask

    def _names(self) -> str:
        return ", ".join(self.table.column_names)


def _key(where: Mapping[str, Any], readings: Readings) -> str:
    """What filters that are alike have in common."""
    return repr((sorted(where.items(), key=str), readings))


def with_large_strings(table: pa.Table) -> pa.Table:
    """A table in one piece with 64-bit offsets, which don't overflow beyond 2 GB of text; dictionaries as strings."""
    fields = []
    for field in table.schema:
        value_type = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        fields.append(pa.field(field.name, pa.large_string() if pa.types.is_string(value_type) else value_type))
    return table.cast(pa.schema(fields)).combine_chunks()


def write_table(table: pa.Table, file: str | os.PathLike) -> None:
    """Writes a table in Arrow's IPC format, which is read by mapping it into memory."""
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def map_table(file: str | os.PathLike) -> pa.Table:
    """A file that [`write_table`] wrote, mapped into memory: what is not looked at is not read."""
    return pa.ipc.open_file(pa.memory_map(str(file), "r")).read_all()
