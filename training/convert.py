"""Turns public product-retrieval sets, once you have downloaded them, into catalogues in the Hub's retrieval layout.

    python -m training.convert --source esci --input esci-data/shopping_queries_dataset --output data/esci
    python -m training.convert --source esci --input esci-data/shopping_queries_dataset --splits test \\
        --images sqid_pictures --image-urls sqid/product_image_urls.csv --output data/sqid
    python -m training.convert --source marqo-gs --input marqo-GS-10M --splits novel_query --output data/gs
    python -m training.convert --source marqo-products --input google-shopping-general-eval --output data/gs_eval
    python -m training.convert --source marqo-fashion --input KAGL --output data/kagl \\
        --ground-truth marqo-FashionCLIP/data/KAGL/gt_query_doc/ground_truth_category2-image+text.json

Nothing is fetched. Whatever can't be used is counted, and told here and on the catalogue's card.
"""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse.typing import NonNegativeInt, PositiveInt

from training.arguments import existing_file, run
from training.convert_tables import (
    Judgments,
    Pictures,
    corpus_row,
    count_rows,
    note_id,
    query_id,
    read_ground_truth,
    read_rows,
    stored_products,
    table_file,
    table_files,
)
from training.data import DataError, Problems, write_card, write_split
from training.files import new_folder
from training.prepare import PICTURE_ENDINGS, choose_split
from training.query_log import WHOLE, same_text

ESCI_SPLITS = ("train", "dev", "test")
ESCI_EXAMPLES = "shopping_queries_dataset_examples"
ESCI_PRODUCTS = "shopping_queries_dataset_products"
ESCI_COLUMNS = ("query_id", "query", "product_id", "product_locale", "esci_label", "split")
ESCI_DESCRIPTION = ("product_color", "product_bullet_point", "product_description")
SQID_PLACEHOLDER = "Default_Background_Art"
GS_COLUMNS = ("query_id", "query", "product_id", "score_linear")
GS_SPLITS = {  # and what Marqo's archive calls them: the query's part, then the product's
    "in_domain": "query_0_product_id_0",
    "novel_query": "query_1_product_id_0",
    "novel_document": "query_0_product_id_1",
    "zero_shot": "query_1_product_id_1",
}
TRUTH_FILE = re.compile(r"ground_truth_(.+)-image(?:\+text)?\.json")
COUNTS = ("products", "pictures", "queries", "judgments", "relevant")


@dataclass
class ConvertArguments:
    """Which set to convert, and how much of it.

    Args:
        source: Which set the files are of. esci is Amazon's Shopping Queries data; marqo-gs is Marqo-GS-10M, from the
            Hub or from its archive; marqo-products is google-shopping-general-eval or amazon-products-eval;
            marqo-fashion is atlas, deepfashion-inshop, deepfashion-multimodal, fashion200k, KAGL or polyvore.
        input: Folder of the set's tables, as they were downloaded.
        output: Folder to write the catalogue to; it must be new or empty.
        images: esci and marqo-gs's archive: folder of pictures; for esci they are named by product id, such as
            B000NOTGRC.jpg.
        image_urls: esci: SQID's product_image_urls.csv; with supp_product_image_urls.csv, a comma between. A picture
            is then missed only where these list one, and placeholders are left out.
        splits: Splits to convert, with commas between; null takes all. esci has train, dev and test; marqo-gs has
            in_domain, novel_query, novel_document and zero_shot; the others have test.
        locale: esci: which queries and products.
        version: esci: small is the reduced version, which rankings are compared on.
        dev: esci: share of the train queries that become the split dev.
        gains: esci: grade of each label, a whole number from 0. It is a hundred times the authors' gain (1, 0.1, 0.01
            and 0), and nDCG, which is a ratio, is the same. Recall and MRR take every grade above 0 for relevant.
        query_column: marqo-products and marqo-fashion: column whose values are the queries, such as query, title,
            text or category2. If it is the products' text, they keep their pictures alone.
        ground_truth: marqo-products and marqo-fashion: Marqo's JSON file of the queries that it drew; without it
            every value of the query column is a query. ground_truth_COLUMN-image+text.json tells the column itself.
        queries: Queries to keep in each split, drawn at random; null keeps all.
        judged_corpus: Only keep products that are judged for these queries, as is always done for esci. Published
            numbers are of the whole corpus.
        image_size: Pictures with a longer side are scaled down to it and kept as JPEG.
        seed: Seed of all that is drawn.
    """

    source: Literal["esci", "marqo-gs", "marqo-products", "marqo-fashion"]
    input: str
    output: str
    images: str | None = None
    image_urls: str | None = None
    splits: str | None = None
    locale: Literal["us", "es", "jp"] = "us"
    version: Literal["small", "large"] = "small"
    dev: float = 0.05
    gains: dict[str, int] = field(default_factory=lambda: {"E": 100, "S": 10, "C": 1, "I": 0})
    query_column: str = "query"
    ground_truth: str | None = None
    queries: PositiveInt | None = None
    judged_corpus: bool = False
    image_size: PositiveInt = 512
    seed: NonNegativeInt = 0


