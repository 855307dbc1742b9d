"""Turns a shop's product table, pictures and search log into a catalogue in the Hub's retrieval layout.

    python -m training.prepare --products products.csv --images images/ --log log.csv --output data/myshop \\
        --columns.id sku --columns.title name

Products that could give each other away go to the same split, and the log's judgments follow their products.
Whatever is left out on the way is counted, named by file and line, and kept in `prepare_report.json`.
"""

import hashlib
import io
import json
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from jsonargparse.typing import NonNegativeInt, PositiveInt
from PIL import Image

from modeling_mmfusion.processing_mmfusion import load_picture
from training.arguments import run
from training.data import DataError, write_card, write_split
from training.files import cannot_write, check_folder, new_folder
from training.query_log import Engagement, Judged, LogColumns, read_log, same_text
from training.query_synthesis import synthesise
from training.tables import Table, one_line

WRITER = "training.prepare"
REPORT = "prepare_report.json"
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".JPG", ".JPEG", ".PNG", ".WEBP", ".GIF")
KEPT_FORMATS = ("JPEG", "PNG", "WEBP")
TEXT_FIELDS = ("title", "description", "category", "brand", "price")
COUNTS = ("products", "pictures", "groups", "queries", "novel", "judgments")


@dataclass
class Columns:
    """What the product table calls its columns; only id and one of title, description and image must be there.

    Args:
        id: A product's id; it is text, so 00123 keeps its zeros.
        title: Its title.
        description: Its description.
        category: Its category.
        brand: Its brand.
        price: Its price, as text.
        image: Its picture's file name in the images folder; of several with | between them the first readable one is
            taken. Where none can be, <id>.jpg, .jpeg, .png, .webp or .gif is looked for.
        group: What variants of one product share, such as a parent id; they go to the same split.
    """

    id: str = "id"
    title: str = "title"
    description: str = "description"
    category: str = "category"
    brand: str = "brand"
    price: str = "price"
    image: str = "image"
    group: str = "group"


@dataclass
class Shares:
    """Shares of the product groups; they add up to 1, and a split with share 0 isn't made.

    Args:
        train: Share to train on.
        dev: Share to choose the best epoch on.
        test: Share to measure on at the end.
    """

    train: float = 0.8
    dev: float = 0.05
    test: float = 0.15


@dataclass
class PrepareArguments:
    """What to read, how to split it and where to write it.

    Args:
        products: Product table, one row a product: .csv, .tsv, .jsonl or .parquet.
        output: Folder to write the catalogue to.
        images: Folder of the pictures; without it products have none.
        log: Search log, one row an event: .csv, .tsv, .jsonl or .parquet. Without it only products are written.
        columns: Columns of the product table.
        log_columns: Columns of the log.
        events: Grade of each event; --events.wishlist 2 adds one. 0 is not relevant, higher is better.
        engagement: How events become grades where the log tells positions and visitors.
        synthesise: Queries to word for each product from titles and brands where there is no log; none for test.
        shares: Shares of the splits.
        seed: Another seed gives another split; the same seed and products always give the same.
        image_size: Pictures with a longer side are scaled down to it and kept as JPEG.
        license: Licence of the catalogue, an id of the Hub such as cc-by-4.0.
        overwrite: Replace the catalogue that an earlier run wrote to the output folder.
    """

    products: str
    output: str
    images: str | None = None
    log: str | None = None
    columns: Columns = field(default_factory=Columns)
    log_columns: LogColumns = field(default_factory=LogColumns)
    events: dict[str, int] = field(default_factory=lambda: {"impression": 0, "click": 1, "cart": 2, "purchase": 3})
    engagement: Engagement = field(default_factory=Engagement)
    synthesise: NonNegativeInt = 0
    shares: Shares = field(default_factory=Shares)
    seed: NonNegativeInt = 0
    image_size: PositiveInt = 512
    license: str = "unknown"
    overwrite: bool = False


