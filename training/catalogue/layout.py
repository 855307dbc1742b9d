"""The one reader and writer of catalogues in the Hub's retrieval layout.

A catalogue is a Hub dataset id or a local folder with three configurations, each with the same splits:

| configuration | columns |
|---|---|
| `corpus` | `_id`, `title`, `description`, `category`, `brand`, `price`, `image` (a `datasets` Image) |
| `queries` | `_id`, `text` (or `image`: picture queries); optional `slice`, `novel`, `frequency`, `style`, `source` |
| `qrels` | `query-id`, `corpus-id`, `score` (0 = not relevant; higher is better) |

The layout is the one of BEIR and MTEB (https://huggingface.co/docs/hub/datasets-overview).
"""

import csv
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa

from modeling_mmfusion.errors import DataError, one_line
from training.catalogue.delimited import BARE_QUOTE, ESCAPED_QUOTE, read_records
from training.catalogue.pictures import pictures_digest
from training.common.errors import Problems

REQUIRED_COLUMNS = {
    "corpus": ("_id",),
    "queries": ("_id", "text"),
    "qrels": ("query-id", "corpus-id", "score"),
}
CONTENT_COLUMNS = ("title", "description", "image")
READ_ROWS = 100
MAX_SCORE = 1_000_000  # the most that metrics can measure, see `product_retrieval/metrics.py`
EMPTY_TABLE = "the table is empty"
NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0, got 0")  # what `datasets` and Arrow call that
EMPTY = "the catalogue is empty; it needs at least one product with an _id"


class NothingToMeasure(DataError):
    """A split that isn't there, is empty, or in which no query has a relevant product."""


@dataclass
class RetrievalSplit:
    """One split of a catalogue, checked.

    Attributes:
        name (`str`): where it came from and which split, such as `data/demo_shop[test]`.
        corpus (`datasets.Dataset`): one row a product; `image` is not decoded (`{"bytes", "path"}` or `None`).
        product_ids (`list[str]`): the `_id` of each corpus row.
        queries (`list[dict]`): one row a query with at least one relevant product in the corpus.
        qrels (`dict[str, dict[str, int]]`): query id to product id to score; only ids that exist.
        problems (`Problems`): what was left out, counted.
        places (`list[int]`): the row in the source of each corpus row, for messages.
        source (`str`): the corpus's file, or its data set and split, for messages.
        has_told_pictures (`bool`): whether unreadable pictures are counted in `problems` already.
        query_pictures (`RetrievalSplit` or `None`): the queries as products of which only the picture is known, in the
            order of `queries`, where they are pictures.
    """

    name: str
    corpus: datasets.Dataset
    product_ids: list[str]
    queries: list[dict]
    qrels: dict[str, dict[str, int]]
    problems: Problems
    places: list[int]
    source: str
    has_told_pictures: bool = False
    query_pictures: "RetrievalSplit | None" = None

    @cached_property
    def picture_digests(self) -> list[str]:
        """A digest of each product's pictures, `""` where there is none: a cache that is keyed by them never is stale,
        and copies are easily found."""
        if "image" not in self.corpus.column_names:
            return [""] * len(self.product_ids)
        rows = (row["image"] for row in rows_of(self.corpus, ["image"]))
        return [pictures_digest(pictures, f"row {number}") for number, pictures in enumerate(rows)]

    @property
    def query_texts(self) -> list[str]:
        """The text of each query."""
        return [query["text"] for query in self.queries]

    def take(self, rows: Sequence[int]) -> "RetrievalSplit":
        """Some of the products, by their rows, without queries and judgments, and with problems of their own, so that
        those of a sample are not counted twice."""
        ids, places = [self.product_ids[row] for row in rows], [self.places[row] for row in rows]
        taken = {"corpus": self.corpus.select(rows), "product_ids": ids, "places": places, "queries": [], "qrels": {}}
        return replace(self, **taken, problems=Problems(), has_told_pictures=False, query_pictures=None)

    def where(self, row: int, column: str) -> str:
        """Names a cell of the corpus for a message: file, row (counted from 0) and field."""
        return f"{self.source} row {self.places[row]}, field {column}"