def main(arguments: ConvertArguments) -> dict:
    """Converts a set.

    Returns:
        `dict`: `splits` (each one's counts) and `problems` (a line a kind).

    Raises:
        DataError: if an option, a file or a column can't be used, or a split has nothing to find; then nothing is
            written.
    """
    check(arguments)
    output, problems, counts = Path(arguments.output).resolve(), Problems(), {}
    splits = SOURCES[arguments.source](arguments, problems)
    with new_folder(output, "training.convert") as folder:
        for name, rows in splits.items():
            counts[name] = dict.fromkeys(COUNTS, 0) | {"queries": len(rows["queries"])}
            corpus, qrels = count_rows(rows["corpus"], counts[name]), count_rows(rows["qrels"], counts[name])
            write_split(folder, name, corpus, rows["queries"], qrels)
            if not counts[name]["relevant"]:
                raise DataError("; ".join([f"{arguments.input}: nothing is relevant in {name}", *problems.lines()]))
        write_card(folder, output.name, license_of(arguments), list(splits), card(arguments, counts, problems))
    print(count_table(counts))
    problems.report()
    print(f"wrote {arguments.output}", flush=True)
    return {"splits": counts, "problems": problems.lines()}


def check(arguments: ConvertArguments) -> None:
    """Refuses options that can't be used before anything is read."""
    folder, output = Path(arguments.input).resolve(), Path(arguments.output).resolve()
    checks = (
        (not folder.is_dir(), f"{arguments.input}: no such folder; give the one that the set was downloaded to"),
        (output.is_file(), f"{arguments.output}: is a file; give a folder with --output"),
        (output.is_relative_to(folder), f"{arguments.output}: is in the folder that is read; choose another"),
        (output.is_dir() and any(output.iterdir()), f"{arguments.output}: isn't empty; choose another folder"),
        (arguments.images and not os.path.isdir(arguments.images), f"{arguments.images}: no such folder of pictures"),
        (not 0 <= arguments.dev < 1, f"--dev: {arguments.dev} is no share from 0 to below 1"),
        (not all(0 <= grade < 2**31 for grade in arguments.gains.values()), "--gains: a grade must be from 0"),
    )
    for wrong, message in checks:
        if wrong:
            raise DataError(message)


def wanted_splits(arguments: ConvertArguments, there: Iterable[str]) -> list[str]:
    """The splits to convert, of those that there are."""
    there = list(there)
    wanted = arguments.splits.split(",") if arguments.splits else there
    if unknown := [name for name in wanted if name not in there]:
        raise DataError(f"--splits: no split {unknown[0]!r} in {arguments.input}; there are {', '.join(there)}")
    return [name for name in there if name in wanted]


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
    for place, row in read_rows(table, ("product_id", "product_locale"), problems):
        if row["product_locale"] == arguments.locale:
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


def read_esci_judgments(arguments: ConvertArguments, problems: Problems) -> dict[str, Judgments]:
    """Each split's judgments in the locale and version; a share of the train queries is dev."""
    judged, version = {name: Judgments() for name in ESCI_SPLITS}, f"{arguments.version}_version"
    shares = {"dev": arguments.dev, "train": 1 - arguments.dev}
    for place, row in read_rows(table_file(arguments.input, ESCI_EXAMPLES), (*ESCI_COLUMNS, version), problems):
        if row["product_locale"] != arguments.locale or row[version] != "1":
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
    for name in arguments.image_urls.split(","):
        file = existing_file(name, "SQID's product_image_urls.csv")
        for _, row in read_rows(file, ("product_id", "image_url"), problems):
            urls[row["product_id"]] = row["image_url"]
    return urls


def esci_products(
    arguments: ConvertArguments, table: Path, wanted: set[str], urls: dict[str, str] | None, problems: Problems
) -> Iterator[dict]:
    """The wanted products of the locale as rows of `corpus`, each once."""
    pictures = Pictures(arguments.images, arguments.image_size, problems)
    columns = ("product_id", "product_locale", "product_title", "product_brand", *ESCI_DESCRIPTION)
    for place, row in read_rows(table, columns):
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
            deque(read_rows(file, ("product_id",), problems), maxlen=0)  # counts broken rows; see stored_products
        kept = read_gs_judgments(tables[name], problems).sample(arguments.queries, arguments.seed)
        files = [file for other in shared for file in tables[other]]
        only = kept.products() if arguments.judged_corpus else None
        pictures = Pictures(arguments.images, arguments.image_size, problems)
        products = stored_products(files, "product_id", "title", only, pictures)
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


