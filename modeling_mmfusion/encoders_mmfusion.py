"""The encoders: how any checkpoint that transformers loads is loaded, run and asked for its widths.

A *dual encoder* is a text and an image encoder that were trained to share a space: CLIP, SigLIP, SigLIP 2,
ChineseCLIP, AltCLIP, ALIGN and `VisionTextDualEncoderModel`. Each half makes one vector and most project it by a
linear layer; what is projected and by what differs from family to family, so it is found by asking the checkpoint.
"""

import math
import os

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ModelOutput

from .configuration_mmfusion import MMFusionConfig

ATTEND_PADDING = ("siglip", "siglip2")  # trained without a mask on texts padded to their longest
# whose positions are counted from 2
OFFSET_POSITIONS = {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "ibert"}
OFFSET_POSITIONS |= {"data2vec-text", "longformer", "luke", "esm", "altclip_text_model"}
VARYING_SHAPE = "siglip2_vision_model"  # NaFlex: pictures keep their shape, and come as patches
SAME = 0.03  # how far apart, as a share of their length, vectors are that only half precision tells apart
PICTURE_SIDE = 224  # of encoders that don't tell the size of their pictures
NO_DUAL_ENCODER = (
    "is no dual encoder: give a checkpoint whose text and image encoder share a space (CLIP, SigLIP, SigLIP 2, "
    "ChineseCLIP, AltCLIP, ALIGN or VisionTextDualEncoderModel)"
)


def encoders_of(config: MMFusionConfig, parts: tuple[str, ...]) -> list[PreTrainedModel]:
    """The text encoder, the image encoder or both of a configuration, with random weights.

    Args:
        config (`MMFusionConfig`): the model's.
        parts (`tuple[str, ...]`): some of `text` and `vision`.
    """
    aligned = config.aligned_config
    if aligned is None or aligned.model_type == "vision-text-dual-encoder":
        configs = [getattr(config, f"{part}_config") for part in parts]
        return [auto_class_of(one).from_config(one) for one in configs]
    dual = AutoModel.from_config(aligned)  # not all halves are in AutoModel's table
    return [getattr(dual, f"{part}_model") for part in parts]


def auto_class_of(config: PreTrainedConfig) -> type[AutoModel] | type[AutoModelForTextEncoding]:
    """By what an encoder is made and loaded; of encoder-decoders such as T5 it is the encoder alone."""
    return AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel


def load_tower(name: str | os.PathLike, part: str) -> PreTrainedModel:
    """Loads an encoder that `AutoModel` knows, in eval mode and full precision; of a checkpoint with several, the one
    that `part` tells.

    Args:
        name (`str`): folder or Hub id.
        part (`str`): `text_config` or `vision_config`.

    Raises:
        ValueError: if it is none, or none that can be taken by itself; the message is one line.
        OSError: if there is no such checkpoint.
    """
    whole = AutoConfig.from_pretrained(name)
    config = getattr(whole, part, whole)
    auto = auto_class_of(config)
    known = MODEL_MAPPING if auto is AutoModel and not config.is_encoder_decoder else MODEL_FOR_TEXT_ENCODING_MAPPING
    if type(config) not in known and is_dual_encoder(whole):
        raise ValueError(f"{name}: the halves of {whole.model_type} can't be taken by themselves; give it as aligned")
    what, main_input = {"text_config": ("text", "input_ids"), "vision_config": ("image", "pixel_values")}[part]
    kinds = known.get(type(config), ())
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)  # Funnel's is one of two
    if main_input not in {kind.main_input_name for kind in kinds}:
        raise ValueError(f"{name}: {config.model_type} is no {what} encoder that transformers has by itself")
    model = auto.from_pretrained(name, config=config, dtype=torch.float32).eval()
    if part == "text_config":
        check_padding(name, model)
    return model


