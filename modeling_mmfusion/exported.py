"""Towers that `training.export` wrote, on ONNX Runtime or OpenVINO.

```python
>>> towers = OnnxTowers("runs/quickstart/model/onnx")
>>> vectors = towers.product_vectors(processor.process_products(products))
```
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checksums import check_whole, existing_file
from .errors import DataError, one_line
from .json_files import ANY, COUNT, TEXT, Kind, read_form

MANIFEST = "export.json"
DTYPE = Kind("a type of arrays", lambda value: value in ("bool", "int32", "int64", "float16", "float32"))
AXIS = Kind("a size or name of an axis", lambda value: isinstance(value, str) or COUNT.holds(value))
INPUTS = {ANY: {"dtype": DTYPE, "shape": [AXIS]}}
FORM = {"model": TEXT, "inputs": {"query": INPUTS, "product": INPUTS}}
Runner = Callable[[dict[str, np.ndarray]], np.ndarray]


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
        DataError: if a file is missing or damaged.
    """

    suffix: str

    def __init__(self, folder: str | Path, query: str = "query_tower", threads: int = 0):
        self.folder = Path(folder)
        self.query = query
        self.threads = threads
        facts = read_export(self.folder)
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


def read_export(folder: Path) -> dict[str, Any]:
    """What `export.json` says of a folder that `training.export` wrote.

    Raises:
        DataError: if a file of the folder is missing or damaged.
    """
    check_whole(folder)
    manifest = existing_file(folder / MANIFEST, "a folder that training.export wrote")
    return read_form(manifest, FORM, "run training.export again")


@contextmanager
def loading(file: Path) -> Iterator[None]:
    """Makes one line of what an engine says of a tower's file; each has kinds of errors of its own.

    Raises:
        DataError: naming the file.
    """
    try:
        yield
    except Exception as error:
        raise DataError(f"{file}: can't load the tower: {one_line(error)}; run training.export again") from error


class OnnxTowers(ExportedTowers):
    """Towers on ONNX Runtime; see [`ExportedTowers`]."""

    suffix = ".onnx"

    def _load(self, file: Path) -> Runner:
        try:
            import onnxruntime  # of the extra `export`
        except ImportError as error:
            raise DataError(f"{file}: onnxruntime is not installed; run: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        with loading(file):
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
        core = openvino_core()
        with loading(file):
            compiled = core.compile_model(file, "CPU", settings)
        return lambda arrays: compiled(arrays)["vectors"]


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
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # typeshed knows modules alone
    try:
        import openvino
    except ImportError as error:
        raise DataError("openvino is not installed; run: pip install openvino") from error
    return openvino


@cache
def openvino_core():
    """The process's one `openvino.Core`, which lives as long as the process.

    Each core gives the thread that first compiles with it a stack for signals, and takes it back when it goes. Of two
    that go in the order in which they came, the second leaves the thread a stack that is no longer there, and the next
    signal, a Ctrl-C or the end of a loader's process, is a segmentation fault (OpenVINO 2026.4).
    """
    return import_openvino().Core()
