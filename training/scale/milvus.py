"""Milvus, embedded in a file or a server, searched as [`ProductIndex`] is.

Of the engines that are distributed (search and storage on nodes of their own) Milvus is the one whose embedded form
comes from the package registry (`milvus-lite`) and is spoken to by the same client: what is tested in a file on a
laptop is what a cluster is asked, only the address differs. Qdrant's local mode is Python code of its own and its
server no package. A cluster has not been tried here.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import SearchResult
from modeling_mmfusion.index_filters import LEVEL, RANGE, numbers_of, plain_texts
from training.common.errors import Problems
from training.scale.filters import Condition, bounds_expression, check_search, conditions, is_text

ENGINES_INSTALL = "pip install -e '.[engines]'"
ROWS_TOGETHER = 1000
MAX_ID_BYTES = 512
MAX_TEXT_BYTES = 65_535  # of a field of text in Milvus
MAX_NAME_BYTES = 100  # of a column; a field's name has up to 255 letters, and may be spelled in hexadecimal
NUMBERS, PLAIN = "__number", "__plain"
TEXT = pa.large_string()
PLAIN_NAME = re.compile(r"(?!column_)[A-Za-z_][A-Za-z0-9_]{0,199}")
RESERVED_NAMES = set(
    "and or not in like is null exists true false iso interval rowid timestamp _seq _partition".split()
)
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


class MilvusEngine:
    """Products in a collection of Milvus, searched as [`ProductIndex`] is.

    In a file the vectors are compared one by one (FLAT), so what is found is exact, with and without filters; a server
    builds an HNSW graph. Each column is a field, see [`field_name`], and each column of text has two more to filter
    by: its texts in their plain form, and the numbers that they are, for ranges. No other collection is touched: what
    is loaded goes to `NAME_mmfusion_1` or `_2`, and the alias `NAME` leads to it.

    Args:
        uri (`str`): its address such as `http://milvus:19530`, or a file such as `shop.db` for the embedded one, which
            one process at a time can open.
        collection (`str`, *optional*, defaults to `"products"`): an alias, which leads to the collection that was
            loaded last; so searches go on while another one is loaded.
        token (`str`, *optional*): user and password, or key.

    Attributes:
        problems (`Problems`): texts that were cut, counted.

    Raises:
        DataError: if `pymilvus` is not installed, the engine can't be reached, the file is something else, or the
            collection's name is not of letters, digits and underscores.
    """

    _open: Counter[str] = Counter()  # engines of this process by embedded file, which share its server

    def __init__(self, uri: str, collection: str = "products", token: str = ""):
        try:
            import pymilvus
        except ImportError as error:
            raise DataError(f"pymilvus is not installed; run: {ENGINES_INSTALL}") from error
        check_collection(collection)
        self.milvus, self.uri, self.collection, self.problems = pymilvus, uri, collection, Problems()
        self.file = embedded_file(uri)
        for package in ("pymilvus", "milvus_lite", "grpc._server")[: 3 if self.file else 1]:
            logging.getLogger(package).setLevel(logging.CRITICAL)  # they log a traceback of each error that they raise
        try:
            self.client = pymilvus.MilvusClient(uri, token=token)
        except (pymilvus.MilvusException, OSError) as error:
            hint = "; is it open in another process?" if self.file else ""
            raise DataError(f"{uri}: milvus can't be reached: {one_line(error)}{hint}") from error
        self._open[self.file] += 1
        try:
            with self._errors():
                if self._behind_alias():
                    self.client.load_collection(self.collection)
        except DataError:
            self.close()
            raise

    def load(self, tables: Iterable[pa.Table], dim: int, shards: int = 1) -> int:
        """Loads [`bulk_tables`] into a new collection and then leads the alias to it; returns the number of products.
        After an error all is as it was.

        Raises:
            DataError: if there is nothing to load, a product can't be stored (see [`check_products`]), or the name is
                a collection's or an alias's that was not loaded so.
        """
        name, number = None, 0
        with self._errors():
            older = self._replaceable()
            try:
                for table in tables:
                    check_products(table)
                    if name is None:
                        name = self._create(older, table.schema, dim, shards)
                    number += self._insert(name, table)
                if name is None:
                    raise DataError("there are no products to load")
                self.client.flush(name)
            except BaseException:
                if name is not None:
                    self.client.drop_collection(name)
                raise
            if older:
                self.client.alter_alias(name, self.collection)
                self.client.drop_collection(older)
            else:
                self.client.create_alias(name, self.collection)
        return number

    def upsert(self, table: pa.Table) -> None:
        """Adds products or takes them in place of older ones; a table as [`bulk_tables`] gives. Columns that it does
        not have become null.

        Raises:
            DataError: if a column is unknown or holds something else, or a product can't be stored.
        """
        with self._errors():
            name = self._loaded()
            columns, _ = self._columns()
            if unknown := sorted({*table.column_names} - {*columns, "vector"}):
                raise DataError(f"{self.uri}: has no column {unknown[0]!r}; it has {', '.join(columns)}")
            check_products(table)
            self._insert(name, _cast(table, {**columns, "vector": table.schema.field("vector").type}))

    def remove(self, product_ids: Sequence[str]) -> None:
        """Removes products; unknown ids are no error."""
        with self._errors():
            self.client.delete(self._loaded(), ids=list(product_ids))

    def search(
        self, queries: np.ndarray, k: int = 10, where: Mapping[str, Any] | None = None
    ) -> list[list[SearchResult]]:
        """The best products for each query; see [`ProductIndex.search`]. Filters are the engine's.

        Raises:
            DataError: if `k` is no positive integer, queries are not finite or not as wide as the vectors, a column is
                unknown or compared with what it does not hold, or nothing was loaded.
        """
        with self._errors():
            columns, dim = self._columns()
            check_search(queries, k, dim)
            wanted = conditions(where or {}, columns)
            if not len(queries):
                return []
            for name in wanted:
                if is_text(columns[name]):
                    wanted[name] = self._with_ranges(name, wanted[name])
            params = {} if self.file else {"ef": max(100, 2 * k)}
            found = self.client.search(
                self.collection,
                data=np.asarray(queries, dtype=np.float32).tolist(),
                anns_field="vector",
                limit=int(k),
                filter=filter_expression(wanted, columns),
                output_fields=[field_name(name) for name in columns if name != "_id"],
                search_params={"metric_type": "IP", "params": params},
            )
        return [[self._result(hit) for hit in hits] for hits in found]

    def close(self) -> None:
        """Ends the connection, and the embedded server with its last one."""
        self.client.close()
        self._open[self.file] -= 1
        if self.file and not self._open[self.file]:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.file)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of Milvus as one line."""
        try:
            yield
        except self.milvus.MilvusException as error:
            raise DataError(f"{self.uri}: milvus: {one_line(error.message)}") from error

    def _create(self, older: str | None, schema: pa.Schema, dim: int, shards: int) -> str:
        """Makes an empty collection, of the one of two names that the alias does not lead to, and gives the name."""
        milvus_schema = self.client.create_schema(auto_id=False)
        milvus_schema.add_field("_id", self.milvus.DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
        milvus_schema.add_field("vector", self.milvus.DataType.FLOAT_VECTOR, dim=dim)
        for name, kind in stored_columns(schema).items():
            options = {"max_length": MAX_TEXT_BYTES} if kind == TEXT else {}
            if name != "_id":
                milvus_schema.add_field(field_name(name), self._types()[kind], nullable=True, **options)
            if kind == TEXT:
                milvus_schema.add_field(number_field(name), self.milvus.DataType.DOUBLE, nullable=True)
                milvus_schema.add_field(plain_field(name), self._types()[TEXT], nullable=True, **options)
        index = self.client.prepare_index_params()
        if self.file:
            index.add_index("vector", index_type="FLAT", metric_type="IP")
        else:
            index.add_index("vector", index_type="HNSW", metric_type="IP", params={"M": 16, "efConstruction": 128})
        name = next(name for name in self._own_names() if name != older)
        if self.client.has_collection(name):  # of a load that was killed
            self._check_own(name)
            self.client.drop_collection(name)
        self.client.create_collection(name, schema=milvus_schema, index_params=index, num_shards=shards)
        return name

    def _insert(self, collection: str, table: pa.Table) -> int:
        """Puts a table's products into a collection."""
        table = _cast(table, {**stored_columns(table.schema), "vector": table.schema.field("vector").type})
        for start in range(0, len(table), ROWS_TOGETHER):
            part, fields = table.slice(start, ROWS_TOGETHER), {}
            for name, column in zip(part.column_names, part.columns, strict=True):
                if column.type == TEXT:
                    fields[number_field(name)] = numbers_of(column)
                    column = self._cut(column, name, part.column("_id"))
                    fields[plain_field(name)] = _cut_texts(plain_texts(column))
                fields[field_name(name)] = column
            self.client.upsert(collection, pa.table(fields).to_pylist())
        return len(table)

    def _cut(self, column: pa.ChunkedArray, name: str, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Texts with their first MAX_TEXT_BYTES."""
        long = pc.greater(pc.fill_null(pc.binary_length(column), 0), MAX_TEXT_BYTES)
        if not (count := pc.sum(long).as_py()):
            return column
        first = ids.filter(long)[0].as_py()
        kind = f"text of more than {MAX_TEXT_BYTES:,} bytes (cut)"
        self.problems.add(kind, f"product {first}, column {name}", count)
        return _cut_texts(column)

    def _columns(self) -> tuple[dict[str, pa.DataType], int]:
        """What the columns that were loaded hold, and the width of the vectors."""
        kinds = {number: kind for kind, number in self._types().items()}
        fields = {field["name"]: field for field in self.client.describe_collection(self._loaded())["fields"]}
        dim = fields.pop("vector")["params"]["dim"]
        if plain_field("_id") not in fields:
            older = f"the collection {self.collection!r} was loaded by an older version"
            raise DataError(f"{self.uri}: {older}; load it again with training.scale.engines")
        shown = {name: field for name, field in fields.items() if not name.endswith((NUMBERS, PLAIN))}
        return {column_name(name): kinds[field["type"]] for name, field in shown.items()}, dim

    def _with_ranges(self, name: str, wanted: Condition) -> Condition:
        """A condition of texts with the bounds of `5-20` where nothing is that text; see [`passes`]."""
        kinds = {name: TEXT}
        for found in [RANGE.fullmatch(one) for one in wanted if isinstance(one, str)]:
            if found and not self.client.query(self.collection, filter_expression({name: wanted}, kinds), limit=1):
                wanted = [*wanted, (float(found[1]), float(found[2]))]
        return wanted

    def _result(self, hit: Mapping[str, Any]) -> SearchResult:
        product = {column_name(field): value for field, value in hit["entity"].items()}
        return SearchResult(hit["_id"], float(hit["distance"]), product)

    def _types(self) -> dict[pa.DataType, int]:
        kinds = self.milvus.DataType
        return {
            TEXT: kinds.VARCHAR,
            pa.bool_(): kinds.BOOL,
            pa.int64(): kinds.INT64,
            pa.float32(): kinds.FLOAT,
            pa.float64(): kinds.DOUBLE,
        }

    def _own_names(self) -> tuple[str, str]:
        return f"{self.collection}_mmfusion_1", f"{self.collection}_mmfusion_2"

    def _behind_alias(self) -> str | None:
        """The collection that the alias leads to."""
        if self.collection not in self.client.list_aliases()["aliases"]:
            return None
        return self.client.describe_alias(self.collection)["collection_name"]

    def _loaded(self) -> str:
        """The collection that was loaded last."""
        if not (name := self._behind_alias()):
            raise DataError(
                f"{self.uri}: there is no collection {self.collection!r}; load it with training.scale.engines"
            )
        self._check_own(name)
        return name

    def _replaceable(self) -> str | None:
        """The collection that the alias leads to, if there is one."""
        name = self._behind_alias()
        if name or self.client.has_collection(self.collection):
            self._check_own(name or self.collection)
        return name

    def _check_own(self, name: str) -> None:
        """Raises a [`DataError`] if a collection is somebody else's."""
        fields = {field["name"] for field in self.client.describe_collection(name)["fields"]}
        if name not in self._own_names() or not fields >= {"_id", "vector"}:
            raise DataError(
                f"{self.uri}: the collection {name!r} was not loaded by training.scale.engines and is left as it is; "
                "give another --collection"
            )


def check_collection(name: str) -> None:
    """Refuses a name that Milvus takes for no collection.

    Raises:
        DataError: with the rule.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
        raise DataError(
            f"--collection {name[:210]!r}: give letters, digits and underscores, no digit first, and at most 200"
        )


def embedded_file(uri: str) -> str | None:
    """The absolute path of an embedded Milvus, or `None` if `uri` is a server's address.

    Raises:
        DataError: if it is neither, or something is there that Milvus did not write.
    """
    if "://" in uri or uri.startswith("unix:"):
        return None
    if not uri.endswith(".db"):
        raise DataError(f"{uri}: is neither an address such as http://milvus:19530 nor a file whose name ends in .db")
    path = Path(uri)
    if not path.parent.is_dir():
        raise DataError(f"{uri}: there is no folder {path.parent}")
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if path.exists() and not (path.is_dir() and (not names or names >= {"LOCK", "collections"})):
        raise DataError(f"{uri}: is there, and is no database of milvus; give another --output")
    return str(path.absolute())


def check_products(table: pa.Table) -> None:
    """Looks for what Milvus can't hold.

    Raises:
        DataError: if an id or a vector is missing, an id is no string or longer than MAX_ID_BYTES, a vector is not
            finite, or a column has a name or holds values that can't be stored.
    """
    for name in ("_id", "vector"):
        if name not in table.column_names or table.column(name).null_count:
            raise DataError(f"products to load need the column {name!r}, a value in each row")
    ids = table.column("_id")
    if not is_text(ids.type):
        raise DataError(f"products to load need strings as _id, not {ids.type}")
    long = ids.filter(pc.greater(pc.binary_length(ids), MAX_ID_BYTES))
    if len(long):
        first = long[0].as_py()
        raise DataError(f"product {first[:40]!r}...: its _id has more than the {MAX_ID_BYTES} bytes that milvus takes")
    finite = np.isfinite(pc.list_flatten(table.column("vector")).to_numpy())
    if not finite.all():
        first = ids[int(np.argmin(finite)) * len(ids) // len(finite)].as_py()
        raise DataError(f"product {first!r}: its vector is not finite; run training.embed again")
    columns = stored_columns(table.schema)
    for name in columns:
        field_name(name)
    _cast(table.select(list(columns)), columns)


def stored_columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    """How columns but the vector are stored: truth values, 64-bit integers, floats, and all else as text."""
    return {field.name: _stored(field.type) for field in schema if field.name != "vector"}


def _stored(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return kind if kind == pa.float64() else pa.float32()
    return kind if pa.types.is_boolean(kind) else TEXT


def _cast(table: pa.Table, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """A table with columns of these types; null where it has none."""
    cast = {}
    for name, kind in columns.items():
        column = table.column(name) if name in table.column_names else pa.nulls(len(table), kind)
        try:
            cast[name] = column.cast(kind)
        except pa.ArrowException as error:
            raise DataError(f"column {name!r} can't be stored as {kind}: {one_line(error)}") from error
    return pa.table(cast)


def field_name(column: str) -> str:
    """The field of a column: of the same name, or `column_` and the name's UTF-8 in hexadecimal digits, where Milvus
    does not take it.

    >>> field_name("size"), field_name("größe")
    ('size', 'column_6772c3b6c39f65')

    Raises:
        DataError: if the name is too long.
    """
    if PLAIN_NAME.fullmatch(column) and column.lower() not in RESERVED_NAMES and not column.endswith((NUMBERS, PLAIN)):
        return column
    if len(column.encode()) > MAX_NAME_BYTES:
        raise DataError(f"column {column[:40]!r}...: its name has more than {MAX_NAME_BYTES} bytes; rename it")
    return f"column_{column.encode().hex()}"


def column_name(field: str) -> str:
    """The other way round."""
    return bytes.fromhex(field.removeprefix("column_")).decode() if field.startswith("column_") else field


def number_field(column: str) -> str:
    """The field with the numbers that a column's strings are."""
    return field_name(column) + NUMBERS


def plain_field(column: str) -> str:
    """The field with a column's strings in their plain form."""
    return field_name(column) + PLAIN


def filter_expression(where: Mapping[str, Condition], columns: Mapping[str, pa.DataType]) -> str:
    """What [`conditions`] gives, as Milvus writes it. What is below a category lies between its name with a level's
    sign behind it and the next text that doesn't begin so.

    >>> columns = {"brand": pa.large_string(), "price": pa.float64(), "size": pa.large_string()}
    >>> filter_expression({"price": [(5.0, None)], "size": [(40.0, 42.0)]}, columns)
    '(price >= 5.0) and (size__number >= 40.0 and size__number <= 42.0)'
    >>> filter_expression({"brand": ["çelik"]}, columns)
    '(brand__plain in ["çelik"] or (brand__plain >= "çelik > " and brand__plain < "çelik >!"))'
    """
    conditions = []
    for name, wanted in where.items():
        has_text = is_text(columns[name])
        field, numbers = (plain_field(name), number_field(name)) if has_text else (field_name(name),) * 2
        values = [one for one in wanted if not isinstance(one, tuple)]
        parts = [f"{field} in [{', '.join(map(_literal, values))}]"] if values or not wanted else []
        for value in values if has_text else ():
            below, behind = f"{value} {LEVEL} ", f"{value} {LEVEL}!"
            parts.append(f"({field} >= {_literal(below)} and {field} < {_literal(behind)})")
        parts += [bounds_expression(numbers, *one) for one in wanted if isinstance(one, tuple)]
        conditions.append(f"({' or '.join(parts)})")
    return " and ".join(conditions)


def _cut_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts with the first bytes that a field holds."""
    texts = [text and text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore") for text in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, TEXT)])


def _literal(value: str | bool | float) -> str:
    if isinstance(value, str):
        return f'"{value.translate(ESCAPES)}"'
    return str(value).lower()
