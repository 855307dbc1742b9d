"""From a catalogue to answers in one command: data, training, evaluation, index and three example searches.

    python -m training.quickstart
    python -m training.quickstart --data data/myshop --output runs/myshop

Without a catalogue it draws the demo shop. Each step prints the command that does it alone. A step whose inputs did
not change since the last run is not done again.
"""

from training.common.cli import run
from training.options import QuickstartArguments

if __name__ == "__main__":
    run("training.quickstart", QuickstartArguments, __doc__)

import os
import sys
import time
from pathlib import Path

import torch

from modeling_mmfusion.search import Searcher
from training import embed, evaluate, index
from training.catalogue.layout import RetrievalSplit, load_split, split_names
from training.common.cli import parse
from training.common.environment import digest
from training.common.files import RUN, claim_folder, read_json, write_json
from training.common.stopping import run_and_pass_on_signals
from training.demo.shop import generate
from training.evaluation import sheet
from training.learning.options import TrainArguments
from training.learning.provenance import inputs_fingerprint
from training.options import DEMO_SHOP
from training.search import format_results

STEPS_FILE = "steps.json"
LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no"}  # as by `accelerate launch`


class Steps:
    """Remembers in the run folder with which inputs each step was done.

    Args:
        output (`Path`): the run folder.
    """

    def __init__(self, output: Path):
        self.file = output / STEPS_FILE
        self.done = read_json(self.file) if self.file.is_file() else {}

    def is_done(self, name: str, inputs: str, result: Path) -> bool:
        """True if the step was done with the same inputs and its result is still there."""
        return self.done.get(name) == inputs and result.exists()

    def begin(self, name: str) -> None:
        """Forgets an earlier run of a step, whose results are about to be replaced."""
        if self.done.pop(name, None):
            write_json(self.file, self.done)

    def finish(self, name: str, inputs: str) -> None:
        """Remembers that a step is done."""
        self.done[name] = inputs
        write_json(self.file, self.done)


def main(arguments: QuickstartArguments) -> dict:
    """Does all steps and returns the report."""
    arguments.output = arguments.output or default_output(arguments.data)
    started = time.perf_counter()
    if arguments.data == DEMO_SHOP and not Path(DEMO_SHOP, "README.md").is_file():
        announce("1/5 draw the demo shop", "training.demo.shop", output=DEMO_SHOP, seed=arguments.seed)
        generate(Path(DEMO_SHOP), seed=arguments.seed)
    else:
        print(f"\n== 1/5 data: {arguments.data} is there", flush=True)
    splits = split_names(arguments.data)
    output = claim_folder(arguments.output, RUN, arguments.data)
    steps, test = Steps(output), "test" if "test" in splits else splits[-1]
    recipe = recipe_of(arguments, splits)
    inputs = digest(inputs_fingerprint(recipe), code_fingerprint())

    if steps.is_done("train", inputs, output / "model"):
        print(f"\n== 2/5 train: nothing changed, {output / 'model'} is kept", flush=True)
    else:
        steps.begin("train")
        train_step(arguments, recipe)
        steps.finish("train", inputs)
    report = evaluate_step(steps, inputs, arguments, output, test)
    index_step(steps, inputs, arguments, output, test)
    print(f'\n== 5/5 search: python -m training.search "QUERY" --run {output}', flush=True)
    show_searches(output, load_split(arguments.data, test))
    print(f"\nDone in {time.perf_counter() - started:.0f} s: {output}/", flush=True)
    return report


def default_output(data: str) -> str:
    """The run folder where none is given; never that of another catalogue."""
    return "runs/quickstart" if data == DEMO_SHOP else f"runs/{Path(data).resolve().name}"


def recipe_of(arguments: QuickstartArguments, splits: list[str]) -> TrainArguments:
    """The recipe with this run's catalogue, output, seed and splits."""
    words = [f"--recipe={arguments.recipe}", f"--data.path={arguments.data}", f"--output={arguments.output}"]
    words += [f"--seed={arguments.seed}"]
    if "dev" not in splits and "validation" in splits:
        words += ["--data.dev_split=validation"]
    return parse(TrainArguments, "", words, recipe=True)


