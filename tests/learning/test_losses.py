import math

import numpy as np
import pytest
import torch
from helpers import TINY_DIMS

from modeling_mmfusion import MMFusionConfig
from modeling_mmfusion.fusion_mmfusion import truncate_vectors
from training.common.distributed import Share
from training.learning.losses import alignment_loss, distillation_loss, info_nce, sigmoid_loss, too_alike
from training.learning.options import StageArguments
from training.learning.sampling import PairBatch


def batch_of(relevance, ignored=None, log_q=None, teacher=None, of_titles=False) -> PairBatch:
    relevance = np.array(relevance, dtype=np.float32)
    ignored = np.zeros(relevance.shape, dtype=bool) if ignored is None else np.array(ignored)
    log_q = np.zeros(relevance.shape[1], dtype=np.float32) if log_q is None else np.array(log_q, dtype=np.float32)
    teacher = np.full(relevance.shape, np.nan, dtype=np.float32) if teacher is None else teacher
    queries, products = (np.arange(size) for size in relevance.shape)
    return PairBatch(queries, products, relevance, ignored, log_q, teacher, len(queries), of_titles)


def loss_of(scores, batch, **stage):
    """The loss where query `i` is the `i`-th unit vector, so that scores are the products' coordinates."""
    scores = scores if isinstance(scores, torch.Tensor) else torch.tensor(scores)
    vectors = {"query": torch.eye(len(scores)), "fused": scores.T, "text": scores.T, "image": scores.T}
    vectors |= {"scale": torch.ones(1), "bias": torch.zeros(1)}
    defaults = {"text_view_weight": 0.0, "image_view_weight": 0.0, "matryoshka_weight": 0.0}
    return alignment_loss(vectors, batch, StageArguments(**(defaults | stage)), MMFusionConfig(), Share())


def pair(score, *negatives):
    return -math.log(math.exp(score) / (math.exp(score) + sum(map(math.exp, negatives))))


def test_one_positive_each_is_two_directional_infonce():
    torch.manual_seed(0)
    logits = torch.randn(5, 5)
    labels, cross_entropy = torch.arange(5), torch.nn.functional.cross_entropy
    rows, columns = cross_entropy(logits, labels), cross_entropy(logits.T, labels)
    torch.testing.assert_close(info_nce(logits, torch.eye(5)).mean(), rows)
    torch.testing.assert_close(loss_of(logits, batch_of(np.eye(5))), 0.5 * (rows + columns))
    torch.testing.assert_close(loss_of(logits, batch_of(np.eye(5)), directions="query"), rows)


def test_grades_weigh_pairs_and_positives_do_not_compete_by_hand():
    logits = [[2.0, 1.0, 0.0], [0.5, -1.0, 3.0]]
    queries = ((2 * pair(2.0, 0.0) + pair(1.0, 0.0)) / 3 + pair(3.0, 0.5, -1.0)) / 2
    products = (pair(2.0, 0.5) + pair(1.0, -1.0) + pair(3.0, 0.0)) / 3
    found = loss_of(logits, batch_of([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert found.item() == pytest.approx((queries + products) / 2, abs=1e-6)


def test_products_without_a_query_count_as_negatives_only():
    logits = [[2.0, 1.0], [0.0, 3.0]]
    more = [[2.0, 1.0, 0.4], [0.0, 3.0, 0.7]]
    queries = (pair(2.0, 1.0, 0.4) + pair(3.0, 0.0, 0.7)) / 2
    products = (pair(2.0, 0.0) + pair(3.0, 1.0)) / 2
    assert loss_of(more, batch_of([[1, 0, 0], [0, 1, 0]])).item() == pytest.approx((queries + products) / 2, abs=1e-6)
    assert loss_of(logits, batch_of(np.eye(2))).item() < loss_of(more, batch_of([[1, 0, 0], [0, 1, 0]])).item()


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_a_false_negative_gets_no_gradient(loss):
    scores = torch.tensor([[0.9, 0.3, 0.2, 0.85], [0.0, 0.8, 0.2, 0.1]], requires_grad=True)
    batch = batch_of([[2, 1, 0, 0], [0, 2, 0, 0]], ignored=[[False, False, True, False], [False] * 4])
    loss_of(scores, batch, loss=loss, directions="query").backward()
    assert scores.grad[0, 2] == 0 and scores.grad[1, 2] > 0 and scores.grad[0, 3] > 0
    assert scores.grad[0, 0] < 0 and scores.grad[0, 1] < 0, "a relevant product is never pushed away"
    scores.grad = None
    loss_of(scores, batch, loss=loss, directions="query", score_margin=0.1).backward()
    assert scores.grad[0, 3] == 0, "within the margin of the best relevant product"
    assert scores.grad[1, 0] > 0 and scores.grad[1, 1] < 0


def test_too_alike_are_unjudged_pairs_near_the_best_relevant_one():
    scores = torch.tensor([[0.9, 0.85, 0.5, 0.95], [0.2, 0.3, 0.9, 0.1]])
    relevance = torch.tensor([[2.0, 0, 1.0, 0], [0, 0, 0, 0]])
    assert too_alike(scores, relevance, 0.1).tolist() == [[False, True, False, True], [False] * 4]


def test_a_batch_in_which_everything_is_relevant_has_no_loss():
    logits = torch.randn(2, 2, requires_grad=True)
    loss = loss_of(logits, batch_of(np.ones((2, 2))))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and logits.grad.isfinite().all()


def test_sigmoid_loss_by_hand():
    logits = torch.tensor([[2.0, 1.0, -1.0]])
    softplus = torch.nn.functional.softplus
    expected = softplus(-logits[0, 0]) + 0.5 * softplus(-logits[0, 1]) + softplus(logits[0, 2])
    torch.testing.assert_close(sigmoid_loss(logits, torch.tensor([[2.0, 1.0, 0.0]]))[0], expected)


def test_popular_products_are_corrected_for_by_their_logarithm():
    logits, log_q = [[2.0, 1.0], [0.0, 3.0]], [-1.0, -3.0]
    expected = (pair(2.0 + 1, 1.0 + 3) + pair(3.0 + 3, 0.0 + 1)) / 2
    found = loss_of(logits, batch_of(np.eye(2), log_q=log_q), logq=True, directions="query")
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_distillation_is_a_divergence_over_the_teachers_products():
    nan = float("nan")
    student = torch.tensor([[1.0, 0.0, 9.0], [1.0, 2.0, 3.0]], requires_grad=True)
    teacher = torch.tensor([[0.5, 0.7, nan], [nan, 2.0, nan]])
    found = distillation_loss(student, teacher)
    expected, got = torch.tensor([0.5, 0.7]).softmax(0), torch.tensor([1.0, 0.0]).softmax(0)
    torch.testing.assert_close(found[0], (expected * (expected / got).log()).sum())
    found.sum().backward()
    assert found[1] == 0 and student.grad[0, 2] == 0 and student.grad.isfinite().all()


def test_shorter_prefixes_by_hand():
    config = MMFusionConfig(**{**TINY_DIMS, "text_dim": 4}, matryoshka_dims=[16])
    torch.manual_seed(0)
    queries, products = (torch.nn.functional.normalize(torch.randn(3, config.embedding_dim), dim=-1) for _ in "qp")
    vectors = {"query": queries, "fused": products, "scale": torch.full((1,), 7.0), "bias": torch.zeros(1)}
    stage = StageArguments(text_view_weight=0, image_view_weight=0, matryoshka_weight=0.3, directions="query")
    found = alignment_loss(vectors, batch_of(np.eye(3)), stage, config, Share())
    expected = 0.0
    for weight, dim in ((1.0, config.embedding_dim), (0.3, 16)):
        scores = truncate_vectors(queries, config, dim) @ truncate_vectors(products, config, dim).T
        expected += weight * torch.nn.functional.cross_entropy(7.0 * scores, torch.arange(3))
    torch.testing.assert_close(found, expected)


def test_the_shares_of_processes_add_up_to_the_whole():
    torch.manual_seed(1)
    relevance = (torch.rand(5, 7) < 0.3).float().numpy() * np.array([1, 2, 1, 1, 2, 1, 1], dtype=np.float32)
    vectors = {name: torch.randn(size, 8) for name, size in (("query", 5), ("fused", 7), ("text", 7), ("image", 7))}
    vectors |= {"scale": torch.full((1,), 3.0), "bias": torch.zeros(1)}
    config = MMFusionConfig(**{**TINY_DIMS, "text_dim": 4})
    for options in ({}, {"loss": "sigmoid"}, {"logq": True, "score_margin": 0.1}):
        stage = StageArguments(matryoshka_weight=0, **options)
        batch = batch_of(relevance, log_q=np.arange(7))
        whole = alignment_loss(vectors, batch, stage, config, Share())
        parts = [alignment_loss(vectors, batch, stage, config, Share(rank, 3)) for rank in range(3)]
        torch.testing.assert_close(sum(parts), whole)
