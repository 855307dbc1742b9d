r"""Rows of delimited text as they were meant: cut prices joined, a database's `\N` empty, pictures as a list.

In `A1,Mug,12,50` under `id,title,price` the price has been cut at its comma. Rows with too many cells are joined where
prices stand if that makes every such row among the first ones as long as the header, in one way alone, and some of
them can't be read otherwise; else they stay broken rows, which are counted.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations, islice

from delimited import Delimited, Record

JOINED = "price that a comma cut into two cells (joined)"
NULLS = r"cell that is \N, as databases write it (taken for missing)"
FIRST_ROWS = 200  # by which it is found out what rows mean
PRICE_NAME = re.compile(r"price|preis|prix|tarif|precio|prezzo|prijs|\bpris\b|cena|\bcost\b|\bm?rrp\b", re.IGNORECASE)
BEFORE_CENTS = re.compile(r"\s*([A-Za-z]{3}|[^\w\s])?\s*\d[\d.' ]*")
CENTS = re.compile(r"\d\d\s*([A-Za-z]{3}|[^\w\s])?\s*")
WITH_POINT = re.compile(r"\D*\d\.\d\d\D*")
LISTED = re.compile(r"image|picture|photo|\bimg\b|bild|product.?(highlight|detail)", re.IGNORECASE)
NULL = r"\N"
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "", "N": NULL}


class MeantRows:
    r"""The rows of a table, read once.

    Attributes:
        columns (`list[str]`): the columns with a name. Those of pictures that are there several times are one, a list;
            of others the second is called `size (2)`.
        said (`str`): what there is to tell of the table, `""` or with a comma in front.

    Args:
        table ([`Delimited`]): the table.
    """

    def __init__(self, table: Delimited):
        self.table, rows = table, table.rows()
        head = list(islice(rows, FIRST_ROWS))
        self.rows = chain(head, rows)
        self.lists = {name: self._columns_of(name) for name in table.twice if LISTED.search(name)}
        gone = {column for columns in self.lists.values() for column in columns[1:]}
        self.columns = [name for name in table.header if name and name not in gone]
        self.prices = [place for place, name in enumerate(table.header) if PRICE_NAME.search(name)]
        self.prices = self.prices if table.separator == "," and self._are_cut(head) else []
        self.has_nulls = any(NULL in (row or {}).values() for _, row in head)
        self.said = "".join(map(self._how, table.twice))
        self.said += r", backslashes as databases write them" if self.has_nulls else ""

    def __iter__(self) -> Iterator[tuple[Record, dict | None]]:
        """The rows below the header, each with its cells by column, `None` if it is broken."""
        for record, row in self.rows:
            if self.prices and len(record.cells) > len(self.table.header) and (cells := self._joined(record.cells)):
                record = replace(record, doubt=JOINED)
                row = {name: cell for name, cell in zip(self.table.header, cells, strict=True) if name}
            if row is not None and "\\" in record.text:
                row = self._of_database(record, row)
            if row is not None and self.lists:
                row = self._listed(row)
            yield record, row

    def _columns_of(self, name: str) -> list[str]:
        return [column for column in self.table.header if re.fullmatch(rf"{re.escape(name)}( \(\d+\))?", column)]

    def _how(self, name: str) -> str:
        columns = self._columns_of(name)
        how = "read as a list" if name in self.lists else f"the second is called {columns[1]!r}"
        return f", {len(columns)} columns {name!r} ({how})"

    def _listed(self, row: dict) -> dict:
        for name, columns in self.lists.items():
            cells = [row.pop(column) for column in columns]
            row[name] = [cell for cell in cells if cell.strip()]
        return row

    def _of_database(self, record: Record, row: dict[str, str]) -> dict[str, str]:
        nulls = {name for name, cell in row.items() if cell == NULL}
        if nulls:
            record.doubt = "; ".join(filter(None, (record.doubt, NULLS)))
        if self.has_nulls:
            row = {name: ESCAPED.sub(lambda found: ESCAPES.get(found[1], found[1]), row[name]) for name in row}
        return {name: "" if name in nulls else cell for name, cell in row.items()}

    def _are_cut(self, head: list[tuple[Record, dict | None]]) -> bool:
        """Whether prices have been cut at their commas in all of the first rows with too many cells."""
        width = len(self.table.header)
        long = [record.cells for record, _ in head if len(record.cells) > width]
        whole = [record.cells[place] for record, _ in head if len(record.cells) == width for place in self.prices]
        must = any(any(cell.strip() for cell in cells[width:]) for cells in long)
        return must and all(map(self._joined, long)) and not any(map(WITH_POINT.fullmatch, whole))

    def _joined(self, cells: list[str]) -> list[str] | None:
        """A row with too many cells as long as the header; `None` if there is no way or several."""
        width, found = len(self.table.header), []
        while len(cells) > width:
            for places in combinations(self.prices, len(cells) - width):
                found += filter(None, [joined_at(cells, places)])
            if cells[-1].strip():
                break
            cells = cells[:-1]
        return found[0] if len(found) == 1 else None


def joined_at(cells: list[str], places: tuple[int, ...]) -> list[str] | None:
    """Cells with the two of each price joined again; `None` if they are no halves of one.

    >>> joined_at(["A1", "Mug", "12", "50"], (2,))
    ['A1', 'Mug', '12,50']
    """
    joined = list(cells)
    for place in places:
        before, cents = joined[place : place + 2]
        if not (BEFORE_CENTS.fullmatch(before) and CENTS.fullmatch(cents)):
            return None
        joined[place : place + 2] = [f"{before},{cents}"]
    return joined
