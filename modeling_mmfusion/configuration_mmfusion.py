"""MMFusion model configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

BLOCKS = ("text", "image", "cross")
VIEWS = ("fused", "text", "image")
Pooling = Literal["mean", "cls", "last", "pooler"]


@strict
class MMFusionConfig(PreTrainedConfig):
    r"""
    Configuration of [`MMFusionModel`]: the two or three towers and the fusion network that joins them.

    A product vector is the concatenation of three blocks, `[text; image; cross]`, of the widths below; a query vector
    has the same blocks, so that one inner product compares them.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a BERT configuration):
            The product tower's text encoder; any encoder that `AutoModel` knows.
        vision_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a SigLIP vision configuration):
            The product tower's image encoder; any that `AutoModel` knows, timm backbones included.
        query_config (`PreTrainedConfig` or `dict`, *optional*):
            The query tower's text encoder. `None` shares the product tower's text encoder.
        text_pooling (`str`, *optional*, defaults to `"mean"`):
            How the text encoder's tokens become one vector: `mean` over tokens, `cls` (the first token), `last` (the
            last token that is no padding) or `pooler` (the encoder's own pooler, as for CLIP).
        query_pooling (`str`, *optional*, defaults to `"mean"`):
            The same for the query tower; not used when the text encoder is shared.
        text_dim (`int`, *optional*, defaults to 384):
            Width of the text block. Equal to the text encoder's hidden size it starts as that encoder's own space.
        image_dim (`int`, *optional*, defaults to 256):
            Width of the image block.
        cross_dim (`int`, *optional*, defaults to 128):
            Width of the cross-modal block.
        fusion_hidden_size (`int`, *optional*, defaults to 512):
            Width of the hidden layers of the fusion network's small MLPs.
        fusion_dropout (`float`, *optional*, defaults to 0.1):
            Dropout in these MLPs while training.
        modality_dropout (`float`, *optional*, defaults to 0.1):
            Share of products whose text, and share of products whose image, is hidden while training; a product never
            loses both. It makes the model robust to missing images and thin text.
        text_weight_init_value (`float`, *optional*, defaults to 2.0):
            Router logit of the text block before training, against 0 for the others: with 2.0 the text block has
            79% of the weight.
        logit_scale_init_value (`float`, *optional*, defaults to 3.0):
            Logarithm of the inverse temperature before training.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of new linear layers.

    Example:

    ```python
    >>> from modeling_mmfusion import MMFusionConfig, MMFusionModel

    >>> config = MMFusionConfig(text_config={"model_type": "modernbert"}, vision_config={"model_type": "dinov2"})
    >>> model = MMFusionModel(config)
    ```
    """

    model_type = "mmfusion"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
        "query_config": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
    }

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    query_config: PreTrainedConfig | dict | None = None
    text_pooling: Pooling = "mean"
    query_pooling: Pooling = "mean"
    text_dim: int = 384
    image_dim: int = 256
    cross_dim: int = 128
    fusion_hidden_size: int = 512
    fusion_dropout: float | int = 0.1
    modality_dropout: float | int = 0.1
    text_weight_init_value: float | int = 2.0
    logit_scale_init_value: float | int = 3.0
    initializer_range: float = 0.02

    @property
    def block_dims(self) -> tuple[int, int, int]:
        """Widths of the text, image and cross blocks."""
        return self.text_dim, self.image_dim, self.cross_dim

    @property
    def embedding_dim(self) -> int:
        """Width of a query's or product's vector."""
        return sum(self.block_dims)

    @property
    def projection_dim(self) -> int:
        """The same, under the name that CLIP's configuration gives it and that sentence-transformers reads."""
        return self.embedding_dim

    def validate_fusion(self):
        """Refuses widths and rates that no fusion network can have."""
        if min(*self.block_dims, self.fusion_hidden_size) < 1:
            raise ValueError(
                f"text_dim, image_dim, cross_dim and fusion_hidden_size must be at least 1, got {self.block_dims} "
                f"and {self.fusion_hidden_size}"
            )
        if not 0 <= self.modality_dropout <= 0.5:
            raise ValueError(f"modality_dropout must lie between 0 and 0.5, got {self.modality_dropout}")


__all__ = ["MMFusionConfig"]
