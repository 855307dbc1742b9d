"""Bring your own products: a table, or a ZIP with a table and pictures, read in memory and within bounds.

Tables are read by the readers of `training.prepare`: exports of Shopify, WooCommerce, Magento and Google Merchant as
they are, others by the names of their columns, in any Unicode or Windows' western encoding. Nothing is unpacked to
disk and no address is fetched. What can't be read is counted and reported, the rest is kept.
"""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from catalogue import VisitorError
from cells import columns_by_key
from delimited import read_table
from errors import DataError
from feed_products import FeedProduct
from feeds import detect, feed_rows
from file_names import title_of_file
from meant_rows import MeantRows
from picture_names import ENDINGS, inner_path, without_ending, written_forms
from pictures import pixels_of, small_jpeg
from tables import Table, cell_text
from text_files import TextFile
from xml_feed import xml_rows

MAX_FILE_BYTES = 20_000_000
MAX_UNPACKED_BYTES = 80_000_000
MAX_MEMBER_BYTES = 15_000_000
MAX_MEMBERS = 4_000
MAX_PRODUCTS = 2_000
MAX_ROWS = 20_000  # of a table: of products with many variants, and of rows that are left out
MAX_COLUMNS = 1_000
FIRST_LINES = 20  # of which one is the header
MAX_LINE_BYTES = 500_000
MAX_TAGS = 600_000  # of XML
MAX_PIXELS = 1_000_000_000  # of all pictures of a ZIP together, as they are decoded
MAX_FIELD_CHARACTERS = 2_000
MAX_ATTRIBUTES = 50
PICTURE_SIZE = 384
PREVIEW_ROWS = 3
TABLES = (".csv", ".tsv", ".tab", ".psv", ".txt")
FIELDS = ("id", "title", "description", "category", "brand", "price", "image")
KNOWN_AS = {
    "id": ("id", "sku", "product id", "item id", "item", "article", "article number", "artikelnummer", "handle"),
    "title": ("title", "name", "product", "product name", "product title", "item name", "titel", "bezeichnung", "nom"),
    "description": ("description", "text", "details", "body", "body html", "body (html)", "beschreibung"),
    "category": ("category", "product type", "type", "department", "categories", "kategorie"),
    "brand": ("brand", "vendor", "manufacturer", "marke"),
    "price": ("price", "regular price", "variant price", "preis", "prix"),
    "image": ("image", "image path", "image link", "image url", "image src", "picture", "photo", "file", "filename")
    + ("image file", "images", "main image", "bild"),
}  # keys of columns, best first
HELP = f"""A **CSV** with a header row, or the export of Shopify, WooCommerce, Magento or Google Merchant (CSV or \
XML) as it is; or a **ZIP** of such a table and the pictures that it names; or a ZIP of pictures alone. \
At most {MAX_PRODUCTS:,} products and {MAX_FILE_BYTES // 10**6} MB."""
SAMPLE = """id,title,description,category,brand,price,image
1001,Mug,A striped mug of glazed stoneware. 350 ml.,Kitchen,Northwind,12.90,mug.jpg
1002,Wool scarf,"Soft and warm, woven of lambswool.",Clothing,Halden,39.00,scarf.jpg
1003,Cushion,"With a floral print, 45 x 45 cm.",Home,Northwind,24.50,cushion.jpg
"""
Progress = Callable[[float], None]


