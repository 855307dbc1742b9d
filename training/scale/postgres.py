"""PostgreSQL with [pgvector](https://github.com/pgvector/pgvector): products beside a shop's other tables.

Products are rows of one table, named as the collection, which SQL reads as any other: `_id`, a column for each column,
`vector` (`halfvec`, 16-bit floats) with an HNSW graph, `_digest`, and `_words`, the stems of its texts. A column of
text has two more to filter by: its texts in their plain form (`_plain_3` for the fourth column) and the numbers that
they are (`_number_3`). The table's comment holds the schema and the notes as JSON, and tells our tables from others.
PostgreSQL 13 or newer with pgvector 0.8 or newer is needed; the database's owner runs `CREATE EXTENSION vector` once.

The graph is built in the server's `maintenance_work_mem`; one that is larger is built slower, and a warning tells. All
settings can be given in the address: `postgresql://me@host/shop?options=-cmaintenance_work_mem%3D2GB`.

A load makes a new table, with the rights that `ALTER DEFAULT PRIVILEGES` gives.
"""

import json
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import HYBRID_DEPTH, SearchResult, unit_queries
from modeling_mmfusion.index_filters import RANGE, numbers_of, plain_texts
from modeling_mmfusion.text_mmfusion import join_fields
from training.scale.engine import (
    COLLECTION,
    ENGINES_INSTALL,
    TEXT,
    Engine,
    ProductSchema,
    check_products,
    conform,
    digests_of,
    parts_of_ids,
    product_table,
    vectors_of,
)
from training.scale.filters import Condition
from training.scale.postgres_hybrid import HybridSearch, Row
from training.scale.postgres_sql import (
    EXTENSION_FACTS,
    SEARCH_SETTINGS,
    TABLE_FACTS,
    WORDS,
    condition_of,
    hidden,
    quoted,
    search_statement,
    table_columns,
)
from training.scale.words import words_of

MARK = "mmfusion: "  # how comments of our tables begin; JSON follows
UNKNOWN = re.compile(r"[\0\ud800-\udfff]")  # what no id that was stored has
MAX_ID_BYTES = 512
MAX_NAME_BYTES = 63
MAX_COLUMNS = 1600
MAX_DIM = 4000  # of an HNSW graph of halfvec
LARGEST = 65_504  # of 16-bit floats
LEAST_PGVECTOR = (0, 8)
SYSTEM_COLUMNS = {"tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"}
OWN_COLUMN = re.compile(r"vector|_digest|_words|_(plain|number)_\d+")
ROWS_TOGETHER = 10_000
EXACT_ROWS = 5000  # where no more than these pass a filter all of them are compared
MAX_EF = 1000  # of pgvector
MOST_ROWS = 2**31
SECONDS_TO_CONNECT = 10


