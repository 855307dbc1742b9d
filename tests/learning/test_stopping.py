"""Trainings that are asked to end, by SIGTERM: they save a checkpoint first, whoever launched them."""

import os
import signal
import subprocess
import sys
from dataclasses import asdict

import psutil
import pytest
import yaml
from helpers import ROOT, TWO_STAGES, expect_same, losses, recipe, told, weights

from modeling_mmfusion.checksums import MARK
from training import train
from training.common.stopping import run_and_pass_on_signals
from training.learning import stage, stages, starting

pytestmark = pytest.mark.usefixtures("last_epoch_is_kept", "short_endings")

SAVED = "stopped by SIGTERM; checkpoint-1 saved; the same command goes on"
AT_ONCE = "stopped by SIGTERM; run the same command again"


def sigterm(*words) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_in(owner, name: str, monkeypatch, arguments, call: int = 1):
    """Runs a training that gets the signal when a function is called for the `call`-th time."""
    right, calls = getattr(owner, name), []

    def wrapped(*words, **options):
        calls.append(words)
        if len(calls) == call:
            sigterm()
        return right(*words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        with pytest.raises(SystemExit) as caught:
            train.main(arguments)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the handler is gone with the training"


@pytest.mark.slow
@pytest.mark.parametrize("name, call", [("_step", 1), ("_step", 4), ("_measure", 2), ("_measure", 3), ("_save", 1)])
def test_in_the_loop_a_checkpoint_is_saved_and_the_end_is_bitwise_alike(
    towers, shop, tmp_path, monkeypatch, capfd, name, call
):
    expected = weights(train.main(recipe(towers, shop, tmp_path / "whole", **TWO_STAGES)))
    arguments = recipe(towers, shop, tmp_path / "run", **TWO_STAGES)
    stopped_in(stage._Trainer, name, monkeypatch, arguments, call)
    assert told(capfd).count(SAVED) == 1
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-1"]
    expect_same(weights(train.main(arguments)), expected)
    assert losses(tmp_path / "run" / "model") == losses(tmp_path / "whole" / "model")
    assert "going on in epoch" in (said := told(capfd)) or "its epochs are done" in said


@pytest.mark.slow
@pytest.mark.parametrize("owner, name", [(starting, "new_model"), (stages, "stage_sets"), (stages, "calibrate_stage")])
def test_outside_the_loop_it_ends_at_once_in_one_line(towers, shop, tmp_path, monkeypatch, capfd, owner, name):
    arguments = recipe(towers, shop, tmp_path / "run", fuse={"epochs": 1})
    stopped_in(owner, name, monkeypatch, arguments)
    said = told(capfd)
    assert said.count(AT_ONCE) == 1 and "Traceback" not in said
    assert [path.name for path in (tmp_path / "run").glob(".*")] == [MARK], "nothing half-written is left"
    assert train.main(arguments).is_dir()


def hear_ctrl_c() -> None:
    """A shell lets what it starts in the background ignore SIGINT, and these tests may run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def launched(towers, shop, tmp_path, launcher: list[str], **options):
    """A training in a process of its own, in its second epoch, and its output so far."""
    arguments = recipe(towers, shop, tmp_path / "run", fuse={"epochs": 500, **options.pop("fuse", {})})
    vars(arguments).update(options)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asdict(arguments)))
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    variables |= {"PYTHONUNBUFFERED": "1"}
    words = [word.format(recipe=tmp_path / "recipe.yaml", shop=shop, output=tmp_path / "run") for word in launcher]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    said = ""
    for line in process.stdout:
        said += line
        if "epoch 1:" in line:
            return process, said
    raise AssertionError(said)


SCRIPT = [str(ROOT / "training" / "train.py"), "--recipe", "{recipe}"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_group_that_gets_the_signal_saves_with_its_workers_alive(towers, shop, tmp_path, workers):
    process, said = launched(
        towers, shop, tmp_path, ["setsid", sys.executable, *SCRIPT], fuse={"vision": "full"}, workers=workers
    )
    os.killpg(process.pid, signal.SIGTERM)
    said += process.communicate(timeout=120)[0]
    assert process.returncode == 143 and said.count(SAVED) == 1, said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_launcher_that_dies_takes_the_training_along(towers, shop, tmp_path):
    launcher = [*ACCELERATE, "--config_file", str(ROOT / "training" / "accelerate" / "cpu.yaml"), *SCRIPT]
    process, said = launched(towers, shop, tmp_path, launcher)
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=120)[0]  # to the end of all that write there
    assert said.count(SAVED) == 1, said


@pytest.mark.slow
def test_any_of_several_processes_stops_all(towers, shop, tmp_path):
    config = str(ROOT / "training" / "accelerate" / "multi_cpu.yaml")
    process, said = launched(
        towers, shop, tmp_path, [*ACCELERATE, "--config_file", config, "--main_process_port", "0", *SCRIPT]
    )
    children = psutil.Process(process.pid).children(recursive=True)
    second = next(child for child in children if child.environ().get("RANK") == "1")
    second.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=120)[0]
    assert process.returncode != 0 and said.count(SAVED) == 1, said
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-1"]


@pytest.mark.slow
@pytest.mark.parametrize("number, line, status", [(signal.SIGTERM, SAVED, 143), (signal.SIGINT, "interrupted", 130)])
def test_the_quickstart_passes_signals_on_and_waits(towers, shop, tmp_path, number, line, status):
    words = ["--data", "{shop}", "--output", "{output}", "--recipe", "{recipe}"]
    process, said = launched(towers, shop, tmp_path, [sys.executable, "-m", "training.quickstart", *words])
    process.send_signal(number)
    said += process.communicate(timeout=120)[0]
    assert process.returncode == status and said.count(line) == 1 and "Traceback" not in said, said


def test_the_status_of_a_program_is_its_own():
    assert run_and_pass_on_signals([sys.executable, "-c", "raise SystemExit(7)"], os.environ) == 7
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_and_pass_on_signals([sys.executable, "-c", code], os.environ) == 137
