"""MMFusion model configuration."""

from dataclasses import dataclass
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

FusionType = Literal["experts", "weighted_mean", "sum", "concat", "gated"]
Pooling = Literal["mean", "cls", "last", "pooler", "aligned"]
EXPERTS = ("text", "lexical", "image", "cross", "aligned")
LEARNED = ("image", "cross")


@dataclass(frozen=True)
class MMFusionBlock:
    """A part of the vectors, which an expert of each tower makes.

    Attributes:
        width (`int`): dimensions before truncation.
        is_learned (`bool`): whether it says nothing before training, and so is silent for unfamiliar texts.
        logit (`float`): its share of the vectors before training, see [`MMFusionRouter`].
        unfamiliar_logit (`float`): its share for a text that is like none of the training's.
    """

    width: int
    is_learned: bool = False
    logit: float = 0.0
    unfamiliar_logit: float = 0.0


@strict
class MMFusionConfig(PreTrainedConfig):
    r"""
    Configuration of [`MMFusionModel`]: the two or three towers and the fusion network that joins them.

    With `fusion_type="experts"` a product vector is the concatenation of four blocks, `[text; lexical; image; cross]`,
    of the widths below; a query vector has the same blocks, so that one inner product compares them. A model that
    starts from an aligned dual encoder has a fifth, `aligned`. The other fusion types make plain vectors of one block,
    `[fused]`; they are baselines.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a BERT configuration):
            The product tower's text encoder; any encoder that `AutoModel` knows.
        vision_config (`PreTrainedConfig` or `dict`, *optional*, defaults to a SigLIP vision configuration):
            The product tower's image encoder; any that `AutoModel` knows, timm backbones included.
        query_config (`PreTrainedConfig` or `dict`, *optional*):
            The query tower's text encoder. `None` shares the product tower's text encoder.
        aligned_config (`PreTrainedConfig` or `dict`, *optional*):
            An aligned dual encoder (CLIP, SigLIP, ...) whose halves are the product tower's two encoders, in place of
            `text_config` and `vision_config`. Its shared space becomes the aligned block.
        aligned_hidden_size (`int`, *optional*, defaults to 0):
            Width of that space.
        aligned_pooling (`str`, *optional*, defaults to `"pooler"`):
            What of its text encoder is projected into that space: `pooler` or `cls`.
        attend_padding (`bool`, *optional*, defaults to `False`):
            Whether the text encoder sees padding as it sees tokens, as SigLIP's was trained to.
        text_pooling (`str`, *optional*, defaults to `"mean"`):
            How the text encoder's tokens become one vector: `mean` over tokens, `cls` (the first token), `last` (the
            last token that is no padding), `pooler` (the encoder's own pooler, as for CLIP) or `aligned` (the text's
            place in the space of `aligned_config`).
        query_pooling (`str`, *optional*, defaults to `"mean"`):
            The same for the query tower; not used when the text encoder is shared.
        image_hidden_size (`int`, *optional*):
            Width of the image encoder's pooled features; `None` asks `vision_config`, which not all can tell.
        image_levels (`list[int]`, *optional*, defaults to `[]`):
            Hidden states of the image encoder whose mean and maximum over the picture join its pooled output. The
            early stages of a convolutional encoder know colour and pattern, which its last one was trained to ignore.
        image_level_dims (`list[int]`, *optional*, defaults to `[]`):
            Widths of these hidden states.
        fusion_type (`str`, *optional*, defaults to `"experts"`):
            `experts` (ours), or a baseline: `weighted_mean` of unit vectors (Marqo GCL), `sum` of raw ones (UniIR
            CLIP_SF), `concat` and an MLP, or `gated`.
        text_dim (`int`, *optional*, defaults to 176):
            Width of the text block. It starts as the text encoder's own space, or as that space's principal axes if
            that is wider.
        lexical_dim (`int`, *optional*, defaults to 496):
            Width of the lexical block, which compares the very tokens of query and product; codes of different tokens
            have inner products of 0, give or take `1 / sqrt(lexical_dim)`. 0 leaves it out, as it
            must be where query and product have tokenizers of different vocabularies.
        image_dim (`int`, *optional*, defaults to 176):
            Width of the image block.
        cross_dim (`int`, *optional*, defaults to 176):
            Width of the cross-modal block.
        aligned_dim (`int`, *optional*, defaults to 0):
            Width of the aligned block: the shared space of `aligned_config`, or its principal axes if that is wider.
        vector_dim (`int`, *optional*, defaults to 1024):
            Width of the vectors of the fusion types other than `experts`.
        cross_attention (`bool`, *optional*, defaults to `True`):
            Whether the image and the cross-modal expert attend to the cells of pictures, besides seeing pooled
            features.
        num_cell_queries (`int`, *optional*, defaults to 4):
            With how many vectors each of the two looks at the cells.
        cell_grid (`int`, *optional*, defaults to 7):
            Cells a side of a picture, or as many as the image encoder has.
        fusion_hidden_size (`int`, *optional*, defaults to 512):
            Width of the hidden layers of the fusion network's small MLPs.
        attention_hidden_size (`int`, *optional*, defaults to 256):
            Width of the attention to cells.
        num_attention_heads (`int`, *optional*, defaults to 4):
            Heads of the attention to cells.
        num_prototypes (`int`, *optional*, defaults to 128):
            Prototypes of the training's texts, which tell familiar texts from others; see [`MMFusionFamiliarity`].
        fusion_dropout (`float`, *optional*, defaults to 0.3):
            Dropout in the MLPs while training.
        modality_dropout (`float`, *optional*, defaults to 0.1):
            Share of products whose text, and share of products whose image, is hidden while training; a product never
            loses both. It makes the model robust to missing images and thin text.
        text_mean_weight (`float`, *optional*, defaults to 0.5):
            Weight of the text in `weighted_mean`; the image has the rest.
        block_logits_init (`list[float]`, *optional*, defaults to `[1.0, 0.6, 0.5, 0.5]`):
            The routers' logits of text, lexical, image, cross and, if there is one, aligned block before training:
            without it shares of 34, 23, 21 and 21%.
        unfamiliar_logits (`list[float]`, *optional*, defaults to `[]`):
            Those of a text that is like none of the training's; `[]` takes `block_logits_init`.
        logit_scale_init_value (`float`, *optional*, defaults to 3.0):
            Logarithm of the inverse temperature before training.
        matryoshka_dims (`list[int]`, *optional*, defaults to `[]`):
            Shorter vectors that training took care of; see `truncate_dim`.
        truncate_dim (`int`, *optional*):
            Length of the vectors that the model returns: each block keeps its first dimensions in proportion, and its
            weight. `None` returns all `embedding_dim` dimensions.
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
        "aligned_config": SubConfigSpec(config_class=AutoConfig, model_type="clip", optional=True),
    }

    text_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None
    query_config: PreTrainedConfig | dict | None = None
    aligned_config: PreTrainedConfig | dict | None = None
    aligned_hidden_size: int = 0
    aligned_pooling: Literal["pooler", "cls"] = "pooler"
    attend_padding: bool = False
    text_pooling: Pooling = "mean"
    query_pooling: Pooling = "mean"
    image_hidden_size: int | None = None
    image_levels: list[int] | tuple[int, ...] = ()
    image_level_dims: list[int] | tuple[int, ...] = ()
    fusion_type: FusionType = "experts"
    text_dim: int = 176
    lexical_dim: int = 496
    image_dim: int = 176
    cross_dim: int = 176
    aligned_dim: int = 0
    vector_dim: int = 1024
    cross_attention: bool = True
    num_cell_queries: int = 4
    cell_grid: int = 7
    fusion_hidden_size: int = 512
    attention_hidden_size: int = 256
    num_attention_heads: int = 4
    num_prototypes: int = 128
    fusion_dropout: float | int = 0.3
    modality_dropout: float | int = 0.1
    text_mean_weight: float | int = 0.5
    block_logits_init: list[float] | tuple[float, ...] = (1.0, 0.6, 0.5, 0.5)
    unfamiliar_logits: list[float] | tuple[float, ...] = ()
    logit_scale_init_value: float | int = 3.0
    matryoshka_dims: list[int] | tuple[int, ...] = ()
    truncate_dim: int | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        logits = ("block_logits_init", "unfamiliar_logits")
        for name in ("image_levels", "image_level_dims", *logits, "matryoshka_dims"):
            setattr(self, name, list(getattr(self, name)))  # as they are when loaded from JSON
        super().__post_init__(**kwargs)
        if self.aligned_config is not None:  # one object each, so that what is set in one place holds in both
            self.text_config, self.vision_config = self.aligned_config.text_config, self.aligned_config.vision_config

    @property
    def blocks(self) -> dict[str, MMFusionBlock]:
        """A vector's blocks by name, in their order; the lexical one may be left out by a width of 0, and only a model
        with an aligned dual encoder has the last one."""
        if self.fusion_type != "experts":
            return {"fused": MMFusionBlock(self.vector_dim)}
        experts = EXPERTS if self.aligned_config is not None else EXPERTS[:-1]
        strangers = self.unfamiliar_logits or self.block_logits_init
        table = {
            name: MMFusionBlock(getattr(self, f"{name}_dim"), name in LEARNED, float(logit), float(stranger))
            for name, logit, stranger in zip(experts, self.block_logits_init, strangers, strict=True)
        }
        return {name: block for name, block in table.items() if block.width or name != "lexical"}

    @property
    def block_dims(self) -> dict[str, int]:
        """Widths of a vector's blocks before truncation."""
        return {name: block.width for name, block in self.blocks.items()}

    @property
    def embedding_dim(self) -> int:
        """Width of a query's or product's vector before truncation."""
        return sum(self.block_dims.values())

    @property
    def projection_dim(self) -> int:
        """Width of the vectors that the model returns, under the name that sentence-transformers reads it by."""
        return self.truncate_dim or self.embedding_dim

    def truncated_dims(self, dim: int) -> dict[str, int]:
        """Widths of the blocks of vectors truncated to `dim` dimensions; the first block takes what rounding leaves.

        Raises:
            ValueError: if a block would have no dimension left, or `dim` is more than there is.
        """
        dims = {name: width * dim // self.embedding_dim for name, width in self.block_dims.items()}
        dims[next(iter(dims))] += dim - sum(dims.values())
        if min(dims.values()) < 1 or dim > self.embedding_dim:
            raise ValueError(
                f"can't truncate blocks of {tuple(self.block_dims.values())} dimensions to {dim} in all; "
                f"give at least one dimension a block and at most {self.embedding_dim}"
            )
        return dims

    def validate_fusion(self):
        """Refuses widths and rates that no fusion network can have."""
        given = {self.aligned_config is not None, self.aligned_dim > 0, self.aligned_hidden_size > 0}
        if len(given) > 1:
            raise ValueError(
                "aligned_config, aligned_dim and aligned_hidden_size go together; use "
                "MMFusionModel.from_towers(aligned=...)"
            )
        if self.aligned_config is None and "aligned" in (self.text_pooling, self.query_pooling):
            raise ValueError("text_pooling aligned goes with aligned_config")
        if self.aligned_config is not None and self.query_config is not None:
            raise ValueError("query_config can't be beside aligned_config, whose text encoder queries need")
        if min(*self.block_dims.values(), self.fusion_hidden_size, self.attention_hidden_size) < 1:
            raise ValueError(
                f"text_dim, image_dim, cross_dim, vector_dim, fusion_hidden_size and attention_hidden_size must "
                f"be at least 1, got blocks of {tuple(self.block_dims.values())}, {self.fusion_hidden_size} and "
                f"{self.attention_hidden_size}"
            )
        if min(self.num_cell_queries, self.cell_grid) < 1:
            raise ValueError(
                f"num_cell_queries and cell_grid must be at least 1, got {self.num_cell_queries} and {self.cell_grid}"
            )
        if not 0 <= self.modality_dropout <= 0.5:
            raise ValueError(f"modality_dropout must lie between 0 and 0.5, got {self.modality_dropout}")
        if len(self.image_levels) != len(self.image_level_dims):
            raise ValueError(f"image_level_dims must have a width for each of image_levels {self.image_levels}")
        if self.attention_hidden_size % self.num_attention_heads:
            raise ValueError(
                f"attention_hidden_size ({self.attention_hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        for dim in [*self.matryoshka_dims, *([self.truncate_dim] if self.truncate_dim else [])]:
            self.truncated_dims(dim)


__all__ = ["MMFusionConfig"]
