"""Delimited text as shops export it: its separator, its header and its rows, none of which a quote swallows.

By the rule (RFC 4180) a cell that begins with a quote ends at a quote that a separator or the end of a line follows,
and anything may stand in between: separators, line breaks, doubled quotes. Many exports only seem to follow it. Where
`"Vintage" mug` or `"5 inch` stand as somebody typed them, a reader by the rule gives up, or takes all rows up to some
later quote for one cell without a word.

So a record is read by the rule as long as the file's own header bears that out, then with quotes that a backslash
escapes, and else line by line with quotes as letters like any other. The separator is the one that cuts the first
lines into rows of one length; lines above the header, such as a title, are told from it by having fewer cells.

Some tools wrap whole lines: of `1,"Mug, blue",9` they make the one cell `"1,""Mug, blue"",9"`. A row that is one cell,
in a table of several columns, is read once more.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice

BARE_QUOTE = "quote that doesn't follow the rule for tables (kept as it stands)"
ESCAPED_QUOTE = "quote behind a backslash (read as a quote)"
SEVERAL_LINES = "quoted cell over several lines that could be rows (kept as one cell)"
WRAPPED = "row that is wrapped whole in quotes (read as the cells that it means)"
LINE_BREAKS = "line break in a cell of a tab-separated table (kept as one cell)"
SHORT = "row with fewer cells than the header (the others are taken as empty)"
UNNAMED = "cell in a column without a name (cell not used)"
LONGEST_CELL = 2**24  # characters; csv has one limit for all, of 131,072
TAKEN_LINES = 10_000
RULED_PER_BARE = 20  # rows that need their quotes, for each whose quotes break the rule, in a table that is trusted
HEAD_LINES, HEAD_CHARACTERS = 200, 2**17  # by which a dialect is found out
LINES_ABOVE = 20
GOOD = 0.125  # the score of two columns of sentences by which half of the rows are as long as the header
NO_ROW_FITS = 1e-6  # the score of a column by which no row is as long as the header
SEPARATORS = (",", ";", "\t", "|")
NO_SEPARATOR = "\x1f"  # of a table of one column
NAMES = {"\t": "tab", NO_SEPARATOR: "none (one column)"}
# By which a spreadsheet keeps the zeros of 00123 (`="00123"`, `'00123`), or is kept from computing (`'=1+2`).
GUARDED = re.compile(r"""\s*="([^"]*)"\s*|'([$\u20ac\u00a3+-]?\d[\d.,\s-]*([A-Z]{3}|[$\u20ac\u00a3%])?|[=+@-][^']*)""")
csv.field_size_limit(LONGEST_CELL)


@dataclass
class Record:
    """One row of a table; the first is its header.

    Attributes:
        row (`int`): its number as a spreadsheet shows it, from 1 and with empty lines.
        cells (`list[str]`): its cells; as many as the header has, unless it is broken.
        text (`str`): what stands in the file.
        doubt (`str`): what there is to tell of it, such as `BARE_QUOTE` or `WRAPPED`; mostly `""`.
        last (`int`): its last line in the file.
    """

    row: int
    cells: list[str]
    text: str
    doubt: str = ""
    last: int = 0


