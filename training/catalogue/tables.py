"""Tables as shops export them: CSV, TSV, JSONL and Parquet read as text, row by row, with a count of what is wrong."""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError, one_line
from training.catalogue.delimited import Record, read_records
from training.common.errors import Problems

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
EXAMPLES = 20
BATCH_ROWS = 512  # of Parquet


@dataclass
class Table(Problems):
    """A file of rows that are read as text; counts what is wrong with them and keeps the first 20 of each kind.

    Rows are numbered as a spreadsheet shows them, from 1 and with the header; JSONL and Parquet have none.

    Attributes:
        name (`str`): the file, as the person gave it.
        columns (`dict[str, str]`): the file's column of each field that it has.
        size (`int`): its rows; `read` counts those read so far.
        examples (`dict[str, list[dict]]`): the file, row, field and value of problems, by kind.
    """

    name: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    size: int = 0
    read: int = 0
    examples: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def open(cls, name: str, columns: Any, needed: list[tuple[str, ...]], option: str) -> "Table":
        """Reads a file through once and finds its columns.

        Args:
            name (`str`): the file; its ending tells what it is.
            columns (a dataclass): the column of each field; one that was renamed must be there.
            needed (`list[tuple[str, ...]]`): fields; of each tuple one must be there.
            option (`str`): the option that renames columns, for messages.

        Raises:
            DataError: if the file is missing, unreadable or empty, or a column is missing.
        """
        path = existing_file(name, f"a file that ends in {', '.join(ENDINGS)}")
        found, size = {}, 0
        for size, (_, record, _) in enumerate(table_rows(path), start=1):  # noqa: B007
            found |= dict.fromkeys(record if isinstance(record, dict) else ())
        if not found:
            raise DataError(f"{name}: is empty; it needs columns and at least one row that fits them")
        names = asdict(columns)
        renamed = [(key,) for key in names if names[key] != getattr(type(columns), key)]
        for keys in needed + renamed:
            if not any(names[key] in found for key in keys):
                raise DataError(
                    f"{name}: column {' or '.join(repr(names[key]) for key in keys)} is missing (columns found: "
                    f"{one_line(', '.join(found))}); "
                    f"name yours with {' or '.join(f'{option}.{key} NAME' for key in keys)}"
                )
        return cls(name=name, columns={key: names[key] for key in names if names[key] in found}, size=size)

    @property
    def dropped(self) -> int:
        """Rows that were left out."""
        return sum(count for kind, count in self.counts.items() if kind.endswith("(left out)"))

    def note(self, kind: str, row: int, key: str, value: str) -> None:
        """Counts a problem in a field of a row; its `kind` ends in `(left out)` if the row is."""
        column, value = self.columns.get(key, key), value[:100]
        unit = "row" if self.name.lower().endswith(".parquet") else "line"
        self.add(kind, f"{self.name} {unit} {row}, field {column}: {value!r}")
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append({"file": self.name, "row": row, "field": column, "value": value})

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Each row's number and its fields as text, `""` where there is nothing."""
        for number, record, doubt in tqdm(table_rows(Path(self.name)), desc=self.name, total=self.size, unit=" rows"):
            self.read += 1
            if isinstance(record, dict):
                if doubt:
                    self.note(doubt, number, "(all)", " ".join(map(cell_text, record.values())))
                yield number, {key: cell_text(record.get(column)) for key, column in self.columns.items()}
            else:
                self.note("broken row (left out)", number, "(all)", record)

    def records(self) -> Iterator[tuple[int, dict[str, Any] | str, str]]:
        """The rows as [`table_rows`] gives them; they are not counted as read by it."""
        return table_rows(Path(self.name))

    def values(self, key: str) -> Iterator[tuple[int, str]]:
        """Each row's number and the text of one field; the rows are not counted as read by it."""
        column = self.columns[key]
        for number, record, _ in self.records():
            if isinstance(record, dict):
                yield number, cell_text(record.get(column))

    def count_values(self, key: str) -> Counter:
        """How often each value of a field occurs; the rows are not counted as read by it."""
        return Counter(value for _, value in self.values(key))

    def left_nothing(self, what: str) -> DataError:
        """The error to raise if no row can be used."""
        return DataError("; ".join([f"{self.name}: {what} ({self.read:,} rows read)", *self.lines()]))


