"""The validation value that chooses: NDCG over all items and, where items are held out, over those alone."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from rayrec.metrics import ranking_metrics
from rayrec.models.ranker import Ranker
from rayrec.schema import batch_of_rows, relevance

USERS_PER_BLOCK = 256
CALIBRATION_DECAYS = (0.01, 0.03, 0.1, 0.3)
CALIBRATION_DISLIKES = (-0.3, 0.0, 0.3, 1.0)
CALIBRATION_PROFILES = (0.0, 0.1, 0.3)


class Validation:
    """Ranks each rank's share of the validation users over the whole catalogue, a block of users at a time."""

    def __init__(
        self, rows: pa.Table, held_out_N: np.ndarray, k: int, after_block: Callable[[], None] = lambda: None
    ) -> None:
        """Args:
        rows: ROWS of the validation users to rank for, the same on every rank.
        held_out_N: bool, items held out for validation.
        k: cut-off of NDCG.
        after_block: called after each block of users.
        """
        self.rows = rows.take(list(range(dist.get_rank(), len(rows), dist.get_world_size())))
        self.held_out_N = held_out_N
        self.k = k
        self.after_block = after_block

    def __call__(self, ranker: Ranker) -> dict[str, float]:
        """`ndcg`, `cold_ndcg` (nan where nothing is held out) and `value`, their mean; equal on all ranks.

        Weights that have diverged, whose scores are not finite, have the lowest value: -inf, and nan for both.

        Raises:
            ValueError: no row has a relevant target.
        """
        sums = torch.zeros(5, dtype=torch.float64)
        for start in range(0, len(self.rows), USERS_PER_BLOCK):
            rows = self.rows.slice(start, USERS_PER_BLOCK)
            batch = batch_of_rows(rows)
            scores_BN = ranker.score(batch)
            if not np.isfinite(scores_BN).all():
                sums[4] += 1
                break
            relevant_BN, unseen_BN = relevance(rows, batch, len(self.held_out_N))
            for place, candidates_BN in ((0, unseen_BN), (2, unseen_BN & self.held_out_N)):
                ndcg_B = ranking_metrics(scores_BN, relevant_BN, candidates_BN, self.k)["ndcg"]
                sums[place] += float(np.nansum(ndcg_B))
                sums[place + 1] += int(np.isfinite(ndcg_B).sum())
            self.after_block()
        dist.all_reduce(sums)
        if sums[4]:
            return {"ndcg": math.nan, "cold_ndcg": math.nan, "value": -math.inf}
        if sums[1] == 0:
            raise ValueError(
                "no validation user has a liked target; lower data.like_threshold or widen data.split.valid_fraction"
            )
        ndcg = float(sums[0] / sums[1])
        cold = float(sums[2] / sums[3]) if sums[3] else math.nan
        return {"ndcg": ndcg, "cold_ndcg": cold, "value": ndcg if math.isnan(cold) else (ndcg + cold) / 2}


def calibrate(ranker: Ranker, validation: Validation) -> dict[str, float]:
    """Chooses the three numbers of the training-free text scorer on validation, one after the other, and sets them.

    Returns:
        The validation metrics of the choice.
    """
    user = ranker.model.user
    best: dict[str, float] = validation(ranker)
    grid: Sequence[tuple[torch.nn.Parameter, Sequence[float]]] = (
        (user.log_decay, [math.log(decay) for decay in CALIBRATION_DECAYS]),
        (user.dislike_weight, CALIBRATION_DISLIKES),
        (user.profile_weight_2, CALIBRATION_PROFILES),
    )
    for parameter, values in grid:
        kept = parameter.detach().clone()
        for value in values:
            parameter.data.fill_(value)
            metrics = validation(ranker)
            if metrics["value"] > best["value"]:
                best, kept = metrics, parameter.detach().clone()
        parameter.data.copy_(kept)
    return best
