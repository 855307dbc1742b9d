"""Turns public product-retrieval sets, once you have downloaded them, into catalogues in the Hub's retrieval layout.

    python -m training.convert --source esci --input esci-data/shopping_queries_dataset --output data/esci
    python -m training.convert --source esci --input esci-data/shopping_queries_dataset --splits test \\
        --images sqid_pictures --image-urls sqid/product_image_urls.csv --output data/sqid
    python -m training.convert --source marqo-gs --input marqo-GS-10M --splits novel_query --output data/gs
    python -m training.convert --source marqo-products --input google-shopping-general-eval --output data/gs_eval
    python -m training.convert --source marqo-fashion --input KAGL --output data/kagl \\
        --ground-truth marqo-FashionCLIP/data/KAGL/gt_query_doc/ground_truth_category2-image+text.json
    python -m training.convert --source hnm-search-data --input hnm-search-data --splits test \\
        --images hnm-search-data/data/raw/images --output data/hnm_search
    python -m training.convert --source glami-1m --input GLAMI-1M-dataset --splits test --output data/glami
    python -m training.convert --source lookbench --input look-bench/v20251201 --output data/lookbench

Nothing is fetched. Whatever can't be used is counted, and told here and on the catalogue's card.
"""

from training.catalogue.options import ConvertArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.convert", ConvertArguments, __doc__)

import os
import re
from pathlib import Path

import yaml

from modeling_mmfusion.errors import DataError
from training.catalogue.esci import convert_esci
from training.catalogue.glami import GLAMI_QUERIES, convert_glami
from training.catalogue.hnm_search import convert_hnm_search
from training.catalogue.lookbench import convert_lookbench
from training.catalogue.marqo import convert_fashion, convert_gs, convert_products
from training.catalogue.public_tables import count_rows
from training.catalogue.writing import QUERY_FEATURES, write_card, write_split
from training.common.errors import Problems
from training.common.files import new_folder

COUNTS = ("products", "pictures", "queries", "judgments", "relevant")


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
            features = rows.get("query_features", QUERY_FEATURES)
            write_split(folder, name, corpus, rows["queries"], qrels, query_features=features)
            if not counts[name]["relevant"]:
                raise DataError("; ".join([f"{arguments.input}: nothing is relevant in {name}", *problems.lines()]))
        write_card(
            folder, output.name, license_named(arguments), list(splits), dataset_card(arguments, counts, problems)
        )
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


def count_table(counts: dict[str, dict[str, int]]) -> str:
    """The counts of each split as a table in Markdown."""
    rows = [["split", *COUNTS], ["---:"] * (len(COUNTS) + 1)]
    rows += [[name, *(f"{count[key]:,}" for key in COUNTS)] for name, count in counts.items()]
    return "\n".join("".join(f"|{cell:>15} " for cell in row) + "|" for row in rows)


def license_named(arguments: ConvertArguments) -> str:
    """The licence that the downloaded folder's own card names, else what is known of the set, else `other`."""
    try:
        text = Path(arguments.input, "README.md").read_text(encoding="utf-8")
        named = yaml.safe_load(text.split("---")[1])["license"] if text.startswith("---") else None
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        named = None
    is_id = isinstance(named, str) and re.fullmatch(r"[a-z0-9.+-]+", named)
    return named if is_id else LICENSES.get(arguments.source, "other")


def dataset_card(arguments: ConvertArguments, counts: dict, problems: Problems) -> str:
    """The dataset card's text."""
    gains = ", ".join(f"{label} {grade}" for label, grade in arguments.gains.items())
    words = vars(arguments) | {"gains": gains, "glami_queries": arguments.query_column or GLAMI_QUERIES[0]}
    about = ABOUT[arguments.source].format(**words)
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
    "hnm-search-data": convert_hnm_search,
    "glami-1m": convert_glami,
    "lookbench": convert_lookbench,
}
LICENSES = dict.fromkeys(("esci", "marqo-gs", "glami-1m", "lookbench"), "apache-2.0")
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
    "hnm-search-data": """Microsoft's H&M search data (https://huggingface.co/datasets/microsoft/hnm-search-data). What
Microsoft added is under CDLA-Permissive-2.0; articles and pictures are H&M's, under the rules of its competition at
Kaggle.

- **Queries** are synthetic: worded from purchases that were really made. Nobody typed them.
- **Scores**: 1 for what was bought, 0 for what was retrieved beside it. Most articles that would fit are not judged,
  so all systems score low. https://github.com/hopit-ai/Moda grades bought articles 2 and the others 1, and divides by
  the best order of what was found, so its numbers are others.
- **Splits** are ours, by the query's text: a tenth is test, a share of {dev:g} of the rest dev. Each has all articles,
  unless it was limited to judged ones: {judged_corpus}.
- A model that learned from H&M's articles, as our recipes `hm` and `multishop` do, has seen some of these.
""",
    "glami-1m": """GLAMI-1M (https://github.com/glami/glami-1m, Apache-2.0): fashion products with texts in 13
languages.

- **This is a classification made to look like retrieval**: nobody asked these queries, and nobody judged products for
  them. Queries are of the column {glami_queries}, which products don't keep.
- **Scores**: 1 for the products that have it. Categories are English and have hundreds of products each, so recall
  says little and numbers are of few queries; names are known items, a slice a country.
- **Splits** are the set's own, each with its own products, limited to judged ones: {judged_corpus}.
""",
    "lookbench": """LookBench (https://huggingface.co/datasets/srpone/look-bench, Apache-2.0).

- **Queries are pictures** (column `image`, no text): `training.evaluate` measures them, nothing learns from them.
  Products are pictures alone, so the view image is the one to look at.
- **Scores**: 1 for products of the query's category and main attribute; the paper's text speaks of all attributes.
- **Splits** are the set's subsets. Each gallery has the set's pictures of noise, unless it was limited to judged
  products: {judged_corpus}.
""",
}
