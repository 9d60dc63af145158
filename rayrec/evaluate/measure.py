"""What one system scores on one split: metrics of every user by slice, and its opinion of every target.

Letters: B rows of a block, N items, E targets, R items of lists, U rows of the split (one a user).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from rayrec.data.work import Run, in_process
from rayrec.metrics import percentiles, ranking_metrics, top_k
from rayrec.schema import Scorer, batch_of_rows, relevance

LONG_HISTORY = 10
"""Context items from which on a history counts as long."""
HEAD_SHARE = 0.5
"""Of the interactions, held by the items of the head: so head and tail were met equally often."""


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
        listed: slice -> int64 [N], in how many users' top k each item stands; empty unless it was asked for.
        row_E, item_E, label_E: every target's user, item and like; the same for all systems.
        like_E: the system's `like` of each target.
    """

    metrics: dict[str, dict[str, np.ndarray]]
    listed: dict[str, np.ndarray]
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


def group_slices(rows: pa.Table, catalogue: pa.Table, counts_N: np.ndarray) -> dict[str, Slice]:
    """Groups of users and of items, ranked among the whole catalogue.

    `short_history` and `long_history`: users whose context has fewer than LONG_HISTORY items but some, and those with
    more. `head`: relevant are the fewest items that hold HEAD_SHARE of the interactions; `tail`: all others but those
    held out, met or not.

    Args:
        rows: of the split.
        catalogue: of the items.
        counts_N: interactions with each item before the split's moment.
    """
    every_N, everyone_U = np.full(len(catalogue), True), np.full(len(rows), True)
    length_U = rows["first_target"].to_numpy()
    order_N = np.argsort(-counts_N, kind="stable")
    before_N = np.cumsum(counts_N[order_N]) - counts_N[order_N]
    head_N = np.zeros(len(catalogue), bool)
    head_N[order_N] = before_N < HEAD_SHARE * counts_N.sum()
    tail_N = ~head_N & (catalogue["held_out"].to_numpy() == "")
    return {
        "short_history": Slice(every_N, every_N, (length_U > 0) & (length_U < LONG_HISTORY)),
        "long_history": Slice(every_N, every_N, length_U >= LONG_HISTORY),
        "head": Slice(head_N, every_N, everyone_U),
        "tail": Slice(tail_N, every_N, everyone_U),
    }


def tuning_slices(rows: pa.Table, catalogue: pa.Table) -> dict[str, Slice]:
    """The one slice by which settings are chosen: all items but those held out for the test."""
    known_N = catalogue["held_out"].to_numpy() != "test"
    return {"all": Slice(known_N, known_N, np.full(len(rows), True))}


@dataclass(frozen=True)
class _Block:
    """What _measure_block found for rows from `start` on; listed: slice -> item_R, the items of its lists together."""

    start: int
    metrics: dict[str, dict[str, np.ndarray]]
    listed: dict[str, np.ndarray]
    row_E: np.ndarray
    item_E: np.ndarray
    label_E: np.ndarray
    like_E: np.ndarray


def measure(
    scorer: Scorer,
    rows: pa.Table,
    slices: Mapping[str, Slice],
    *,
    k: int,
    users_per_block: int,
    counts_N: np.ndarray | None = None,
    run: Run = in_process,
) -> Measured:
    """Scores every row from its context alone and compares with its targets, a block of rows at a time.

    Relevant are targets that were not disliked and not seen before the row's moment; what was seen is not ranked.

    Args:
        scorer: shown no target.
        rows: a table of ROWS, one row a user; at least one.
        slices: by name.
        k: cut-off of the ranking metrics.
        users_per_block: rows scored at once; memory grows with it times the catalogue.
        counts_N: interactions with each item before the rows' moment. With them it is counted what stands in the
            lists, and users' metrics are joined by `popularity`, the mean popularity percentile of a user's list, and
            `popularity_bias`, that less the same of the slice's items the user then met, liked or not.
        run: runs the blocks, here or elsewhere; the answer is the same.
    """
    popularity_N = None if counts_N is None else percentiles(counts_N)
    function = partial(_measure_block, scorer, slices=slices, k=k, popularity_N=popularity_N)
    starts = range(0, len(rows), users_per_block)
    # A slice of a table is sent with all of the table; taken rows are sent alone.
    tasks = [(start, rows.take(np.arange(start, min(start + users_per_block, len(rows))))) for start in starts]
    return _joined(run(function, tasks, "measure"), len(rows), len(next(iter(slices.values())).relevant_N))


def _joined(blocks: Iterable[_Block], users: int, items: int) -> Measured:
    """The blocks, in whatever order they come, as one; of the lists only the counts are kept."""
    metrics: dict[str, dict[str, np.ndarray]] = {}
    listed: dict[str, np.ndarray] = {}
    targets: dict[int, tuple[np.ndarray, ...]] = {}
    for block in blocks:
        for name, found in block.metrics.items():
            joined = metrics.setdefault(name, {metric: np.full(users, np.nan) for metric in found})
            for metric, values_B in found.items():
                joined[metric][block.start : block.start + len(values_B)] = values_B
        for name, item_R in block.listed.items():
            np.add.at(listed.setdefault(name, np.zeros(items, np.int64)), item_R, 1)
        targets[block.start] = (block.row_E, block.item_E, block.label_E, block.like_E)
    in_order = [targets[start] for start in sorted(targets)]
    return Measured(metrics, listed, *(np.concatenate(column) for column in zip(*in_order, strict=True)))


def _measure_block(
    scorer: Scorer,
    task: tuple[int, pa.Table],
    *,
    slices: Mapping[str, Slice],
    k: int,
    popularity_N: np.ndarray | None,
) -> _Block:
    start, block = task
    span = slice(start, start + len(block))
    batch = batch_of_rows(block)
    scores_BN, likes_BN = scorer.score_and_like(batch.context_only())
    row_E, position_E = np.nonzero(batch.targets_BL)
    item_E, label_E = batch.items_BL[row_E, position_E], batch.likes_BL[row_E, position_E]
    relevant_BN, unseen_BN = relevance(block, batch, scores_BN.shape[1])
    metrics, listed = {}, {}
    lists: dict[int, tuple[np.ndarray, ...]] = {}
    for name, part in slices.items():
        users_B = part.users_U[span]
        relevant = relevant_BN & part.relevant_N & users_B[:, None]
        metrics[name] = ranking_metrics(scores_BN, relevant, unseen_BN & part.candidates_N, k)
        if popularity_N is None:
            continue
        key = id(part.candidates_N)  # many slices share them
        if key not in lists:
            lists[key] = np.nonzero(top_k(scores_BN, unseen_BN & part.candidates_N, k))
        row_R, item_R = (column_R[users_B[lists[key][0]]] for column_R in lists[key])
        met_E = (part.relevant_N & part.candidates_N)[item_E] & unseen_BN[row_E, item_E] & users_B[row_E]
        mean_B = _row_means(popularity_N[item_R], row_R, len(block))
        met_B = _row_means(popularity_N[item_E[met_E]], row_E[met_E], len(block))
        metrics[name] |= {"popularity": mean_B, "popularity_bias": mean_B - met_B}
        listed[name] = item_R
    return _Block(start, metrics, listed, row_E + start, item_E, label_E, likes_BN[row_E, item_E])


def _row_means(values_R: np.ndarray, row_R: np.ndarray, rows: int) -> np.ndarray:
    """The mean of each row's values, float64 [B]; nan where it has none."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(row_R, values_R, rows) / np.bincount(row_R, minlength=rows))