@dataclass
class Delimited:
    """A table whose dialect is known; its rows are read once.

    Attributes:
        separator (`str`): what separates cells.
        quote (`str`): what cells with a separator stand in.
        header (`list[str]`): the columns' names, `""` for one without; the second `size` is called `size (2)`.
        twice (`list[str]`): names that several columns have.
        first (`Record`): the header as it stands.
        records (`Iterator[Record]`): what is below it.
        said (`str`): the dialect for a person, such as `separator ;`.
    """

    separator: str
    quote: str
    header: list[str]
    twice: list[str]
    first: Record
    records: Iterator[Record]
    said: str

    def rows(self) -> Iterator[tuple[Record, dict[str, str] | None]]:
        """The rows below the header, each with its cells by column; `None` if its cells don't fit the header, or it is
        the header once more.

        Empty cells at the end may be missing or too many. Of other rows with too few cells those are taken that aren't
        beside one of another length: those are pieces of one row that a line break cut.
        """
        before, record = 0, next(self.records, None)
        while record is not None:
            after = next(self.records, None)
            if len(record.cells) == len(self.header) and record.cells != self.first.cells:
                yield record, self._named(record, record.cells)
                before = 0
            else:
                short = self._missing(record)
                beside = {before, self._missing(after) if after and after.row == record.row + 1 else 0}
                yield record, self._fitted(record, beside - {0} if short else set())
                before = short if after and after.row == record.row + 1 else 0
            record = after

    def _missing(self, record: Record) -> int:
        """The number of cells of a row with too few of them; 0 for any other."""
        number = len(record.cells)
        return number if number < len(self.header) and any(self.header[number:]) else 0

    def _fitted(self, record: Record, beside: set[int]) -> dict[str, str] | None:
        number, width = len(record.cells), len(self.header)
        if number >= width:
            is_whole = record.cells != self.first.cells and not any(cell.strip() for cell in record.cells[width:])
            return self._named(record, record.cells[:width]) if is_whole else None
        if self._missing(record):
            is_piece = number < 2 or 2 * number < width or (beside and (beside != {number} or 2 * number == width + 1))
            if is_piece:
                return None
            record.doubt = record.doubt or SHORT
        return self._named(record, record.cells + [""] * (width - number))

    def _named(self, record: Record, cells: list[str]) -> dict[str, str]:
        if '="' in record.text or "'" in record.text:
            cells = list(map(unguarded, cells))
        row = dict(zip(self.header, cells, strict=True))
        if "" in row:
            del row[""]
            if any(cell.strip() for name, cell in zip(self.header, cells, strict=True) if not name):
                record.doubt = record.doubt or UNNAMED
        return row


def read_table(lines: Iterable[str], separator: str | None = None, preferred: str = ",") -> Delimited:
    """Finds out a table's dialect from its first lines and reads it.

    Args:
        lines (`Iterable[str]`): with their ends, as a file gives them that was opened with `newline=""`.
        separator (`str`, *optional*): what separates cells; found out if not given.
        preferred (`str`, *optional*, defaults to `","`): the separator to take if several will do.

    Raises:
        ValueError: if it has no header.
    """
    lines = iter(lines)
    head, is_all = _head(lines)
    if not any(line.strip() for line in head):
        raise ValueError("is empty; it needs columns and at least one row")
    if found := next((re.fullmatch(r"\"?sep=(.)\"?\s*", line, re.IGNORECASE) for line in head if line.strip()), None):
        separator, head[head.index(found[0])] = separator or found[1], "\n"
    quote = "'" if _has_single_quotes(head) else '"'
    separator, start = _separator_and_header(head, is_all, quote, separator, preferred)
    head[:start] = ["\n"] * start  # empty lines count as rows but are none
    spaced = _is_spaced(head, separator, quote)
    ruled = _ruled_rows(head, is_all, separator, quote, spaced)
    records = read_records(chain(head, lines), separator, quote, spaced, ruled)
    first = next(records)
    names = [_name(cell) for cell in first.cells]
    twice = [name for name, times in Counter(names).items() if name and times > 1]
    said = f"separator {NAMES.get(separator, separator)}"
    said += ", quotes '" if quote == "'" else ""
    said += f", header on line {first.row}" if first.row > 1 else ""
    said += ", lines wrapped whole in quotes" if first.doubt == WRAPPED else ""
    return Delimited(separator, quote, numbered(names), twice, first, records, said)


