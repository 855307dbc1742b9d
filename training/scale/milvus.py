"""Milvus, embedded in a file or a server, searched as [`ProductIndex`] is.

Of the engines that are distributed (search and storage on nodes of their own) Milvus is the one whose embedded form
comes from the package registry (`milvus-lite`) and is spoken to by the same client: what is tested in a file on a
laptop is what a cluster is asked, only the address differs. A cluster has not been tried here.

The user part of an address is its token, `milvus:http://user:password@host:19530` or `milvus:http://key@host:19530`;
without one the environment variable `MMFUSION_ENGINE_TOKEN` is.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import SearchResult
from modeling_mmfusion.index_filters import LEVEL, RANGE, numbers_of, plain_texts
from training.scale.engine import (
    COLLECTION,
    DIGEST,
    ENGINES_INSTALL,
    LONGEST_ID,
    TEXT,
    Engine,
    ProductSchema,
    parts_of_ids,
    product_table,
    shown,
    stored_products,
)
from training.scale.filters import Condition, bounds_expression, is_text

TOKEN = "MMFUSION_ENGINE_TOKEN"
SCHEMA, NOTE = "mmfusion.schema", "mmfusion.note."  # properties of a collection
ROWS_TOGETHER = 1000
MOST_FOUND = 16_384  # by one search
MAX_TEXT_BYTES = 65_535  # of a field of text in Milvus
MAX_NAME_BYTES = 100  # of a column; a field's name has up to 255 letters, and may be spelled in hexadecimal
NUMBERS, PLAIN = "__number", "__plain"
PLAIN_NAME = re.compile(r"(?!column_)[A-Za-z_][A-Za-z0-9_]{0,199}")
RESERVED_NAMES = set(
    "and or not in like is null exists true false iso interval rowid timestamp _seq _partition".split()
)
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


class MilvusEngine(Engine):
    """Products in a collection of Milvus.

    In a file the vectors are compared one by one (FLAT), so what is found is exact, with and without filters; a server
    builds an HNSW graph. Each column is a field, see [`field_name`], and each column of text has two more to filter
    by: its texts in their plain form, and the numbers that they are, for ranges. No other collection is touched: what
    is loaded goes to `NAME_mmfusion_1` or `_2`, and the alias `NAME` leads to it; so searches go on while another one
    is loaded. Schema and notes are properties of the collection.

    Args:
        place (`str`): the server's address such as `http://milvus:19530`, or a file such as `shop.db` for the embedded
            one, which one process at a time can open.
        collection (`str`, *optional*, defaults to `"products"`): an alias, which leads to the collection that was
            loaded last.

    Raises:
        DataError: if `pymilvus` is not installed, the engine can't be reached, the file is something else, or the
            collection's name is not of letters, digits and underscores.
    """

    _open: Counter[str] = Counter()  # engines of this process by embedded file, which share its server

    def __init__(self, place: str, collection: str = COLLECTION):
        super().__init__(place, collection)
        try:
            import pymilvus
        except ImportError as error:
            raise DataError(f"pymilvus is not installed; run: {ENGINES_INSTALL}") from error
        check_collection(collection)
        self.milvus, self.name = pymilvus, shown(place)
        self.file = embedded_file(place)
        for package in ("pymilvus", "milvus_lite", "grpc._server")[: 3 if self.file else 1]:
            logging.getLogger(package).setLevel(logging.CRITICAL)  # they log a traceback of each error that they raise
        if not self._is_new():
            try:
                with self._errors():
                    if self._behind_alias():
                        self.client.load_collection(self.collection)
            except DataError:
                self.close()
                raise

    @cached_property
    def client(self) -> Any:
        """The connection; an embedded engine that is new is made when it is first written to."""
        uri, token = split_token(self.place)
        if self.file:
            Path(self.file).parent.mkdir(parents=True, exist_ok=True)
        try:
            client = self.milvus.MilvusClient(uri, token=token or os.environ.get(TOKEN, ""))
        except (self.milvus.MilvusException, OSError, ValueError) as error:
            hint = "; is it open in another process?" if self.file else ""
            reason = one_line(error)
            reason = reason.replace(token, "***") if token else reason
            raise DataError(f"{self.name}: milvus can't be reached: {reason}{hint}") from None
        self._open[self.file] += 1
        return client

    def read_schema(self) -> ProductSchema | None:
        with self._errors():
            if not (name := self._replaceable()):
                return None
            properties = self.client.describe_collection(name)["properties"]
        if SCHEMA not in properties:
            older = f"the collection {self.collection!r} was loaded by an older version"
            raise DataError(f"{self.name}: {older}; drop it by training.scale.engines --drop and load it again")
        return ProductSchema.loads(properties[SCHEMA])

    def check(self, schema: ProductSchema) -> None:
        for name in schema.columns:
            field_name(name)

    def load(self, tables: Iterable[pa.Table], schema: ProductSchema) -> int:
        self.check(schema)
        name, number = None, 0
        with self._errors():
            older = self._replaceable()
            try:
                for table in tables:
                    ready = stored_products(table, schema)
                    name = name or self._create(older, schema)
                    number += self._insert(name, ready)
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
        ready = stored_products(table, self.schema)
        with self._errors():
            self._insert(self._loaded(), ready)

    def delete(self, product_ids: Sequence[str]) -> None:
        ids = [one for one in product_ids if len(one.encode()) <= LONGEST_ID]
        with self._errors():
            name = self._loaded()
            for start in range(0, len(ids), ROWS_TOGETHER):
                some = ", ".join(map(_literal, ids[start : start + ROWS_TOGETHER]))
                self.client.delete(name, filter=f"_id in [{some}]")  # its own `ids` come unescaped

    def read(self, product_ids: Sequence[str]) -> pa.Table:
        schema, rows = self.schema, []
        fields = ["vector", *map(field_name, schema.columns)]
        with self._errors():
            name = self._loaded()
            for some in parts_of_ids(product_ids, ROWS_TOGETHER):
                passing = f"_id in [{', '.join(map(_literal, some))}]"
                rows += self.client.query(name, passing, output_fields=fields, consistency_level="Strong")
        vectors = [row.pop("vector") for row in rows]
        return product_table([_columns_of(row) for row in rows], vectors, schema)

    def count(self) -> int:
        with self._errors():
            found = self.client.query(self._loaded(), output_fields=["count(*)"], consistency_level="Strong")
        return found[0]["count(*)"]

    def digests(self) -> dict[str, int]:
        digests = {}
        with self._errors():
            rows = self.client.query_iterator(
                self._loaded(), ROWS_TOGETHER, output_fields=["_id", DIGEST], consistency_level="Strong"
            )
            while some := rows.next():
                digests |= {row["_id"]: row[DIGEST] for row in some}
            rows.close()
        return digests

    def read_note(self, name: str) -> str | None:
        with self._errors():
            if not (collection := self._replaceable()):
                return None
            return self.client.describe_collection(collection)["properties"].get(NOTE + name)

    def write_note(self, name: str, text: str) -> None:
        with self._errors():
            self.client.alter_collection_properties(self._loaded(), {NOTE + name: text})

    def drop(self) -> None:
        with self._errors():
            if name := self._replaceable():
                self.client.drop_alias(self.collection)
                self.client.drop_collection(name)

    def close(self) -> None:
        """Ends the connection, and the embedded server with its last one."""
        if (client := self.__dict__.pop("client", None)) is None:
            return
        client.close()
        self._open[self.file] -= 1
        if self.file and not self._open[self.file]:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.file)

    def find(
        self, queries: np.ndarray, k: int, wanted: dict[str, Condition], texts: Sequence[str] | None
    ) -> list[list[SearchResult]]:
        columns = self.schema.columns
        with self._errors():
            for name in wanted:
                if is_text(columns[name]):
                    wanted[name] = self._with_ranges(name, wanted[name])
            k = k if k <= MOST_FOUND else min(k, max(1, self.count()))
            params = {} if self.file else {"ef": max(100, 2 * k)}
            found = self.client.search(
                self.collection,
                data=queries.tolist(),
                anns_field="vector",
                limit=k,
                filter=filter_expression(wanted, columns),
                output_fields=[field_name(name) for name in columns if name != "_id"],
                search_params={"metric_type": "IP", "params": params},
            )
        return [[self._result(hit) for hit in hits] for hits in found]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of Milvus as one line."""
        try:
            yield
        except self.milvus.MilvusException as error:
            raise DataError(f"{self.name}: milvus: {one_line(error.message)}") from error

    def _create(self, older: str | None, schema: ProductSchema) -> str:
        """Makes an empty collection, of the one of two names that the alias does not lead to, and gives the name."""
        milvus_schema = self.client.create_schema(auto_id=False)
        milvus_schema.add_field("_id", self.milvus.DataType.VARCHAR, is_primary=True, max_length=LONGEST_ID)
        milvus_schema.add_field("vector", self.milvus.DataType.FLOAT_VECTOR, dim=schema.dim)
        milvus_schema.add_field(DIGEST, self.milvus.DataType.INT64)
        for name, kind in schema.columns.items():
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
        properties = {SCHEMA: schema.dumps()}
        self.client.create_collection(name, schema=milvus_schema, index_params=index, properties=properties)
        return name

    def _insert(self, collection: str, table: pa.Table) -> int:
        """Puts a table's products into a collection."""
        for start in range(0, len(table), ROWS_TOGETHER):
            part, fields = table.slice(start, ROWS_TOGETHER), {}
            for name, column in zip(part.column_names, part.columns, strict=True):
                if column.type == TEXT:
                    fields[number_field(name)] = numbers_of(column)
                    column = self._cut(column, name, part.column("_id"))
                    fields[plain_field(name)] = _cut_texts(plain_texts(column))
                fields[name if name == DIGEST else field_name(name)] = column
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

    def _with_ranges(self, name: str, wanted: Condition) -> Condition:
        """A condition of texts with the bounds of `5-20` where nothing is that text; see [`passes`]."""
        kinds = {name: TEXT}
        for found in filter(None, [RANGE.fullmatch(one) for one in wanted if isinstance(one, str)]):
            if not self.client.query(self.collection, filter_expression({name: [found[0]]}, kinds), limit=1):
                wanted = [*wanted, (float(found[1]), float(found[2]))]
        return wanted

    def _result(self, hit: Mapping[str, Any]) -> SearchResult:
        return SearchResult(hit["_id"], float(hit["distance"]), _columns_of(hit["entity"]))

    def _types(self) -> dict[pa.DataType, int]:
        kinds = self.milvus.DataType
        return {
            TEXT: kinds.VARCHAR,
            pa.bool_(): kinds.BOOL,
            pa.int64(): kinds.INT64,
            pa.float32(): kinds.FLOAT,
            pa.float64(): kinds.DOUBLE,
        }

    def _is_new(self) -> bool:
        """Whether there is no embedded engine yet."""
        return bool(self.file) and not Path(self.file).exists()

    def _own_names(self) -> tuple[str, str]:
        return f"{self.collection}_mmfusion_1", f"{self.collection}_mmfusion_2"

    def _behind_alias(self) -> str | None:
        """The collection that the alias leads to."""
        if self._is_new():
            return None
        if self.collection not in self.client.list_aliases()["aliases"]:
            return None
        return self.client.describe_alias(self.collection)["collection_name"]

    def _loaded(self) -> str:
        """The collection that was loaded last."""
        if not (name := self._replaceable()):
            raise self._nothing()
        return name

    def _replaceable(self) -> str | None:
        """The collection that the alias leads to, if there is one.

        Raises:
            DataError: if it, or what has the alias's name, is somebody else's.
        """
        name = self._behind_alias()
        if name or not self._is_new() and self.client.has_collection(self.collection):
            self._check_own(name or self.collection)
        return name

    def _check_own(self, name: str) -> None:
        """Raises a [`DataError`] if a collection is somebody else's."""
        fields = {field["name"] for field in self.client.describe_collection(name)["fields"]}
        if name not in self._own_names() or not fields >= {"_id", "vector"}:
            raise DataError(
                f"{self.name}: the collection {name!r} was not loaded by training.scale.engines and is left as it is; "
                "give another name behind # in the address"
            )


