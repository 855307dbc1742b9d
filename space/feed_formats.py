"""How shops' systems write products: one class for each, that reads a row, and tells what rows belong together.

The columns are those of the systems' own exports: Shopify's product CSV (the older, `Variant SKU`, and that of 2025,
`Product image URL`), WooCommerce's product CSV (`woocommerce_names.py` has its languages), Magento 2's product export,
and the attributes of Google's product data specification, which Meta's catalogues share.
"""

import re
from collections.abc import Mapping, Sequence

from cells import (
    Cells,
    attribute_text,
    price_number,
    read_attributes,
    split_pictures,
    split_quoted,
)
from feed_products import FeedProduct, Part
from html_text import html_to_text
from missing import is_missing_text
from woocommerce_names import in_english


class TableFormat:
    """Any table, by the columns of its fields; every row is a product."""

    lists_skus_twice = False  # so that a variant's SKU may be no id

    def key(self, cells: Cells) -> str:
        """What rows of one product may share; `""` if a row stands alone. Called for all rows, then again for each."""
        return ""

    def resolve(self, key: str) -> str:
        """A row's key when all rows were seen; `""` if it stands alone after all."""
        return key

    def part(self, cells: Cells) -> Part:
        """Reads a row."""
        product = _texts(cells, cells.id("id"))
        product.price = cells.take("price")
        product.image = split_pictures(cells.raw("image")[1])
        _finish(cells, product)
        return Part(cells.number, product, product.id)

    def settle(self, parts: list[Part]) -> None:
        """Fills in what only all rows of a product tell."""


class Shopify(TableFormat):
    """Rows of one handle are one product: its first row has its texts, each row a variant, a picture or both."""

    lists_skus_twice = True

    def key(self, cells):
        return cells.code("handle", "url handle")

    def part(self, cells):
        item = cells.id("id", "handle", "url handle")
        descriptions = ("body (html)", "body html", "description")
        product = _texts(cells, item, ("title",), descriptions, ("vendor",), SHOP_TYPES)
        product.group = cells.code("handle", "url handle")
        product.price = cells.take("price", "variant price", "price")
        product.image = split_pictures(cells.raw("image", "image src", "product image url")[1])
        pictures = split_pictures(cells.raw("", "variant image", "variant image url")[1])
        names = {number: cells.take("", f"option{number} name") for number in "123"}
        options = {number: cells.text("", f"option{number} value") for number in "123"}
        codes = {column: cells.id("", key) for key, column in self._codes(cells).items()}
        sku = next((codes[column] for key, column in self._codes(cells).items() if "sku" in key), "")
        if "id" in cells.columns:
            sku = product.id
        product.attributes = self._attributes(cells)
        product.in_stock = self._in_stock(cells)
        _finish(cells, product)
        product.extra |= {column: code for column, code in codes.items() if code}
        part = Part(cells.number, product, "" if is_missing_text(sku) else sku, parent=bool(product.title))
        part.sells = bool(sku or product.price or any(options.values()))
        part.pictures, part.position = pictures, price_number(cells.see("image position")) or 0
        part.options = {number: option for number, option in options.items() if option}
        part.option_names = {number: name for number, name in names.items() if name}
        part.hidden = self._hidden(cells)
        return part

    @staticmethod
    def _codes(cells: Cells) -> dict[str, str]:
        """The columns of SKUs and barcodes."""
        keys = ("variant sku", "sku", "variant barcode", "barcode")
        return {key: cells.names[key] for key in keys if key in cells.names}

    @staticmethod
    def _attributes(cells: Cells) -> dict[str, str]:
        found = {}
        for key, column in cells.names.items():
            if column not in cells.row or column in cells.taken:
                continue
            name = re.fullmatch(r"(.+) \((?:product|variant)\.metafields\..+\)", column)
            shopping = re.fullmatch(r"google shopping / (gender|age group|condition)", key)
            if name or shopping or key in ("tags", "type", "custom product type"):
                label = name[1] if name else (shopping[1] if shopping else "Tags" if key == "tags" else "Type")
                if text := html_to_text(attribute_text(cells.raw("", key)[1])):
                    found[label] = text.replace("\n", ", ")
        return found

    @staticmethod
    def _in_stock(cells: Cells) -> bool | None:
        available = cells.see("variant available").lower()  # of Shopify's JSON
        if available in ("true", "false"):
            return available == "true"
        tracker, quantity = ("variant inventory tracker", "inventory tracker"), cells.see(*QUANTITIES)
        policy = cells.see("variant inventory policy", "continue selling when out of stock").lower()
        if cells.see("variant price", "price") and cells.has(*tracker) and not cells.see(*tracker):
            return True  # nobody counts it, so it can always be ordered
        if policy in ("continue", "true"):
            return True
        number = re.fullmatch(r"-?\d+(\.0+)?", quantity)
        return None if number is None else float(quantity) > 0

    @staticmethod
    def _hidden(cells: Cells) -> str:
        status, published = cells.see("status").lower(), cells.see("published", "published on online store").lower()
        if status and status != "active":
            return f"product with status {status}"
        return "product that isn't published" if published in ("false", "0", "no") else ""

    def settle(self, parts):
        hidden = next((part.hidden for part in parts if part.hidden), "")
        names: dict[str, str] = {}
        for part in parts:
            names = part.option_names | names
            part.hidden = hidden
        first = next((part for part in parts if part.parent), parts[0])
        for part in parts:
            part.parent = part is first
        for part in parts:
            named = {names.get(number, f"Option {number}"): value for number, value in part.options.items()}
            part.options = {key: value for key, value in named.items() if (key, value) != ("Title", "Default Title")}