def load_split(data: str | os.PathLike, split: str, picture_queries: bool = False) -> RetrievalSplit:
    """Reads and checks one split of a catalogue.

    Rows that can't be used are left out, counted in `problems` and never silently dropped: a product whose id is
    missing or was seen before, a query without text, a judgment of an unknown query or product, and a query without
    any relevant product in this split.

    Args:
        data (`str`): a local folder or a Hub dataset id in the retrieval layout.
        split (`str`): the split's name, such as `test`.
        picture_queries (`bool`, *optional*, defaults to `False`): take queries that are pictures, where none has a
            text; else they are left out, since nothing but a measurement takes them.

    Raises:
        DataError: if `data` is no dataset, a configuration, split or column is missing, a score is no number, or
            the catalogue or its judgments are empty; [`NothingToMeasure`] where other splits may well do.
    """
    products = load_products(data, split)
    problems = products.problems
    table, queries_source = load_table(data, "queries", split)
    table, are_pictures = undecoded(table), are_pictures_alone(table)
    if are_pictures and not picture_queries:
        raise NothingToMeasure(f"{queries_source}: the queries are pictures, which only training.evaluate can take")
    queries, places = _read_queries(table, queries_source, problems, "image" if are_pictures else "text")
    qrels_table, qrels_source = load_table(data, "qrels", split)
    query_ids = {query["_id"] for query in queries}
    qrels = _read_qrels(qrels_table, qrels_source, query_ids, set(products.product_ids), problems)
    judged, judged_places = [], []
    for query, place in zip(queries, places, strict=True):
        if any(score > 0 for score in qrels.get(query["_id"], {}).values()):
            judged.append(query)
            judged_places.append(place)
        else:
            problems.add("query without a relevant product (left out)", f"{queries_source} _id {query['_id']}")
    if not judged:
        raise NothingToMeasure(
            f"{qrels_source}: no query has a relevant product (score above 0) in this split's corpus"
        )
    products.queries, products.qrels = judged, qrels
    if are_pictures:
        ids, rows = [query["_id"] for query in judged], table.select_columns(["_id", "image"]).select(judged_places)
        name = f"{data}[{split}] queries"
        products.query_pictures = RetrievalSplit(name, rows, ids, [], {}, problems, judged_places, queries_source)
    return products


def has_picture_queries(data: str | os.PathLike, split: str) -> bool:
    """Whether the queries of a catalogue's split are pictures without a text."""
    return are_pictures_alone(load_table(data, "queries", split)[0])


def are_pictures_alone(queries: datasets.Dataset) -> bool:
    """Whether queries are pictures and none of them has a text."""
    return "image" in queries.column_names and not any(queries["text"])


def load_products(data: str | os.PathLike, split: str) -> RetrievalSplit:
    """Reads and checks the products of one split of a catalogue, which needs no queries and judgments.

    Args:
        data (`str`): a local folder or a Hub dataset id with a configuration `corpus`.
        split (`str`): the split's name, such as `test`.

    Returns:
        A [`RetrievalSplit`] without queries and judgments.

    Raises:
        DataError: if `data` is no dataset, the configuration, split or a column is missing, or it is empty.
    """
    corpus, source = load_table(data, "corpus", split)
    check_content(corpus.column_names, source)
    corpus, problems = undecoded(corpus), Problems()
    ids = id_strings(corpus["_id"][:])
    places = _usable_rows(ids, source, problems)
    if len(places) < len(ids):
        corpus = corpus.select(places)
        ids = [ids[row] for row in places]
    if not ids:
        raise NothingToMeasure(f"{source}: {EMPTY}")
    return RetrievalSplit(f"{data}[{split}]", corpus, ids, [], {}, problems, places, source)


def undecoded(table: datasets.Dataset) -> datasets.Dataset:
    """A table that gives its pictures, one or a list of them, as they are stored; nothing is copied."""
    info = table.info.copy()
    info.features = datasets.Features({name: _undecoded(feature) for name, feature in table.features.items()})
    return datasets.Dataset(table.data, info=info, split=table.split)


def _undecoded(feature):
    if isinstance(feature, datasets.Image):
        return replace(feature, decode=False)
    if isinstance(feature, datasets.List | datasets.LargeList):
        return replace(feature, feature=_undecoded(feature.feature))
    return feature


def id_strings(values: Iterable) -> list[str]:
    """Ids as strings, `""` for one that is missing."""
    return ["" if value is None else str(value) for value in values]


def hide_modality(split: RetrievalSplit, modality: str) -> RetrievalSplit:
    """A split as if its products had only `text` or only an `image`; `both` hides nothing."""
    names = split.corpus.column_names
    if modality == "text":
        hidden = [name for name in names if name == "image"]
    else:
        hidden = [name for name in names if name not in ("_id", "image")] if modality == "image" else []
    return replace(split, corpus=split.corpus.remove_columns(hidden)) if hidden else split