def separator_of(text: str) -> str:
    """A separator as a person gives it: a character, `tab`, or such as `\\t` and `\\x01`.

    Raises:
        ValueError: if it is no single character that may separate cells.
    """
    named = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}.get(text.lower(), text)
    if re.fullmatch(r"\\(t|x[0-9a-fA-F]{2})", named):
        named = named.encode().decode("unicode_escape")
    if len(named) != 1 or named in '"\r\n\0':
        raise ValueError(f"separator {text!r} is no single character; give one such as ';', '|' or tab")
    return named


def unguarded(cell: str) -> str:
    """A cell without what keeps a spreadsheet from making a number of it: `00123` of `="00123"` and of `'00123`."""
    found = GUARDED.fullmatch(cell)
    return cell if found is None else found[2] if found[1] is None else found[1]


def numbered(names: list[str]) -> list[str]:
    """Names, each once, but for those of columns without one: the second `size` is `size (2)`."""
    header: list[str] = []
    for name in names:
        others = (f"{name} ({number})" for number in count(2))
        header.append(next(one for one in chain([name], others) if not name or one not in header))
    return header


def _name(cell: str) -> str:
    """A column's name without space and quotes around it."""
    name = cell.strip()
    return name[1:-1].strip() if len(name) > 1 and name[0] == name[-1] in "\"'" else name


def _head(lines: Iterator[str]) -> tuple[list[str], bool]:
    """The first lines and whether they are all."""
    head, size = [], 0
    for line in lines:
        head.append(line)
        size += len(line)
        if len(head) == HEAD_LINES or size > HEAD_CHARACTERS:
            return head, False
    return head, True


def _has_single_quotes(head: list[str]) -> bool:
    """Whether nearly all rows have cells in single quotes."""
    rows = [line.strip("\r\n") for line in head if line.strip()][1:]
    quoted = sum(bool(re.search(r"(^|[,;\t|])'([^']|'')*'([,;\t|]|$)", row)) for row in rows)
    return bool(rows) and quoted > 0.8 * len(rows)


def _is_spaced(head: list[str], separator: str, quote: str) -> bool:
    """Whether a space stands before the quotes of cells; by the rule it and they would belong to the cell."""
    spaced, tight = (
        sum(len(re.findall(f"{re.escape(separator)}{space}{quote}(?!{quote})", line)) for line in head)
        for space in (" +", "")
    )
    return spaced > tight


def _ruled_rows(head: list[str], is_all: bool, separator: str, quote: str, spaced: bool) -> int:
    """How many of the first rows need their quotes to be as long as the header; 0 if any breaks the rule."""
    rows, reader = [], csv.reader(head, delimiter=separator, quotechar=quote, skipinitialspace=spaced, strict=True)
    try:
        rows.extend(filter(None, reader))
    except csv.Error:
        if is_all or reader.line_num < len(head):
            return 0
    if any(len(row) != len(rows[0]) for row in rows):
        return 0
    return sum(any(quote in cell or (separator in cell and "\n" not in cell) for cell in row) for row in rows)


def _separator_and_header(
    head: list[str], is_all: bool, quote: str, given: str | None, preferred: str
) -> tuple[str, int]:
    """The separator and the header's place in the first lines: those by which most rows are as long as the header, and
    longest; the first place that will do, if only titles stand above it."""
    filled = [place for place, line in enumerate(head) if line.strip()]
    separators = [given] if given else sorted(SEPARATORS, key=lambda separator: separator != preferred)
    best, found = 0.0, (given or NO_SEPARATOR, filled[0])
    for place in filled[:LINES_ABOVE]:
        for separator in separators:
            score = _score(head, filled[0], place, is_all, quote, separator)
            if score > best:
                best, found = score, (separator, place)
        if best >= GOOD:
            break
    return found


