"""Turns a shop's product table, pictures and search log into a catalogue in the Hub's retrieval layout.

    python -m training.prepare --products products.csv --images images/ --log log.csv --output data/myshop \\
        --columns.id sku --columns.title name

Products that could give each other away go to the same split, and the log's judgments follow their products.
Whatever is left out on the way is counted, named by file and line, and kept in `prepare_report.json`.
"""

from training.catalogue.options import PrepareArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.prepare", PrepareArguments, __doc__)

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from training.catalogue.layout import MAX_SCORE
from training.catalogue.pictures import PictureSpool
from training.catalogue.products import Products, read_products
from training.catalogue.query_log import Judged, read_log
from training.catalogue.query_synthesis import synthesise
from training.catalogue.splits import choose_split, split_judgments
from training.catalogue.writing import corpus_features, write_card, write_split
from training.common.files import cannot_write, check_folder, new_folder

WRITER = "training.prepare"
REPORT = "prepare_report.json"
COUNTS = ("products", "pictures", "groups", "queries", "novel", "judgments")


def main(arguments: PrepareArguments) -> dict:
    """Prepares a catalogue and returns what `prepare_report.json` holds.

    Raises:
        DataError: if an option, a file or a column can't be used, or nothing is left; then nothing is written.
    """
    _check(arguments)
    shares = {split: share for split, share in asdict(arguments.shares).items() if share > 0}
    products = read_products(arguments, PictureSpool(Path(arguments.output).resolve().parent))
    split_of = {item: choose_split(key, shares, arguments.seed) for item, key in products.groups.items()}
    judged = Judged({}, {}, {}, None)
    if arguments.log:
        log_options = arguments.log_columns, arguments.events, arguments.engagement
        given = arguments.log_format, arguments.encoding, arguments.separator, products.aliases
        judged = read_log(arguments.log, *log_options, set(products.groups), *given)
    splits = split_judgments(shares, judged, split_of)
    for split, rows in splits.items():
        rows["ids"] = sorted(item for item, its in split_of.items() if its == split)
        if arguments.synthesise and split != "test":
            corpus = [products.row(item) for item in rows["ids"]]
            rows["queries"], rows["qrels"] = synthesise(corpus, arguments.synthesise, arguments.seed)
    report = _report(arguments, splits, products, judged)
    _write(arguments, splits, report, products)
    _print(arguments, report, products, judged)
    return report


def _print(arguments: PrepareArguments, report: dict, products: Products, judged: Judged) -> None:
    """Says what was read as what, and what is missing."""
    print(_counts(report))
    for rows in filter(None, (products.table, judged.table)):
        how = f"{rows.dialect}; " if rows.dialect else ""
        made = f"; they make {len(products.groups):,} products" if rows is products.table else ""
        print(f"{rows.name}: {how}{rows.read:,} rows read, {rows.dropped:,} left out{made}")
        rows.report()
    for line in [*_said(report["products"]), *judged.notes]:
        print(line)
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    print(f"wrote {arguments.output}; {arguments.output}/{REPORT} tells what was left out", flush=True)


def _said(read: dict) -> list[str]:
    """How the products were read: whose export, prices, columns, the folder of pictures."""
    lines = [f"format: {read['format']}"]
    if any(read["prices"]["marks"].values()):
        mark = read["prices"]["decimal_mark"]
        lines.append(f"prices: {f'cents behind {mark!r}' if mark else 'some with . and some with , before the cents'}")
    if read["kept_columns"]:
        lines.append(f"kept beside the fields: {', '.join(read['kept_columns'].values())}")
    lines += [f"column left out: {name}: {reason}" for name, reason in read["left_out_columns"].items()]
    for kind, found in read["folder"].items():
        lines.append(f"warning: {found['count']:,} x {kind}; first: {found['examples'][0]}")
    return lines


