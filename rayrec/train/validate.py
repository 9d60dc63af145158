"""The validation value that chooses: NDCG over all items and, where items are held out, over those alone."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from rayrec.metrics import ranking_metrics
from rayrec.models.ranker import Ranker
from rayrec.schema import DISLIKED, batch_of_rows

CALIBRATION_DECAYS = (0.01, 0.03, 0.1, 0.3)
CALIBRATION_DISLIKES = (-0.3, 0.0, 0.3, 1.0)
CALIBRATION_PROFILES = (0.0, 0.1, 0.3)


class Validation:
    """Ranks each rank's share of the validation users over the whole catalogue."""

    def __init__(self, rows: pa.Table, held_out_N: np.ndarray, k: int) -> None:
        """Args:
        rows: ROWS of the validation split, all of them, on every rank.
        held_out_N: bool, items held out for validation.
        k: cut-off of NDCG.

        Raises:
            ValueError: no row has a relevant target.
        """
        share = rows.take(list(range(dist.get_rank(), len(rows), dist.get_world_size())))
        self.batch = batch_of_rows(share)
        size = len(share), len(held_out_N)
        self.relevant_BN, self.candidates_BN = np.zeros(size, bool), np.ones(size, bool)
        wanted_BL = self.batch.targets_BL & (self.batch.likes_BL != DISLIKED)
        row_R, place_R = np.nonzero(wanted_BL)
        self.relevant_BN[row_R, self.batch.items_BL[row_R, place_R]] = True
        for row, seen in enumerate(share["seen"].to_pylist()):
            self.candidates_BN[row, seen] = False
        self.held_out_N = held_out_N
        self.k = k

    def __call__(self, ranker: Ranker) -> dict[str, float]:
        """`ndcg`, `cold_ndcg` (nan where nothing is held out) and `value`, their mean; equal on all ranks."""
        sums = torch.zeros(4, dtype=torch.float64)
        if len(self.batch.row_ids):
            scores_BN = ranker.score(self.batch)
            cold_BN = self.candidates_BN & self.held_out_N
            for place, candidates_BN in ((0, self.candidates_BN), (2, cold_BN)):
                ndcg_B = ranking_metrics(scores_BN, self.relevant_BN, candidates_BN, self.k)["ndcg"]
                sums[place] += float(np.nansum(ndcg_B))
                sums[place + 1] += int(np.isfinite(ndcg_B).sum())
        dist.all_reduce(sums)
        if sums[1] == 0:
            raise ValueError("no validation user has a liked target; lower data.like_threshold or widen valid_fraction")
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
        (user.profile_weight, CALIBRATION_PROFILES),
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
