"""From a shop's product table to products with pictures, in groups that go to the same split."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from training.catalogue.options import PrepareArguments
from training.catalogue.pictures import (
    PICTURE_ENDINGS,
    PictureSpool,
    fit_picture,
    path_inside,
)
from training.catalogue.query_log import Judged, same_text
from training.catalogue.tables import Table

TEXT_FIELDS = ("title", "description", "category", "brand", "price")


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


def _scores(report: dict) -> str:
    """What a score is, for the card."""
    options = report["options"]
    if "log" not in report:
        return "2 for the products that a query was worded from, 1 for others with all of its words; no test queries."
    events = ", ".join(f"{key} {n:g}" for key, n in options["events"].items())
    how = ", ".join(f"{key} {n:g}" for key, n in options["engagement"].items() if n is not None)
    return (
        "from the log's events, by a visitor's best event and, where positions are known, the chance that it was "
        "looked at (training/catalogue/query_log.py has the formula). "
        f"Events: {events}; {how}. Or the log's own grades."
    )
