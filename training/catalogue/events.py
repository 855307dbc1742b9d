"""Events of products, as JSON: new products and new versions, changed columns, products that are gone.

    {"type": "upsert", "product": {"_id": "a", "title": "Mug", "price": 9.9, "image": "a.jpg"}}
    {"type": "update", "_id": "a", "colour": "red"}
    {"type": "price", "_id": "a", "price": 12.5, "currency": "EUR"}
    {"type": "stock", "_id": "a", "in_stock": false}
    {"type": "delete", "_id": "a"}

An upsert is a product with all its fields, new or in place of the older one: fields that it lacks are empty. An update
sets some columns, of which the vector is not made, and leaves the others as they are. Price and stock are updates that
must have a number as `price` (`currency` may be left out), or a truth value as `in_stock`.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from training.catalogue.layout import id_strings

TYPES = ("upsert", "update", "price", "stock", "delete")
OWN = ("type", "_id")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)


class Unusable(Exception):
    """An event that can't be applied; its text says why, in the same words for all of a kind."""


@dataclass
class Event:
    """What happens to a product.

    Attributes:
        type (`str`): one of `TYPES`.
        product_id (`str`): the product's id.
        columns (`dict[str, Any]`): of an upsert all fields but the id, of an update those that change.
        where (`str`): file and line, for messages.
    """

    type: str
    product_id: str
    columns: dict[str, Any]
    where: str


def read_event(content: bytes | None, where: str = "") -> Event:
    """The event of a line.

    Args:
        content (`bytes` or `None`): the line; `None` for one that is too long.
        where (`str`, *optional*): its file and line.

    Raises:
        Unusable: if it is none.
    """
    if content is None:
        raise Unusable("line of more than 64 MB")
    try:
        event = DECODER.decode(content.decode())
        if b"\\u" in content:
            json.dumps(event, ensure_ascii=False).encode()  # half a character can't be stored
    except (ValueError, RecursionError):
        raise Unusable("line that is no JSON") from None
    if not isinstance(event, dict):
        raise Unusable("line that is no JSON object")
    kind = event.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise Unusable(f"event whose type is none of {', '.join(TYPES)}")
    product = event.get("product") if kind == "upsert" else event
    if not isinstance(product, dict):
        raise Unusable("upsert without a product")
    columns = {name: value for name, value in product.items() if name not in (OWN if kind != "upsert" else OWN[1:])}
    return Event(kind, _id_of(product), CHECKS.get(kind, lambda columns: columns)(columns), where)


def _id_of(product: dict) -> str:
    found = product.get("_id")
    if isinstance(found, bool) or not isinstance(found, str | int) or not str(found).strip():
        raise Unusable("event without an _id, a text")
    return id_strings([found])[0]


def _price(columns: dict[str, Any]) -> dict[str, Any]:
    price, currency = columns.get("price"), columns.get("currency")
    if isinstance(price, bool) or not isinstance(price, int | float) or not _is_finite(price):
        raise Unusable("price that is no number")
    if not isinstance(currency, str | None):
        raise Unusable("currency that is no text")
    return columns


def _stock(columns: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(columns.get("in_stock"), bool):
        raise Unusable("in_stock that is neither true nor false")
    return columns


def _update(columns: dict[str, Any]) -> dict[str, Any]:
    if not columns:
        raise Unusable("update of no column")
    return columns


CHECKS = {"price": _price, "stock": _stock, "update": _update, "delete": lambda columns: {}}


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number that no float can hold
        return False


def as_stored(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of a kind holds it; in a column of texts lists and objects are JSON, as `training.embed`
    stores them.

    Raises:
        Unusable: if the column can't hold it.
    """
    if value is None:
        return None
    if pa.types.is_large_string(kind) or pa.types.is_string(kind):
        return _as_text(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if pa.types.is_floating(kind) and is_number and _is_finite(value):
        found = pa.scalar(float(value), kind).as_py()
        if math.isfinite(found):
            return found
    elif pa.types.is_integer(kind) and is_number and _is_finite(value) and int(value) == value:
        try:
            return pa.scalar(int(value), kind).as_py()
        except (pa.ArrowException, OverflowError):
            pass
    elif pa.types.is_boolean(kind) and isinstance(value, bool):
        return value
    raise Unusable(f"value that a column of {kind} can't hold")


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return json.dumps(value, ensure_ascii=False)
