"""Leaves shops out: what a model knows of a shop that it was not trained on, started aligned and from two encoders.

    python -m training.benchmarks.leave_one_out --pretrained data/fashion,data/hm --shops data/amazon,data/demo_shop \\
        --unseen data/ikea
    python -m training.benchmarks.leave_one_out --aligned google/siglip2-base-patch16-224 --options '{}'

A dual encoder (by default a stand-in that is trained on the pictures and listings of `pretrained`, without their
queries; see `training.benchmarks.dual_encoder`) is measured as it is. Then a model is trained from it on each of
`shops` alone, and beside it one from the same two encoders taken by themselves, and both are measured on the test
splits of all catalogues. What was measured is kept, so the command can be called again.
"""

from training.benchmarks.options import LeaveOneOutArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.leave_one_out", LeaveOneOutArguments, __doc__)

from pathlib import Path

import numpy as np

from training import evaluate
from training.benchmarks import dual_encoder
from training.benchmarks.ablate import train_stages
from training.catalogue.layout import RetrievalSplit, load_split
from training.common.cli import parse
from training.common.environment import digest, environment
from training.common.files import check_output_file, claim_folder, read_json, write_json, write_text
from training.evaluation.measuring import DUAL_VIEWS
from training.evaluation.measuring import evaluate as measure
from training.evaluation.options import EvaluateArguments
from training.evaluation.report import format_mean
from training.evaluation.statistics import over_seeds
from training.learning.options import TrainArguments
from training.learning.provenance import data_fingerprint, files_fingerprint, inputs_fingerprint
from training.learning.training_set import measured_states

METRIC = "ndcg@10"
VIEWS = ("fused", "text", "image")
WRITER = "training.benchmarks.leave_one_out"
STARTS = ("aligned", "two encoders")


def main(arguments: LeaveOneOutArguments) -> dict:
    """Trains and measures what is missing, prints the table, writes it and returns its numbers."""
    check_output_file(arguments.results, ".json")
    output = claim_folder(arguments.output, WRITER)
    aligned = arguments.aligned or stand_in(arguments, output)
    tests = list(dict.fromkeys([*arguments.shops, *arguments.pretrained, *arguments.unseen]))
    rows = {f"dual encoder, {view}": {} for view in DUAL_VIEWS} | {"bm25": {}}
    for path in tests:
        for model, views, name in ((aligned, list(DUAL_VIEWS), "dual encoder, {}"), ("bm25", ["bm25"], "{}")):
            report = kept_report(output, model, path, views)
            for view, metrics in report["views"].items():
                rows[name.format(view)][path] = metrics[METRIC]
    loaded: dict[tuple[str, str], RetrievalSplit] = {}
    for shop in arguments.shops:
        for start in STARTS:
            found = [run_one(arguments, aligned, shop, start, seed, tests, loaded) for seed in arguments.seeds]
            for view in VIEWS:
                rows[f"{Path(shop).name}, {start}, {view}"] = {
                    path: over_seeds([one["data"][path][view] for one in found]) for path in tests
                }
    results = {"metric": METRIC, "rows": rows, "seeds": arguments.seeds, "pretrained": arguments.pretrained}
    results |= {"aligned": arguments.aligned or "stand-in", "environment": environment()}
    write_json(Path(arguments.results), results)
    text = format_left_out(results)
    write_text(Path(arguments.results).with_suffix(".md"), text + "\n")
    print(text, flush=True)
    return results


def stand_in(arguments: LeaveOneOutArguments, output: Path) -> str:
    """The stand-in's folder; it is trained if there is none of these catalogues."""
    key = digest(*(data_fingerprint(path, "train") for path in arguments.pretrained))
    folder = output / f"dual_encoder-{key[:12]}"
    if not (folder / "model").is_dir():
        dual_encoder.main(dual_encoder.DualEncoderArguments(arguments.pretrained, output=str(folder)))
    return str(folder / "model")


def kept_report(output: Path, model: str, path: str, views: list[str]) -> dict:
    """The report of a model that is not trained here, or that of an earlier call."""
    key = digest(files_fingerprint(model), data_fingerprint(path, "test"), *views)
    file = output / "reports" / f"{key}.json"
    if file.is_file():
        return read_json(file)
    return evaluate.main(EvaluateArguments(model, path, report=str(file), views=views))


def run_one(
    arguments: LeaveOneOutArguments, aligned: str, shop: str, start: str, seed: int, tests: list[str], loaded: dict
) -> dict:
    """Trains one model and measures it, or takes what an earlier call kept.

    Returns:
        `dict`: `data`, catalogue to view to each query's nDCG@10.
    """
    name = f"{Path(shop).name}-{start.replace(' ', '_')}-{seed}"
    options = {"data.path": f"[{shop}]", "output": f"{arguments.output}/{name}", "seed": seed}
    if start == "aligned":
        options |= {"model.aligned": aligned} | arguments.options
    words = [f"--recipe={arguments.recipe}", *(f"--{option}={value}" for option, value in options.items())]
    recipe = parse(TrainArguments, "", words, recipe=True)
    file = Path(arguments.output) / "runs" / f"{name}.json"
    inputs = digest(inputs_fingerprint(recipe), *(data_fingerprint(path, "test") for path in tests))
    if file.is_file() and (kept := read_json(file))["inputs"] == inputs:
        return kept
    print(f"== {name}", flush=True)

    def load(path: str, split: str) -> RetrievalSplit:
        if (path, split) not in loaded:
            loaded[path, split] = load_split(path, split)
        return loaded[path, split]

    encoder = train_stages(recipe, load)
    found = {"inputs": inputs, "data": {}}
    for path in tests:
        split = load(path, "test")
        values = measure(encoder.model, split, *measured_states(encoder, split, set()), VIEWS, (METRIC,))
        found["data"][path] = {view: np.round(part[METRIC], 5).tolist() for view, part in values.items()}
    write_json(file, found)
    return found


def format_left_out(results: dict) -> str:
    """A Markdown table: a row a system, a column a catalogue, nDCG@10 with its interval; the range over seeds where
    there are several."""
    paths = list(next(iter(results["rows"].values())))
    lines = [f"| nDCG@10, test, seeds {results['seeds']} | " + " | ".join(Path(path).name for path in paths) + " |"]
    lines.append("| --- |" + " --- |" * len(paths))
    for name, cells in results["rows"].items():
        lines.append(f"| {name} | " + " | ".join(format_mean(cells[path]) for path in paths) + " |")
    return "\n".join(lines)
