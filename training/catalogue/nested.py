"""Nested JSON and Parquet as rows of a table: common shapes become one cell, all else a column for each part."""

from collections.abc import Collection, Mapping
from typing import Any

from training.catalogue.cells import PICTURE_KEYS, named_values
from training.catalogue.tables import cell_text

AMOUNT_KEYS = ("amount", "value", "price")
CURRENCY_KEYS = ("currency", "currencyCode", "currency_code", "priceCurrency")
LABEL_KEYS = ("name", "title", "label")
DEEPEST = 20  # levels; what is further down stays as it is
WHOLE = ("attributes", "additional_attributes", "product_detail")


def flatten(row: Mapping[str, Any], whole: Collection[str] = WHOLE) -> dict[str, Any]:
    """A JSON object, or a row of Parquet, with one level.

    | in the object | in the row |
    |---|---|
    | `"price": {"amount": 9, "currency": "EUR"}` | `price`: `9 EUR` |
    | `"images": [{"src": "a.jpg"}, {"src": "b.jpg"}]` | `images`: `["a.jpg", "b.jpg"]` |
    | `"brand": {"name": "Acme", "id": 3}` | `brand`: `Acme`, `brand.id`: 3 |
    | `"categories": [{"name": "Home"}, {"name": "Mugs"}]` | `categories`: `["Home", "Mugs"]` |
    | `"specs": [{"name": "Size", "value": "M"}]` | `specs`: `{"Size": "M"}` |
    | `"dimensions": {"box": {"height": 3}}` | `dimensions.box.height`: 3 |
    | `"image": {"bytes": b"...", "path": "a.jpg"}` | `image`: `a.jpg`; see [`holds_picture`] |

    The other parts of pictures and categories stay in `images.all` and `categories.all`, and lists of other objects
    stay as they are, so that nothing gets lost.

    Args:
        row (`Mapping`): the object; one without nested parts comes back as it is.
        whole (`Collection[str]`, *optional*): columns of attributes, whose mapping stays whole; by default
            `attributes`, `additional_attributes` and `product_detail`.
    """
    flat: dict[str, Any] = {}
    for key, value in row.items():
        _add(flat, str(key), value, key in whole)
    return flat


def _add(flat: dict[str, Any], name: str, value: Any, whole: bool = False) -> None:
    value = _filled(value)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        _put(flat, name, _list_cell(flat, name, value))
    elif holds_picture(value):
        _put(flat, name, value.get("path"))
    elif not isinstance(value, Mapping) or whole or name.count(".") == DEEPEST:
        _put(flat, name, value)
    elif (price := _price(value)) is not None:
        _put(flat, name, price)
    else:
        keys = (*PICTURE_KEYS[:2], *LABEL_KEYS)
        label = next((key for key in keys if cell_text(value.get(key)) and not isinstance(value[key], Mapping)), None)
        if label:
            _put(flat, name, value[label])
        for key, item in value.items():
            if key != label:
                _add(flat, f"{name}.{key}", item)


def _filled(value: Any) -> Any:
    """A mapping, or a list of them, without what is missing: in Parquet all have all parts that any has."""
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return list(map(_filled, value))
    is_mapping = isinstance(value, Mapping)
    return {key: part for key, part in value.items() if part is not None} if is_mapping else value


def holds_picture(value: Any) -> bool:
    """Whether a cell is a picture itself, as `datasets` keeps them in Parquet."""
    return isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes)


def _put(flat: dict[str, Any], name: str, value: Any) -> None:
    """Sets a column; where `a.b` comes from two places both are kept."""
    flat[name] = [flat[name], value] if name in flat else value


def _price(value: Mapping) -> str | None:
    """`9 EUR` of an amount and its currency; `None` if a mapping is something else."""
    amounts = [cell_text(value[key]) for key in AMOUNT_KEYS if key in value]
    currencies = [cell_text(value[key]) for key in CURRENCY_KEYS if key in value]
    is_price = len(amounts) == 1 and len(value) == 1 + len(currencies) and len(currencies) == 1
    return f"{amounts[0]} {currencies[0]}".strip() if is_price and amounts[0] else None


def _list_cell(flat: dict[str, Any], name: str, items: list) -> Any:
    """A list of mappings as one cell: pictures, attributes or names; as it is if it is none of these."""
    named = named_values(items)
    if named is not None:
        return named
    for keys in (PICTURE_KEYS, LABEL_KEYS):
        key = next((key for key in keys if all(isinstance(item.get(key), str) for item in items)), None)
        if key and name.rpartition(".")[2] not in ("variants", "offers"):
            if any(len(item) > 1 for item in items):
                _put(flat, f"{name}.all", items)
            return [item[key] for item in items]
    return items


def variant_rows(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of Shopify's product CSV for a product of its JSON, whose `variants` are objects: one for each variant
    and one for each picture; any other object as the one row that it is."""
    variants, images = row.get("variants"), row.get("images") or []
    if "handle" not in row or not isinstance(variants, list) or not all(isinstance(one, Mapping) for one in variants):
        return [dict(row)]
    product = {key: value for key, value in row.items() if key not in ("variants", "images", "options")}
    for old, new in (("body_html", "Body (HTML)"), ("product_type", "Type")):
        if old in product:
            product[new] = product.pop(old)
    names = [one.get("name", "") if isinstance(one, Mapping) else one for one in row.get("options") or []]
    product |= {f"Option{number} Name": name for number, name in enumerate(names, start=1)}
    rows: list[dict[str, Any]] = [product]
    for number, variant in enumerate(variants):
        cells = {VARIANT_COLUMNS.get(key, f"Variant {key}"): value for key, value in variant.items()}
        rows[number : number + 1] = [(rows[number] if number == 0 else {"handle": row["handle"]}) | cells]
    pictures = [image if isinstance(image, Mapping) else {"src": image} for image in images]
    return rows + [
        {"handle": row["handle"], **{f"Image {key}": value for key, value in image.items()}} for image in pictures
    ]


VARIANT_COLUMNS = {
    **{f"option{number}": f"Option{number} Value" for number in range(1, 4)},
    "sku": "Variant SKU",
    "price": "Variant Price",
    "barcode": "Variant Barcode",
    "featured_image": "Variant Image",
    "inventory_quantity": "Variant Inventory Qty",
    "inventory_policy": "Variant Inventory Policy",
    "inventory_management": "Variant Inventory Tracker",
}
