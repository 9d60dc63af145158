"""Filters of good events: repeats, bots, endless users, the k-core; each dropped event is counted under one name.

Letters: E events, U users, N items.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from rayrec.data.config import CleanConfig
from rayrec.data.groups import offsets
from rayrec.item_stats import DAY_MS
from rayrec.profiles import Histories, LikeRule, histories


def clean_past(events: pa.Table, rule: LikeRule, clean: CleanConfig) -> tuple[Histories, dict[str, int]]:
    """The histories of whole users without repeats, bots and what lies beyond each user's last events.

    Args:
        events: as histories() takes them; any order.
        rule: what counts as a like.
        clean: the settings.

    Returns:
        The histories, users without events among them, and dropped events by filter.
    """
    fresh = _without_quick_repeats(events, round(clean.repeat_window_s * 1000))
    past = histories(fresh, rule)
    filtered = {"exact repeat": len(fresh) - len(past.items_E)}
    if clean.repeat_window_s:
        filtered[f"repeat within {clean.repeat_window_s:g} s"] = len(events) - len(fresh)
    if clean.bot_events_per_day is not None:
        calm = narrow(past, ~_of_bots(past, clean.bot_events_per_day))
        filtered[f"bot: over {clean.bot_events_per_day} events a day"] = len(past.items_E) - len(calm.items_E)
        past = calm
    recent = narrow(past, _backwards(past) < clean.max_events)
    filtered[f"beyond the user's last {clean.max_events} events"] = len(past.items_E) - len(recent.items_E)
    return recent, filtered


def core_past(past: Histories, clean: CleanConfig, keep_item_N: np.ndarray | None) -> Histories:
    """The histories on the items of the k-core, of users with at least `clean.min_user_events` events on them.

    Args:
        past: cleaned histories.
        clean: for `min_user_events`.
        keep_item_N: bool; None for all items.
    """
    if keep_item_N is not None:
        past = narrow(past, keep_item_N[past.items_E])
    counts_U = np.diff(past.offsets_U1)
    return narrow(past, np.repeat(counts_U >= clean.min_user_events, counts_U))


def narrow(past: Histories, keep_E: np.ndarray) -> Histories:
    """The histories with the events that a mask keeps; users who lose all of theirs stay, with none."""
    if keep_E.all():
        return past
    return replace(
        past,
        offsets_U1=offsets(keep_E)[past.offsets_U1],
        items_E=past.items_E[keep_E],
        times_E=past.times_E[keep_E],
        likes_E=past.likes_E[keep_E],
        ratings_E=past.ratings_E[keep_E],
        terms=None if past.terms is None else past.terms.filter(pa.array(keep_E)),
    )


def _without_quick_repeats(events: pa.Table, window_ms: int) -> pa.Table:
    """Leaves out events at most a window after the same user's last one of the same name with the same item.

    That last one may itself be left out, so that a long run of quick repeats counts once. Events at one and the same
    time share their fate: exact repeats are for histories() to settle.
    """
    if window_ms == 0 or len(events) == 0:
        return events
    users, names = (events[name].combine_chunks().dictionary_encode() for name in ("user_id", "event"))
    user_E = users.indices.to_numpy(zero_copy_only=False)
    name_E = names.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    keys = (events["timestamp"].to_numpy(), name_E, events["item"].to_numpy(), user_E)
    order = np.lexsort(keys)
    time_E, *rest = (key[order] for key in keys)
    same_E = np.logical_and.reduce([np.diff(key, prepend=-2) == 0 for key in rest])
    gap_E = np.diff(time_E, prepend=0)
    alike_E = same_E & (gap_E == 0)
    # Where equal times begin, each event's verdict is that of the first of them.
    verdict_E = (same_E & (gap_E <= window_ms))[np.maximum.accumulate(np.where(alike_E, 0, np.arange(len(order))))]
    keep_E = np.empty(len(order), bool)
    keep_E[order] = ~verdict_E
    return events.filter(pa.array(keep_E))


def _of_bots(past: Histories, limit: int) -> np.ndarray:
    """bool [E]: events of users who have more than `limit` events in some UTC day."""
    counts_U = np.diff(past.offsets_U1)
    user_E = np.repeat(np.arange(len(counts_U)), counts_U)
    fresh_E = (np.diff(user_E, prepend=-1) != 0) | (np.diff(past.times_E // DAY_MS, prepend=-1) != 0)
    starts = np.flatnonzero(fresh_E)
    busy = np.diff(np.append(starts, len(user_E))) > limit
    bot_U = np.zeros(len(counts_U), bool)
    bot_U[user_E[starts[busy]]] = True
    return np.repeat(bot_U, counts_U)


def _backwards(past: Histories) -> np.ndarray:
    """int64 [E]: how many events of the same user come after each."""
    return np.repeat(past.offsets_U1[1:], np.diff(past.offsets_U1)) - 1 - np.arange(len(past.items_E))