class PostgresEngine(Engine):
    """Products in a table of PostgreSQL.

    Where few products pass a filter all of them are compared; else the graph is walked until enough are found that
    pass. Vectors are kept as 16-bit floats: scores differ from those of 32 bits by some 1e-4. Threads may share an
    engine and take turns; a load has a connection of its own, and a connection that was lost is made anew by the next
    call.

    Args:
        place (`str`): its address, `postgresql://user:password@host:5432/database`, as libpq takes it; what is left
            out is taken from `PGPASSWORD`, `~/.pgpass` and their like.
        collection (`str`, *optional*, defaults to `"products"`): the table, in the first schema of the search path.
    """

    hybrid = True

    def __init__(self, place: str, collection: str = COLLECTION):
        super().__init__(hidden(place), collection)
        try:
            import psycopg
        except ImportError as error:
            raise DataError(f"psycopg is not installed; run: {ENGINES_INSTALL}") from error
        logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns where a lost connection rolls nothing back
        self.psycopg, self.turn = psycopg, threading.RLock()
        if not 0 < len(collection.encode()) <= MAX_NAME_BYTES or "\0" in collection:
            raise DataError(f"collection {collection[:70]!r}: a table's name has 1 to {MAX_NAME_BYTES} bytes, no NUL")
        try:
            self.address = psycopg.conninfo.conninfo_to_dict(place)
        except psycopg.ProgrammingError as error:  # its message may have a part of the password
            form = "postgresql://user:password@host:5432/database, with other letters of the password as %40"
            raise DataError(f"postgresql: the address can't be read; write {form}") from error
        self.connection = self._connect()

    def read_schema(self) -> ProductSchema | None:
        """The collection's schema; `None` if there is no table of that name."""
        with self._cursor() as cursor:
            facts = self._facts(cursor)
        return facts and facts[0]

    def check(self, schema: ProductSchema) -> None:
        """Refuses vectors wider than 4,000, names of more than 63 bytes or of PostgreSQL's or our own columns."""
        if not 0 < schema.dim <= MAX_DIM:
            wide = f"vectors have {schema.dim:,} dimensions, and pgvector's graph takes up to {MAX_DIM:,}"
            raise DataError(f"postgresql: {wide}; embed with a smaller truncate_dim")
        if len(table_columns(schema)) > MAX_COLUMNS:
            needs = f"too few for {len(schema.columns):,} of which each of text needs three"
            raise DataError(f"postgresql: a table has at most {MAX_COLUMNS:,} columns, {needs}; leave some out")
        for name in schema.columns:
            if not name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
                rule = f"postgresql takes names of 1 to {MAX_NAME_BYTES} bytes without NUL"
                raise DataError(f"column {name[:40]!r}: {rule}; rename it")
            if name in SYSTEM_COLUMNS or OWN_COLUMN.fullmatch(name):
                raise DataError(f"column {name!r}: a table has another column of that name; rename it")

    def load(self, tables: Iterable[pa.Table], schema: ProductSchema) -> int:
        """Makes the table anew, in one transaction, so that a load that ends early leaves no trace; the table that is
        there is read and written until the end, and what was changed in it is gone with it."""
        self.check(schema)
        self.read_schema()
        number = None
        with self._errors(), self._connect() as connection, connection.cursor() as cursor, connection.transaction():
            connection.add_notice_handler(self._heed)
            cursor.execute(
                "select set_config('statement_timeout', '0', true),"
                " set_config('idle_in_transaction_session_timeout', '0', true)"
            )
            new = self._name(f"mmfusion_load_{connection.info.backend_pid}")
            columns = ", ".join(f"{quoted(column)} {kind}" for column, kind in table_columns(schema).items())
            cursor.execute(f"create table {new} ({columns})", ())
            for table in tables:
                number = (number or 0) + self._copy(cursor, new, self._prepared(table, schema), schema)
            if number is None:
                raise DataError("there are no products to load")
            cursor.execute(f"alter table {new} add primary key (_id)")
            cursor.execute(
                f"create index on {new} using hnsw (vector halfvec_ip_ops) with (m = 16, ef_construction = 128)"
            )
            cursor.execute(f"create index on {new} using gin ({WORDS})")
            self._comment(cursor, new, schema, {})
            cursor.execute(f"analyze {new}", ())
            self._put_in_place(cursor, new)
        return number

    def upsert(self, table: pa.Table) -> None:
        """Adds products, or takes them in place of older ones, all or none; of products with the same id the last."""
        with self._cursor() as cursor:
            schema = self._locked(cursor, "row exclusive")[0]
            cursor.execute(f"create temporary table mmfusion_upsert (like {self.table}) on commit drop", ())
            self._copy(cursor, "pg_temp.mmfusion_upsert", last_of_each(self._prepared(table, schema)), schema)
            names = table_columns(schema)
            updates = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in names if name != "_id")
            cursor.execute(
                f"insert into {self.table} select * from mmfusion_upsert on conflict (_id) do update set {updates}", ()
            )

    def delete(self, product_ids: Sequence[str]) -> None:
        """Deletes products, all or none; unknown ids are no error."""
        known = [product_id for product_id in product_ids if not UNKNOWN.search(product_id)]
        with self._cursor() as cursor:
            self._locked(cursor, "row exclusive")
            for start in range(0, len(known), ROWS_TOGETHER):
                part = known[start : start + ROWS_TOGETHER]
                cursor.execute(f"delete from {self.table} where _id = any(%s::text[])", (part,))

    def read(self, product_ids: Sequence[str]) -> pa.Table:
        """Products as they are stored, their vectors rounded to 16-bit floats."""
        rows, vectors = [], []
        with self._cursor() as cursor:
            schema = self._locked(cursor, "access share")[0]
            names = ", ".join(map(quoted, [*schema.columns, "vector"]))
            statement = f"select {names} from {self.table} where _id = any(%s::text[])"
            for some in parts_of_ids([one for one in product_ids if "\0" not in one], ROWS_TOGETHER):
                for *row, vector in cursor.execute(statement, (some,), prepare=False):
                    rows.append(dict(zip(schema.columns, row, strict=True)))
                    vectors.append(halfvec_of(vector))
        return product_table(rows, vectors, schema)

    def count(self) -> int:
        """The number of products."""
        with self._cursor() as cursor:
            self._locked(cursor, "access share")
            return cursor.execute(f"select count(*) from {self.table}", ()).fetchone()[0]

    def digests(self) -> dict[str, int]:
        """The digests that were stored, read some thousand at a time."""
        with self._cursor() as cursor:
            self._locked(cursor, "access share")
            with self.connection.cursor("mmfusion_digests", binary=True) as streamed:
                streamed.itersize = ROWS_TOGETHER
                return dict(streamed.execute(f"select _id, _digest from {self.table}", ()))

    def read_note(self, name: str) -> str | None:
        """A text of the table's comment."""
        with self._cursor() as cursor:
            facts = self._facts(cursor)
        return facts and facts[1].get(name)

    def write_note(self, name: str, text: str) -> None:
        """Writes a text into the table's comment."""
        with self._cursor() as cursor:
            schema, notes = self._locked(cursor, "share update exclusive")[:2]
            self._comment(cursor, self.table, schema, notes | {name: text})

    def drop(self) -> None:
        """Deletes the table."""
        with self._cursor() as cursor:
            if self._facts(cursor):
                cursor.execute(f"drop table {self.table}", ())

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()

    def find(
        self, queries: np.ndarray, k: int, wanted: dict[str, Condition], texts: Sequence[str] | None
    ) -> list[list[SearchResult]]:
        """What [`~Engine.search`] gives, of what it has checked."""
        k = min(k, MOST_ROWS)
        depth, more = (k, ()) if texts is None else (max(k, HYBRID_DEPTH), (WORDS,))
        units, lengths = unit_queries(queries)
        with self._cursor() as cursor:
            schema, _, version = self._locked(cursor, "access share")
            if gone := [name for name in wanted if name not in schema.columns]:
                raise DataError(f"{self.place}: other products came meanwhile, without a column {gone[0]!r}")
            passing, values = self._passing(cursor, schema, wanted)
            exact = self._are_few(cursor, passing, values)
            place = (self.table, schema, version, passing)
            by_graph, by_all = (search_statement(*place, one, more) for one in (False, True))
            cursor.execute(SEARCH_SETTINGS, (str(min(max(100, 2 * depth), MAX_EF)), "on" if exact else "off"))
            found = [self._nearest(cursor, by_all if exact else by_graph, values, query, depth) for query in units]
            for row, results in enumerate(found):
                if len(results) < depth and not exact:
                    found[row] = self._nearest(cursor, by_all, values, units[row], depth)
            if texts is not None:
                both = HybridSearch(cursor, *place, values, texts)
                found = [both.best(row, units[row], nearest, k) for row, nearest in enumerate(found)]
        names = [name for name in schema.columns if name != "_id"]
        return [
            [
                SearchResult(one, score * length, dict(zip(names, columns, strict=False)))
                for one, score, columns in rows
            ]
            for rows, length in zip(found, lengths.tolist(), strict=True)
        ]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of PostgreSQL as one line."""
        try:
            yield
        except self.psycopg.Error as error:
            told = " ".join(filter(None, (error.diag.message_primary, error.diag.message_detail))) or error
            raise DataError(f"{self.place}: postgresql: {one_line(told)}") from error

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor in a transaction of its own, one thread at a time."""
        with self.turn, self._errors():
            if self.connection.broken:
                self.connection = self._connect()
            with self.connection.transaction(), self.connection.cursor(binary=True) as cursor:
                yield cursor

    def _connect(self) -> Any:
        """A connection that knows `halfvec`, wherever the extension lies."""
        defaults = {"connect_timeout": SECONDS_TO_CONNECT, "application_name": "mmfusion"}
        with self._errors():
            connection = self.psycopg.connect(autocommit=True, **defaults | self.address | {"client_encoding": "utf8"})
            try:
                self._meet(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _meet(self, connection: Any) -> None:
        """Looks at the database of a connection.

        Raises:
            DataError: if it has no pgvector of a version that we need, or no schema for tables.
        """
        connection.execute("set standard_conforming_strings = on")
        facts = connection.execute(EXTENSION_FACTS).fetchone()
        if facts is None:
            raise DataError(f"{self.place}: the database has no pgvector; run there: CREATE EXTENSION vector")
        version, home, self.namespace = facts
        if tuple(map(int, version.split(".")[:2])) < LEAST_PGVECTOR:
            needed = ".".join(map(str, LEAST_PGVECTOR))
            raise DataError(f"{self.place}: pgvector {version} is too old; {needed} or newer is needed")
        if self.namespace is None:
            raise DataError(f"{self.place}: there is no schema of the search path to hold a table")
        path = "concat_ws(', ', nullif(current_setting('search_path'), ''), %s::text)"
        connection.execute(f"select set_config('search_path', {path}, false)", (home,))
        halfvec = self.psycopg.types.TypeInfo.fetch(connection, "halfvec")
        halfvec.register(connection)

        class HalfvecDumper(self.psycopg.adapt.Dumper):
            format, oid = self.psycopg.pq.Format.BINARY, halfvec.oid

            def dump(self, vector: np.ndarray) -> bytes:
                return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f2").tobytes()

        connection.adapters.register_dumper(np.ndarray, HalfvecDumper)

    @property
    def table(self) -> str:
        """The collection's table in SQL."""
        return self._name(self.collection)

    def _name(self, table: str) -> str:
        return f"{quoted(self.namespace)}.{quoted(table)}"

    def _facts(self, cursor: Any) -> tuple[ProductSchema, dict[str, str], int] | None:
        """The table's schema, notes, and number in the database; `None` if there is no table.

        Raises:
            DataError: if it is somebody else's.
        """
        found = cursor.execute(TABLE_FACTS, (self.namespace, self.collection)).fetchone()
        if found is None:
            return None
        oid, kind, comment = found
        if kind != "r" or not (comment or "").startswith(MARK):
            raise DataError(
                f"{self.place}: {self.collection!r} was not loaded by training.scale.engines and is left as it is; "
                "give another name behind the address's #"
            )
        try:
            facts = json.loads(comment.removeprefix(MARK))
            return ProductSchema.loads(facts["schema"]), facts["notes"], oid
        except (ValueError, KeyError, TypeError) as error:
            damaged = f"the comment of the table {self.collection!r}, which says what it holds, is damaged"
            raise DataError(f"{self.place}: {damaged}; rename the table and load it again") from error

    def _locked(self, cursor: Any, mode: str) -> tuple[ProductSchema, dict[str, str], int]:
        """What [`~PostgresEngine._facts`] gives, of a table that nobody replaces until the transaction ends."""
        try:
            cursor.execute(f"lock table {self.table} in {mode} mode", ())
        except self.psycopg.errors.UndefinedTable as error:
            raise DataError(self._missing()) from error
        return self._facts(cursor)

    def _missing(self) -> str:
        return f"{self.place}: there is no collection {self.collection!r}; load it with training.scale.engines"

    def _comment(self, cursor: Any, table: str, schema: ProductSchema, notes: dict[str, str]) -> None:
        """Writes what the table holds, and notes, as its comment."""
        text = MARK + json.dumps({"schema": schema.dumps(), "notes": notes})
        literal = self.psycopg.sql.Literal(text).as_string(cursor).replace("%", "%%")
        cursor.execute(f"comment on table {table} is {literal}", ())

    def _put_in_place(self, cursor: Any, new: str) -> None:
        """Gives a new table the collection's name, and deletes the older one; one at a time does it."""
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (self.table,))
        if self._facts(cursor):
            cursor.execute(f"drop table {self.table}", ())
        cursor.execute(f"alter table {new} rename to {quoted(self.collection)}", ())

    def _heed(self, notice: Any) -> None:
        """Counts a graph that did not fit into memory."""
        if "maintenance_work_mem" in (notice.message_primary or ""):
            self.problems.add("graph larger than the server's maintenance_work_mem (built slower)", self.collection)

    def _prepared(self, table: pa.Table, schema: ProductSchema) -> pa.Table:
        """A table's products as the schema has them.

        Raises:
            DataError: if one can't be stored.
        """
        check_products(table, MAX_ID_BYTES)
        table = conform(table, schema.columns)
        if (width := table.schema.field("vector").type.list_size) != schema.dim:
            raise DataError(f"products' vectors have {width} dimensions, those of the collection {schema.dim}")
        ids = table.column("_id")
        if len(wrong := ids.filter(pc.match_substring(ids, "\0"))):
            raise DataError(f"product {wrong[0].as_py()[:40]!r}: its _id has a NUL, which postgresql can't hold")
        large = np.abs(vectors_of(table)).max(axis=1, initial=0) > LARGEST
        if large.any():
            first = ids[int(np.argmax(large))].as_py()
            raise DataError(f"product {first!r}: its vector has numbers over {LARGEST:,}; give unit vectors")
        return table

    def _copy(self, cursor: Any, target: str, table: pa.Table, schema: ProductSchema) -> int:
        """Puts a table's products, which are prepared, into a table of the database; returns their number."""
        columns = table_columns(schema)
        types = [re.match(r"\w+(\[\])?", kind)[0] for kind in columns.values()]
        statement = f"copy {target} ({', '.join(map(quoted, columns))}) from stdin (format binary)"
        with cursor.copy(statement.replace("%%", "%")) as copy:
            copy.set_types(types)
            for start in range(0, len(table), ROWS_TOGETHER):
                for row in self._rows(table.slice(start, ROWS_TOGETHER)):
                    copy.write_row(row)
        return len(table)

    def _rows(self, table: pa.Table) -> Iterator[tuple]:
        """Products as rows of [`table_columns`]."""
        columns, shown = [], {}
        for name in table.column_names:
            column = table.column(name)
            if column.type == TEXT:
                column = self._without_nul(column, name, table.column("_id"))
                columns += [column, plain_texts(column), numbers_of(column)]
            elif name != "vector":
                columns.append(column)
            shown[name] = column
        values = [column.to_pylist() for column in columns]
        words = [words_of(join_fields(product)) for product in pa.table(shown).drop_columns("vector").to_pylist()]
        return zip(*values, vectors_of(table), digests_of(table).to_pylist(), words, strict=True)

    def _without_nul(self, column: pa.ChunkedArray, name: str, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Texts without the character that PostgreSQL's have not."""
        wrong = pc.fill_null(pc.match_substring(column, "\0"), False)
        if not (count := pc.sum(wrong).as_py()):
            return column
        first = ids.filter(wrong)[0].as_py()
        self.problems.add("text with NUL characters (cut out)", f"product {first}, column {name}", count)
        return pc.replace_substring(column, "\0", "")

    def _passing(self, cursor: Any, schema: ProductSchema, wanted: dict[str, Condition]) -> tuple[str, list[Any]]:
        """A filter in SQL, and its values. `5-20` are bounds where nothing is that text; see [`passes`]."""
        parts, values = ["true"], []
        for name, condition in wanted.items():
            if schema.columns[name] == TEXT:
                for found in [RANGE.fullmatch(one) for one in condition if isinstance(one, str)]:
                    if found and not self._any(cursor, *condition_of(name, [found[0]], schema)):
                        condition = [*condition, (float(found[1]), float(found[2]))]
            part, more = condition_of(name, condition, schema)
            parts, values = [*parts, part], values + more
        return " and ".join(parts[1:] or parts), values

    def _are_few(self, cursor: Any, passing: str, values: list[Any]) -> bool:
        """Whether no more than `EXACT_ROWS` products pass."""
        few = f"select from {self.table} where {passing} limit {EXACT_ROWS + 1}"
        return cursor.execute(f"select count(*) from ({few}) few", values).fetchone()[0] <= EXACT_ROWS

    def _any(self, cursor: Any, passing: str, values: list[Any]) -> bool:
        return cursor.execute(f"select exists (select from {self.table} where {passing})", values).fetchone()[0]

    def _nearest(self, cursor: Any, statement: str, values: list[Any], query: np.ndarray, k: int) -> list[Row]:
        """The best products for one query of length 1. A distance is the inner product with its sign turned."""
        rows = cursor.execute(statement, (query, *values, k), prepare=True).fetchall()
        return [(product_id, 0.0 - distance, columns) for product_id, distance, *columns in rows]


def halfvec_of(content: bytes) -> np.ndarray:
    """A vector as float16, of what PostgreSQL sends: its length and an unused number in 16 bits each before it."""
    return np.frombuffer(content, dtype=">f2", offset=4)


def last_of_each(table: pa.Table) -> pa.Table:
    """The last row of each `_id`."""
    last = {product_id: row for row, product_id in enumerate(table.column("_id").to_pylist())}
    return table if len(last) == len(table) else table.take(pa.array(sorted(last.values()), pa.int64()))
