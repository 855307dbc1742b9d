"""The fusion network: from what the towers say to the blocks of query and product vectors.

A product vector is `[a_t t; a_i i; a_c c]` with unit blocks `t` (text), `i` (image), `c` (what both together say) and
a router's lengths `a` (`sum a^2 = 1`); a query vector is `[w_t q_t; w_i q_i; w_c q_c]` with the query's own router's
lengths `w`. Their inner product is `w_t a_t (q_t.t) + w_i a_i (q_i.i) + w_c a_c (q_c.c)`: the query decides how much
each modality counts although products are embedded offline, and one inner-product index serves all queries.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_mmfusion import BLOCKS, MMFusionConfig


class MMFusionOrthogonalLinear(nn.Linear):
    """A linear layer that starts with orthonormal rows or columns, so that it keeps angles as far as widths allow."""


class MMFusionZeroLinear(nn.Linear):
    """A linear layer that starts at zero, so that a residual branch which it ends adds nothing before training."""


class MMFusionMLP(nn.Module):
    """`Linear -> GELU -> Dropout -> Linear`; maps `(batch, in_dim)` to `(batch, out_dim)`."""

    def __init__(self, in_dim: int, out_dim: int, config: MMFusionConfig, last_layer: type[nn.Linear] = nn.Linear):
        super().__init__()
        self.fc1 = nn.Linear(in_dim, config.fusion_hidden_size)
        self.dropout = nn.Dropout(config.fusion_dropout)
        self.fc2 = last_layer(config.fusion_hidden_size, out_dim)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.dropout(F.gelu(self.fc1(states))))


class MMFusionTextHead(nn.Module):
    """Text features to the text block, starting as the text encoder's own space.

    The base map is the identity where the widths agree, else a linear map with orthonormal rows or columns; an MLP
    whose last layer starts at zero is added to it. Query and product share the map when they share the encoder, so
    that before any training the text block scores like the text encoder alone.
    """

    def __init__(self, in_dim: int, config: MMFusionConfig):
        super().__init__()
        same = in_dim == config.text_dim
        self.norm = nn.LayerNorm(in_dim)
        self.base = nn.Identity() if same else MMFusionOrthogonalLinear(in_dim, config.text_dim, bias=False)
        self.residual = MMFusionMLP(in_dim, config.text_dim, config, last_layer=MMFusionZeroLinear)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Unit features `(batch, in_dim)` to unit vectors `(batch, text_dim)`."""
        return F.normalize(self.base(features) + self.residual(self.norm(features)), dim=-1)


class MMFusionRouter(nn.Linear):
    """Lengths of the blocks of one vector: the square root of a softmax, so that the whole vector is a unit vector.

    Starts at fixed lengths that favour the text block (`config.text_weight_init_value`). Blocks that are masked get
    length 0 and the others share their weight.
    """

    def __init__(self, in_dim: int, config: MMFusionConfig):
        super().__init__(in_dim, len(BLOCKS))
        self.text_weight_init_value = config.text_weight_init_value

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """States `(batch, in_dim)` and a mask of usable blocks `(batch, 3)` to lengths `(batch, 3)`."""
        logits = super().forward(states)
        if mask is not None:
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        # written so that a masked block's gradient is 0; that of sqrt(softmax) is not a number there
        return F.normalize((0.5 * (logits - logits.amax(dim=-1, keepdim=True))).exp(), dim=-1)


