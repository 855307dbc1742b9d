import math

import pytest
import torch

from training.losses import contrastive_loss


def test_one_positive_each_is_two_directional_infonce():
    torch.manual_seed(0)
    logits = torch.randn(5, 5)
    labels = torch.arange(5)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = 0.5 * (cross_entropy(logits, labels) + cross_entropy(logits.T, labels))
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(5)), expected)


def test_grades_weigh_pairs_and_positives_do_not_compete_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.5, -1.0, 3.0]])
    relevance = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])

    def pair(score, *negatives):
        return -math.log(math.exp(score) / (math.exp(score) + sum(map(math.exp, negatives))))

    queries = ((2 * pair(2.0, 0.0) + pair(1.0, 0.0)) / 3 + pair(3.0, 0.5, -1.0)) / 2
    products = (pair(2.0, 0.5) + pair(1.0, -1.0) + pair(3.0, 0.0)) / 3
    assert contrastive_loss(logits, relevance).item() == pytest.approx((queries + products) / 2, abs=1e-6)


def test_a_false_negative_gets_no_push():
    logits = torch.zeros(2, 3, requires_grad=True)
    contrastive_loss(logits, torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).backward()
    assert logits.grad[0, 1] < 0, "a relevant product is never pushed away"
    assert logits.grad[0, 2] > 0 and logits.grad[1, 0] > 0


def test_a_batch_in_which_everything_is_relevant_has_no_loss():
    logits = torch.randn(2, 2, requires_grad=True)
    loss = contrastive_loss(logits, torch.ones(2, 2))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and logits.grad.isfinite().all()
