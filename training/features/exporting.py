"""Writes towers as ONNX and OpenVINO files and measures how well they agree with the model."""

import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import BatchFeature

from modeling_mmfusion import MMFusionModel, MMFusionProcessor
from modeling_mmfusion.errors import DataError, one_line
from modeling_mmfusion.exported import TOKENIZER, OnnxTowers, import_openvino, openvino_core
from training.common.files import check_folder
from training.features.backends import EXPORTED
from training.features.options import ExportArguments

WRITER = "training.export"
QUERY_FOLDER = "query"  # see `query_folder`
EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino")
EXPORT_INSTALL = "pip install -e '.[export]'"
MAX_DIFFERENCE = 1e-4
MIN_INT8_COSINE = 0.95
TIMED_CALLS = 5
# Dimensions of each input that may vary; those of pictures if it is not named.
AXES = {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens"), "text_mask": ("batch",)}
PICTURE_AXES = ("batch", "images")
# What agreement is measured on. Real vocabulary, several lengths, pictures of several shapes, anything missing.
QUERIES = (
    "mug",
    "navy striped t-shirt for men",
    "a small blue ceramic coffee mug with a handle",
    "gift under 20",
    "water-proof hiking boots size 42",
    "light oak dining chair",
)
LISTINGS = (
    ("Breton tee", "Soft cotton with navy stripes, a boat neck and long sleeves. Machine washable at 30 degrees."),
    ("Stoneware mug", "Hand-thrown and glazed in sea green; holds 350 ml."),
    ("Trail boots", "Waterproof leather, a wide toe box and a sole that grips wet rock."),
    ("Oak chair", ""),
    ("Rain jacket for children", "Yellow, with reflective stripes and a hood that comes off."),
    ("Desk lamp", "Brass arm, linen shade, a bulb of 40 W is included, cable of two metres with a switch."),
    ("Wool scarf", "Lambswool, 180 x 30 cm."),
    ("Leather tote", "Takes a laptop of 14 inches, a bottle and the shopping of an evening."),
)


class Tower(nn.Module):
    """One tower with tensors only on both sides: the processor's inputs by name to unit vectors.

    Args:
        model (`MMFusionModel`): the model; it is put in eval mode.
        name (`str`): `query` or `product`.
    """

    def __init__(self, model: MMFusionModel, name: str):
        super().__init__()
        self.model = model
        self.eval()
        self.features = {"query": model.get_query_features, "product": model.get_product_features}[name]

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Vectors of shape `(batch, embedding_dim)`."""
        return self.features(**inputs).pooler_output


@dataclass
class Case:
    """A tower, what it is tried on and what it says.

    Attributes:
        tower (`Tower`): the eager tower.
        batches (`list[BatchFeature]`): inputs; the first has all that there are and is traced, the last is timed.
        vectors (`list[np.ndarray]`): the eager tower's vectors of each batch.
        ms (`float`): milliseconds an item of the last batch.
    """

    tower: Tower
    batches: list[BatchFeature]
    vectors: list[np.ndarray]
    ms: float


def check_options(formats: list[str], quantize_query: str | None, pictures: bool = False) -> None:
    """Refuses what can't be written before anything is computed.

    Raises:
        DataError: if a format is unknown, an 8-bit tower or `picture.onnx` is asked for without ONNX or a package is
            not installed.
    """
    for name in formats:
        if name not in (*EXPORTED, QUERY_FOLDER):
            raise DataError(f"unknown format {name!r}; use some of {', '.join((*EXPORTED, QUERY_FOLDER))}")
    if quantize_query and not {"onnx", QUERY_FOLDER} & set(formats):
        raise DataError(f"--quantize-query {quantize_query} goes with --formats onnx or {QUERY_FOLDER}")
    if pictures and "onnx" not in formats:
        raise DataError("--pictures goes with --formats onnx")
    for package in EXPORT_PACKAGES:
        if find_spec(package) is None:
            raise DataError(f"{package} is not installed; run: {EXPORT_INSTALL}")


def export_folder(arguments: ExportArguments, formats: list[str]) -> Path:
    """The folder that gets a folder for each format.

    Raises:
        DataError: if the model is no folder and none is given, or one of them holds what may not be replaced.
    """
    if arguments.output is None and not Path(arguments.model).is_dir():
        raise DataError(f"{arguments.model}: is no folder here, in which the towers could go; give --output")
    output = Path(arguments.output or arguments.model)
    for name in formats:
        check_folder(output / name, WRITER)
    return output


def query_samples(processor: MMFusionProcessor) -> list[BatchFeature]:
    """Queries of several lengths, then one alone."""
    return [processor.process_queries(list(queries)) for queries in (QUERIES, QUERIES[:2], QUERIES[1:2])]


def product_samples(processor: MMFusionProcessor) -> list[BatchFeature]:
    """Products with and without text and pictures: mixed, only text, only pictures, one alone, and all complete."""
    complete = [
        {"title": title, "description": description, "image": sample_picture(number)}
        for number, (title, description) in enumerate(LISTINGS)
    ]
    texts = [{"title": title, "description": description} for title, description in LISTINGS[:3]]
    pictures = [{"image": sample_picture(number)} for number in range(2)]
    several = {"title": "Stoneware mug", "image": [sample_picture(number) for number in (3, 4)]}
    batches = [[complete[0], texts[1], pictures[0], several, {}], texts, pictures, complete[:1], complete]
    return [processor.process_products(batch) for batch in batches]


def sample_picture(number: int) -> Image.Image:
    """A picture with edges, areas and colours of its own, wide for even numbers and tall for odd ones."""
    size = (320, 240) if number % 2 == 0 else (240, 320)
    corners = [(-2 + 0.1 * number + shift, -1.2, 0.8 + shift, 1.2) for shift in (0.0, 0.3, 0.6)]
    return Image.merge("RGB", [Image.effect_mandelbrot(size, corner, 60) for corner in corners])


def make_case(tower: Tower, batches: list[BatchFeature]) -> Case:
    """Runs the eager tower over its batches; see [`Case`]."""
    with torch.inference_mode():
        vectors = [tower(**batch).numpy() for batch in batches]
        return Case(tower, batches, vectors, milliseconds(lambda inputs: tower(**inputs), batches[-1]))


def describe_inputs(batch: BatchFeature) -> dict[str, dict[str, Any]]:
    """Type and shape of each input, with names for dimensions that may vary."""
    return {
        name: {
            "dtype": str(tensor.numpy().dtype),
            "shape": [*axes_of(name), *tensor.shape[len(axes_of(name)) :]],
        }
        for name, tensor in batch.items()
    }


def axes_of(name: str) -> tuple[str, ...]:
    """Names of the leading dimensions of an input, all of which may vary."""
    return AXES.get(name, PICTURE_AXES)


def export_onnx(case: Case, file: Path, output: str = "vectors") -> None:
    """Writes a tower as ONNX with `torch.onnx.export`, its output by a name.

    Raises:
        DataError: if an encoder does what can't be exported.
    """
    inputs = dict(case.batches[0])
    with quiet_exporter():
        try:
            program = torch.onnx.export(
                case.tower,
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes={"inputs": {name: dict(enumerate(axes_of(name))) for name in inputs}},
                input_names=list(inputs),
                output_names=[output],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = one_line(error.__cause__ or error)
            raise DataError(f"{file.stem}: its encoders can't be exported: {reason}") from error
        forget_origin(program)
        program.save(file)


def forget_origin(program: torch.onnx.ONNXProgram) -> None:
    """Removes the notes of an exported program that tell the source line, with its path, of every node."""
    from onnxscript import ir

    for graph in (program.model.graph, *program.model.functions.values()):
        for node in ir.traversal.RecursiveGraphIterator(graph):
            node.metadata_props.clear()


def write_onnx(exported: Path, folder: Path) -> None:
    """Copies the exported towers; those of more than 2 GB have their weights in a file beside them."""
    shutil.copytree(exported, folder, dirs_exist_ok=True)


def write_query_tokenizer(folder: Path, processor: MMFusionProcessor) -> dict[str, Any]:
    """Writes the query tower's tokenizer as the processor uses it, which searches by the exported tower read without
    transformers; but for one that is not of the library `tokenizers`.

    Returns:
        `dict`: what `export.json` tells of it.
    """
    tokenizer = processor.query_tokenizer
    if not tokenizer.is_fast or tokenizer.split_special_tokens:
        return {}
    processor.process_queries(["a"])  # which tells the tokenizer how to cut and pad
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    return {"unknown_token": tokenizer.unk_token}


def write_openvino(exported: Path, folder: Path) -> None:
    """Converts the exported towers, in float32: OpenVINO halves the weights if it is not told otherwise."""
    openvino = import_openvino()
    for file in exported.glob("*.onnx"):
        network = openvino_core().read_model(file)
        openvino.save_model(network, folder / f"{file.stem}.xml", compress_to_fp16=False)


def agreement(format: str, folder: Path, cases: dict[str, Case]) -> dict[str, dict[str, float | int]]:
    """Measures a folder's towers against the model; by file what [`measure_tower`] returns.

    Raises:
        DataError: if a vector differs by more than 1e-4 anywhere.
    """
    towers = EXPORTED[format](folder, threads=torch.get_num_threads())
    measured = {
        "query_tower": measure_tower(f"{format}/query_tower", towers.query_vectors, cases["query"]),
        "product_tower": measure_tower(f"{format}/product_tower", towers.product_vectors, cases["product"]),
    }
    for name, found in measured.items():
        check_agreement(format, name, found)
    return measured


def check_agreement(folder: str, name: str, found: dict[str, float | int]) -> None:
    """Refuses a tower of a folder by what [`measure_tower`] found.

    Raises:
        DataError: if a vector differs by more than 1e-4 anywhere.
    """
    if not found["max_difference"] <= MAX_DIFFERENCE:  # a vector that is not a number is refused too
        raise DataError(
            f"{folder}/{name}: vectors differ from the model's by up to {found['max_difference']:.1e}, more than "
            f"{MAX_DIFFERENCE:.0e}; {folder}/ is not written"
        )


def add_int8_query(folder: Path, case: Case) -> dict[str, float | int]:
    """Adds the query tower with 8-bit weights to the ONNX folder; what [`measure_tower`] returns.

    Raises:
        DataError: see [`check_int8`].
    """
    target = folder / "query_tower_int8.onnx"
    quantize_int8(folder / "query_tower.onnx", target)
    towers = OnnxTowers(folder, query=target.stem, threads=torch.get_num_threads())
    found = measure_tower(f"onnx/{target.stem}", towers.query_vectors, case)
    check_int8("onnx", target.stem, found)
    return found


def quantize_int8(source: Path, target: Path) -> None:
    """Writes an ONNX file with 8-bit weights. They have one scale for each output channel, activations are scaled as
    they come (dynamic quantisation of ONNX Runtime)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch:
        prepared = Path(scratch, source.name)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, target, weight_type=QuantType.QInt8, per_channel=True)


