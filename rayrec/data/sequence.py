"""From the events of whole users to histories, training rows and evaluation rows, without a call per user or row.

Letters: E events, U users, R rows.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.groups import Groups, first_of_each, joined, offsets
from rayrec.data.plan import Plan, past_of, trained
from rayrec.data.previous import held
from rayrec.data.split import HELD_OUT_TEST, KEPT
from rayrec.item_stats import DAY_MS
from rayrec.profiles import Histories, profile_texts
from rayrec.schema import HISTORIES, ITEM_STATS, LIKED, ROWS, USERS


@dataclass(frozen=True)
class Built:
    """What the events of whole users give.

    Attributes:
        tables: by folder: histories, rows/train, rows/valid, rows/test.
        stats: counts of the ITEM_STATS schema.
        users: how many have an event left.
        kept: events left, those that a previous dataset held among them.
        filtered: events dropped by each filter; with `kept` they add up to the events given and those held before.
        carried: events that a previous dataset held.
        new: events left that it did not hold.
        late: those of them that came too late to be targets.
    """

    tables: dict[str, pa.Table]
    stats: pa.Table
    users: int
    kept: int
    filtered: dict[str, int]
    carried: int
    new: int
    late: int


def build(events: pa.Table, plan: Plan, users: pa.Table, before: pa.Table | None = None) -> Built:
    """Histories, rows and counts of whole users.

    With the events of a previous dataset given, rows/train has the targets from `plan.train_from` on and `stats` counts
    events that are new; what the previous dataset has stays beside them. An event that it holds already is an exact
    repeat.

    Args:
        events: user_id, item, timestamp, rating, event, and terms (from review_terms()) where there are reviews; any
            order but for rows alike in all but terms, of which the first stays.
        plan: what rows depend on besides.
        users: of the USERS schema, distinct ids; nothing need be known of a user.
        before: what events_of() tells of the same users' previous histories.
    """
    fresh = events if before is None else events.filter(pa.array(~held(events, before)))
    known = fresh if before is None else pa.concat_tables([before, fresh], promote_options="default")
    past, filtered = past_of(known, plan)
    filtered["exact repeat"] += len(events) - len(fresh)
    carried = len(known) - len(fresh)
    assert len(past.items_E) + sum(filtered.values()) == carried + len(events)
    new_E = np.ones(len(past.items_E), bool) if before is None else ~held(_keys(past), before)
    people = _people(past, users)
    trains_E = trained(past, plan)
    first = first_of_each(past.items_E, past.offsets_U1)
    tables = {
        "histories": history_table(past, plan, people, trains_E),
        "rows/train": train_rows(past, plan, people, trains_E),
        "rows/valid": evaluation_rows(past, plan, people, first, "valid"),
        "rows/test": evaluation_rows(past, plan, people, first, "test"),
    }
    late_E = new_E & (past.times_E < (plan.train_from or 0))
    return Built(
        tables=tables,
        stats=item_day_counts(past, trains_E & new_E),
        users=int(np.count_nonzero(np.diff(past.offsets_U1))),
        kept=len(past.items_E),
        filtered=filtered,
        carried=carried,
        new=int(new_E.sum()),
        late=int(late_E.sum()),
    )


def _keys(past: Histories) -> pa.Table:
    """What tells the events apart: user_id, item, timestamp."""
    users = np.repeat(np.arange(len(past.user_ids)), np.diff(past.offsets_U1))
    ids = pa.array(past.user_ids, pa.string()).take(pa.array(users))
    return pa.table({"user_id": ids, "item": past.items_E, "timestamp": past.times_E})


def _people(past: Histories, users: pa.Table) -> pa.Table:
    """Of the USERS schema: id and text (null where there is none) of the histories' users, in their order."""
    ids = pa.array(past.user_ids, pa.string())
    known = pc.index_in(ids, value_set=users["user_id"].combine_chunks())
    texts = users["text"].combine_chunks().take(known)
    return pa.table([ids, texts], schema=USERS)


def _select(past: Histories, keep_E: np.ndarray) -> Groups:
    """The positions of kept events, by user."""
    return Groups(np.arange(len(keep_E)), past.offsets_U1).narrow(keep_E)


def _lists(values: np.ndarray, offsets_R1: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(offsets_R1.astype(np.int32)), pa.array(values, kind))


def history_table(past: Histories, plan: Plan, people: pa.Table, trains_E: np.ndarray) -> pa.Table:
    """Each user's last `max_history` events that may train; users without any are left out."""
    kept = _select(past, trains_E)
    users = np.flatnonzero(np.diff(kept.offsets_R1))
    last = kept.last(users, plan.max_history)
    columns = {"items": past.items_E, "times": past.times_E, "likes": past.likes_E, "ratings": past.ratings_E}
    arrays = [
        _lists(values[last.events], last.offsets_R1, HISTORIES.field(name).type.value_type)
        for name, values in columns.items()
    ]
    return pa.table([people["user_id"].take(pa.array(users)), *arrays], schema=HISTORIES)