def main(arguments: PrepareArguments) -> dict:
    """Prepares a catalogue and returns what `prepare_report.json` holds.

    Raises:
        DataError: if an option, a file or a column can't be used, or nothing is left; then nothing is written.
    """
    _check(arguments)
    shares = {split: share for split, share in asdict(arguments.shares).items() if share > 0}
    spool = PictureSpool(Path(arguments.output).resolve().parent)
    products, table = read_products(arguments, spool)
    groups = group_products(products)
    split_of = {item: choose_split(key, shares, arguments.seed) for item, key in groups.items()}
    judged = Judged({}, {}, {}, None)
    if arguments.log:
        log_options = arguments.log_columns, arguments.events, arguments.engagement
        judged = read_log(arguments.log, *log_options, set(groups))
    splits = _split_rows(list(shares), products, judged, split_of)
    if arguments.synthesise:
        for rows in (rows for split, rows in splits.items() if split != "test"):
            rows["queries"], rows["qrels"] = synthesise(rows["corpus"], arguments.synthesise, arguments.seed)
    report = _report(arguments, splits, groups, table, judged.table, len(judged.grades))
    _write(arguments, splits, report, spool)
    print(_counts(report))
    for rows in filter(None, (table, judged.table)):
        print(f"{rows.name}: {rows.read:,} rows read, {rows.dropped:,} left out")
        rows.report()
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    print(f"wrote {arguments.output}; {arguments.output}/{REPORT} tells what was left out", flush=True)
    return report


def read_products(arguments: PrepareArguments, spool: "PictureSpool") -> tuple[list[dict], Table]:
    """Reads the products and their pictures.

    Args:
        arguments (`PrepareArguments`): what to read.
        spool (`PictureSpool`): gets the pictures.

    Returns:
        `(list[dict], Table)`: the products, each with the fields of `Columns` that there are, `picture` (its place in
        the spool or `None`) and `hash` (of the picture file, `""` without one); and the table with its problems.

    Raises:
        DataError: if the table can't be read or no product can be used.
    """
    needed = [("id",)] if arguments.images else [("id",), ("title", "description", "image")]
    table = Table.open(arguments.products, arguments.columns, needed, "--columns")
    products: dict[str, dict] = {}
    for number, product in table.rows():
        if not product["id"]:
            table.note("product without an id (left out)", number, "id", "")
        elif product["id"] in products:
            table.note("duplicate product id, the first is kept (left out)", number, "id", product["id"])
        else:
            picture, digest = _find_picture(product, arguments, table, number)
            if picture or product.get("title") or product.get("description"):
                place = None if picture is None else spool.add(picture)
                products[product["id"]] = {**product, "picture": place, "hash": digest}
            else:
                table.note("product without title, description and picture (left out)", number, "id", product["id"])
    if not products:
        raise table.left_nothing("no product can be used")
    return list(products.values()), table


@dataclass(frozen=True)
class SpooledPicture:
    """Where a picture is in a [`PictureSpool`].

    Attributes:
        start (`int`): its first byte.
        size (`int`): its bytes.
        path (`str`): its file's name.
    """

    start: int
    size: int
    path: str


