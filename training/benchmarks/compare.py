"""Measures several systems on several catalogues: one table.

    python -m training.benchmarks.compare --models '{mmfusion: runs/multishop-0/model, zero-shot text: minilm}' \\
        --data data/fashion,data/ikea --baseline runs/baseline-0/report.json --results results.json
    python -m training.benchmarks.compare --models '{mmfusion: [runs/a-0/model, runs/a-1/model], gated: runs/b/model}'
    python -m training.benchmarks.compare --models '{mmfusion: runs/multishop-0/model}' --data data/hnm_search

The first model is measured in all its views, and beside BM25, reciprocal rank fusion and the oracle of late choice,
the others as they are. A row of several seeds has each query's mean over them. The first row is tested against each
other one, query by query. A report that was made of the same model and data is kept, so the command can be
called again. With --keep, what was measured of a folder stays in small files beside the results, and stands for the
model where that is gone: so a table of many models can be made in several sittings.
"""

from training.benchmarks.options import CompareArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.compare", CompareArguments, __doc__)

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from modeling_mmfusion.checksums import existing_file
from modeling_mmfusion.errors import DataError
from training import evaluate
from training.benchmarks.measurements import METRIC, keep, kept_file, read_kept
from training.catalogue.layout import has_picture_queries
from training.common.environment import digest, environment
from training.common.files import check_output_file, claim_folder, read_json, write_json, write_text
from training.evaluation.measuring import OTHER_VIEWS, views_for_pictures, views_of
from training.evaluation.options import EvaluateArguments
from training.evaluation.report import format_mean
from training.evaluation.statistics import SIGNIFICANT, over_seeds, paired_difference, with_holm
from training.features.pretrained import resolve_tower
from training.learning.provenance import data_fingerprint, files_fingerprint

OWN_MIXES = ("hybrid", "oracle")
MARKS = {"better": "↓", "worse": "↑", "no difference": "=", "not tested": ""}  # of the other rows
LEGEND = (
    "↓ worse than the first row, ↑ better, = no difference: paired randomisation test on each query's nDCG@10, Holm's "
    "correction over the rows of a catalogue, p < .05."
)
UNTESTED = "Not tested for differences: measured before each query's values were kept."


@dataclass
class Measured:
    """One row on one catalogue.

    Attributes:
        queries (`list[list[str]]`): of each seed, the queries' ids.
        values (`dict[str, list[np.ndarray]]`): metric to each seed's values `(queries,)`.
        slices (`list[dict[str, float]]`): of each seed, slice to the mean of `METRIC`.
    """

    queries: list[list[str]] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    slices: list[dict[str, float]] = field(default_factory=list)

    @property
    def means(self) -> np.ndarray:
        """Each query's `METRIC` `(queries,)`, the mean over seeds."""
        return np.mean(self.values[METRIC], axis=0)

    def add(self, report: dict, per_query: str | Path, view: str) -> None:
        """Adds a seed: a view of a report, whose queries' values are in a file that [`write_per_query`] wrote."""
        table = pq.read_table(per_query)
        self.queries.append(table["query-id"].to_pylist())
        for metric in report["views"][view]:
            self.values.setdefault(metric, []).append(table[f"{view} {metric}"].to_numpy())
        self.slices.append({part: found[view][METRIC]["mean"] for part, found in report["slices"].items()})

    def summary(self) -> dict:
        """Each metric's mean with its interval and its seeds' means, and the slices' means."""
        slices = {part: float(np.mean([one[part] for one in self.slices])) for part in self.slices[0]}
        return {metric: over_seeds(values) for metric, values in self.values.items()} | {"slices": slices}


