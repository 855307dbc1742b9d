"""What tells encoders and models apart: digests of weights, settings and tokenizers."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig
from transformers.core_model_loading import revert_weight_conversion

from .auto import MMFusionConfig, MMFusionModel, MMFusionProcessor
from .errors import DataError

APART = ("text_config", "vision_config", "query_config", "aligned_config", "truncate_dim", "matryoshka_dims")
TOWERS = ("text_model.", "vision_model.", "query_model.")
PROJECTION = "alignment.text_projection."
# settings that came later; as they are here a model says what it said before
LATER: dict[str, Any] = {"aligned_dim": 0, "aligned_hidden_size": 0, "aligned_pooling": "pooler"}
LATER |= {
    "image_hidden_size": None,
    "unfamiliar_logits": [],
    "attend_padding": False,
    "text_padding": "longest",
    "lower_case": False,
    "cut_fields": [],
    "plain_words": False,
}


def digest_of(*parts: str) -> str:
    """A short digest of some strings."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def encoder_fingerprint(model: "MMFusionModel | StoredModel", processor: MMFusionProcessor, what: str) -> str:
    """A digest of all that decides what one encoder says: its weights and configuration, pooling, tokenizer or image
    preprocessing.

    Args:
        model (`MMFusionModel`): the model.
        processor (`MMFusionProcessor`): the model's.
        what (`str`): `text` or `picture` (of products), or `query`.
    """
    settings = _settings_of(processor)
    own_query_encoder = model.config.query_config is not None
    if what == "picture":
        weights, config = "vision_model.", model.config.vision_config
        facts = [settings["image_processor"], model.config.image_levels]
        facts += [model.config.cell_grid if model.config.cross_attention else None]
        facts += ["cells by shape"] if config.model_type == "siglip2_vision_model" else []  # earlier ones were others
    elif what == "text":
        weights, config = "text_model.", model.config.text_config
        facts = [settings["product_prefix"], settings["max_product_length"], model.config.text_pooling]
        facts += [_tokenizer_facts(processor.tokenizer)]
    else:
        weights = "query_model." if own_query_encoder else "text_model."
        config = model.config.query_config if own_query_encoder else model.config.text_config
        pooling = model.config.query_pooling if own_query_encoder else model.config.text_pooling
        facts = [settings["query_prefix"], settings["max_query_length"], pooling]
        facts += [_tokenizer_facts(processor.query_tokenizer)]
    wanted = [weights]
    if what != "picture" and model.config.aligned_config is not None:
        wanted.append(PROJECTION)
        facts += [model.config.aligned_pooling, model.config.attend_padding, settings.get("padding")]
    facts += [what, str(model.dtype), _own_settings(config)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    _update_with_weights(digest, model, lambda name: name.startswith(tuple(wanted)))
    return digest.hexdigest()


def towers_fingerprint(model: "MMFusionModel | StoredModel", processor: MMFusionProcessor) -> str:
    """A digest of all that decides what the towers say, and of how a product becomes text."""
    settings = _settings_of(processor)
    parts = [encoder_fingerprint(model, processor, what) for what in ("text", "picture", "query")]
    return digest_of(json.dumps(settings, sort_keys=True), *parts)


def model_fingerprint(model: "MMFusionModel | StoredModel", processor: MMFusionProcessor) -> str:
    """A digest of all that decides the vectors: the towers', and the heads' and the fusion network's weights and
    configuration; their length is apart, so that vectors of all lengths are one model's."""
    facts = {name: value for name, value in _own_settings(model.config).items() if name not in APART}
    digest = hashlib.sha256(towers_fingerprint(model, processor).encode())
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    _update_with_weights(digest, model, lambda name: not name.startswith(TOWERS))
    return digest.hexdigest()[:32]


@dataclass
class StoredModel:
    """Of a saved model only what a fingerprint needs: configuration and weights, without modules.

    Attributes:
        config (`MMFusionConfig`): its configuration.
        tensors (`dict[str, torch.Tensor]`): its weights, mapped into memory.
    """

    config: MMFusionConfig
    tensors: dict[str, torch.Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(tensor.dtype for tensor in self.tensors.values() if tensor.is_floating_point())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights by name."""
        return self.tensors


def stored_fingerprint(folder: str | os.PathLike, processor: MMFusionProcessor) -> str:
    """[`model_fingerprint`] of a model folder, for those who load a part of the model or none of it.

    Raises:
        OSError: if there is no model.
        DataError: if a weight is no finite number.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    check_finite(tensors, str(folder))
    return model_fingerprint(StoredModel(MMFusionConfig.from_pretrained(folder), tensors), processor)


def check_finite(tensors: Mapping[str, torch.Tensor], name: str) -> None:
    """Refuses weights that are damaged or of a training that went astray.

    Raises:
        DataError: naming the model and the weight.
    """
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"{name}: the weight {key} holds what is no finite number; train the model again")


def _settings_of(processor: MMFusionProcessor) -> dict:
    """All that a processor says of itself and its parts, without what came later and is as it was before."""
    return _known_before(json.loads(processor.to_json_string(), object_hook=_without_auto_map))


def _known_before(settings: dict) -> dict:
    return {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}


def _without_auto_map(settings: dict) -> dict:
    """Settings without `auto_map`, which a processor and its parts have only once they were saved and loaded, without
    what the tokenizers tell themselves, and without words that only queries are corrected to."""
    apart = ("auto_map", "vocabulary_sizes", "spelling_words")
    return {name: value for name, value in settings.items() if name not in apart}


def _own_settings(config: PreTrainedConfig) -> dict:
    """What a configuration says beyond what all have, such as where it was loaded from."""
    common = PreTrainedConfig().to_dict()
    own = {name: value for name, value in config.to_dict().items() if name not in common and name != "auto_map"}
    if config.model_type == "timm_wrapper":  # whose width a dual encoder of it knows by this name
        own.pop("hidden_size", None)
    return _known_before(own)


def _tokenizer_facts(tokenizer) -> list:
    """All that decides a text's tokens; not only the vocabulary, of which two tokenizers may make different use."""
    facts = [type(tokenizer).__name__, tokenizer.padding_side, tokenizer.truncation_side]
    if not tokenizer.is_fast:
        return [*facts, sorted(tokenizer.get_vocab().items())]
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    # the last call's lengths
    return [*facts, {name: part for name, part in parts.items() if name not in ("truncation", "padding")}]


def _update_with_weights(digest, model: "MMFusionModel | StoredModel", wanted: Callable[[str], bool]) -> None:
    tensors = model.state_dict()
    if not isinstance(model, StoredModel):  # by the names in the file, which differ for some encoders
        tensors = revert_weight_conversion(model, tensors)
    for name, tensor in sorted(tensors.items()):
        if wanted(name):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