def _check(arguments: PrepareArguments) -> None:
    """Refuses options that can't be used before anything is read."""
    shares, given = asdict(arguments.shares), arguments.output
    output = Path(given).resolve()
    full = output.is_dir() and any(output.iterdir())
    inputs = [name for name in (arguments.products, arguments.images, arguments.log) if name]
    checks = (
        (min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6, f"--shares: {shares} don't add up to 1"),
        (arguments.synthesise and arguments.log, "--synthesise: is for shops without a log; leave out --log or it"),
        (
            not all(0 <= grade <= MAX_SCORE for grade in arguments.events.values()),
            f"--events: a grade must be from 0 to {MAX_SCORE:,}",
        ),
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


def _report(arguments: PrepareArguments, splits: dict, products: Products, judged: Judged) -> dict:
    """What `prepare_report.json` holds."""
    counts, warnings, groups, log, pairs = {}, [], products.groups, judged.table, len(judged.grades)
    for split, rows in splits.items():
        pictures = sum(bool(products.places[item]) for item in rows["ids"])
        keys = {groups[item] for item in rows["ids"]}
        novel = sum(row["novel"] for row in rows["queries"])
        sizes = (len(rows["ids"]), pictures, len(keys), len(rows["queries"]), novel, len(rows["qrels"]))
        counts[split] = dict(zip(COUNTS, sizes, strict=True))
        if not rows["ids"]:
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
    for name, rows, unit in (("products", products.table, "products"), ("log", log, "judgments")):
        if rows:
            kinds = [{"kind": kind, "count": n, "examples": rows.examples[kind]} for kind, n in rows.counts.items()]
            written = sum(count[unit] for count in counts.values())
            report[name] = {"read": rows.read, "written": written, "dropped": rows.dropped, "problems": kinds}
            report[name]["dialect"] = rows.dialect
    prices = {"decimal_mark": products.prices.mark, "marks": products.prices.marks}
    report["products"] |= {"format": products.form, "prices": prices | {"could_be_two": products.prices.in_doubt}}
    report["products"] |= {"kept_columns": products.columns, "left_out_columns": products.left_out}
    report["products"]["folder"] = {
        kind: {"count": count, "examples": examples} for kind, (count, examples) in products.leftovers.items()
    }
    if log:
        report["log"]["notes"] = judged.notes
        report["log"]["repeated"] = log.read - log.dropped - pairs
        report["log"]["no_relevant_product_in_split"] = pairs - report["log"]["written"]
    return report


def _counts(report: dict) -> str:
    """The counts of each split as a table in Markdown."""
    rows = [[split, *(f"{count[name]:,}" for name in COUNTS)] for split, count in report["splits"].items()]
    table = [["split", *COUNTS], ["---:"] * (len(COUNTS) + 1), *rows]
    return "\n".join("".join(f"|{cell:>10} " for cell in row) + "|" for row in table)


def _write(arguments: PrepareArguments, splits: dict, report: dict, products: Products) -> None:
    """Writes everything as one folder."""
    output = Path(arguments.output).resolve()
    features = corpus_features([*products.written, *products.columns.values()], products.has_lists)
    with new_folder(output, WRITER) as partial, cannot_write(arguments.output):
        filled = [split for split, rows in splits.items() if rows["ids"]]
        for split in filled:
            rows = splits[split]
            ids = tqdm(rows["ids"], desc=f"write {split}", unit=" products")
            write_split(partial, split, products.corpus(ids), rows["queries"], rows["qrels"], features)
            if not rows["queries"] and arguments.log is None:
                (partial / split / "queries.parquet").unlink()
                (partial / split / "qrels.parquet").unlink()
        write_card(partial, output.name, arguments.license, filled, _card(report))
        (partial / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
- **Prices** are numbers, of the currency in `currency`; other columns are as the shop's table has them.
- **Pictures** are at most {options["image_size"]} pixels wide and high; larger ones were scaled down.
"""


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