def _score(head: list[str], start: int, place: int, is_all: bool, quote: str, separator: str) -> float:
    """How well a separator and a place of the header explain the first lines; 0 is not at all."""
    header, *rows = read_records(head[place:], separator, quote, _is_spaced(head, separator, quote))
    rows = rows if is_all or len(rows) < 2 else rows[:-1]  # the last may go on
    above = [_plain_cells(line, separator) for line in head[start:place] if line.strip()]
    width, filled = len(header.cells), sum(bool(cell.strip()) for cell in header.cells)
    if filled < 2 or not all(_is_title(line, width) for line in above):
        return 0
    fitting = sum(len(row.cells) >= width and not any(map(str.strip, row.cells[width:])) for row in rows)
    share = fitting / len(rows) if rows else 1.0
    if above and not (rows and share >= (0.8 if separator == "," else 0.3) and _is_header(header, rows)):
        return 0
    return (share**2 + NO_ROW_FITS) * (width - 1) / (2 if _is_prose(header.cells) else 1)


def _is_header(header: Record, rows: list[Record]) -> bool:
    """Whether a record below a line without separators may be a header; else the table has one column."""
    are_sentences = len(header.cells) == 2 and any(_is_prose(record.cells) for record in (header, *rows))
    return not are_sentences and not any(re.fullmatch(r"[\d.,]+", cell.strip()) for cell in header.cells)


def _is_title(cells: list[str], width: int) -> bool:
    """Whether a line above a header of some width is no header: a title, a comment, or a few words on the file."""
    filled = sum(bool(cell.strip()) for cell in cells)
    return filled < 2 or 2 * filled < width or (cells[0].startswith("#") and len(cells) != width)


class _Lines:
    """Lines that can be looked at, from the first that wasn't taken, before they are taken."""

    def __init__(self, lines: Iterable[str]):
        self.source, self.ahead, self.first, self.has_escapes = iter(lines), [], 0, False

    def __iter__(self) -> Iterator[str]:
        for place in count():
            if self.first + place == len(self.ahead) and not self._read():
                return
            yield self.ahead[self.first + place]

    def _read(self) -> bool:
        if (line := next(self.source, None)) is None:
            return False
        self.ahead.append(line)
        self.has_escapes = self.has_escapes or '\\"' in line
        return True

    def next(self) -> str | None:
        """The first line that wasn't taken; `None` behind the last."""
        return self.ahead[self.first] if self.first < len(self.ahead) or self._read() else None

    def take(self, number: int) -> None:
        self.first += number
        if self.first > TAKEN_LINES:
            del self.ahead[: self.first]
            self.first = 0


def read_records(
    lines: Iterable[str], delimiter: str, quote: str = '"', spaced: bool = False, ruled: int = 0
) -> Iterator[Record]:
    """The records of a table; empty lines are left out.

    Args:
        lines (`Iterable[str]`): with their ends, as a file gives them that was opened with `newline=""`.
        delimiter (`str`): what separates cells.
        quote (`str`, *optional*, defaults to `"`): what cells with a separator stand in.
        spaced (`bool`, *optional*, defaults to `False`): space before a quote doesn't belong to the cell.
        ruled (`int`, *optional*, defaults to 0): quoted cells that are known to follow the rule.

    Yields:
        [`Record`], the header first.
    """
    ahead, row, last, width, bare, are_wrapped = _Lines(lines), 0, 0, 0, 0, False
    rule = csv.reader([], delimiter=delimiter, quotechar=quote, skipinitialspace=spaced, strict=True).dialect
    while (line := ahead.next()) is not None:
        row += 1
        last += 1
        if not line.strip(" \r\n"):
            ahead.take(1)
            continue
        if quote not in line:
            cells, size, doubt = _plain_cells(line, delimiter), 1, ""
        elif len(cells := _by_rule([line], rule)[0]) == width > 0:
            size, doubt = 1, ""
            ruled += line.count(delimiter) >= width
        else:
            cells, size, doubt = _next_record(ahead, rule, width, ruled > RULED_PER_BARE * bare, are_wrapped)
            bare += doubt == BARE_QUOTE
        are_wrapped = are_wrapped or (width == 0 and doubt == WRAPPED)
        width = width or len(cells)
        text = line if size == 1 else "".join(islice(ahead, size))
        last += size - 1
        yield Record(row, cells, text.strip("\r\n"), doubt, last)
        ahead.take(size)


