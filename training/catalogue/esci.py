"""Amazon's Shopping Queries data (ESCI) with the pictures of SQID, as catalogues."""

from collections.abc import Iterator
from pathlib import Path

from modeling_mmfusion.checksums import existing_file
from training.catalogue.options import ConvertArguments
from training.catalogue.pictures import PICTURE_ENDINGS
from training.catalogue.public_tables import (
    PublicJudgments,
    PublicPictures,
    corpus_row,
    note_id,
    read_rows,
    table_file,
    wanted_splits,
)
from training.catalogue.query_log import same_text
from training.catalogue.splits import choose_split
from training.common.errors import Problems

ESCI_SPLITS = ("train", "dev", "test")
ESCI_EXAMPLES = "shopping_queries_dataset_examples"
ESCI_PRODUCTS = "shopping_queries_dataset_products"
ESCI_COLUMNS = ("query_id", "query", "product_id", "product_locale", "esci_label", "split")
ESCI_DESCRIPTION = ("product_color", "product_bullet_point", "product_description")
SQID_PLACEHOLDER = "Default_Background_Art"


def convert_esci(arguments: ConvertArguments, problems: Problems) -> dict[str, dict]:
    """Amazon's Shopping Queries data, with the pictures that SQID lists where they were downloaded.

    The tables, columns and splits are those that https://github.com/amazon-science/esci-data documents. Labels become
    grades by `--gains`: S is worth more than C. That repository's script for trec_eval has the two the other way
    round, so numbers that come from it are others.

    References:
        Reddy et al., Shopping Queries Dataset, https://huggingface.co/papers/2206.06588; SQID,
        https://github.com/Crossing-Minds/shopping-queries-image-dataset.
    """
    wanted = wanted_splits(arguments, ESCI_SPLITS if arguments.dev else ("train", "test"))
    judged, table = read_esci_judgments(arguments, problems), table_file(arguments.input, ESCI_PRODUCTS)
    known = set()
    for place, row in read_rows(table, ("product_id", "product_locale"), problems, arguments.encoding):
        if not row["product_locale"]:
            problems.add("product without a locale (left out)", f"{place}, field product_locale")
        elif row["product_locale"] == arguments.locale:
            note_id(row["product_id"], known, f"{place}, field product_id", problems)
    seen = {same_text(text) for text in judged["train"].texts.values()}
    urls, splits = read_image_urls(arguments, problems), {}
    for name in wanted:
        kept = judged[name].sample(arguments.queries, arguments.seed).of_products(known, table.name, problems)
        queries = kept.query_rows()
        for query in queries:
            query["novel"] = name != "train" and same_text(query["text"]) not in seen
        products = esci_products(arguments, table, kept.products(), urls, problems)
        splits[name] = {"corpus": products, "queries": queries, "qrels": kept.qrel_rows()}
    return splits


def read_esci_judgments(arguments: ConvertArguments, problems: Problems) -> dict[str, PublicJudgments]:
    """Each split's judgments in the locale and version; a share of the train queries is dev."""
    judged, version = {name: PublicJudgments() for name in ESCI_SPLITS}, f"{arguments.version}_version"
    shares = {"dev": arguments.dev, "train": 1 - arguments.dev}
    table = table_file(arguments.input, ESCI_EXAMPLES)
    for place, row in read_rows(table, (*ESCI_COLUMNS, version), problems, arguments.encoding):
        if not row["product_locale"]:
            problems.add("judgment without a locale (left out)", f"{place}, field product_locale")
            continue
        if row[version] not in ("0", "1"):
            problems.add("judgment in an unknown version (left out)", f"{place}, field {version}: {row[version]!r}")
            continue
        if row["product_locale"] != arguments.locale or row[version] == "0":
            continue
        if row["split"] not in ("train", "test"):
            problems.add("judgment of an unknown split (left out)", f"{place}, field split: {row['split']!r}")
            continue
        name = choose_split(row["query_id"], shares, arguments.seed) if row["split"] == "train" else "test"
        grade, place = arguments.gains.get(row["esci_label"]), f"{place}, field esci_label: {row['esci_label']!r}"
        judged[name].add(row["query_id"], row["query"], row["product_id"], grade, place, problems)
    return judged


def read_image_urls(arguments: ConvertArguments, problems: Problems) -> dict[str, str] | None:
    """SQID's URL of each product's picture, `""` where it found none; `None` if its files aren't given."""
    if not arguments.image_urls:
        return None
    urls: dict[str, str] = {}
    for name in arguments.image_urls:
        file = existing_file(name, "SQID's product_image_urls.csv")
        for place, row in read_rows(file, ("product_id", "image_url"), problems, arguments.encoding):
            if not row["product_id"]:
                problems.add("picture's address without a product (left out)", f"{place}, field product_id")
            urls[row["product_id"]] = row["image_url"]
    return urls


def esci_products(
    arguments: ConvertArguments, table: Path, wanted: set[str], urls: dict[str, str] | None, problems: Problems
) -> Iterator[dict]:
    """The wanted products of the locale as rows of `corpus`, each once."""
    pictures = PublicPictures(arguments.images, arguments.image_size, problems)
    columns = ("product_id", "product_locale", "product_title", "product_brand", *ESCI_DESCRIPTION)
    for place, row in read_rows(table, columns, encoding=arguments.encoding):
        product = row["product_id"]
        if row["product_locale"] != arguments.locale or product not in wanted:
            continue
        wanted.remove(product)
        picture, url, where = None, (urls or {}).get(product, ""), f"{place}, product {product!r}"
        if arguments.images and SQID_PLACEHOLDER in url:
            problems.add("picture is a placeholder (picture not used)", where)
        elif arguments.images:
            names = [product + ending for ending in PICTURE_ENDINGS]
            picture = pictures.from_file(names, where, expected=urls is None or url != "")
        description = "\n".join(filter(None, (row[column] for column in ESCI_DESCRIPTION)))
        texts = {"title": row["product_title"], "brand": row["product_brand"], "description": description}
        yield corpus_row(product, picture, where, problems, **texts)