@dataclass
class Upload:
    """What was read from a visitor's file.

    Attributes:
        products (`list[dict]`): `_id`, `title`, ..., `image` (a small JPEG, as bytes, or `None`) and `pictured`.
        table (`Table`): the problems, counted.
        form (`str`): what the table was read as: `table`, `shopify`, `woocommerce`, `magento`, `google`; `pictures` if
            there was none.
        dialect (`str`): how it was read, such as `UTF-8, separator ;`.
        columns (`list[str]`): the table's columns.
        fields (`dict[str, str]`): the column that each field was read from, where the form doesn't say it.
        rows (`list[dict[str, str]]`): its first rows.
        ids (`set[str]`): of the products.
    """

    products: list[dict] = field(default_factory=list)
    table: Table = field(default_factory=Table)
    form: str = "pictures"
    dialect: str = ""
    columns: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    @property
    def problems(self) -> Counter:
        """Sentence to how often it applies."""
        return self.table.counts

    def lines(self) -> list[str]:
        """The problems with their numbers, most frequent first."""
        return [f"{count:,} x {problem}" if count > 1 else problem for problem, count in self.problems.most_common()]

    def report(self) -> list[dict]:
        """The problems as JSON: `problem`, `count` and, where it is a row's, the `line`, `field` and `value` of the
        first."""
        found = self.problems.most_common()
        return [{"problem": kind, "count": count, **self.table.first.get(kind, {})} for kind, count in found]


def read_upload(
    path: str, columns: Mapping[str, str] | None = None, progress: Progress | None = None, most: int = MAX_PRODUCTS
) -> Upload:
    """Reads a visitor's table or ZIP.

    Args:
        path (`str`): the file that was received. Its content decides what it is, not its name.
        columns (`Mapping[str, str]`, *optional*): column of any of `FIELDS`, where they are not found by their names.
        progress (`Callable[[float], None]`, *optional*): is told the share that is done.
        most (`int`, *optional*, defaults to `MAX_PRODUCTS`): where reading stops.

    Raises:
        VisitorError: if it is neither, is too large or holds no product.
    """
    try:
        if (size := Path(path).stat().st_size) > MAX_FILE_BYTES:
            raise VisitorError(f"The file has {size / 1e6:,.0f} MB; at most {MAX_FILE_BYTES // 10**6} MB are read.")
        content = Path(path).read_bytes()
    except OSError as error:
        raise VisitorError("The file is no longer there; upload it again.") from error
    upload, columns = Upload(), columns or {}
    archive = Archive(content, upload) if content.startswith(b"PK") else None
    if archive is None:
        read_products(content, path, upload, columns, most, None, progress)
    elif archive.table is not None:
        read_products(archive.unpacked(archive.table), None, upload, columns, most, archive, progress)
    else:
        read_pictures(archive, upload, most, progress)
    if not upload.products:
        raise VisitorError(
            " ".join(["No product was found in the file.", *upload.lines()[:3], "See what is expected."])
        )
    return upload


def preview(path: str, columns: Mapping[str, str] | None = None) -> Upload:
    """The first rows of a table and the first products that are made of them, to see whether columns are read right;
    see [`read_upload`]."""
    return read_upload(path, columns, most=PREVIEW_ROWS)


def query_picture(path: str | None) -> bytes | None:
    """A visitor's query picture as a small JPEG.

    Args:
        path (`str` or `None`): the file that was received; its name doesn't matter.

    Raises:
        VisitorError: if it is too large, damaged or no picture.
    """
    if not path:
        return None
    try:
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise VisitorError(f"A query picture has at most {MAX_FILE_BYTES // 10**6} MB; give a smaller one.")
        return small_jpeg(Path(path).read_bytes(), PICTURE_SIZE)
    except OSError as error:
        raise VisitorError("The picture is no longer there; upload it again.") from error
    except ValueError as error:
        raise VisitorError(str(error)) from error