class PictureSpool:
    """Pictures on disk, from when they were read until they are written to their splits, so that memory holds one.

    Args:
        folder (`Path`): where the file is; it has no name, so nothing is left however the process ends.
    """

    def __init__(self, folder: Path):
        self.folder, self.size = folder, 0

    @cached_property
    def file(self) -> BinaryIO:
        """The file, made when the first picture comes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self.folder)

    def add(self, picture: dict) -> SpooledPicture:
        """Keeps a picture `{"bytes", "path"}` and gives its place.

        Raises:
            DataError: if the disk is full.
        """
        place = SpooledPicture(self.size, len(picture["bytes"]), picture["path"])
        try:
            self.file.seek(place.start)
            self.file.write(picture["bytes"])
        except OSError as error:
            raise DataError(f"{self.folder}: no place for the pictures: {one_line(error)}") from error
        self.size += place.size
        return place

    def get(self, place: SpooledPicture | None) -> dict | None:
        """The picture at a place; `None` if there is none."""
        if place is None:
            return None
        self.file.seek(place.start)
        return {"bytes": self.file.read(place.size), "path": place.path}


def _find_picture(product: dict, arguments: PrepareArguments, table: Table, number: int) -> tuple[dict | None, str]:
    """A product's first readable picture, of those that are named and then of those called like its id, and the hash
    of its file; those that can't be used are counted, and so are products for which there is none to try."""
    names, name = (name.strip() for name in product.get("image", "").split("|")), None
    for name in chain(filter(None, names), _files_by_id(product["id"], arguments.images)):
        problem, picture, digest = _read_picture(name, arguments)
        if picture:
            return picture, digest
        table.note(f"{problem} (picture not used)", number, "image", name)
    if name is None and arguments.images and (product.get("title") or product.get("description")):
        table.note("no picture is named, and none is called like the id (text alone)", number, "id", product["id"])
    return None, ""


def _files_by_id(item: str, folder: str | None) -> Iterator[str]:
    """The names of the picture files that are called like a product's id."""
    for name in (item + ending for ending in PICTURE_ENDINGS if folder):
        if os.path.isfile(path_inside(os.path.realpath(folder), name) or ""):
            yield name


def _read_picture(name: str, arguments: PrepareArguments) -> tuple[str, dict | None, str]:
    """Why a picture can't be used, or the picture and the hash of its file."""
    if re.match(r"([a-z][a-z0-9+.-]*:)?//|data:", name, re.IGNORECASE):
        return "picture is a URL, which isn't fetched", None, ""
    if not arguments.images:
        return "picture is named but --images isn't given", None, ""
    if (path := path_inside(os.path.realpath(arguments.images), name)) is None:
        return "picture outside the images folder is refused", None, ""
    if not os.path.isfile(path):
        return "picture file is missing", None, ""
    try:
        content = Path(path).read_bytes()
        return "", fit_picture(content, name, arguments.image_size), hashlib.sha256(content).hexdigest()
    except Exception:  # Pillow raises many kinds for damaged files
        return "picture can't be read", None, ""


def path_inside(folder: str, name: str) -> str | None:
    """The path of a file, links followed; `None` if it isn't in the folder."""
    path = os.path.realpath(os.path.join(folder, name.replace("\0", "")))
    return path if path.startswith(os.path.join(folder, "")) else None


def fit_picture(content: bytes, name: str, size: int) -> dict:
    """A picture as `{"bytes", "path"}`: as it is if JPEG, PNG or WebP and small enough, else as a JPEG that fits.

    Args:
        content (`bytes`): the file.
        name (`str`): its name.
        size (`int`): the longest side that is kept.

    Raises:
        ValueError: if it can't be read.
    """
    picture, name = load_picture(content), os.path.basename(name)
    if max(picture.size) <= size and Image.open(io.BytesIO(content)).format in KEPT_FORMATS:
        return {"bytes": content, "path": name}
    picture.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
    smaller = io.BytesIO()
    picture.save(smaller, "JPEG", quality=90)
    return {"bytes": smaller.getvalue(), "path": os.path.splitext(name)[0] + ".jpg"}


def group_products(products: list[dict]) -> dict[str, str]:
    """Groups products that share a group, a title or a picture file, directly or through others.

    Returns each product's id with the smallest id in its group, whatever the order of the products.
    """
    root = {product["id"]: product["id"] for product in products}

    def find(item: str) -> str:
        while root[item] != item:
            root[item] = item = root[root[item]]
        return item

    first: dict[tuple[str, str], str] = {}
    for product in products:
        title = same_text(unicodedata.normalize("NFKC", product.get("title", "")))
        for key in (("group", product.get("group")), ("title", title), ("picture", product["hash"])):
            if key[1]:
                smaller, larger = sorted((find(product["id"]), find(first.setdefault(key, product["id"]))))
                root[larger] = smaller
    return {item: find(item) for item in root}


