"""Bring your own products: a CSV, or a ZIP with a CSV and pictures, read in memory and within bounds.

Nothing is unpacked to disk and no address is fetched. What can't be read is counted and reported, the rest is kept.
"""

import io
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from catalogue import VisitorError
from delimited import read_table
from pictures import small_jpeg
from text_files import TextFile

MAX_FILE_BYTES = 20_000_000
MAX_UNPACKED_BYTES = 80_000_000
MAX_MEMBER_BYTES = 15_000_000
MAX_MEMBERS = 2_000
MAX_PRODUCTS = 300
MAX_FIELD_CHARACTERS = 2_000
PICTURE_SIZE = 384
PICTURE_NAMES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
HEADERS = {
    "_id": ("_id", "id", "sku", "product_id", "product id", "item", "article"),
    "title": ("title", "name", "product", "product_name", "product name"),
    "description": ("description", "text", "details"),
    "category": ("category", "product_type", "type", "department"),
    "brand": ("brand", "vendor", "manufacturer"),
    "price": ("price",),
    "image": ("image", "image_path", "picture", "photo", "file", "filename", "image file"),
}
HELP = f"""A **CSV** with a header row and any of the columns `title`, `description`, `category`, `brand`, `price`, \
`id`, `image`; or a **ZIP** of such a CSV and the pictures that its `image` column names; or a ZIP of pictures alone. \
At most {MAX_PRODUCTS} products and {MAX_FILE_BYTES // 10**6} MB."""


@dataclass
class Upload:
    """What was read from a visitor's file.

    Attributes:
        products (`list[dict]`): `_id`, `title`, ..., `image` (a small JPEG, as bytes, or `None`) and `pictured`.
        problems (`Counter`): sentence to how often it applies.
    """

    products: list[dict] = field(default_factory=list)
    problems: Counter = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """The problems with their numbers, most frequent first."""
        return [f"{count:,} x {problem}" if count > 1 else problem for problem, count in self.problems.most_common()]


def read_upload(path: str) -> Upload:
    """Reads a visitor's CSV or ZIP.

    Args:
        path (`str`): the file that gradio received. Its content decides what it is, not its name.

    Raises:
        VisitorError: if it is neither, is too large or holds no product.
    """
    if (size := Path(path).stat().st_size) > MAX_FILE_BYTES:
        raise VisitorError(f"The file has {size / 1e6:,.0f} MB; at most {MAX_FILE_BYTES // 10**6} MB are read.")
    content = Path(path).read_bytes()
    upload = Upload()
    if content.startswith(b"PK"):
        read_zip(content, upload)
    else:
        read_csv(content, {}, upload)
    if not upload.products:
        raise VisitorError(
            " ".join(["No product was found in the file.", *upload.lines()[:3], "See what is expected."])
        )
    return upload


def query_picture(path: str | None) -> bytes | None:
    """A visitor's query picture as a small JPEG.

    Args:
        path (`str` or `None`): the file that gradio received; its name doesn't matter.

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


def read_zip(content: bytes, upload: Upload) -> None:
    """Reads a CSV and pictures from a ZIP, or pictures alone, whose file names become titles.

    Raises:
        VisitorError: if it is damaged, encrypted or unpacks to too much.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = safe_members(archive, upload)
            pictures = {
                name: unpacked(archive, info) for name, info in members.items() if name.lower().endswith(PICTURE_NAMES)
            }
            tables = [name for name in members if name.lower().endswith((".csv", ".tsv", ".tab", ".psv"))]
            table = unpacked(archive, members[tables[0]]) if tables else None
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, ValueError) as error:
        if isinstance(error, VisitorError):
            raise
        raise VisitorError("The ZIP is damaged or encrypted; make it anew, without a password.") from error
    if len(tables) > 1:
        upload.problems[f"the ZIP has several tables; only {tables[0]!r} was read"] += 1
    if table is not None:
        folder = str(PurePosixPath(tables[0]).parent)
        read_csv(table, pictures, upload, "" if folder == "." else folder)
    else:
        for name, picture in list(pictures.items())[:MAX_PRODUCTS]:
            title = PurePosixPath(name).stem.replace("_", " ").replace("-", " ")
            if (image := made_small(picture, upload)) is not None:
                add_product({"_id": name, "title": title}, image, upload)
        if len(pictures) > MAX_PRODUCTS:
            upload.problems[f"product beyond the first {MAX_PRODUCTS} left out"] += len(pictures) - MAX_PRODUCTS


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


def unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes.

    Raises:
        VisitorError: if it is larger than bounded, whatever size it claims.
    """
    with archive.open(info) as stream:
        content = stream.read(MAX_MEMBER_BYTES + 1)
    if len(content) > MAX_MEMBER_BYTES:
        raise VisitorError(f"{info.filename[:80]!r} in the ZIP unpacks to more than {MAX_MEMBER_BYTES // 10**6} MB.")
    return content


def read_csv(content: bytes, pictures: dict[str, bytes], upload: Upload, folder: str = "") -> None:
    """Reads a table of products.

    Args:
        content (`bytes`): CSV with commas, semicolons, tabs or bars, in any Unicode or Windows' western encoding.
        pictures (`dict[str, bytes]`): name in the ZIP to picture file.
        upload (`Upload`): gets the products and problems.
        folder (`str`, *optional*): the table's folder in the ZIP.

    Raises:
        VisitorError: if it is no table.
    """
    try:
        text = TextFile(io.BytesIO(content))
        if what := text.other_format():
            raise ValueError(what)
        table = read_table(text)
    except ValueError as error:
        raise VisitorError(f"The file {str(error).partition(';')[0]}; give a CSV in UTF-8, or a ZIP.") from error
    names = {name.lower(): name for name in table.header[::-1]}
    columns = {field: names[name] for field, known in HEADERS.items() for name in known[::-1] if name in names}
    if not {"title", "description", "image"} & set(columns):
        raise VisitorError(
            "The file has no column title, description or image in its first row; see what is expected."
        )
    if text.is_assumed:
        upload.problems[f"the table reads as {text.example!r} in {text.said}; if that is wrong, save it as UTF-8"] += 1
    for name in set(columns.values()) & set(table.twice):
        upload.problems[f"the table has column {name[:80]!r} more than once; the first was read"] += 1
    text.doubts(table.first.last)
    for record, row in table.rows():
        if not any(cell.strip() for cell in record.cells):
            continue
        if len(upload.products) == MAX_PRODUCTS:
            upload.problems[f"product beyond the first {MAX_PRODUCTS} left out"] += 1
            continue
        upload.problems.update(filter(None, [record.doubt, *text.doubts(record.last)]))
        if row is None:
            upload.problems["row with more or fewer cells than the header left out"] += 1
            continue
        values = {field: row[column].strip() for field, column in columns.items()}
        picture = find_picture(values.pop("image", ""), pictures, folder, upload)
        add_product(values, made_small(picture, upload), upload)


def find_picture(name: str, pictures: dict[str, bytes], folder: str, upload: Upload) -> bytes | None:
    """A picture by the name that the table gives it: a path in the ZIP, from its root or from the table's folder."""
    if not name:
        return None
    for candidate in (name, f"{folder}/{name}"):
        if candidate in pictures:
            return pictures[candidate]
    if "://" in name:
        upload.problems["picture given by an address, which is not fetched; put it into a ZIP"] += 1
    else:
        upload.problems["picture not found in the ZIP"] += 1
    return None


def made_small(picture: bytes | None, upload: Upload) -> bytes | None:
    """A picture as a small JPEG; `None`, and counted, if it can't be read."""
    if picture is None:
        return None
    try:
        return small_jpeg(picture, PICTURE_SIZE)
    except ValueError as error:
        upload.problems[str(error)] += 1
        return None


def add_product(values: dict[str, str], image: bytes | None, upload: Upload) -> None:
    """Adds a product with its small picture; counts what is wrong with it."""
    product = {name: value[:MAX_FIELD_CHARACTERS] for name, value in values.items() if value}
    if any(len(value) > MAX_FIELD_CHARACTERS for value in values.values()):
        upload.problems[f"product with a field cut to {MAX_FIELD_CHARACTERS:,} characters"] += 1
    if image is None and not product.get("title") and not product.get("description"):
        upload.problems["row without title, description and picture left out"] += 1
        return
    product.setdefault("_id", f"row-{len(upload.products) + 1}")
    if any(product["_id"] == other["_id"] for other in upload.products):
        upload.problems["product left out, since its id came before"] += 1
        return
    upload.products.append({**product, "image": image, "pictured": image is not None})
