"""The fusion network: from what the towers say to the blocks of query and product vectors.

A product vector is `[a_t t; a_l l; a_i i; a_c c]` with unit blocks `t` (what the text means), `l` (its very words),
`i` (what the pictures show) and `c` (what only both together say), and a router's lengths `a` (`sum a^2 = 1`). A query
vector is `[w_t q_t; w_l q_l; w_i q_i; w_c q_c]`, with the query's own router's lengths `w`. Their inner product is
`sum w_b a_b (q_b . b)`: the query decides how much each modality counts although products are embedded offline, and
one inner-product index serves all queries.

What was learned on some shops' catalogues is worth little elsewhere. So everything learned counts only as far as a
text is familiar, that is like the texts of the training: for a text of another world the text block is the pretrained
encoder's own, the lexical block counts shared words, and a query's image and cross blocks are silent, so that those of
products add nothing. A model that starts from an aligned dual encoder knows what words and pictures have in common
before any training, and keeps that apart in a fifth block, `aligned`, which changes only as its encoders do, and which
no unfamiliar text silences.

The other fusion types, which are kept to be compared with, are in `baselines_mmfusion.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mmfusion import MMFusionConfig
from .encoders_mmfusion import hidden_size_of, image_sizes_of, unit_vectors

LEXICAL_PRIME = 32749  # above most vocabularies, and small enough to multiply in two parts below 2^24
LEXICAL_ROOT = 219  # its powers are well mixed modulo the prime
FREQUENT_TOKENS = 1000.0
NEVER = 2.0  # above any cosine
WARINESS = 4.0  # where there is an aligned block: a query that is half familiar trusts half^4 of what was learned
AT_A_TIME = 2**16  # texts


@dataclass
class MMFusionStates(ModelOutput):
    r"""
    What the encoders say about a batch of queries or products; all that the fusion network needs.

    Args:
        text_features (`torch.Tensor` of shape `(batch, text_hidden_size)`):
            The text encoder's unit features.
        text_mask (`torch.Tensor` of shape `(batch,)`):
            True where there is text.
        lexical_features (`torch.Tensor` of shape `(batch, lexical_dim)`):
            The tokens as one unit vector; of width 0 if there is no lexical block.
        image_features (`torch.Tensor` of shape `(batch, images, image_features_dim)`):
            The image encoder's pooled output, and the means and maxima of `image_levels` (products only).
        image_mask (`torch.Tensor` of shape `(batch, images)`):
            True where there is a picture.
        image_states (`torch.Tensor` of shape `(batch, images, cells, cell_dim)`, *optional*):
            The image encoder's states of all `image_levels`, cell by cell and normalised level by level.
        aligned_features (`torch.Tensor` of shape `(batch, aligned_hidden_size)`, *optional*):
            The text's unit vector in the space of the aligned dual encoder that the model started from.
    """

    text_features: torch.FloatTensor | None = None
    text_mask: torch.BoolTensor | None = None
    lexical_features: torch.FloatTensor | None = None
    image_features: torch.FloatTensor | None = None
    image_mask: torch.BoolTensor | None = None
    image_states: torch.FloatTensor | None = None
    aligned_features: torch.FloatTensor | None = None

    @property
    def has_image(self) -> torch.Tensor:
        """True for products with a picture, `(batch,)`."""
        return self.image_mask.any(dim=1)

    def seen_as(self, view: str) -> "MMFusionStates":
        """The same with the other modality hidden, for the views `text` and `image`; `fused` changes nothing."""
        states = MMFusionStates(**self)
        if view == "text":
            states.image_mask = torch.zeros_like(self.image_mask)
            if states.image_states is not None:
                states.image_states = states.image_states[:, :, :1]  # none is looked at
        if view == "image":
            states.text_mask = torch.zeros_like(self.text_mask)
        return states


class MMFusionOrthogonalLinear(nn.Linear):
    """A linear layer without bias that starts as the identity, or orthonormal where its widths differ."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__(in_dim, out_dim, bias=False)


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