def _rows(
    past: Histories, plan: Plan, people: pa.Table, known: Groups, context: Groups, targets: Groups
) -> dict[str, pa.Array]:
    """Columns of ROWS but for `as_of` and `seen`.

    Args:
        past: the events.
        plan: for the terms.
        people: id and text of the user of each row.
        known: the events before each row's as_of that its profile tells of.
        context: events before each row's as_of.
        targets: events from each row's as_of on.
    """
    whole = joined(context, targets)
    profiles = profile_texts(
        past.items_E[known.events],
        past.likes_E[known.events],
        known.offsets_R1,
        people["text"].combine_chunks(),
        plan.terms,
        None if past.terms is None else past.terms.take(pa.array(known.events)),
    )
    return {
        "user_id": people["user_id"],
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


def train_rows(past: Histories, plan: Plan, people: pa.Table, trains_E: np.ndarray) -> pa.Table:
    """Chunks of histories before the validation cut-off, in which each event is a target exactly once.

    The first row of a user is targets only, the very first event included; a further one begins with about half a
    history of context. What happened before `plan.train_from` is context only. Context and profile lie strictly before
    the first target in time: where equal times straddle a border, the border moves back to where they begin, and where
    they are too many for that, context ends before them.
    """
    kept = _select(past, trains_E & (past.times_E < plan.cutoffs.valid))
    times = past.times_E[kept.events]
    known_U, count_U = _before_and_from(times, kept.offsets_R1, plan.train_from)
    length, context = plan.history_length + 1, plan.history_length // 2
    stride = length - context
    first_U = np.where(known_U == 0, length, stride)
    rows_U = np.where(count_U == 0, 0, 1 + -(-np.maximum(count_U - first_U, 0) // stride))
    users = np.repeat(np.arange(len(count_U)), rows_U)
    chunk = np.arange(len(users)) - np.repeat(np.cumsum(rows_U) - rows_U, rows_U)
    base = kept.offsets_R1[:-1][users]
    begin = base + known_U[users] + np.where(chunk == 0, 0, first_U[users] + (chunk - 1) * stride)

    known_end = _tie_starts(times, kept.offsets_R1)[begin]
    begin = np.where(begin - known_end <= context, known_end, begin)
    last = np.append(users[1:] != users[:-1], True)[: len(users)]
    end = np.where(last, kept.offsets_R1[1:][users], np.append(begin[1:], 0)[: len(users)])

    context_length = np.minimum(known_end - base, np.minimum(context, length - (end - begin)))
    profile_length = np.minimum(known_end - base, plan.history_length)
    known = kept.slices(known_end - profile_length, profile_length)
    before = kept.slices(known_end - context_length, context_length)
    targets = kept.slices(begin, end - begin)
    columns = _rows(past, plan, people.take(pa.array(users)), known, before, targets)
    columns["as_of"] = pa.array(times[begin], pa.int64())
    columns["seen"] = _lists(np.zeros(0, np.int32), np.zeros(len(users) + 1), pa.int32())
    return pa.table([columns[name] for name in ROWS.names], schema=ROWS)


def _before_and_from(times: np.ndarray, offsets_U1: np.ndarray, moment: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Of each user how many events lie before a moment, none where it is None, and how many from it on."""
    before_U = np.zeros(len(offsets_U1) - 1, np.int64)
    if moment is not None:
        before_U = np.diff(offsets(times < moment)[offsets_U1])
    return before_U, np.diff(offsets_U1) - before_U


def evaluation_rows(past: Histories, plan: Plan, people: pa.Table, first: Groups, split: str) -> pa.Table:
    """One row a user as of a cut-off: the last events before it, then what the user met anew in the window after it.

    Items held out for another split's ranking are no targets of validation; of an item met twice in the window the
    first time counts. The context is what the user did, whether it may train or not, but for held-out items.

    Args:
        past: the events.
        plan: the cut-offs among others.
        people: id and text by user.
        first: first_of_each() of the items.
        split: "valid" or "test".
    """
    cut = plan.cutoffs
    begin, end = (cut.valid, cut.test) if split == "valid" else (cut.test, cut.end)
    held_out_E = plan.held_out_N[past.items_E]
    before_E = past.times_E < begin
    window_E = np.zeros_like(before_E)
    window_E[first.events] = True
    window_E &= ~before_E & (past.times_E < end)
    if split == "valid":
        window_E &= held_out_E != HELD_OUT_TEST

    targets = _select(past, window_E)
    users = np.flatnonzero(np.diff(targets.offsets_R1))
    context = _select(past, before_E & (held_out_E == KEPT)).last(users, plan.history_length)
    columns = _rows(past, plan, people.take(pa.array(users)), context, context, targets.of(users))
    seen = first.narrow(before_E[first.events]).of(users)
    columns["as_of"] = pa.array(np.full(len(users), begin), pa.int64())
    columns["seen"] = _lists(past.items_E[seen.events], seen.offsets_R1, pa.int32())
    return pa.table([columns[name] for name in ROWS.names], schema=ROWS)


def item_day_counts(past: Histories, trains_E: np.ndarray) -> pa.Table:
    """Interactions and likes that may train, by item and UTC day."""
    days = past.times_E[trains_E] // DAY_MS
    span = int(days.max(initial=0)) + 1
    keys, inverse = np.unique(past.items_E[trains_E] * np.int64(span) + days, return_inverse=True)
    columns = {
        "item": keys // span,
        "day": keys % span,
        "count": np.bincount(inverse, minlength=len(keys)),
        "likes": np.bincount(inverse, past.likes_E[trains_E] == LIKED, minlength=len(keys)),
    }
    return pa.table({name: pa.array(values.astype(np.int32)) for name, values in columns.items()}, schema=ITEM_STATS)
