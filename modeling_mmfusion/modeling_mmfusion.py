"""MMFusion model: a query tower and a product tower whose text and image encoders are joined by a fusion network."""

import os
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput
from transformers.utils import can_return_tuple, logging

from .baselines_mmfusion import BASELINES, MMFusionQueryProjection
from .configuration_mmfusion import MMFusionConfig
from .encoders_mmfusion import (
    ATTEND_PADDING,
    VARYING_SHAPE,
    aligned_pooling_of,
    as_map,
    as_sequence,
    auto_class_of,
    cells_of,
    default_pooling,
    encoders_of,
    gives_attentions,
    hidden_size_of,
    image_sizes_of,
    image_widths_of,
    last_cells,
    load_dual_encoder,
    load_tower,
    log_scale_of,
    maps_of,
    mask_or_true,
    pool_image,
    pool_text,
    projected_width,
    projection_of,
    text_features_dim,
    unit_vectors,
)
from .fusion_mmfusion import (
    MMFusionAlignment,
    MMFusionFamiliarity,
    MMFusionLexicalHead,
    MMFusionProductHeads,
    MMFusionQueryHeads,
    MMFusionStates,
    MMFusionTextHead,
    MMFusionTruncatableVectors,
    block_lengths,
    init_fusion_weights,
    join_blocks,
    split_blocks,
    truncate_vectors,
)
from .text_mmfusion import VIEWS

logger = logging.get_logger(__name__)

MAX_LOGIT_SCALE = 4.6052  # ln 100, the bound of CLIP (https://huggingface.co/papers/2103.00020)
# of the five blocks of a model with an aligned dual encoder: before a training, and for texts that it does not know
ALIGNED_LOGITS, UNFAMILIAR_LOGITS = (1.0, 0.6, 0.5, 0.5, -1.0), (0.7, 0.9, 0.0, 0.0, 0.4)
ALIGNED_PROTOTYPES = 2048
LOGIT_BIAS_INIT = -10.0  # of SigLIP (https://huggingface.co/papers/2303.15343)


@dataclass
class MMFusionNestedOutput(ModelOutput):
    """An output that holds others, which become tuples with it; `states`, which mean nothing without names, are left
    out of a tuple."""

    def to_tuple(self) -> tuple:
        parts = (part for name, part in self.items() if name != "states")
        return tuple(part.to_tuple() if isinstance(part, ModelOutput) else part for part in parts)


@dataclass
class MMFusionFeatures(MMFusionNestedOutput):
    r"""
    What one tower says about a batch.

    Args:
        pooler_output (`torch.Tensor` of shape `(batch, embedding_dim)`):
            Unit vectors; the inner product of a query's and a product's is their score.
        block_weights (`torch.Tensor` of shape `(batch, blocks)`):
            Lengths of the blocks (`config.blocks`) in the vector; their squares sum to 1.
        states (`MMFusionStates`):
            What the encoders said, which can be passed in again in place of the inputs.
        text_model_output (`BaseModelOutputWithPooling`, *optional*):
            The text encoder's own output, with hidden states or attentions, where they were asked for.
        vision_model_output (`BaseModelOutputWithPooling`, *optional*):
            The image encoder's, of all pictures one after the other, `(batch * images, ...)`.
    """

    pooler_output: torch.FloatTensor | None = None
    block_weights: torch.FloatTensor | None = None
    states: MMFusionStates | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None


@dataclass
class MMFusionOutput(MMFusionNestedOutput):
    r"""
    Queries against products, or one tower alone.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*):
            The contrastive loss, where `labels` or `return_loss` asked for it.
        logits_per_query (`torch.Tensor` of shape `(queries, products)`):
            Scores times the logit scale.
        query_embeds (`torch.Tensor` of shape `(queries, embedding_dim)`):
            The queries' unit vectors.
        product_embeds (`torch.Tensor` of shape `(products, embedding_dim)`):
            The products' unit vectors.
        query_output (`MMFusionFeatures`):
            All that the query tower says.
        product_output (`MMFusionFeatures`):
            All that the product tower says.
        embeds_per_view (`dict[str, torch.Tensor]`):
            `product_embeds` of each view that was asked for.
        logit_scale (`torch.Tensor` of shape `(1,)`):
            The inverse temperature.
        logit_bias (`torch.Tensor` of shape `(1,)`):
            What a sigmoid loss adds to the logits; no other loss does, and rankings don't depend on it.
        hidden_states, attentions (`tuple[torch.Tensor]`, *optional*):
            Those of the queries' text encoder, where they were asked for. Those of the product tower's encoders are in
            `product_output`.
    """

    loss: torch.FloatTensor | None = None
    logits_per_query: torch.FloatTensor | None = None
    query_embeds: torch.FloatTensor | None = None
    product_embeds: torch.FloatTensor | None = None
    query_output: MMFusionFeatures | None = None
    product_output: MMFusionFeatures | None = None
    embeds_per_view: dict[str, torch.FloatTensor] | None = None
    logit_scale: torch.FloatTensor | None = None
    logit_bias: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class MMFusionExplanation(ModelOutput):
    r"""
    Why products have the scores that they have.

    Args:
        scores (`torch.Tensor` of shape `(batch,)`):
            Inner product of the query's and each product's vector.
        contributions (`torch.Tensor` of shape `(batch, blocks)`):
            What each block (`config.blocks`) adds to the score; they sum to it.
        query_weights (`torch.Tensor` of shape `(blocks,)`):
            Share of each block in the query; they sum to 1.
        image_maps (`torch.Tensor` of shape `(batch, images, height, width)`, *optional*):
            How much each cell of each picture adds to the score, from 0 to 1 for the product's strongest cell.
    """

    scores: torch.FloatTensor | None = None
    contributions: torch.FloatTensor | None = None
    query_weights: torch.FloatTensor | None = None
    image_maps: torch.FloatTensor | None = None


