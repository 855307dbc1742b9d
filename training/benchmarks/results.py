"""Copies reports of runs to hub_card/results/ and writes their tables into its README.md, and one into the project's.

    python -m training.benchmarks.results --runs '{quickstart: runs/quickstart, hm: runs/hm}'

Every number there comes from a file in hub_card/results/, and every file there from a run's report.json, from another
command in training/benchmarks/ or from training.judge.
"""

from training.benchmarks.options import ResultsArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.results", ResultsArguments, __doc__)


import re
import shutil
from pathlib import Path

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from training.benchmarks.ablate import format_table
from training.benchmarks.ablation_plot import draw_ablation
from training.benchmarks.compare import format_best, format_comparison
from training.benchmarks.embedding import format_embed_figures
from training.benchmarks.engines import format_engines
from training.benchmarks.faults import format_faults
from training.benchmarks.follow import format_follow
from training.benchmarks.leave_one_out import format_left_out
from training.benchmarks.like import format_like
from training.benchmarks.ray_cluster import format_ray
from training.benchmarks.search_speed import format_search
from training.benchmarks.service_load import format_service
from training.benchmarks.shard_speed import format_shards
from training.benchmarks.space_load import format_load
from training.benchmarks.start import format_starts
from training.benchmarks.styles import format_shown_styles, format_styles_benchmark
from training.benchmarks.training_speed import format_figures
from training.common.files import read_json, write_json, write_text
from training.evaluation.judged_catalogue import format_judged
from training.evaluation.report import format_report
from training.judge import format_agreement
from training.scale.planning import SizeArguments, make_plans

RESULTS = Path("hub_card/results")
KINDS = ("results", "ablation", "recipe", "multishop", "styles", "bench", "catalogue", "engines", "load", "judged")
TARGETS = {"best": "multishop", "like": "results", "shown styles": "styles", "left out": "left-out", "service": "load"}
TARGETS |= {kind: kind for kind in KINDS}
MARKERS = {
    kind: (f"<!-- {kind}: written by `make {target}` -->", f"<!-- end of {kind} -->")
    for kind, target in TARGETS.items()
}
PLANS = "1000000:100,100000000:1000,500000000:5000"


def main(arguments: ResultsArguments) -> None:
    """Copies the reports, draws the ablations and writes the tables."""
    if arguments.copy:
        copy_runs(arguments)
    for name in (*arguments.ablations, arguments.recipe):
        draw_ablation(read_results(name), Path(name).with_suffix(".png"))
    found, shown = tables_of(arguments), set()
    for readme in map(Path, arguments.readmes):
        text = readme.read_text(encoding="utf-8")
        for kind, tables in found.items():
            if MARKERS[kind][0] in text:
                text = insert_tables(text, kind, tables)
                shown.add(kind)
        write_text(readme, text)
    if missing := [MARKERS[kind][0] for kind in found if kind not in shown]:
        raise DataError(f"{', '.join(arguments.readmes)}: none has the line {missing[0]!r}")
    print(f"wrote {', '.join(arguments.readmes)} and {RESULTS}/", flush=True)


def copy_runs(arguments: ResultsArguments) -> None:
    """Copies the runs' reports, and the picture of one, to hub_card/results/."""
    for name, folder in arguments.runs.items():
        source = existing_file(f"{folder}/report.json", "a run folder that training.quickstart wrote")
        write_json(RESULTS / f"{name}.json", read_json(source))
    shutil.copy(Path(arguments.runs[arguments.picture], "results.png"), RESULTS / f"{arguments.picture}.png")


def tables_of(arguments: ResultsArguments) -> dict[str, list[str]]:
    """The tables by kind; see `MARKERS`."""
    plans = make_plans(SizeArguments(plans=PLANS, results=arguments.search, embedding=arguments.embedding))
    return style_tables(arguments.styles) | {
        "results": [markdown(read_results(RESULTS / f"{name}.json")) for name in arguments.runs],
        "ablation": [format_table(read_results(name)) for name in arguments.ablations],
        "recipe": [format_table(read_results(arguments.recipe))],
        "best": [format_best(read_results(arguments.multishop))],
        "multishop": [format_comparison(read_results(arguments.multishop))],
        "left out": [format_left_out(read_results(arguments.left_out))],
        "bench": [format_figures(read_results(arguments.bench))],
        "catalogue": [
            format_embed_figures(read_results(arguments.embedding)),
            format_search(read_results(arguments.search)),
            format_search(read_results(arguments.generated)),
            plans,
            format_faults(read_results(arguments.faults)),
        ],
        "like": [format_like(read_results(arguments.like))],
        "engines": [
            format_engines(read_results(arguments.engines)),
            format_follow(read_results(arguments.follow)),
            format_shards(read_results(arguments.shards)),
            format_ray(read_results(arguments.ray)),
            format_starts(read_results(arguments.start)["starts"]),
        ],
        "load": [format_load(read_results(arguments.load))],
        "service": [format_service(read_results(arguments.service))],
        "judged": [
            format_judged(read_results(arguments.judged)),
            *(format_agreement(read_results(name)) for name in arguments.agreements),
        ],
    }


def style_tables(name: str) -> dict[str, list[str]]:
    """The whole tables of styles, and the small one; none before they are measured."""
    if not Path(name).exists():
        return {}
    results = read_results(name)
    return {"styles": format_styles_benchmark(results), "shown styles": [format_shown_styles(results)]}


def read_results(name: str | Path) -> dict:
    """A results file."""
    return read_json(existing_file(name, "a results file"))


def markdown(report: dict) -> str:
    """A report's table, set off from the line that names it."""
    return format_report(report).replace("\n", "\n\n", 1)


def insert_tables(text: str, kind: str, tables: list[str]) -> str:
    """The text with the tables, one after the other, between the two markers of their kind; data sets by their names.

    Raises:
        DataError: if a marker is missing.
    """
    start, end = MARKERS[kind]
    if start not in text or end not in text:
        raise DataError(f"the README lacks the lines {start!r} and {end!r}")
    before, rest = text.split(start)
    tables = [re.sub(r"(?:\.\./|[\w-]+/)*data/(?=\w)", "", table.strip()) for table in tables]
    return "\n\n".join([before + start, *tables, end]) + rest.split(end)[1]