class MMFusionQueryHeads(nn.Module):
    """The query tower's part: query features to the three query blocks and their weights."""

    def __init__(self, in_dim: int, config: MMFusionConfig):
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.image_head = MMFusionMLP(in_dim, config.image_dim, config)
        self.cross_head = MMFusionMLP(in_dim, config.cross_dim, config)
        self.router = MMFusionRouter(in_dim, config)

    def forward(self, features: torch.Tensor, text_head: MMFusionTextHead) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit features `(batch, in_dim)` to vectors `(batch, embedding_dim)` and weights `(batch, 3)`."""
        states = self.norm(features)
        weights = self.router(states)
        blocks = (text_head(features), self.image_head(states), self.cross_head(states))
        return join_blocks(blocks, weights), weights


class MMFusionProductHeads(nn.Module):
    """The product tower's fusion network: a text, an image and a cross-modal expert and a mask-aware router.

    A modality that a product lacks is replaced by a learned vector where the cross-modal expert and the router look
    at it, and its own block has length 0.
    """

    def __init__(self, text_in_dim: int, image_in_dim: int, config: MMFusionConfig):
        super().__init__()
        self.modality_dropout = config.modality_dropout
        self.text_norm = nn.LayerNorm(text_in_dim)
        self.image_norm = nn.LayerNorm(image_in_dim)
        self.image_head = MMFusionMLP(image_in_dim, config.image_dim, config)
        self.cross_head = MMFusionMLP(text_in_dim + image_in_dim, config.cross_dim, config)
        self.router = MMFusionRouter(text_in_dim + image_in_dim, config)
        self.missing_text = nn.Parameter(torch.zeros(text_in_dim))
        self.missing_image = nn.Parameter(torch.zeros(image_in_dim))

    def forward(
        self,
        text: torch.Tensor,
        image: torch.Tensor,
        text_mask: torch.Tensor,
        image_mask: torch.Tensor,
        text_head: MMFusionTextHead,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Joins the modalities of a batch of products.

        Args:
            text (`torch.Tensor` of shape `(batch, text_in_dim)`): unit text features; rows without text are ignored.
            image (`torch.Tensor` of shape `(batch, images, image_in_dim)`): features of each product's pictures.
            text_mask (`torch.Tensor` of shape `(batch,)`): True where the product has text.
            image_mask (`torch.Tensor` of shape `(batch, images)`): True where there is a picture.

        Returns:
            Vectors `(batch, embedding_dim)` and block weights `(batch, 3)`. A product without text and without image
            has only its cross-modal block.
        """
        if self.training:
            text_mask, image_mask = drop_modalities(text_mask, image_mask, self.modality_dropout)
        has_image = image_mask.any(dim=1)
        image = masked_mean(self.image_norm(image), image_mask)
        image = torch.where(has_image[:, None], image, self.missing_image)
        both = torch.cat([torch.where(text_mask[:, None], self.text_norm(text), self.missing_text), image], dim=-1)
        usable = torch.stack([text_mask, has_image, torch.ones_like(has_image)], dim=-1)
        weights = self.router(both, usable)
        blocks = (text_head(text), self.image_head(image), self.cross_head(both))
        return join_blocks(blocks, weights), weights


def join_blocks(blocks: tuple[torch.Tensor, ...], weights: torch.Tensor) -> torch.Tensor:
    """Concatenates blocks `(batch, width)`, each scaled to the length that `weights` `(batch, blocks)` gives it."""
    return torch.cat([F.normalize(block, dim=-1) * weights[:, [n]] for n, block in enumerate(blocks)], dim=-1)


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the middle dimension of `(batch, items, dim)` where `mask` `(batch, items)` is True; 0 if nowhere."""
    mask = mask.to(states.dtype)[..., None]
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def drop_modalities(
    text_mask: torch.Tensor, image_mask: torch.Tensor, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hides the text of a share `rate` of the products that have both, and the pictures of another share `rate`."""
    draw = torch.rand(text_mask.shape, device=text_mask.device)
    both = text_mask & image_mask.any(dim=1)
    hide_text = both & (draw < rate)
    hide_image = both & (draw > 1 - rate)
    return text_mask & ~hide_text, image_mask & ~hide_image[:, None]


@torch.no_grad()
def init_fusion_weights(module: nn.Module) -> None:
    """Initialises the modules of the fusion network that don't start as ordinary linear layers.

    `transformers` skips modules of remote code that hold no parameter of their own, hence the small classes above.
    """
    if isinstance(module, MMFusionOrthogonalLinear):
        init.orthogonal_(module.weight)
    elif isinstance(module, MMFusionZeroLinear):
        init.zeros_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, MMFusionRouter):
        init.zeros_(module.weight)
        init.copy_(module.bias, torch.tensor([module.text_weight_init_value, 0.0, 0.0]))
    elif isinstance(module, MMFusionProductHeads):
        init.zeros_(module.missing_text)
        init.zeros_(module.missing_image)
