"""What runs the towers: torch, or on a CPU ONNX Runtime or OpenVINO with what `training.export` wrote.

towers = OnnxTowers("runs/quickstart/model/onnx")
vectors = towers.product_vectors(processor.process_products(products))
"""

import json
import sys
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.fusion_mmfusion import truncate_vectors
from training.common.errors import DataError
from training.common.files import existing_file

MANIFEST = "export.json"
Runner = Callable[[dict[str, np.ndarray]], np.ndarray]


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


class ExportedTowers:
    """A folder that `training.export` wrote. A tower is loaded when it is first asked, the other one not at all.

    Args:
        folder (`str` or `Path`): the folder with the towers' files and `export.json`.
        query (`str`, *optional*, defaults to `"query_tower"`): the query tower's file without its suffix;
            `query_tower_int8` for the quantised one.
        threads (`int`, *optional*, defaults to 0): threads to run on; 0 for one a core.

    Attributes:
        model (`str`): fingerprint of the model that was exported.

    Raises:
        DataError: if a file is missing.
    """

    suffix: str

    def __init__(self, folder: str | Path, query: str = "query_tower", threads: int = 0):
        self.folder = Path(folder)
        self.query = query
        self.threads = threads
        manifest = existing_file(self.folder / MANIFEST, "a folder that training.export wrote")
        facts = json.loads(manifest.read_text())
        self.inputs, self.model = facts["inputs"], facts["model"]

    def query_vectors(self, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Unit vectors `(batch, embedding_dim)`, float32, of what `processor.process_queries` returns."""
        return self._query_tower(arrays_of(inputs, self.inputs["query"]))

    def product_vectors(self, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Unit vectors `(batch, embedding_dim)`, float32, of what `processor.process_products` returns."""
        return self._product_tower(arrays_of(inputs, self.inputs["product"]))

    @cached_property
    def _query_tower(self) -> Runner:
        return self._load(self._file(self.query))

    @cached_property
    def _product_tower(self) -> Runner:
        return self._load(self._file("product_tower"))

    def _file(self, name: str) -> Path:
        return existing_file(self.folder / f"{name}{self.suffix}", "a tower that training.export wrote")

    def _load(self, file: Path) -> Runner:
        raise NotImplementedError


class OnnxTowers(ExportedTowers):
    """Towers on ONNX Runtime; see [`ExportedTowers`]."""

    suffix = ".onnx"

    def _load(self, file: Path) -> Runner:
        import onnxruntime  # of the extra `export`

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda arrays: session.run(["vectors"], arrays)[0]


class OpenVinoTowers(ExportedTowers):
    """Towers on OpenVINO; see [`ExportedTowers`].

    Computes in float32. Left to itself OpenVINO takes bfloat16 where the processor has it, which moves a vector by
    about 0.01.
    """

    suffix = ".xml"

    def _load(self, file: Path) -> Runner:
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.threads}
        compiled = openvino_core().compile_model(file, "CPU", settings)
        return lambda arrays: compiled(arrays)["vectors"]


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


ENGINES = {"onnx": OnnxTowers, "openvino": OpenVinoTowers}
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}


def choose_backend(folder: str | Path, fingerprint: str, on_gpu: bool) -> str:
    """The fastest backend that is ready: torch on a GPU; else OpenVINO or ONNX, if installed and exported from this
    model; else torch.

    Args:
        folder (`str` or `Path`): holds `openvino/` or `onnx/`, as the model's folder does after `training.export`.
        fingerprint (`str`): the model's; towers of another one are not taken.
        on_gpu (`bool`): whether the model is on a GPU.
    """
    if not on_gpu:
        for name in ("openvino", "onnx"):
            manifest = Path(folder, name, MANIFEST)
            if find_spec(PACKAGES[name]) and manifest.is_file():
                if json.loads(manifest.read_text(encoding="utf-8")).get("model") == fingerprint:
                    return name
    return "torch"


def exported_towers(name: str, folder: str | Path, fingerprint: str, threads: int) -> ExportedTowers:
    """The towers `onnx` or `openvino` below a folder; see [`choose_backend`].

    Raises:
        DataError: if they are not there, were exported from another model, or the engine is not installed.
    """
    if find_spec(PACKAGES[name]) is None:
        raise DataError(f"{PACKAGES[name]} is not installed; run: pip install -e '.[export]'")
    towers = ENGINES[name](Path(folder, name), threads=threads)
    if towers.model != fingerprint:
        raise DataError(f"{towers.folder}: was exported from another model; run training.export again")
    return towers


def arrays_of(inputs: Mapping[str, torch.Tensor], wanted: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    """A tower's inputs as arrays; products of which none has a picture get one missing picture each.

    Args:
        inputs (`Mapping[str, torch.Tensor]`): the processor's.
        wanted (`Mapping[str, Mapping]`): `dtype` and `shape` of each input, as in `export.json`.
    """
    batch = len(inputs["input_ids"])
    return {
        name: inputs[name].numpy() if name in inputs else np.zeros((batch, 1, *form["shape"][2:]), form["dtype"])
        for name, form in wanted.items()
    }


def import_openvino():
    """Imports OpenVINO without its telemetry, which writes to `~/intel` and reports to Google Analytics by default.

    OpenVINO runs with a stub where the telemetry's package is not there (`openvino.tools.ovc.telemetry_stub`).
    """
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@cache
def openvino_core():
    """The process's one `openvino.Core`, which lives as long as the process.

    Each core gives the thread that first compiles with it a stack for signals, and takes it back when it goes. Of two
    that go in the order in which they came, the second leaves the thread a stack that is no longer there, and the next
    signal, a Ctrl-C or the end of a loader's process, is a segmentation fault (OpenVINO 2026.4).
    """
    return import_openvino().Core()
