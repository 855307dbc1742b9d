"""OpenSearch and Elasticsearch, searched as [`ProductIndex`] is, by their REST interface.

Both are asked the same but for the vectors' field and the query for neighbours. Similarity is the inner product as it
is, not of unit vectors: it takes the zero vector of a product of which nothing is known, and its scores can be turned
back. Vectors are kept as float32 in an HNSW graph (`hnsw`); Elasticsearch would keep them as bits from 384 dimensions
on, or in 8 bits of one scale for all numbers; our unequal blocks, strongest directions first, lose most neighbours so.
The oldest OpenSearch that takes `ef_search` in a query is 2.16, the oldest Elasticsearch with such scores 8.11.

No server could be had where this was written: requests follow the published interfaces, and were tried on a stand-in
that checks them strictly (`tests/scale/opensearch_stand_in.py`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain

import numpy as np
import pyarrow as pa

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index import SearchResult
from modeling_mmfusion.index_filters import RANGE
from training.scale.engine import (
    COLLECTION,
    Engine,
    ProductSchema,
    check_products,
    conform,
    parts_of_ids,
    product_table,
)
from training.scale.filters import Condition
from training.scale.opensearch_documents import ROWS_TOGETHER, documents, filter_query, mappings, product_of
from training.scale.opensearch_hybrid import HybridSearch
from training.scale.opensearch_rest import Lines, RestClient, line

WRITER = "mmfusion training.scale"
MAX_ID_BYTES = 512
MAX_RESULTS = 10_000  # of one search
LEAST_WIDTH = 100  # candidates in a graph
M, EF_CONSTRUCTION = 16, 128


class OpenSearchEngine(Engine):
    """Products in an index of OpenSearch. See [`Engine`].

    No other index is touched: what is loaded goes to `NAME_mmfusion_1` or `_2`, and the alias `NAME` leads to it. What
    made an index, the schema and the notes are in its mapping's `_meta`. Hybrid search is [`HybridSearch`].

    Args:
        place (`str`): the address; see [`RestClient`] for its user and key.
        collection (`str`, *optional*, defaults to `"products"`): an alias, in lower case.
    """

    hybrid = True
    name, key_scheme, max_dim = "opensearch", "Bearer", 16_000
    with_vectors: dict = {"_source": ["product", "vector"]}  # of a search whose hits bring vectors, there:
    vector_at = ("_source", "vector")

    def __init__(self, place: str, collection: str = COLLECTION):
        named = place.partition("#")[2]  # where what stands there could be no name
        check_collection(f"{named}#{collection}" if named else collection)
        self.client = RestClient(place, self.name, self.key_scheme)
        super().__init__(self.client.address, collection)
        try:
            self.client.look(f"/{collection}/_mapping")
        except DataError:
            self.close()
            raise

    def read_schema(self) -> ProductSchema | None:
        found = self._found()
        return self._schema_in(found[1]) if found else None

    def check(self, schema: ProductSchema) -> None:
        if not 1 <= schema.dim <= self.max_dim:
            raise DataError(
                f"{self.place}: {self.name} takes vectors of 1 to {self.max_dim:,} numbers, not {schema.dim:,}"
            )
        mappings(schema, {}, {})

    def load(self, tables: Iterable[pa.Table], schema: ProductSchema) -> int:
        found, tables, count = self._found(), iter(tables), 0
        if (first := next(tables, None)) is None:
            raise DataError("there are no products to load")
        self.check(schema)
        older = found[0] if found else None
        name = next(name for name in self._own_names() if name != older)
        self._remove(name)  # of a load that was killed
        self._create(name, schema)
        try:
            for table in chain([first], tables):
                count += self._write(f"/{name}/_bulk", table, schema)
            self.client.ask("PUT", f"/{name}/_settings", {"index": {"refresh_interval": None}})
            self.client.ask("POST", f"/{name}/_refresh")
        except BaseException:
            with suppress(DataError):  # else the next load removes it
                self.client.ask("DELETE", f"/{name}")
            raise
        removed = [{"remove_index": {"index": older}}] if older else []
        added = {"add": {"index": name, "alias": self.collection}}
        self.client.ask("POST", "/_aliases", {"actions": [added, *removed]})
        return count

    def upsert(self, table: pa.Table) -> None:
        _, meta = self._loaded()
        self._write(f"/{self.collection}/_bulk?require_alias=true", table, self._schema_in(meta))
        self.client.ask("POST", f"/{self.collection}/_refresh")

    def delete(self, product_ids: Sequence[str]) -> None:
        name, _ = self._loaded()
        known = (one for one in product_ids if 0 < len(one.encode()) <= MAX_ID_BYTES)
        self.client.bulk(f"/{name}/_bulk", ([line({"delete": {"_id": one}})] for one in known))
        self.client.ask("POST", f"/{name}/_refresh")

    def read(self, product_ids: Sequence[str]) -> pa.Table:
        name, meta = self._loaded()
        schema, rows, vectors = self._schema_in(meta), [], []
        for some in parts_of_ids(product_ids, ROWS_TOGETHER):
            body = {"size": len(some), "query": {"terms": {"id": some}}, **self.with_vectors}
            for hit in self.client.rows(self.client.ask("POST", f"/{name}/_search", body), "hits", "hits"):
                product = product_of(self.client.part(hit, "_source", "product"))
                rows.append(product | {"_id": self.client.part(hit, "_id")})
                vectors.append(self.vector(hit, schema.dim))
        return product_table(rows, vectors, schema)

    def count(self) -> int:
        return self._count({"match_all": {}})

    def digests(self) -> dict[str, int]:
        name, _ = self._loaded()
        found: dict[str, int] = {}
        body = {"size": MAX_RESULTS, "_source": False, "docvalue_fields": ["digest"], "sort": [{"id": "asc"}]}
        while True:
            hits = self.client.rows(self.client.ask("POST", f"/{name}/_search", body), "hits", "hits")
            for hit in hits:
                found[self.client.part(hit, "_id")] = self.client.number(hit, "fields", "digest", 0)
            if len(hits) < MAX_RESULTS:
                return found
            body["search_after"] = self.client.part(hits[-1], "sort")

    def read_note(self, name: str) -> str | None:
        found = self._found()
        return self.client.part(found[1], "notes").get(name) if found else None

    def write_note(self, name: str, text: str) -> None:
        index, meta = self._loaded()
        meta = {**meta, "notes": {**self.client.part(meta, "notes"), name: text}}
        self.client.ask("PUT", f"/{index}/_mapping", {"_meta": meta})

    def drop(self) -> None:
        self._found()
        for name in self._own_names():
            self._remove(name)

    def close(self) -> None:
        self.client.close()

    def find(
        self, queries: np.ndarray, k: int, wanted: dict[str, Condition], texts: Sequence[str] | None
    ) -> list[list[SearchResult]]:
        if k > MAX_RESULTS and (count := self.count()) > MAX_RESULTS:
            raise DataError(
                f"{self.place}: k is {k:,}; of {count:,} products {self.name} finds {MAX_RESULTS:,} at most"
            )
        k = min(k, MAX_RESULTS)
        passing = filter_query({name: self._with_ranges(name, one) for name, one in wanted.items()})
        if texts is not None:
            return HybridSearch(self, passing).find(queries, k, texts)
        bodies = [self.nearest(query, k, passing) | {"_source": ["product"]} for query in queries]
        return [[self.result(hit, self.score(hit)) for hit in hits] for hits in self.hits(bodies)]

    def nearest(self, query: np.ndarray, k: int, passing: dict | None) -> dict:
        """The body of a search for the nearest vectors."""
        options = {"filter": passing} if passing else {}
        method = {"ef_search": width_for(k)}
        wanted = {"vector": query.tolist(), "k": k, "method_parameters": method, **options}
        return {"size": k, "query": {"knn": {"vector": wanted}}}

    def vector_field(self, dim: int) -> dict:
        """The vectors' field."""
        parameters = {"m": M, "ef_construction": EF_CONSTRUCTION}
        method = {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct", "parameters": parameters}
        return {"type": "knn_vector", "dimension": dim, "method": method}

    def vector(self, hit: dict, dim: int) -> list[float]:
        """The vector of a product that was asked for `with_vectors`."""
        found = self.client.rows(hit, *self.vector_at)
        if len(found) != dim:
            raise DataError(f"{self.place}: answers with a vector of {len(found)} numbers, not {dim}; load it again")
        return found

    def answers(self, bodies: Iterable[dict]) -> Iterator[dict]:
        """What searches find, in their order.

        Raises:
            DataError: if one of them was not understood.
        """
        lines = ([line({}), line(body)] for body in bodies)
        for answer in self.client.ask_lines(f"/{self.collection}/_msearch", lines):
            for one in self.client.rows(answer, "responses"):
                self.client.check(one)
                yield one

    def hits(self, bodies: Iterable[dict]) -> list[list[dict]]:
        """The products that searches find."""
        found = [self.client.rows(answer, "hits", "hits") for answer in self.answers(bodies)]
        for hit in (hit for hits in found for hit in hits):
            self.client.part(hit, "_id")
        return found

    def score(self, hit: dict) -> float:
        """The inner product that a hit's score tells."""
        return inner_product(self.client.number(hit, "_score"))

    def result(self, hit: dict, score: float) -> SearchResult:
        """A product that was found."""
        return SearchResult(
            self.client.part(hit, "_id"), score, product_of(self.client.part(hit, "_source", "product"))
        )

    def _settings(self) -> dict:
        return {"refresh_interval": "-1", "knn": True}

    def _create(self, name: str, schema: ProductSchema) -> None:
        meta = {"writer": WRITER, "schema": schema.dumps(), "notes": {}}
        body = {
            "settings": {"index": self._settings()},
            "mappings": mappings(schema, self.vector_field(schema.dim), meta),
        }
        self.client.ask("PUT", f"/{name}", body)

    def _write(self, path: str, table: pa.Table, schema: ProductSchema) -> int:
        check_products(table, MAX_ID_BYTES)
        table = conform(table, schema.columns)
        check_writable(table, schema.dim)
        self.client.bulk(path, _index_lines(table))
        return len(table)

    def _with_ranges(self, name: str, wanted: Condition) -> Condition:
        """A condition of texts with the bounds of `5-20` where nothing is that text; see [`passes`]."""
        for found in filter(None, [RANGE.fullmatch(one) for one in wanted if isinstance(one, str)]):
            if not self._count(filter_query({name: [found[0]]})):
                wanted = [*wanted, (float(found[1]), float(found[2]))]
        return wanted

    def _count(self, query: dict | None) -> int:
        name, _ = self._loaded()
        return self.client.number(self.client.ask("POST", f"/{name}/_count", {"query": query}), "count")

    def _own_names(self) -> tuple[str, str]:
        return f"{self.collection}_mmfusion_1", f"{self.collection}_mmfusion_2"

    def _remove(self, name: str) -> None:
        """Deletes an index of ours, if there is one."""
        if found := self.client.look(f"/{name}/_mapping"):
            self._check_own(found)
            self.client.ask("DELETE", f"/{name}")

    def _schema_in(self, meta: dict) -> ProductSchema:
        try:
            return ProductSchema.loads(self.client.part(meta, "schema"))
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(f"{self.place}: the schema of {self.collection!r} is damaged; load it again") from error

    def _loaded(self) -> tuple[str, dict]:
        """The index that the alias leads to, and its `_meta`."""
        if not (found := self._found()):
            raise DataError(
                f"{self.place}: there is no collection {self.collection!r}; load it with training.scale.engines"
            )
        return found

    def _found(self) -> tuple[str, dict] | None:
        """The same, or `None` if there is none."""
        found = self.client.look(f"/{self.collection}/_mapping")
        return self._check_own(found) if found else None

    def _check_own(self, found: dict) -> tuple[str, dict]:
        """The name and `_meta` of an index of ours.

        Raises:
            DataError: if it is somebody else's.
        """
        for name, facts in found.items():
            fields = self.client.part(facts, "mappings")
            meta = fields.get("_meta") if isinstance(fields, dict) else None
            ours = isinstance(meta, dict) and meta.get("writer") == WRITER
            if len(found) > 1 or name not in self._own_names() or not ours:
                raise DataError(
                    f"{self.place}: the index {name!r} was not loaded by training.scale.engines and is left as it is; "
                    "give another name behind the #"
                )
        return name, meta


class ElasticsearchEngine(OpenSearchEngine):
    """Products in an index of Elasticsearch. See [`OpenSearchEngine`]."""

    name, key_scheme, max_dim = "elasticsearch", "ApiKey", 4096
    with_vectors: dict = {"_source": ["product"], "fields": ["vector"]}  # since 9.2 sources have none
    vector_at = ("fields", "vector")

    def nearest(self, query: np.ndarray, k: int, passing: dict | None) -> dict:
        options = {"filter": passing} if passing else {}
        wanted = {"field": "vector", "query_vector": query.tolist(), "k": k, "num_candidates": width_for(k)}
        return {"size": k, "knn": wanted | options}

    def vector_field(self, dim: int) -> dict:
        options = {"type": "hnsw", "m": M, "ef_construction": EF_CONSTRUCTION}
        similarity = {"index": True, "similarity": "max_inner_product", "index_options": options}
        return {"type": "dense_vector", "dims": dim, **similarity}

    def _settings(self) -> dict:
        return {"refresh_interval": "-1"}


def inner_product(score: float) -> float:
    """The inner product `p` of which both engines make a score: `1 + p`, or `1 / (1 - p)` if it is negative.

    >>> inner_product(1.5), inner_product(0.5)
    (0.5, -1.0)
    """
    return score - 1 if score >= 1 else 1 - 1 / score


def width_for(k: int) -> int:
    """How many candidates a search for `k` products holds in the graph, from 100 to 10,000."""
    return min(max(LEAST_WIDTH, 2 * k), MAX_RESULTS)


def check_collection(name: str) -> None:
    """Refuses a name that no alias can have.

    Raises:
        DataError: with the rule.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,199}", name):
        raise DataError(
            f"collection {name[:210]!r}: give lower-case letters, digits, and _ . - behind the first, at most 200"
        )


def check_writable(table: pa.Table, dim: int) -> None:
    """Refuses ids and vectors that an index can't take.

    Raises:
        DataError: if an id is empty or vectors have another width.
    """
    if "" in table.column("_id").to_pylist():
        raise DataError("a product has an empty _id, which can't be stored")
    if (width := table.schema.field("vector").type.list_size) != dim:
        raise DataError(f"vectors of {width} numbers, where the collection's have {dim}; embed with the same model")


def _index_lines(table: pa.Table) -> Iterator[Lines]:
    for product_id, document in documents(table):
        yield [line({"index": {"_id": product_id}}), line(document)]
