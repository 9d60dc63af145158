"""What a plan must know of all users at once, bucket by bucket: the k-core and the few-shot limits.

Each function takes the events of one bucket's whole users, as build() does. Letters: E events, U users, N items.
"""

import numpy as np
import pyarrow as pa

from rayrec.data.filters import clean_past, core_past
from rayrec.data.plan import Plan, event_draw, past_of, trained
from rayrec.data.split import user_draw


def needs_core_passes(plan: Plan) -> bool:
    """Whether a k-core must be found; a least number of events a user alone needs no sight of the others."""
    return plan.clean.min_item_events > 1


def core_counts(events: pa.Table, plan: Plan) -> np.ndarray:
    """int64 [N]: events of each item, on the items that `plan.keep_item_N` keeps and of users with enough of them.

    The k-core is found by summing over all buckets, taking core_items(), and again with that until nothing changes.

    Args:
        events: of whole users.
        plan: with the items kept so far, None at first.
    """
    past = core_past(clean_past(events, plan.rule, plan.clean)[0], plan.clean, plan.keep_item_N)
    return np.bincount(past.items_E, minlength=len(plan.held_out_N))


def core_items(counts_N: np.ndarray, plan: Plan) -> np.ndarray:
    """bool [N]: the items with enough events.

    Args:
        counts_N: core_counts() summed over all buckets.
        plan: for `clean.min_item_events`.
    """
    keep_N: np.ndarray = counts_N >= plan.clean.min_item_events
    return keep_N


def few_shot_user_hashes(events: pa.Table, plan: Plan) -> np.ndarray:
    """uint64: the smallest draws, `split.few_shot_users` at most, of users who have something to train on.

    Args:
        events: of whole users.
        plan: with the k-core, without a limit of users.
    """
    past, _ = past_of(events, plan)
    trains_E = trained(past, plan) & (past.times_E < plan.cutoffs.valid)
    users = np.unique(np.searchsorted(past.offsets_U1, np.flatnonzero(trains_E), side="right") - 1)
    ids = pa.array(past.user_ids, pa.string()).take(pa.array(users))
    return _smallest(user_draw(ids, plan.seed), plan.split.few_shot_users)


def few_shot_event_hashes(events: pa.Table, plan: Plan) -> np.ndarray:
    """uint64: the smallest draws, `split.few_shot_interactions` at most, of interactions to train on.

    Args:
        events: of whole users.
        plan: with the k-core and the limit of users, without one of interactions.
    """
    past, _ = past_of(events, plan)
    trains_E = trained(past, plan) & (past.times_E < plan.cutoffs.valid)
    return _smallest(event_draw(past, np.flatnonzero(trains_E), plan.seed), plan.split.few_shot_interactions)


def _smallest(draws: np.ndarray, n: int | None) -> np.ndarray:
    assert n is not None, "a pass for a limit that the config does not set"
    return np.sort(draws)[:n]
