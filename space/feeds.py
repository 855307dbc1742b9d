"""Product feeds and exports of shops' systems as products: variants together or each, pictures, texts without HTML.

[`detect`] tells the system by the header, [`feed_rows`] reads the rows; `feed_formats.py` has what differs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from cells import Cells, columns_by_key, price_number
from feed_formats import FORMATS, SIGNATURES, TableFormat
from feed_products import FeedProduct, Part
from tables import Table
from woocommerce_names import in_english

TEXTS = ("title", "description", "category", "brand")
Rows = Iterable[tuple[int, Mapping[str, Any]]]


def detect(columns: Iterable[str]) -> str:
    """The system that a header is of: `shopify`, `woocommerce`, `magento` or `google`; `table` if it is none's.

    Letters of either case, spaces for underscores, the prefix `g:`, another order and missing columns make no
    difference; a format needs some columns that others don't have (`SIGNATURES`).
    """
    keys = in_english(columns_by_key(tuple(columns)))
    for name, needed in SIGNATURES.items():
        if all(sum(key in keys for key in names.split("|")) >= count for count, names in needed):
            return name
    return "table"


def feed_rows(
    read: Callable[[], Rows],
    form: str,
    columns: Mapping[str, str],
    variants: Literal["group", "each"],
    problems: Table,
    drafts: bool = False,
) -> Iterator[tuple[int, FeedProduct]]:
    """The products of a feed.

    The rows of a product needn't be beside each other: they are read twice, first to see where each product's last row
    is. Memory holds that (a key and a number for each product that may have several rows) and the rows of products
    whose last row is still to come.

    Args:
        read (`Callable`): gives the rows from the start, each `(number, cells by column)`. It is called once for
            `table`, else twice, and must give the same rows.
        form (`str`): what [`detect`] gives.
        columns (`Mapping[str, str]`): the column of each field (`id`, `title`, `description`, `category`, `brand`,
            `price`, `image`, `group`, `attributes`, `in_stock`) for `table`; else only those that the person renamed,
            which are read in place of the format's own.
        variants (`str`): `group` makes one product of a product's variants: all pictures, the lowest price, in stock
            if any is, options joined (`Size: S, M, L`). `each` makes each variant a product, with its own id, price,
            options and first picture, and the product's texts and other pictures. Rows of a `table` are products
            either way.
        problems (`Table`): counts what was left out, taken for missing or not understood, by its `note`.
        drafts (`bool`, *optional*, defaults to `False`): keep what customers can't see: drafts, archived, disabled,
            private and hidden products.

    Yields:
        `(int, FeedProduct)`: the number of a product's first row (of a variant, its own) and the product, in the order
        of last rows. One without an id has `id == ""`; ids that a file has twice come twice.
    """
    layout = FORMATS[form]()
    last = {} if form == "table" else _last_rows(read, layout, columns, problems)
    waiting: dict[str, list[Part]] = {}
    seen: set[str] = set()
    for place, (number, row) in enumerate(read()):
        cells = Cells(number, row, columns, problems)
        key = layout.key(cells)
        key = layout.resolve(key) if key else ""
        part = layout.part(cells)
        if key:
            waiting.setdefault(key, []).append(part)
        if not key or last[key] == place:
            parts = waiting.pop(key) if key else [part]
            layout.settle(parts)
            parts = _shown(parts, drafts, problems)
            if parts and (variants == "group" or form == "table"):
                yield min(part.number for part in parts), _grouped(parts)
            elif parts:
                yield from _each(parts, layout, seen, problems)


def _last_rows(
    read: Callable[[], Rows], layout: TableFormat, columns: Mapping[str, str], problems: Table
) -> dict[str, int]:
    """The place of the last row of each key."""
    places: dict[str, int] = {}
    for place, (number, row) in enumerate(read()):
        if key := layout.key(Cells(number, row, columns, problems)):
            places[key] = place
    last: dict[str, int] = {}
    for key, place in places.items():
        if key := layout.resolve(key):
            last[key] = max(place, last.get(key, -1))
    return last


def _shown(parts: list[Part], drafts: bool, problems: Table) -> list[Part]:
    """The rows that customers can see; the others are counted, those of one JSON object once. A row of another store
    view is none of them."""
    shown, counted = [], set()
    for part in parts:
        if not part.hidden or (drafts and not part.hidden.startswith("row ")):
            shown.append(part)
        elif part.number not in counted:
            problems.note(f"{part.hidden} (left out)", part.number, "id", part.variant or part.product.id)
            counted.add(part.number)
    return sorted(shown, key=lambda part: not part.parent)


def _grouped(parts: list[Part]) -> FeedProduct:
    """One product of all its rows."""
    first, sellers = parts[0].product, [part for part in parts if part.sells] or parts
    product = FeedProduct(id=first.id, group=first.group)
    for name in TEXTS:
        found = _distinct(getattr(part.product, name) for part in parts)
        setattr(product, name, found[0] if found else "")
        if len(found) > 1:
            product.extra[f"{name} of variants"] = " | ".join(found)
    prices = _distinct(part.product.price for part in sellers) or _distinct(part.product.price for part in parts)
    product.price = _lowest(prices)
    if len(prices) > 1:
        product.extra["price of variants"] = " | ".join(prices)
    product.image = _distinct([*_pictures(parts), *(name for part in parts for name in part.pictures)])
    stock = [part.product.in_stock for part in sellers if part.product.in_stock is not None]
    product.in_stock = any(stock) if stock else first.in_stock
    product.attributes = _joined_attributes(parts)
    product.extra |= _joined_extra(parts)
    product.variants = [item for item in _distinct(part.variant for part in sellers) if item != product.id]
    return product


def _each(
    parts: list[Part], layout: TableFormat, seen: set[str], problems: Table
) -> Iterator[tuple[int, FeedProduct]]:
    """A product of each variant; one of all rows if nothing among them sells."""
    sellers = [part for part in parts if part.sells]
    if not sellers:
        yield parts[0].number, _grouped(parts)
    group = next(filter(None, (part.product.group for part in parts)), parts[0].product.id)
    for part in sellers:
        parents = [other for other in parts if other.parent and other is not part]
        above = [other.product for other in parents if not other.sells]  # what holds for no variant of its own
        product = FeedProduct(_variant_id(part, len(sellers), layout, seen, problems), group=group)
        for name in TEXTS:
            texts = [getattr(other.product, name) for other in (part, *parents)]
            setattr(product, name, next(filter(None, texts), ""))
        product.price = next(filter(None, [part.product.price, *(one.price for one in above)]), "")
        stock = [one.in_stock for one in (part.product, *above) if one.in_stock is not None]
        product.in_stock = stock[0] if stock else None
        product.image = _pictures(parts, part.pictures)
        for other in (*reversed(parents), part):
            product.attributes |= other.product.attributes
            product.attributes |= {} if other.sells and other is not part else other.options
        product.extra = _joined_extra([other for other in parts if not other.sells]) | part.product.extra
        yield part.number, product


def _variant_id(part: Part, count: int, layout: TableFormat, seen: set[str], problems: Table) -> str:
    """A variant's id: its own, or its product's with the options if it has none or its SKU was there before."""
    product, item = part.product.id, part.variant
    if not item or (layout.lists_skus_twice and item in seen):
        made = "-".join(filter(None, [product, *part.options.values()])) if product else ""
        if count > 1 or item:
            why = "whose SKU was there before" if item else "without an id"
            problems.note(f"variant {why} (its id is made of the product's and its options)", part.number, "id", made)
        item, number = made, 2
        while item and item in seen:
            item, number = f"{made}-{number}", number + 1
    seen.add(item)
    return item


def _pictures(parts: list[Part], first: Sequence[str] = ()) -> list[str]:
    """Some pictures and then the product's, by their place, each once."""
    placed = sorted(parts, key=lambda part: part.position)
    shared = [name for part in placed for name in part.product.image]
    return _distinct([*first, *shared])


def _joined_attributes(parts: list[Part]) -> dict[str, str]:
    """The attributes of rows as one: for each name the values, each once."""
    found: dict[str, list[str]] = {}
    for part in parts:
        for name, text in (part.product.attributes | part.options).items():
            values = [text] if part.sells else text.split(", ")
            found[name] = _distinct([*found.get(name, []), *values])
    return {name: ", ".join(values) for name, values in found.items()}


def _joined_extra(parts: list[Part]) -> dict[str, str]:
    """The left over columns of rows as one: for each the values, each once, with `|` between."""
    found: dict[str, list[str]] = {}
    for part in parts:
        for column, text in part.product.extra.items():
            found.setdefault(column, []).append(text)
    return {column: " | ".join(_distinct(texts)) for column, texts in found.items()}


def _lowest(prices: list[str]) -> str:
    if len(prices) < 2:
        return next(iter(prices), "")
    numbers = [(number, price) for price in prices if (number := price_number(price, prices)) is not None]
    return min(numbers, key=lambda found: found[0])[1] if numbers else next(iter(prices), "")


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))
