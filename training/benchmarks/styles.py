"""Measures what each style of query costs several systems, and how often fusion harms: a table a catalogue.

    python -m training.benchmarks.styles --models '{mmfusion: runs/hm/model, bm25 tuned: bm25-tuned}' \\
        --data data/hm,data/ikea --output runs/styles --results runs/styles.json

For each catalogue it writes one with queries in further styles (see training.styles) into a folder of its name in
`output`, and measures the first model fused, as the index searches (hybrid), by text and by picture, and the others
as they are. Fused and hybrid are tested against each other system in each style. What was made or measured of the
same model and data is kept, so the command can be called again.
"""

from training.benchmarks.options import StyleBenchArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.styles", StyleBenchArguments, __doc__)


from collections import defaultdict
from pathlib import Path

import numpy as np

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import check_model_name
from training import styles
from training.benchmarks.compare import MARKS, METRIC, Measured, check_queries, kept_report, said
from training.catalogue.layout import load_table, rows_of
from training.common.environment import digest, environment
from training.common.files import check_output_file, claim_folder, read_json, write_json, write_text
from training.evaluation.measuring import BM25, views_of
from training.evaluation.options import EvaluateArguments
from training.evaluation.report import format_mean
from training.evaluation.statistics import paired_difference, with_holm
from training.evaluation.styles import harm_rates, style_costs, style_masks
from training.features.pretrained import resolve_tower
from training.learning.provenance import data_fingerprint, file_digests
from training.styles import StylesArguments

VIEWS = ("fused", "hybrid", "text", "image")  # of the first model
TESTED = VIEWS[:2]
SHOWN = ("title", "head", "typo 1", "split", "plural", "negation", "german")  # in README
SIGNS = {"better": ">", "worse": "<", "no difference": "="}
LEGEND = (
    "In brackets 95% intervals (bootstrap over queries), in per cent what a style costs beside the queries that its "
    "own were made of. ↓ worse than the first column, ↑ better, = no difference: paired randomisation test on each "
    "query's nDCG@10, Holm's correction over all tests of a catalogue, p < .05. Harm is the share of the queries that "
    "fusion makes worse than text alone (by how much), and the share that it makes better."
)


def main(arguments: StyleBenchArguments) -> dict:
    """Makes and measures what is missing, prints the tables, writes them and returns their numbers."""
    check_output_file(arguments.results, ".json")
    check_arguments(arguments)
    claim_folder(arguments.output, "training.benchmarks.styles")
    folders = {path: styled_catalogue(arguments, path) for path in arguments.data}
    measured = measure_models(arguments, folders)
    left_out = [why for folder in arguments.baseline if (why := add_baseline(arguments, folder, folders, measured))]
    check_queries(measured)
    ours = next(iter(arguments.models))
    results = {"metric": METRIC, "split": arguments.split, "ours": ours, "models": arguments.models}
    results |= {"queries": arguments.queries, "seed": arguments.seed, "left_out": left_out}
    results["catalogues"] = {
        Path(folder).name: summary(measured_on(folder, measured), queries_of(folder, arguments.split, measured), ours)
        for folder in folders.values()
    }
    results["environment"] = environment()
    write_json(Path(arguments.results), results)
    text = "\n\n".join(format_styles_benchmark(results))
    write_text(Path(arguments.results).with_suffix(".md"), text + "\n")
    print(text, flush=True)
    return results


def check_arguments(arguments: StyleBenchArguments) -> None:
    """Refuses what can't be measured before anything is made.

    Raises:
        DataError: naming the option.
    """
    if not arguments.models:
        raise DataError("--models: names no model to compare")
    if not arguments.data:
        raise DataError("--data: names no catalogue")
    for number, models in enumerate(arguments.models.values()):
        for model in map(resolve_tower, seeds_of(models)):
            if model not in BM25:
                check_model_name(model)
            if number == 0 and not set(VIEWS) <= set(views_of(model)):
                raise DataError(f"--models: the first is measured as ours, but {model} is no model of mmfusion")
    names = [Path(path).resolve().name for path in arguments.data]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"--data: two catalogues are called {twice}; rename one")


def seeds_of(models: str | list[str]) -> list[str]:
    """A system's models, one a seed."""
    return [models] if isinstance(models, str) else models


def styled_catalogue(arguments: StyleBenchArguments, path: str) -> str:
    """The folder of a catalogue with queries in further styles, made unless it is there."""
    folder = f"{arguments.output}/{Path(path).resolve().name}"
    styles.main(StylesArguments(path, arguments.split, folder, arguments.queries, arguments.seed))
    return folder


def measure_models(arguments: StyleBenchArguments, folders: dict[str, str]) -> dict[str, dict[str, Measured]]:
    """Each system, or view of the first model, on each styled catalogue, by their folders."""
    measured: dict[str, dict[str, Measured]] = defaultdict(lambda: defaultdict(Measured))
    for number, (name, models) in enumerate(arguments.models.items()):
        for model in map(resolve_tower, seeds_of(models)):
            views = VIEWS if number == 0 else views_of(model)[:1]
            for path, folder in folders.items():
                tune_on = path if model == "bm25-tuned" else None
                wanted = EvaluateArguments(model, folder, arguments.split, views=list(views), tune_on=tune_on)
                report, per_query = kept_report(arguments.output, wanted)
                for view in report["views"]:
                    row = name if number else f"{name}, {view}"
                    measured[row][folder].add(report, per_query, view)
    return measured