class MMFusionLogitScale(nn.Module):
    """The learnable inverse temperature, held as a logarithm, and the bias of sigmoid losses, which is frozen until
    one trains it; a module so that PEFT can train and save it."""

    def __init__(self, config: MMFusionConfig):
        super().__init__()
        self.init_value = config.logit_scale_init_value
        self.log_scale = nn.Parameter(torch.full((1,), float(self.init_value)))
        self.bias = nn.Parameter(torch.full((1,), LOGIT_BIAS_INIT))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse temperature, at most 100, and the bias; both of shape `(1,)`."""
        # a clone: DDP takes an output that is a parameter itself for unused
        return self.log_scale.clamp(max=MAX_LOGIT_SCALE).exp(), self.bias.clone()


class MMFusionPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the flags of `transformers`."""

    config: MMFusionConfig
    base_model_prefix = "mmfusion"
    main_input_name = "query_input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules: list[str] = []
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_fusion_weights(module)
        if isinstance(module, MMFusionLogitScale):
            init.constant_(module.log_scale, module.init_value)
            init.constant_(module.bias, LOGIT_BIAS_INIT)


class MMFusionModel(MMFusionPreTrainedModel):
    r"""
    Two towers for product search.

    The query tower is a text encoder with small heads. The product tower is a text encoder, an image encoder and the
    fusion network of `fusion_mmfusion.py`. Products may lack their text or their images.

    Args:
        config (`MMFusionConfig`): towers and widths. All weights are random; see [`~MMFusionModel.from_towers`] to
            start from pretrained towers and `from_pretrained` to load a trained model.

    Example:

    ```python
    >>> from transformers import AutoModel, AutoProcessor

    >>> model = AutoModel.from_pretrained("runs/quickstart/model", trust_remote_code=True)
    >>> processor = AutoProcessor.from_pretrained("runs/quickstart/model", trust_remote_code=True)
    >>> queries = model.get_query_features(**processor.process_queries(["green striped mug"])).pooler_output
    >>> products = model.get_product_features(**processor.process_products([{"title": "Mug"}])).pooler_output
    >>> scores = queries @ products.T
    ```
    """

    has_product_tower = True

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        parts = ("text", "vision") if self.has_product_tower else ("text",)
        for part, encoder in zip(parts, encoders_of(config, parts), strict=True):
            self.add_module(f"{part}_model", encoder)
        query_dim = text_dim = text_features_dim(config)
        if config.query_config is not None:
            self.query_model = auto_class_of(config.query_config).from_config(config.query_config)
            query_dim = hidden_size_of(config.query_config)
        self.alignment = None if config.aligned_config is None else MMFusionAlignment(config)
        self.lexical_head = MMFusionLexicalHead(config) if "lexical" in config.blocks else None
        self.text_head = self.query_text_head = None
        if config.fusion_type == "experts":
            self.text_head = MMFusionTextHead(text_dim, config)
            if config.query_config is not None:
                self.query_text_head = MMFusionTextHead(query_dim, config)
            self.query_heads = MMFusionQueryHeads(query_dim, config)
        else:
            self.query_heads = MMFusionQueryProjection(query_dim, config)
        if self.has_product_tower:
            self.product_heads = new_product_heads(config)
            self.logit_scale = MMFusionLogitScale(config)
        self._freeze_untrained()
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "MMFusionModel":
        """Loads a model; see [`~transformers.PreTrainedModel.from_pretrained`]. What no training of ours changes by
        gradients has `requires_grad=False`, so that none changes it in passing: prototypes of familiar texts, the
        shared space of a dual encoder, the bias of sigmoid losses, poolers that are not read."""
        found = super().from_pretrained(*args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found  # it comes with what was loaded where that is asked
        model._freeze_untrained()
        return found

    def _freeze_untrained(self) -> None:
        """Takes out of any training what [`~MMFusionModel.from_pretrained`] names."""
        for module in self.modules():
            if isinstance(module, (MMFusionFamiliarity, MMFusionAlignment)):
                module.requires_grad_(False)
        if self.has_product_tower:
            self.logit_scale.bias.requires_grad_(False)
        aligned = self.config.aligned_pooling if self.alignment is not None else None
        for name, pooling in (("text_model", self.config.text_pooling), ("query_model", self.config.query_pooling)):
            pooler = getattr(getattr(self, name, None), "pooler", None)
            if pooler is not None and "pooler" not in (pooling, aligned):
                pooler.requires_grad_(False)

    @classmethod
    def from_towers(
        cls,
        text: str | os.PathLike | None = None,
        vision: str | os.PathLike | None = None,
        query: str | os.PathLike | None = None,
        aligned: str | os.PathLike | None = None,
        **kwargs,
    ) -> "MMFusionModel":
        """Starts a model from pretrained encoders; the fusion network and the heads are new.

        There are two ways. From a text and an image encoder by themselves (`text`, `vision`), which know nothing of
        each other before the training; of a checkpoint with both only the one that is asked for is taken. Or from an
        aligned dual encoder (`aligned`), whose shared space is kept: before any training the image view ranks as
        the dual encoder's own cosine of text and picture does, and the text block scores as its cosine of two texts.

        Args:
            text (`str`, *optional*): folder or Hub id of the product tower's text encoder.
            vision (`str`, *optional*): folder or Hub id of the image encoder.
            query (`str`, *optional*): folder or Hub id of the query tower's own text encoder. `None` shares the
                product tower's. Not beside `aligned`.
            aligned (`str`, *optional*): folder or Hub id of a dual encoder, such as
                google/siglip2-base-patch16-224, in place of `text` and `vision`.
            kwargs: fields of [`MMFusionConfig`]; `text_dim` defaults to at most 176, the pooling to
                what the encoder was trained for (`pooler` for CLIP, else `mean`), `image_levels` to all stages of a
                convolutional image encoder, `lexical_dim` to 0 if the query tower has a vocabulary of another size and
                `matryoshka_dims` to a half and a quarter of the whole. With `aligned`, `text_pooling` defaults to
                `aligned`, `aligned_dim` and then `text_dim` to the width of the shared space; narrower blocks keep the
                principal axes that a training finds, and before it a random part.

        Returns:
            The model, in eval mode.

        Raises:
            ValueError: if the encoders are given otherwise, or `aligned` is no dual encoder.
        """
        if aligned is not None and not (text or vision or query):
            return cls._from_dual_encoder(load_dual_encoder(aligned), kwargs)
        if aligned is not None or text is None or vision is None:
            raise ValueError("give text and vision, two encoders, or aligned, a dual encoder, and nothing beside it")
        text_tower = load_tower(text, "text_config")
        vision_tower = load_tower(vision, "vision_config")
        query_tower = None if query is None else load_tower(query, "text_config")
        kwargs.setdefault("text_dim", min(hidden_size_of(text_tower.config), MMFusionConfig.text_dim))
        kwargs.setdefault("text_pooling", default_pooling(text_tower.config))
        if query_tower is not None:
            kwargs.setdefault("query_pooling", default_pooling(query_tower.config))
            kwargs["query_config"] = query_tower.config.to_dict()
            if query_tower.config.vocab_size != text_tower.config.vocab_size:
                kwargs.setdefault("lexical_dim", 0)
        kwargs |= {"text_config": text_tower.config.to_dict(), "vision_config": vision_tower.config.to_dict()}
        return cls._with_encoders(text_tower, vision_tower, query_tower, kwargs)

    @classmethod
    def _from_dual_encoder(cls, dual: PreTrainedModel, kwargs: dict) -> "MMFusionModel":
        """A model with a dual encoder's shared space as a block, and its temperature. Nothing is familiar to it before
        a training, so that what is new and random is silent."""
        width = projected_width(dual, "text")
        kwargs = {"text_pooling": "aligned", "aligned_dim": width, "block_logits_init": ALIGNED_LOGITS} | kwargs
        kwargs.setdefault("unfamiliar_logits", UNFAMILIAR_LOGITS)
        kwargs.setdefault("num_prototypes", ALIGNED_PROTOTYPES)
        kwargs.setdefault("logit_scale_init_value", log_scale_of(dual))
        kwargs |= {"aligned_config": dual.config.to_dict(), "aligned_hidden_size": width}
        kwargs |= {"aligned_pooling": aligned_pooling_of(dual)}
        kwargs["attend_padding"] = dual.config.model_type in ATTEND_PADDING
        narrower = min(hidden_size_of(dual.config.text_config), MMFusionConfig.text_dim)
        kwargs.setdefault("text_dim", width if kwargs["text_pooling"] == "aligned" else narrower)
        model = cls._with_encoders(dual.text_model, dual.vision_model, None, kwargs)
        for part, name in (("text", "text_projection"), ("vision", "image_projection")):
            getattr(model.alignment, name).load_state_dict(projection_of(dual, part).state_dict())
        if getattr(dual, "logit_bias", None) is not None:
            model.logit_scale.bias.data.fill_(dual.logit_bias.item())
        if model.text_head is not None:
            for heads in (model.query_heads, model.product_heads):
                heads.familiarity.know_nothing()
        return model

    @classmethod
    def _with_encoders(cls, text_tower, vision_tower, query_tower, kwargs: dict) -> "MMFusionModel":
        """A model with new heads on pretrained encoders, of which `kwargs`, fields of the configuration, tell."""
        if vision_tower.config.model_type != VARYING_SHAPE:
            width, widths = image_widths_of(vision_tower)
            if width != hidden_size_of(vision_tower.config):
                kwargs["image_hidden_size"] = width
            if "image_levels" not in kwargs:
                kwargs |= {"image_level_dims": list(widths.values()), "image_levels": list(widths)}
        config = MMFusionConfig(**kwargs)
        if "matryoshka_dims" not in kwargs:
            config.matryoshka_dims = [config.embedding_dim // 2, config.embedding_dim // 4]
        model = cls(config)
        model.text_model.load_state_dict(text_tower.state_dict())
        model.vision_model.load_state_dict(vision_tower.state_dict())
        if query_tower is not None:
            model.query_model.load_state_dict(query_tower.state_dict())
        logger.warning("The fusion network and the heads are newly initialised: train the model before you use it.")
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self._main_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self._main_encoder.set_input_embeddings(value)

    @property
    def _main_encoder(self) -> PreTrainedModel:
        """The text encoder whose vocabulary is the model's; the query tower may be there without the product's."""
        return self.query_model if self.text_model is None else self.text_model

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args, **kwargs) -> nn.Embedding:
        """Resizes the vocabulary of the product tower's text encoder, and that of the query tower's own one if the two
        share a tokenizer.

        Args:
            new_num_tokens (`int`, *optional*): the new size; new tokens count as the rarest in the lexical block.
            args, kwargs: see [`~transformers.PreTrainedModel.resize_token_embeddings`].

        Returns:
            The product tower's embeddings.
        """
        query = self.config.query_config
        if query is not None and (self.text_model is None or query.vocab_size == self.config.text_config.vocab_size):
            found = self.query_model.resize_token_embeddings(new_num_tokens, *args, **kwargs)
            query.vocab_size = found.num_embeddings
        if self.text_model is None:
            return found
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def encode_queries(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None
    ) -> MMFusionStates:
        r"""
        Runs the query tower's encoder; the arguments are those of [`~MMFusionModel.get_query_features`].

        Returns:
            [`MMFusionStates`] without the image's part.
        """
        return self._encode_queries(input_ids, attention_mask, {})[0]

    def _encode_queries(self, input_ids, attention_mask, wanted: dict) -> tuple[MMFusionStates, ModelOutput]:
        """The query encoder's states and its own output."""
        own_encoder = self.config.query_config is not None
        encoder = self.query_model if own_encoder else self.text_model
        pooling = self.config.query_pooling if own_encoder else self.config.text_pooling
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        lexical = self.lexical_features(input_ids, attention_mask)
        features, output = self._text_features(encoder, input_ids, attention_mask, pooling, wanted)
        return MMFusionStates(lexical_features=lexical, **features), output

    def _text_features(
        self, encoder, input_ids, attention_mask, pooling: str, wanted: dict
    ) -> tuple[dict[str, torch.Tensor], ModelOutput]:
        """A text encoder's unit features and, in a model with an aligned encoder, the text's place in its space; and
        the encoder's own output."""
        seen = torch.ones_like(attention_mask) if self.config.attend_padding else attention_mask
        output = encoder(input_ids=input_ids, attention_mask=seen, **wanted)
        found = {}
        if self.alignment is not None:
            pooled = pool_text(output, attention_mask, self.config.aligned_pooling)
            found["aligned_features"] = unit_vectors(self.alignment.text_projection(pooled))
        if pooling == "aligned":
            found["text_features"] = found["aligned_features"]
        else:
            found["text_features"] = unit_vectors(pool_text(output, attention_mask, pooling))
        return found, output

    def _wanted(self, output_hidden_states, output_attentions) -> dict:
        """What encoders are asked for besides their states: arguments of theirs, none of them false."""
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        asked = {name: getattr(self.config, name) if value is None else value for name, value in asked.items()}
        return {name: value for name, value in asked.items() if value}

    def encode_products(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_mask: torch.BoolTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.BoolTensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        states: MMFusionStates | None = None,
    ) -> MMFusionStates:
        r"""
        Runs the product tower's encoders; the arguments are those of [`~MMFusionModel.get_product_features`].

        Args:
            states (`MMFusionStates`, *optional*): what an encoder said before, for the modality that is not given.

        Returns:
            [`MMFusionStates`]; zeros and a mask that is False stand in for a modality that there is not.
        """
        texts, pictures = (input_ids, attention_mask, text_mask), (pixel_values, image_mask)
        return self._encode_products(*texts, *pictures, pixel_attention_mask, spatial_shapes, states)[0]

    def lexical_features(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor) -> torch.Tensor:
        r"""
        The lexical block of tokens; no encoder is run for it.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): of queries or products.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens, 0 for padding.

        Returns:
            `torch.Tensor` of shape `(batch, lexical_dim)`, or of width 0 if the model has no lexical block.
        """
        if self.lexical_head is None:
            return torch.zeros(input_ids.shape[0], 0, dtype=self.dtype, device=input_ids.device)
        return self.lexical_head(input_ids, attention_mask).to(self.dtype)

    @can_return_tuple
    def get_query_features(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.BoolTensor | None = None,
        image_weight: float = 0.5,
        states: MMFusionStates | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> MMFusionFeatures:
        r"""
        The query tower. A query is a text, a picture ("like this") or both ("like this, but red").

        A picture is embedded as a product of which only the picture is known. Beside a text it is put into words as
        well, see [`~MMFusionModel.compose_queries`], so that a text such as "in red" is understood as "red mug".

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*): from `processor.process_queries`.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 1 for tokens, 0 for padding.
            pixel_values (`torch.FloatTensor` of shape `(batch, images, ...)`, *optional*): each query's pictures.
            image_mask (`torch.BoolTensor` of shape `(batch, images)`, *optional*): True where there is a picture.
            image_weight (`float`, *optional*, defaults to 0.5): share of the picture where a query has both; 0 is the
                text alone and 1 the picture alone.
            states (`MMFusionStates`, *optional*): the text encoder's from an earlier call, in place of `input_ids`;
                the encoder is not run.
            output_hidden_states, output_attentions (`bool`, *optional*): whether the encoders' hidden states and
                attentions are returned as well; what the configuration says if not given.

        Returns:
            [`MMFusionFeatures`] with the queries' vectors in `pooler_output`; with `return_dict=False` a tuple.

        Raises:
            ValueError: if neither text nor picture is given.
        """
        wanted, output = self._wanted(output_hidden_states, output_attentions), None
        if states is None and input_ids is not None:
            states, output = self._encode_queries(input_ids, attention_mask, wanted)
        if states is None and pixel_values is None:
            raise ValueError("give input_ids or states, or pixel_values, or both")
        if pixel_values is None:
            found = self._embed(self._query_blocks(states), states)
            found.text_model_output = output if wanted else None
            return found
        pictures = self.get_product_features(
            pixel_values=pixel_values, image_mask=image_mask, view="image", **wanted, return_dict=True
        )
        if states is None:
            return pictures
        weights = image_weight * pictures.states.has_image[:, None].to(self.dtype)
        found = self.compose_queries(states, pictures.pooler_output, weights)
        found.text_model_output = output if wanted else None
        found.vision_model_output = pictures.vision_model_output
        return found

    def compose_queries(
        self, states: MMFusionStates, like: torch.Tensor, weight: float | torch.Tensor = 0.5
    ) -> MMFusionFeatures:
        r"""
        Queries of a text beside something at hand: "like this, but red".

        Such a text is no whole query: it leaves out what is looked for, and the model, which never saw its like, would
        turn down all that it learned of pictures. So what is at hand is put into words: the prototypes of the
        training's texts (see [`MMFusionFamiliarity`]) are searched for with its vector, and the mean of their
        features, weighted by the softmax of the scores, says what it is ("mug") and little of how it looks, which
        differs within a prototype. That is mixed into the text's features before the query's heads, which then see
        "red mug". The vector at hand is mixed into theirs by the third power of its weight, for its looks. A model
        without prototypes, such as one that was not trained, mixes the two vectors alone.

        Args:
            states (`MMFusionStates`): the texts', from [`~MMFusionModel.encode_queries`].
            like (`torch.Tensor` of shape `(batch, embedding_dim)`): vectors of products, such as the view `image`.
            weight (`float` or `torch.Tensor` of shape `(batch, 1)`, *optional*, defaults to 0.5): share of what is at
                hand: 0 is the text alone and 1 the vector alone.

        Returns:
            [`MMFusionFeatures`] of the queries; `states` are the texts' as they were.

        References:
            A picture as words, here by attention and without training: Pic2Word,
            https://huggingface.co/papers/2302.03084, and SEARLE, https://huggingface.co/papers/2303.15247.
        """
        looks, composed = weight, states
        if (found := self._in_words(like)) is not None:
            spoken, is_known = found
            looks = torch.where(is_known, weight**3, weight)
            features = unit_vectors((1 - weight) * states["text_features"] + weight * spoken)
            composed = MMFusionStates(**states)
            composed.text_features = torch.where(is_known, features, states["text_features"])
            if self.alignment is not None and self.alignment.is_text_space:
                composed.aligned_features = composed.text_features
        texts = self._embed(self._query_blocks(composed), composed)["pooler_output"]
        mixed = unit_vectors((1 - looks) * texts + looks * like)
        return MMFusionFeatures(mixed, block_lengths(split_blocks(mixed, self.output_dims)), states)

    def _in_words(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Text features `(batch, text_hidden_size)` that say what vectors `(batch, embedding_dim)` of products are, at
        most of length 1 and shorter where several prototypes are as near; and whether there are prototypes `()`,
        without which they say nothing. `None` of a model that has no place for them."""
        if self.query_heads.prototypes is None:
            return None
        prototypes, is_known = self.query_heads.prototypes
        states = self._missing_text(prototypes)
        states.text_features = prototypes
        if self.alignment is not None:
            is_same = self.alignment.is_text_space
            centre = self.alignment.text_centre.weight.expand(len(prototypes), -1)  # where the aligned block is 0
            states.aligned_features = prototypes if is_same else centre
        texts = self._embed(self._query_blocks(states), states).pooler_output
        scores = self.logit_scale()[0] * vectors @ texts.T
        scores = scores.masked_fill(~is_known, torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1) @ prototypes, is_known.any()

    @can_return_tuple
    def get_product_features(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_mask: torch.BoolTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.BoolTensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        states: MMFusionStates | None = None,
        view: str = "fused",
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> MMFusionFeatures:
        r"""
        The product tower. Text, images or both may be given; without images the image encoder is not run.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*): from `processor.process_products`.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 1 for tokens, 0 for padding.
            text_mask (`torch.BoolTensor` of shape `(batch,)`, *optional*): True where the product has text; all True
                if not given.
            pixel_values (`torch.FloatTensor` of shape `(batch, images, ...)`, *optional*): each product's pictures,
                each in the form that the image encoder takes.
            image_mask (`torch.BoolTensor` of shape `(batch, images)`, *optional*): True where there is a picture; all
                True if not given.
            pixel_attention_mask (`torch.Tensor` of shape `(batch, images, patches)`, *optional*): for encoders of
                pictures of variable size (SigLIP2 NaFlex).
            spatial_shapes (`torch.LongTensor` of shape `(batch, images, 2)`, *optional*): likewise.
            states (`MMFusionStates`, *optional*): the encoders' from an earlier call, in place of all of these or of
                those of one modality.
            view (`str`, *optional*, defaults to `"fused"`): `fused`, or `text` or `image` for the product as if it
                had only that modality, in the same space.
            output_hidden_states, output_attentions (`bool`, *optional*): whether the encoders' hidden states and
                attentions are returned as well; what the configuration says if not given. Convolutional encoders and
                timm's have no attentions.

        Returns:
            [`MMFusionFeatures`] with the products' vectors in `pooler_output`; with `return_dict=False` a tuple.

        Raises:
            ValueError: if neither text nor images are given, or the view is unknown.
        """
        return self._views_of(
            (view,),
            states,
            self._wanted(output_hidden_states, output_attentions),
            input_ids=input_ids,
            attention_mask=attention_mask,
            text_mask=text_mask,
            pixel_values=pixel_values,
            image_mask=image_mask,
            pixel_attention_mask=pixel_attention_mask,
            spatial_shapes=spatial_shapes,
        )[view]

    def get_task_features(
        self,
        query_tokens: torch.LongTensor | None = None,
        query_mask: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_mask: torch.BoolTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.BoolTensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        task: str | None = None,
    ) -> MMFusionFeatures:
        r"""
        The tower that a task asks for, on what `processor.process_documents` has prepared; called by
        sentence-transformers, see `sentence_transformers_mmfusion.py`.

        Args:
            query_tokens (`torch.LongTensor` of shape `(batch, tokens)`, *optional*): texts as queries, where
                not every row has a picture.
            query_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): their mask.
            input_ids, attention_mask, text_mask, pixel_values, image_mask, pixel_attention_mask, spatial_shapes: texts
                and pictures as products; see [`~MMFusionModel.get_product_features`].
            task (`str`, *optional*): `query`, or `document` for the product tower, which is also the default but for
                texts that are marked as queries. Rows that have a picture always get the product tower.

        Returns:
            [`MMFusionFeatures`] of [`~MMFusionModel.get_query_features`] or [`~MMFusionModel.get_product_features`],
            or the vectors alone where a batch takes both. They are truncated by a slice as by `truncate_dim`:
            [`MMFusionTruncatableVectors`].

        Raises:
            ValueError: if the task is unknown.
        """
        if task not in (None, "query", "document"):
            raise ValueError(f"task must be query or document, got {task!r}")
        is_marked = query_tokens is not None and text_mask is None  # as a query, by the processor
        if pixel_values is None and (task == "query" or is_marked):
            found = self.get_query_features(query_tokens, query_mask, return_dict=True)
        else:
            texts, pictures = (input_ids, attention_mask, text_mask), (pixel_values, image_mask)
            found = self.get_product_features(
                *texts, *pictures, pixel_attention_mask, spatial_shapes, return_dict=True
            )
            if task == "query" and query_tokens is not None:
                queries = self.get_query_features(query_tokens, query_mask, return_dict=True).pooler_output
                has_picture = image_mask.any(1, keepdim=True)
                found = MMFusionFeatures(pooler_output=torch.where(has_picture, found.pooler_output, queries))
        found.pooler_output = MMFusionTruncatableVectors.of(found.pooler_output, self.config)
        return found

    @can_return_tuple
    def forward(
        self,
        query_input_ids: torch.LongTensor | None = None,
        query_attention_mask: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_mask: torch.BoolTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.BoolTensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        query_states: MMFusionStates | None = None,
        product_states: MMFusionStates | None = None,
        views: tuple[str, ...] = ("fused",),
        labels: torch.FloatTensor | None = None,
        return_loss: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> MMFusionOutput:
        r"""
        Both towers: every query against every product. What is given of one tower alone is only embedded.

        Args:
            query_input_ids (`torch.LongTensor` of shape `(queries, tokens)`, *optional*): the queries.
            query_attention_mask (`torch.Tensor` of shape `(queries, tokens)`, *optional*): their mask.
            input_ids, attention_mask, text_mask, pixel_values, image_mask, pixel_attention_mask, spatial_shapes: the
                products; see [`~MMFusionModel.get_product_features`].
            query_states (`MMFusionStates`, *optional*): the query encoder's states, in place of `query_input_ids`.
            product_states (`MMFusionStates`, *optional*): the product encoders' states, in place of the products'
                inputs or of those of one modality.
            views (`tuple[str, ...]`, *optional*, defaults to `("fused",)`): the views of the products to embed, for
                losses on single modalities; the encoders run once for all. `product_embeds` are those of the first.
            labels (`torch.Tensor` of shape `(queries, products)`, *optional*): how relevant each product is to each
                query, 0 where it is not. With it there is a loss: [`info_nce`] of both directions, halved.
            return_loss (`bool`, *optional*): asks for that loss without `labels`: product number n is what query
                number n looks for, and nothing else is relevant to it. `training/` has the losses that our own
                recipes train with.
            output_hidden_states, output_attentions (`bool`, *optional*): whether the encoders' hidden states and
                attentions are returned as well; what the configuration says if not given.

        Returns:
            [`MMFusionOutput`]; with `return_dict=False` a tuple.

        Raises:
            ValueError: if neither tower has inputs, or there can be no loss of what is given.
        """
        wanted = self._wanted(output_hidden_states, output_attentions)
        queries, products = MMFusionFeatures(), {}
        if query_input_ids is not None or query_states is not None:
            queries = self.get_query_features(
                query_input_ids, query_attention_mask, states=query_states, **wanted, return_dict=True
            )
        if input_ids is not None or pixel_values is not None or product_states is not None:
            products = self._views_of(
                views,
                product_states,
                wanted,
                input_ids=input_ids,
                attention_mask=attention_mask,
                text_mask=text_mask,
                pixel_values=pixel_values,
                image_mask=image_mask,
                pixel_attention_mask=pixel_attention_mask,
                spatial_shapes=spatial_shapes,
            )
        if not queries and not products:
            raise ValueError("give query_input_ids or query_states, or inputs of the product tower, or both")
        scale, bias = self.logit_scale()
        product, encoder = products.get(views[0], MMFusionFeatures()), queries.text_model_output or ModelOutput()
        logits = scale * queries.pooler_output @ product.pooler_output.T if queries and product else None
        return MMFusionOutput(
            loss=pair_loss(logits, labels) if return_loss or labels is not None else None,
            logits_per_query=logits,
            query_embeds=queries.pooler_output,
            product_embeds=product.pooler_output,
            query_output=queries or None,
            product_output=product or None,
            embeds_per_view={view: features.pooler_output for view, features in products.items()} or None,
            logit_scale=scale,
            logit_bias=bias,
            hidden_states=encoder.get("hidden_states"),
            attentions=encoder.get("attentions"),
        )

    def _views_of(self, views: tuple[str, ...], states, wanted: dict, **inputs) -> dict[str, MMFusionFeatures]:
        """The products' features of each view; the first holds the encoders' own outputs, where they are wanted."""
        outputs: dict[str, ModelOutput] = {}
        if states is None or any(inputs[name] is not None for name in ("input_ids", "pixel_values")):
            states, outputs = self._encode_products(**inputs, states=states, wanted=wanted)
        first, *others = self._product_views(states, views)
        first = MMFusionFeatures(**{**first, **(outputs if wanted else {})})
        return dict(zip(views, [first, *others], strict=True))

    def explain(self, query_inputs: dict, product_inputs: dict) -> MMFusionExplanation:
        r"""
        Explains the scores of products for one query.

        The map of a picture is the gradient of the score times the image encoder's state, summed over channels, where
        positive (Grad-CAM, https://huggingface.co/papers/1610.02391).

        Args:
            query_inputs (`dict`): arguments of [`~MMFusionModel.get_query_features`] for one query.
            product_inputs (`dict`): arguments of [`~MMFusionModel.get_product_features`]; the model must be on their
                device.

        Returns:
            [`MMFusionExplanation`], without `image_maps` if no product has a picture.
        """
        with torch.no_grad():
            query = self.get_query_features(**query_inputs, return_dict=True)
        if "pixel_values" in product_inputs:  # so that there is a gradient even if the encoder is frozen
            pixel_values = product_inputs["pixel_values"].to(self.dtype).detach().requires_grad_(True)
            product_inputs = {**product_inputs, "pixel_values": pixel_values}
        with torch.enable_grad():
            states, outputs = self._encode_products(**product_inputs, explain=True)
            [products] = self._product_views(states, ("fused",))
            contributions = self.contributions(query.pooler_output, products.pooler_output)
            scores = contributions.sum(dim=-1)
            cells = last_cells(outputs["vision_model_output"]) if "vision_model_output" in outputs else None
            maps = None if cells is None else torch.autograd.grad(scores.sum(), cells)[0] * cells.detach()
        if maps is not None:
            shapes = product_inputs.get("spatial_shapes")
            shapes = None if shapes is None else shapes.flatten(0, 1)
            maps = as_maps(maps.sum(dim=1 if maps.ndim == 4 else 2).clamp(min=0), states.image_mask, shapes)
        return MMFusionExplanation(scores.detach(), contributions.detach(), query.block_weights[0].square(), maps)

    def truncate(self, vectors: torch.Tensor, dim: int) -> torch.Tensor:
        """Vectors `(batch, width)` of this model cut to `(batch, dim)`, as it makes them with `truncate_dim`.

        Raises:
            ValueError: if a block would have no dimension left, or `dim` is more than there is.
        """
        return truncate_vectors(vectors, self.config, dim)

    def contributions(self, queries: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        """What each block (`config.blocks`) adds to the inner products of vectors `(batch, width)` that are compared
        pair by pair, `(batch, blocks)`; either may be one vector `(width,)` or `(1, width)`."""
        parts = split_blocks(queries * products, self.output_dims)
        return torch.stack([part.sum(dim=-1) for part in parts.values()], dim=-1)

    @property
    def output_dims(self) -> dict[str, int]:
        """Widths of the blocks of the vectors that the model returns, after truncation."""
        return self.config.truncated_dims(self.config.truncate_dim or self.config.embedding_dim)

    def _embed(self, found: tuple[dict[str, torch.Tensor], torch.Tensor], states) -> MMFusionFeatures:
        blocks, weights = found
        return MMFusionFeatures(join_blocks(blocks, weights, self.output_dims), weights, states)

    def _product_views(self, states: MMFusionStates, views: tuple[str, ...]) -> list[MMFusionFeatures]:
        if unknown := set(views) - set(VIEWS):
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {min(unknown)!r}")
        return [self._embed(found, states) for found in self._product_blocks(states, views)]

    def _product_blocks(self, states, views):
        return self.product_heads(states, self.text_head, views, self.alignment)

    def _query_blocks(self, states):
        own_encoder = self.config.query_config is not None
        return self.query_heads(states, self.query_text_head if own_encoder else self.text_head, self.alignment)

    def _encode_product_text(
        self, input_ids, attention_mask, text_mask, wanted: dict
    ) -> tuple[MMFusionStates, ModelOutput]:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        features, output = self._text_features(
            self.text_model, input_ids, attention_mask, self.config.text_pooling, wanted
        )
        states = MMFusionStates(
            text_mask=mask_or_true(text_mask, input_ids.shape[:1], input_ids.device),
            lexical_features=self.lexical_features(input_ids, attention_mask),
            **features,
        )
        return states, output

    def _encode_products(
        self,
        input_ids=None,
        attention_mask=None,
        text_mask=None,
        pixel_values=None,
        image_mask=None,
        pixel_attention_mask=None,
        spatial_shapes=None,
        states=None,
        wanted=None,
        explain=False,
    ) -> tuple[MMFusionStates, dict[str, ModelOutput]]:
        """The encoders' states, and the own outputs of those that were run."""
        if input_ids is None and pixel_values is None:
            raise ValueError("give input_ids or pixel_values, or both")
        outputs, wanted, states = {}, wanted or {}, MMFusionStates(**(states or {}))
        if input_ids is not None:
            texts, outputs["text_model_output"] = self._encode_product_text(
                input_ids, attention_mask, text_mask, wanted
            )
            states = MMFusionStates(**{**states, **texts})
        elif states.text_features is None:
            states = MMFusionStates(**{**states, **self._missing_text(pixel_values)})
        if pixel_values is not None:
            inputs = {"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes}
            inputs = {name: value.flatten(0, 1) for name, value in inputs.items() if value is not None}
            outputs["vision_model_output"] = output = self._run_vision(pixel_values, inputs, wanted, explain)
            self._add_images(states, output, pixel_values.shape[:2], image_mask, inputs.get("spatial_shapes"))
        elif states.image_features is None:
            self._add_missing_images(states)
        return states, outputs

    def _run_vision(self, pixel_values, inputs: dict, wanted: dict, explain: bool) -> ModelOutput:
        """Runs the image encoder on all pictures of a batch, one after the other."""
        if bool(self.config.image_levels) or explain or "output_hidden_states" in wanted:
            wanted = wanted | {"output_hidden_states": True}
        if not gives_attentions(self.vision_model):
            wanted = {name: value for name, value in wanted.items() if name != "output_attentions"}
        return self.vision_model(pixel_values=pixel_values.flatten(0, 1).to(self.dtype), **wanted, **inputs)

    def _add_images(self, states: MMFusionStates, output: ModelOutput, shape, image_mask, spatial_shapes) -> None:
        """Adds to the states what the image encoder says of `shape` (products, pictures)."""
        levels = [as_sequence(output.hidden_states[level]) for level in self.config.image_levels]
        parts = [pool_image(output), *(level.mean(dim=1) for level in levels)]
        features = torch.cat([*parts, *(level.amax(dim=1) for level in levels)], dim=-1)
        states.image_features = features.unflatten(0, shape)
        states.image_mask = mask_or_true(image_mask, shape, features.device)
        if self.config.cross_attention:
            maps = [output.hidden_states[level] for level in self.config.image_levels] or [output.last_hidden_state]
            states.image_states = cells_of(maps, self.config.cell_grid, spatial_shapes).unflatten(0, shape)

    def _missing_text(self, given: torch.Tensor) -> MMFusionStates:
        """Zeros in place of the text's states, and masks that are False."""
        batch, width = given.shape[0], text_features_dim(self.config)
        zeros = torch.zeros(batch, width, dtype=self.dtype, device=given.device)
        lexical_dim = self.config.lexical_dim if self.lexical_head is not None else 0
        mask = torch.zeros(batch, dtype=torch.bool, device=given.device)
        aligned = None if self.alignment is None else zeros.new_zeros(batch, self.config.aligned_hidden_size)
        return MMFusionStates(zeros, mask, zeros.new_zeros(batch, lexical_dim), aligned_features=aligned)

    def _add_missing_images(self, states: MMFusionStates) -> None:
        """Zeros in place of the images' states, and a mask that is False."""
        sizes, cell_dim = image_sizes_of(self.config)
        text = states.text_features
        batch = text.shape[0]
        states.image_features = text.new_zeros(batch, 1, sum(sizes))
        states.image_mask = torch.zeros(batch, 1, dtype=torch.bool, device=text.device)
        if self.config.cross_attention:
            states.image_states = text.new_zeros(batch, 1, 1, cell_dim)


def new_product_heads(config: MMFusionConfig) -> nn.Module:
    """The product tower's part of the fusion network, of the configuration's type."""
    text_dim, (image_sizes, cell_dim) = text_features_dim(config), image_sizes_of(config)
    if config.fusion_type == "experts":
        return MMFusionProductHeads(text_dim, image_sizes, cell_dim, config)
    return BASELINES[config.fusion_type](text_dim, image_sizes, config)


def info_nce(logits: torch.Tensor, relevance: torch.Tensor, ignored: torch.Tensor | None = None) -> torch.Tensor:
    """InfoNCE with several graded positives: each positive pair competes with the batch's negatives alone.

    For a row `q` and a relevant column `p` the loss is `-log(e^s_qp / (e^s_qp + sum_n e^s_qn))` over the columns `n`
    that are not relevant to `q`; other relevant columns neither help nor hurt. Pairs are weighted by their grade, and
    each row's weights sum to 1.

    Args:
        logits (`torch.Tensor` of shape `(rows, columns)`): scores times the inverse temperature.
        relevance (`torch.Tensor` of shape `(rows, columns)`): grades, 0 where a pair is not relevant.
        ignored (`torch.Tensor` of shape `(rows, columns)`, *optional*): True for pairs that are no negatives either,
            such as copies of a relevant product; they get no gradient.

    Returns:
        `torch.Tensor` of shape `(rows,)`; 0 for rows without a relevant column.

    References:
        InfoNCE: https://huggingface.co/papers/1807.03748. Graded weights in the spirit of GCL:
        https://huggingface.co/papers/2404.08535.
    """
    no_negative = relevance > 0 if ignored is None else (relevance > 0) | ignored
    negatives = logits.masked_fill(no_negative, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    weights = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return (F.softplus(negatives - logits) * weights).sum(dim=1)


def pair_loss(logits: torch.Tensor | None, labels: torch.Tensor | None) -> torch.Tensor:
    """The mean of [`info_nce`] of queries against products and of products against queries.

    Args:
        logits (`torch.Tensor` of shape `(queries, products)`): scores times the inverse temperature.
        labels (`torch.Tensor` of shape `(queries, products)`, *optional*): grades; the pairs with the same number if
            not given.

    Raises:
        ValueError: if there are no logits, or the labels are not of their shape.
    """
    if logits is None:
        raise ValueError("a loss needs queries and products: give inputs of both towers")
    if labels is None:
        labels = torch.eye(len(logits), device=logits.device)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must be (queries, products), how relevant each product is to each query, {tuple(logits.shape)}; "
            f"got {tuple(labels.shape)}"
        )
    labels = labels.to(logits.dtype)
    return (info_nce(logits, labels).mean() + info_nce(logits.T, labels.T).mean()) / 2


def as_maps(
    weights: torch.Tensor, image_mask: torch.Tensor, spatial_shapes: torch.Tensor | None = None
) -> torch.Tensor:
    """Weights of cells to maps `(batch, images, height, width)` from 0 to 1.

    Args:
        weights (`torch.Tensor` of shape `(batch * images, height, width)` or `(batch * images, tokens)`): see
            [`as_map`].
        image_mask (`torch.Tensor` of shape `(batch, images)`): True where there is a picture.
        spatial_shapes (`torch.Tensor` of shape `(batch * images, 2)`, *optional*): see [`maps_of`]; maps of pictures
            of varying shape have as many cells a side as the longest of them.
    """
    if spatial_shapes is not None:
        weights = maps_of(weights[..., None], spatial_shapes, int(spatial_shapes.max()))[:, 0]
    elif weights.ndim == 2:
        weights = as_map(weights[..., None])[:, 0]
    maps = weights.unflatten(0, image_mask.shape) * image_mask[..., None, None]
    return maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


__all__ = [
    "MMFusionExplanation",
    "MMFusionFeatures",
    "MMFusionModel",
    "MMFusionOutput",
    "MMFusionPreTrainedModel",
]