def choose_split(key: str, shares: dict[str, float], seed: int) -> str:
    """The split of a group: a hash of the seed and the group's key picks a point along the shares."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    *others, last = shares
    for split in others:
        point -= shares[split]
        if point < 0:
            return split
    return last


def _split_rows(names: list[str], products: list[dict], judged: Judged, split_of: dict) -> dict:
    """The rows of each split, sorted; a query is in each split where a product is relevant to it."""
    splits = {split: {"corpus": [], "queries": [], "qrels": []} for split in names}
    for product in sorted(products, key=lambda product: product["id"]):
        row = {"_id": product["id"], **{key: product.get(key) or None for key in TEXT_FIELDS}}
        splits[split_of[product["id"]]]["corpus"].append({**row, "image": product["picture"]})
    relevant = {(split_of[product], query) for (query, product), grade in judged.grades.items() if grade > 0}
    ids = {pair: f"{pair[0]}-q-{hashlib.sha256(pair[1].encode()).hexdigest()[:16]}" for pair in sorted(relevant)}
    for (split, query), query_id in ids.items():
        novel = split != "train" and ("train", query) not in ids
        row = {"_id": query_id, "text": judged.texts[query], "slice": "", "novel": novel, "attributes": ""}
        splits[split]["queries"].append(row | {"frequency": judged.frequencies[query]})
    for (query, product), grade in sorted(judged.grades.items()):
        split = split_of[product]
        if query_id := ids.get((split, query)):
            splits[split]["qrels"].append({"query-id": query_id, "corpus-id": product, "score": grade})
    return splits


def _check(arguments: PrepareArguments) -> None:
    """Refuses options that can't be used before anything is read."""
    shares, given = asdict(arguments.shares), arguments.output
    output = Path(given).resolve()
    full = output.is_dir() and any(output.iterdir())
    inputs = [name for name in (arguments.products, arguments.images, arguments.log) if name]
    checks = (
        (min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6, f"--shares: {shares} don't add up to 1"),
        (arguments.synthesise and arguments.log, "--synthesise: is for shops without a log; leave out --log or it"),
        (not all(0 <= grade < 2**31 for grade in arguments.events.values()), "--events: a grade must be from 0"),
        (arguments.images and not os.path.isdir(arguments.images), f"{arguments.images}: no such folder of pictures"),
        (output.exists() and not output.is_dir(), f"{given}: is a file; give a folder with --output"),
        (any(Path(name).resolve().is_relative_to(output) for name in inputs), f"{given}: holds input; choose another"),
        (full and not arguments.overwrite, f"{given}: isn't empty; --overwrite replaces an earlier run's output"),
        (full and not (output / REPORT).is_file(), f"{given}: has no {REPORT}, so is no earlier run's output"),
    )
    for wrong, message in checks:
        if wrong:
            raise DataError(message)
    check_folder(output, WRITER)