class MMFusionGatedHead(nn.Module):
    """A gate a channel between the unit vectors of two modalities, seen from both (GMU,
    https://huggingface.co/papers/1702.01992)."""

    def __init__(self, text_dim: int, image_dim: int, out_dim: int, config: MMFusionConfig):
        super().__init__()
        self.text_mlp = MMFusionMLP(text_dim, out_dim, config)
        self.image_mlp = MMFusionMLP(image_dim, out_dim, config)
        self.gate = nn.Linear(text_dim + image_dim, out_dim)

    def forward(
        self, text: torch.Tensor, image: torch.Tensor, text_mask: torch.Tensor, image_mask: torch.Tensor
    ) -> torch.Tensor:
        """Features `(batch, width)` of text and image and masks `(batch, 1)` to `(batch, out_dim)`.

        A masked modality adds nothing but what the gate sees of it.
        """
        gate = torch.sigmoid(self.gate(torch.cat([text, image], dim=-1)))
        text = unit_vectors(self.text_mlp(text)) * text_mask
        return gate * text + (1 - gate) * unit_vectors(self.image_mlp(image)) * image_mask


class MMFusionTextHead(nn.Module):
    """Text features to the text block, starting as the text encoder's own space.

    The base map is the identity, or orthonormal where the widths differ; an MLP whose last layer starts at zero is
    added to it. Query and product share the map when they share the encoder, so that before any training the text
    block scores like the text encoder alone.
    """

    def __init__(self, in_dim: int, config: MMFusionConfig):
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.base = MMFusionOrthogonalLinear(in_dim, config.text_dim)
        self.residual = MMFusionMLP(in_dim, config.text_dim, config, last_layer=MMFusionZeroLinear)

    def forward(
        self, features: torch.Tensor, familiarity: torch.Tensor, centre: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Unit features `(batch, in_dim)` and their familiarity `(batch, 1)` to vectors `(batch, text_dim)`; `centre`
        `(in_dim,)` is where the base map has its origin, 0 if not given."""
        start = features if centre is None else features - centre
        return self.base(start) + familiarity * self.residual(self.norm(features))

    @torch.no_grad()
    def set_basis(self, features: torch.Tensor) -> None:
        """Turns the base map to the principal axes of unit features `(samples, in_dim)`, strongest first.

        A rotation keeps all scores, and makes the first dimensions those that tell most when vectors are truncated.
        """
        axes = torch.linalg.eigh(features.T.double() @ features.double()).eigenvectors.flip(1)
        self.base.weight.copy_(axes[:, : len(self.base.weight)].T)


class MMFusionAlignment(nn.Module):
    """The aligned block: the space that a dual encoder's texts and pictures share.

    Holds the dual encoder's own projections, and a base map from its space to the block: the identity, or orthonormal
    where the block is narrower. Texts lie far from pictures in such a space (the modality gap), so each
    side has a centre of its own, 0 until a training sets it, which is taken off. None of it is trained.

    Args:
        config (`MMFusionConfig`): with `aligned_config`.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__()
        aligned, width = config.aligned_config, config.aligned_hidden_size
        self.pooled_dim = image_sizes_of(config)[0][0]
        self.is_text_space = config.text_pooling == "aligned"
        # which of the two is linear is the family's: SigLIP projects neither, ALIGN the text alone, and with a bias
        projects = {"siglip": (False, False), "siglip2": (False, False), "align": (True, False)}
        of_text, of_image = projects.get(aligned.model_type, (True, True))
        text_dim = getattr(aligned.text_config, "project_dim", hidden_size_of(aligned.text_config))  # AltCLIP's
        has_bias = aligned.model_type == "align"
        self.text_projection = nn.Linear(text_dim, width, bias=has_bias) if of_text else nn.Identity()
        self.image_projection = nn.Linear(self.pooled_dim, width, bias=False) if of_image else nn.Identity()
        self.base = MMFusionOrthogonalLinear(width, config.aligned_dim)
        self.text_centre = MMFusionVector(width)
        self.image_centre = MMFusionVector(width)

    def images(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Products' pictures in the shared space: the mean of the unit vectors, as a unit vector, less the centre.

        Args:
            features (`torch.Tensor` of shape `(batch, images, image_features_dim)`): the image encoder's.
            mask (`torch.Tensor` of shape `(batch, images)`): True where there is a picture.

        Returns:
            `torch.Tensor` of shape `(batch, aligned_hidden_size)`; 0 for products without a picture.
        """
        projected = unit_vectors(self.image_projection(features[..., : self.pooled_dim]))
        mean = unit_vectors((projected * mask[..., None]).sum(dim=1))
        return (mean - self.image_centre.weight) * mask.any(dim=1, keepdim=True)

    def texts(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors of texts `(batch, aligned_hidden_size)` less the centre."""
        return features - self.text_centre.weight

    @torch.no_grad()
    def start(self, texts: torch.Tensor, images: torch.Tensor) -> None:
        """Sets the centres to the means of a catalogue's texts and pictures, and turns the base map to the principal
        axes of both, strongest first, so that what is cut off or truncated tells least.

        Args:
            texts (`torch.Tensor` of shape `(samples, aligned_hidden_size)`): unit vectors.
            images (`torch.Tensor` of shape `(samples, aligned_hidden_size)`): unit vectors of products' pictures; may
                be none.
        """
        self.text_centre.weight.copy_(texts.mean(dim=0))
        parts = [texts - self.text_centre.weight]
        if len(images):
            self.image_centre.weight.copy_(images.mean(dim=0))
            parts.append(images - self.image_centre.weight)
        covariance = sum(part.T.double() @ part.double() / len(part) for part in parts)
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)
        self.base.weight.copy_(axes[:, : len(self.base.weight)].T)


class MMFusionLexicalHead(nn.Module):
    """Tokens to a block whose inner product counts shared tokens, rarer ones more: a search for words in a vector.

    Each token has a fixed code of random signs, made by universal hashing of its id (Carter and Wegman, 1979), so
    that codes of different tokens are all but orthogonal in any vocabulary; a text is the sum of its distinct tokens'
    codes. Vocabularies are sorted by frequency, so the logarithm of a token's rank stands in for its inverse document
    frequency; query and product have its square root each, so that a shared token counts it once, as in BM25. Nothing
    is learned, and nothing is forgotten: it works in shops never seen.
    """

    def __init__(self, config: MMFusionConfig):
        super().__init__()
        powers = [pow(LEXICAL_ROOT, power, LEXICAL_PRIME) for power in range(1, 2 * config.lexical_dim + 1)]
        self.factors, self.offsets = powers[::2], powers[1::2]
        special = [value for name, value in config.text_config.to_dict().items() if name.endswith("_token_id")]
        self.special_ids = sorted({token for token in special if isinstance(token, int)})

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and their mask `(batch, tokens)` to unit vectors `(batch, lexical_dim)`; 0 without tokens."""
        weighted = self.codes(input_ids) * self.weights(input_ids, attention_mask)[..., None]
        return unit_vectors(weighted.sum(dim=1))

    def weights(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """How much each token counts, `(batch, tokens)`: rarer ones more, repeated ones once in all, special ones and
        padding nothing."""
        special = torch.tensor(self.special_ids, device=input_ids.device, dtype=input_ids.dtype)
        kept = attention_mask.bool() & (input_ids[..., None] != special).all(dim=-1)
        times = ((input_ids[:, :, None] == input_ids[:, None]) & kept[:, None]).sum(dim=-1)
        return torch.log1p(input_ids / FREQUENT_TOKENS).sqrt() * kept / times.clamp(min=1)

    def codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The signs of tokens of any shape, `(..., lexical_dim)`."""
        factors = torch.tensor(self.factors, device=input_ids.device)
        offsets = torch.tensor(self.offsets, device=input_ids.device)
        # (ids * factors + offsets) % prime, where nothing exceeds 2^24: some engines do integers in float32
        ids = input_ids[..., None] % LEXICAL_PRIME
        high = ids * (factors // 256) % LEXICAL_PRIME
        hashes = (high * 256 + ids * (factors % 256) + offsets) % LEXICAL_PRIME
        return torch.where(hashes < LEXICAL_PRIME // 2, 1.0, -1.0)


class MMFusionFamiliarity(nn.Module):
    """How much a text is like those of the training, from 0 to 1: a soft threshold on its cosine to the nearest of
    some prototypes.

    Until [`~MMFusionFamiliarity.fit`] has seen the texts, which is after the training, all are taken for familiar.
    The model takes care that nothing here gets a gradient.
    """

    def __init__(self, in_dim: int, config: MMFusionConfig):
        super().__init__()
        self.prototypes = MMFusionVector(config.num_prototypes, in_dim)
        self.threshold = MMFusionVector(1)
        self.width = MMFusionVector(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Unit features `(batch, in_dim)` to familiarities `(batch, 1)`."""
        nearest = (features @ self.prototypes.weight.T).amax(dim=-1, keepdim=True)
        width = self.width.weight
        margin = (nearest - self.threshold.weight) / width.clamp(min=1e-6)
        return torch.where(width > 0, torch.sigmoid(margin), 1.0)

    @property
    def known(self) -> torch.Tensor:
        """Which prototypes [`~MMFusionFamiliarity.fit`] found, `(prototypes,)`; none before it."""
        is_fitted = (self.width.weight > 0) & (self.threshold.weight < NEVER)
        return (self.prototypes.weight != 0).any(dim=-1) & is_fitted

    @torch.no_grad()
    def forget(self) -> None:
        """Takes all texts for familiar, as before [`~MMFusionFamiliarity.fit`]."""
        self.width.weight.zero_()

    @torch.no_grad()
    def know_nothing(self) -> None:
        """Takes no text for familiar: no cosine is as high as this threshold."""
        self.threshold.weight.fill_(NEVER)
        self.width.weight.fill_(1e-3)

    @torch.no_grad()
    def fit(
        self, features: torch.Tensor, iterations: int = 15, seed: int = 0, low: float = 0.01, least: int = 1
    ) -> None:
        """Takes the texts of the training for familiar.

        The prototypes are the centres of spherical k-means. Half familiar is a text as far off as the farthest share
        `low` of the training's; the typical one has 0.998.

        Args:
            features (`torch.Tensor` of shape `(samples, in_dim)`): unit features of queries and products.
            iterations (`int`, *optional*, defaults to 15): of k-means.
            seed (`int`, *optional*, defaults to 0): seed of the first centres.
            low (`float`, *optional*, defaults to 0.01): share of these texts that are less than half familiar.
            least (`int`, *optional*, defaults to 1): texts for each prototype at least; of fewer texts there are fewer
                prototypes, so that a text is never familiar to itself alone.
        """
        centres = self._centres(features, least, iterations, seed)
        self.prototypes.weight.zero_()[: len(centres)] = centres
        self.set_cosines(*cosine_quantiles(features, centres, low))

    @torch.no_grad()
    def held_out_cosines(
        self, features: torch.Tensor, iterations: int = 15, seed: int = 0, low: float = 0.01, least: int = 1
    ) -> tuple[float, float]:
        """The cosines for [`~MMFusionFamiliarity.set_cosines`] of texts that the prototypes were not made of: of each
        half of the training's texts to prototypes of the other half. Arguments are those of `fit`."""
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).to(features.device)
        halves = features[order].chunk(2)
        found = [
            cosine_quantiles(other, self._centres(one, least, iterations, seed), low)
            for one, other in (halves, halves[::-1])
        ]
        below, typical = (float(numpy.mean(pair)) for pair in zip(*found, strict=True))
        return below, typical

    @torch.no_grad()
    def set_cosines(self, below: float, typical: float) -> None:
        """Takes texts of the cosine `below` for half familiar, and those of `typical` for 0.998 familiar."""
        self.threshold.weight.fill_(below)
        self.width.weight.fill_(max((typical - below) / 6, 1e-3))

    def _centres(self, features: torch.Tensor, least: int, iterations: int, seed: int) -> torch.Tensor:
        """Centres of spherical k-means, at most as many as there are prototypes."""
        count = max(1, min(len(features) // least, len(self.prototypes.weight)))
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        centres = features[order[:count].to(features.device)].clone()
        for _ in range(iterations):
            nearest = torch.cat([(part @ centres.T).argmax(dim=1) for part in features.split(AT_A_TIME)])
            centres = unit_vectors(torch.zeros_like(centres).index_add_(0, nearest, features) + 1e-6 * centres)
        return centres


def cosine_quantiles(features: torch.Tensor, centres: torch.Tensor, low: float) -> tuple[float, float]:
    """The `low` quantile and the median of the cosines of unit features to the nearest of some centres."""
    found = torch.cat([(part @ centres.T).amax(dim=1) for part in features.split(AT_A_TIME)]).float().cpu().numpy()
    below, typical = (float(value) for value in numpy.quantile(found, [low, 0.5]))
    return below, typical


class MMFusionRouter(nn.Linear):
    """Lengths of the blocks of one vector: the square root of a softmax, so that the whole vector is a unit vector.

    Starts at fixed lengths (`config.block_logits_init`), and has others (`config.unfamiliar_logits`) as far as a text
    is not familiar, with the image and cross blocks turned down as far as what was learned can't be trusted. Blocks
    that are masked get length 0 and the others share their weight. A product's aligned block is as long as its image
    block, so that queries alone decide between what was learned of pictures and what was known before.
    """

    def __init__(self, in_dim: int, config: MMFusionConfig):
        super().__init__(in_dim, len(config.blocks))
        self.logits_init = [block.logit for block in config.blocks.values()]
        self.unfamiliar_logits = [block.unfamiliar_logit for block in config.blocks.values()]
        self.learned_blocks = [block.is_learned for block in config.blocks.values()]
        self.image = list(config.blocks).index("image") if config.aligned_config is not None else None

    def forward(
        self,
        states: torch.Tensor,
        familiarity: torch.Tensor,
        mask: torch.Tensor | None = None,
        trust: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Lengths of the blocks.

        Args:
            states (`torch.Tensor` of shape `(batch, in_dim)`): what the lengths depend on.
            familiarity (`torch.Tensor` of shape `(batch, 1)`): from 0 to 1.
            mask (`torch.Tensor` of shape `(batch, blocks)`, *optional*): False for blocks that there are not.
            trust (`torch.Tensor` of shape `(batch, 1)`, *optional*): how far to trust what was learned, from 0 to 1;
                by default as far as the text is familiar.

        Returns:
            `torch.Tensor` of shape `(batch, blocks)`; the squares of a row sum to 1.
        """
        start = states.new_tensor(self.unfamiliar_logits)
        learned = torch.tensor(self.learned_blocks, device=states.device)
        logits = start + familiarity * (super().forward(states) - start)  # not lerp, which wants one precision
        if mask is not None and self.image is not None:
            logits = torch.cat([logits[:, :-1], logits[:, self.image, None]], dim=-1)
        power = WARINESS if mask is None and self.image is not None else 1.0
        trust = familiarity if trust is None else trust
        logits = logits + torch.where(learned, power * trust.clamp(min=1e-6).log(), 0.0)
        if mask is not None:
            logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        # written so that a masked block's gradient is 0; that of sqrt(softmax) is not a number there
        return unit_vectors((0.5 * (logits - logits.amax(dim=-1, keepdim=True))).exp())


class MMFusionImageNorm(nn.Module):
    """Normalises image features part by part: pooled output, means and maxima differ in scale by orders."""

    def __init__(self, sizes: tuple[int, ...]):
        super().__init__()
        self.sizes = list(sizes)
        self.norms = nn.ModuleList([nn.LayerNorm(size) for size in sizes])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features `(batch, images, dim)`, all parts joined, to the same shape."""
        parts = features.split(self.sizes, dim=-1)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], dim=-1)


class MMFusionCellAttention(nn.Module):
    """Attention from a few learned vectors to the cells of a product's pictures.

    The image expert looks with the vectors as they are; for the cross-modal expert the text turns them, so that of a
    model who wears shirt and trousers it sees what the text speaks of. Pre-norm, one layer: cells come normalised, and
    the experts' own MLPs are what would follow. Learned queries are those of Set Transformer's pooling
    (https://huggingface.co/papers/1810.00825).
    """

    def __init__(self, text_dim: int, cell_dim: int, config: MMFusionConfig):
        super().__init__()
        hidden_size, count = config.attention_hidden_size, config.num_cell_queries
        self.config = config
        self.count = count
        self.head_dim = hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = 0.0
        self.is_causal = False
        self.queries = MMFusionRandomVector(count, hidden_size)
        self.q_proj = nn.Linear(text_dim, count * hidden_size)
        self.k_proj = nn.Linear(cell_dim, hidden_size)
        self.v_proj = nn.Linear(cell_dim, hidden_size)
        self.out_norm = nn.LayerNorm(count * hidden_size)

    def project(self, cells: torch.Tensor) -> torch.Tensor:
        """Keys and values of cells `(..., cell_dim)`, side by side: `(..., 2 * attention_hidden_size)`."""
        return torch.cat([self.k_proj(cells), self.v_proj(cells)], dim=-1)

    def forward(
        self, text: torch.Tensor, cells: torch.Tensor, cell_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the two experts see in the cells; 0 for products without any.

        Args:
            text (`torch.Tensor` of shape `(batch, text_dim)`): normalised text features.
            cells (`torch.Tensor` of shape `(batch, cells, 2 * attention_hidden_size)`): keys and values of all cells
                of a product's pictures, from [`~MMFusionCellAttention.project`].
            cell_mask (`torch.Tensor` of shape `(batch, cells)`): True where there is a cell.

        Returns:
            Two `torch.Tensor` of shape `(batch, num_cell_queries * attention_hidden_size)`, for the image and for the
            cross-modal expert.
        """
        alone = self.queries.weight.expand(cells.shape[0], -1, -1)
        turned = alone + self.q_proj(text).unflatten(-1, (self.count, -1))
        queries = torch.cat([alone, turned], dim=1)
        has_cell = cell_mask.any(dim=1)
        mask = create_bidirectional_mask(
            self.config, queries, cell_mask | ~has_cell[:, None], encoder_hidden_states=cells
        )
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        keys, values = (self._heads(part) for part in cells.chunk(2, dim=-1))
        found, _ = attention(self, self._heads(queries), keys, values, mask, scaling=self.scaling, dropout=0.0)
        found = self.out_norm(found.unflatten(1, (2, self.count)).flatten(2))
        return (found * has_cell[:, None, None]).unbind(dim=1)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Plain attention in the form of `ALL_ATTENTION_FUNCTIONS`.

    Heads `(batch, heads, items, head_dim)` to `(batch, items, heads, head_dim)` and weights.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class MMFusionVector(nn.Module):
    """A learned vector (or several) that starts at 0; a module, so that `transformers` initialises it and PEFT can
    save it."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*shape))

    def where_missing(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States `(batch, dim)`, with the vector in the rows where `mask` `(batch,)` is False."""
        return torch.where(mask[:, None], states, self.weight)


class MMFusionRandomVector(MMFusionVector):
    """A learned vector (or several) that starts at random: the unit vector of zeros has no gradient, and several that
    are equal would stay so."""


class MMFusionQueryHeads(nn.Module):
    """The query tower's part: query features to the blocks of the query's vector and their weights."""

    def __init__(self, in_dim: int, config: MMFusionConfig):
        super().__init__()
        self.blocks = list(config.blocks)
        self.familiarity = MMFusionFamiliarity(in_dim, config)
        self.norm = nn.LayerNorm(in_dim)
        self.image_head = MMFusionMLP(in_dim, config.image_dim, config)
        self.cross_head = MMFusionMLP(in_dim, config.cross_dim, config)
        self.router = MMFusionRouter(in_dim, config)

    @property
    def prototypes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The prototypes of the training's texts, `(prototypes, in_dim)`, and which of them there are,
        `(prototypes,)`: none before the training's end."""
        return self.familiarity.prototypes.weight, self.familiarity.known

    def forward(
        self, states: MMFusionStates, text_head: MMFusionTextHead, alignment: MMFusionAlignment | None = None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Blocks `(batch, width)` of any length by name, and their weights `(batch, blocks)`."""
        text = self.norm(states.text_features)
        known = self.familiarity(states.text_features)
        found = {  # in the order in which dropout draws
            "image": self.image_head(text),
            "cross": self.cross_head(text),
            "text": text_head(states.text_features, known, text_centre_of(alignment)),
            "lexical": states.lexical_features,
        }
        if alignment is not None:
            found["aligned"] = alignment.base(alignment.texts(states.aligned_features))
        return {name: found[name] for name in self.blocks}, self.router(text, known)


class MMFusionProductHeads(nn.Module):
    """The product tower's fusion network: text, lexical, image and cross-modal experts and a mask-aware router.

    A modality that a product lacks is replaced by a learned vector where the gate of the cross-modal expert looks at
    it, and its own blocks have length 0. Several pictures of a product are pooled with attention, and both experts
    that see pictures look at their cells besides, see [`MMFusionCellAttention`].

    The lengths of the blocks depend on which modalities there are and on how familiar the text is, not on what they
    say: a router that sees the features prefers some products to others whatever is asked for, which gained nothing on
    H&M's new products and cost quality on IKEA's, never seen. An unfamiliar text, which may be a title such as
    "IMG_0001", silences no picture, and to the cross-modal expert it is missing as far as it is unfamiliar.
    """

    def __init__(self, text_in_dim: int, image_sizes: tuple[int, ...], cell_dim: int, config: MMFusionConfig):
        super().__init__()
        image_in_dim = sum(image_sizes)
        self.blocks = list(config.blocks)
        self.modality_dropout = config.modality_dropout
        self.familiarity = MMFusionFamiliarity(text_in_dim, config)
        self.text_norm = nn.LayerNorm(text_in_dim)
        self.image_norm = MMFusionImageNorm(image_sizes)
        self.image_pool = MMFusionZeroLinear(image_in_dim, 1)
        self.router = MMFusionRouter(len(config.blocks), config)
        self.missing_text = MMFusionRandomVector(text_in_dim)
        self.missing_image = MMFusionRandomVector(image_in_dim)
        self.cell_attention = None
        if config.cross_attention:
            self.cell_attention = MMFusionCellAttention(text_in_dim, cell_dim, config)
            image_in_dim += config.num_cell_queries * config.attention_hidden_size
        self.image_head = MMFusionMLP(image_in_dim, config.image_dim, config)
        self.cross_head = MMFusionGatedHead(text_in_dim, image_in_dim, config.cross_dim, config)

    def forward(
        self,
        states: MMFusionStates,
        text_head: MMFusionTextHead,
        views: tuple[str, ...] = ("fused",),
        alignment: MMFusionAlignment | None = None,
    ) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """For each view, blocks `(batch, width)` of any length by name, and their weights `(batch, blocks)`.

        A product without text and without image has only its cross-modal block.
        """
        if self.cell_attention is not None:  # keys and values are the same for all views
            states = MMFusionStates(**states)
            states.image_states = self.cell_attention.project(states.image_states)
        return [self._view(states.seen_as(view), text_head, alignment) for view in views]

    def _view(
        self, states: MMFusionStates, text_head: MMFusionTextHead, alignment: MMFusionAlignment | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if self.training:
            states = drop_modalities(states, self.modality_dropout)
        text = self.missing_text.where_missing(self.text_norm(states.text_features), states.text_mask)
        image = pool_images(self.image_norm(states.image_features), states.image_mask, self.image_pool)
        image = self.missing_image.where_missing(image, states.has_image)
        known = torch.where(states.text_mask[:, None], self.familiarity(states.text_features), 1.0)
        usable = self._usable_blocks(states)
        pictured = states.has_image[:, None] & (alignment is None)  # an aligned block is never silent
        weights = self.router(usable.to(text.dtype), known, usable, torch.where(pictured, 1.0, known))
        heard = known * text + (1 - known) * self.missing_text.weight
        alone = together = image
        if self.cell_attention is not None:
            alone, together = (
                torch.cat([image, seen], dim=-1) for seen in look_at_cells(self.cell_attention, heard, states)
            )
        image_mask = states.has_image[:, None]
        text_mask = torch.where(image_mask, known * states.text_mask[:, None], 1.0)
        found = {  # in the order in which dropout draws
            "cross": self.cross_head(heard, together, text_mask, image_mask),
            "image": self.image_head(alone),
            "text": text_head(states.text_features, known, text_centre_of(alignment)),
            "lexical": states.lexical_features,
        }
        if alignment is not None:
            found["aligned"] = alignment.base(alignment.images(states.image_features, states.image_mask))
        return {name: found[name] for name in self.blocks}, weights

    def _usable_blocks(self, states: MMFusionStates) -> torch.Tensor:
        """Which blocks each product can have, `(batch, blocks)`."""
        usable = {"text": states.text_mask, "lexical": states.text_mask, "image": states.has_image}
        usable["cross"], usable["aligned"] = torch.ones_like(states.text_mask), states.has_image
        return torch.stack([usable[name] for name in self.blocks], dim=-1)


def text_centre_of(alignment: MMFusionAlignment | None) -> torch.Tensor | None:
    """Where the text block's base map has its origin, if its features are those of an aligned dual encoder."""
    return alignment.text_centre.weight if alignment is not None and alignment.is_text_space else None


def look_at_cells(
    attention: MMFusionCellAttention, text: torch.Tensor, states: MMFusionStates
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `attention` sees in the cells of all of a product's pictures; see there."""
    cells = states.image_states.flatten(1, 2)
    cell_mask = states.image_mask[..., None].expand(-1, -1, states.image_states.shape[2]).flatten(1)
    return attention(text, cells, cell_mask)


def join_blocks(blocks: dict[str, torch.Tensor], weights: torch.Tensor, dims: dict[str, int]) -> torch.Tensor:
    """Makes vectors of blocks.

    Args:
        blocks (`dict[str, torch.Tensor]`): of shape `(batch, width)`, of any length, by name.
        weights (`torch.Tensor` of shape `(batch, blocks)`): the length of each block in the vector.
        dims (`dict[str, int]`): how many of each block's first dimensions to keep; their order is the vector's.

    Returns:
        `torch.Tensor` of shape `(batch, sum of dims)`.
    """
    units = [unit_vectors(blocks[name][:, :dim]) for name, dim in dims.items()]
    return torch.cat([unit * weights[:, [number]] for number, unit in enumerate(units)], dim=-1)


def truncate_vectors(vectors: torch.Tensor, config: MMFusionConfig, dim: int) -> torch.Tensor:
    """Truncates vectors `(batch, width)`, whole or longer than `dim`, to `(batch, dim)` as the model does with
    `truncate_dim`."""
    blocks = split_blocks(vectors, config.truncated_dims(vectors.shape[-1]))
    return join_blocks(blocks, block_lengths(blocks), config.truncated_dims(dim))


def split_blocks(vectors: torch.Tensor, dims: dict[str, int]) -> dict[str, torch.Tensor]:
    """The blocks `(batch, dim)` of vectors `(batch, sum of dims)` by name."""
    return dict(zip(dims, vectors.split(list(dims.values()), dim=-1), strict=True))


def block_lengths(blocks: dict[str, torch.Tensor]) -> torch.Tensor:
    """The length of each block in each vector, `(batch, blocks)`."""
    return torch.stack([block.norm(dim=-1) for block in blocks.values()], dim=-1)


class MMFusionTruncatableVectors(torch.Tensor):
    """Vectors `(batch, width)` of which a slice of the first dimensions, `vectors[..., :dim]`, is what the model gives
    with `truncate_dim`.

    sentence-transformers truncates by such a slice, with no word to the model, and would keep the first blocks alone.
    Whatever else is computed of them is a plain tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def of(cls, vectors: torch.Tensor, config: MMFusionConfig) -> "MMFusionTruncatableVectors":
        """The same vectors; gradients go through."""
        found = vectors.as_subclass(cls)
        found.config = config
        return found

    def __getitem__(self, key) -> torch.Tensor:
        vectors = self.as_subclass(torch.Tensor)
        dim = first_dimensions(key)
        return truncate_vectors(vectors, self.config, dim) if dim and dim < self.shape[-1] else vectors[key]


def first_dimensions(key) -> int | None:
    """How many of the first dimensions a key such as `[..., :dim]` or `[:, :dim]` takes of all rows; `None` for any
    other."""
    if not isinstance(key, tuple) or len(key) != 2 or not isinstance(key[1], slice):
        return None
    all_rows = key[0] is Ellipsis or (isinstance(key[0], slice) and key[0] == slice(None))
    is_prefix = key[1].start in (None, 0) and key[1].step in (None, 1) and isinstance(key[1].stop, int)
    return key[1].stop if all_rows and is_prefix and key[1].stop > 0 else None


def pool_images(features: torch.Tensor, mask: torch.Tensor, scorer: nn.Linear) -> torch.Tensor:
    """Pools pictures `(batch, images, dim)` to `(batch, dim)` with attention by `scorer`; 0 where there is none.

    Before training, when all scores are equal, it is the mean.
    """
    logits = scorer(features).squeeze(-1)
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    weights = logits.softmax(dim=1) * mask
    return (features * weights[..., None]).sum(dim=1)


def drop_modalities(states: MMFusionStates, rate: float) -> MMFusionStates:
    """Hides the text of a share `rate` of the products that have both, and the pictures of another share `rate`."""
    draw = torch.rand(states.text_mask.shape, device=states.text_mask.device)
    both = states.text_mask & states.has_image
    dropped = MMFusionStates(**states)
    dropped.text_mask = states.text_mask & ~(both & (draw < rate))
    dropped.image_mask = states.image_mask & ~(both & (draw > 1 - rate))[:, None]
    return dropped


@torch.no_grad()
def init_fusion_weights(module: nn.Module) -> None:
    """Initialises the modules of the fusion network that don't start as ordinary linear layers.

    `transformers` skips modules of remote code that hold no parameter of their own, hence the small classes above.
    """
    if isinstance(module, MMFusionOrthogonalLinear):
        square = module.in_features == module.out_features
        init.eye_(module.weight) if square else init.orthogonal_(module.weight)
    elif isinstance(module, MMFusionZeroLinear):
        init.zeros_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, MMFusionRouter):
        init.zeros_(module.weight)
        init.copy_(module.bias, torch.tensor(module.logits_init))
    elif isinstance(module, MMFusionRandomVector):
        init.normal_(module.weight)
    elif isinstance(module, MMFusionVector):
        init.zeros_(module.weight)
