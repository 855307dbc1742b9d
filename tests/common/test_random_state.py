"""Whether a tower or features had to be made first decides nothing that is drawn at random, nor what is learned."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from helpers import NO_BYTECODE, ROOT, expect_same, losses, recipe, weights

from training import train
from training.common.random_state import random_state_kept
from training.features import encoder
from training.features.pretrained import resolve_tower
from training.learning import starting
from training.learning.options import ModelArguments

pytestmark = pytest.mark.usefixtures("last_epoch_is_kept")


def draw() -> None:
    random.random(), np.random.rand(), torch.rand(1)


def state() -> tuple:
    kind, numbers, *rest = np.random.get_state()
    return random.getstate(), kind, numbers.tobytes(), *rest, torch.get_rng_state().numpy().tobytes()


def test_numbers_go_on_as_if_none_had_been_drawn_even_after_an_error():
    before = state()
    with random_state_kept():
        draw()
        assert state() != before
    assert state() == before
    with pytest.raises(ZeroDivisionError), random_state_kept():
        draw()
        1 / 0  # noqa: B018
    assert state() == before


@pytest.mark.slow
def test_an_empty_and_a_warm_cache_give_the_same_model(towers, shop, tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSION_CACHE", str(tmp_path / "cache"))
    run_encoder, runs = encoder._run_encoder, []

    def run_and_draw(*words):
        draw()
        runs.append(words)
        return run_encoder(*words)

    monkeypatch.setattr(encoder, "_run_encoder", run_and_draw)
    stages = {"align": {"epochs": 1, "fused_weight": 0.0}, "fuse": {"epochs": 2}}
    cold = weights(train.main(recipe(towers, shop, tmp_path / "cold", **stages)))
    encoded = len(runs)
    expect_same(weights(train.main(recipe(towers, shop, tmp_path / "warm", **stages))), cold)
    assert losses(tmp_path / "warm" / "model") == losses(tmp_path / "cold" / "model")
    assert encoded == len(runs) > 0, "the second training found all in the cache"


@pytest.mark.slow
def test_the_first_conversion_of_a_tower_draws_no_random_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFUSION_CACHE", str(tmp_path / "cache"))
    built = []
    for _ in ("it is converted", "it is there"):
        set_seed(0)
        before = state()
        for name in ("efficientnet-lite0", "minilm"):
            resolve_tower(name)
        assert state() == before
        built.append(starting.new_model(ModelArguments())[0].state_dict())
    expect_same(*built)
    set_seed(0)
    monkeypatch.setenv("MMFUSION_CACHE", str(tmp_path / "another"))
    expect_same(starting.new_model(ModelArguments())[0].state_dict(), built[0])


FULL_DISK = {
    "tower": "from training.features.pretrained import resolve_tower; resolve_tower('efficientnet-lite0')",
    "features": "import numpy as np; from training.features.cache import cached_features; "
    "cached_features('key', lambda: ({'text_features': np.zeros((1000, 1000))}, []))",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FULL_DISK)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, what):
    code = "from training.common.cli import run; from dataclasses import dataclass\n"
    code += f"def main(_):\n    {FULL_DISK[what]}\n"
    code += "@dataclass\nclass Nothing:\n    '''Nothing.'''\n\n"
    code += "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\nrun(main, Nothing, '')"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "MMFUSION_CACHE": str(tmp_path / "cache"), **NO_BYTECODE}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr[-1000:]
    last = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert last.startswith(f"error: {tmp_path}") and "can't be written" in last
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
