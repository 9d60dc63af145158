"""What every loss must hold: a sum over the mask alone, a known value, a gradient that mends what is wrong.

A loss joins by one line in LOSSES: a function from (scores of the wanted, mask) to the loss, all else fixed.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rayrec.models.losses.like import like_loss
from rayrec.models.losses.next_item import next_item_loss

ROWS, LENGTH, NEGATIVES = 3, 5, 7
Loss = Callable[[Tensor, Tensor], Tensor]


def next_item(scores_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """The negatives score zero, and the second one of every position is the target itself."""
    hit_BLK = torch.zeros(*scores_BL.shape, NEGATIVES, dtype=torch.bool)
    hit_BLK[..., 1] = True
    negative_BLK = torch.where(hit_BLK, 1e4, 0.0)
    return next_item_loss(scores_BL, negative_BLK, hit_BLK, mask_BL)


def like(scores_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Every label is a like."""
    return like_loss(scores_BL, torch.ones(scores_BL.shape, dtype=torch.long), mask_BL)


def dislike(scores_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Every label is a dislike, so what is wanted is a low score."""
    return like_loss(-scores_BL, torch.zeros(scores_BL.shape, dtype=torch.long), mask_BL)


LOSSES: dict[str, tuple[Loss, float]] = {
    "next_item": (next_item, math.log(1 + (NEGATIVES - 1) * math.exp(-0.5))),
    "like": (like, math.log(1 + math.exp(-0.5))),
    "dislike": (dislike, math.log(1 + math.exp(-0.5))),
}
every_loss = pytest.mark.parametrize("loss", [loss for loss, _ in LOSSES.values()], ids=list(LOSSES))


def scores() -> Tensor:
    return torch.randn(ROWS, LENGTH, generator=torch.Generator().manual_seed(0))


def mask() -> Tensor:
    return torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.5


@pytest.mark.parametrize(("loss", "one"), list(LOSSES.values()), ids=list(LOSSES))
def test_known_value_and_sum_over_the_mask(loss: Loss, one: float) -> None:
    """At a score of 0.5 where the rest score 0."""
    found = loss(torch.full((ROWS, LENGTH), 0.5), mask())
    assert found.shape == ()
    assert float(found) == pytest.approx(one * int(mask().sum()), rel=1e-5)


@every_loss
def test_the_sum_is_that_of_its_parts(loss: Loss) -> None:
    parts = sum(float(loss(scores()[row : row + 1], mask()[row : row + 1])) for row in range(ROWS))
    assert float(loss(scores(), mask())) == pytest.approx(parts, rel=1e-5)


@every_loss
@pytest.mark.parametrize("junk", [1e4, -1e4])
def test_what_is_masked_changes_neither_value_nor_gradient(loss: Loss, junk: float) -> None:
    clean_BL = scores().requires_grad_()
    spoilt_BL = torch.where(mask(), scores(), junk).requires_grad_()
    loss(clean_BL, mask()).backward()
    loss(spoilt_BL, mask()).backward()
    assert clean_BL.grad is not None
    assert spoilt_BL.grad is not None
    torch.testing.assert_close(spoilt_BL.grad, clean_BL.grad)
    assert (spoilt_BL.grad[~mask()] == 0).all()


@every_loss
def test_padding_changes_nothing(loss: Loss) -> None:
    scores_BL = torch.cat([scores(), torch.full((ROWS, 4), 9.0)], 1)
    mask_BL = torch.cat([mask(), torch.zeros(ROWS, 4, dtype=torch.bool)], 1)
    torch.testing.assert_close(loss(scores_BL, mask_BL), loss(scores(), mask()))


@every_loss
def test_nothing_to_learn_from_is_zero_with_a_gradient(loss: Loss) -> None:
    scores_BL = scores().requires_grad_()
    found = loss(scores_BL, torch.zeros(ROWS, LENGTH, dtype=torch.bool))
    found.backward()
    assert float(found.detach()) == 0
    assert scores_BL.grad is not None
    assert (scores_BL.grad == 0).all()


@every_loss
def test_the_gradient_raises_what_is_wanted(loss: Loss) -> None:
    scores_BL = scores().requires_grad_()
    loss(scores_BL, mask()).backward()
    assert scores_BL.grad is not None
    assert (scores_BL.grad[mask()] < 0).all()


def test_a_negative_is_pushed_down_but_not_where_it_is_the_target() -> None:
    negative_BLK = torch.zeros(1, 1, 3, requires_grad=True)
    hit_BLK = torch.tensor([[[False, True, False]]])
    next_item_loss(torch.zeros(1, 1), negative_BLK, hit_BLK, torch.ones(1, 1, dtype=torch.bool)).backward()
    assert negative_BLK.grad is not None
    torch.testing.assert_close(negative_BLK.grad[0, 0], torch.tensor([1 / 3, 0, 1 / 3]))


def test_like_loss_is_the_cross_entropy_by_its_formula() -> None:
    logits_BL, labels_BL = scores(), mask().long()
    probability_BL = torch.sigmoid(logits_BL.double())
    expected = -(labels_BL * probability_BL.log() + (1 - labels_BL) * (1 - probability_BL).log()).sum()
    found = like_loss(logits_BL, labels_BL, torch.ones(ROWS, LENGTH, dtype=torch.bool))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_label_outside_the_mask_may_be_anything() -> None:
    labels_BL = torch.where(mask(), 1, -1)
    torch.testing.assert_close(like_loss(scores(), labels_BL, mask()), like(scores(), mask()))
