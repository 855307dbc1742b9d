"""Commands start at once: what a command line alone decides needs nothing heavy, and says nothing but its answer."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from training.benchmarks.start import commands_of

HEAVY = "torch transformers torchvision datasets timm pandas matplotlib sklearn scipy pyarrow accelerate peft gradio"
MAX_MB = 150
WORDS = ("--help", "--no-such-option")
# Runs command lines as `python` does, each in a fork of a process that has imported nothing but the parser, and tells
# of each its status, what it has imported and the most memory that it had.
PROBE = """
import json, os, runpy, sys
import jsonargparse
report = json.loads(sys.argv[1])
for number, words in enumerate(report):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    for stream, name in ((1, "out"), (2, "errors")):
        os.dup2(os.open(f"{number}.{name}", os.O_CREAT | os.O_WRONLY), stream)
    sys.argv, status = words, 0
    try:
        if words[0].endswith(".py"):
            sys.path[0] = os.path.dirname(words[0])
            runpy.run_path(words[0], run_name="__main__")
        else:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        status = stopped.code or 0
    sys.stdout.flush()
    (peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    with open(f"{number}.json", "w") as stream:
        json.dump({"modules": sorted(sys.modules), "mb": int(peak) / 1024, "status": status}, stream)
    os._exit(0)
"""


def scripts() -> list[str]:
    """Every module of ours that is run with `python -m`, and the training by its path, as it is launched."""
    return [*commands_of(ROOT), str(ROOT / "training" / "train.py")]


def start(lines: list[list[str]], folder) -> list[dict]:
    """What each command line printed, has imported and needed; the process is in a folder of its own."""
    command = [sys.executable, "-c", PROBE, json.dumps(lines)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    ran = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    told = [json.loads((folder / f"{number}.json").read_text()) for number in range(len(lines))]
    for number, found in enumerate(told):
        found |= {name: (folder / f"{number}.{name}").read_text() for name in ("out", "errors")}
    return told


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Each command's `--help` and what it says of an option that there is not."""
    lines = [(name, word) for name in scripts() for word in WORDS]
    return dict(zip(lines, start(lines, tmp_path_factory.mktemp("started")), strict=True))


def test_all_commands_are_found():
    names = scripts()
    assert len(names) > 38 and {"training.search", "hub_card.push", "modeling_mmfusion.serve"} <= set(names)
    assert "hub_card.loaders" not in names, "which only hub_card.push calls"


@pytest.mark.slow
@pytest.mark.parametrize("name", scripts())
def test_help_is_light_and_prints_nothing_else(started, name):
    told = started[name, "--help"]
    assert told["status"] == 0 and "--help" in told["out"] and told["errors"] == ""
    assert not set(HEAVY.split()) & set(told["modules"])
    assert told["mb"] < MAX_MB


@pytest.mark.slow
@pytest.mark.parametrize("name", scripts())
def test_a_wrong_option_is_told_without_what_is_heavy(started, name):
    told = started[name, "--no-such-option"]
    assert told["status"] == 2 and "error: " in told["errors"].splitlines()[-1] and "Warning" not in told["errors"]
    assert not set(HEAVY.split()) & set(told["modules"])
    assert told["mb"] < MAX_MB
