"""What one system scores on one split: metrics of every user by slice, and its opinion of every target.

Letters: B rows of a block, N items, E targets, U rows of the split (one a user).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec.metrics import ranking_metrics
from rayrec.schema import Scorer, batch_of_rows, relevance


@dataclass(frozen=True)
class Slice:
    """What counts as relevant, among which candidates, for which users; N and U as in the module's legend.

    Attributes:
        relevant_N: bool; targets outside it are ignored.
        candidates_N: bool; the items that are ranked.
        users_U: bool.
    """

    relevant_N: np.ndarray
    candidates_N: np.ndarray
    users_U: np.ndarray


@dataclass(frozen=True)
class Measured:
    """One system on one split.

    Attributes:
        metrics: slice -> metric -> float64 [U], nan where a user has nothing relevant in the slice.
        row_E, item_E, label_E: every target's user, item and like; the same for all systems.
        like_E: the system's `like` of each target.
    """

    metrics: dict[str, dict[str, np.ndarray]]
    row_E: np.ndarray
    item_E: np.ndarray
    label_E: np.ndarray
    like_E: np.ndarray


def report_slices(rows: pa.Table, catalogue: pa.Table) -> dict[str, Slice]:
    """The slices of the report.

    `all`: the whole catalogue. `warm`: items that were not held out, among themselves. `cold`: the test's held-out
    items among themselves. `cold_history`: the same for users with a context, where a scorer without profiles is no
    constant. `cold_in_all`: the test's held-out items relevant, among the whole catalogue. `no_history`: users without
    a context, whole catalogue.
    """
    held_out = catalogue["held_out"].to_numpy()
    every_N, warm_N, cold_N = np.full(len(held_out), True), held_out == "", held_out == "test"
    everyone_U, known_U = np.full(len(rows), True), rows["first_target"].to_numpy() > 0
    return {
        "all": Slice(every_N, every_N, everyone_U),
        "warm": Slice(warm_N, warm_N, everyone_U),
        "cold": Slice(cold_N, cold_N, everyone_U),
        "cold_history": Slice(cold_N, cold_N, known_U),
        "cold_in_all": Slice(cold_N, every_N, everyone_U),
        "no_history": Slice(every_N, every_N, ~known_U),
    }


def tuning_slices(rows: pa.Table, catalogue: pa.Table) -> dict[str, Slice]:
    """The one slice by which settings are chosen: all items but those held out for the test."""
    known_N = catalogue["held_out"].to_numpy() != "test"
    return {"all": Slice(known_N, known_N, np.full(len(rows), True))}


def measure(scorer: Scorer, rows: pa.Table, slices: Mapping[str, Slice], *, k: int, users_per_block: int) -> Measured:
    """Scores every row from its context alone and compares with its targets, a block of rows at a time.

    Relevant are targets that were not disliked and not seen before the row's moment; what was seen is not ranked.

    Args:
        scorer: shown no target.
        rows: a table of ROWS, one row a user.
        slices: by name.
        k: cut-off of the ranking metrics.
        users_per_block: rows scored at once; memory grows with it times the catalogue.
    """
    starts = range(0, len(rows), users_per_block)
    blocks = [_measure_block(scorer, rows, slices, k, slice(start, start + users_per_block)) for start in starts]
    joined = {
        name: {metric: np.concatenate([block.metrics[name][metric] for block in blocks]) for metric in metrics}
        for name, metrics in blocks[0].metrics.items()
    }
    row_E, item_E, label_E, like_E = (
        np.concatenate([getattr(block, name) for block in blocks]) for name in ("row_E", "item_E", "label_E", "like_E")
    )
    return Measured(joined, row_E, item_E, label_E, like_E)


def _measure_block(scorer: Scorer, rows: pa.Table, slices: Mapping[str, Slice], k: int, span: slice) -> Measured:
    block = rows[span]
    batch = batch_of_rows(block)
    context = batch.context_only()
    scores_BN, likes_BN = scorer.score_and_like(context)
    row_E, position_E = np.nonzero(batch.targets_BL)
    item_E, label_E = batch.items_BL[row_E, position_E], batch.likes_BL[row_E, position_E]
    relevant_BN, unseen_BN = relevance(block, batch, scores_BN.shape[1])
    metrics = {
        name: ranking_metrics(
            scores_BN,
            relevant_BN & part.relevant_N & part.users_U[span, None],
            unseen_BN & part.candidates_N,
            k,
        )
        for name, part in slices.items()
    }
    return Measured(metrics, row_E + span.start, item_E, label_E, likes_BN[row_E, item_E])