def read_gs_judgments(files: list[Path], problems: Problems) -> Judgments:
    """A split's judgments."""
    judged = Judgments()
    for file in files:
        for place, row in read_rows(file, GS_COLUMNS, problems):
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
    files, column, truth = table_files(arguments.input), arguments.query_column, arguments.ground_truth
    if not files:
        raise DataError(f"{arguments.input}: has no table that ends in .parquet")
    if truth and (match := TRUTH_FILE.fullmatch(Path(truth).name)):
        column = match[1]
    judged, known = read_ground_truth(truth, problems) if truth else Judgments(), set()
    for file in files:
        for place, row in read_rows(file, ("item_ID", column), problems):
            note_id(row["item_ID"], known, f"{place}, field item_ID", problems)
            if not truth:
                query, place = row[column], f"{place}, field {column}"
                judged.add(query_id(query), query, row["item_ID"], 1, place, problems)
    kept = judged.sample(arguments.queries, arguments.seed).of_products(
        known, Path(truth or arguments.input).name, problems
    )
    only = kept.products() if arguments.judged_corpus else None
    title, pictures = None if column == text else text, Pictures(None, arguments.image_size, problems)
    products = stored_products(files, "item_ID", title, only, pictures)
    return {"test": {"corpus": products, "queries": kept.query_rows(), "qrels": kept.qrel_rows()}}


def count_table(counts: dict[str, dict[str, int]]) -> str:
    """The counts of each split as a table in Markdown."""
    rows = [["split", *COUNTS], ["---:"] * (len(COUNTS) + 1)]
    rows += [[name, *(f"{count[key]:,}" for key in COUNTS)] for name, count in counts.items()]
    return "\n".join("".join(f"|{cell:>15} " for cell in row) + "|" for row in rows)


def license_of(arguments: ConvertArguments) -> str:
    """The licence that the downloaded folder's own card names, else what is known of the set, else `other`."""
    try:
        text = Path(arguments.input, "README.md").read_text(encoding="utf-8")
        named = yaml.safe_load(text.split("---")[1])["license"] if text.startswith("---") else None
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        named = None
    is_id = isinstance(named, str) and re.fullmatch(r"[a-z0-9.+-]+", named)
    return named if is_id else LICENSES.get(arguments.source, "other")


def card(arguments: ConvertArguments, counts: dict, problems: Problems) -> str:
    """The dataset card's text."""
    gains = ", ".join(f"{label} {grade}" for label, grade in arguments.gains.items())
    about = ABOUT[arguments.source].format(**vars(arguments) | {"gains": gains})
    whole = "all queries" if arguments.queries is None else f"at most {arguments.queries:,} queries a split (drawn)"
    dropped = "\n".join(f"- {line}" for line in problems.lines()) or "Nothing."
    return f"""# {Path(arguments.output).resolve().name}

{about}
Converted by `training.convert` of mmfusion, with {whole} and seed {arguments.seed}. Pictures are at most
{arguments.image_size} pixels wide and high.

{count_table(counts)}

## What was left out or not as it should be

{dropped}
"""


SOURCES = {
    "esci": convert_esci,
    "marqo-gs": convert_gs,
    "marqo-products": convert_products,
    "marqo-fashion": convert_fashion,
}
LICENSES = {"esci": "apache-2.0", "marqo-gs": "apache-2.0"}
ABOUT = {
    "esci": """Amazon's Shopping Queries data (https://github.com/amazon-science/esci-data, Apache-2.0), locale
{locale}, {version} version. Pictures, where there are any, are those that SQID lists
(https://github.com/Crossing-Minds/shopping-queries-image-dataset, MIT); they belong to their owners.

- **Scores**: {gains}. nDCG is that of the authors' gains 1, 0.1, 0.01 and 0; every score above 0 is relevant to the
  other metrics.
- **Measured** by ranking the judged products of each query: `training.evaluate --judged-only --metrics ndcg@1000`,
  which shows beside it what random orders get.
- **Splits**: dev is a share of {dev:g} of the train queries; a split's corpus has its judged products.
""",
    "marqo-gs": """Marqo-GS-10M (https://huggingface.co/datasets/Marqo/marqo-GS-10M, https://github.com/marqo-ai/GCL).

- **Scores**: the set's `score_linear`, which falls with the position in Google Shopping's results.
- **Splits**: in_domain is for training; queries, products or both (zero_shot) are novel in the others. The corpus has
  the products of both splits that share it, unless it was limited to judged ones: {judged_corpus}.
""",
    "marqo-products": """One of Marqo's evaluation sets for product search
(https://github.com/marqo-ai/marqo-ecommerce-embeddings), whose cards name no licence.

- **Scores**: 1 for the products of a query; no person judged them.
- **Measured** by Marqo against the pictures alone, `training.evaluate --views image`, and on the whole corpus; this
  one was limited to judged products: {judged_corpus}.
""",
    "marqo-fashion": """One of the sets of Marqo's fashion benchmark (https://github.com/marqo-ai/marqo-FashionCLIP).

- **Scores**: 1 for products that have what the query names; no person judged them.
- Queries that are categories or colours are few, so their numbers vary a lot.
""",
}


if __name__ == "__main__":
    run(main, ConvertArguments, __doc__)