def _report(
    arguments: PrepareArguments, splits: dict, groups: dict, table: Table, log: Table | None, pairs: int
) -> dict:
    """What `prepare_report.json` holds."""
    counts, warnings = {}, []
    for split, rows in splits.items():
        pictures = sum(row["image"] is not None for row in rows["corpus"])
        keys = {groups[row["_id"]] for row in rows["corpus"]}
        novel = sum(row["novel"] for row in rows["queries"])
        sizes = (len(rows["corpus"]), pictures, len(keys), len(rows["queries"]), novel, len(rows["qrels"]))
        counts[split] = dict(zip(COUNTS, sizes, strict=True))
        if not rows["corpus"]:
            warnings.append(f"split {split} has no products and isn't written; try a larger share or another seed")
        elif log and not rows["queries"]:
            warnings.append(f"split {split} has no query with a relevant product; it can't be trained or measured on")
    key, largest = Counter(groups.values()).most_common(1)[0]
    if 1 < len(groups) < 2 * largest:
        reason = "do they share a placeholder picture, a title or a group by mistake?"
        warnings.append(f"{largest:,} of {len(groups):,} products are in one group, that of {key}; {reason}")
    if arguments.images and not any(count["pictures"] for count in counts.values()):
        warnings.append(f"no product has a picture: {arguments.images} has none by the names of --columns.image or id")
    if log is None and not arguments.synthesise:
        warnings.append("without --log no queries and qrels are written; --synthesise 3 words some from the products")
    if arguments.synthesise:
        warnings.append("queries were worded from the products, none for test: measure on real ones")
    report = {"options": asdict(arguments), "splits": counts, "largest_group": largest, "warnings": warnings}
    for name, rows, unit in (("products", table, "products"), ("log", log, "judgments")):
        if rows:
            kinds = [{"kind": kind, "count": n, "examples": rows.examples[kind]} for kind, n in rows.counts.items()]
            written = sum(count[unit] for count in counts.values())
            report[name] = {"read": rows.read, "written": written, "dropped": rows.dropped, "problems": kinds}
    if log:
        report["log"]["repeated"] = log.read - log.dropped - pairs
        report["log"]["no_relevant_product_in_split"] = pairs - report["log"]["written"]
    return report


def _counts(report: dict) -> str:
    """The counts of each split as a table in Markdown."""
    rows = [[split, *(f"{count[name]:,}" for name in COUNTS)] for split, count in report["splits"].items()]
    table = [["split", *COUNTS], ["---:"] * (len(COUNTS) + 1), *rows]
    return "\n".join("".join(f"|{cell:>10} " for cell in row) + "|" for row in table)


def _write(arguments: PrepareArguments, splits: dict, report: dict, spool: PictureSpool) -> None:
    """Writes everything as one folder."""
    output = Path(arguments.output).resolve()
    with new_folder(output, WRITER) as partial, cannot_write(arguments.output):
        filled = [split for split, rows in splits.items() if rows["corpus"]]
        for split in filled:
            corpus = ({**row, "image": spool.get(row["image"])} for row in splits[split]["corpus"])
            write_split(partial, split, corpus, splits[split]["queries"], splits[split]["qrels"])
            if not splits[split]["queries"] and arguments.log is None:
                (partial / split / "queries.parquet").unlink()
                (partial / split / "qrels.parquet").unlink()
        write_card(partial, output.name, arguments.license, filled, _card(report))
        (partial / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _scores(report: dict) -> str:
    """What a score is, for the card."""
    options = report["options"]
    if "log" not in report:
        return "2 for the products that a query was worded from, 1 for others with all of its words; no test queries."
    events = ", ".join(f"{key} {n:g}" for key, n in options["events"].items())
    how = ", ".join(f"{key} {n:g}" for key, n in options["engagement"].items())
    return (
        "from the log's events, by a visitor's best event and, where positions are known, the chance that it was "
        f"looked at (training/query_log.py has the formula). Events: {events}; {how}. Or the log's own grades."
    )


def _card(report: dict) -> str:
    """The dataset card's text."""
    options = report["options"]
    source = "a product table, pictures and a search log" if "log" in report else "a product table and pictures"
    shares = ", ".join(f"{key} {n:g}" for key, n in options["shares"].items())
    return f"""# A shop's catalogue for product search

Made from {source} by `training.prepare` of mmfusion; `{REPORT}` has its options and tells what was left out and why.

{_counts(report)}

- **Splits**: products that share a group, a title or a picture file are in one split.
  Shares of the groups: {shares}; seed {options["seed"]}.
- **Queries** are in each split where a product is relevant to them; `novel` ones aren't in train.
- **Scores**: {_scores(report)}
- **Pictures** are at most {options["image_size"]} pixels wide and high; larger ones were scaled down.
"""


if __name__ == "__main__":
    run(main, PrepareArguments, __doc__)
