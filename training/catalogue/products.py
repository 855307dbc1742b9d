"""From a shop's table to products with pictures, prices and all of its columns, in groups that stay together."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.prices import PriceColumn, read_price
from training.catalogue.download import Fetched, download
from training.catalogue.feeds import detect, feed_rows
from training.catalogue.nested import flatten, holds_picture, variant_rows
from training.catalogue.options import Columns, PrepareArguments
from training.catalogue.picture_files import MISSING, PictureFolder
from training.catalogue.pictures import PictureSpool, SpooledPicture, fit_picture
from training.catalogue.product_spool import ProductSpool
from training.catalogue.splits import Groups
from training.catalogue.tables import ENDINGS, Table, table_rows
from training.catalogue.xml_feed import xml_rows

TEXT_FIELDS = ("title", "description", "category", "brand")
OPTIONAL = ("currency", "price_text", "in_stock", "attributes")  # columns that are only written if something has them
TAKEN = ("_id", *TEXT_FIELDS, "price", *OPTIONAL, "image")
CURRENCY = ("currency", "currency_code", "price_currency")
FIRST_ROWS = 100  # of nested ones, by which their columns are known
TABLE_NEEDS = [("id",), ("title", "description", "image")]


@dataclass
class Products:
    """The products of a table, on disk but for their ids.

    Attributes:
        table (`Table`): the table with its problems.
        form (`str`): what it was read as: `table`, `shopify`, `woocommerce`, `google` or `magento`.
        rows (`ProductSpool`): each product as [`FeedProduct`]'s fields.
        pictures (`PictureSpool`): the pictures.
        places (`dict[str, list[SpooledPicture]]`): those of each product by its id, which is there for all that can be
            used.
        numbers (`dict[str, int]`): each product's number in `rows` by its id.
        aliases (`dict[str, str]`): the product of each variant that was made one with others, by the variant's id.
        groups (`dict[str, str]`): the group of each product.
        prices (`PriceColumn`): how prices are written.
        columns (`dict[str, str]`): the names in the catalogue of the file's own columns that are kept.
        left_out (`dict[str, str]`): the file's columns that are not, and why.
        has (`set[str]`): which of `currency`, `in_stock`, `attributes` and `price_text` some product has.
        leftovers (`dict`): what the folder of pictures has that no product got; see [`PictureFolder.leftovers`].
    """

    table: Table
    form: str
    rows: ProductSpool
    pictures: PictureSpool
    places: dict[str, list[SpooledPicture]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    prices: PriceColumn = field(default_factory=PriceColumn)
    columns: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    has: set[str] = field(default_factory=set)
    leftovers: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def corpus(self, ids: Iterable[str]) -> Iterator[dict]:
        """The corpus rows of some products, with their pictures as they are kept."""
        for item in ids:
            row = self.row(item)
            found = [self.pictures.get(place) for place in self.places[item]]
            yield row | {"image": found if self.has_lists else (found or [None])[0]}

    def note_values(self, product: dict) -> None:
        """Sees which columns a product needs, and counts a price that can't be read."""
        self.has |= {name for name in ("attributes", "in_stock") if product[name] not in (None, {})}
        if not product["price"]:
            return
        if price := self.prices.read(product["price"]):
            self.has |= {"currency"} if price.currency or currency_beside(product) else set()
            return
        self.has.add("price_text")
        could_be = read_price(product["price"], ".") is not None
        kind = "price that could be two: give --decimal-mark , or ." if could_be else "price that can't be read"
        self.table.note(f"{kind} (kept as price_text)", product["line"], "price", product["price"])

    def row(self, item: str) -> dict:
        """A product's corpus row but for its pictures."""
        product = self.rows.get(self.numbers[item])
        row = {"_id": item, **{name: product[name] or None for name in TEXT_FIELDS}}
        price = self.prices.read(product["price"]) if product["price"] else None
        row["price"] = price and price.amount
        row["currency"] = (price.currency or currency_beside(product)) if price else None
        row["price_text"] = product["price"] if product["price"] and price is None else None
        row["in_stock"] = product["in_stock"]
        row["attributes"] = json.dumps(product["attributes"], ensure_ascii=False) if product["attributes"] else None
        row = {name: value for name, value in row.items() if name not in OPTIONAL or name in self.has}
        return row | {name: product["extra"].get(column) or None for column, name in self.columns.items()}

    @property
    def written(self) -> list[str]:
        """The columns that are written because some product has something in them."""
        return [name for name in OPTIONAL if name in self.has]

    @cached_property
    def has_lists(self) -> bool:
        """Whether some product has several pictures."""
        return any(len(places) > 1 for places in self.places.values())


