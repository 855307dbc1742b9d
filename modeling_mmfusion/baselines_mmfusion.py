"""Fusion types to compare ours with: each makes one plain vector of a product's text and image features.

All share [`MMFusionQueryProjection`] on the query's side, see normalised features, and take a missing modality as 0.
"""

import torch
from torch import nn

from .configuration_mmfusion import MMFusionConfig
from .encoders_mmfusion import unit_vectors
from .fusion_mmfusion import (
    MMFusionGatedHead,
    MMFusionImageNorm,
    MMFusionMLP,
    MMFusionStates,
    MMFusionZeroLinear,
    drop_modalities,
    pool_images,
)


class MMFusionQueryProjection(nn.Module):
    """Query features to one block of `vector_dim`; it knows no prototypes."""

    prototypes = None

    def __init__(self, in_dim: int, config: MMFusionConfig):
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.head = MMFusionMLP(in_dim, config.vector_dim, config)

    def forward(
        self, states: MMFusionStates, text_head: None = None, alignment: None = None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The block `(batch, vector_dim)` by name, and its weight 1 of shape `(batch, 1)`."""
        vectors = self.head(self.norm(states.text_features))
        return {"fused": vectors}, vectors.new_ones(vectors.shape[0], 1)


class MMFusionBaseline(nn.Module):
    """What the baselines share; a subclass says in `fuse` how the modalities become one vector."""

    def __init__(self, text_in_dim: int, image_sizes: tuple[int, ...], config: MMFusionConfig):
        super().__init__()
        self.modality_dropout = config.modality_dropout
        self.text_norm = nn.LayerNorm(text_in_dim)
        self.image_norm = MMFusionImageNorm(image_sizes)
        self.image_pool = MMFusionZeroLinear(sum(image_sizes), 1)
        self.build(text_in_dim, sum(image_sizes), config)

    def forward(
        self,
        states: MMFusionStates,
        text_head: None = None,
        views: tuple[str, ...] = ("fused",),
        alignment: None = None,
    ) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """For each view, the block `(batch, vector_dim)` by name and its weight 1 of shape `(batch, 1)`."""
        return [self._view(states.seen_as(view)) for view in views]

    def _view(self, states: MMFusionStates) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if self.training:
            states = drop_modalities(states, self.modality_dropout)
        text_mask, image_mask = states.text_mask[:, None], states.has_image[:, None]
        text = self.text_norm(states.text_features) * text_mask
        image = pool_images(self.image_norm(states.image_features), states.image_mask, self.image_pool)
        vectors = self.fuse(text, image, text_mask, image_mask)
        return {"fused": vectors}, vectors.new_ones(vectors.shape[0], 1)

    def build(self, text_dim: int, image_dim: int, config: MMFusionConfig) -> None:
        """Makes a head for each modality."""
        self.text_head = MMFusionMLP(text_dim, config.vector_dim, config)
        self.image_head = MMFusionMLP(image_dim, config.vector_dim, config)

    def fuse(
        self, text: torch.Tensor, image: torch.Tensor, text_mask: torch.Tensor, image_mask: torch.Tensor
    ) -> torch.Tensor:
        """Features `(batch, width)` of text and image and masks `(batch, 1)` to `(batch, vector_dim)`."""
        raise NotImplementedError


class MMFusionWeightedMean(MMFusionBaseline):
    """A fixed weighted mean of unit vectors, as Marqo's GCL does (https://huggingface.co/papers/2404.08535)."""

    def build(self, text_dim: int, image_dim: int, config: MMFusionConfig) -> None:
        super().build(text_dim, image_dim, config)
        self.text_weight = config.text_mean_weight

    def fuse(self, text, image, text_mask, image_mask):
        text = unit_vectors(self.text_head(text)) * text_mask
        image = unit_vectors(self.image_head(image)) * image_mask
        return self.text_weight * text + (1 - self.text_weight) * image


class MMFusionSum(MMFusionBaseline):
    """The sum of raw vectors, as UniIR's CLIP_SF does (https://huggingface.co/papers/2311.17136)."""

    def fuse(self, text, image, text_mask, image_mask):
        return self.text_head(text) * text_mask + self.image_head(image) * image_mask


class MMFusionConcat(MMFusionBaseline):
    """An MLP over both modalities' features."""

    def build(self, text_dim: int, image_dim: int, config: MMFusionConfig) -> None:
        self.head = MMFusionMLP(text_dim + image_dim, config.vector_dim, config)

    def fuse(self, text, image, text_mask, image_mask):
        return self.head(torch.cat([text, image], dim=-1))


class MMFusionGated(MMFusionBaseline):
    """A gate a channel between the modalities; our cross-modal expert alone, see [`MMFusionGatedHead`]."""

    def build(self, text_dim: int, image_dim: int, config: MMFusionConfig) -> None:
        self.head = MMFusionGatedHead(text_dim, image_dim, config.vector_dim, config)

    def fuse(self, text, image, text_mask, image_mask):
        return self.head(text, image, text_mask, image_mask)


BASELINES = {
    "weighted_mean": MMFusionWeightedMean,
    "sum": MMFusionSum,
    "concat": MMFusionConcat,
    "gated": MMFusionGated,
}
