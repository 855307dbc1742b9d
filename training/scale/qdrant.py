"""Qdrant, embedded in a folder or a server, searched as [`ProductIndex`] is.

What a product is there tells `qdrant_points.py`. A collection's metadata has [`ProductSchema`] as JSON and the notes.
"""

import os
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from json import JSONDecodeError
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_mmfusion.checksums import flush
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import SearchResult
from modeling_mmfusion.index_filters import RANGE
from training.scale.engine import (
    COLLECTION,
    DIGEST,
    ENGINES_INSTALL,
    Engine,
    ProductSchema,
    parts_of_ids,
    product_table,
    stored_products,
)
from training.scale.filters import Condition, is_text
from training.scale.qdrant_folder import check_folder, points_file
from training.scale.qdrant_points import PRODUCT, payload_indexes, point_id, points_of, query_filter, result_of, slices

TOKEN = "MMFUSION_ENGINE_TOKEN"  # the environment variable with a server's API key
MARK, NOTE = "mmfusion", "mmfusion_note_"  # keys of a collection's metadata: the schema, and notes behind it
MAX_DIM = 65_535
QUERIES_TOGETHER, READ_TOGETHER, IDS_TOGETHER = 100, 1000, 10_000
MANY = 1000  # from where on `k` is compared with the number of products first
EMBEDDED_MANY = 20_000
SECONDS = 60
SAID_OTHERWISE = "Local mode is not recommended|.*Current collection contains|Api key is used with an insecure"


class NotThere(DataError):
    """Qdrant has no such collection."""


@dataclass
class Connection:
    """A client, and the engines that share it.

    Args:
        client (`qdrant_client.QdrantClient`): of a server, a folder, or nothing while there is no folder.
        on_disk (`bool`): whether the client is that of a folder.
        engines (`set[int]`): by `id`.
    """

    client: Any
    on_disk: bool = False
    engines: set[int] = field(default_factory=set)