SHOP_TYPES = ("product category", "standard product type", "type", "custom product type")
QUANTITIES = ("variant inventory qty", "inventory quantity", "variant inventory quantity")


class WooCommerce(TableFormat):
    """A `variable` product has a row, and so has each `variation`, whose Parent is the product's `id:12` or SKU.

    A variation whose product isn't in the file is a product of its own, of its parent's group.
    """

    def __init__(self):
        self.products: dict[str, str] = {}

    def key(self, cells):
        cells.names = in_english(cells.names)
        number, sku, kinds = cells.code("id"), cells.see("sku"), cells.see("type").lower()
        if "variation" in kinds:
            return self._parent(cells)
        if "variable" not in kinds:
            return ""
        key = f"id:{number}" if number else sku
        self.products |= {ref: key for ref in (f"id:{number}" if number else "", sku) if ref}
        return key

    @staticmethod
    def _parent(cells: Cells) -> str:
        parent = cells.see("parent")
        return f"id:{parent[3:].strip()}" if parent.lower().startswith("id:") else parent

    def resolve(self, key):
        return self.products.get(key, "")

    def part(self, cells):
        kinds = cells.see("type").lower()
        own = cells.id("id", "id", "sku")
        product = _texts(cells, own, ("name",), (), ("brands", "brand", "meta: brand"), ("categories",))
        if "description" not in cells.columns:
            texts = [cells.take("", key) for key in ("short description", "description")]
            product.description = _joined(*(html_to_text(text.replace("\\n", "\n")) for text in texts))
        product.category = product.category.replace("\\,", ",")
        window = cells.see("date sale price starts") or cells.see("date sale price ends")
        product.price = _sale_price(cells, "regular price", "sale price", window)
        pictures = split_pictures(cells.raw("image", "images")[1], ",")
        product.in_stock = _stock(cells, "in stock?", "stock")
        part = Part(cells.number, product, own, "variable" not in kinds, "variable" in kinds)
        part.option_names, part.options = self._attributes(cells)
        part.hidden = self._hidden(cells)
        tags = cells.text("", "tags")
        product.attributes = {"Tags": tags} if tags else {}
        part.pictures, product.image = (pictures, []) if "variation" in kinds else ([], pictures)
        if "variation" in kinds and (parent := self._parent(cells)) not in self.products:
            kind = "variation whose product is not in the file (kept as a product of its own)"
            cells.problems.note(kind, cells.number, cells.names.get("parent", "parent"), parent)
            product.group, part.pictures, product.image = parent, [], pictures
        _finish(cells, product)
        return part

    @staticmethod
    def _attributes(cells: Cells) -> tuple[dict[str, str], dict[str, str]]:
        names, values = {}, {}
        for key in cells.names:
            if found := re.fullmatch(r"attribute (\d+) name", key):
                name = cells.take("", key)
                value = cells.text("", f"attribute {found[1]} value(s)")
                names |= {found[1]: name} if name else {}
                values |= {found[1]: value.replace("\\,", ",")} if value else {}
        return names, values

    @staticmethod
    def _hidden(cells: Cells) -> str:
        published = cells.see("published")
        if published in ("0", "-1"):
            return {"0": "product that is private", "-1": "product that is a draft"}[published]
        seen = cells.see("visibility in catalog", "visibility in catalogue").lower()
        return "product that is hidden in the catalogue and the search" if seen == "hidden" else ""

    def settle(self, parts):
        hidden = next((part.hidden for part in parts if part.parent), "")
        names: dict[str, str] = {}
        for part in sorted(parts, key=lambda part: not part.parent):
            names = part.option_names | names
        for part in parts:
            part.hidden = part.hidden or hidden
            own = names | part.option_names
            part.options = {own.get(number, f"Attribute {number}"): text for number, text in part.options.items()}
            if not part.product.brand:
                part.product.brand = part.options.get("Brand", "")


