"""Towers that `training.export` wrote, on ONNX Runtime or OpenVINO.

```python
>>> towers = OnnxTowers("runs/quickstart/model/onnx")
>>> vectors = towers.product_vectors(processor.process_products(products))
```

Queries alone need neither torch nor transformers:

```python
>>> reader = exported_query_reader("runs/quickstart/model")
>>> vectors = towers.query_vectors(reader.process_queries(["green striped mug"]))
```
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from .checksums import check_whole, existing_file
from .errors import DataError, one_line
from .json_files import ANY, COUNT, TEXT, Kind, check_form, parse_json, read_form
from .queries_mmfusion import MMFusionQueryReader

if TYPE_CHECKING:
    import torch

MANIFEST = "export.json"
TOKENIZER = "query_tokenizer.json"  # beside it, where the query tower's tokenizer can be had without transformers
SETTINGS = "processor_config.json"  # of the model
DTYPE = Kind("a type of arrays", lambda value: value in ("bool", "int32", "int64", "float16", "float32"))
AXIS = Kind("a size or name of an axis", lambda value: isinstance(value, str) or COUNT.holds(value))
INPUTS = {ANY: {"dtype": DTYPE, "shape": [AXIS]}}
FORM = {"model": TEXT, "inputs": {"query": INPUTS, "product": INPUTS}}
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT_OR_NULL = Kind("a text or null", lambda value: value is None or isinstance(value, str))
# of a processor, with what those that were saved before there were such say
READER_DEFAULTS = {"text_padding": "longest", "lower_case": False, "plain_words": False, "spelling_words": ""}
READER_FORM = {"query_prefix": TEXT, "max_query_length": COUNT, "text_padding": TEXT, "spelling_words": TEXT}
READER_FORM |= {"lower_case": FLAG, "plain_words": FLAG}
Arrays = Mapping[str, "torch.Tensor"] | Mapping[str, np.ndarray]
Runner = Callable[[dict[str, np.ndarray]], np.ndarray]


class ExportedTowers:
    """A folder that `training.export` wrote. A tower is loaded when it is first asked, the other one not at all.

    Args:
        folder (`str` or `Path`): the folder with the towers' files and `export.json`.
        query (`str`, *optional*, defaults to `"query_tower"`): the query tower's file without its suffix;
            `query_tower_int8` for the quantised one.
        threads (`int`, *optional*, defaults to 0): threads to run on; 0 for one a core.
        queries_only (`bool`, *optional*, defaults to `False`): check the content of the query tower's files alone, for
            those who won't ask the product tower.

    Attributes:
        model (`str`): fingerprint of the model that was exported.

    Raises:
        DataError: if a file is missing or damaged.
    """

    suffix: str

    def __init__(self, folder: str | Path, query: str = "query_tower", threads: int = 0, queries_only: bool = False):
        self.folder = Path(folder)
        self.query = query
        self.threads = threads
        own = [MANIFEST, *(file.name for file in self.folder.glob(f"{query}.*"))]
        facts = read_export(self.folder, own if queries_only else None)
        self.inputs, self.model = facts["inputs"], facts["model"]

    def query_vectors(self, inputs: Arrays) -> np.ndarray:
        """Unit vectors `(batch, embedding_dim)`, float32, of what `processor.process_queries` returns."""
        return self._query_tower(arrays_of(inputs, self.inputs["query"]))

    def product_vectors(self, inputs: Arrays) -> np.ndarray:
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


def read_export(folder: Path, read: Sequence[str] | None = None) -> dict[str, Any]:
    """What `export.json` says of a folder that `training.export` wrote.

    Args:
        folder (`Path`): the folder.
        read (`Sequence[str]`, *optional*): the files whose content is checked now; all if not given.

    Raises:
        DataError: if a file of the folder is missing or damaged.
    """
    check_whole(folder, read=read)
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


def arrays_of(inputs: Arrays, wanted: Mapping[str, Mapping]) -> dict[str, np.ndarray]:
    """A tower's inputs as arrays; products of which none has a picture get one missing picture each.

    Args:
        inputs (`Mapping[str, torch.Tensor]` or `Mapping[str, np.ndarray]`): the processor's.
        wanted (`Mapping[str, Mapping]`): `dtype` and `shape` of each input, as in `export.json`.
    """
    batch = len(inputs["input_ids"])
    return {
        name: np.asarray(inputs[name]) if name in inputs else np.zeros((batch, 1, *form["shape"][2:]), form["dtype"])
        for name, form in wanted.items()
    }


class ExportedQueryReader(MMFusionQueryReader):
    """What the model's processor makes of queries, by the library `tokenizers` alone; see [`exported_query_reader`].

    Args:
        tokenizer (`Tokenizer`): the query tower's, with the sides from which it cuts and pads.
        settings (`Mapping[str, Any]`): of the processor, by the names of its arguments.
        unknown_token (`str`, *optional*): stands for words that the tokenizer does not know.

    Raises:
        ValueError: if the tokenizer does not tell these sides.
    """

    def __init__(self, tokenizer: Tokenizer, settings: Mapping[str, Any], unknown_token: str | None):
        self.query_prefix = settings["query_prefix"]
        self.lower_case = settings["lower_case"]
        self.plain_words = settings["plain_words"]
        self.spelling_words = settings["spelling_words"]
        self.unknown_token = unknown_token
        if tokenizer.padding is None or tokenizer.truncation is None:
            raise ValueError("it does not tell how it cuts and pads")
        self.padding = tokenizer.padding
        self.length = settings["max_query_length"] if settings["text_padding"] == "max_length" else 0
        tokenizer.no_padding()
        tokenizer.enable_truncation(**tokenizer.truncation | {"max_length": settings["max_query_length"]})
        self.tokenizer = tokenizer

    def process_queries(self, queries: str | Sequence[str]) -> dict[str, np.ndarray]:
        """Queries to `input_ids` and `attention_mask` of shape `(batch, tokens)`, int64; the same as
        [`MMFusionProcessor.process_queries`] makes of them."""
        queries = [queries] if isinstance(queries, str) else queries
        found = self.tokenizer.encode_batch([self.prefixed_query(query) for query in queries])
        length = max(self.length, *(len(one.ids) for one in found), 0)
        for one in found:
            self._pad(one, length)
        ids = np.array([one.ids for one in found], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": np.array([one.attention_mask for one in found], dtype=np.int64)}

    def _pad(self, encoding: Encoding, length: int) -> None:
        names = ("direction", "pad_id", "pad_type_id", "pad_token")
        encoding.pad(length, **{name: self.padding[name] for name in names})

    def _is_token(self, word: str) -> bool:
        tokens = self.tokenizer.encode(f" {word}", add_special_tokens=False).tokens
        return len(tokens) == 1 and tokens[0] != self.unknown_token


def exported_query_reader(model: str | Path) -> ExportedQueryReader | None:
    """What makes the inputs of a model's exported query tower, without torch and transformers.

    `None` where `training.export` did not write the tokenizer: one that is not of the library `tokenizers`, or in a
    folder of an earlier release.

    Args:
        model (`str` or `Path`): a model folder with `onnx/`.

    Raises:
        DataError: if a file is missing or damaged.
    """
    folder = Path(model, "onnx")
    if not (folder / TOKENIZER).is_file():
        return None
    check_whole(model, read=[SETTINGS])
    facts = read_export(folder, read=[MANIFEST, TOKENIZER])
    check_form(folder / MANIFEST, facts, {"unknown_token": TEXT_OR_NULL}, "run training.export again")
    file = existing_file(Path(model, SETTINGS), "a model folder")
    try:
        settings = READER_DEFAULTS | parse_json(file.read_bytes())
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: is damaged ({one_line(error)}); restore it, or train the model again") from error
    check_form(file, settings, READER_FORM, "restore it, or train the model again")
    with loading(folder / TOKENIZER):
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        return ExportedQueryReader(tokenizer, settings, facts["unknown_token"])


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