class QdrantEngine(Engine):
    """Products in a collection of Qdrant, searched as [`ProductIndex`] is.

    A server builds an HNSW graph (m 16, ef_construct 128) of float32 vectors, compared by dot product, and indexes of
    what is filtered by; it goes on building them after a load, and compares vector by vector meanwhile. It must be
    Qdrant 1.16 or newer, which keep metadata of a collection.

    In a folder Qdrant is embedded: Python code that keeps everything in memory and compares all vectors one by one, so
    what is found is exact; made for tests and small shops, some 20,000 products. One process at a time can open it,
    and all engines of that process share it. Open no folder of somebody whom you don't trust: points lie there as
    pickles.

    No other collection is touched: what is loaded goes to `NAME_mmfusion_1` or `_2`, and the alias `NAME` leads to it.

    Args:
        place (`str`): a folder, or a server's address such as `http://host:6333`. A server's API key is the address's
            user part (`https://KEY@host:6333`), or the environment variable MMFUSION_ENGINE_TOKEN; it is never shown.
            Over `http` others can read it on its way.
        collection (`str`, *optional*, defaults to `"products"`): letters, digits, `_`, `-` and `.`.

    Attributes:
        problems (`Problems`): numbers that are not finite, which are stored as null; more products than an embedded
            Qdrant is made for.

    Raises:
        DataError: if `qdrant-client` is not installed, the server can't be reached or wants another key, the folder is
            damaged, somebody else's or open in another process, or the collection's name is none.
    """

    _folders: dict[str, Connection] = {}  # of this process, by path

    def __init__(self, place: str, collection: str = COLLECTION):
        try:
            import qdrant_client
        except ImportError as error:
            raise DataError(f"qdrant-client is not installed; run: {ENGINES_INSTALL}") from error
        check_collection(collection)
        warnings.filterwarnings("ignore", SAID_OTHERWISE, UserWarning)
        self.qdrant, self.key = qdrant_client, None
        self.folder = None if "://" in place else Path(place)
        if self.folder is None:
            place, self.key = split_key(place)
        super().__init__(place, collection)
        if self.folder is None:
            self.connection = Connection(self._ask(self._server))
        else:
            self.connection = self._folders.setdefault(os.path.realpath(self.folder), Connection(None))
        self.connection.engines.add(id(self))
        try:
            if self.folder is not None:
                self._open_folder(make=False)
            self._ask(self.client.get_aliases)
        except DataError:
            self.close()
            raise

    @property
    def client(self) -> Any:
        """The client, `qdrant_client.QdrantClient`."""
        return self.connection.client

    def read_schema(self) -> ProductSchema | None:
        metadata = self._metadata(self.collection)
        if metadata is None:
            return None
        self._check_own(self.collection, metadata)
        try:
            return ProductSchema.loads(metadata[MARK])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.place}: what {self.collection!r} holds is damaged; drop it and load it") from error

    def check(self, schema: ProductSchema) -> None:
        if not 1 <= schema.dim <= MAX_DIM:
            raise DataError(f"vectors of {schema.dim} dimensions: qdrant takes 1 to {MAX_DIM:,}")
        if not is_text(schema.columns.get("_id", pa.null())):
            raise DataError("products to load need strings as _id")

    def load(self, tables: Iterable[pa.Table], schema: ProductSchema) -> int:
        self.check(schema)
        if self.folder is not None:
            self._open_folder(make=True)
        older = self._behind_alias()
        self._check_own(self.collection)
        name = next(name for name in self._own_names() if name != older)
        self._check_own(name)  # of a load that was killed, if it is there
        try:
            self._create(name, schema)
            with self._unhurried(name):
                parts = [self._insert(name, table, schema) for table in tables]
            if not parts:
                raise DataError("there are no products to load")
            number = self._ask(self.client.count, name, exact=True).count
            self._lead_alias(name, older)
        except BaseException:
            with suppress(DataError):  # the first error counts
                if self._behind_alias() != name:
                    self._ask(self.client.delete_collection, name)
            raise
        if older:
            self._ask(self.client.delete_collection, older)
        return number

    def upsert(self, table: pa.Table) -> None:
        self._insert(self.collection, table, self.schema)

    def delete(self, product_ids: Sequence[str]) -> None:
        points = [point_id(one) for one in product_ids] if self.schema else []
        for start in range(0, len(points), IDS_TOGETHER):
            self._ask(self.client.delete, self.collection, points[start : start + IDS_TOGETHER], wait=True)

    def read(self, product_ids: Sequence[str]) -> pa.Table:
        schema, points = self.schema, []
        options = {"with_payload": ["_id", PRODUCT], "with_vectors": True}
        for some in parts_of_ids(product_ids, READ_TOGETHER):
            points += self._ask(self.client.retrieve, self.collection, [*map(point_id, some)], **options)
        rows = [point.payload.get(PRODUCT, {}) | {"_id": point.payload["_id"]} for point in points]
        return product_table(rows, [point.vector for point in points], schema)

    def count(self) -> int:
        self.schema  # noqa: B018  there must be one, and ours
        return self._ask(self.client.count, self.collection, exact=True).count

    def digests(self) -> dict[str, int]:
        self.schema  # noqa: B018
        found, offset, options = {}, None, {"limit": IDS_TOGETHER, "with_payload": ["_id", DIGEST]}
        while True:
            points, offset = self._ask(self.client.scroll, self.collection, offset=offset, **options)
            found.update((point.payload["_id"], point.payload[DIGEST]) for point in points)
            if offset is None:
                return found

    def read_note(self, name: str) -> str | None:
        return (self._metadata(self.collection) or {}).get(NOTE + name)

    def write_note(self, name: str, text: str) -> None:
        self.schema  # noqa: B018
        self._ask(self.client.update_collection, self.collection, metadata={NOTE + name: text})

    def drop(self) -> None:
        self._check_own(self.collection)
        if self._behind_alias():
            self._lead_alias(None, self.collection)
        for name in self._own_names():
            if MARK in (self._metadata(name) or {}):
                self._ask(self.client.delete_collection, name)

    def close(self) -> None:
        self.connection.engines.discard(id(self))
        if self.connection.engines:
            return
        if self.client:
            self.client.close()
        if self.folder is not None:
            self._folders.pop(os.path.realpath(self.folder), None)

    def find(
        self, queries: np.ndarray, k: int, wanted: dict[str, Condition], texts: Sequence[str] | None
    ) -> list[list[SearchResult]]:
        models, columns = self.qdrant.models, self.schema.columns
        wanted = {name: self._with_ranges(name, one, columns) for name, one in wanted.items()}
        if not all(wanted.values()):
            return [[] for _ in queries]
        options = {
            "filter": query_filter(models, wanted, columns),
            "limit": k if k < MANY else min(k, max(1, self.count())),
            "with_payload": ["_id", PRODUCT],
            "params": None if self.folder is not None else models.SearchParams(hnsw_ef=max(128, 2 * min(k, MANY))),
        }
        found = []
        for start in range(0, len(queries), QUERIES_TOGETHER):
            part = queries[start : start + QUERIES_TOGETHER].tolist()
            requests = [models.QueryRequest(query=query, **options) for query in part]
            found += self._ask(self.client.query_batch_points, self.collection, requests)
        ranked = [sorted(one.points, key=lambda point: (-point.score, point.payload["_id"])) for one in found]  # ties
        return [[result_of(point, columns) for point in one] for one in ranked]

    def _server(self) -> Any:
        """A client of the server at the address."""
        options = {"api_key": self.key, "timeout": SECONDS, "check_compatibility": False}
        return self.qdrant.QdrantClient(url=self.place, **options)

    def _open_folder(self, make: bool) -> None:
        """Opens the folder if it is there or is to be made; else there is an empty Qdrant in memory in its place."""
        connection = self.connection
        if connection.on_disk:
            return
        if not check_folder(self.folder) and not make:
            connection.client = connection.client or self.qdrant.QdrantClient(":memory:")
            return
        try:
            connection.client = self.qdrant.QdrantClient(path=str(self.folder))
        except RuntimeError as error:
            raise DataError(f"{self.place}: is open in another process; one at a time can") from error
        except OSError as error:
            raise DataError(f"{self.place}: can't be opened: {one_line(error)}") from error
        except Exception as error:  # of pickle, sqlite and pydantic, whatever the damage leads to
            raise DataError(
                f"{self.place}: is damaged ({one_line(error, 100)}); delete it and load it again"
            ) from error
        connection.on_disk = True

    @contextmanager
    def _unhurried(self, name: str) -> Iterator[None]:
        """Has points of a folder's new collection reach the disk together at the end, not one by one."""
        if self.folder is None:
            yield
            return
        database = self.client._client.collections[name].storage.storage  # of sqlite
        database.execute("PRAGMA synchronous = OFF")
        yield
        database.execute("PRAGMA synchronous = FULL")
        flush(points_file(self.folder, name))

    def _ask(self, call: Callable, *given: Any, **options: Any) -> Any:
        """What Qdrant answers; its errors as one line, without the key."""
        from qdrant_client.common.client_exceptions import QdrantException
        from qdrant_client.http.exceptions import ApiException

        try:
            return call(*given, **options)
        except (
            ApiException,
            QdrantException,
            ValueError,
            RuntimeError,
            OSError,
            KeyError,
            AssertionError,
            sqlite3.Error,
        ) as error:
            kind, said = explained(error)
            said = said.replace(self.key, "***") if self.key else said
            raise kind(f"{self.place}: qdrant: {said}") from (None if self.key else error)

    def _create(self, name: str, schema: ProductSchema) -> None:
        """Makes an empty collection, in place of one that a killed load left."""
        models, metadata = self.qdrant.models, {MARK: schema.dumps()}
        self._ask(self.client.delete_collection, name)
        self._ask(
            self.client.create_collection,
            name,
            models.VectorParams(size=schema.dim, distance=models.Distance.DOT),
            hnsw_config=models.HnswConfigDiff(m=16, ef_construct=128),
            metadata=metadata,
        )
        if self._metadata(name) != metadata:
            raise DataError(f"{self.place}: keeps no metadata of collections; it takes Qdrant 1.16 or newer")
        if self.folder is None:
            for key, kind in payload_indexes(models, schema.columns).items():
                self._ask(self.client.create_payload_index, name, key, kind, wait=True)

    def _insert(self, collection: str, table: pa.Table, schema: ProductSchema) -> int:
        """Puts a table's products into a collection."""
        table = self._finite(stored_products(table, schema))
        for part in slices(table):
            points = [*points_of(self.qdrant.models, part, schema.columns)]
            self._ask(self.client.upsert, collection, points, wait=True)
        if self.folder is not None and (count := self._ask(self.client.count, collection).count) > EMBEDDED_MANY:
            self.problems.counts.pop(kind := f"more than {EMBEDDED_MANY:,} products in a folder (slow)", None)
            self.problems.add(kind, f"{self.place}; a server takes them", count - EMBEDDED_MANY)
        return len(table)

    def _finite(self, table: pa.Table) -> pa.Table:
        """Floats that JSON can't hold as null, counted."""
        for place, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
            if pa.types.is_floating(column.type) and (odd := pc.invert(pc.is_finite(column))) and pc.any(odd).as_py():
                first = table.column("_id").filter(odd)[0].as_py()
                kind, count = "number that is not finite (stored as null)", pc.sum(odd).as_py()
                self.problems.add(kind, f"product {first}, column {name}", count)
                table = table.set_column(place, name, pc.if_else(odd, pa.scalar(None, column.type), column))
        return table

    def _with_ranges(self, name: str, wanted: Condition, columns: Mapping[str, pa.DataType]) -> Condition:
        """A condition of texts with the bounds of `5-20` where nothing is that text; see [`passes`]."""
        if not is_text(columns[name]):
            return wanted
        for found in filter(None, [RANGE.fullmatch(one) for one in wanted if isinstance(one, str)]):
            same = query_filter(self.qdrant.models, {name: [found[0]]}, columns)
            if not self._ask(self.client.scroll, self.collection, same, limit=1, with_payload=False)[0]:
                wanted = [*wanted, (float(found[1]), float(found[2]))]
        return wanted

    def _own_names(self) -> tuple[str, str]:
        return f"{self.collection}_mmfusion_1", f"{self.collection}_mmfusion_2"

    def _behind_alias(self) -> str | None:
        """The collection that the alias leads to."""
        aliases = self._ask(self.client.get_aliases).aliases
        return {one.alias_name: one.collection_name for one in aliases}.get(self.collection)

    def _lead_alias(self, name: str | None, older: str | None) -> None:
        """Leads the alias to another collection at one stroke, or to none."""
        models, changes = self.qdrant.models, []
        if older:
            away = models.DeleteAlias(alias_name=self.collection)
            changes.append(models.DeleteAliasOperation(delete_alias=away))
        if name:
            there = models.CreateAlias(collection_name=name, alias_name=self.collection)
            changes.append(models.CreateAliasOperation(create_alias=there))
        self._ask(self.client.update_collection_aliases, changes)

    def _metadata(self, name: str) -> dict[str, Any] | None:
        """A collection's metadata; `None` if there is no collection."""
        try:
            return self._ask(self.client.get_collection, name).config.metadata or {}
        except NotThere:
            return None

    def _check_own(self, name: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Raises a [`DataError`] if a collection is there and somebody else's."""
        metadata = self._metadata(name) if metadata is None else metadata
        if metadata is not None and MARK not in metadata:
            raise DataError(
                f"{self.place}: the collection {name!r} was not loaded by training.scale.engines and is left as it "
                "is; give another one's name"
            )


def check_collection(name: str) -> None:
    """Refuses a name that Qdrant takes for no collection.

    Raises:
        DataError: with the rule.
    """
    if not re.fullmatch(r"[\w.-]+", name) or name in (".", "..") or len(name.encode()) > 200:
        raise DataError(f"collection {name[:210]!r}: give letters, digits, _, - and ., and at most 200 bytes")


def split_key(address: str) -> tuple[str, str | None]:
    """A server's address without the API key, and the key: that of the address, or of the environment.

    >>> split_key("https://secret@host:6333/shop")
    ('https://host:6333/shop', 'secret')

    Raises:
        DataError: if it is no address; the message doesn't have it, for a key may be in it.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise DataError(f"the address of a Qdrant server can't be read: {one_line(error)}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise DataError(f"{parts.scheme}://...: is no address of a Qdrant server such as http://host:6333")
    key = unquote(parts.password or parts.username or "") or os.environ.get(TOKEN) or None
    if key and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise DataError(f"{parts.scheme}://{host}: its API key has letters that no key has")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), key


def explained(error: Exception) -> tuple[type[DataError], str]:
    """What an error of the client is raised as, and says."""
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResponseHandlingException):
        import httpx

        if isinstance(error.source, httpx.TransportError):
            return DataError, f"can't be reached: {one_line(error.source) or type(error.source).__name__}"
        return DataError, f"answers what no Qdrant server does: {one_line(error.source, 100)}"
    if isinstance(error, (AssertionError, JSONDecodeError)):
        return DataError, f"answers what no Qdrant server does: {one_line(error, 100)}"
    if not isinstance(error, UnexpectedResponse):
        return NotThere if re.fullmatch("Collection .* not found", str(error)) else DataError, one_line(error)
    if error.status_code in (401, 403):
        return DataError, f"refuses the key, or there is none; put it into {TOKEN}"
    try:
        said = error.structured()["status"]["error"]
    except (ValueError, KeyError, TypeError):
        return DataError, f"answers {error.status_code}, and as no Qdrant server does"
    return NotThere if error.status_code == 404 else DataError, f"answers {error.status_code}: {one_line(said)}"
