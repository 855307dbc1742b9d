"""Records of CSV and TSV text, whether its quotes follow the rule or not; no row is swallowed by a quote.

By the rule (RFC 4180) a cell that begins with a quote ends at a quote that a separator or the end of a line follows,
and anything may stand in between: separators, line breaks, doubled quotes. Many exports only seem to follow it. Where
`"Vintage" mug` or `"5 inch` stand as somebody typed them, a reader by the rule gives up, or takes all rows up to some
later quote for one cell without a word.

So a record is read by the rule as long as the file's own header bears that out, and else line by line with quotes as
letters like any other.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count

BARE_QUOTE = "quote that doesn't follow the rule for tables (kept as it stands)"
SEVERAL_LINES = "quoted cell over several lines that could be rows (kept as one cell)"
LONGEST_CELL = 2**24  # characters; csv has one limit for all, of 131,072
TAKEN_LINES = 10_000
csv.field_size_limit(LONGEST_CELL)


@dataclass
class Record:
    """One row of a table; the first is its header.

    Attributes:
        row (`int`): its number as a spreadsheet shows it, from 1 and with empty lines.
        cells (`list[str]`): its cells; as many as the header has, unless it is broken.
        text (`str`): what stands in the file.
        doubt (`str`): what there is to tell of its quotes, `BARE_QUOTE` or `SEVERAL_LINES`; mostly `""`.
    """

    row: int
    cells: list[str]
    text: str
    doubt: str = ""


class _Lines:
    """Lines that can be looked at, from the first that wasn't taken, before they are taken."""

    def __init__(self, lines: Iterable[str]):
        self.source, self.ahead, self.first = iter(lines), [], 0

    def __iter__(self) -> Iterator[str]:
        for place in count():
            if self.first + place == len(self.ahead):
                if (line := next(self.source, None)) is None:
                    return
                self.ahead.append(line)
            yield self.ahead[self.first + place]

    def take(self, number: int) -> None:
        self.first += number
        if self.first > TAKEN_LINES:
            del self.ahead[: self.first]
            self.first = 0


def read_records(lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    """The records of a table; empty lines are left out.

    Args:
        lines (`Iterable[str]`): with their ends, as a file gives them that was opened with `newline=""`.
        delimiter (`str`): what separates cells.

    Yields:
        [`Record`], the header first.
    """
    ahead, row, width = _Lines(lines), 0, 0
    while (line := next(iter(ahead), None)) is not None:
        row += 1
        if not line.strip("\r\n"):
            ahead.take(1)
            continue
        cells, size, doubt = _next_record(ahead, line, delimiter, width)
        width = width or len(cells)
        text = "".join(line for line, _ in zip(ahead, range(size), strict=False))
        yield Record(row, cells, text.strip("\r\n"), doubt)
        ahead.take(size)


def _next_record(ahead: _Lines, line: str, delimiter: str, width: int) -> tuple[list[str], int, str]:
    """The next record's cells, its number of lines and what is doubtful."""
    plain = _plain_cells(line, delimiter)
    if '"' not in line:
        return plain, 1, ""
    cells, size = _by_rule(ahead, delimiter)
    # a quoted tab hardly ever is one, while a quoted comma in a row that is too short may well be
    is_odd_tab = delimiter == "\t" and size == 1 and len(cells) != width == len(plain)
    if size == 0 or is_odd_tab:
        return plain, 1, BARE_QUOTE
    if size == 1:
        return cells, 1, ""
    if not any(_may_swallow(cell, delimiter, width) for cell in cells):
        return cells, size, ""
    width = width or len(plain)
    lines = [_plain_cells(line, delimiter) for line, _ in zip(ahead, range(size), strict=False)]
    rows = [len(found) == width and not _is_prose(found) for found in lines]
    if sum(rows) > size / 2 or (len(cells) != width and any(rows)):
        return plain, 1, BARE_QUOTE
    return cells, size, SEVERAL_LINES if any(len(found) == width for found in lines[1:]) else ""


def _by_rule(lines: Iterable[str], delimiter: str) -> tuple[list[str], int]:
    """The first record's cells and its number of lines, 0 if it breaks the rule."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error:
        return [], 0


def _plain_cells(line: str, delimiter: str) -> list[str]:
    return line.rstrip("\r\n").split(delimiter)


def _may_swallow(cell: str, delimiter: str, width: int) -> bool:
    """Whether rows could stand in a cell: it has line breaks and, in a table of several columns, separators."""
    return ("\n" in cell or "\r" in cell) and (delimiter in cell or width == 1)


def _is_prose(cells: list[str]) -> bool:
    """Whether a line that is read by itself has spaces behind its separators, as sentences have behind commas."""
    return any(cell.startswith(" ") for cell in cells[1:])