class Archive:
    """The files of a ZIP, each unpacked when it is asked for; a picture that can't be read is counted.

    Attributes:
        pictures (`dict[str, None]`): the names of its pictures, in order.
        table (`str` or `None`): its table.

    Args:
        content (`bytes`): the ZIP.
        upload (`Upload`): gets the problems.

    Raises:
        VisitorError: if it is damaged, holds too many files, or says that they unpack to too much.
    """

    def __init__(self, content: bytes, upload: Upload):
        self.upload, self.left, self.pixels = upload, MAX_UNPACKED_BYTES, MAX_PIXELS
        try:
            self.zip = zipfile.ZipFile(io.BytesIO(content))
        except Exception as error:  # zipfile raises many kinds for damaged files
            raise VisitorError("The ZIP is damaged or encrypted; make it anew, without a password.") from error
        self.members = safe_members(self.zip, upload)
        self.pictures = dict.fromkeys(name for name in self.members if name.lower().endswith(ENDINGS))
        tables = [name for name in self.members if name.lower().endswith(TABLES)]
        tables.sort(key=lambda name: name.lower().endswith(".txt"))  # which may be a note
        self.table = tables[0] if tables else None
        if len([name for name in tables if not name.lower().endswith(".txt")]) > 1:
            upload.problems[f"the ZIP has several tables; only {tables[0][:80]!r} was read"] += 1
        self.folder = str(PurePosixPath(self.table or "").parent)
        self.places = places_of(self.pictures)
        self.made: dict[str, bytes | str] = {}

    def unpacked(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            VisitorError: if it is damaged, or larger than bounded, whatever size it claims.
        """
        try:
            with self.zip.open(self.members[name]) as stream:
                content = stream.read(MAX_MEMBER_BYTES + 1)
        except Exception as error:  # as above, and those of the decoders: zlib, bz2, lzma
            raise VisitorError("The ZIP is damaged or encrypted; make it anew, without a password.") from error
        self.left -= len(content)
        if len(content) > MAX_MEMBER_BYTES:
            raise VisitorError(f"{name[:80]!r} in the ZIP unpacks to more than {MAX_MEMBER_BYTES // 10**6} MB.")
        if self.left < 0:
            raise VisitorError(f"The ZIP unpacks to more than {MAX_UNPACKED_BYTES // 10**6} MB.")
        return content

    def picture(self, name: str) -> bytes | None:
        """A picture as a small JPEG; `None`, and counted, if it can't be read."""
        if name not in self.made:
            try:
                content = self.unpacked(name)
                self.pixels -= pixels_of(content)
                if self.pixels < 0:
                    raise VisitorError("the pictures of the ZIP have too many pixels in all; make them smaller.")
                self.made[name] = small_jpeg(content, PICTURE_SIZE)
            except VisitorError as error:
                self.made[name] = f"picture can't be read: {error}"
            except ValueError as error:
                self.made[name] = str(error)
        found = self.made[name]
        if isinstance(found, str):
            self.upload.problems[found] += 1
            return None
        return found

    def find(self, names: list[str], product_id: str) -> bytes | None:
        """The first picture that a product names and that can be read, or else one that is called like its id.

        A name is a path in the ZIP, from its root or from the table's folder, or the end of one.
        """
        known = [place for name in names if (place := self._place(name))]
        if names and not known:
            is_address = all("://" in name for name in names)
            kind = (
                "given by an address, which is not fetched; put it into a ZIP"
                if is_address
                else "not found in the ZIP"
            )
            self.upload.problems[f"picture {kind}"] += 1
        if not known and product_id:
            known = [place for place in [self.places.get(product_id.lower())] if place]
        return next(filter(None, map(self.picture, known)), None)

    def _place(self, name: str) -> str | None:
        paths = list(filter(None, map(inner_path, written_forms(name))))
        for path in paths:
            for candidate in (path, f"{self.folder}/{path}"):
                if candidate in self.pictures:
                    return candidate
        ends = (self.places.get(path.rpartition("/")[2].lower()) for path in paths)
        return next(filter(None, ends), None)


def places_of(names: Iterable[str]) -> dict[str, str]:
    """The pictures by their names without folders, with and without ending, in lower case; of several of one name
    none."""
    found: dict[str, str | None] = {}
    for name in names:
        base = PurePosixPath(name).name.lower()
        for key in {base, without_ending(base)}:
            found[key] = name if key not in found else None
    return {key: name for key, name in found.items() if name}


def safe_members(archive: zipfile.ZipFile, upload: Upload) -> dict[str, zipfile.ZipInfo]:
    """The files of a ZIP by name, without folders, hidden files, links, and names that lead out of it.

    Raises:
        VisitorError: if there are too many, or they say that they unpack to too much.
    """
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MAX_MEMBERS:
        raise VisitorError(f"The ZIP holds {len(infos):,} files; at most {MAX_MEMBERS:,} are read.")
    if (total := sum(info.file_size for info in infos)) > MAX_UNPACKED_BYTES:
        raise VisitorError(
            f"The ZIP unpacks to {total / 1e6:,.0f} MB; at most {MAX_UNPACKED_BYTES // 10**6} MB are read."
        )
    members = {}
    for info in infos:
        name = info.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if "\\" in name or name.startswith("/") or ".." in parts or ":" in name or is_link:
            upload.problems["file of the ZIP ignored, since its name leads out of it"] += 1
        elif not any(part.startswith((".", "__MACOSX")) for part in parts):
            members[name] = info
    return members


def read_pictures(archive: Archive, upload: Upload, most: int, progress: Progress | None) -> None:
    """Makes a product of each picture of a ZIP without a table; its name is the title if there are words in it."""
    names = list(archive.pictures)[:most]
    for number, name in enumerate(names, start=1):
        if (image := archive.picture(name)) is not None:
            add_product({"_id": name, "title": title_of_file(name)}, image, upload)
        if progress:
            progress(number / len(names))
    if beyond := len(archive.pictures) - len(names):
        upload.problems[f"product beyond the first {most:,} left out"] += beyond


def read_products(
    content: bytes,
    path: str | None,
    upload: Upload,
    columns: Mapping[str, str],
    most: int,
    archive: Archive | None,
    progress: Progress | None,
) -> None:
    """Reads a table's products; it is read no further than they are taken.

    Args:
        content (`bytes`): the table.
        path (`str` or `None`): the file that it is, if it is one by itself.
        upload (`Upload`): gets the products and problems.
        columns (`Mapping[str, str]`): the column of fields, as the visitor named them.
        most (`int`): how many products are taken.
        archive (`Archive` or `None`): where the pictures are.
        progress (`Callable` or `None`): is told the share that is done.

    Raises:
        VisitorError: if it is no table, or a column is missing.
    """
    try:
        is_xml = path is not None and bool(re.match(rb"(\xef\xbb\xbf)?\s*<(\?xml|rss|feed)\b", content[:200]))
        rows = XmlRows(path) if is_xml else TableRows(content)
        upload.dialect, upload.columns, upload.rows = rows.dialect, rows.columns, rows.head
        upload.form = "google" if is_xml else detect(rows.columns)
        upload.fields = fields_of(rows.columns, columns, upload.form)
        read = Reading(rows, upload, one_pass=upload.form == "table")
        found = feed_rows(read, upload.form, upload.fields, "group", upload.table)
        for number, product in found:
            if len(upload.products) == most:
                upload.problems[f"product beyond the first {most:,} left out"] += max(rows.left(number), 1)
                break
            take_product(number, product, upload, archive)
            if progress:
                progress(min(len(upload.products) / min(most, max(rows.size, 1)), 1))
    except DataError as error:
        reason = re.sub(r"^\S+: ", "", str(error))
        raise VisitorError(f"The file can't be read as a feed: {reason}.") from error
    except ValueError as error:
        if isinstance(error, VisitorError):
            raise
        raise VisitorError(f"The file {str(error).partition(';')[0]}; give a CSV in UTF-8, or a ZIP.") from error


class TableRows:
    """The rows of a delimited table, from the start each time that they are asked for.

    Args:
        content (`bytes`): with commas, semicolons, tabs or bars, in any Unicode or Windows' western encoding.

    Raises:
        ValueError: if it is no table.
    """

    def __init__(self, content: bytes):
        self.content = content
        starts = range(0, len(content) - MAX_LINE_BYTES, MAX_LINE_BYTES)
        if not all(re.search(rb"[\r\n]", content[start : start + MAX_LINE_BYTES]) for start in starts):
            raise ValueError(f"has a line of more than {MAX_LINE_BYTES:,} bytes")
        self.size = max(content.count(b"\n"), content.count(b"\r")) + (content[-1:] not in (b"\n", b"\r"))
        text, rows = self._open()
        self.columns, self.twice = rows.columns, rows.table.twice
        self.dialect = f"{text.said}, {rows.table.said}{rows.said}"
        self.assumed = f"the table reads as {text.example!r} in {text.said}; if that is wrong, save it as UTF-8"
        self.assumed = self.assumed if text.is_assumed else ""
        self.lists = set(rows.lists)
        head = (row for _, row in islice(rows, PREVIEW_ROWS + 1) if row)
        self.head = [{name: cell_text(cell)[:200] for name, cell in row.items()} for row in islice(head, PREVIEW_ROWS)]

    def _open(self) -> tuple[TextFile, MeantRows]:
        text = TextFile(io.BytesIO(self.content))
        if what := text.other_format():
            raise ValueError(what)
        table = read_table(bounded(text))
        text.doubts(table.first.last)
        return text, MeantRows(table)

    def left(self, line: int) -> int:
        """About how many rows come after a line."""
        return self.size - line + 1

    def __call__(self) -> Iterator[tuple[int, dict | None, list[str], str]]:
        """Each row's line, its cells by column (`None` if it is broken), what there is to tell of it, and its text."""
        text, rows = self._open()
        for record, row in rows:
            if any(cell.strip() for cell in record.cells):
                yield record.row, row, [*filter(None, [record.doubt]), *text.doubts(record.last)], record.text


def bounded(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a table.

    Raises:
        ValueError: if one of the first has so many columns that reading it would take for ever.
    """
    for number, line in enumerate(lines, start=1):
        if number <= FIRST_LINES and max(map(line.count, ",;\t|")) > MAX_COLUMNS:
            raise ValueError(f"has more than {MAX_COLUMNS:,} columns on line {number}")
        yield line


class XmlRows:
    """The items of a Google Merchant feed in XML, like [`TableRows`].

    Raises:
        DataError: if it is none, or damaged.
    """

    twice, assumed, lists = (), "", frozenset()

    def __init__(self, path: str):
        self.path, self.dialect = path, "XML"
        if Path(path).read_bytes().count(b"<") > MAX_TAGS:
            raise DataError(f"{path}: it has more than {MAX_TAGS:,} tags; give a part of the feed")
        first = [row for _, row in islice(xml_rows(Path(path)), 100)]
        self.columns = list(dict.fromkeys(column for row in first for column in row))
        self.size = Path(path).read_bytes().count(b"<g:id>")
        self.head = [{name: cell_text(cell)[:200] for name, cell in row.items()} for row in first[:PREVIEW_ROWS]]

    def left(self, line: int) -> int:
        """About how many items are beyond those that were taken."""
        return self.size - MAX_PRODUCTS

    def __call__(self) -> Iterator[tuple[int, dict | None, list[str], str]]:
        """Each item's line and fields."""
        return ((line, row, [], "") for line, row in xml_rows(Path(self.path)))


class Reading:
    """Gives rows to `feed_rows`, which may read them twice; what is wrong with them is counted the last time.

    Args:
        rows (`TableRows` or `XmlRows`): the rows.
        upload (`Upload`): gets the problems.
        one_pass (`bool`): they are read once.
    """

    def __init__(self, rows: "TableRows | XmlRows", upload: Upload, one_pass: bool):
        self.rows, self.upload, self.passes = rows, upload, iter([True] if one_pass else [False, True])
        note = upload.problems
        note.update([rows.assumed] if rows.assumed else [])
        for name in set(upload.fields.values()) & set(rows.twice) - set(rows.lists):
            note[f"the table has column {name[:80]!r} more than once; the first was read"] += 1

    def __call__(self) -> Iterator[tuple[int, dict]]:
        """Each row's line and its cells by column, at most `MAX_ROWS`."""
        counts, table = next(self.passes), self.upload.table
        for number, (line, row, doubts, text) in enumerate(self.rows()):
            if number == MAX_ROWS:
                if counts:
                    self.upload.problems[f"row beyond the first {MAX_ROWS:,} not read"] += max(self.rows.left(line), 1)
                return
            for doubt in doubts if counts else ():
                table.note(doubt, line, "(all)", text)
            if row is not None:
                yield line, row
            elif counts:
                table.note("row with more or fewer cells than the header left out", line, "(all)", text)


def fields_of(header: list[str], given: Mapping[str, str], form: str) -> dict[str, str]:
    """The column of each field: those that the visitor named and, for a table of no known form, those that are called
    so.

    Raises:
        VisitorError: if a field or a column is none, or the table has nothing to search by.
    """
    for name, column in given.items():
        if name not in FIELDS:
            raise VisitorError(f"There is no field {str(name)[:40]!r}; name columns of {', '.join(FIELDS)}.")
        if column not in header:
            there = ", ".join(header)[:300]
            raise VisitorError(f"The file has no column {str(column)[:80]!r} for {name}; it has: {there}.")
    if form != "table":
        return dict(given)
    columns = columns_by_key(tuple(header))
    found = {name: columns[key] for name, keys in KNOWN_AS.items() for key in reversed(keys) if key in columns}
    found = {name: column for name, column in found.items() if column not in given.values()} | dict(given)
    if not {"title", "description", "image"} & set(found):
        raise VisitorError(
            f"The file has no column title, description or image in its first row, which has: "
            f"{', '.join(header)[:300]}; name yours, or see what is expected."
        )
    return found


def take_product(line: int, product: FeedProduct, upload: Upload, archive: Archive | None) -> None:
    """Adds a product of a table with its picture; counts what is wrong with it."""
    image = None
    if archive is not None:
        image = archive.find(product.image, product.id)
    elif product.image:
        is_address = all("://" in name for name in product.image)
        kind = "given by an address, which is not fetched" if is_address else "named, but the file is no ZIP"
        upload.table.note(f"picture {kind}; put it into a ZIP", line, "image", product.image[0])
    title = product.title
    if any(title.lower() in (name.lower(), without_ending(name).lower()) for name in product.image):
        title = title_of_file(title)  # which nobody wrote
    texts = {"_id": product.id, "title": title, "description": product.description, "category": product.category}
    texts |= {"brand": product.brand, "price": product.price}
    add_product(texts, image, upload, dict(list(product.attributes.items())[:MAX_ATTRIBUTES]))


def add_product(
    values: dict[str, str], image: bytes | None, upload: Upload, attributes: dict[str, str] | None = None
) -> None:
    """Adds a product with its small picture; counts what is wrong with it."""
    product = {name: value[:MAX_FIELD_CHARACTERS] for name, value in values.items() if value}
    if any(len(value) > MAX_FIELD_CHARACTERS for value in values.values()):
        upload.problems[f"product with a field cut to {MAX_FIELD_CHARACTERS:,} characters"] += 1
    if image is None and not product.get("title") and not product.get("description"):
        upload.problems["row without title, description and picture left out"] += 1
        return
    product.setdefault("_id", f"row-{len(upload.products) + 1}")
    if product["_id"] in upload.ids:
        upload.problems["product left out, since its id came before"] += 1
        return
    if attributes:
        product["attributes"] = {name[:100]: value[:200] for name, value in attributes.items()}
    upload.ids.add(product["_id"])
    upload.products.append({**product, "image": image, "pictured": image is not None})
