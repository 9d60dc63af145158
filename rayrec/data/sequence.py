"""From the events of whole users to histories, training rows and evaluation rows, without a call per user or row.

Letters: E events, U users, R rows.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.config import DataConfig
from rayrec.data.groups import Groups, joined
from rayrec.data.split import CutOffs
from rayrec.item_stats import DAY_MS
from rayrec.profiles import Categories, Histories, LikeRule, categories_of, histories, profile_texts
from rayrec.schema import HISTORIES, ITEM_STATS, LIKED, ROWS

KEPT, HELD_OUT_VALID, HELD_OUT_TEST = 0, 1, 2
HELD_OUT_CODES = {"": KEPT, "valid": HELD_OUT_VALID, "test": HELD_OUT_TEST}


@dataclass(frozen=True)
class Plan:
    """All that rows depend on besides the events.

    Attributes:
        held_out_N: KEPT, HELD_OUT_VALID or HELD_OUT_TEST of each item of the catalogue.
        categories: of the catalogue.
        users: a table of USERS.
        rule: what counts as a like.
        cutoffs: of the temporal split.
        history_length: context of a row at most.
        max_history: events of a user that histories/ keeps.
    """

    held_out_N: np.ndarray
    categories: Categories
    users: pa.Table
    rule: LikeRule
    cutoffs: CutOffs
    history_length: int
    max_history: int


def plan_of(config: DataConfig, items: pa.Table, users: pa.Table, cutoffs: CutOffs) -> Plan:
    """The plan of a config.

    Args:
        config: like rule and lengths.
        items: of the CATALOGUE schema.
        users: of the USERS schema.
        cutoffs: of the temporal split.
    """
    return Plan(
        held_out_N=np.array([HELD_OUT_CODES[name] for name in items["held_out"].to_pylist()], np.int8),
        categories=categories_of(items),
        users=users,
        rule=LikeRule(config.like_threshold, config.liked_events, config.disliked_events),
        cutoffs=cutoffs,
        history_length=config.history_length,
        max_history=config.max_history,
    )


@dataclass(frozen=True)
class Built:
    """What a block of whole users gives.

    Attributes:
        tables: by folder: histories, rows/train, rows/valid, rows/test.
        stats: counts of the ITEM_STATS schema.
        users: how many there are.
        repeats: how many events were exact repeats and dropped.
    """

    tables: dict[str, pa.Table]
    stats: pa.Table
    users: int
    repeats: int


def build(events: pa.Table, plan: Plan) -> Built:
    """Histories, rows and counts of a block.

    Args:
        events: user_id, item, timestamp, rating, event; any order, whole users.
        plan: what rows depend on besides.
    """
    past = histories(events, plan.rule)
    users = pa.array(past.user_ids, pa.string())
    known = pc.index_in(users, value_set=plan.users["user_id"].combine_chunks())
    texts = plan.users["text"].combine_chunks().take(known).fill_null("")
    user_texts = np.array(texts.to_pylist(), object)
    tables = {
        "histories": history_table(past, plan),
        "rows/train": train_rows(past, plan, user_texts),
        "rows/valid": evaluation_rows(past, plan, user_texts, "valid"),
        "rows/test": evaluation_rows(past, plan, user_texts, "test"),
    }
    return Built(tables, item_day_counts(past, plan), len(users), len(events) - len(past.items_E))


def _select(past: Histories, keep_E: np.ndarray) -> Groups:
    """The positions of kept events, by user."""
    return Groups(np.arange(len(keep_E)), past.offsets_U1).narrow(keep_E)


def _first_meetings(past: Histories, num_items: int) -> Groups:
    """Of each user's events with one item the earliest, by user in the order of items."""
    user_E = np.repeat(np.arange(len(past.user_ids)), np.diff(past.offsets_U1))
    met_E = user_E * np.int64(num_items) + past.items_E
    order = np.argsort(met_E, kind="stable")
    first = np.ones(len(order), bool)
    first[1:] = np.diff(met_E[order]) != 0
    return Groups(order, past.offsets_U1).narrow(first)


def _lists(values: np.ndarray, offsets_R1: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets_R1.astype(np.int32)), pa.array(values, kind))


def history_table(past: Histories, plan: Plan) -> pa.Table:
    """Each user's last `max_history` events of items that are not held out; users without any are left out."""
    kept = _select(past, plan.held_out_N[past.items_E] == KEPT)
    users = np.flatnonzero(np.diff(kept.offsets_R1))
    last = kept.last(users, plan.max_history)
    columns = {"items": past.items_E, "times": past.times_E, "likes": past.likes_E, "ratings": past.ratings_E}
    arrays = [
        _lists(values[last.events], last.offsets_R1, HISTORIES.field(name).type.value_type)
        for name, values in columns.items()
    ]
    return pa.table([_ids(past, users), *arrays], schema=HISTORIES)


def _ids(past: Histories, users: np.ndarray) -> pa.Array:
    return pa.array(past.user_ids, pa.string()).take(pa.array(users))


