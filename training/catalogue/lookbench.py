"""LookBench, pictures that ask for pictures, as catalogues."""

import random
import re
from collections.abc import Iterator
from pathlib import Path

from modeling_mmfusion.errors import DataError
from training.catalogue.options import ConvertArguments
from training.catalogue.public_tables import (
    PublicPictures,
    corpus_row,
    read_rows,
    table_files,
    wanted_splits,
)
from training.catalogue.query_log import same_text
from training.catalogue.writing import PICTURE_QUERY_FEATURES
from training.common.errors import Problems

LOOKBENCH_SUBSETS = ("real_studio_flat", "aigen_studio", "real_streetlook", "aigen_streetlook")
LOOKBENCH_NOISE = "noise"
LOOKBENCH_LABEL = ("category", "main_attribute")


def convert_lookbench(arguments: ConvertArguments, problems: Problems) -> dict[str, dict]:
    """srpone/look-bench: each subset is a split, its queries and products are pictures alone.

    Relevant (1) is what has the category and the main attribute of the query, in any letter case. The paper speaks of
    all attributes; a public reproduction (https://github.com/hopit-ai/Moda) found these two to give its numbers. Each
    subset searches in its own gallery and in the pictures of `noise`, which are relevant to nothing.

    The columns (`image`, `category`, `main_attribute`, and `other_attributes`, `bbox`, `item_ID`, `task` and
    `difficulty`, which aren't read) are those that https://github.com/SerendipityOneInc/look-bench names; the card
    lists the files, `VERSION/SUBSET/query.parquet` and `gallery.parquet`. The files themselves were not seen here:
    whether queries are cut out along their `bbox` is not known, so pictures are taken as they are.

    References:
        LookBench, https://huggingface.co/papers/2601.14706.
    """
    files = {name: lookbench_files(arguments.input, name) for name in (*LOOKBENCH_SUBSETS, LOOKBENCH_NOISE)}
    wanted, noise, splits = wanted_splits(arguments, (n for n in LOOKBENCH_SUBSETS if any(files[n].values()))), [], {}
    if not wanted:
        raise DataError(
            f"{arguments.input}: has no {LOOKBENCH_SUBSETS[0]}/query.parquet or the like of another subset"
        )
    if not arguments.judged_corpus and not (noise := files[LOOKBENCH_NOISE]["gallery"]):
        problems.add("set of pictures is missing in all galleries", f"{LOOKBENCH_NOISE}/gallery.parquet")
    for name in wanted:
        for part in (part for part in ("query", "gallery") if not files[name][part]):
            raise DataError(f"{arguments.input}: has no {name}/{part}.parquet; download the set again")
        pictures = PublicPictures(None, arguments.image_size, problems)
        gallery = lookbench_labels(files[name]["gallery"], problems)
        queries, qrels = lookbench_queries(files[name]["query"], gallery, pictures, arguments)
        only = {row["corpus-id"] for row in qrels} if arguments.judged_corpus else None
        products = lookbench_products([*files[name]["gallery"], *noise], only, pictures)
        splits[name] = {"corpus": products, "queries": queries, "qrels": qrels}
        splits[name]["query_features"] = PICTURE_QUERY_FEATURES
    return splits


def lookbench_files(folder: str, subset: str) -> dict[str, list[Path]]:
    """A subset's tables of its `query` and `gallery`, by the names of the files or of the folders that they are in.

    Raises:
        DataError: if there are several versions of it.
    """
    found, versions = {"query": [], "gallery": []}, set()
    for file in table_files(folder):
        parts = file.relative_to(folder).parts
        part = next((name for name in found if name in (file.parent.name, re.split("[-.]", file.name)[0])), None)
        if file.suffix == ".parquet" and subset in parts[:-1] and part:
            found[part].append(file)
            versions.add(parts[: parts.index(subset)])
    if len(versions) > 1:
        raise DataError(f"{folder}: has {subset} in several versions; give the folder of one, such as v20251201")
    return found


def lookbench_label(row: dict) -> tuple[str, ...] | None:
    """What decides who is relevant to whom; `None` if a part of it is missing."""
    label = tuple(same_text(row[column]) for column in LOOKBENCH_LABEL)
    return label if all(label) else None


def lookbench_labels(files: list[Path], problems: Problems) -> dict[tuple[str, ...], list[str]]:
    """The products of a gallery by their label."""
    products: dict[tuple[str, ...], list[str]] = {}
    for file in files:
        for number, (place, row) in enumerate(read_rows(file, LOOKBENCH_LABEL, problems)):
            if label := lookbench_label(row):
                products.setdefault(label, []).append(picture_id(file, number))
            else:
                fields = f"{file.parent.name}/{place}, fields {' and '.join(LOOKBENCH_LABEL)}"
                problems.add("product without a category or a main attribute (kept, relevant to nothing)", fields)
    return products


def picture_id(file: Path, number: int) -> str:
    """An id for a row: several pictures may show the item of one `item_ID`."""
    return f"{file.parent.name}-{file.stem}-{number}"


def lookbench_queries(
    files: list[Path], gallery: dict[tuple[str, ...], list[str]], pictures: PublicPictures, arguments: ConvertArguments
) -> tuple[list[dict], list[dict]]:
    """Rows of `queries`, each with a picture and without a text, and of `qrels`."""
    queries, relevant = [], {}
    for file in files:
        for number, (place, row) in enumerate(read_rows(file, ("image", *LOOKBENCH_LABEL), pictures.problems)):
            query, where = picture_id(file, number), f"{file.parent.name}/{place}"
            label = lookbench_label(row)
            found = gallery.get(label, []) if label else []
            if not label:
                fields = f"{where}, fields {' and '.join(LOOKBENCH_LABEL)}"
                pictures.problems.add("query without a category or a main attribute (left out)", fields)
            elif not found:
                pictures.problems.add(
                    "query to which nothing in its gallery is relevant (left out)", f"{where}: {label}"
                )
            elif not (picture := pictures.from_cell(row["image"], f"{where}, field image")):
                pictures.problems.add("query without a picture (left out)", f"{where}, field image")
            else:
                queries.append({"_id": query, "image": picture})
                relevant[query] = found
    if arguments.queries is not None and arguments.queries < len(queries):
        queries = random.Random(arguments.seed).sample(queries, arguments.queries)
    rows = ((query["_id"], product) for query in queries for product in relevant[query["_id"]])
    return queries, [{"query-id": query, "corpus-id": product, "score": 1} for query, product in rows]


def lookbench_products(files: list[Path], only: set[str] | None, pictures: PublicPictures) -> Iterator[dict]:
    """The pictures of a gallery as rows of `corpus`; their labels would tell the answers and are left out."""
    for file in files:
        for number, (place, row) in enumerate(read_rows(file, ("image",))):
            product, where = picture_id(file, number), f"{file.parent.name}/{place}, field image"
            if only is None or product in only:
                picture = pictures.from_cell(row["image"], where)
                yield corpus_row(product, picture, where, pictures.problems)