def rows_of(table: datasets.Dataset, columns: list[str]) -> Iterator[dict]:
    """The rows of some columns; several times faster than iterating over the table, in little memory."""
    for batch in table.select_columns(columns).iter(READ_ROWS):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def split_names(data: str | os.PathLike) -> list[str]:
    """The splits of a catalogue's `corpus`, in the order in which its card lists them.

    Raises:
        DataError: if `data` is no dataset in the retrieval layout.
    """
    check_exists(data)
    try:
        with nothing_kept() as cache:
            return datasets.get_dataset_split_names(str(data), "corpus", cache_dir=cache)
    except Exception as error:  # see load_table
        raise DataError(f"{data}: is no catalogue in the retrieval layout: {error_reason(error)}") from error


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Without the progress bars of `datasets`, one for each file."""
    were_off = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def check_exists(data: str | os.PathLike) -> None:
    path = Path(data)
    if path.is_file():
        raise DataError(f"{data}: is a file; give the folder of a catalogue (training.prepare makes one from files)")
    looks_local = path.is_absolute() or str(data).startswith(".") or str(data).count("/") != 1
    if not path.is_dir() and looks_local:
        raise DataError(f"{data}: no such folder; give a catalogue's folder or a Hub dataset id such as org/name")


def load_table(data: str | os.PathLike, config: str, split: str) -> tuple[datasets.Dataset, str]:
    """One configuration's split, its required columns checked, and a name of its source for messages."""
    check_exists(data)
    source = f"{data} {config}[{split}]"
    try:
        with quiet_datasets():
            reader, files, features = split_files(data, config, split)
            if Path(data).is_dir():  # the split's own files: by the folder `datasets` would give old rows
                source = source_name(data, config, split, files)
                table = datasets.load_dataset(reader, data_files={split: files}, split=split, features=features)
            else:
                table = datasets.load_dataset(str(data), config, split=split)
    except Exception as error:  # `datasets` raises a dozen kinds, each with a text of many lines
        raise unreadable(source, data, config, split, error) from error
    check_required(table.column_names, config, source)
    return table, source


def unreadable(source: str, data: str | os.PathLike, config: str, split: str, error: Exception) -> DataError:
    """What to raise of an error of `datasets`, naming the file of `source` where it is one."""
    reason = error_reason(error)
    kind = NothingToMeasure if reason.startswith(("Unknown split", EMPTY_TABLE)) else DataError
    layout = "the retrieval layout" + (f" ({source})" if os.path.isfile(source) else "")
    return kind(f"{data}: can't read configuration {config!r}, split {split!r} of {layout}: {reason}")


def check_required(names: list[str], config: str, source: str) -> None:
    if twice := [column for column in names if names.count(column) > 1]:
        raise DataError(f"{source}: there are two columns {twice[0]}; rename or remove one")
    if missing := [column for column in REQUIRED_COLUMNS[config] if column not in names]:
        raise DataError(
            f"{source}: column {', '.join(missing)} is missing (columns: {', '.join(names)}); "
            "rename the column or make the catalogue with training.prepare"
        )


def check_content(names: list[str], source: str) -> None:
    if not set(CONTENT_COLUMNS) & set(names):
        raise DataError(
            f"{source}: none of the columns {', '.join(CONTENT_COLUMNS)} is there (columns: {', '.join(names)}); "
            "rename yours or use training.prepare"
        )


def check_query_columns(schema: pa.Schema, source: str) -> None:
    """Refuses lists and structures as `slice` of queries, and anything but numbers as `frequency`.

    Raises:
        DataError: naming the column.
    """
    kinds = {name: schema.field(name).type for name in ("slice", "frequency") if name in schema.names}
    wrong = [name for name, kind in kinds.items() if pa.types.is_nested(kind)]
    wrong += [name for name in ("frequency",) if name in kinds and not _is_number(kinds[name])]
    if wrong:
        wanted = "text" if wrong[0] == "slice" else "whole numbers"
        raise DataError(f"{source}: the column {wrong[0]} holds {kinds[wrong[0]]}; it should hold {wanted}")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)


def error_reason(error: Exception) -> str:
    """What an error of `datasets` says, on one line."""
    reason = one_line(error.__cause__ or error)
    return EMPTY_TABLE if any(words in reason for words in NO_ROWS) else reason


def split_files(data: str | os.PathLike, config: str, split: str) -> tuple[str, list[str], datasets.Features | None]:
    """The format of a split's files such as `parquet`, their paths or Hub addresses, and their columns if known."""
    with nothing_kept() as cache:
        builder = datasets.load_dataset_builder(str(data), config, cache_dir=cache)
    files = [str(file) for file in builder.config.data_files.get(split, [])]
    if not files:
        raise ValueError(f"Unknown split {split!r}. Should be one of {list(builder.config.data_files)}.")
    reader = type(builder).__module__.rpartition(".")[2]
    if reader == "csv" and builder.config.quoting == csv.QUOTE_MINIMAL:
        check_quotes(files, builder.config.sep or ",", builder.config.encoding or "utf-8-sig")
    return reader, files, builder.info.features


