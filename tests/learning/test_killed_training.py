"""Trainings in processes of their own that are killed, or whose disk is full."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from helpers import ROOT, recipe

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.model_folder import load_model
from training import train


@pytest.mark.slow
def test_a_training_killed_at_any_moment_goes_on_and_ends_bitwise_alike(towers, shop, tmp_path):
    stages = {"align": {"epochs": 4, "text": "full", "fused_weight": 0.0}, "fuse": {"epochs": 2}}
    expected = load_model(train.main(recipe(towers, shop, tmp_path / "whole", **stages)))[0].state_dict()
    arguments = recipe(towers, shop, tmp_path / "run", **stages)
    arguments.checkpoint_minutes = 0
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(asdict(arguments)))
    words = [sys.executable, str(ROOT / "training" / "train.py"), "--recipe", str(tmp_path / "recipe.yaml")]
    variables = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    rng, kills = np.random.default_rng(0), 0
    for _ in range(3):
        seen = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
        process = subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not {p.name for p in (tmp_path / "run").glob("checkpoint-*")} - seen:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))  # in a step or while the next checkpoint is written
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills >= 2 and not (tmp_path / "run" / "model").exists()
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "going on in epoch" in done.stdout, done.stderr[-2000:]
    found = load_model(tmp_path / "run" / "model")[0].state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert not list((tmp_path / "run").glob("*checkpoint*"))


@pytest.mark.parametrize("what", ["a checkpoint", "the model"])
def test_a_full_disk_stops_in_one_line_and_leaves_nothing_half_written(towers, shop, tmp_path, monkeypatch, what):
    arguments = recipe(towers, shop, tmp_path / "run", fuse={"epochs": 2})
    arguments.checkpoint_minutes = 0 if what == "a checkpoint" else 99

    def no_space(*words, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = (Accelerator, "save_state") if what == "a checkpoint" else (MMFusionModel, "save_pretrained")
    with monkeypatch.context() as full:
        full.setattr(owner, name, no_space)
        with pytest.raises(DataError, match="can't be written .*No space left on device.*is the disk full") as caught:
            train.main(arguments)
    assert "\n" not in str(caught.value)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {"model", ".model.partial", ".checkpoint.partial"} & left
    assert train.main(arguments).is_dir(), "with room again it ends"
