"""Products as documents of OpenSearch and Elasticsearch: fields, and filters that say of them what [`passes`] says.

| field | holds |
|---|---|
| `id`, `digest` | the product's id; [`digests_of`] it |
| `vector` | its vector |
| `product` | its columns as they are; not indexed |
| `text.COLUMN` | a text in its plain form, and each category that it lies below, so that `Home` finds `Home > Mugs` |
| `number.COLUMN` | a number, or the number that a text is |
| `truth.COLUMN` | a truth value |
| `words`, `length` | stems of the title and other texts, and their number, for hybrid search |
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from modeling_mmfusion.errors import DataError
from modeling_mmfusion.index_filters import LEVEL, numbers_of, plain_texts
from modeling_mmfusion.text_mmfusion import join_fields
from training.scale.engine import TEXT, ProductSchema, digests_of, vectors_of
from training.scale.filters import Condition
from training.scale.words import words_of

ROWS_TOGETHER = 500
MAX_FIELDS = 1000  # of an index, as servers are set when they are installed
MAX_TERMS = 65_536  # of one condition of theirs
KEY_BYTES = 256  # of a text to filter by; of a longer one its digest is kept. Theirs is 32,766
LARGEST = 1.7976931348623157e308
PLAIN_NAME = re.compile(r"(?!column_)[A-Za-z][A-Za-z0-9_]{0,199}")


def mappings(schema: ProductSchema, vector: dict, meta: dict) -> dict:
    """The fields of a schema's products, where `vector` tells of theirs.

    Raises:
        DataError: if there are more than the 1,000 that an index takes.
    """
    groups: dict[str, dict] = {"text": {}, "number": {}, "truth": {}}
    for name, kind in schema.columns.items():
        if kind == TEXT:
            groups["text"][field_name(name)] = {"type": "keyword"}
        if pa.types.is_boolean(kind):
            groups["truth"][field_name(name)] = {"type": "boolean"}
        else:
            groups["number"][field_name(name)] = {"type": "long" if pa.types.is_integer(kind) else "double"}
    fields = {
        "id": {"type": "keyword"},
        "digest": {"type": "long"},
        "vector": vector,
        "product": {"type": "object", "enabled": False},
        "words": {"type": "text", "analyzer": "whitespace", "index_options": "freqs"},
        "length": {"type": "integer"},
        **{group: {"properties": columns} for group, columns in groups.items()},
    }
    if (count := len(fields) + sum(map(len, groups.values()))) > MAX_FIELDS:
        raise DataError(
            f"{len(schema.columns):,} columns make {count:,} fields (two for a text), an index takes {MAX_FIELDS:,}; "
            "name those to keep with training.prepare --keep"
        )
    return {"dynamic": "strict", "_meta": meta, "properties": fields}


def documents(table: pa.Table) -> Iterator[tuple[str, dict]]:
    """Each product's id and document.

    Args:
        table (`pyarrow.Table`): products as [`conform`] gives them.
    """
    for start in range(0, len(table), ROWS_TOGETHER):
        part = table.slice(start, ROWS_TOGETHER)
        digests, vectors = digests_of(part).to_pylist(), vectors_of(part).tolist()
        columns = part.drop_columns("vector")
        indexed = [_indexed(name, columns.column(name)) for name in columns.column_names]
        for row, product in enumerate(columns.to_pylist()):
            words = words_of(join_fields(product))
            document = {"id": product.pop("_id"), "digest": digests[row], "vector": vectors[row]}
            document |= {"words": " ".join(words), "length": len(words), "text": {}, "number": {}, "truth": {}}
            for group, field, values in (one for fields in indexed for one in fields):
                if values[row] is not None:
                    document[group][field] = values[row]
            document["product"] = {field_name(name): _shown(value) for name, value in product.items()}
            yield document["id"], document


def product_of(document: Mapping[str, Any]) -> dict:
    """A product's columns, of what `product` holds."""
    return {column_name(field): value for field, value in document.items()}


def field_name(column: str) -> str:
    """The field of a column: of the same name, or `column_` and the name's UTF-8 in hexadecimal digits, for a dot in a
    name begins a field inside a field.

    >>> field_name("size"), field_name("size.eu")
    ('size', 'column_73697a652e6575')
    """
    return column if PLAIN_NAME.fullmatch(column) else f"column_{column.encode().hex()}"


def column_name(field: str) -> str:
    """The other way round."""
    return bytes.fromhex(field.removeprefix("column_")).decode() if field.startswith("column_") else field


def filter_query(where: Mapping[str, Condition]) -> dict | None:
    """What [`conditions`] gives, as a query of which a document must pass each part; `None` for no condition.

    >>> filter_query({"size": [(40.0, 42.0)]})
    {'bool': {'filter': [{'range': {'number.size': {'gte': 40.0, 'lte': 42.0}}}]}}
    """
    return {"bool": {"filter": [_condition(field_name(name), one) for name, one in where.items()]}} if where else None


def _condition(field: str, wanted: Condition) -> dict:
    values: dict[str, list] = {"text": [], "truth": [], "number": []}
    parts = []
    for one in wanted:
        if isinstance(one, tuple):
            parts.append(_bounds(f"number.{field}", *one))
        elif isinstance(one, str):
            values["text"].append(_key(one))
        else:
            values["truth" if isinstance(one, bool) else "number"].append(one if isinstance(one, bool) else one + 0)
    for group, of_group in values.items():
        for start in range(0, len(of_group), MAX_TERMS):
            parts.append({"terms": {f"{group}.{field}": of_group[start : start + MAX_TERMS]}})
    if len(parts) == 1:
        return parts[0]
    return {"bool": {"should": parts, "minimum_should_match": 1}} if parts else {"match_none": {}}


def _bounds(field: str, low: float | None, high: float | None) -> dict:
    bounds = {sign: bound + 0 for sign, bound in (("gte", low), ("lte", high)) if bound is not None}
    return {"range": {field: bounds}} if bounds else {"exists": {"field": field}}


def _indexed(name: str, column: pa.ChunkedArray) -> list[tuple[str, str, Sequence]]:
    """What a column is filtered by: groups of fields, the field, and its value in each row, `None` for none."""
    field = field_name(name)
    if pa.types.is_boolean(column.type):
        return [("truth", field, column.to_pylist())]
    if column.type != TEXT:
        return [("number", field, [_number(value) for value in column.to_pylist()])]
    plain = plain_texts(column).to_pylist()
    numbers = numbers_of(column).to_pylist()
    return [
        ("text", field, [None if text is None else _keys(text) for text in plain]),
        ("number", field, [_number(value) for value in numbers]),
    ]


def _keys(text: str) -> list[str]:
    """A text and each category that it lies below, to be found by."""
    levels = [text[: found.start()] for found in re.finditer(f" {LEVEL} ", text)]
    return list(dict.fromkeys(map(_key, [text, *levels])))


def _key(text: str) -> str:
    """A text to be found by, or of a long one its digest."""
    content = text.encode()
    if len(content) <= KEY_BYTES:
        return text
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def _number(value: float | None) -> float | None:
    """A number that a field takes; the zero of both signs is the same."""
    if value is None or math.isnan(value):
        return None
    return max(-LARGEST, min(LARGEST, value)) + 0 if isinstance(value, float) else value


def _shown(value: Any) -> Any:
    """A value that JSON has; what is no number is null, as in tables."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
