"""Judging by others: people or language models grade what several systems found, and systems are measured by that.

    python -m training.judge pool --data data/myshop --systems bm25,minilm,runs/myshop/model --output runs/judging
    python -m training.judge page --output runs/judging     # then open runs/judging/page.html and grade
    python -m training.judge ask --output runs/judging --endpoint http://127.0.0.1:8000/v1 --model NAME --pictures
    python -m training.judge agree --output runs/judging --grades mine.csv,runs/judging/grades-NAME.csv
    python -m training.judge result --output runs/judging --grades mine.csv,yours.csv

`pool` draws queries and joins the systems' best products, in an order that tells no rank; five systems or more, and
different ones, make a pool that is fair to others. `page` writes one HTML file to judge them in a browser, which gives
a CSV file of grades. `ask` lets a language model do it, behind any server of OpenAI's chat completions; a key is read
from JUDGE_API_KEY. `agree` compares two judges, the better one first: where that one has judged a random sample, it
corrects what the other one's grades say of each system. `result` writes the catalogue with the new judgments, for
training.evaluate, and how the systems stand by old and new.
"""

from training.common.cli import run
from training.options import JudgeArguments

if __name__ == "__main__":
    run("training.judge", JudgeArguments, __doc__, positional="step")

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

from modeling_mmfusion.errors import DataError
from training.catalogue.layout import RetrievalSplit, load_split
from training.common.files import claim_folder, write_json
from training.evaluation.agreement import NAMES, agreement, corrected_metrics
from training.evaluation.grades import Grades, grades_of_qrels, join_grades, read_grades, whole_queries, write_grades
from training.evaluation.judged_catalogue import (
    WRITER,
    format_judged,
    judged_as_a_whole,
    judged_report,
    write_catalogue,
)
from training.evaluation.judging_llm import ModelJudge
from training.evaluation.judging_page import PICTURES, write_page
from training.evaluation.pooling import (
    FEWEST_SYSTEMS,
    Pool,
    draw_queries,
    make_pool,
    read_pool,
    runs_of,
    with_queries,
    write_pool,
)

POOL, PAGE, QRELS = "pool.jsonl", "page.html", "qrels"


def pool(arguments: JudgeArguments) -> dict:
    """Draws the queries, pools what the systems find and writes the pool."""
    if not arguments.systems:
        raise DataError("--systems: names no system; give files of rankings or models, with commas between")
    file = claim_folder(arguments.output, WRITER) / POOL
    split = load_split(arguments.data, arguments.split)
    split = with_queries(split, draw_queries(split, arguments.queries, arguments.seed))
    runs = runs_of(arguments.systems, arguments.data, split, arguments.split)
    if len(runs) < FEWEST_SYSTEMS:
        where = f"{', '.join(runs)}; below {FEWEST_SYSTEMS} much that is relevant stays unjudged"
        split.problems.add("pool of few systems", where)
    made = make_pool(arguments.data, arguments.split, split, runs, arguments.depth, arguments.seed)
    if file.is_file() and read_pool(file).digest != made.digest:
        raise DataError(f"{file}: is another pool, which may be judged already; give another --output")
    write_pool(file, made)
    split.problems.report()
    print(f"{len(made.queries):,} queries, {made.pairs:,} pairs of {len(runs)} systems: {file}", flush=True)
    return {"queries": len(made.queries), "pairs": made.pairs, "systems": list(runs)}


def page(arguments: JudgeArguments) -> dict:
    """Writes the page to judge the pool on."""
    made, split = _pool(arguments)
    file = Path(arguments.output, PAGE)
    is_whole = write_page(file, made, split)
    split.problems.report()
    print(f"open {file} in a browser" + ("" if is_whole else f"; keep {PICTURES}/ beside it"), flush=True)
    return {"pairs": made.pairs, "pictures_inside": is_whole}


def ask(arguments: JudgeArguments) -> dict:
    """Asks a model for grades and writes them."""
    for name in ("endpoint", "model"):
        if not getattr(arguments, name):
            raise DataError(f"--{name}: is missing; see --help")
    made, split = _pool(arguments)
    judge = ModelJudge(arguments.endpoint, arguments.model, arguments.pictures, arguments.together, arguments.parallel)
    name = re.sub(r"[^\w.-]+", "-", arguments.model)
    grades = judge.judge(made, split, Path(arguments.output, f"answers-{name}.jsonl"))
    file = Path(arguments.output, f"grades-{name}.csv")
    write_grades(file, made, grades)
    split.problems.report()
    count = sum(map(len, grades.values()))
    print(f"{count:,} of {made.pairs:,} pairs graded by {arguments.model}: {file}", flush=True)
    return {"pairs": made.pairs, "graded": count}


