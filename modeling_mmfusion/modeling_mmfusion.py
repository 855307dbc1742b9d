"""MMFusion model: a query tower and a product tower whose text and image encoders are joined by a fusion network."""

import os
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging

from .configuration_mmfusion import VIEWS, MMFusionConfig
from .fusion_mmfusion import MMFusionProductHeads, MMFusionQueryHeads, MMFusionTextHead, init_fusion_weights

logger = logging.get_logger(__name__)

MAX_LOGIT_SCALE = 4.6052  # ln 100, the bound of CLIP (https://huggingface.co/papers/2103.00020)


@dataclass
class MMFusionFeatures(ModelOutput):
    r"""
    What one tower says about a batch.

    Args:
        pooler_output (`torch.Tensor` of shape `(batch, embedding_dim)`):
            Unit vectors; the inner product of a query's and a product's is their score.
        block_weights (`torch.Tensor` of shape `(batch, 3)`):
            Lengths of the text, image and cross blocks in the vector; their squares sum to 1.
        text_features (`torch.Tensor` of shape `(batch, text_hidden_size)`):
            The text encoder's unit features, which can be passed in again in place of `input_ids`.
        image_features (`torch.Tensor` of shape `(batch, images, vision_hidden_size)`, *optional*):
            The image encoder's features (product tower only), which can be passed in place of `pixel_values`.
    """

    pooler_output: torch.FloatTensor | None = None
    block_weights: torch.FloatTensor | None = None
    text_features: torch.FloatTensor | None = None
    image_features: torch.FloatTensor | None = None


@dataclass
class MMFusionOutput(ModelOutput):
    r"""
    Queries against products.

    Args:
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
        logits_per_view (`dict[str, torch.Tensor]`):
            `logits_per_query` of each view that was asked for.
    """

    logits_per_query: torch.FloatTensor | None = None
    query_embeds: torch.FloatTensor | None = None
    product_embeds: torch.FloatTensor | None = None
    query_output: MMFusionFeatures | None = None
    product_output: MMFusionFeatures | None = None
    logits_per_view: dict[str, torch.FloatTensor] | None = None


class MMFusionLogitScale(nn.Module):
    """The learnable inverse temperature, held as a logarithm; a module so that PEFT can train and save it."""

    def __init__(self, config: MMFusionConfig):
        super().__init__()
        self.init_value = config.logit_scale_init_value
        self.log_scale = nn.Parameter(torch.full((1,), float(self.init_value)))

    def forward(self) -> torch.Tensor:
        """The inverse temperature, at most 100, of shape `(1,)`."""
        return self.log_scale.clamp(max=MAX_LOGIT_SCALE).exp()


class MMFusionPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the flags of `transformers`."""

    config: MMFusionConfig
    base_model_prefix = "mmfusion"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = []
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

    def __init__(self, config: MMFusionConfig):
        super().__init__(config)
        self.text_model = AutoModel.from_config(config.text_config)
        self.vision_model = AutoModel.from_config(config.vision_config)
        text_hidden_size = hidden_size_of(config.text_config)
        self.text_head = MMFusionTextHead(text_hidden_size, config)
        if config.query_config is None:
            self.query_heads = MMFusionQueryHeads(text_hidden_size, config)
        else:
            query_hidden_size = hidden_size_of(config.query_config)
            self.query_model = AutoModel.from_config(config.query_config)
            self.query_text_head = MMFusionTextHead(query_hidden_size, config)
            self.query_heads = MMFusionQueryHeads(query_hidden_size, config)
        self.product_heads = MMFusionProductHeads(text_hidden_size, hidden_size_of(config.vision_config), config)
        self.logit_scale = MMFusionLogitScale(config)
        self.post_init()

    @classmethod
    def from_towers(
        cls, text: str | os.PathLike, vision: str | os.PathLike, query: str | os.PathLike | None = None, **kwargs
    ) -> "MMFusionModel":
        """Starts a model from pretrained towers; the fusion network and the heads are new.

        Of a checkpoint with a text and an image encoder (CLIP, SigLIP) only the one that is asked for is taken.

        Args:
            text (`str`): folder or Hub id of the product tower's text encoder.
            vision (`str`): folder or Hub id of the image encoder.
            query (`str`, *optional*): folder or Hub id of the query tower's own text encoder. `None` shares the
                product tower's.
            kwargs: fields of [`MMFusionConfig`]; `text_dim` defaults to the text encoder's hidden size and the
                pooling to what the encoder was trained for (`pooler` for CLIP, else `mean`).

        Returns:
            The model, in eval mode.
        """
        text_tower = load_tower(text, "text_config")
        vision_tower = load_tower(vision, "vision_config")
        query_tower = None if query is None else load_tower(query, "text_config")
        kwargs.setdefault("text_dim", hidden_size_of(text_tower.config))
        kwargs.setdefault("text_pooling", default_pooling(text_tower.config))
        if query_tower is not None:
            kwargs.setdefault("query_pooling", default_pooling(query_tower.config))
            kwargs["query_config"] = query_tower.config.to_dict()
        model = cls(
            MMFusionConfig(
                text_config=text_tower.config.to_dict(), vision_config=vision_tower.config.to_dict(), **kwargs
            )
        )
        model.text_model.load_state_dict(text_tower.state_dict())
        model.vision_model.load_state_dict(vision_tower.state_dict())
        if query_tower is not None:
            model.query_model.load_state_dict(query_tower.state_dict())
        logger.warning("The fusion network and the heads are newly initialised: train the model before you use it.")
        return model.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def get_query_features(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_features: torch.FloatTensor | None = None,
    ) -> MMFusionFeatures:
        r"""
        The query tower.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*): from `processor.process_queries`.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 1 for tokens, 0 for padding.
            text_features (`torch.Tensor` of shape `(batch, hidden_size)`, *optional*): the encoder's features from an
                earlier call, in place of `input_ids`; the encoder is not run.

        Returns:
            [`MMFusionFeatures`] with the queries' vectors in `pooler_output`.
        """
        own_encoder = self.config.query_config is not None
        if text_features is None:
            encoder = self.query_model if own_encoder else self.text_model
            pooling = self.config.query_pooling if own_encoder else self.config.text_pooling
            text_features = encode_text(encoder, input_ids, attention_mask, pooling)
        text_head = self.query_text_head if own_encoder else self.text_head
        embeds, weights = self.query_heads(text_features, text_head)
        return MMFusionFeatures(pooler_output=embeds, block_weights=weights, text_features=text_features)

    def get_product_features(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_mask: torch.BoolTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.BoolTensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        text_features: torch.FloatTensor | None = None,
        image_features: torch.FloatTensor | None = None,
        view: str = "fused",
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
            text_features (`torch.Tensor` of shape `(batch, text_hidden_size)`, *optional*): the text encoder's
                features from an earlier call, in place of `input_ids`.
            image_features (`torch.Tensor` of shape `(batch, images, vision_hidden_size)`, *optional*): likewise, in
                place of `pixel_values`.
            view (`str`, *optional*, defaults to `"fused"`): `fused`, or `text` or `image` for the product as if it
                had only that modality, in the same space.

        Returns:
            [`MMFusionFeatures`] with the products' vectors in `pooler_output`.

        Raises:
            ValueError: if neither text nor images are given, or the view is unknown.
        """
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {view!r}")
        if text_features is None and input_ids is not None:
            text_features = encode_text(self.text_model, input_ids, attention_mask, self.config.text_pooling)
        if image_features is None and pixel_values is not None:
            image_features = self._encode_images(pixel_values, pixel_attention_mask, spatial_shapes)
        if text_features is None and image_features is None:
            raise ValueError("give input_ids or text_features, or pixel_values or image_features, or both")
        given = text_features if text_features is not None else image_features
        text, text_mask = or_missing(text_features, text_mask, given, (hidden_size_of(self.config.text_config),))
        image, image_mask = or_missing(
            image_features, image_mask, given, (1, hidden_size_of(self.config.vision_config))
        )
        if view == "text":
            image_mask = torch.zeros_like(image_mask)
        if view == "image":
            text_mask = torch.zeros_like(text_mask)
        embeds, weights = self.product_heads(text, image, text_mask, image_mask, self.text_head)
        return MMFusionFeatures(embeds, weights, text_features, image_features)

    def get_task_features(
        self,
        query_tokens: torch.LongTensor,
        query_mask: torch.Tensor,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor,
        text_mask: torch.BoolTensor,
        task: str | None = None,
    ) -> MMFusionFeatures:
        r"""
        The tower that a task asks for, on texts that `processor.process_documents` has prepared for both; called by
        sentence-transformers, see `sentence_transformers_mmfusion.py`.

        Args:
            query_tokens (`torch.LongTensor` of shape `(batch, tokens)`): the texts as queries.
            query_mask (`torch.Tensor` of shape `(batch, tokens)`): their mask.
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): the texts as products.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`): their mask.
            text_mask (`torch.BoolTensor` of shape `(batch,)`): False where a text is empty.
            task (`str`, *optional*): `query`, or `document` for the product tower, which is also the default.

        Returns:
            [`MMFusionFeatures`] of [`~MMFusionModel.get_query_features`] or [`~MMFusionModel.get_product_features`].

        Raises:
            ValueError: if the task is unknown.
        """
        if task not in (None, "query", "document"):
            raise ValueError(f"task must be query or document, got {task!r}")
        if task == "query":
            return self.get_query_features(query_tokens, query_mask)
        return self.get_product_features(input_ids, attention_mask, text_mask)

    def forward(
        self,
        query_input_ids: torch.LongTensor | None = None,
        query_attention_mask: torch.Tensor | None = None,
        query_text_features: torch.FloatTensor | None = None,
        views: tuple[str, ...] = ("fused",),
        **product_inputs,
    ) -> MMFusionOutput:
        r"""
        Both towers: every query against every product.

        Args:
            query_input_ids (`torch.LongTensor` of shape `(queries, tokens)`, *optional*): the queries.
            query_attention_mask (`torch.Tensor` of shape `(queries, tokens)`, *optional*): their mask.
            query_text_features (`torch.Tensor` of shape `(queries, hidden_size)`, *optional*): the query encoder's
                features, in place of `query_input_ids`.
            views (`tuple[str, ...]`, *optional*, defaults to `("fused",)`): the views of the products to score, for
                losses on single modalities; the encoders run once for all. `product_embeds` are those of the first.
            product_inputs: the arguments of [`~MMFusionModel.get_product_features`] but `view`.

        Returns:
            [`MMFusionOutput`].
        """
        queries = self.get_query_features(query_input_ids, query_attention_mask, query_text_features)
        products = self.get_product_features(**product_inputs, view=views[0])
        scaled_queries = self.logit_scale() * queries.pooler_output
        logits = {views[0]: scaled_queries @ products.pooler_output.T}
        for view in views[1:]:
            features = self.get_product_features(
                text_features=products.text_features,
                image_features=products.image_features,
                text_mask=product_inputs.get("text_mask"),
                image_mask=product_inputs.get("image_mask"),
                view=view,
            )
            logits[view] = scaled_queries @ features.pooler_output.T
        return MMFusionOutput(
            logits[views[0]], queries.pooler_output, products.pooler_output, queries, products, logits
        )

    def _encode_images(self, pixel_values, pixel_attention_mask, spatial_shapes) -> torch.Tensor:
        """Pooled features `(batch, images, vision_hidden_size)` of each product's pictures."""
        batch, images = pixel_values.shape[:2]
        inputs = {"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes}
        inputs = {name: value.flatten(0, 1) for name, value in inputs.items() if value is not None}
        pixel_values = pixel_values.flatten(0, 1).to(self.dtype)
        features = self.vision_model(pixel_values=pixel_values, **inputs).pooler_output
        return features.reshape(batch, images, -1)


def or_missing(features, mask, given: torch.Tensor, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and their mask; where there are none, zeros of `shape` a row of `given` and a mask that is False."""
    if features is None:
        features = given.new_zeros(len(given), *shape)
        return features, torch.zeros(features.shape[:-1], dtype=torch.bool, device=features.device)
    if mask is None:
        mask = torch.ones(features.shape[:-1], dtype=torch.bool, device=features.device)
    return features, mask.bool()


def encode_text(encoder: nn.Module, input_ids, attention_mask, pooling: str) -> torch.Tensor:
    """Unit features `(batch, hidden_size)` of texts `(batch, tokens)`, pooled as [`MMFusionConfig`] says."""
    output = encoder(input_ids=input_ids, attention_mask=attention_mask)
    if pooling == "pooler":
        return F.normalize(output.pooler_output, dim=-1)
    tokens = output.last_hidden_state
    if attention_mask is None:
        attention_mask = torch.ones(input_ids.shape, device=input_ids.device)
    if pooling == "cls":
        pooled = tokens[:, 0]
    elif pooling == "last":
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        last = (attention_mask * positions).argmax(dim=1)
        pooled = tokens[torch.arange(len(tokens), device=tokens.device), last]
    else:
        mask = attention_mask.to(tokens.dtype)[..., None]
        pooled = (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return F.normalize(pooled, dim=-1)


def hidden_size_of(config: PreTrainedConfig) -> int:
    """Width of an encoder's pooled features; timm backbones tell it as `num_features`."""
    if config.model_type == "timm_wrapper":
        return config.num_features
    return config.hidden_size


def default_pooling(config: PreTrainedConfig) -> str:
    """`pooler` for the text encoders of CLIP, whose pooler was trained with them; else `mean`."""
    return "pooler" if config.model_type.startswith("clip") else "mean"


def load_tower(name: str | os.PathLike, part: str) -> PreTrainedModel:
    """Loads an encoder that `AutoModel` knows; of a checkpoint with several, the one described by `part`."""
    config = AutoConfig.from_pretrained(name)
    return AutoModel.from_pretrained(name, config=getattr(config, part, config))


__all__ = ["MMFusionFeatures", "MMFusionModel", "MMFusionOutput", "MMFusionPreTrainedModel"]