def has_files(data: str | os.PathLike, config: str, split: str) -> bool:
    """Whether a local catalogue has a configuration's split, be its files damaged."""
    try:
        return any(os.path.isfile(file) for file in split_files(data, config, split)[1])
    except Exception:  # see load_table
        return False


@contextmanager
def nothing_kept() -> Iterator[str]:
    """A cache folder for `datasets` that is empty. In its own it may have kept columns and splits of another folder of
    the same name, or of the same folder as it was, and takes them for a folder's own."""
    with tempfile.TemporaryDirectory(prefix="mmfusion-") as folder:
        yield folder


def check_quotes(files: list[str], delimiter: str, encoding: str) -> None:
    """Refuses CSV files whose quotes don't follow the rule: `datasets` would take rows behind one for a part of it.

    Raises:
        ValueError: naming file and row.
    """
    for file in files:
        with fsspec.open(file, "rt", encoding=encoding, newline="", compression="infer") as lines:
            for record in read_records(lines, delimiter):
                if record.doubt in (BARE_QUOTE, ESCAPED_QUOTE):
                    raise ValueError(
                        f"{file} row {record.row} has a {record.doubt.split(' (')[0]}: {record.text[:100]!r}; make "
                        "the catalogue with training.prepare, which reads it, or double the quotes"
                    )


def source_name(data: str | os.PathLike, config: str, split: str, files: list[str]) -> str:
    local = len(files) == 1 and os.path.isfile(files[0])
    return os.path.relpath(files[0]) if local else f"{data} {config}[{split}]"


def _usable_rows(ids: list[str], source: str, problems: Problems) -> list[int]:
    seen: set[str] = set()
    rows = []
    for row, product_id in enumerate(ids):
        if not product_id or product_id in seen:
            add_unusable(problems, product_id, f"{source} row {row}, field _id")
        else:
            seen.add(product_id)
            rows.append(row)
    return rows


def add_unusable(problems: Problems, product_id: str, where: str) -> None:
    """Counts a row whose id is missing or was seen before."""
    if product_id:
        problems.add("duplicate product id (the first one is kept)", f"{where}: {product_id}")
    else:
        problems.add("product without an id (left out)", where)


def _read_queries(
    table: datasets.Dataset, source: str, problems: Problems, column: str
) -> tuple[list[dict], list[int]]:
    """The queries that have a `text` or an `image`, whichever `column` is, without their pictures, and their rows."""
    check_query_columns(table.features.arrow_schema, source)
    queries, places, seen = [], [], set()
    for row, query in enumerate(rows_of(table, table.column_names)):
        query_id, picture = "" if query["_id"] is None else str(query["_id"]), query.pop("image", None)
        is_there = picture if column == "image" else isinstance(query["text"], str) and query["text"].strip()
        if not is_there:
            what = "a picture" if column == "image" else "text"
            problems.add(f"query without {what} (left out)", f"{source} row {row}, field {column}")
        elif not query_id or query_id in seen:
            problems.add("query id missing or seen before (left out)", f"{source} row {row}, field _id: {query_id}")
        else:
            seen.add(query_id)
            queries.append({**query, "_id": query_id})
            places.append(row)
    return queries, places


def _read_qrels(
    table: datasets.Dataset, source: str, query_ids: set[str], product_ids: set[str], problems: Problems
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    columns = (table[name][:] for name in REQUIRED_COLUMNS["qrels"])
    for row, (query_id, product_id, score) in enumerate(zip(*columns, strict=True)):
        try:
            grade = float(score)
        except (TypeError, ValueError, OverflowError):
            grade = math.nan
        if not grade.is_integer() or grade > MAX_SCORE:
            raise DataError(
                f"{source} row {row}, field score: {score!r} is no whole number up to {MAX_SCORE:,} (0 = not relevant)"
            )
        if grade < 0:
            problems.add("negative score (taken for 0, not relevant)", f"{source} row {row}, field score: {score}")
        if str(query_id) not in query_ids:
            problems.add("judgment of an unknown query (left out)", f"{source} row {row}, field query-id: {query_id}")
        elif str(product_id) not in product_ids:
            problems.add(
                "judgment of an unknown product (left out)", f"{source} row {row}, field corpus-id: {product_id}"
            )
        else:
            judged = qrels.setdefault(str(query_id), {})
            if str(product_id) in judged:
                problems.add(
                    "judgment given twice (the higher score is kept)",
                    f"{source} row {row}, fields query-id and corpus-id: {query_id}, {product_id}",
                )
            judged[str(product_id)] = max(int(grade), judged.get(str(product_id), 0))
    return qrels
