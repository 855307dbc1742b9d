"""The model that a training starts from: new heads on pretrained encoders, or an earlier model."""

import inspect
from dataclasses import fields
from pathlib import Path

import torch

from modeling_mmfusion import MMFusionConfig, MMFusionModel, MMFusionProcessor
from modeling_mmfusion.errors import DataError
from modeling_mmfusion.fingerprint import TOWERS
from modeling_mmfusion.model_folder import load_model, reading, try_processor
from training.features.encoder import Encoder
from training.features.pretrained import resolve_tower
from training.learning.options import ModelArguments


def start_model(arguments: ModelArguments, output: Path, done: list[str]) -> Encoder:
    """The model that training goes on with: of the last stage that is done, of `start`, or a new one."""
    if done:
        folder = output / done[-1]
        return Encoder.load(folder if folder.is_dir() else output / "model", device="cpu")
    return Encoder(*new_model(arguments)) if arguments.start is None else Encoder.load(arguments.start, device="cpu")


def check_fields(arguments: ModelArguments) -> None:
    """Refuses fields of `config` and `processor` that don't exist.

    Raises:
        DataError: naming them.
    """
    if unknown := set(arguments.config) - {option.name for option in fields(MMFusionConfig)}:
        raise DataError(f"--model.config: MMFusionConfig has no field {', '.join(sorted(unknown))}")
    if unknown := set(arguments.processor) - set(inspect.signature(MMFusionProcessor).parameters):
        raise DataError(f"--model.processor: can't build a model: there is no {', '.join(sorted(unknown))}")


def new_model(arguments: ModelArguments) -> tuple[MMFusionModel, MMFusionProcessor]:
    """A model with pretrained towers and new heads, and its processor.

    Raises:
        DataError: if a tower can't be loaded or a field of `config` or `processor` is unknown or out of range.
    """
    check_fields(arguments)
    towers = towers_of(arguments)
    named = ", ".join(f"{name} {found}" for name, found in towers.items() if found)
    with reading(f"can't build a model from {named}"):
        model = MMFusionModel.from_towers(**towers, **arguments.config)
        processor = try_processor(MMFusionProcessor.from_towers(**towers, **arguments.processor))
    if arguments.encoders:
        take_encoders(model, arguments.encoders)
    return model, processor


def towers_of(arguments: ModelArguments) -> dict[str, str | None]:
    """The encoders to start from, as `from_towers` takes them.

    Raises:
        DataError: if one is named beside an aligned dual encoder, or a wheel is not installed.
    """
    if arguments.aligned is None:
        names = {name: getattr(arguments, name) for name in ("text", "vision", "query")}
        return {name: found and resolve_tower(found) for name, found in names.items()}
    defaults = ModelArguments()
    for name in ("text", "vision", "query"):
        if getattr(arguments, name) != getattr(defaults, name):
            raise DataError(f"--model.{name}: leave it out: --model.aligned {arguments.aligned} has both encoders")
    return {"aligned": resolve_tower(arguments.aligned)}


def take_encoders(model: MMFusionModel, name: str) -> None:
    """Gives a model the encoders of another one, whose heads and fusion network may differ.

    Args:
        model (`MMFusionModel`): changed in place.
        name (`str`): folder or Hub id of the other model.

    Raises:
        DataError: if the other model has other encoders.
    """
    theirs = {key: value for key, value in load_model(name, device="cpu")[0].state_dict().items() if _is_encoders(key)}
    ours = {key: value for key, value in model.state_dict().items() if _is_encoders(key)}
    odd = [key for key in sorted(ours.keys() | theirs.keys()) if not _same_shape(ours.get(key), theirs.get(key))]
    if odd:
        others = "--model.text and --model.vision" if model.alignment is None else "--model.aligned"
        raise DataError(f"--model.encoders {name}: has other encoders than {others}: {odd[0]}")
    model.load_state_dict(theirs, strict=False)


def _is_encoders(key: str) -> bool:
    return key.startswith(TOWERS)


def _same_shape(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape
