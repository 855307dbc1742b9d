"""What every engine can do: [`Engine`], the [`ProductSchema`] of what it holds, and addresses of engines.

| address | engine |
|---|---|
| `lance:runs/myshop/products.lance` | a Lance dataset in a folder |
| `milvus:runs/myshop/milvus.db`, `milvus:http://host:19530#products` | Milvus, embedded or a server |
| `postgresql://user@host/shop#products` | PostgreSQL with pgvector |
| `qdrant:runs/myshop/qdrant`, `qdrant:http://host:6333#products` | Qdrant, embedded or a server |
| `opensearch:https://host:9200#products`, `elasticsearch:https://host:9200#products` | OpenSearch, Elasticsearch |

What follows `#` is the name of the collection, table or index there; `products` if none is given. Secrets may stand
in an address (`http://user:password@host`), and are in no message; better is the environment, see each engine.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.index import SearchResult
from training.common.errors import Problems
from training.scale.filters import Condition, check_search, conditions, is_text

ENGINES_INSTALL = "pip install -e '.[engines]'"
COLLECTION = "products"
LONGEST_ID = 512  # bytes; the same in all engines, so that what one takes all take
NO_TEXT = re.compile(r"[\ud800-\udfff]")  # no UTF-8 has these
SECRETS = (
    (re.compile(r"(://[^:/@\s]*:)[^\s]*@"), r"\1***@"),  # a password may have any sign
    (re.compile(r"((?<!postgresql)://)[^:/@\s]+@"), r"\1***@"),  # a token in place of a user
    (re.compile(r"([?&][a-z_]*(?:password|token|key)=)[^&#\s]*", re.IGNORECASE), r"\1***"),
)
DIGEST = "_digest"  # of a product's columns and vector, kept with it and never shown
TEXT = pa.large_string()
KINDS = {str(kind): kind for kind in (TEXT, pa.bool_(), pa.int64(), pa.float32(), pa.float64())}
ENGINES = {
    "lance": "training.scale.lance:LanceEngine",
    "milvus": "training.scale.milvus:MilvusEngine",
    "postgresql": "training.scale.postgres:PostgresEngine",
    "qdrant": "training.scale.qdrant:QdrantEngine",
    "opensearch": "training.scale.opensearch:OpenSearchEngine",
    "elasticsearch": "training.scale.opensearch:ElasticsearchEngine",
}


@dataclass
class ProductSchema:
    """What a collection of products holds; kept in the engine beside them.

    Args:
        dim (`int`): length of the vectors.
        columns (`dict[str, pyarrow.DataType]`): what each column holds, `_id` among them and the vector not: text,
            truth values, 64-bit integers or floats.
        model (`str`, *optional*): fingerprint of the model that made the vectors.
        blocks (`dict[str, int]`, *optional*): widths of the vectors' blocks by name, in their order.
    """

    dim: int
    columns: dict[str, pa.DataType]
    model: str = ""
    blocks: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, table: pa.Schema, manifest: Mapping[str, Any]) -> "ProductSchema":
        """The schema of [`bulk_tables`] of a folder of vectors with this manifest."""
        return cls(manifest["dim"], stored_columns(table), manifest["model"], dict(manifest.get("blocks") or {}))

    def dumps(self) -> str:
        """As JSON."""
        columns = {name: str(kind) for name, kind in self.columns.items()}
        return json.dumps({"dim": self.dim, "columns": columns, "model": self.model, "blocks": self.blocks})

    @classmethod
    def loads(cls, text: str) -> "ProductSchema":
        """The other way round."""
        facts = json.loads(text)
        return cls(**facts | {"columns": {name: KINDS[kind] for name, kind in facts["columns"].items()}})


class Engine(ABC):
    """A collection of products in an engine, searched as [`ProductIndex`] is.

    Products are tables as [`bulk_tables`] gives them: `_id`, columns, and `vector` (float32). Query and product
    vectors are unit vectors, so inner product and cosine are the same. No collection that holds something else is
    ever touched.

    Args:
        place (`str`): the address behind the engine's name.
        collection (`str`, *optional*, defaults to `"products"`): the collection's name.

    Attributes:
        problems (`Problems`): what had to be cut or left out, counted.
        hybrid (`bool`): whether searches take `texts`.

    Raises:
        DataError: if the engine's client is not installed, it can't be reached, or the name is none that it takes.
    """

    hybrid = False

    def __init__(self, place: str, collection: str = COLLECTION):
        self.place, self.collection, self.problems = place, collection, Problems()

    @abstractmethod
    def read_schema(self) -> ProductSchema | None:
        """The collection's schema; `None` if there is no collection.

        Raises:
            DataError: if the collection is somebody else's.
        """

    @abstractmethod
    def check(self, schema: ProductSchema) -> None:
        """Refuses names and kinds that the engine can't hold, before anything is written.

        Raises:
            DataError: naming the first.
        """

    @abstractmethod
    def load(self, tables: Iterable[pa.Table], schema: ProductSchema) -> int:
        """Makes the collection anew of these products, and returns their number. Searches find the older ones until
        all are there; after an error all is as it was. Notes of the older collection are gone.

        Raises:
            DataError: if there is nothing to load, a product can't be stored, or the collection is somebody else's.
        """

    @abstractmethod
    def upsert(self, table: pa.Table) -> None:
        """Adds products, or takes them in place of older ones; columns that the table does not have become null.

        Raises:
            DataError: if there is no collection, a column is unknown or holds something else, or a product can't be
                stored.
        """

    @abstractmethod
    def delete(self, product_ids: Sequence[str]) -> None:
        """Deletes products; unknown ids are no error."""

    @abstractmethod
    def read(self, product_ids: Sequence[str]) -> pa.Table:
        """The products of some ids as [`~Engine.upsert`] takes them: all columns of the schema, and `vector`.

        Args:
            product_ids (`Sequence[str]`): any number of ids. Unknown ones are no error, and one that comes twice is
                read once.

        Returns:
            `pyarrow.Table`: [`product_table`], in any order. What the engine had to change when it stored a product
            (see `problems`) is as it is stored.

        Raises:
            DataError: if there is no collection.
        """

    @abstractmethod
    def count(self) -> int:
        """The number of products."""

    @abstractmethod
    def digests(self) -> dict[str, int]:
        """[`digests_of`] each product, by product id."""

    @abstractmethod
    def read_note(self, name: str) -> str | None:
        """A text that was written beside the products; `None` if there is none."""

    @abstractmethod
    def write_note(self, name: str, text: str) -> None:
        """Writes a text of some kilobytes beside the products, in place of an older one."""

    @abstractmethod
    def drop(self) -> None:
        """Deletes the collection and its notes; none that is there is no error.

        Raises:
            DataError: if it is somebody else's.
        """

    @abstractmethod
    def close(self) -> None:
        """Ends the connection."""

    @abstractmethod
    def find(
        self, queries: np.ndarray, k: int, wanted: dict[str, Condition], texts: Sequence[str] | None
    ) -> list[list[SearchResult]]:
        """What [`~Engine.search`] gives, of what it has checked."""

    def create(self, schema: ProductSchema) -> None:
        """Makes an empty collection, for [`~Engine.upsert`].

        Raises:
            DataError: if a collection of that name is there.
        """
        if self.read_schema():
            raise DataError(f"{shown(self.place)}: there is a collection {self.collection!r} already; drop it first")
        columns = {name: pa.array([], kind) for name, kind in schema.columns.items()}
        vectors = pa.array([], pa.list_(pa.float32(), schema.dim))
        self.load([pa.table({**columns, "vector": vectors})], schema)

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[SearchResult]]:
        """The best products for each query, best first; see [`ProductIndex.search`]. Filters are the engine's.

        Args:
            queries (`np.ndarray` of shape `(Q, dim)`): query vectors.
            k (`int`, *optional*, defaults to 10): products a query.
            where (`Mapping[str, Any]`, *optional*): conditions by column.
            texts (`Sequence[str]`, *optional*): the queries as texts, for hybrid search, where the engine has it.

        Raises:
            DataError: if `k` is no positive integer, queries are not finite or not as wide as the vectors, a column is
                unknown or compared with what it does not hold, texts are given where `hybrid` is False, or there is
                no collection.
        """
        schema = self.schema
        check_search(queries, k, schema.dim)
        if texts is not None and not self.hybrid:
            raise DataError(f"{shown(self.place)}: searches by vectors alone; there is no hybrid search here")
        if texts is not None and len(texts) != len(queries):
            raise DataError(f"texts must be a list of one string for each of the {len(queries)} queries")
        wanted = conditions(where or {}, schema.columns)
        return self.find(np.asarray(queries, dtype=np.float32), int(k), wanted, texts) if len(queries) else []

    @property
    def schema(self) -> ProductSchema:
        """The collection's schema.

        Raises:
            DataError: if there is no collection, or it is somebody else's.
        """
        if (schema := self.read_schema()) is None:
            raise self._nothing()
        return schema

    def _nothing(self) -> DataError:
        where = f"{shown(self.place)}: there is no collection {self.collection!r}"
        return DataError(f"{where}; load it with training.scale.engines")

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.schema.dim

    @property
    def blocks(self) -> dict[str, int]:
        """Widths of the vectors' blocks by name, in their order."""
        return self.schema.blocks

    @property
    def model(self) -> str:
        """Fingerprint of the model that made the vectors."""
        return self.schema.model

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error) -> None:
        self.close()


def open_engine(url: str) -> Engine:
    """The engine at an address; see the table above.

    Raises:
        DataError: if the address names none that is known, or the engine can't be reached.
    """
    name, colon, place = url.partition(":")
    if not colon or name not in ENGINES:
        raise DataError(f"{shown(url)}: names no engine; an address begins with {', '.join(ENGINES)} and a colon")
    place = url if name == "postgresql" else place
    place, collection = re.fullmatch(r"(.*?)(?:#([^#/@]*))?", place, re.DOTALL).groups()
    if not place:
        raise DataError(f"{shown(url)}: tells of no place; write {name}: and a folder or an address behind it")
    module, kind = ENGINES[name].split(":")
    return getattr(import_module(module), kind)(place, collection or COLLECTION)


def shown(url: str) -> str:
    """An address without passwords and tokens, for messages.

    >>> shown("postgresql://me:secret@host/shop"), shown("milvus:http://token@host:19530")
    ('postgresql://me:***@host/shop', 'milvus:http://***@host:19530')
    """
    for secret, instead in SECRETS:
        url = secret.sub(instead, url)
    return url


def stored_columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    """How columns but the vector are stored: truth values, 64-bit integers, floats, and all else as text."""
    return {column.name: _stored(column.type) for column in schema if column.name not in ("vector", DIGEST)}