@torch.no_grad()
def check_padding(name: str | os.PathLike, encoder: PreTrainedModel) -> None:
    """Refuses a text encoder that says another thing of a text when it is padded, as FNet does, whose vectors would
    depend on what else is in a batch.

    Raises:
        ValueError: the message is one line.
    """
    ids = torch.tensor([[5, 6, 7, 8, 0, 0, 0, 0]]) % encoder.config.vocab_size
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]])
    alone, padded = (
        encoder(input_ids=ids[:, :count], attention_mask=mask[:, :count]).last_hidden_state[0, :4].float()
        for count in (4, 8)
    )
    if not are_same(alone, padded):
        raise ValueError(f"{name}: what {type(encoder).__name__} says of a text depends on its padding")


def is_dual_encoder(config: PreTrainedConfig) -> bool:
    """Whether a configuration is that of a dual encoder and not of one of ours."""
    has_halves = all(getattr(config, f"{part}_config", None) is not None for part in ("text", "vision"))
    return has_halves and config.model_type != MMFusionConfig.model_type


def load_dual_encoder(name: str | os.PathLike) -> PreTrainedModel:
    """Loads a dual encoder in eval mode and full precision.

    Args:
        name (`str`): folder or Hub id.

    Raises:
        ValueError: if it is none, or its halves' vectors differ in width; the message is one line.
        OSError: if there is no such checkpoint.
    """
    config = AutoConfig.from_pretrained(name)
    if not is_dual_encoder(config):
        raise ValueError(f"{name}: {NO_DUAL_ENCODER}")
    try:
        model = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
    except RuntimeError as error:
        raise ValueError(
            f"{name}: its weights don't fit its configuration; is a projection's width another?"
        ) from error
    if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
        raise ValueError(f"{name}: {type(model).__name__} {NO_DUAL_ENCODER}")
    widths = [projected_width(model, part) for part in ("text", "vision")]
    if widths[0] != widths[1]:
        raise ValueError(
            f"{name}: its text and image vectors have {widths[0]} and {widths[1]} dimensions, so they share no space"
        )
    return model


def projection_of(model: PreTrainedModel, part: str) -> nn.Module:
    """What a dual encoder projects its text's or image's vector by; the identity where it does not."""
    found = getattr(model, {"text": "text_projection", "vision": "visual_projection"}[part], None)
    return nn.Identity() if found is None else found


def projected_width(model: PreTrainedModel, part: str) -> int:
    """Width of the vectors of one half of a dual encoder."""
    projection = projection_of(model, part)
    if isinstance(projection, nn.Linear):
        return projection.out_features
    config = getattr(model.config, f"{part}_config")
    return getattr(config, "projection_size", None) or hidden_size_of(config)  # the first is SigLIP's, of texts


@torch.no_grad()
def aligned_pooling_of(model: PreTrainedModel) -> str:
    """What a dual encoder projects of its text encoder's output: `pooler` or `cls`, as it gives the text's vector.

    Raises:
        ValueError: if it is neither.
    """
    ids = torch.tensor([[5, 6, 7, 8, 3]]) % model.config.text_config.vocab_size
    expected = model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output
    output = model.text_model(input_ids=ids, attention_mask=torch.ones_like(ids))
    for pooling in ("pooler", "cls"):
        pooled = output.pooler_output if pooling == "pooler" else output.last_hidden_state[:, 0]
        if pooled is not None and pooled.shape[-1] == _in_width(model, pooled):
            if torch.allclose(projection_of(model, "text")(pooled), expected, atol=1e-5):
                return pooling
    raise ValueError(f"{type(model).__name__}: can't tell what of a text it projects")


def _in_width(model: PreTrainedModel, pooled: torch.Tensor) -> int:
    projection = projection_of(model, "text")
    return projection.in_features if isinstance(projection, nn.Linear) else pooled.shape[-1]


def log_scale_of(model: PreTrainedModel) -> float:
    """Logarithm of a dual encoder's inverse temperature; ALIGN holds the temperature itself."""
    if model.config.model_type == "align":
        return -math.log(model.temperature.item())
    return model.logit_scale.item()


def gives_attentions(encoder: PreTrainedModel) -> bool:
    """Whether an encoder can be asked for its attentions; timm's and convolutional ones can't."""
    inner = (module for module in encoder.modules() if isinstance(module, PreTrainedModel))
    return any("attentions" in (module._can_record_outputs or {}) for module in inner)


