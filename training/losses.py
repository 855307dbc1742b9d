"""Losses for query-product batches in which several products may be relevant to a query."""

import torch
from torch.nn import functional as F


def contrastive_loss(logits: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """InfoNCE with several graded positives: each positive pair competes with the batch's negatives alone.

    For a query `q` and a relevant product `p` the loss is `-log(e^s_qp / (e^s_qp + sum_n e^s_qn))` over the products
    `n` that are not relevant to `q`; other relevant products neither help nor hurt. Pairs are weighted by their grade,
    and each query's weights sum to 1. The same is done from each product to the queries, and both are averaged.

    Args:
        logits (`torch.Tensor` of shape `(queries, products)`): scores times the inverse temperature.
        relevance (`torch.Tensor` of shape `(queries, products)`): grades, 0 where a product is not relevant.

    Returns:
        `torch.Tensor`: the mean loss, a scalar.

    References:
        InfoNCE: https://huggingface.co/papers/1807.03748. Graded weights in the spirit of GCL:
        https://huggingface.co/papers/2404.08535.
    """
    return 0.5 * (_one_direction(logits, relevance) + _one_direction(logits.T, relevance.T))


def _one_direction(logits: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    positive = relevance > 0
    negatives = logits.masked_fill(positive, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    pair_loss = F.softplus(negatives - logits)
    weights = relevance / relevance.sum(dim=1, keepdim=True).clamp(min=1e-6)
    rows = positive.any(dim=1)
    return (pair_loss * weights).sum() / rows.sum().clamp(min=1)
