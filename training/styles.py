"""Writes a catalogue whose queries come in further styles too, to measure what each style costs.

    python -m training.styles --data data/myshop --split test --output data/myshop_styles
    python -m training.evaluate --model runs/myshop/model --data data/myshop_styles --report report.json

Beside the split's own queries there are known items, short heads, typing errors, lost and surplus spaces, the other
number of nouns, other spellings of units, negations, and German, French and Spanish ones, as
`training/catalogue/query_styles.py` tells. The columns `style` and `source` say what each is and of which query it
was made. A folder that was made of the same catalogue with the same options is kept.
"""

from training.common.cli import run
from training.options import StylesArguments

if __name__ == "__main__":
    run("training.styles", StylesArguments, __doc__)

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import datasets
from tqdm.auto import tqdm

from modeling_mmfusion.checksums import check_whole, sha256_of
from modeling_mmfusion.errors import DataError
from training.catalogue import query_styles
from training.catalogue.layout import RetrievalSplit, load_split, load_table, rows_of
from training.catalogue.query_styles import LISTED, POSITIVE, Styled, styled_queries
from training.catalogue.translations import LANGUAGES
from training.catalogue.writing import write_card, write_split
from training.common.environment import digest
from training.common.files import check_folder, new_folder, read_json, write_json
from training.evaluation.styles import AS_ASKED
from training.learning.provenance import data_fingerprint

WRITER = "training.styles"
STYLES = (AS_ASKED, "title", "head", "typo 1", "typo 2", "joined", "split", "plural", "units", LISTED)
STYLES += ("negation", POSITIVE, *LANGUAGES)
COLUMNS = {name: datasets.Value("string") for name in ("style", "source")}
REPORT = "styles_report.json"
MAKERS = ("query_styles", "known_items", "product_facts", "translations", "typos", "units", "word_forms")


def main(arguments: StylesArguments) -> dict:
    """Writes the catalogue, prints and returns how many queries each style has and which styles it lacks."""
    check_folder(arguments.output, WRITER)
    made_of = fingerprint(arguments)
    if kept := kept_report(arguments.output, made_of):
        print(f"kept {arguments.output}, which was made of the same", flush=True)
        return kept
    table, source = load_table(arguments.data, "queries", arguments.split)
    if taken := sorted(COLUMNS.keys() & set(table.column_names)):
        raise DataError(f"{source}: has a column {taken[0]} already; give the catalogue that it was made of")
    split = load_split(arguments.data, arguments.split)
    styled = styled_queries(split, arguments.queries, arguments.seed)
    counts = Counter({AS_ASKED: len(split.queries)}) + Counter(query.style for query in styled)
    found = {"made_of": made_of, "queries": dict(counts), "left_out": left_out(counts)}
    with new_folder(arguments.output, WRITER) as folder:
        write_split(
            folder,
            arguments.split,
            corpus_rows(split),
            query_rows(split, styled),
            qrel_rows(split, styled),
            load_table(arguments.data, "corpus", arguments.split)[0].features,
            datasets.Features({**table.features, "_id": datasets.Value("string"), **COLUMNS}),
        )
        name = Path(arguments.output).resolve().name
        write_card(folder, name, "unknown", [arguments.split], _card(arguments, counts))
        write_json(folder / REPORT, found)
    print(style_table(counts), flush=True)
    split.problems.report()
    print(f"wrote {arguments.output}", flush=True)
    return found


def kept_report(output: str, made_of: str) -> dict | None:
    """What an earlier call returned, if it was made of the same and all that it wrote is there."""
    try:
        check_whole(Path(output), marked=True)
        found = read_json(Path(output, REPORT))
    except (DataError, FileNotFoundError):
        return None
    return found if found["made_of"] == made_of else None


def fingerprint(arguments: StylesArguments) -> str:
    """A digest of all that the catalogue follows from: the split's content, the options, and the code that words
    queries."""
    room = Path(query_styles.__file__).parent
    code = [sha256_of(room / name) for name in ("translations.csv", *(f"{name}.py" for name in MAKERS))]
    options = (arguments.split, str(arguments.queries), str(arguments.seed))
    return digest(data_fingerprint(arguments.data, arguments.split), *options, *code)


def corpus_rows(split: RetrievalSplit) -> Iterator[dict]:
    """The split's products as they are."""
    rows = rows_of(split.corpus, split.corpus.column_names)
    return iter(tqdm(rows, total=len(split.product_ids), desc="copying", unit="product"))


def query_rows(split: RetrievalSplit, styled: list[Styled]) -> Iterator[dict]:
    """The split's queries with all their columns, and behind them those of other styles, which have none of these."""
    for query in split.queries:
        yield {**query, "style": AS_ASKED, "source": None}
    for made in styled:
        yield {"_id": made.id, "text": made.text, "style": made.style, "source": made.source or None}


def qrel_rows(split: RetrievalSplit, styled: list[Styled]) -> Iterator[dict]:
    """The judgments of both."""
    judged = [split.qrels[query["_id"]] for query in split.queries] + [made.judgments for made in styled]
    ids = [query["_id"] for query in split.queries] + [made.id for made in styled]
    for query, judgments in zip(ids, judged, strict=True):
        yield from ({"query-id": query, "corpus-id": item, "score": score} for item, score in judgments.items())


def left_out(counts: Counter) -> list[str]:
    """The styles that no query has."""
    return [style for style in STYLES if not counts[style] and style != LISTED]


def style_table(counts: Counter) -> str:
    """How many queries each style has, as a Markdown table, and the styles that are left out."""
    lines = [
        "| style | queries |",
        "|---|---:|",
        *(f"| {name} | {counts[name]:,} |" for name in STYLES if counts[name]),
    ]
    if missing := left_out(counts):
        lines += ["", f"Left out, for nothing in this split can be said so: {', '.join(missing)}."]
    return "\n".join(lines)


def _card(arguments: StylesArguments, counts: Counter) -> str:
    return f"""# {Path(arguments.output).resolve().name}

The split {arguments.split} of {arguments.data} with its queries as they were asked, and others in further styles, made
by `training.styles` of mmfusion with at most {arguments.queries:,} queries a style and seed {arguments.seed}. The
column `style` names the style, `source` the `_id` of the query that one was made of and whose judgments it shares.

{style_table(counts)}
"""
