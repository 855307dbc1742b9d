"""Measures how fast commands start: `--help` of each, and a search from the command line.

    python -m training.benchmarks.start --run runs/quickstart
    git worktree add ../before COMMIT && python -m training.benchmarks.start --before ../before

Each start is a process of its own: seconds on the clock, seconds of a core, and the most memory that it had. The first
round compiles Python's files and fills the system's cache, as where a command is first used; later ones as where it is
used again.
"""

from training.benchmarks.options import StartArguments
from training.common.cli import run

if __name__ == "__main__":
    run("training.benchmarks.start", StartArguments, __doc__)

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tqdm.auto import tqdm

from modeling_mmfusion.errors import DataError
from training.common.environment import environment
from training.common.files import check_output_file, write_json

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("training", "hub_card", "modeling_mmfusion")
COMMAND = re.compile(r'^if __name__ == "__main__":\n(    .*\n)*?    (run|main)\(', re.MULTILINE)
# Runs a command as `python -m` does, and then writes what it needed.
PROBE = """
import json, resource, runpy, sys
report, sys.argv = sys.argv[1], sys.argv[2:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    status = 0
except SystemExit as stopped:
    status = stopped.code or 0
used = resource.getrusage(resource.RUSAGE_SELF)
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
with open(report, "w") as stream:
    json.dump({"status": status, "cpu": used.ru_utime + used.ru_stime, "mb": int(peak) / 1024}, stream)
"""


def main(arguments: StartArguments) -> dict:
    """Starts all; prints and returns what was measured.

    Raises:
        DataError: if a command fails, or there is nothing to measure.
    """
    if arguments.output:
        check_output_file(arguments.output, ".json")
    roots = {"now": ROOT} | ({"before": Path(arguments.before).resolve()} if arguments.before else {})
    wanted = {name: arguments.commands or commands_of(root) for name, root in roots.items()}
    starts = [(name, checkout, [name, "--help"]) for checkout in roots for name in wanted[checkout]]
    for tower in arguments.towers if arguments.run else ():
        words = [arguments.query, "--run", str(Path(arguments.run).resolve()), "--tower", tower]
        starts += [(f"search, {tower}", checkout, ["training.search", *words]) for checkout in roots]
    rows: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(arguments.rounds):
            for name, checkout, words in tqdm(sorted(starts), unit="start"):
                rows.setdefault(name, {}).setdefault(checkout, []).append(started(roots[checkout], words, scratch))
    fastest = {name: {where: best_of(found) for where, found in row.items()} for name, row in rows.items()}
    report = {"arguments": asdict(arguments), "starts": fastest, "environment": environment()}
    if arguments.output:
        write_json(Path(arguments.output), report)
    print(format_starts(fastest), flush=True)
    return report


def commands_of(root: Path) -> list[str]:
    """The modules of a checkout that are run with `python -m`.

    Raises:
        DataError: if it has none.
    """
    files = (path for room in ROOMS for path in (root / room).rglob("*.py"))
    found = [file.relative_to(root) for file in files if COMMAND.search(file.read_text(encoding="utf-8"))]
    if not found:
        raise DataError(f"{root}: is no checkout of mmfusion")
    return sorted(".".join(file.with_suffix("").parts) for file in found)


def started(root: Path, words: list[str], scratch: str) -> dict[str, float]:
    """Seconds (`wall`), those of a core (`cpu`) and megabytes (`mb`) of a command of a checkout.

    Args:
        root (`Path`): the checkout.
        words (`list[str]`): the command's module and its options.
        scratch (`str`): a folder for what it tells, and for Python's compiled files.

    Raises:
        DataError: if it fails; its last line is named.
    """
    report, began = Path(scratch, "report.json"), time.perf_counter()
    report.unlink(missing_ok=True)
    variables = os.environ | {"PYTHONPATH": str(root), "PYTHONPYCACHEPREFIX": scratch}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", PROBE, str(report), *words]
    ran = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True)
    wall = time.perf_counter() - began
    found = json.loads(report.read_text()) if report.is_file() else {"status": ran.returncode}
    if found.pop("status"):
        raise DataError(f"{' '.join(words)} in {root}: {' '.join(ran.stderr.strip().splitlines()[-1:])}")
    return {"wall": wall, **found}


def best_of(starts: list[dict[str, float]]) -> dict[str, float]:
    """The least of each figure of some starts."""
    return {figure: round(min(start[figure] for start in starts), 2) for figure in starts[0]}


def format_starts(fastest: dict[str, dict[str, dict[str, float]]]) -> str:
    """A table: a command a row, its figures and, beside another checkout's, what they were there; Markdown."""
    figures = {"wall": ".2f", "cpu": ".2f", "mb": ",.0f"}
    both = any("before" in row for row in fastest.values())
    names = ["seconds", "CPU seconds", "MB", *(f"{name} before" for name in ("seconds", "CPU seconds", "MB") if both)]
    lines = [f"| command | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 1)}"]
    for command, row in fastest.items():
        if "now" in row:
            found = [row["now"], row.get("before", {})][: 1 + both]
            cells = [format(one[name], form) if one else "" for one in found for name, form in figures.items()]
            lines.append(f"| {command} | {' | '.join(cells)} |")
    return "\n".join(lines)