def main(arguments: CompareArguments) -> dict:
    """Measures what is missing, prints the table, writes it and returns its numbers."""
    check_output_file(arguments.results, ".json")
    baselines = [read_baseline(file, arguments) for file in arguments.baseline]
    claim_folder(arguments.output, "training.benchmarks.compare")
    if not arguments.models:
        raise DataError("--models: names no model to compare")
    measured: dict[str, dict[str, Measured]] = defaultdict(lambda: defaultdict(Measured))
    for number, (name, models) in enumerate(arguments.models.items()):
        for model in [models] if isinstance(models, str) else models:
            for path in arguments.data:
                found = report_of(arguments, model, path, None if number == 0 else name)
                if found is None:
                    print(f"{path}: its queries are pictures, so {name} has no number there", flush=True)
                    continue
                report, per_query = found
                for view in report["views"]:
                    measured[row_name(name, view, number)][path].add(report, per_query, view)
    for baseline in baselines:
        for report in baseline["catalogues"].values():
            for view in report["views"]:
                measured[f"{baseline['baseline']}, {view}"][report["data"]].add(report, report["per_query"], view)
    check_queries(measured)
    rows = {name: {path: cell.summary() for path, cell in cells.items()} for name, cells in measured.items()}
    results = {"metric": METRIC, "split": arguments.split, "rows": rows, "ratios": ratios(rows)}
    results |= {"tests": first_against_others(measured), "models": arguments.models, "environment": environment()}
    write_json(Path(arguments.results), results)
    text = format_comparison(results)
    write_text(Path(arguments.results).with_suffix(".md"), text + "\n")
    print(text, flush=True)
    return results


def report_of(
    arguments: CompareArguments, model: str, path: str, row: str | None
) -> tuple[dict[str, Any], Path] | None:
    """A model's report on a catalogue and the file of its queries' values, measured now or, where the model is gone,
    as they were kept.

    Args:
        arguments (`CompareArguments`): the command's.
        model (`str`): a folder or a name.
        path (`str`): the catalogue.
        row (`str` or `None`): the row's name, which decides the view; `None` measures all views.

    Returns:
        `None` if the catalogue's queries are pictures that the model can't take.
    """
    file = kept_file(arguments.keep, model, path) if arguments.keep else None
    if file and file.is_file() and not Path(model).is_dir():
        report, per_query = read_kept(file, path, arguments.split), file
    elif views := wanted_views(arguments, model, path, row):
        wanted = EvaluateArguments(resolve_tower(model), path, arguments.split, views=views)
        report, per_query = kept_report(arguments.output, wanted)
        if file and Path(model).is_dir():
            keep(file, report, per_query, path, arguments.split)
    else:
        return None
    known = list(report["views"])
    shown = known if row is None else [arguments.views.get(row, known[0])]
    return report | {"views": {view: report["views"][view] for view in shown}}, per_query


def wanted_views(arguments: CompareArguments, model: str, path: str, row: str | None) -> list[str]:
    """The views to measure a model in; all where they are kept. None if it can't take a catalogue's queries."""
    name = resolve_tower(model)
    known = views_for_pictures(name) if has_picture_queries(path, arguments.split) else views_of(name)
    if row is None or (arguments.keep and Path(model).is_dir()):
        return list(known)
    return [arguments.views.get(row, known[0])] if known else []


def read_baseline(file: str, arguments: CompareArguments) -> dict:
    """A baseline's report, or what was kept of it where that is gone.

    Raises:
        DataError: if it is not there, or was written before each query's values were kept.
    """
    kept = {path: kept_file(arguments.keep, file, path) for path in arguments.data if arguments.keep}
    if not Path(file).exists() and any(one.is_file() for one in kept.values()):
        reports = {
            path: read_kept(one, path, arguments.split) | {"data": path, "per_query": one}
            for path, one in kept.items()
        }
        return {"baseline": next(iter(reports.values()))["system"], "catalogues": reports}
    found = read_json(existing_file(file, "a report of training.benchmarks.baseline_trainer"))
    for report in found["catalogues"].values():
        if not Path(report.get("per_query", "")).is_file():
            raise DataError(f"{file}: the values of {report['data']}'s queries are not there; run the baseline again")
        if arguments.keep:
            place = kept_file(arguments.keep, file, report["data"])
            keep(place, report, report["per_query"], report["data"], arguments.split, found["baseline"])
    return found


def row_name(name: str, view: str, number: int) -> str:
    """A row's name: the first model's rows tell the view, others have one."""
    if number > 0:
        return name
    return view if view in OTHER_VIEWS else f"{name}, {view}"


