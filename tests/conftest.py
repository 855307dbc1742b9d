"""Tiny random towers, a tiny shop, and an environment without network and with caches of its own."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["MMFUSION_CACHE"] = tempfile.mkdtemp(prefix="mmfusion-test-cache-")
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="mmfusion-test-datasets-")

import pytest
from helpers import make_model, make_text_tower, make_vision_tower, write_shop

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from training.features import embedder
from training.learning import calibration, stage, stages

gc.freeze()  # what the imports made stays, so that no collection looks at it again
atexit.register(gc.unfreeze)
for variable in ("MMFUSION_CACHE", "HF_DATASETS_CACHE"):
    atexit.register(shutil.rmtree, os.environ[variable], ignore_errors=True)


@pytest.fixture(scope="session")
def towers(tmp_path_factory) -> dict[str, Path]:
    """Folders of the tiny towers: `text`, `vision` and a wider `query`."""
    folder = tmp_path_factory.mktemp("towers")
    return {
        "text": make_text_tower(folder / "text"),
        "vision": make_vision_tower(folder / "vision"),
        "query": make_text_tower(folder / "query", hidden_size=20, seed=2),
    }


@pytest.fixture
def model(towers) -> MMFusionModel:
    """A tiny model whose heads are random, not just started, so that every part has an effect."""
    return make_model(towers)


@pytest.fixture
def processor(towers) -> MMFusionProcessor:
    """The tiny model's processor."""
    return MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"])


@pytest.fixture
def shop(tmp_path) -> Path:
    """The tiny shop's folder."""
    return write_shop(tmp_path / "shop")


@pytest.fixture(scope="module")
def saved(towers, tmp_path_factory):
    """The tiny model's folder."""
    folder = tmp_path_factory.mktemp("saved")
    make_model(towers).save_pretrained(folder)
    MMFusionProcessor.from_towers(text=towers["text"], vision=towers["vision"]).save_pretrained(folder)
    return folder


@pytest.fixture
def last_epoch_is_kept(monkeypatch):
    """So that weights tell of all that was drawn in the epochs."""
    monkeypatch.setattr(stage, "SELECTION_NOISE", 1.0)


@pytest.fixture
def short_endings(monkeypatch):
    """Stages that end in a few steps of calibration and draw no picture, where a test looks at what comes before."""
    monkeypatch.setattr(calibration, "STEPS", 3)
    monkeypatch.setattr(stages, "draw_training", lambda lines, file: file.write_bytes(b""))


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(embedder, "WINDOW", 4)
