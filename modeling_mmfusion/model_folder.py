"""A model's folder: whole, as it was written, and loaded with its processor."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from transformers.utils import logging

from .auto import MMFusionModel, MMFusionProcessor
from .checksums import check_model_name, check_whole
from .errors import DataError, one_line
from .fingerprint import check_finite

MENDABLE = (ImportError, OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)
OURS = ("modeling_mmfusion", "training", "transformers_modules")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Makes one line of what libraries raise while they read a model's files.

    `transformers` looks at few of the values that it reads, and `tokenizers` raises plain `Exception`: a damaged file
    ends in a `KeyError` or `TypeError` as well. One that a library raises is taken for the file's fault; one that our
    own code raises is a fault of ours and passes.

    Args:
        what (`str`): the start of the line, such as `runs/a/model: can't load the model`.

    Raises:
        DataError: with what was raised.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # `transformers` logs a table of what it then raises
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if not isinstance(error, MENDABLE) and _raised_by_us(error):
            raise
        raise DataError(f"{what}: {one_line(error) or type(error).__name__}") from error
    finally:
        logging.set_verbosity(verbosity)


def _raised_by_us(error: Exception) -> bool:
    """Whether the innermost frame of an error is of this repository."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in OURS


def load_model(
    name: str | os.PathLike, device: str | None = None, truncate_dim: int | None = None
) -> tuple[MMFusionModel, MMFusionProcessor]:
    """Loads a model folder or Hub id and its processor, in eval mode, on a GPU if there is one.

    Args:
        name (`str`): folder or Hub id.
        device (`str`, *optional*): such as `cpu`.
        truncate_dim (`int`, *optional*): length of the vectors; see [`MMFusionConfig`].

    Raises:
        DataError: if there is no such model, it is none of ours, a file or weight is missing or damaged, or it can't
            be truncated so.
    """
    check_model_name(name)
    check_whole(name)
    with reading(f"{name}: can't load the model"):
        model = load_weights(MMFusionModel, name)
        model.config.truncate_dim = truncate_dim or model.config.truncate_dim
        model.config.truncated_dims(model.config.projection_dim)
        processor = try_processor(MMFusionProcessor.from_pretrained(name))
    check_finite(model.state_dict(), str(name))
    return prepare_for_inference(model, device), processor


def load_weights(kind: type[MMFusionModel], name: str | os.PathLike) -> MMFusionModel:
    """A model of a class of ours, with all its weights from a folder or from the Hub.

    Raises:
        DataError: if one is missing or of another shape than the configuration tells.
    """
    model, loading = kind.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True)
    if odd := sorted(loading["mismatched_keys"]):
        key, stored, told = odd[0]
        raise DataError(f"{name}: the weight {key} has the shape {tuple(stored)}, by config.json it is {tuple(told)}")
    if missing := sorted(loading["missing_keys"]):
        raise DataError(f"{name}: the checkpoint lacks {len(missing)} weights, such as {missing[0]}; train it again")
    return model


def try_processor(processor: MMFusionProcessor) -> MMFusionProcessor:
    """Has a processor read a query and a product, and gives it back. What its files lack, such as a padding token or a
    colour's mean, the libraries would only tell when they use it.

    Raises:
        ValueError: if a picture becomes what is no finite number, or a tokenizer's settings hold half a character,
            which could not be saved again.
    """
    for tokenizer in (processor.tokenizer, processor.query_tokenizer):
        json.dumps(tokenizer.init_kwargs, ensure_ascii=False, default=str).encode()
    processor.process_queries(["a"])
    inputs = processor.process_products([{"title": "a", "image": Image.new("RGB", (8, 8))}])
    if not torch.isfinite(inputs["pixel_values"]).all():
        raise ValueError("the image processor makes pixels that are no finite numbers: look at its mean and std")
    return processor


def prepare_for_inference(model: MMFusionModel, device: str | None = None) -> MMFusionModel:
    """Puts a model in eval mode on its device; convolutions run channels last, 1.5 to 4 times faster on a CPU."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.vision_model.to(memory_format=torch.channels_last)
    return model.to(device).eval()