def _stored(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return kind if kind == pa.float64() else pa.float32()
    return kind if pa.types.is_boolean(kind) else TEXT


def conform(table: pa.Table, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """A table with these columns and the vector; null where it has none.

    Raises:
        DataError: if a column is unknown or can't be stored so.
    """
    if unknown := sorted({*table.column_names} - {*columns, "vector"}):
        raise DataError(f"there is no column {unknown[0]!r}; there are {', '.join(columns)}")
    cast = {}
    for name, kind in columns.items():
        column = table.column(name) if name in table.column_names else pa.nulls(len(table), kind)
        try:
            cast[name] = column.cast(kind)
        except pa.ArrowException as error:
            raise DataError(f"column {name!r} can't be stored as {kind}: {one_line(error)}") from error
    return pa.table(cast | {"vector": table.column("vector")})


def stored_products(table: pa.Table, schema: ProductSchema) -> pa.Table:
    """Products as they are stored: looked at, with the schema's columns, the vector and the column `_digest`.

    Raises:
        DataError: as [`check_products`] and [`conform`], and if the vectors are of another width or an id comes twice.
    """
    check_products(table)
    if (dim := table.schema.field("vector").type.list_size) != schema.dim:
        raise DataError(f"products to load have vectors of {dim} dimensions, the collection has {schema.dim}")
    ids = table.column("_id").to_pylist()
    if len(set(ids)) < len(ids):
        twice = next(one for one, times in Counter(ids).items() if times > 1)
        raise DataError(f"product {twice[:40]!r} comes twice; an id is one product's")
    table = conform(table, schema.columns)
    return table.append_column(DIGEST, digests_of(table))


def product_table(rows: Sequence[Mapping[str, Any]], vectors: Any, schema: ProductSchema) -> pa.Table:
    """Products as [`~Engine.upsert`] takes them.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): the columns of each product, `_id` among them; null where it has none.
        vectors (array-like of shape `(N, dim)`): their vectors.
        schema (`ProductSchema`): what the collection holds.

    Returns:
        `pyarrow.Table`: the columns of the schema, and `vector`, fixed-size lists of float32.
    """
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in schema.columns.items()}
    flat = pa.array(np.asarray(vectors, dtype=np.float32).ravel())
    return pa.table({**columns, "vector": pa.FixedSizeListArray.from_arrays(flat, schema.dim)})


def parts_of_ids(product_ids: Sequence[str], together: int) -> Iterator[list[str]]:
    """Each id once, some together; without those that no product has: too long ones, and texts without UTF-8.

    Args:
        product_ids (`Sequence[str]`): ids.
        together (`int`): how many there are in a part at most.
    """
    ids = [one for one in dict.fromkeys(product_ids) if 0 < len(one.encode(errors="replace")) <= LONGEST_ID]
    ids = [one for one in ids if not NO_TEXT.search(one)]
    for start in range(0, len(ids), together):
        yield ids[start : start + together]


def check_products(table: pa.Table, longest_id: int = LONGEST_ID) -> None:
    """Looks for products that no engine can hold.

    Args:
        table (`pyarrow.Table`): products.
        longest_id (`int`, *optional*, defaults to 512): bytes that an id may have.

    Raises:
        DataError: if an id or a vector is missing, an id is no string or too long, or a vector is no fixed-size list
            or not finite.
    """
    for name in ("_id", "vector"):
        if name not in table.column_names or table.column(name).null_count:
            raise DataError(f"products to load need the column {name!r}, a value in each row")
    ids, vector = table.column("_id"), table.schema.field("vector").type
    if not pa.types.is_fixed_size_list(vector):
        raise DataError(f"products to load need fixed-size lists of floats as vector, not {vector}")
    if not is_text(ids.type):
        raise DataError(f"products to load need strings as _id, not {ids.type}")
    if len(long := ids.filter(pc.greater(pc.binary_length(ids), longest_id))):
        raise DataError(
            f"product {long[0].as_py()[:40]!r}...: its _id has more than the {longest_id} bytes it may have"
        )
    finite = np.isfinite(vectors_of(table))
    if not finite.all():
        first = ids[int(np.argmin(finite.all(axis=1)))].as_py()
        raise DataError(f"product {first!r}: its vector is not finite; run training.embed again")


def vectors_of(table: pa.Table) -> np.ndarray:
    """The column `vector`: float32 of shape `(N, dim)`."""
    column = table.column("vector").combine_chunks()
    return pc.list_flatten(column).to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def digests_of(table: pa.Table) -> pa.Array:
    """A 64-bit number of each product's columns and vector, the same for the same content."""
    names = sorted(set(table.column_names) - {"vector", DIGEST})
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    digests = []
    for row, vector in zip(rows, vectors_of(table), strict=True):
        content = json.dumps([(name, value) for name, value in zip(names, row, strict=True) if value is not None])
        hashed = hashlib.blake2b(content.encode() + vector.tobytes(), digest_size=8)
        digests.append(int.from_bytes(hashed.digest(), "little", signed=True))
    return pa.array(digests, pa.int64())