def currency_beside(product: Mapping[str, Any]) -> str | None:
    """The currency of a column of its own, as some tables have it beside the price."""
    beside = (text for name, text in product["extra"].items() if name.strip().lower().replace(" ", "_") in CURRENCY)
    return next(filter(None, beside), None)


def read_products(arguments: PrepareArguments, pictures: PictureSpool) -> Products:
    """Reads the products and their pictures.

    Args:
        arguments (`PrepareArguments`): what to read.
        pictures (`PictureSpool`): gets the pictures.

    Raises:
        DataError: if the table can't be read or no product can be used.
    """
    products = open_products(arguments, pictures)
    keep_rows(arguments, products)
    choose_columns(arguments, products)
    keep_pictures(arguments, products)
    if not products.groups:
        raise products.table.left_nothing("no product can be used")
    return products


def open_products(arguments: PrepareArguments, pictures: PictureSpool) -> Products:
    """Opens the table and finds out whose it is.

    Raises:
        DataError: if it can't be read, or a column is missing.
    """
    name, form = arguments.products, arguments.format
    given = {"encoding": arguments.encoding, "separator": arguments.separator}
    if is_xml(name):
        if form not in ("auto", "google"):
            raise DataError(f"{name}: XML is read as a Google Merchant feed; leave out --format {form}")
        form, table = "google", Table(name=name)
    else:
        existing_file(name, f"a file that ends in {', '.join(ENDINGS)} or .xml")
        records = (row for _, row, _ in table_rows(Path(name), **given) if isinstance(row, dict))
        records = islice(records, FIRST_ROWS if is_nested(name) else 1)
        found = dict.fromkeys(column for row in records for one in variant_rows(row) for column in flatten(one))
        form = detect(found) if form == "auto" else form
        needed = (TABLE_NEEDS[:1] if arguments.images else TABLE_NEEDS) if form == "table" else []
        table = Table.open(name, arguments.columns, needed, "--columns", **given, parts=found)
    spool = ProductSpool(pictures.folder)
    return Products(table, form, spool, pictures, prices=PriceColumn(arguments.decimal_mark))


def is_xml(name: str) -> bool:
    """Whether a file is named as XML is."""
    return name.lower().removesuffix(".gz").endswith(".xml")


def is_nested(name: str) -> bool:
    """Whether a file's rows may have parts: JSON lines and Parquet."""
    return name.lower().removesuffix(".gz").endswith((".jsonl", ".parquet"))


def read_rows(products: Products) -> Callable[[], Iterator[tuple[int, dict]]]:
    """A function that reads the table's rows from the start. What is wrong with them is counted the last time that the
    form's reader calls it."""
    table = products.table
    passes = iter([False, True] if products.form != "table" else [True])

    def read() -> Iterator[tuple[int, dict]]:
        is_last = next(passes)
        if is_xml(table.name):
            rows = counted(table, xml_rows(Path(table.name))) if is_last else xml_rows(Path(table.name))
        elif is_last:
            rows = table.whole_rows()
        else:
            rows = ((number, row) for number, row, _ in table.records() if isinstance(row, dict))
        return flattened(rows, table if is_last else None) if is_nested(table.name) else rows

    return read


def flattened(rows: Iterable[tuple[int, dict]], table: Table | None) -> Iterator[tuple[int, dict]]:
    """Rows with one level; pictures that are in the table itself are counted by it."""
    for number, row in rows:
        for column, value in row.items():
            if table and any(map(holds_picture, value if isinstance(value, list) else [value])):
                kind = "picture in the table itself (picture not used; write it as a file and name it)"
                table.note(kind, number, column, "")
        yield from ((number, flatten(one)) for one in variant_rows(row))


def counted(table: Table, rows: Iterator[tuple[int, dict]]) -> Iterator[tuple[int, dict]]:
    """Rows, counted as read by a table."""
    for row in tqdm(rows, desc=table.name, unit=" rows"):
        table.read += 1
        yield row