def _rows(
    past: Histories,
    plan: Plan,
    user_texts: np.ndarray,
    users: np.ndarray,
    known: Groups,
    context: Groups,
    targets: Groups,
) -> dict[str, pa.Array]:
    """Columns of ROWS but for `as_of` and `seen`.

    Args:
        past: the events.
        plan: for the categories.
        user_texts: by user.
        users: the user of each row.
        known: the events before each row's as_of that its profile tells of.
        context: events before each row's as_of.
        targets: events from each row's as_of on.
    """
    whole = joined(context, targets)
    profiles = profile_texts(
        past.items_E[known.events],
        past.likes_E[known.events],
        known.offsets_R1,
        user_texts[users].tolist(),
        plan.categories,
    )
    return {
        "user_id": _ids(past, users),
        "items": _lists(past.items_E[whole.events], whole.offsets_R1, pa.int32()),
        "likes": _lists(past.likes_E[whole.events], whole.offsets_R1, pa.int8()),
        "first_target": pa.array(np.diff(context.offsets_R1), pa.int32()),
        "profile": pa.array(profiles, pa.string()),
    }


def _tie_starts(times: np.ndarray, offsets_U1: np.ndarray) -> np.ndarray:
    """For each event the position of the first one of its user at the same time."""
    fresh = np.ones(len(times), bool)
    fresh[1:] = np.diff(times) != 0
    fresh[offsets_U1[:-1][np.diff(offsets_U1) > 0]] = True
    starts: np.ndarray = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
    return starts


def train_rows(past: Histories, plan: Plan, user_texts: np.ndarray) -> pa.Table:
    """Chunks of histories before the validation cut-off, in which each event is a target exactly once.

    The first row of a user is targets only, the very first event included; a further one begins with about half a
    history of context. Context and profile lie strictly before the first target in time: where equal times straddle a
    border, the border moves back to where they begin, and where they are too many for that, context ends before them.
    """
    kept = _select(past, (past.times_E < plan.cutoffs.valid) & (plan.held_out_N[past.items_E] == KEPT))
    times, count_U = past.times_E[kept.events], np.diff(kept.offsets_R1)
    length, context = plan.history_length + 1, plan.history_length // 2
    stride = length - context
    rows_U = np.where(count_U == 0, 0, 1 + -(-np.maximum(count_U - length, 0) // stride))
    users = np.repeat(np.arange(len(count_U)), rows_U)
    chunk = np.arange(len(users)) - np.repeat(np.cumsum(rows_U) - rows_U, rows_U)
    base = kept.offsets_R1[:-1][users]
    begin = base + np.where(chunk == 0, 0, length + (chunk - 1) * stride)

    known_end = _tie_starts(times, kept.offsets_R1)[begin]
    begin = np.where(begin - known_end <= context, known_end, begin)
    last = np.append(users[1:] != users[:-1], True)[: len(users)]
    end = np.where(last, kept.offsets_R1[1:][users], np.append(begin[1:], 0)[: len(users)])

    context_length = np.minimum(known_end - base, np.minimum(context, length - (end - begin)))
    profile_length = np.minimum(known_end - base, plan.history_length)
    known = kept.slices(known_end - profile_length, profile_length)
    before = kept.slices(known_end - context_length, context_length)
    columns = _rows(past, plan, user_texts, users, known, before, kept.slices(begin, end - begin))
    columns["as_of"] = pa.array(times[begin], pa.int64())
    columns["seen"] = _lists(np.zeros(0, np.int32), np.zeros(len(users) + 1), pa.int32())
    return pa.table([columns[name] for name in ROWS.names], schema=ROWS)


def evaluation_rows(past: Histories, plan: Plan, user_texts: np.ndarray, split: str) -> pa.Table:
    """One row a user as of a cut-off: the last events before it, then what the user met anew in the window after it.

    Items held out for another split's ranking are no targets of validation; of an item met twice in the window the
    first time counts.

    Args:
        past: the events.
        plan: the cut-offs among others.
        user_texts: by user.
        split: "valid" or "test".
    """
    cut = plan.cutoffs
    begin, end = (cut.valid, cut.test) if split == "valid" else (cut.test, cut.end)
    held_out_E = plan.held_out_N[past.items_E]
    before_E = past.times_E < begin
    first = _first_meetings(past, len(plan.held_out_N))
    window_E = np.zeros_like(before_E)
    window_E[first.events] = True
    window_E &= ~before_E & (past.times_E < end)
    if split == "valid":
        window_E &= held_out_E != HELD_OUT_TEST

    targets = _select(past, window_E)
    users = np.flatnonzero(np.diff(targets.offsets_R1))
    context = _select(past, before_E & (held_out_E == KEPT)).last(users, plan.history_length)
    columns = _rows(past, plan, user_texts, users, context, context, targets.of(users))
    seen = first.narrow(before_E[first.events]).of(users)
    columns["as_of"] = pa.array(np.full(len(users), begin), pa.int64())
    columns["seen"] = _lists(past.items_E[seen.events], seen.offsets_R1, pa.int32())
    return pa.table([columns[name] for name in ROWS.names], schema=ROWS)


def item_day_counts(past: Histories, plan: Plan) -> pa.Table:
    """Interactions and likes by item and UTC day, held-out items absent."""
    kept = plan.held_out_N[past.items_E] == KEPT
    days = past.times_E[kept] // DAY_MS
    span = int(days.max(initial=0)) + 1
    keys, inverse = np.unique(past.items_E[kept] * np.int64(span) + days, return_inverse=True)
    columns = {
        "item": keys // span,
        "day": keys % span,
        "count": np.bincount(inverse, minlength=len(keys)),
        "likes": np.bincount(inverse, past.likes_E[kept] == LIKED, minlength=len(keys)),
    }
    return pa.table({name: pa.array(values.astype(np.int32)) for name, values in columns.items()}, schema=ITEM_STATS)
