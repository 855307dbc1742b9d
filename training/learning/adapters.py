"""Low-rank adapters of the encoders, trained and saved with the heads, and merged into a plain model."""

import copy
import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from modeling_mmfusion import MMFusionModel
from modeling_mmfusion.errors import DataError, one_line
from training.learning.options import LoraArguments

ENCODERS = {"text": r"(text_model|query_model)\.", "vision": r"vision_model\."}
# Heads of contrastive vision encoders hold nn.MultiheadAttention, which no adapter reaches, and unused poolers.
EXCLUDED = r".*(pooler|vision_model\.head)\..*"
HEADS = ("text_head", "query_text_head", "query_heads", "product_heads", "logit_scale")


def add_lora(model: MMFusionModel, arguments: LoraArguments, encoders: set[str]) -> PeftModel:
    """Puts adapters, which start at no effect, into a model's encoders, in place; its heads are copied for training.

    Args:
        model (`MMFusionModel`): its own weights don't change any more.
        arguments (`LoraArguments`): rank and targets.
        encoders (`set[str]`): `text` (the query tower's own encoder as well), `vision` or both.

    Returns:
        The PEFT model, whose `save_pretrained` writes adapters and heads alone.

    Raises:
        DataError: if no layer has a name that fits.
    """
    prefix = "|".join(ENCODERS[name] for name in sorted(encoders))
    heads = [name for name in HEADS if getattr(model, name, None) is not None]
    config = LoraConfig(
        r=arguments.rank,
        lora_alpha=arguments.alpha,
        lora_dropout=arguments.dropout,
        target_modules=f"({prefix}){arguments.targets}",
        exclude_modules=EXCLUDED,
        modules_to_save=heads,
    )
    try:
        return get_peft_model(model, config)
    except (ValueError, re.error) as error:
        raise DataError(
            f"--lora.targets: no layer of the encoders {', '.join(sorted(encoders))} has a name that fits "
            f"{arguments.targets!r}: {one_line(error)}"
        ) from error


def merged(model: MMFusionModel, peft_model: PeftModel | None) -> MMFusionModel:
    """The model with its adapters merged, as a copy; the model itself if it has none."""
    return model if peft_model is None else copy.deepcopy(peft_model).merge_and_unload()


def adapter_parameters(model: MMFusionModel) -> list[torch.nn.Parameter]:
    """The adapters' own parameters."""
    return [parameter for name, parameter in model.named_parameters() if ".lora_" in name]


def save_adapter(peft_model: PeftModel, folder: Path, base: str) -> None:
    """Writes adapters and heads alone.

    Args:
        peft_model (`PeftModel`): the trained model.
        folder (`Path`): where to.
        base (`str`): folder or Hub id of the model that the adapter belongs to.
    """
    peft_model.peft_config["default"].base_model_name_or_path = base
    peft_model.save_pretrained(folder)