class Google(TableFormat):
    """Every item is a variant; those of one `item_group_id` are a product, and so is an item whose id that is."""

    def __init__(self):
        self.groups: set[str] = set()

    def key(self, cells):
        group = cells.see("item group id", field="group")
        self.groups.update([group] if group else [])
        return group or cells.code("id", "offer id", field="id")

    def resolve(self, key):
        return key if key in self.groups else ""

    def part(self, cells):
        own = cells.id("id", "id", "offer id")
        categories = ("product type", "product types", "google product category", "category", "fb product category")
        if re.fullmatch(r"\d+", cells.see("google product category")):  # a number of Google's taxonomy
            categories = tuple(name for name in categories if name != "google product category")
        product = _texts(cells, own, ("title",), ("description",), ("brand",), categories)
        if "group" not in cells.columns:
            product.group = cells.take("", "item group id")
        window = cells.see("sale price effective date")
        product.price = _sale_price(cells, "price", "sale price", window)
        pictures = split_pictures(cells.raw("image", "image link")[1])
        for key in [key for key in cells.names if re.fullmatch(r"additional image links?( ?\d+)?", key)]:
            pictures += split_pictures(cells.raw("", key)[1], ",")
        product.in_stock = _stock(cells, "availability")
        values = {key: cells.raw("", key)[1] for key in GOOGLE_ATTRIBUTES if key in cells.names}
        part = Part(cells.number, product, own)
        part.options = {key: html_to_text(attribute_text(value)) for key, value in values.items() if value}
        product.attributes = self._details(cells)
        _finish(cells, product)
        part.pictures, product.image = (pictures, []) if product.group else ([], pictures)
        product.id = product.group or own
        return part

    @staticmethod
    def _details(cells: Cells) -> dict[str, str]:
        column, value = cells.raw("", "product detail", "product details")
        if not isinstance(value, str):
            return read_attributes(value, column) if value else {}
        found: dict[str, str] = {}
        for detail in split_quoted(value):
            *_, name, text = ["", column, *detail.split(":", 2)] if detail.count(":") != 1 else detail.split(":")
            found[name.strip()] = ", ".join(filter(None, (found.get(name.strip()), html_to_text(text.strip()))))
        return {name: text for name, text in found.items() if text}