def kept_report(folder: str, wanted: EvaluateArguments) -> tuple[dict, Path]:
    """The report of one model on one catalogue and the file of its queries' values, of an earlier call if nothing
    changed.

    Args:
        folder (`str`): keeps both, under a name that follows from model, data and options.
        wanted (`EvaluateArguments`): `model`, `data`, `split`, `views` and `tune_on` of them.
    """
    facts = [files_fingerprint(wanted.model), data_fingerprint(wanted.data, wanted.split), wanted.split, *wanted.views]
    key = digest(*facts, *([data_fingerprint(wanted.tune_on)] if wanted.tune_on else []))
    file, per_query = (Path(folder) / f"{key}{suffix}" for suffix in (".json", ".parquet"))
    if file.is_file() and per_query.is_file():
        return read_json(file), per_query
    return evaluate.main(replace(wanted, report=str(file), per_query=str(per_query))), per_query


def ratios(rows: dict[str, dict]) -> dict[str, dict[str, float]]:
    """The first row's metric over each other one's, by catalogue."""
    first = next(iter(rows.values()), {})
    return {
        name: {path: first[path][METRIC]["mean"] / max(cells[path][METRIC]["mean"], 1e-9) for path in cells}
        for name, cells in list(rows.items())[1:]
    }


def check_queries(measured: dict[str, dict[str, Measured]]) -> None:
    """Sees to it that all rows are of the same queries.

    Raises:
        DataError: naming a row that is of others, as a baseline may be that was measured earlier.
    """
    first, ours = next(iter(measured.items()))
    for name, cells in measured.items():
        for path, cell in cells.items():
            if path not in ours or any(queries != ours[path].queries[0] for queries in cell.queries):
                raise DataError(f"{name}: was measured on other queries of {path} than {first}; measure it again")


def first_against_others(measured: dict[str, dict[str, Measured]]) -> dict[str, dict[str, dict]]:
    """By catalogue and name, the first row against each other one: [`paired_difference`] of each query's mean over
    seeds, and `p_holm` over all rows of the catalogue."""
    ours, *_ = measured.values()
    tests: dict[str, dict[str, dict]] = {path: {} for path in ours}
    for name, cells in list(measured.items())[1:]:
        for path, cell in cells.items():
            tests[path][name] = paired_difference(ours[path].means, cell.means)
    return {path: with_holm(found) for path, found in tests.items()}


def verdict(results: dict, path: str, name: str) -> str:
    """What the test says of the first row beside another one on a catalogue: `better`, `worse`, `no difference`, or
    `not tested` in a results file that is older than the tests."""
    return said(results["tests"][path][name]) if "tests" in results else "not tested"


def said(test: dict) -> str:
    """What a corrected test of two systems says of the first: `better`, `worse` or `no difference`."""
    if test["p_holm"] >= SIGNIFICANT:
        return "no difference"
    return "better" if test["diff"] > 0 else "worse"


def format_comparison(results: dict) -> str:
    """A Markdown table: a row a system, a column a catalogue, nDCG@10 with its interval, and a mark of `MARKS`."""
    first, paths = next(iter(results["rows"].items()))
    lines = [f"| nDCG@10, {results['split']} | " + " | ".join(Path(path).name for path in paths) + " |"]
    lines.append("| --- |" + " --- |" * len(paths))
    for name, cells in results["rows"].items():
        shown = {path: format_mean(found[METRIC]) for path, found in cells.items()}
        if name != first:
            shown = {path: f"{mean} {MARKS[verdict(results, path, name)]}".strip() for path, mean in shown.items()}
        lines.append(f"| {name} | " + " | ".join(shown.get(path, "") for path in paths) + " |")
    return "\n".join([*lines, "", LEGEND if "tests" in results else UNTESTED])


def format_best(results: dict) -> str:
    """A Markdown table: a row a catalogue, ours beside the best of the others, which may be another one in each, and
    whether a test says that ours is better.

    Our own views, what joins them with words, and the oracle, which is no system, are left out of the others.
    """
    rows = dict(results["rows"])
    ours = rows.pop("mmfusion, fused")
    others = {
        name: cells for name, cells in rows.items() if not name.startswith("mmfusion, ") and name not in OWN_MIXES
    }
    lines = [f"| {METRIC}, {results['split']} | mmfusion | best other system | which | corrected test |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for path, found in ours.items():
        best = max(
            (name for name in others if path in others[name]), key=lambda name: others[name][path][METRIC]["mean"]
        )
        cells = [Path(path).name, format_mean(found[METRIC]), format_mean(others[best][path][METRIC]), best]
        lines.append("| " + " | ".join([*cells, verdict(results, path, best)]) + " |")
    return "\n".join(lines)
