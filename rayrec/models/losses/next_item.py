"""Softmax over the target and sampled negatives, at every target position."""

import torch
from torch import Tensor
from torch.nn import functional


def next_item_loss(positive_BL: Tensor, negative_BLK: Tensor, hit_BLK: Tensor, mask_BL: Tensor) -> Tensor:
    """Sum over masked positions of -log softmax of the target among itself and K negatives.

    Choose it for retrieval and next-item prediction. Requires negatives drawn from a known distribution; uniform ones
    need no correction (Bengio and Senécal, 2008; many negatives: Petrov and Macdonald, 2023, "gSASRec").

    Args:
        positive_BL: scores of the targets.
        negative_BLK: scores of the negatives.
        hit_BLK: bool, negatives that are the target itself; they do not count.
        mask_BL: bool, positions that count.

    Returns:
        A scalar sum; the caller divides by the step's global number of positions.
    """
    logits_BLC = torch.cat([positive_BL[..., None], negative_BLK.masked_fill(hit_BLK, float("-inf"))], -1)
    loss_BL = -functional.log_softmax(logits_BLC, -1)[..., 0]
    return torch.where(mask_BL, loss_BL, 0.0).sum()