GOOGLE_ATTRIBUTES = (
    *("color", "size", "sizes", "material", "pattern", "gender", "age group", "size type", "size system", "condition"),
    *("energy efficiency class", "multipack", "product highlight", "product highlights"),
)


class Magento(TableFormat):
    """A `configurable` product names its variants, which have rows of their own, in `configurable_variations`.

    Category paths have `/` between their levels, and begin with the store's root, `Default Category`: where all begin
    with one, it tells nothing and is left out.
    """

    def __init__(self):
        self.parents: dict[str, tuple[str, dict[str, str]]] = {}
        self.roots: dict[str, bool] = {}  # and whether something is below them

    def key(self, cells):
        sku = cells.code("sku")
        for root, *below in _category_paths(cells.see("categories")):
            self.roots[root] = bool(below) or self.roots.get(root, False)
        for variation in filter(None, cells.see("configurable variations").split("|")):
            options = read_attributes(variation.strip())
            child = options.pop("sku", "")
            if child and self.parents.setdefault(child, (sku, options))[0] != sku:
                self.parents[child] = min(self.parents[child], (sku, options), key=lambda found: found[0])
        return sku

    def resolve(self, key):
        return self.parents[key][0] if key in self.parents else key

    def part(self, cells):
        sku, kind = cells.code("sku"), cells.see("product type").lower()
        product = _texts(
            cells, cells.id("id", "sku"), ("name",), ("description",), ("manufacturer", "brand"), ("categories",)
        )
        if "category" not in cells.columns:
            product.category = self._category(cells, product.category)
        if "description" not in cells.columns:
            product.description = _joined(cells.text("", "short description"), product.description)
        window = cells.see("special price from date") or cells.see("special price to date")
        product.price = _sale_price(cells, "price", "special price", window)
        pictures = split_pictures(cells.raw("image", "base image")[1], ",")
        for key in ("additional images", "small image", "thumbnail image"):
            pictures += split_pictures(cells.raw("", key)[1], ",")
        product.in_stock = _stock(cells, "is in stock", "qty")
        product.attributes = read_attributes(cells.raw("", "additional attributes")[1])
        product.brand = product.brand or product.attributes.get("manufacturer") or product.attributes.get("brand", "")
        parent, options = self.parents.get(sku, ("", {}))
        product.group = parent or (sku if kind == "configurable" else "")
        part = Part(cells.number, product, product.id, kind != "configurable", kind == "configurable")
        part.pictures, product.image = (pictures, []) if parent else ([], pictures)
        part.options, part.sku, part.view = options, sku, cells.see("store view code")
        visibility = cells.see("visibility").lower()
        part.alone = visibility not in ("", "1", "not visible individually")
        part.hidden = self._hidden(cells, visibility, bool(parent))
        _finish(cells, product)
        return part

    def _category(self, cells: Cells, text: str) -> str:
        """Paths as those of other shops, without those that others go on from: `Gear > Bags, Sale`."""
        paths = _category_paths(text)
        if len(self.roots) == 1 and all(self.roots.values()) and paths:
            kind = f"root {paths[0][0]!r} of the category paths (not kept)"
            cells.problems.note(kind, cells.number, cells.names["categories"], text)
            paths = [path[1:] for path in paths if path[1:]]
        kept = [path for path in paths if not any(other[: len(path)] == path != other for other in paths)]
        return ", ".join(dict.fromkeys(" > ".join(path) for path in kept))

    @staticmethod
    def _hidden(cells: Cells, visibility: str, is_variant: bool) -> str:
        if cells.see("product online", "status").lower() in ("0", "2", "disabled"):
            return "product that is disabled"
        is_part = visibility in ("1", "not visible individually") and not is_variant
        return "product that isn't visible individually and is no variant of one" if is_part else ""

    def settle(self, parts):
        views: dict[str, list[Part]] = {}
        for part in parts:
            views.setdefault(part.sku, []).append(part)
        for same in views.values():
            first = next((part for part in same if not part.view), same[0])
            for part in same:
                if part is not first:
                    part.hidden = "row of another store view" if part.view else "row with a sku that was there before"
        shown = [part for part in parts if not part.hidden.startswith("row ")]
        hidden = next((part.hidden for part in shown if part.parent), "")
        for part in shown:
            part.hidden = part.hidden or ("" if part.alone else hidden)