def keep_rows(arguments: PrepareArguments, products: Products) -> None:
    """Keeps every product that has an id of its own on disk, and learns how prices are written."""
    table, names = products.table, asdict(arguments.columns)
    if products.form != "table":
        names = {key: column for key, column in names.items() if column != getattr(Columns, key)}
    found = feed_rows(read_rows(products), products.form, names, arguments.variants, table, arguments.drafts)
    for number, product in found:
        if not product.id:
            table.note("product without an id (left out)", number, "id", "")
        elif product.id in products.numbers:
            table.note("duplicate product id, the first is kept (left out)", number, "id", product.id)
        else:
            products.prices.see(product.price)
            products.numbers[product.id] = products.rows.add({"line": number, **vars(product)})
            products.columns.update(dict.fromkeys(product.extra))
            products.aliases.update(dict.fromkeys(product.variants, product.id))
    products.aliases = {item: its for item, its in products.aliases.items() if item not in products.numbers}


def keep_pictures(arguments: PrepareArguments, products: Products) -> None:
    """Finds the pictures of each product, keeps them, and groups the products that have anything to tell."""
    table, groups = products.table, Groups()
    folder = PictureFolder(arguments.images, products.numbers, arguments.max_pictures)
    fetched = fetch_pictures(arguments, products, folder)
    for product in tqdm(products.rows, desc="pictures", total=len(products.rows), unit=" products"):
        item = product["id"]
        named = find_pictures(product, folder, fetched, arguments, table)
        places, digests = read_pictures(product, named, arguments, products)
        if named and not places:  # all that is named is damaged
            others = [path for path in folder.of_id(item) if path not in named]
            places, digests = read_pictures(product, others, arguments, products)
        products.places[item] = places
        if places or product["title"] or product["description"]:
            groups.add(product, digests)
            products.note_values(product)
        else:
            del products.places[item]
            table.note("product without title, description and picture (left out)", product["line"], "id", item)
    products.groups = groups.all()
    products.leftovers = folder.leftovers() if arguments.images else {}


def read_pictures(
    product: dict, paths: Iterable[Path], arguments: PrepareArguments, products: Products
) -> tuple[list[SpooledPicture], list[str]]:
    """Keeps the pictures that can be read: their places, and the digests of their files. The others are counted."""
    places, digests = [], []
    for path in paths:
        try:
            content = path.read_bytes()
            picture = fit_picture(content, path.name, arguments.image_size)
        except Exception:  # Pillow raises many kinds for damaged files
            products.table.note("picture can't be read (picture not used)", product["line"], "image", path.name)
            continue
        places.append(products.pictures.add(picture))
        digests.append(hashlib.sha256(content).hexdigest())
    return places, digests


def fetch_pictures(arguments: PrepareArguments, products: Products, folder: PictureFolder) -> Fetched:
    """The pictures that are only given by address, if they are to be fetched."""
    if not arguments.download:
        return Fetched()
    cells = (json.dumps(product["image"]) for product in products.rows if product["image"])
    return download((url for cell in cells for url in folder.missing_urls(cell)), arguments.download)


def find_pictures(
    product: dict, folder: PictureFolder, fetched: Fetched, arguments: PrepareArguments, table: Table
) -> list[Path]:
    """A product's picture files; what is named and not there is counted, and so are products that have none."""
    if not product["image"] and not arguments.images:
        return []
    cell = json.dumps(product["image"]) if product["image"] else ""
    found, problems = folder.of_product(product["id"], cell, fetched.paths, fetched.failed)
    for kind, example in problems:
        if kind == MISSING and not arguments.images:
            kind = "picture is named but --images isn't given"
        table.note(f"{kind} (picture not used)", product["line"], "image", example)
    if not found and not problems and (product["title"] or product["description"]):
        kind = "no picture is named, and none is called like the id (text alone)"
        table.note(kind, product["line"], "id", product["id"])
    return found


def choose_columns(arguments: PrepareArguments, products: Products) -> None:
    """Names the file's own columns in the catalogue, all of them or those of `--keep`.

    Raises:
        DataError: if one that is to be kept isn't there.
    """
    found, keep = list(products.columns), arguments.keep
    if keep is not None and (unknown := [name for name in keep if name not in found]):
        raise DataError(
            f"--keep {unknown[0]}: {products.table.name} has no such column beyond those that are fields; it has "
            f"{', '.join(found) or 'none'}"
        )
    products.columns = {}
    for column in found:
        if keep is not None and column not in keep:
            products.left_out[column] = "is not in --keep"
        elif not column.strip():
            products.left_out["(no name)"] = "has no name in the header"
        else:
            products.columns[column] = free_name(column.strip(), {*TAKEN, *products.columns.values()})


def free_name(name: str, taken: set[str]) -> str:
    """A column's name, with a number behind it if the catalogue has a column of that name."""
    return next(one for one in chain([name], (f"{name} {number}" for number in count(2))) if one not in taken)
