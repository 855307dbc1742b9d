"""GLAMI-1M, fashion products with texts in 13 languages, as catalogues."""

import re
from collections.abc import Iterator
from pathlib import Path

from modeling_mmfusion.errors import DataError
from training.catalogue.options import ConvertArguments
from training.catalogue.public_tables import (
    PublicJudgments,
    PublicPictures,
    corpus_row,
    note_id,
    query_id,
    read_rows,
    table_file,
    wanted_splits,
)
from training.common.errors import Problems

GLAMI_SPLITS = ("train", "test")
GLAMI_QUERIES = ("category_name", "name")
MANY_LANGUAGES = "many"


def convert_glami(arguments: ConvertArguments, problems: Problems) -> dict[str, dict]:
    """GLAMI-1M: a classification of products made to look like retrieval, as nobody asked or judged anything in it.

    Queries are the names of the categories, in English, and relevant is what the set put into one; or, by
    `--query-column name`, the products' own names, by which they are to be found from their description and picture.
    Products don't keep what their queries are made of.

    The columns are those of https://github.com/glami/glami-1m (`load_dataset.py`), without `label_source`; the tables
    are `GLAMI-1M-train.csv` and `GLAMI-1M-test.csv` of its archive, with `images/IMAGE_ID.jpg` beside. The files
    themselves were not seen here. `geo` is a country's code, such as cz, and names the language.

    References:
        Kosar et al., GLAMI-1M, https://huggingface.co/papers/2211.14451.
    """
    column = arguments.query_column or GLAMI_QUERIES[0]
    if column not in GLAMI_QUERIES:
        raise DataError(f"--query-column: glami-1m has queries of {' or '.join(GLAMI_QUERIES)}, not {column!r}")
    wanted, splits = wanted_splits(arguments, glami_splits(arguments.input)), {}
    folder = arguments.images or str(Path(arguments.input, "images"))
    if not Path(folder).is_dir():
        problems.add("folder of pictures isn't there (products have none)", folder)
        folder = None
    for name in wanted:
        file = table_file(arguments.input, f"GLAMI-1M-{name}")
        judged, languages = read_glami_judgments(file, column, problems, arguments.encoding)
        kept = judged.sample(arguments.queries, arguments.seed)
        queries = kept.query_rows()
        for query in queries if column == "name" else ():
            query["slice"] = languages[query["_id"]]
        only = kept.products() if arguments.judged_corpus else None
        pictures = PublicPictures(folder, arguments.image_size, problems)
        products = glami_products(file, column, only, pictures, arguments.encoding)
        splits[name] = {"corpus": products, "queries": queries, "qrels": kept.qrel_rows()}
    return splits


def glami_splits(folder: str) -> list[str]:
    """Those whose tables are there: an archive of the test split alone exists."""
    there = [name for name in GLAMI_SPLITS if any(Path(folder).glob(f"GLAMI-1M-{name}.*"))]
    if not there:
        raise DataError(f"{folder}: has neither GLAMI-1M-train.csv nor GLAMI-1M-test.csv; give the archive's folder")
    return there


def category_text(name: str) -> str:
    """A category's name as a query: with spaces for the signs that join its words."""
    return " ".join(re.split(r"[-_\s]+", name)).strip()


def read_glami_judgments(
    file: Path, column: str, problems: Problems, encoding: str | None = None
) -> tuple[PublicJudgments, dict[str, str]]:
    """A split's judgments, and the language of each query's products, or that there are many."""
    judged, known, languages = PublicJudgments(), set[str](), dict[str, str]()
    for place, row in read_rows(file, ("item_id", "geo", column), problems, encoding):
        product, text = row["item_id"], category_text(row[column]) if column == "category_name" else row[column]
        is_new = product not in known
        note_id(product, known, f"{place}, field item_id", problems)
        if product and is_new:
            query = query_id(text)
            judged.add(query if text else "", text, product, 1, f"{place}, field {column}", problems)
            if languages.setdefault(query, row["geo"]) != row["geo"]:
                languages[query] = MANY_LANGUAGES
    return judged, languages


def glami_products(
    file: Path, column: str, only: set[str] | None, pictures: PublicPictures, encoding: str | None = None
) -> Iterator[dict]:
    """The products as rows of `corpus`, each once, without what the queries are made of."""
    texts = {"title": "name", "description": "description", "category": "category_name"}
    texts = {field: name for field, name in texts.items() if name != column}
    seen: set[str] = set()
    for place, row in read_rows(file, ("item_id", "image_id", *texts.values()), encoding=encoding):
        product, where, picture = row["item_id"], f"{place}, product {row['item_id']!r}", None
        if not product or product in seen or (only is not None and product not in only):
            continue
        seen.add(product)
        if pictures.folder and row["image_id"]:
            picture = pictures.from_file([f"{row['image_id']}.jpg"], where)
        elif pictures.folder:
            pictures.problems.add("product without the name of a picture (it has none)", f"{where}, field image_id")
        cells = {field: row[name] for field, name in texts.items()}
        yield corpus_row(product, picture, where, pictures.problems, **cells)