def add_baseline(
    arguments: StyleBenchArguments, folder: str, folders: dict[str, str], measured: dict[str, dict[str, Measured]]
) -> str:
    """Adds what training.benchmarks.baseline_trainer made, measured on the styled catalogues; says why if it can't."""
    weights = {name: found for name, found in file_digests(Path(folder)).items() if name.endswith(".safetensors")}
    if not weights or not Path(folder, "report.json").is_file():
        why = f"Left out: {folder} has no models of training.benchmarks.baseline_trainer."
        print(why, flush=True)
        return why
    options = read_json(Path(folder, "report.json"))["options"]
    data = [data_fingerprint(path, arguments.split) for path in folders.values()]
    file = Path(arguments.output) / f"{digest(repr(sorted(weights.items())), *data)}.json"
    found = read_json(file) if file.is_file() else measure_baseline(options, folder, list(folders.values()), file)
    for report in found["catalogues"].values():
        for view in report["views"]:
            per_query = existing_file(report["per_query"], "each query's values, which the baseline writes")
            measured[f"{found['baseline']}, {view}"][report["data"]].add(report, per_query, view)
    return ""


def measure_baseline(options: dict, folder: str, tests: list[str], file: Path) -> dict:
    """The report of a baseline's models, which are trained, on other catalogues."""
    from training.benchmarks import baseline_trainer  # needs sentence-transformers

    wanted = options | {"tests": tests, "output": folder, "report": str(file)}
    return baseline_trainer.main(baseline_trainer.BaselineArguments(**wanted))


def measured_on(folder: str, measured: dict[str, dict[str, Measured]]) -> dict[str, np.ndarray]:
    """Each query's `METRIC` `(queries,)` on a styled catalogue, by system."""
    return {name: cells[folder].means for name, cells in measured.items()}


def queries_of(folder: str, split: str, measured: dict[str, dict[str, Measured]]) -> list[dict]:
    """The queries that were measured, each with `_id`, `style` and `source`, in their order."""
    (ids, *_) = next(iter(measured.values()))[folder].queries
    rows = {row["_id"]: row for row in rows_of(load_table(folder, "queries", split)[0], ["_id", "style", "source"])}
    return [rows[name] for name in ids]


def summary(values: dict[str, np.ndarray], queries: list[dict], ours: str) -> dict[str, dict]:
    """All that is told of a catalogue.

    Args:
        values (`dict[str, np.ndarray]`): each query's `METRIC` `(queries,)` of each system, or view of the first
            model.
        queries (`list[dict]`): each with `_id`, `style` and `source`.
        ours (`str`): the first model's name.

    Returns:
        `dict`: style to `queries`; `systems`, by name what [`style_costs`] says; `harm`, what [`harm_rates`] says; and
        `tests`, by view of the first model and other system [`paired_difference`] with `p_holm` over all tests of the
        catalogue.
    """
    masks, costs = style_masks(queries), style_costs(values, queries)
    harm = harm_rates(values[f"{ours}, fused"], values[f"{ours}, text"], masks)
    tests = with_holm(
        {
            (style, view, other): paired_difference(values[f"{ours}, {view}"][mask], values[other][mask])
            for style, mask in masks.items()
            for view in TESTED
            for other in values
            if other not in {f"{ours}, {tested}" for tested in TESTED}
        }
    )
    found: dict[str, dict] = {
        style: {"queries": int(mask.sum()), "systems": costs[style], "harm": harm[style], "tests": {}}
        for style, mask in masks.items()
    }
    for (style, view, other), test in tests.items():
        found[style]["tests"].setdefault(view, {})[other] = test
    return found


def format_styles_benchmark(results: dict) -> list[str]:
    """Markdown tables, one a catalogue: a row a style, a column a system, and how often fusion harms."""
    tables = []
    for name, found in results["catalogues"].items():
        systems = list(next(iter(found.values()))["systems"])
        lines = ["| " + " | ".join([f"{name}, {results['metric']}", "queries", *systems, "harm"]) + " |"]
        lines.append("| --- |" + " --- |" * (len(systems) + 2))
        for style, cell in found.items():
            tests = cell["tests"][TESTED[0]]
            shown = [
                " ".join([_format(cell["systems"][system]), MARKS[said(tests[system])] if system in tests else ""])
                for system in systems
            ]
            row = [style, f"{cell['queries']:,}", *shown, _format_harm(cell["harm"])]
            lines.append("| " + " | ".join(text.strip() for text in row) + " |")
        tables.append("\n".join(lines))
    return [*tables, "\n".join([LEGEND, *results["left_out"]])]


def format_shown_styles(results: dict) -> str:
    """A small Markdown table: a row a style of `SHOWN`, a column a catalogue, ours fused, what the test says, and the
    best system that is none of ours."""
    shops, own = results["catalogues"], f"{results['ours']}, "
    lines = [f"| {results['metric']}, {results['split']} | " + " | ".join(shops) + " |"]
    lines.append("| --- |" + " --- |" * len(shops))
    for style in SHOWN:
        cells = [_beside_best(found[style], own) if style in found else "" for found in shops.values()]
        if any(cells):
            lines.append(f"| {style} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _beside_best(cell: dict, own: str) -> str:
    systems, tests = cell["systems"], cell["tests"][TESTED[0]]
    others = [name for name in systems if not name.startswith(own)]
    best = max(others, key=lambda name: systems[name]["mean"], default=None)
    ours = f"{systems[own + TESTED[0]]['mean']:.3f}"
    return f"{ours} {SIGNS[said(tests[best])]} {systems[best]['mean']:.3f}" if best else ours


def _format(found: dict) -> str:
    if found["cost"] is None:
        return format_mean(found)
    low, high = found["cost_ci95"]
    return f"{format_mean(found)} {found['cost']:+.0%} [{low:+.0%}, {high:+.0%}]"


def _format_harm(harm: dict[str, float]) -> str:
    return f"{harm['share']:.0%} (.{round(1000 * harm['loss']):03d}), {harm['better']:.0%}"