def check_int8(folder: str, name: str, found: dict[str, float | int]) -> None:
    """Refuses an 8-bit tower of a folder by what [`measure_tower`] found.

    Raises:
        DataError: if the cosine of a vector to the model's is less than 0.95.
    """
    if not found["min_cosine"] >= MIN_INT8_COSINE:
        raise DataError(
            f"{folder}/{name}: the cosine of a vector to the model's is {found['min_cosine']:.3f}, less than "
            f"{MIN_INT8_COSINE}; {folder}/ is not written: export without --quantize-query"
        )


def measure_tower(tower: str, vectors_of: Callable[[BatchFeature], np.ndarray], case: Case) -> dict[str, float | int]:
    """How far an exported tower's vectors lie from the model's at most, and the milliseconds an item of both.

    `batch` is the number of items that were timed together and `threads` the number of threads of both.

    Raises:
        DataError: if the tower fails on a batch of another shape than the one that was traced, as those of image
            encoders do that resize their positions to each picture (SigLIP2 NaFlex).
    """
    try:
        found = [vectors_of(batch) for batch in case.batches]
    except Exception as error:  # each engine has its own
        raise DataError(f"{tower}: does not run on all inputs: {one_line(error)}") from error
    pairs = list(zip(found, case.vectors, strict=True))
    return {
        "max_difference": float(max(np.abs(mine - expected).max() for mine, expected in pairs)),
        "min_cosine": float(min((mine * expected).sum(axis=1).min() for mine, expected in pairs)),
        "ms": milliseconds(vectors_of, case.batches[-1]),
        "ms_torch": case.ms,
        "batch": len(case.vectors[-1]),
        "threads": torch.get_num_threads(),
    }