def train_step(arguments: QuickstartArguments, recipe: TrainArguments) -> None:
    """Runs training.train in a process of its own, without accelerate's launcher, which passes no signals on.

    Exits with its status if it fails; it has said why.
    """
    words = ["training/train.py", "--recipe", arguments.recipe, "--data.path", arguments.data]
    words += ["--data.dev_split", recipe.data.dev_split, "--output", arguments.output, "--seed", str(arguments.seed)]
    print(f"\n== 2/5 train: accelerate launch {' '.join(words)}", flush=True)
    variables = os.environ | LAUNCHED | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    status = run_and_pass_on_signals([sys.executable, *words], variables)
    if status:
        sys.exit(status)


def evaluate_step(steps: Steps, inputs: str, arguments: QuickstartArguments, output: Path, split: str) -> dict:
    """Measures the model on the held-out split, or shows the report that is there."""
    file, inputs = output / "report.json", digest(inputs, split)
    if steps.is_done("evaluate", inputs, file):
        report = read_json(file)
        print(f"\n== 3/5 evaluate: nothing changed, {file} is kept", flush=True)
        print(evaluate.format_report(report), flush=True)
        return report
    options = {"model": str(output / "model"), "data": arguments.data, "split": split, "report": str(file)}
    steps.begin("evaluate")
    announce("3/5 evaluate", "training.evaluate", **options)
    report = evaluate.main(evaluate.EvaluateArguments(**options))
    steps.finish("evaluate", inputs)
    return report


def index_step(steps: Steps, inputs: str, arguments: QuickstartArguments, output: Path, split: str) -> None:
    """Embeds the whole catalogue and indexes it, and draws what is found in the held-out split."""
    inputs = digest(inputs, split)
    if steps.is_done("index", inputs, output / "index"):
        print(f"\n== 4/5 index: nothing changed, {output / 'index'} is kept", flush=True)
        return
    options = {"model": str(output / "model"), "data": arguments.data, "output": str(output / "vectors")}
    steps.begin("index")
    announce("4/5 embed", "training.embed", **options)
    embed.main(embed.EmbedArguments(**options))
    options = {"vectors": str(output / "vectors"), "output": str(output / "index")}
    announce("    index", "training.index", **options)
    index.main(index.IndexArguments(**options))
    sheet.main(sheet.SheetArguments(str(output / "model"), arguments.data, split, str(output / "results.png")))
    steps.finish("index", inputs)


def show_searches(output: Path, split: RetrievalSplit, count: int = 3, k: int = 5) -> None:
    """Searches for one judged query of each slice and marks the results that are judged relevant."""
    searcher = Searcher(output)
    slices = sorted({str(query.get("slice")) for query in split.queries})
    queries = [next(q for q in split.queries if str(q.get("slice")) == name) for name in slices]
    queries += [query for query in split.queries if query not in queries]
    for query in queries[:count]:
        results, shares = searcher.search(query["text"], k)
        for found in results:
            relevant = split.qrels[query["_id"]].get(found.product_id, 0) > 0
            found.product["title"] = ("* " if relevant else "  ") + (found.product.get("title") or "")
        print(f"\n{format_results(query['text'], results, shares)}", flush=True)
    print(f"\n(* = judged relevant, among the products of {split.name})", flush=True)


def announce(step: str, module: str, **options) -> None:
    """Prints a step and the command that does it alone."""
    words = " ".join(f"--{name} {value}" for name, value in options.items())
    print(f"\n== {step}: python -m {module} {words}", flush=True)


def code_fingerprint() -> str:
    """A digest of the model's and the scripts' code: a run of another version is not taken for this one's."""
    root = Path(__file__).resolve().parents[1]
    files = [*sorted((root / "modeling_mmfusion").glob("*.py")), *sorted((root / "training").rglob("*.py"))]
    return digest(*(file.read_text(encoding="utf-8") for file in files))
