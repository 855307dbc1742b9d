"""Pulls a model from the Hub, loads it as a stranger would, and measures whether its card's numbers hold.

    python -m hub_card.check --repo-id me/mmfusion-demo
    python -m hub_card.check --repo-id me/mmfusion-demo --revision v0.1.0 --data data/demo_shop

Loads the repository in a process with an empty cache that does not have mmfusion. Then `training.evaluate` measures
the downloaded folder, in another process, on the catalogue and split that the card names, and every metric of the card
is compared. Exit status 2 says that one differs by more than the tolerance.
"""

from hub_card.options import CheckArguments
from training.common.cli import run

if __name__ == "__main__":
    run("hub_card.check", CheckArguments, __doc__)

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from hub_card.dependencies import ROOT
from hub_card.figures import Figures
from hub_card.licenses import is_hub_id
from hub_card.loaders import load_as_stranger
from hub_card.push import PushError, is_connection_error, reason_of
from modeling_mmfusion.errors import one_line

EXPORTED = ["onnx/*", "openvino/*", "query/*"]


def main(arguments: CheckArguments) -> dict[str, tuple[float, float]]:
    """Loads, measures, prints and returns the card's and the measured value of each metric.

    Raises:
        PushError: if the model does not load, can't be measured, or a number does not hold.
    """
    folder, commit = download(arguments)
    print(f"{arguments.repo_id} at {commit[:12]}", flush=True)
    try:
        print(
            f"loaded without mmfusion: {json.dumps(load_as_stranger('model', arguments.repo_id, commit))}", flush=True
        )
    except RuntimeError as error:
        raise PushError(f"{arguments.repo_id}: does not load from the Hub: {error}") from error
    for name in changed_code(folder):
        print(f"warning: {name} is not this checkout's; measured is the code of the checkout", flush=True)
    stated = stated_results(folder)
    measured = measure(folder, arguments.data or stated[0].dataset_type, stated[0].dataset_split)
    found = {result.metric_name: (result.metric_value, value_of(measured, result)) for result in stated}
    off = [name for name, (card, ours) in found.items() if not abs(card - ours) <= arguments.tolerance]
    for name, (card, ours) in found.items():
        print(f"{name}: card {card:.4f}, measured {ours:.4f}{'  DIFFERS' if name in off else ''}", flush=True)
    if off:
        raise PushError(
            f"{arguments.repo_id}: the card's {', '.join(off)} does not hold within {arguments.tolerance:g}"
        )
    print(f"the card's {len(found)} numbers hold within {arguments.tolerance:g}", flush=True)
    return found


def download(arguments: CheckArguments) -> tuple[Path, str]:
    """The repository's folder in the cache, and its commit.

    Raises:
        PushError: if the Hub does not give it.
    """
    try:
        folder = Path(snapshot_download(arguments.repo_id, revision=arguments.revision, ignore_patterns=EXPORTED))
    except (HfHubHTTPError, OSError) as error:
        reason = reason_of(error) or one_line(error)
        raise PushError(f"{arguments.repo_id}: can't download {arguments.revision}: {reason}") from error
    except Exception as error:
        if not is_connection_error(error):
            raise
        raise PushError(f"{arguments.repo_id}: can't download {arguments.revision}: {reason_of(error)}") from error
    return folder, folder.name


def changed_code(folder: Path) -> list[str]:
    """The repository's code files that are not those of this checkout's package."""
    package = ROOT / "modeling_mmfusion"
    return [
        file.name
        for file in sorted(folder.glob("*_mmfusion.py"))
        if not (package / file.name).is_file() or (package / file.name).read_bytes() != file.read_bytes()
    ]


def stated_results(folder: Path) -> list[EvalResult]:
    """The card's results on its first dataset and split.

    Raises:
        PushError: if it has none.
    """
    results = ModelCard.load(folder / "README.md").data.eval_results or []
    if not results:
        raise PushError(f"{folder}/README.md: the card states no results")
    return [result for result in results if result.unique_identifier == results[0].unique_identifier]


def measure(folder: Path, data: str, split: str) -> Figures:
    """The report of `training.evaluate` on a downloaded folder, in a process of its own.

    Raises:
        PushError: if there is no such catalogue, or with what the process said.
    """
    if not Path(data).is_dir() and not is_hub_id(data):
        raise PushError(f"the card's numbers are on {data}, which is on no Hub; give the catalogue's folder as --data")
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        command = [sys.executable, "-m", "training.evaluate", "--model", str(folder), "--data", data, "--split", split]
        command += ["--report", str(report)]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": paths}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            said = (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]
            raise PushError(f"can't measure on {data}, {split}: {said.removeprefix('error: ')[:300]}")
        figures = Figures({"report": report})
        figures.value("report", "")  # read before the folder goes
    return figures


def value_of(measured: Figures, result: EvalResult) -> float:
    """The measured value of one of the card's results, whose name is `metric, view`."""
    metric, view = result.metric_name.split(", ")
    return measured.value("report", f"views/{view}/{metric}/mean")