def _category_paths(text: str) -> list[list[str]]:
    """The levels of each path; a comma with a space behind it, and a slash behind a backslash, belong to a name."""
    paths = [re.split(r"(?<!\\)/", path.strip()) for path in re.split(r",(?!\s)", text) if path.strip()]
    return [[level.replace("\\/", "/").strip() for level in path] for path in paths]


FORMATS = {"table": TableFormat, "shopify": Shopify, "woocommerce": WooCommerce, "google": Google, "magento": Magento}
# Of each tuple, how many keys of columns must be there; a header that has all is of the format.
SIGNATURES: Mapping[str, Sequence[tuple[int, str]]] = {
    "shopify": [
        (1, "handle|url handle"),
        (1, "title"),
        (1, "variant sku|variant price|option1 name|option1 value|image src|product image url|body (html)"),
    ],
    "woocommerce": [
        (2, "type|name"),
        (1, "is featured?|visibility in catalog|visibility in catalogue|in stock?|regular price|attribute 1 name"
            "|sold individually?|backorders allowed?"),
        (2, "is featured?|visibility in catalog|visibility in catalogue|in stock?|regular price|attribute 1 name"
            "|sold individually?|backorders allowed?|published|parent"),
    ],
    "magento": [
        (1, "sku"),
        (2, "attribute set code|store view code|product type|product websites|product online|additional attributes"
            "|configurable variations|url key|base image|visibility"),
    ],
    "google": [
        (1, "id|offer id"),
        (1, "title"),
        (2, "image link|availability|item group id|additional image link|google product category|gtin|mpn|link"
            "|product type|condition|sale price effective date|identifier exists"),
        (1, "image link|item group id|google product category|additional image link"),
    ],
}  # fmt: skip


def _texts(cells: Cells, item: str, title=(), description=(), brand=(), category=()) -> FeedProduct:
    """A product with its id and its texts."""
    return FeedProduct(
        item,
        cells.text("title", *title),
        cells.text("description", *description),
        cells.text("category", *category),
        cells.text("brand", *brand),
    )


def _finish(cells: Cells, product: FeedProduct) -> None:
    """Reads the fields whose columns the person named, whatever the format, and keeps what is left over."""
    if "attributes" in cells.columns:
        product.attributes |= read_attributes(cells.raw("attributes")[1], cells.columns["attributes"])
    if "in_stock" in cells.columns:
        product.in_stock = cells.availability("in_stock")
    if "group" in cells.columns:
        product.group = cells.take("group")
    product.extra = cells.rest()


def _stock(cells: Cells, key: str, quantity: str = "") -> bool | None:
    """Whether a product is in stock by a column that says so, or else by how many there are."""
    found = None if "in_stock" in cells.columns else cells.availability("in_stock", key)
    number = re.fullmatch(r"-?\d+(\.\d+)?", cells.see(quantity))
    return float(number[0]) > 0 if found is None and number else found


def _joined(short: str, long: str) -> str:
    """A short description and the long one behind it, unless one has the other in it."""
    if not short or not long or short in long:
        return long or short
    return short if long in short else f"{short.rstrip('. ')}. {long}"


def _sale_price(cells: Cells, regular: str, sale: str, window: str) -> str:
    """A product's price: what it is on sale for, if that is less and has no first or last day, so that no price
    depends on the day; else the regular one. The other is left over."""
    price, reduced = cells.take("price", regular), cells.see(sale)
    if "price" in cells.columns or window:
        return price
    numbers = price_number(reduced), price_number(price)
    if numbers[0] and (numbers[1] is None or numbers[0] < numbers[1]):
        cells.taken.discard(cells.names.get(regular, ""))
        return cells.take("", sale)
    return price
