"""Marqo's sets (GS-10M, products, fashion) as catalogues."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError, one_line
from training.catalogue.options import ConvertArguments
from training.catalogue.public_tables import (
    PublicJudgments,
    PublicPictures,
    columns_of,
    corpus_row,
    note_id,
    query_id,
    read_rows,
    table_files,
    wanted_splits,
)
from training.catalogue.query_log import WHOLE
from training.catalogue.tables import json_object
from training.common.errors import Problems

TRUTH_SUFFIX = "_{!@#~}_"


def read_ground_truth(name: str, problems: Problems) -> PublicJudgments:
    """Marqo's files of judgments: a JSON object of queries, each an object of product ids with grades.

    Raises:
        DataError: if the file isn't like that.
    """
    try:
        text = existing_file(name, "Marqo's file of judgments").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: can't be read: {one_line(error)}") from error
    truth = json_object(text) or {}
    if not truth or not all(isinstance(products, dict) for products in truth.values()):
        raise DataError(f"{name}: isn't a JSON object of queries, each with an object of products")
    judged = PublicJudgments()
    for query, (product, score) in ((query, pair) for query, products in truth.items() for pair in products.items()):
        query, place = (
            query.removesuffix(TRUTH_SUFFIX),
            f"{Path(name).name}, query {query!r}, product {product!r}: {score!r}",
        )
        grade = score if isinstance(score, int) and 0 <= score < 2**31 else None
        judged.add(query_id(query), query.strip(), product, grade, place, problems)
    return judged


def stored_products(
    files: list[Path],
    key: str,
    title: str | None,
    only: set[str] | None,
    pictures: PublicPictures,
    encoding: str | None = None,
) -> Iterator[dict]:
    """The products of Marqo's tables, which were read for judgments before, as rows of `corpus`, each once.

    Args:
        files (`list[Path]`): tables with a column `image`, or `image_local` that names a file in the pictures' folder.
        key (`str`): column of the product ids.
        title (`str`, *optional*): column of the titles; products have none if it isn't given.
        only (`set[str]`, *optional*): products to take; all if not given.
        pictures (`PublicPictures`): reads the pictures.
        encoding (`str`, *optional*): of text; found out if not given.
    """
    seen: set[str] = set()
    for file in files:
        stored = "image" in columns_of(file, encoding)
        shown = "image" if stored else "image_local" if pictures.folder else None
        for place, row in read_rows(file, tuple(filter(None, (key, title, shown))), encoding=encoding):
            product, picture, where = row[key], None, f"{place}, product {row[key]!r}"
            if not product or product in seen or (only is not None and product not in only):
                continue
            seen.add(product)
            if stored:
                picture = pictures.from_cell(row["image"], where)
            elif pictures.folder:
                picture = pictures.from_file([row["image_local"], os.path.basename(row["image_local"])], where)
            yield corpus_row(product, picture, where, pictures.problems, title=row[title] if title else "")


GS_COLUMNS = ("query_id", "query", "product_id", "score_linear")
GS_SPLITS = {  # and what Marqo's archive calls them: the query's part, then the product's
    "in_domain": "query_0_product_id_0",
    "novel_query": "query_1_product_id_0",
    "novel_document": "query_0_product_id_1",
    "zero_shot": "query_1_product_id_1",
}
TRUTH_FILE = re.compile(r"ground_truth_(.+)-image(?:\+text)?\.json")


def convert_gs(arguments: ConvertArguments, problems: Problems) -> dict[str, dict]:
    """Marqo-GS-10M: queries and products of Google Shopping, graded by the position that it gave them.

    The tables are the Hub's Parquet files, which hold the pictures
    (https://huggingface.co/datasets/Marqo/marqo-GS-10M), or the archive's CSV files, whose column `image_local` names
    them (https://github.com/marqo-ai/GCL). Grades are the column `score_linear`, as in that repository's evaluation.
    Trained and novel queries search in the same products, so the corpus of a split has the products of both splits
    that share it.
    """
    tables = {name: gs_files(arguments.input, name) for name in GS_SPLITS}
    wanted = wanted_splits(arguments, (name for name in GS_SPLITS if tables[name]))
    if not wanted:
        raise DataError(f"{arguments.input}: has neither in_domain-*.parquet nor {GS_SPLITS['in_domain']}.csv")
    splits = {}
    for name in wanted:
        queried, half = GS_SPLITS[name].split("_product_id_")
        shared = [other for other in GS_SPLITS if GS_SPLITS[other].endswith(half)]
        for other in (other for other in shared if not tables[other]):
            problems.add("split whose products are missing in another's corpus", f"{other}, missing in {name}")
        for file in (file for other in shared if other not in wanted for file in tables[other]):
            for place, row in read_rows(file, ("product_id",), problems, arguments.encoding):  # see stored_products
                if not row["product_id"]:
                    problems.add("product without an id (left out)", f"{place}, field product_id")
        judged = read_gs_judgments(tables[name], problems, arguments.encoding)
        kept = judged.sample(arguments.queries, arguments.seed)
        files = [file for other in shared for file in tables[other]]
        only = kept.products() if arguments.judged_corpus else None
        pictures = PublicPictures(arguments.images, arguments.image_size, problems)
        products = stored_products(files, "product_id", "title", only, pictures, arguments.encoding)
        queries = [{**query, "novel": queried == "query_1"} for query in kept.query_rows()]
        splits[name] = {"corpus": products, "queries": queries, "qrels": kept.qrel_rows()}
    return splits


def gs_files(folder: str, split: str) -> list[Path]:
    """A split's tables: the archive's CSV file, or those that are, or lie in a folder that is, named by the split."""
    files = table_files(folder)
    archive = [file for file in files if file.name == f"{GS_SPLITS[split]}.csv"]
    if len(archive) > 1:
        raise DataError(f"{archive[0]}: isn't the only one in {folder}; give the folder of one subset")
    return archive or [file for file in files if split in (file.parent.name, re.split("[-.]", file.name)[0])]


def read_gs_judgments(files: list[Path], problems: Problems, encoding: str | None = None) -> PublicJudgments:
    """A split's judgments."""
    judged = PublicJudgments()
    for file in files:
        for place, row in read_rows(file, GS_COLUMNS, problems, encoding):
            grade = int(float(row["score_linear"])) if WHOLE.fullmatch(row["score_linear"]) else None
            place = f"{place}, field score_linear: {row['score_linear']!r}"
            judged.add(row["query_id"], row["query"], row["product_id"], grade, place, problems)
    return judged


def convert_products(arguments: ConvertArguments, problems: Problems) -> dict[str, dict]:
    """Marqo's google-shopping-general-eval and amazon-products-eval; see [`convert_items`].

    Columns: `image`, `item_ID`, `title`, `query` and `position`. The ids and queries are those of the scripts in
    https://github.com/marqo-ai/marqo-ecommerce-embeddings.
    """
    return convert_items(arguments, "title", problems)


def convert_fashion(arguments: ConvertArguments, problems: Problems) -> dict[str, dict]:
    """A set of Marqo's fashion benchmark; see [`convert_items`].

    Columns: `image`, `item_ID`, `text` and those that `configs/` of https://github.com/marqo-ai/marqo-FashionCLIP
    names for each set; its `data/` has the files of judgments.
    """
    return convert_items(arguments, "text", problems)


def convert_items(arguments: ConvertArguments, text: str, problems: Problems) -> dict[str, dict]:
    """A table of products that tells the queries: what a product has in the query column, it is relevant to.

    Args:
        arguments (`ConvertArguments`): options.
        text (`str`): column of the products' text, which becomes their title unless it is the query.
        problems (`Problems`): counts what can't be used.
    """
    wanted_splits(arguments, ["test"])
    files, column, truth = table_files(arguments.input), arguments.query_column or "query", arguments.ground_truth
    if not files:
        raise DataError(f"{arguments.input}: has no table that ends in .parquet")
    if truth and (match := TRUTH_FILE.fullmatch(Path(truth).name)):
        column = match[1]
    judged, known = read_ground_truth(truth, problems) if truth else PublicJudgments(), set()
    for file in files:
        for place, row in read_rows(file, ("item_ID", column), problems, arguments.encoding):
            note_id(row["item_ID"], known, f"{place}, field item_ID", problems)
            if not truth:
                query, place = row[column], f"{place}, field {column}"
                judged.add(query_id(query), query, row["item_ID"], 1, place, problems)
    kept = judged.sample(arguments.queries, arguments.seed).of_products(
        known, Path(truth or arguments.input).name, problems
    )
    only = kept.products() if arguments.judged_corpus else None
    title, pictures = None if column == text else text, PublicPictures(None, arguments.image_size, problems)
    products = stored_products(files, "item_ID", title, only, pictures, arguments.encoding)
    return {"test": {"corpus": products, "queries": kept.query_rows(), "qrels": kept.qrel_rows()}}
