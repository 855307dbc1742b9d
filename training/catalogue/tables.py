"""Tables as shops export them: CSV, TSV, JSONL and Parquet read as text, row by row, with a count of what is wrong."""

import gzip
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError, one_line
from training.catalogue.delimited import Delimited, numbered, read_table, separator_of, unguarded
from training.catalogue.meant_rows import MeantRows
from training.catalogue.text_files import TextFile
from training.common.errors import Problems

ENDINGS = (".csv", ".tsv", ".tab", ".psv", ".txt", ".jsonl", ".parquet")
SEPARATORS = {".tsv": "\t", ".tab": "\t", ".psv": "|"}  # that endings promise; what the text says counts more
GZIP = b"\x1f\x8b"
EXAMPLES = 20
BATCH_ROWS = 512  # of Parquet


@dataclass
class Table(Problems):
    """A file of rows that are read as text; counts what is wrong with them and keeps the first 20 of each kind.

    Rows are numbered as a spreadsheet shows them, from 1 and with the header; JSONL and Parquet have none.

    Attributes:
        name (`str`): the file, as the person gave it.
        columns (`dict[str, str]`): the file's column of each field that it has.
        size (`int`): its rows, or about as many: its lines; `read` counts those read so far.
        dialect (`str`): how it is read, such as `read as UTF-8, separator ;`.
        encoding, separator (`str`, *optional*): those that the person gave.
        examples (`dict[str, list[dict]]`): the file, row, field and value of problems, by kind.
    """

    name: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    size: int = 0
    read: int = 0
    dialect: str = ""
    encoding: str | None = None
    separator: str | None = None
    examples: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def open(
        cls,
        name: str,
        columns: Any,
        needed: list[tuple[str, ...]],
        option: str,
        encoding: str | None = None,
        separator: str | None = None,
        parts: Iterable[str] = (),
    ) -> "Table":
        """Finds a file's columns and how it is read.

        Args:
            name (`str`): the file; its ending tells what it is.
            columns (a dataclass): the column of each field; one that was renamed must be there.
            needed (`list[tuple[str, ...]]`): fields; of each tuple one must be there.
            option (`str`): the option that renames columns, for messages.
            encoding, separator (`str`, *optional*): see [`table_rows`].
            parts (`Iterable[str]`, *optional*): columns that nested ones will be taken apart into.

        Raises:
            DataError: if the file is missing, unreadable or empty, or a column is missing.
        """
        path, names = existing_file(name, f"a file that ends in {', '.join(ENDINGS)}"), asdict(columns)
        given = {"encoding": encoding, "separator": separator}
        found, size, dialect = _look_into(path, set(names.values()), **given)
        if not found:
            raise DataError(f"{name}: is empty; it needs columns and at least one row that fits them")
        found = list(dict.fromkeys([*found, *parts]))
        renamed = [(key,) for key in names if names[key] != getattr(type(columns), key)]
        for keys in needed + renamed:
            if not any(names[key] in found for key in keys):
                raise DataError(
                    f"{name}: column {' or '.join(repr(names[key]) for key in keys)} is missing (columns found: "
                    f"{one_line(', '.join(found))}); "
                    f"name yours with {' or '.join(f'{option}.{key} NAME' for key in keys)}"
                )
        fields = {key: names[key] for key in names if names[key] in found}
        return cls(name=name, columns=fields, size=size, dialect=dialect, **given)

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
        for number, record in self.whole_rows(self.columns.values()):
            yield number, {key: cell_text(record.get(column)) for key, column in self.columns.items()}

    def whole_rows(self, columns: Iterable[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row's number and its cells by column, of all columns or of some; what is wrong with rows is counted."""
        for number, record, doubt in tqdm(self.records(columns), desc=self.name, total=self.size, unit=" rows"):
            self.read += 1
            if not isinstance(record, dict):
                self.note("broken row (left out)", number, "(all)", record)
                continue
            if doubt:
                self.note(doubt, number, "(all)", " ".join(map(cell_text, record.values())))
            yield number, record

    def records(self, columns: Iterable[str] | None = None) -> Iterator[tuple[int, dict[str, Any] | str, str]]:
        """The rows as [`table_rows`] gives them; they are not counted as read by it."""
        return table_rows(Path(self.name), columns, self.encoding, self.separator)

    def values(self, key: str) -> Iterator[tuple[int, str]]:
        """Each row's number and the text of one field; the rows are not counted as read by it."""
        column = self.columns[key]
        for number, record, _ in self.records([column]):
            if isinstance(record, dict):
                yield number, cell_text(record.get(column))

    def count_values(self, key: str) -> Counter:
        """How often each value of a field occurs; the rows are not counted as read by it."""
        return Counter(value for _, value in self.values(key))

    def left_nothing(self, what: str) -> DataError:
        """The error to raise if no row can be used."""
        return DataError("; ".join([f"{self.name}: {what} ({self.read:,} rows read)", *self.lines()]))


def table_rows(
    path: Path, columns: Iterable[str] | None = None, encoding: str | None = None, separator: str | None = None
) -> Iterator[tuple[int, dict[str, Any] | str, str]]:
    """The rows of a table one by one; a batch of them is in memory.

    Args:
        path (`Path`): CSV, TSV or the like, JSON lines or Parquet; all but the last may be gzipped. See [`MeantRows`]
            for columns of one name.
        columns (`Iterable[str]`, *optional*): those that are needed; of Parquet no other is read. All if not given.
        encoding (`str`, *optional*): the encoding of text, such as `cp1250`; found out if not given.
        separator (`str`, *optional*): what separates cells, such as `;` or `tab`; found out if not given.

    Yields:
        `(int, dict or str, str)`: the row's number as a spreadsheet shows it, its cells by column, or its text if it
        is broken, and what is doubtful about it, mostly `""`.

    Raises:
        DataError: if it is of another kind or can't be read.
    """
    columns, number, ending = None if columns is None else list(columns), 0, _ending(path)
    with _readable(path, lambda: number):
        if ending == ".parquet":
            rows = _read_parquet(path, columns)
        elif ending == ".jsonl":
            rows = _read_json_lines(path, encoding)
        else:
            rows = _read_delimited(path, encoding, separator)
        for number, *found in rows:
            yield number, *found


def _ending(path: Path) -> str:
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    if ending not in ENDINGS:
        raise DataError(f"{path}: unknown file ending {ending!r}; it must be one of {', '.join(ENDINGS)}")
    return ending


@contextmanager
def _readable(path: Path, row: Callable[[], int]) -> Iterator[None]:
    """Names the file, and the row after which it can't be read, in an error."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read after row {row()}: {one_line(error)}") from error
    except ValueError as error:
        raise DataError(f"{path}: {one_line(error)}") from error


def _look_into(
    path: Path, wanted: set[str], encoding: str | None, separator: str | None
) -> tuple[list[str], int, str]:
    """A table's columns, about its number of rows and its dialect; of JSON lines the columns that the first row has
    and those that are wanted."""
    ending = _ending(path)
    with _readable(path, lambda: 0):
        if ending == ".parquet":
            file = pq.ParquetFile(path)
            size = file.metadata.num_rows
            return numbered(file.schema_arrow.names) if size else [], size, "read as Parquet"
        with _open_text(path, encoding, separator) as text:
            dialect = _said(text)
            if ending == ".jsonl":
                return *_json_columns(text, wanted), dialect
            table = _table_of(text, path, separator)
            rows = MeantRows(table)
            found = rows.columns if _has_rows(table, rows) else []
        with _open_binary(path) as stream:
            return found, _count_lines(stream), f"{dialect}, {table.said}{rows.said}"


def _said(text: TextFile) -> str:
    said = f" (assumed: it isn't UTF-8, and reads as {text.example!r}; --encoding names another)"
    return f"read as {text.said}{said if text.is_assumed else ''}"


def assumed_encoding(path: Path, encoding: str | None = None) -> str:
    """How a text is read if nothing in it speaks for the encoding that it is read in; `""` for any other table.

    Raises:
        DataError: if it can't be read.
    """
    if _ending(path) == ".parquet":
        return ""
    with _readable(path, lambda: 0), _open_text(path, encoding) as text:
        return _said(text) if text.is_assumed else ""


def _has_rows(table: Delimited, rows: MeantRows) -> bool:
    """Whether there is a row that fits the header.

    Raises:
        ValueError: if there are rows, but none does.
    """
    misfit = None
    for record, row in rows:
        if row is not None:
            return True
        misfit = misfit or record
    if misfit:
        raise ValueError(
            f"no row fits the header: row {misfit.row} has {len(misfit.cells)} cells, the header has "
            f"{len(table.header)} ({table.said}); put cells that hold the separator into quotes, or give another with "
            "--separator"
        )
    return False


def _count_lines(stream: BinaryIO) -> int:
    """About the number of lines, whatever ends them."""
    chunks = iter(lambda: stream.read(2**20), b"")
    counts = [(chunk.count(b"\n"), chunk.count(b"\r")) for chunk in chunks]
    return max(map(sum, zip(*counts, strict=True)), default=0)


@contextmanager
def _open_binary(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked if it is gzipped, whatever it is called."""
    with open(path, "rb") as file:
        start = file.read(len(GZIP))
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if start == GZIP else file


@contextmanager
def _open_text(path: Path, encoding: str | None, separator: str | None = None) -> Iterator[TextFile]:
    with _open_binary(path) as stream:
        text = TextFile(stream, encoding, separator_of(separator) if separator else "")
        if what := text.other_format(is_json_lines=_ending(path) == ".jsonl"):
            raise ValueError(what)
        yield text


def _table_of(text: TextFile, path: Path, separator: str | None) -> Delimited:
    return read_table(text, separator_of(separator) if separator else None, SEPARATORS.get(_ending(path), ","))


def _read_delimited(path: Path, encoding: str | None, separator: str | None) -> Iterator[tuple[int, dict | str, str]]:
    with _open_text(path, encoding, separator) as text:
        table = _table_of(text, path, separator)
        text.doubts(table.first.last)
        for record, row in MeantRows(table):
            doubt = record.doubt
            if text.notes:
                doubt = "; ".join(filter(None, [doubt, *text.doubts(record.last)]))
            yield record.row, record.text if row is None else row, doubt


def _read_json_lines(path: Path, encoding: str | None) -> Iterator[tuple[int, dict | str, str]]:
    with _open_text(path, encoding) as text:
        for number, line in enumerate(text, start=1):
            if line.strip():  # numbers stay as they are written
                record = json_object(line, parse_int=str, parse_float=str, parse_constant=lambda _: None)
                yield number, line if record is None else record, "; ".join(text.doubts(number))


def _json_columns(text: TextFile, wanted: set[str]) -> tuple[list[str], int]:
    """The columns of the first object and those that are wanted and come later, and the number of lines; a line
    without the name of one that is still missing isn't parsed."""
    found: dict[str, None] = {}
    missing, number = {}, 0
    for number, line in enumerate(text, start=1):  # noqa: B007
        if not found or any(name in line for names in missing.values() for name in names):
            found |= dict.fromkeys(json_object(line) or ())
            missing = {name: {json.dumps(name), json.dumps(name, ensure_ascii=False)} for name in wanted - set(found)}
    return list(found), number


def json_object(text: str, **options) -> dict | None:
    """An object of JSON, `None` if a text is none; `options` are those of `json.loads`."""
    try:
        found = json.loads(text, **options)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair can't be written
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read_parquet(path: Path, columns: list[str] | None) -> Iterator[tuple[int, dict, str]]:
    """The rows of Parquet; a column whose name is there twice is numbered as in delimited text."""
    batches = pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS, columns=columns)
    named = (batch.rename_columns(numbered(batch.schema.names)) for batch in batches)
    rows = (row for batch in named for row in batch.to_pylist(maps_as_pydicts="lossy"))
    return ((number, row, "") for number, row in enumerate(rows, start=1))


def cell_text(value: Any) -> str:
    """A cell as text without space around it; a list has `|` between its items."""
    if isinstance(value, list):
        return " | ".join(map(cell_text, value))
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # where a column has gaps, tools turn whole numbers into floats
    return "" if value is None or value != value else unguarded(str(value).strip())