def check_collection(name: str) -> None:
    """Refuses a name that Milvus takes for no collection.

    Raises:
        DataError: with the rule.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
        raise DataError(
            f"collection {name[:210]!r}: give letters, digits and underscores, no digit first, and at most 200"
        )


def embedded_file(uri: str) -> str | None:
    """The absolute path of an embedded Milvus, or `None` if `uri` is a server's address.

    Raises:
        DataError: if it is neither, or something is there that Milvus did not write.
    """
    if "://" in uri or uri.startswith("unix:"):
        return None
    if not uri.endswith(".db"):
        raise DataError(
            f"{shown(uri)}: is neither an address such as http://milvus:19530 nor a file whose name ends in .db"
        )
    path = Path(uri)
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if path.exists() and not (path.is_dir() and (not names or names >= {"LOCK", "collections"})):
        raise DataError(f"{uri}: is there, and is no database of milvus; give another --to")
    return str(path.absolute())


def split_token(uri: str) -> tuple[str, str]:
    """An address without its user part, and that part.

    >>> split_token("http://root:Milvus@host:19530")
    ('http://host:19530', 'root:Milvus')
    """
    if "://" not in uri:
        return uri, ""
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), unquote(user)


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


def _columns_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {column_name(field): value for field, value in fields.items()}


def _cut_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts with the first bytes that a field holds."""
    texts = [text and text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore") for text in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, TEXT)])


def _literal(value: str | bool | float) -> str:
    if isinstance(value, str):
        return f'"{value.translate(ESCAPES)}"'
    return str(value).lower()