def agree(arguments: JudgeArguments) -> dict:
    """Compares two judges, corrects the second one's metrics by the first one's, prints and writes both."""
    if len(arguments.grades) != 2:
        raise DataError(f"--grades: names {len(arguments.grades)} judges; give two, the better one first")
    made, split = _pool(arguments)
    first, second = _judges(arguments, made, split).values()
    if not any(first[query].keys() & second.get(query, {}).keys() for query in first):
        raise DataError(f"--grades: {' and '.join(arguments.grades)} have no pair in common")
    report = {"judges": arguments.grades} | agreement(first, second, made)
    labelled = whole_queries(made, first, second)
    others = [query for query in whole_queries(made, second) if query not in set(labelled)]
    report |= {"labelled": len(labelled), "others": len(others), "metrics": {}}
    if min(len(labelled), len(others)) > 1:
        report["metrics"] = corrected_metrics(first, second, made, labelled, others)
    write_json(Path(arguments.output, "agreement.json"), report)
    split.problems.report()
    print(format_agreement(report), flush=True)
    return report


def result(arguments: JudgeArguments) -> dict:
    """Joins the judges' grades, writes the catalogue and how the systems stand, and prints that."""
    if not arguments.grades:
        raise DataError("--grades: names no file; give those of the judges")
    made, split = _pool(arguments)
    judges = _judges(arguments, made, split)
    grades = judged_as_a_whole(made, join_grades(judges.values()), split)
    if not any(score > 0 for judged in grades.values() for score in judged.values()):
        raise DataError("--grades: no query is judged as a whole and has something relevant; grade more")
    folder = Path(arguments.output, "catalogue")
    write_catalogue(folder, made, split, grades, judges)
    report = judged_report(made, split, grades, judges) | {"problems": split.problems.lines()}
    write_json(Path(arguments.output, "report.json"), report)
    split.problems.report()
    print(f"{format_judged(report)}\nwrote {folder}", flush=True)
    return report


def _pool(arguments: JudgeArguments) -> tuple[Pool, RetrievalSplit]:
    """The folder's pool, and the split that it was made of.

    Raises:
        DataError: if the split has lost a product or query of the pool.
    """
    made = read_pool(Path(arguments.output, POOL))
    claim_folder(arguments.output, WRITER)
    split = load_split(made.data, made.split)
    products, queries = set(split.product_ids), {query["_id"] for query in split.queries}
    for query in made:
        if query.id not in queries or not query.found.keys() <= products:
            lost = "query" if query.id not in queries else "product"
            raise DataError(f"{split.name}: has lost a {lost} of the pool, of query {query.id}; make the pool anew")
    return made, split


def _judges(arguments: JudgeArguments, made: Pool, split: RetrievalSplit) -> dict[str, Grades]:
    """Each judge's grades by the name that was given."""
    if twice := [name for name, times in Counter(arguments.grades).items() if times > 1]:
        raise DataError(f"--grades: {twice[0]} is given twice; leave one out")
    return {
        name: grades_of_qrels(split, made) if name == QRELS else read_grades(name, made, split.problems)
        for name in arguments.grades
    }


def format_agreement(report: dict) -> str:
    """The report as Markdown tables."""
    first, second = report["judges"]
    lines = [f"{report['pairs']:,} pairs of {report['queries']:,} queries judged by {first} (rows) and {second}", ""]
    lines += ["| | 0 | 1 | 2 | 3 |", "| ---: | ---: | ---: | ---: | ---: |"]
    lines += [f"| {grade} | {' | '.join(map(str, row))} |" for grade, row in enumerate(report["confusion"])]
    lines += ["", "| agreement | value | 95% |", "| --- | --- | --- |"]
    for name in NAMES:
        low, high = report[name]["ci95"]
        lines.append(
            f"| {name.replace('_', ' ')} | {_figure(report[name]['value'])} | {_figure(low)} to {_figure(high)} |"
        )
    lines.append(f"| alpha, ordinal | {_figure(report['alpha'])} | |")
    if report["metrics"]:
        by = f"by {first}, {report['labelled']:,} queries"
        lines += ["", f"| metric | {by} | by {second} | {second}, corrected |", "| --- | --- | --- | --- |"]
    for name, found in report["metrics"].items():
        cells = [f"{one['mean']:.3f} [{one['ci95'][0]:.3f}, {one['ci95'][1]:.3f}]" for one in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if not report["metrics"]:
        lines.append(
            f"\nno correction: {second} has to judge two queries or more that {first} has not, and two that it has"
        )
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


OWN = {  # the options of each step, besides output
    pool: {"data", "split", "systems", "queries", "depth", "seed"},
    page: set(),
    ask: {"endpoint", "model", "pictures", "together", "parallel"},
    agree: {"grades"},
    result: {"grades"},
}
STEPS = {step.__name__: step for step in OWN}


def main(arguments: JudgeArguments) -> dict:
    """Does one step and returns what it came to.

    Raises:
        DataError: if there is no such step, or an option belongs to another one.
    """
    if arguments.step not in STEPS:
        raise DataError(f"unknown step {arguments.step!r}; use one of {', '.join(STEPS)}")
    step, defaults = STEPS[arguments.step], JudgeArguments(arguments.step)
    for option in fields(JudgeArguments):
        name = option.name
        if name not in {"step", "output"} | OWN[step] and getattr(arguments, name) != getattr(defaults, name):
            owners = " and ".join(other.__name__ for other, names in OWN.items() if name in names)
            raise DataError(f"--{name}: goes with {owners}, not with {arguments.step}; leave it out")
    return step(arguments)
