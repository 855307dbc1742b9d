"""Losses for query-product batches in which several products may be relevant to a query.

[`info_nce`], which is the package's own, and the first two here give one number a row, for queries against products
and, with the transposed matrix, for products against queries; [`alignment_loss`] adds them up over directions, views
and vector lengths.
"""

import torch
from torch.nn import functional as F

from modeling_mmfusion import MMFusionConfig
from modeling_mmfusion.fusion_mmfusion import truncate_vectors
from modeling_mmfusion.modeling_mmfusion import info_nce
from training.common.distributed import Share
from training.learning.options import StageArguments
from training.learning.sampling import PairBatch


def sigmoid_loss(logits: torch.Tensor, relevance: torch.Tensor, ignored: torch.Tensor | None = None) -> torch.Tensor:
    """The sigmoid loss of SigLIP: each pair of a batch is a yes-or-no question of its own.

    A relevant pair counts by its grade over the row's best grade, any other pair 1.

    Args:
        logits (`torch.Tensor` of shape `(rows, columns)`): scores times the inverse temperature, plus the bias.
        relevance (`torch.Tensor` of shape `(rows, columns)`): grades, 0 where a pair is not relevant.
        ignored (`torch.Tensor` of shape `(rows, columns)`, *optional*): True for pairs that count nothing.

    Returns:
        `torch.Tensor` of shape `(rows,)`: the sum over a row's pairs.

    References:
        https://huggingface.co/papers/2303.15343
    """
    best = relevance.amax(dim=1, keepdim=True).clamp(min=1e-6)
    positive = relevance > 0
    weights = torch.where(positive, relevance / best, 1.0)
    if ignored is not None:
        weights = weights.masked_fill(ignored, 0.0)
    return (F.softplus(torch.where(positive, -logits, logits)) * weights).sum(dim=1)


def distillation_loss(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Divergence of the student's from a teacher's distribution over those columns that the teacher scored.

    Args:
        logits (`torch.Tensor` of shape `(rows, columns)`): the student's scores times the inverse temperature.
        teacher (`torch.Tensor` of shape `(rows, columns)`): the teacher's logits; not-a-number where there is none.

    Returns:
        `torch.Tensor` of shape `(rows,)`: Kullback-Leibler divergences; 0 for rows with fewer than two scores.
    """
    known = ~teacher.isnan()
    lowest = torch.finfo(logits.dtype).min
    expected = torch.where(known, teacher, lowest).log_softmax(dim=1)
    found = logits.masked_fill(~known, lowest).log_softmax(dim=1)
    parts = torch.where(known, expected.exp() * (expected - found), 0.0)
    return parts.sum(dim=1) * (known.sum(dim=1) > 1)


def too_alike(scores: torch.Tensor, relevance: torch.Tensor, margin: float) -> torch.Tensor:
    """Unjudged pairs that the model itself scores almost as high as the row's best relevant one: likely unlabelled
    positives.

    Args:
        scores (`torch.Tensor` of shape `(rows, columns)`): cosines.
        relevance (`torch.Tensor` of shape `(rows, columns)`): grades.
        margin (`float`): how far below the best relevant pair's score a pair must stay to be a negative.

    Returns:
        `torch.Tensor` of shape `(rows, columns)`, bool.

    References:
        GISTEmbed, here with the model as its own guide: https://huggingface.co/papers/2402.16829.
    """
    positive = relevance > 0
    best = scores.masked_fill(~positive, -torch.inf).amax(dim=1, keepdim=True)
    return (scores > best - margin) & ~positive & positive.any(dim=1, keepdim=True)


def alignment_loss(
    vectors: dict[str, torch.Tensor], batch: PairBatch, stage: StageArguments, config: MMFusionConfig, share: Share
) -> torch.Tensor:
    """A stage's loss of one batch: this process' part of it; the sum over all processes is the loss.

    Args:
        vectors (`dict[str, torch.Tensor]`): `query` of shape `(queries, dim)`, each view of the stage `(products,
            dim)`, and `scale` and `bias` `(1,)`; of the whole batch.
        batch (`PairBatch`): what is relevant to what.
        stage (`StageArguments`): weights of views, prefixes and distillation, kind of loss, margin, logQ.
        config (`MMFusionConfig`): the model's, for its `matryoshka_dims`.
        share (`Share`): which rows are this process'.

    Returns:
        `torch.Tensor`: a scalar.
    """
    weights = view_weights(stage, batch.of_titles)
    loss = sum(weight * _view_loss(vectors, vectors[view], batch, stage, share) for view, weight in weights.items())
    if stage.matryoshka_weight > 0:
        widest = next(iter(weights))
        for dim in config.matryoshka_dims:
            shorter = {**vectors, "query": truncate_vectors(vectors["query"], config, dim)}
            products = truncate_vectors(vectors[widest], config, dim)
            loss = loss + stage.matryoshka_weight * _view_loss(shorter, products, batch, stage, share)
    return loss


def view_weights(stage: StageArguments, of_titles: bool = False) -> dict[str, float]:
    """The views of the products that a stage trains, and the weight of each one's loss.

    Args:
        stage (`StageArguments`): the stage.
        of_titles (`bool`, *optional*, defaults to `False`): for a batch of titles, which look for their products'
            pictures.
    """
    if of_titles:
        return {"image": stage.title_image_weight}
    weights = {"fused": stage.fused_weight, "text": stage.text_view_weight, "image": stage.image_view_weight}
    return {view: weight for view, weight in weights.items() if weight > 0}


def _view_loss(vectors, products, batch: PairBatch, stage: StageArguments, share: Share) -> torch.Tensor:
    queries, scale = vectors["query"], vectors["scale"]
    relevance, ignored, log_q, teacher = batch.tensors(queries.device)
    own_queries, own_products = share.rows(len(queries)), share.rows(len(products))
    scores = queries[own_queries] @ products.T
    own = relevance[own_queries]
    known = _ignored(scores, own, ignored[own_queries], stage)
    count = (relevance > 0).any(dim=1).sum().clamp(min=1)
    if stage.loss == "sigmoid":
        return sigmoid_loss(scale * scores + vectors["bias"], own, known).sum() / count
    logits = scale * scores
    loss = info_nce(logits - log_q if stage.logq else logits, own, known).sum() / count
    if stage.distillation_weight > 0:
        loss = loss + stage.distillation_weight * distillation_loss(logits, teacher[own_queries]).sum() / count
    if stage.directions == "query":
        return loss
    scores = scores.T if share.world == 1 else products[own_products] @ queries.T
    own = relevance[:, own_products].T
    known = _ignored(scores, own, ignored[:, own_products].T, stage)
    count = (relevance > 0).any(dim=0).sum().clamp(min=1)
    return 0.5 * (loss + info_nce(scale * scores, own, known).sum() / count)


def _ignored(scores, relevance, ignored, stage: StageArguments) -> torch.Tensor:
    if stage.score_margin is None:
        return ignored
    return ignored | too_alike(scores.detach(), relevance, stage.score_margin)
