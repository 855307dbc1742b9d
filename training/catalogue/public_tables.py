"""What public sets are made of: tables of some million rows, judgments, and pictures in the tables or beside them."""

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError, one_line
from training.catalogue.options import ConvertArguments
from training.catalogue.pictures import fit_picture, path_inside
from training.catalogue.tables import assumed_encoding, cell_text, table_rows
from training.common.errors import Problems

ENDINGS = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz")


def table_files(folder: str) -> list[Path]:
    """The tables in a folder and the folders below it, in order of their names; hidden ones are left out."""
    root = Path(folder)
    files = (file for file in sorted(root.rglob("*")) if file.name.endswith(ENDINGS) and file.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(root).parts)]


def table_file(folder: str, name: str) -> Path:
    """The table of a name without its ending.

    Raises:
        DataError: if it isn't in the folder.
    """
    for ending in ENDINGS:
        if (file := Path(folder, name + ending)).is_file():
            return file
    raise DataError(f"{folder}: has no {name}{ENDINGS[0]}; give the folder of the set's tables")


def columns_of(file: Path, encoding: str | None = None) -> list[str]:
    """The names of a table's columns; those of JSON lines are the first line's."""
    if file.name.endswith(".parquet"):
        try:
            return pq.read_schema(file).names
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: can't be read: {one_line(error)}") from error
    return list(next((row for _, row, _ in table_rows(file, encoding=encoding) if isinstance(row, dict)), {}))


def read_rows(
    file: Path, columns: tuple[str, ...], problems: Problems | None = None, encoding: str | None = None
) -> Iterator[tuple[str, dict]]:
    """Some columns of a table, row by row; only a batch of rows is in memory.

    Args:
        file (`Path`): see [`table_rows`].
        columns (`tuple[str, ...]`): columns that it must have; of Parquet no other is read.
        problems (`Problems`, *optional*): counts broken rows, doubtful quotes and an encoding that is assumed; not
            given where a table is read again.
        encoding (`str`, *optional*): of text; found out if not given.

    Yields:
        `(str, dict)`: the row's place, counted from 0, and its cells as text without space around it, `""` where there
        is nothing; a cell of the column `image` stays as it is.

    Raises:
        DataError: if the file can't be read or a column is missing.
    """
    found = columns_of(file, encoding)
    if missing := [column for column in columns if column not in found]:
        raise DataError(f"{file}: column {missing[0]!r} is missing (columns: {one_line(', '.join(found))})")
    if problems and (said := assumed_encoding(file, encoding)):
        problems.add(f"table {said}", file.name)
    rows = tqdm(table_rows(file, columns, encoding), desc=file.name, unit=" rows", leave=False)
    for number, (_, row, doubt) in enumerate(rows):
        place, is_whole = f"{file.name} row {number}", isinstance(row, dict)
        if problems and (problem := doubt if is_whole else "broken row (left out)"):
            problems.add(problem, place)
        if is_whole:
            yield place, {name: row.get(name) if name == "image" else cell_text(row.get(name)) for name in columns}


@dataclass
class PublicJudgments:
    """Queries and what was said of products for them.

    Attributes:
        texts (`dict[str, str]`): the text of each query, by its id.
        grades (`dict[str, dict[str, int]]`): query id to product id to grade.
    """

    texts: dict[str, str] = field(default_factory=dict)
    grades: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, query: str, text: str, product: str, grade: int | None, place: str, problems: Problems) -> None:
        """Adds a judgment, unless something is missing; a `grade` of `None` is one that isn't known."""
        if not (query and text and product):
            problems.add("judgment without a query or a product (left out)", place)
        elif grade is None:
            problems.add("judgment with an unknown label or grade (left out)", place)
        else:
            if self.texts.setdefault(query, text) != text:
                problems.add("query id with another text (the first one is kept)", f"{place}, query {query!r}")
            judged = self.grades.setdefault(query, {})
            if product in judged:
                problems.add(
                    "judgment given twice (the higher grade is kept)", f"{place}, query {query!r}, product {product!r}"
                )
            judged[product] = max(grade, judged.get(product, 0))

    def sample(self, queries: int | None, seed: int) -> "PublicJudgments":
        """Some of the queries, drawn at random; all if `queries` is `None` or there are no more."""
        if queries is None or queries >= len(self.texts):
            return self
        kept = sorted(random.Random(seed).sample(sorted(self.texts), queries))
        return PublicJudgments(
            {query: self.texts[query] for query in kept}, {query: self.grades[query] for query in kept}
        )

    def of_products(self, known: set[str], source: str, problems: Problems) -> "PublicJudgments":
        """The same without judgments of products that aren't known, which are counted."""
        kept = PublicJudgments(self.texts)
        for query, grades in self.grades.items():
            kept.grades[query] = {product: grade for product, grade in grades.items() if product in known}
            if gone := [product for product in grades if product not in known]:
                where = f"{source}, query {query!r}, product {gone[0]!r}"
                problems.add("judgment of a product that isn't in the tables (left out)", where, len(gone))
        return kept

    def products(self) -> set[str]:
        """All products that are judged."""
        return set().union(*self.grades.values())

    def query_rows(self) -> list[dict]:
        """Rows of `queries`."""
        return [{"_id": query, "text": text} for query, text in self.texts.items()]

    def qrel_rows(self) -> Iterator[dict]:
        """Rows of `qrels`."""
        for query, grades in self.grades.items():
            for product, grade in grades.items():
                yield {"query-id": query, "corpus-id": product, "score": grade}


