"""What runs the product tower: torch, or on a CPU what `training.export` wrote."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.exported import MANIFEST, ExportedTowers, OnnxTowers, OpenVinoTowers, read_export
from modeling_mmfusion.fusion_mmfusion import truncate_vectors
from training.features.options import FORMATS


class TorchTowers:
    """The model itself, on its own device.

    Args:
        model (`MMFusionModel`): in eval mode.
        precision (`str`, *optional*, defaults to `"float32"`): `float32`, or `bfloat16` to compute in it where torch
            takes that for safe (autocast).
        compile (`bool`, *optional*, defaults to `False`): compile the encoders with `torch.compile`, once for all
            shapes; the first batches take a minute or two.
    """

    def __init__(self, model: MMFusionModel, precision: str = "float32", compile: bool = False):
        self.model = model
        self.precision = precision
        if compile:
            model.text_model.compile(dynamic=True)
            model.vision_model.compile(dynamic=True)

    @torch.inference_mode()
    def product_vectors(self, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Unit vectors `(batch, embedding_dim)`, float32, of what `processor.process_products` returns."""
        device = self.model.device
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            vectors = self.model.get_product_features(**moved).pooler_output
        return vectors.float().cpu().numpy()


class TruncatedTowers:
    """Exported towers whose products' vectors are cut as a model with `truncate_dim` does it.

    Args:
        towers (`ExportedTowers`): give whole vectors.
        model (`MMFusionModel`): with `config.truncate_dim`.
    """

    def __init__(self, towers: ExportedTowers, model: MMFusionModel):
        self.towers = towers
        self.config = model.config

    def product_vectors(self, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        """See [`ExportedTowers`]."""
        vectors = torch.from_numpy(self.towers.product_vectors(inputs))
        return truncate_vectors(vectors, self.config, self.config.truncate_dim).numpy()


EXPORTED = dict(zip(FORMATS, (OnnxTowers, OpenVinoTowers), strict=True))
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}


def choose_backend(folder: str | Path, fingerprint: str, on_gpu: bool) -> str:
    """The fastest backend that is ready: torch on a GPU; else OpenVINO or ONNX, if installed and exported from this
    model; else torch.

    Args:
        folder (`str` or `Path`): holds `openvino/` or `onnx/`, as the model's folder does after `training.export`.
        fingerprint (`str`): the model's; towers of another one are not taken.
        on_gpu (`bool`): whether the model is on a GPU.

    Raises:
        DataError: if exported towers are there and damaged.
    """
    if not on_gpu:
        for name in ("openvino", "onnx"):
            if find_spec(PACKAGES[name]) and Path(folder, name, MANIFEST).is_file():
                if read_export(Path(folder, name))["model"] == fingerprint:
                    return name
    return "torch"


def exported_towers(name: str, folder: str | Path, fingerprint: str, threads: int) -> ExportedTowers:
    """The towers `onnx` or `openvino` below a folder; see [`choose_backend`].

    Raises:
        DataError: if they are not there, were exported from another model, or the engine is not installed.
    """
    if find_spec(PACKAGES[name]) is None:
        raise DataError(f"{PACKAGES[name]} is not installed; run: pip install -e '.[export]'")
    towers = EXPORTED[name](Path(folder, name), threads=threads)
    if towers.model != fingerprint:
        raise DataError(f"{towers.folder}: was exported from another model; run training.export again")
    return towers