def last_cells(output: ModelOutput) -> torch.Tensor:
    """The last feature map `(batch, channels, height, width)` of an image encoder, or the patches `(batch, tokens,
    channels)` that its last layer sees, of an output with hidden states."""
    last = output.hidden_states[-1]
    return last if last.ndim == 4 else output.hidden_states[-2]


def pool_text(output: ModelOutput, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """A text encoder's output as one vector a text, `(batch, hidden_size)`.

    Args:
        output (`ModelOutput`): of any encoder that `AutoModel` gives.
        attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.
        pooling (`str`): how tokens become one vector; see [`MMFusionConfig`].
    """
    tokens = output.last_hidden_state
    if pooling == "pooler":
        return output.pooler_output
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "last":
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        last = (attention_mask * positions).argmax(dim=1)
        return tokens[torch.arange(tokens.shape[0], device=tokens.device), last]
    mask = attention_mask.to(tokens.dtype)[..., None]
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def default_pooling(config: PreTrainedConfig) -> str:
    """`pooler` for the text encoders of CLIP, whose pooler was trained with them; else `mean`."""
    return "pooler" if config.model_type.startswith("clip") else "mean"


def hidden_size_of(config: PreTrainedConfig) -> int:
    """Width of an encoder's pooled features, which timm backbones, ALIGN's image encoder and convolutional ones name
    otherwise; see also `image_hidden_size` of [`MMFusionConfig`]."""
    if config.model_type == "timm_wrapper":
        return config.num_features
    if config.model_type == "align_vision_model":
        return align_channels(config)
    size = getattr(config, "hidden_size", None)
    return getattr(config, "hidden_sizes", [0])[-1] if size is None else size


def align_channels(config: PreTrainedConfig) -> int:
    """Channels of the last map of ALIGN's image encoder, an EfficientNet: those of its plan times the width, to the
    nearest multiple that does not lose a tenth (https://huggingface.co/papers/1905.11946)."""
    wanted, step = config.out_channels[-1] * config.width_coefficient, config.depth_divisor
    found = max(step, int(wanted + step / 2) // step * step)
    return found if found >= 0.9 * wanted else found + step


def text_features_dim(config: MMFusionConfig) -> int:
    """Width of the text features that the heads see."""
    return config.aligned_hidden_size if config.text_pooling == "aligned" else hidden_size_of(config.text_config)


def longest_text_of(config: PreTrainedConfig) -> int | None:
    """How many tokens a text encoder has positions for; `None` if they are without end."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 0:  # XLNet's
        return None
    return positions - 2 if config.model_type in OFFSET_POSITIONS else positions


def image_sizes_of(config: MMFusionConfig) -> tuple[tuple[int, ...], int]:
    """Widths of the parts of image features (pooled output, means, maxima), and of one cell with all levels."""
    hidden_size = config.image_hidden_size or hidden_size_of(config.vision_config)
    if not config.image_levels:
        return (hidden_size,), hidden_size
    levels = sum(config.image_level_dims)
    return (hidden_size, levels, levels), levels


@torch.no_grad()
def image_widths_of(vision_tower: PreTrainedModel) -> tuple[int, dict[int, int]]:
    """Widths of an image encoder's pooled features and of its stages, as it gives them for a grey picture.

    Args:
        vision_tower (`PreTrainedModel`): any image encoder but of pictures of varying shape, in eval mode.

    Returns:
        The first, and by number the widths of a convolutional encoder's stages, which are the last hidden states of
        each size of its maps; none of an encoder whose hidden states have one size (ViT).

    Raises:
        ValueError: if it can't be run on a picture, or says another thing each time; the message is one line.
    """
    config, name = vision_tower.config, type(vision_tower).__name__
    if config.model_type == "timm_wrapper":
        shape = config.pretrained_cfg["input_size"]
    else:
        side = getattr(config, "image_size", None) or PICTURE_SIDE
        shape = (config.num_channels, *(side if isinstance(side, (list, tuple)) else (side, side)))
    picture = torch.linspace(-1, 1, math.prod(shape)).view(1, *shape)
    try:
        outputs = [vision_tower(pixel_values=picture, output_hidden_states=True) for _ in range(2)]
        pooled, again = (pool_image(output) for output in outputs)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{name} can't be run on a picture of {tuple(shape)}: {reason}") from error
    if not are_same(pooled, again):
        raise ValueError(f"{name} says another thing of the same picture each time")
    maps = outputs[0].hidden_states
    stages = {stage.shape[-1]: level for level, stage in enumerate(maps)} if maps[-1].ndim == 4 else {}
    return pooled.shape[-1], {level: maps[level].shape[1] for level in stages.values()} if len(stages) > 1 else {}


def pool_image(output: ModelOutput) -> torch.Tensor:
    """An image encoder's output as one vector a picture, `(batch, hidden_size)`: its pooled output or, where it has
    none, the mean over the picture."""
    pooled = output.get("pooler_output")
    return as_sequence(output.last_hidden_state).mean(dim=1) if pooled is None else pooled.flatten(1)


def as_sequence(states: torch.Tensor) -> torch.Tensor:
    """A feature map `(batch, channels, height, width)` as `(batch, cells, channels)`; sequences stay as they are."""
    return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states


def as_map(states: torch.Tensor) -> torch.Tensor:
    """Patches `(batch, tokens, channels)` as a feature map `(batch, channels, side, side)`; maps stay as they are.

    The last tokens are taken to be a square of patches (class and register tokens come first).
    """
    if states.ndim == 4:
        return states
    side = math.isqrt(states.shape[1])
    return states[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def maps_of(patches: torch.Tensor, spatial_shapes: torch.Tensor | None, side: int) -> torch.Tensor:
    """Patches of pictures of varying shape as maps of one size.

    Args:
        patches (`torch.Tensor` of shape `(batch, patches, channels)` or `(batch, channels, height, width)`): states.
        spatial_shapes (`torch.Tensor` of shape `(batch, 2)`, *optional*): patches a column and a row of each picture,
            which come first in `patches` (SigLIP 2 NaFlex); all are squares, or maps, if not given.
        side (`int`): height and width of the maps of varying shape.

    Returns:
        `torch.Tensor` of shape `(batch, channels, height, width)`.
    """
    if spatial_shapes is None:
        return as_map(patches)
    found = []
    for states, (height, width) in zip(patches, spatial_shapes.tolist(), strict=True):
        shape = states[: height * width].T.unflatten(1, (height, width))
        found.append(F.adaptive_avg_pool2d(shape[None], side))
    return torch.cat(found)


def cells_of(levels: list[torch.Tensor], grid: int, spatial_shapes: torch.Tensor | None = None) -> torch.Tensor:
    """Hidden states of an image encoder as one grid of cells, each level averaged over a cell and normalised.

    Args:
        levels (`list[torch.Tensor]`): feature maps `(batch, channels, height, width)` or patches `(batch, tokens,
            channels)`.
        grid (`int`): cells a side; at most those of the last level.
        spatial_shapes (`torch.Tensor` of shape `(batch, 2)`, *optional*): see [`maps_of`].

    Returns:
        `torch.Tensor` of shape `(batch, cells, channels of all levels)`.
    """
    maps = [maps_of(level, spatial_shapes, grid) for level in levels]
    grid = min(grid, *maps[-1].shape[-2:])
    cells = [F.adaptive_avg_pool2d(level, grid).flatten(2).transpose(1, 2) for level in maps]
    return torch.cat([F.layer_norm(level, level.shape[-1:]) for level in cells], dim=-1)


def are_same(vectors: torch.Tensor, others: torch.Tensor) -> bool:
    """Whether vectors are the same but for rounding."""
    return bool((vectors - others).norm() <= SAME * vectors.norm())


def unit_vectors(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors `(..., width)` of length 1, and 0 where they are 0, in half precision too."""
    return F.normalize(vectors, dim=-1, eps=max(1e-12, torch.finfo(vectors.dtype).tiny))


def mask_or_true(mask: torch.Tensor | None, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """A mask as booleans; one of `shape` that is True everywhere if none is given."""
    return torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask.bool()