def query_id(text: str) -> str:
    """An id for a query that has none."""
    return f"q-{sha256(text.encode()).hexdigest()[:16]}"


def note_id(product: str, known: set[str], place: str, problems: Problems) -> None:
    """Adds a product to those that are known; an id that is missing or known is counted."""
    if not product:
        problems.add("product without an id (left out)", place)
    elif product in known:
        problems.add("duplicate product id (the first one is kept)", f"{place}: {product!r}")
    else:
        known.add(product)


@dataclass
class PublicPictures:
    """Reads products' pictures and scales them down; counts those that can't be used.

    Attributes:
        folder (`str` or `None`): where picture files are; none outside of it is read.
        size (`int`): the longest side that is kept.
        problems (`Problems`): counts.
    """

    folder: str | None
    size: int
    problems: Problems

    def from_file(self, names: Iterable[str], where: str, expected: bool = True) -> dict | None:
        """The first file that has one of the names, as `{"bytes", "path"}`; counted as missing if it is `expected`."""
        names = list(names)
        paths = (path_inside(os.path.realpath(self.folder), name) for name in names)
        path = next((path for path in paths if path and os.path.isfile(path)), None)
        if path:
            return self._fit(Path(path).read_bytes(), path, where)
        if expected:
            self.problems.add("picture file is missing (picture not used)", f"{where}: {names[0]!r}")
        return None

    def from_cell(self, cell: dict | None, where: str) -> dict | None:
        """A picture that a table holds as `{"bytes", "path"}`."""
        if not isinstance(cell, dict) or not cell.get("bytes"):
            self.problems.add("picture is missing in the table", where)
            return None
        return self._fit(cell["bytes"], cell.get("path") or "picture.jpg", where)

    def _fit(self, content: bytes, name: str, where: str) -> dict | None:
        try:
            return fit_picture(content, name, self.size)
        except Exception:  # Pillow raises many kinds for damaged files
            self.problems.add("picture can't be read (picture not used)", where)
            return None


def corpus_row(product: str, picture: dict | None, where: str, problems: Problems, **texts: str) -> dict:
    """A row of `corpus`; a product with nothing to be found by is kept, as the set has it, and counted."""
    if not (picture or any(texts.values())):
        problems.add("product with neither text nor picture (kept)", where)
    return {"_id": product, **{name: text or None for name, text in texts.items()}, "image": picture}


def count_rows(rows: Iterable[dict], counts: dict[str, int]) -> Iterator[dict]:
    """The same rows of `corpus` or `qrels`, counted."""
    for row in rows:
        if "score" in row:
            counts["judgments"] += 1
            counts["relevant"] += row["score"] > 0
        else:
            counts["products"] += 1
            counts["pictures"] += row["image"] is not None
        yield row


def wanted_splits(arguments: ConvertArguments, there: Iterable[str]) -> list[str]:
    """The splits to convert, of those that there are."""
    there = list(there)
    wanted = arguments.splits or there
    if unknown := [name for name in wanted if name not in there]:
        raise DataError(f"--splits: no split {unknown[0]!r} in {arguments.input}; there are {', '.join(there)}")
    return [name for name in there if name in wanted]
