"""Cross-entropy of a like or a click."""

import torch
from torch import Tensor
from torch.nn import functional


def like_loss(logits_BL: Tensor, labels_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Sum over masked positions of -y log p - (1 - y) log(1 - p).

    Choose it where the logs hold an explicit no besides the yes: ratings, impressions without a click.

    Args:
        logits_BL: log-odds of p.
        labels_BL: y, 0 or 1; anything where the mask is false.
        mask_BL: bool, positions with a label.

    Returns:
        A scalar sum; the caller divides by the step's global number of labels.
    """
    labels_BL = torch.where(mask_BL, labels_BL, 0).to(logits_BL.dtype)
    loss_BL = functional.binary_cross_entropy_with_logits(logits_BL, labels_BL, reduction="none")
    return torch.where(mask_BL, loss_BL, 0.0).sum()