def milliseconds(function: Callable[[BatchFeature], Any], batch: BatchFeature) -> float:
    """Milliseconds an item of a batch, the best of 5 calls."""
    seconds = []
    for _ in range(TIMED_CALLS):
        started = time.perf_counter()
        function(batch)
        seconds.append(time.perf_counter() - started)
    return round(1000 * min(seconds) / len(batch["input_ids"]), 3)


def format_agreement(folder: Path, measured: dict[str, dict[str, float | int]]) -> str:
    """One line a tower."""
    lines = []
    for name, found in measured.items():
        if "ms" in found:
            unit = "product" if name.startswith("product") else "query"
            speed = f"{found['ms']:.2f} ms (torch: {found['ms_torch']:.2f}) a {unit}"
        else:
            speed = (
                f"{found['mean_difference']:.2f} levels of 255 on average; cosine of vectors {found['min_cosine']:.4f}"
            )
        lines.append(f"{folder}/{name}: differs by at most {found['max_difference']:.1e}, {speed}")
    return "\n".join(lines)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keeps back notes of the exporter that no one can act on: shared axis names and nodes that it can't fold."""
    folding = logging.getLogger("onnxscript.optimizer._constant_folding")
    level = folding.level
    folding.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            yield
    finally:
        folding.setLevel(level)


WRITERS = {"onnx": write_onnx, "openvino": write_openvino}
