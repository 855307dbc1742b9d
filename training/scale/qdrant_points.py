"""What a product is in Qdrant, and what a filter is.

A product is a point: its vector and a payload of

| key | what it holds |
|---|---|
| `_id`, `_digest` | the product's id, and [`digests_of`] it; a point's own is made of it, see [`point_id`] |
| `product` | the columns under their names, as they are; null is left out |
| `plain` | to filter by: texts' plain forms and those of the categories above them, see [`keywords`]; truth values |
| `number` | to filter by: numbers, and those that texts are |
"""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import pyarrow as pa

from modeling_mmfusion.index import SearchResult
from modeling_mmfusion.index_filters import LEVEL, numbers_of, plain_texts
from training.scale.engine import DIGEST, TEXT, vectors_of
from training.scale.filters import Condition, is_text

POINTS = uuid.UUID("6f4c2a53-0d0b-5f7e-9a0e-6d6d667573ef")  # namespace of points' ids
PRODUCT, PLAIN, NUMBER = "product", "plain", "number"
PLAIN_NAME = re.compile(r"(?!column_)[A-Za-z0-9_-]+")
MAX_KEYWORD_BYTES = 128  # longer ones are filtered by their hash
MAX_LEVELS = 100  # of a category
ROWS_TOGETHER, BYTES_TOGETHER = 1000, 2_000_000  # in one request, which may have 32 MB as JSON


def point_id(product_id: str) -> str:
    """A point's id: a UUID made of the product's id, which may be any text."""
    return str(uuid.uuid5(POINTS, product_id))


def payload_key(column: str) -> str:
    """Under which key of `plain` and `number` a column is: its name, or `column_` and the name's UTF-8 in hexadecimal
    digits where Qdrant would read it as a path.

    >>> payload_key("size"), payload_key("größe")
    ('size', 'column_6772c3b6c39f65')
    """
    return column if PLAIN_NAME.fullmatch(column) else f"column_{column.encode().hex()}"


def keyword(text: str) -> str:
    """A text to compare with: itself, or its hash if it is long."""
    encoded = text.encode()
    if len(encoded) <= MAX_KEYWORD_BYTES:
        return text
    return f"blake2b {hashlib.blake2b(encoded, digest_size=20).hexdigest()}"


def keywords(text: str) -> list[str]:
    """A text in its plain form and the categories above it, of the first MAX_LEVELS, as [`keyword`] each.

    >>> keywords("home > kitchen > mugs")
    ['home', 'home > kitchen', 'home > kitchen > mugs']
    """
    level = f" {LEVEL} "
    above = accumulate(text.split(level, MAX_LEVELS)[:MAX_LEVELS], lambda upper, lower: f"{upper}{level}{lower}")
    return list(dict.fromkeys(map(keyword, [*above, text])))


def points_of(models: Any, table: pa.Table, columns: Mapping[str, pa.DataType]) -> Iterator[Any]:
    """The points of a table's products."""
    ids, vectors = table.column("_id").to_pylist(), vectors_of(table).tolist()
    for product_id, vector, payload in zip(ids, vectors, payloads(table, columns), strict=True):
        yield models.PointStruct(id=point_id(product_id), vector=vector, payload=payload)


def payloads(table: pa.Table, columns: Mapping[str, pa.DataType]) -> Iterator[dict[str, Any]]:
    """The payload of each product; see the table above."""
    plain, number = {}, {}
    for name, kind in columns.items():
        column, key = table.column(name), payload_key(name)
        if is_text(kind):
            plain[key] = [None if text is None else keywords(text) for text in plain_texts(column).to_pylist()]
            number[key] = numbers_of(column).to_pylist()
        else:
            (plain if pa.types.is_boolean(kind) else number)[key] = column.to_pylist()
    product = table.select([name for name in columns if name != "_id"]).to_pylist()
    rows = zip(table.column("_id").to_pylist(), table.column(DIGEST).to_pylist(), product, strict=True)
    for row, (product_id, digest, one) in enumerate(rows):
        yield {
            "_id": product_id,
            DIGEST: digest,
            PRODUCT: {name: value for name, value in one.items() if value is not None},
            PLAIN: {key: values[row] for key, values in plain.items() if values[row] is not None},
            NUMBER: {key: values[row] for key, values in number.items() if values[row] is not None},
        }


def payload_indexes(models: Any, columns: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """The kind of index that a server makes, by key of the payload."""
    kinds = {TEXT: models.PayloadSchemaType.KEYWORD, pa.bool_(): models.PayloadSchemaType.BOOL}
    numbers = {pa.int64(): models.PayloadSchemaType.INTEGER}
    found = {}
    for name, kind in columns.items():
        if kind in kinds:
            found[f"{PLAIN}.{payload_key(name)}"] = kinds[kind]
        if kind != pa.bool_():
            found[f"{NUMBER}.{payload_key(name)}"] = numbers.get(kind, models.PayloadSchemaType.FLOAT)
    return found


def query_filter(models: Any, wanted: Mapping[str, Condition], columns: Mapping[str, pa.DataType]) -> Any:
    """What [`conditions`] gives, as Qdrant's filter; `None` if there is none."""
    must = []
    for name, one in wanted.items():
        should = [*column_conditions(models, name, one, columns[name])]
        must.append(should[0] if len(should) == 1 else models.Filter(should=should))
    return models.Filter(must=must) if must else None


def column_conditions(models: Any, name: str, wanted: Condition, kind: pa.DataType) -> Iterator[Any]:
    """Conditions of which a column must meet one."""
    plain, number = f"{PLAIN}.{payload_key(name)}", f"{NUMBER}.{payload_key(name)}"
    values = [one for one in wanted if not isinstance(one, tuple)]
    bounds = [one for one in wanted if isinstance(one, tuple)]
    if is_text(kind) and values:
        yield models.FieldCondition(key=plain, match=models.MatchAny(any=[keyword(one) for one in values]))
    elif pa.types.is_boolean(kind):
        yield from (models.FieldCondition(key=plain, match=models.MatchValue(value=one)) for one in values)
    elif pa.types.is_integer(kind) and values:
        yield models.FieldCondition(key=number, match=models.MatchAny(any=values))
    elif values:
        bounds += [(one, one) for one in values]
    for low, high in bounds:
        if low is None and high is None:  # any number
            yield models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=number))])
        else:
            yield models.FieldCondition(key=number, range=models.Range(gte=low, lte=high))


def result_of(point: Any, columns: Mapping[str, pa.DataType]) -> SearchResult:
    """A point that was found, with null where it has no value."""
    product = point.payload.get(PRODUCT, {})
    shown = {name: product.get(name) for name in columns if name != "_id"}
    return SearchResult(point.payload["_id"], float(point.score), shown)


def slices(table: pa.Table) -> Iterator[pa.Table]:
    """Parts of a table that fit into a request."""
    if len(table) > 1 and (len(table) > ROWS_TOGETHER or table.nbytes > BYTES_TOGETHER):
        half = len(table) // 2
        yield from slices(table.slice(0, half))
        yield from slices(table.slice(half))
    elif len(table):
        yield table