def table_rows(path: Path, columns: Iterable[str] | None = None) -> Iterator[tuple[int, dict[str, Any] | str, str]]:
    """The rows of a table one by one; a batch of them is in memory.

    Args:
        path (`Path`): CSV, TSV, JSON lines or Parquet; the first three may be gzipped.
        columns (`Iterable[str]`, *optional*): those to read of Parquet; all of them if not given.

    Yields:
        `(int, dict or str, str)`: the row's number as a spreadsheet shows it, its cells by column, or its text if it
        is broken, and what is doubtful about it, mostly `""`.

    Raises:
        DataError: if it is of another kind or can't be read.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json_lines}
    ending, number = Path(path.name.lower().removesuffix(".gz")).suffix, 0
    if ending not in ENDINGS:
        raise DataError(f"{path}: unknown file ending {ending!r}; it must be one of {', '.join(ENDINGS)}")
    try:
        rows = readers[ending](path) if ending in readers else _read_parquet(path, columns)
        for number, *found in rows:  # noqa: B007
            yield number, *found
    except UnicodeDecodeError:
        byte, line = _first_undecodable(path)
        raise DataError(f"{path}: not UTF-8 at byte {byte} (on line {line}); save the file as UTF-8") from None
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: can't be read after row {number}: {one_line(error)}") from error


def _open_text(path: Path) -> TextIO:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", newline="")


def _first_undecodable(path: Path) -> tuple[int, int]:
    """The byte and the line where a file stops to be UTF-8."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        content = file.read()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start, content.count(b"\n", 0, error.start) + 1
    return len(content), content.count(b"\n") + 1


def _read_csv(path: Path) -> Iterator[tuple[int, dict | str, str]]:
    with _open_text(path) as file:
        lines, empty = iter(file), []
        for first in lines:
            empty.append(first)
            if first.strip():
                break
        header = empty[-1] if empty else ""
        is_tabbed = ".tsv" in map(str.lower, path.suffixes)
        delimiter = "\t" if is_tabbed else ";" if ";" in header and "," not in header else ","
        for record, row in dict_rows(chain(empty, lines), delimiter):
            yield record.row, record.text if row is None else row, record.doubt


def dict_rows(lines: Iterable[str], delimiter: str) -> Iterator[tuple[Record, dict[str, str] | None]]:
    """The rows below a header, each with its cells by column; `None` if it has more or fewer cells than the header.

    Raises:
        ValueError: if the header has a column twice.
    """
    header = None
    for record in read_records(lines, delimiter):
        if header is None:
            header = [cell.strip() for cell in record.cells]
            if twice := [column for column, count in Counter(header).items() if column and count > 1]:
                raise ValueError(f"the header has column {twice[0]!r} more than once")
        elif len(record.cells) == len(header):
            yield record, dict(zip(header, record.cells, strict=True))
        else:
            yield record, None


def _read_json_lines(path: Path) -> Iterator[tuple[int, dict | str, str]]:
    with _open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():  # numbers stay as they are written
                record = json_object(line, parse_int=str, parse_float=str, parse_constant=lambda _: None)
                yield number, line if record is None else record, ""


def json_object(text: str, **options) -> dict | None:
    """An object of JSON, `None` if a text is none; `options` are those of `json.loads`."""
    try:
        found = json.loads(text, **options)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair can't be written
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read_parquet(path: Path, columns: Iterable[str] | None) -> Iterator[tuple[int, dict, str]]:
    columns = None if columns is None else list(columns)
    batches = pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS, columns=columns)
    rows = (row for batch in batches for row in batch.to_pylist())
    return ((number, row, "") for number, row in enumerate(rows, start=1))


def cell_text(value: Any) -> str:
    """A cell as text without space around it; a list has `|` between its items."""
    if isinstance(value, list):
        return " | ".join(map(cell_text, value))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # where a column has gaps, tools turn whole numbers into floats
    return "" if value is None or value != value else str(value).strip()
