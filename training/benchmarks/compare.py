"""Measures several systems on several catalogues: one table.

    python -m training.benchmarks.compare --models '{mmfusion: runs/multishop/model, zero-shot text: minilm}' \\
        --data data/fashion,data/ikea --baseline runs/baseline/report.json --results results.json

The first model is measured in all its views, and beside BM25, reciprocal rank fusion and the oracle of late choice,
the others as they are. A report that was made of the same model and data is kept, so the command can be called again.
"""

from dataclasses import dataclass, field
from pathlib import Path

from modeling_mmfusion.checksums import existing_file
from training import evaluate
from training.common.cli import run
from training.common.environment import digest, environment
from training.common.files import check_output_file, claim_folder, read_json, write_json, write_text
from training.evaluation.measuring import OTHER_VIEWS, views_of
from training.evaluation.options import EvaluateArguments
from training.features.pretrained import resolve_tower
from training.learning.provenance import data_fingerprint, files_fingerprint

METRIC = "ndcg@10"


@dataclass
class CompareArguments:
    """What to compare on what.

    Args:
        models: Model by the name of its row: a folder, a Hub id, a dual encoder as it is, any text model of
            sentence-transformers, or minilm.
        views: View by the name of a row, where it is not fused: one that was trained on text alone is measured on it.
        data: Catalogues, with commas between.
        split: Their split.
        baseline: Report of training.benchmarks.baseline_trainer to add, or null.
        output: Folder that keeps the single reports.
        results: JSON file for the table's numbers; the table itself goes beside it as Markdown.
    """

    models: dict[str, str] = field(default_factory=dict)
    views: dict[str, str] = field(default_factory=dict)
    data: list[str] = field(default_factory=lambda: ["data/hm"])
    split: str = "test"
    baseline: str | None = None
    output: str = "runs/compare"
    results: str = "runs/compare/results.json"


def main(arguments: CompareArguments) -> dict:
    """Measures what is missing, prints the table, writes it and returns its numbers."""
    check_output_file(arguments.results, ".json")
    claim_folder(arguments.output, "training.benchmarks.compare")
    rows: dict[str, dict] = {}
    for number, (name, model) in enumerate(arguments.models.items()):
        for path in arguments.data:
            model = resolve_tower(model)
            known = views_of(model)
            views = known if number == 0 else (arguments.views.get(name, known[0]),)
            report = kept_report(arguments, model, path, views)
            for view in report["views"]:
                rows.setdefault(row_name(name, view, number), {})[path] = cell_of(report, view)
    if arguments.baseline:
        found = read_json(existing_file(arguments.baseline, "a report of training.benchmarks.baseline_trainer"))
        for report in found["catalogues"].values():
            for view in report["views"]:
                rows.setdefault(f"{found['baseline']}, {view}", {})[report["data"]] = cell_of(report, view)
    results = {"metric": METRIC, "split": arguments.split, "rows": rows, "ratios": ratios(rows)}
    results |= {"models": arguments.models, "environment": environment()}
    write_json(Path(arguments.results), results)
    text = format_comparison(results)
    write_text(Path(arguments.results).with_suffix(".md"), text + "\n")
    print(text, flush=True)
    return results


def cell_of(report: dict, view: str) -> dict:
    """What a report tells of a view: its metrics, `slices` (the first one's mean in each), and `styles` if it has any
    (see [`~training.evaluation.styles.style_costs`])."""
    slices = {part: found[view][METRIC]["mean"] for part, found in report["slices"].items()}
    styles = {style: found[view] for style, found in report.get("styles", {}).items()}
    return report["views"][view] | {"slices": slices} | ({"styles": styles} if styles else {})


def row_name(name: str, view: str, number: int) -> str:
    """A row's name: the first model's rows tell the view, others have one."""
    if number > 0:
        return name
    return view if view in OTHER_VIEWS else f"{name}, {view}"


def kept_report(arguments: CompareArguments, model: str, path: str, views: tuple[str, ...]) -> dict:
    """The report of one model on one catalogue: that of an earlier call if nothing changed since."""
    key = digest(files_fingerprint(model), data_fingerprint(path, arguments.split), arguments.split, *views)
    file = Path(arguments.output) / f"{key}.json"
    if file.is_file():
        return read_json(file)
    return evaluate.main(EvaluateArguments(model, path, arguments.split, str(file), list(views)))


def ratios(rows: dict[str, dict]) -> dict[str, dict[str, float]]:
    """The first row's metric over each other one's, by catalogue."""
    first = next(iter(rows.values()), {})
    return {
        name: {path: first[path][METRIC]["mean"] / max(cells[path][METRIC]["mean"], 1e-9) for path in cells}
        for name, cells in list(rows.items())[1:]
    }


def format_comparison(results: dict) -> str:
    """A Markdown table: a row a system, a column a catalogue, nDCG@10 with its interval."""
    paths = list(next(iter(results["rows"].values()), {}))
    lines = [f"| nDCG@10, {results['split']} | " + " | ".join(Path(path).name for path in paths) + " |"]
    lines.append("| --- |" + " --- |" * len(paths))
    for name, cells in results["rows"].items():
        shown = [_cell(cells[path][METRIC]) if path in cells else "" for path in paths]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def format_best(results: dict) -> str:
    """A Markdown table: a row a catalogue, ours beside the best of the others, which may be another one in each.

    Our own views and the oracle, which is no system, are left out of the others.
    """
    rows = dict(results["rows"])
    ours = rows.pop("mmfusion, fused")
    others = {name: cells for name, cells in rows.items() if not name.startswith("mmfusion, ") and name != "oracle"}
    lines = [f"| {METRIC}, {results['split']} | mmfusion | best other system | which |", "| --- | --- | --- | --- |"]
    for path, found in ours.items():
        best = max(
            (name for name in others if path in others[name]), key=lambda name: others[name][path][METRIC]["mean"]
        )
        lines.append(f"| {Path(path).name} | {_cell(found[METRIC])} | {_cell(others[best][path][METRIC])} | {best} |")
    return "\n".join(lines)


def _cell(found: dict) -> str:
    low, high = found["ci95"]
    return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    run(main, CompareArguments, __doc__)
