"""What rows depend on besides the events, and the histories they are made from: cleaned, re-timed, allowed to train.

Letters: E events, U users, N items.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from rayrec.data.config import CleanConfig, DataConfig, SplitConfig
from rayrec.data.filters import clean_past, core_past
from rayrec.data.split import KEPT, CutOffs, held_out_users, interaction_draw, user_draw
from rayrec.item_stats import DAY_MS
from rayrec.profiles import Histories, LikeRule
from rayrec.terms import Terms

LEAST_EVENTS = 3
"""Events a user needs for leave-last-out: one to learn from, one for validation, one for the test."""


@dataclass(frozen=True)
class Plan:
    """All that rows depend on besides the events and texts of a user; plain values, to be sent to every task.

    Attributes:
        held_out_N: int8 KEPT, HELD_OUT_VALID or HELD_OUT_TEST of each item of the catalogue.
        terms: of the catalogue.
        rule: what counts as a like.
        cutoffs: from split_cut_offs().
        clean: which events are filtered.
        split: which users and events do not train.
        seed: of the split's draws.
        order_only: times tell the order of a user's events and nothing else.
        history_length: context of a row at most.
        max_history: events of a user that histories/ keeps.
        keep_item_N: bool, the items of the k-core; None for all.
        few_shot_user_limit: users up to this draw train; None for all.
        few_shot_event_limit: interactions up to this draw train; None for all.
        train_from: ms; earlier events are no targets of training, for a previous dataset has those rows; None for all.
    """

    held_out_N: np.ndarray
    terms: Terms
    rule: LikeRule
    cutoffs: CutOffs
    clean: CleanConfig
    split: SplitConfig
    seed: int
    order_only: bool
    history_length: int
    max_history: int
    keep_item_N: np.ndarray | None = None
    few_shot_user_limit: int | None = None
    few_shot_event_limit: int | None = None
    train_from: int | None = None


def plan_of(
    config: DataConfig, seed: int, order_only: bool, cutoffs: CutOffs, held_out_N: np.ndarray, terms: Terms
) -> Plan:
    """The plan of a config; what passes.py finds out is added to it later.

    Args:
        config: like rule, filters, split and lengths.
        seed: of the split's draws.
        order_only: the logs tell the order of a user's interactions and no time.
        cutoffs: from split_cut_offs().
        held_out_N: int8, from held_out_codes().
        terms: of the catalogue.
    """
    return Plan(
        held_out_N=held_out_N,
        terms=terms,
        rule=LikeRule(config.like_threshold, config.liked_events, config.disliked_events),
        cutoffs=cutoffs,
        clean=config.clean,
        split=config.split,
        seed=seed,
        order_only=order_only,
        history_length=config.history_length,
        max_history=config.max_history,
    )


def past_of(events: pa.Table, plan: Plan) -> tuple[Histories, dict[str, int]]:
    """The histories of whole users after every filter, with the times that the split gives them.

    Args:
        events: as histories() takes them; any order.
        plan: filters and split.

    Returns:
        The histories, users without events among them, and dropped events by filter.
    """
    past, filtered = clean_past(events, plan.rule, plan.clean)
    if plan.clean.min_user_events > 1 or plan.clean.min_item_events > 1:
        core = core_past(past, plan.clean, plan.keep_item_N)
        filtered["k-core"] = len(past.items_E) - len(core.items_E)
        past = core
    if plan.split.kind == "leave_last_out":
        past = replace(past, times_E=_leave_last_out(past, plan))
    return past, filtered


def _leave_last_out(past: Histories, plan: Plan) -> np.ndarray:
    """int64 [E] ms: a user's last event at the test cut-off, the one before at the validation cut-off, the rest before.

    The rest keeps its times; where there are none, it gets the days just before the validation cut-off, so that what is
    recent there is what users met last. A user of fewer than LEAST_EVENTS events has no target.
    """
    counts_U = np.diff(past.offsets_U1)
    targets_U = np.where(counts_U >= LEAST_EVENTS, 2, 0)
    # 0 for the first target, 1 for the second, below 0 for what trains.
    place_E = np.arange(len(past.items_E)) - np.repeat(past.offsets_U1[1:] - targets_U, counts_U)
    times_E = plan.cutoffs.valid + place_E * DAY_MS if plan.order_only else past.times_E
    moved_E: np.ndarray = np.select([place_E == 0, place_E == 1], [plan.cutoffs.valid, plan.cutoffs.test], times_E)
    return moved_E


def trained(past: Histories, plan: Plan) -> np.ndarray:
    """bool [E]: what training rows, item statistics and histories/ may hold.

    Not: held-out items, held-out users, and under a few-shot limit whatever lies beyond it. Of few-shot interactions
    none from the validation cut-off on is left.

    Args:
        past: from past_of().
        plan: the split.
    """
    trains_E: np.ndarray = plan.held_out_N[past.items_E] == KEPT
    counts_U = np.diff(past.offsets_U1)
    user_E = np.repeat(np.arange(len(counts_U)), counts_U)
    ids = pa.array(past.user_ids, pa.string())
    if plan.split.held_out_users:
        trains_E &= ~held_out_users(ids, plan.split, plan.seed)[user_E]
    if plan.few_shot_user_limit is not None:
        early_U = np.bincount(user_E[trains_E & (past.times_E < plan.cutoffs.valid)], minlength=len(counts_U)) > 0
        few_U = early_U & (user_draw(ids, plan.seed) <= np.uint64(plan.few_shot_user_limit))
        trains_E &= few_U[user_E]
    if plan.few_shot_event_limit is not None:
        trains_E &= past.times_E < plan.cutoffs.valid
        some = np.flatnonzero(trains_E)
        trains_E[some] = event_draw(past, some, plan.seed) <= np.uint64(plan.few_shot_event_limit)
    return trains_E


def event_draw(past: Histories, events: np.ndarray, seed: int) -> np.ndarray:
    """uint64: the few-shot draw of some events.

    Args:
        past: the histories.
        events: positions in them.
        seed: of the draw.
    """
    user_E = np.searchsorted(past.offsets_U1, events, side="right") - 1
    users = pa.array(past.user_ids, pa.string()).take(pa.array(user_E))
    return interaction_draw(users, past.items_E[events], past.times_E[events], seed)