def _next_record(
    ahead: _Lines, rule: csv.Dialect, width: int, is_ruled: bool, are_wrapped: bool
) -> tuple[list[str], int, str]:
    """The cells of a record with quotes, its number of lines and what is doubtful."""
    delimiter, doubt = rule.delimiter, ""
    line = next(iter(ahead)).rstrip("\r\n")
    plain, quote = _plain_cells(line, delimiter), rule.quotechar
    cells, size = _by_rule(ahead, rule)
    if len(cells) == 1 != width and (meant := _unwrapped(cells[0], rule, width)):
        return meant, size, WRAPPED
    is_wrapped = are_wrapped and line.startswith(quote) and line.endswith(quote)
    if size == 0 and is_wrapped and (meant := _unwrapped(line[1:-1], rule, width)):
        return meant, 1, WRAPPED
    if ahead.has_escapes and (size == 0 or len(cells) != (width or len(cells))):
        escaped, lines = _by_rule(map(_unescaped, ahead), rule)
        if lines and len(escaped) == width or (lines == 1 and not width):
            cells, size, doubt = escaped, lines, ESCAPED_QUOTE
    # a quoted tab hardly ever is one, while a quoted comma in a row that is too short may well be
    is_odd_tab = delimiter == "\t" and size == 1 and len(cells) != width == len(plain)
    if size == 0 or is_odd_tab:
        return plain, 1, BARE_QUOTE
    if size == 1:
        return cells, 1, doubt
    if not any(_may_swallow(cell, delimiter, width) for cell in cells):
        return cells, size, LINE_BREAKS if delimiter == "\t" else doubt
    width = width or len(plain)
    lines = [_plain_cells(line, delimiter) for line in islice(ahead, size)]
    rows = [len(found) == width and not _is_prose(found) for found in lines]
    is_trusted = is_ruled and len(cells) == width
    if not is_trusted and (sum(rows) > size / 2 or (len(cells) != width and any(rows))):
        return plain, 1, BARE_QUOTE
    if any(len(found) == width for found in lines[1:]):
        return cells, size, SEVERAL_LINES
    return cells, size, LINE_BREAKS if delimiter == "\t" else doubt


def _by_rule(lines: Iterable[str], rule: csv.Dialect) -> tuple[list[str], int]:
    """The first record's cells and its number of lines, 0 if it breaks the rule."""
    reader = csv.reader(lines, rule)
    try:
        return next(reader), reader.line_num
    except csv.Error:
        return [], 0


def _unwrapped(cell: str, rule: csv.Dialect, width: int) -> list[str]:
    """The cells of a row that is one cell: as many as the header has, or for a header several that are no sentence."""
    lines = cell.splitlines(keepends=True)
    cells, size = _by_rule(lines, rule)
    is_row = len(cells) == width or (width == 0 and len(cells) > 1 and not _is_prose(cells))
    return cells if is_row and size == len(lines) else []


def _unescaped(line: str) -> str:
    """A line whose quotes behind a backslash, but not behind one that is escaped itself, are doubled instead."""
    return re.sub(r'(?<!\\)((?:\\\\)*)\\"', r'\1""', line)


def _plain_cells(line: str, delimiter: str) -> list[str]:
    return line.rstrip("\r\n").split(delimiter)


def _may_swallow(cell: str, delimiter: str, width: int) -> bool:
    """Whether rows could stand in a cell: it has line breaks and, in a table of several columns, separators."""
    return ("\n" in cell or "\r" in cell) and (delimiter in cell or width == 1)


def _is_prose(cells: list[str]) -> bool:
    """Whether a line that is read by itself has spaces behind its separators, as sentences have behind commas."""
    return any(cell.startswith(" ") for cell in cells[1:])
