"""Passes over buckets find what one look at all the logs would."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data.passes import core_counts, core_items, few_shot_event_hashes, few_shot_user_hashes, needs_core_passes
from rayrec.data.plan import Plan
from rayrec.data.sequence import Built, build
from rayrec.data.split import HELD_OUT_TEST, CutOffs, few_shot_threshold, held_out_users
from tests.events import NOBODY, NUM_ITEMS, Event, log, tiny_plan

CUTOFFS = CutOffs(1000, 2000, 3000)
USERS = "abcdefgh"

LOGS = st.lists(
    st.tuples(
        st.sampled_from(USERS),
        st.integers(0, 9),
        st.integers(0, 59).map(lambda time: time * 50),
        st.sampled_from([5.0]),
    ),
    min_size=1,
    max_size=120,
)


def buckets_of(events: list[Event], count: int) -> list[pa.Table]:
    """Whole users dealt to buckets, some of which may be empty."""
    return [log(*(event for event in events if USERS.index(event[0]) % count == bucket)) for bucket in range(count)]


def with_passes(buckets: list[pa.Table], plan: Plan) -> Plan:
    """The passes as prepare drives them."""
    if needs_core_passes(plan):
        while True:
            keep_N = core_items(np.sum([core_counts(bucket, plan) for bucket in buckets], axis=0), plan)
            if plan.keep_item_N is not None and (keep_N == plan.keep_item_N).all():
                break
            plan = replace(plan, keep_item_N=keep_N)
    if plan.split.few_shot_users:
        draws = [few_shot_user_hashes(bucket, plan) for bucket in buckets]
        plan = replace(plan, few_shot_user_limit=few_shot_threshold(draws, plan.split.few_shot_users))
    if plan.split.few_shot_interactions:
        draws = [few_shot_event_hashes(bucket, plan) for bucket in buckets]
        plan = replace(plan, few_shot_event_limit=few_shot_threshold(draws, plan.split.few_shot_interactions))
    return plan


def built(buckets: list[pa.Table], plan: Plan) -> list[Built]:
    return [build(bucket, plan, NOBODY) for bucket in buckets]


def column(parts: list[Built], folder: str, name: str) -> list:  # type: ignore[type-arg]
    """A column of a folder, all buckets together, sorted."""
    return sorted(value for part in parts for value in part.tables[folder][name].to_pylist())


def train_targets(parts: list[Built]) -> int:
    rows = [row for part in parts for row in part.tables["rows/train"].to_pylist()]
    return sum(len(row["items"]) - row["first_target"] for row in rows)


def plain_core(events: list[Event], least_user: int, least_item: int) -> set[tuple[str, int, int]]:
    """The k-core by peeling one user or item at a time."""
    left = {event[:3] for event in events}
    while True:
        users, items = ([event[part] for event in left] for part in (0, 1))
        bad = {event for event in left if users.count(event[0]) < least_user or items.count(event[1]) < least_item}
        if not bad:
            return left
        left -= bad


@settings(max_examples=100, deadline=None)
@given(LOGS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_the_core_is_that_of_all_buckets_together(
    events: list[Event], count: int, least_user: int, least_item: int
) -> None:
    buckets = buckets_of(events, count)
    settings = {"min_user_events": least_user, "min_item_events": least_item, "held_out_users": 0}
    parts = built(buckets, with_passes(buckets, tiny_plan(CUTOFFS, **settings)))
    expected = plain_core(events, least_user, least_item)
    found = [
        (row["user_id"], item, time)
        for part in parts
        for row in part.tables["histories"].to_pylist()
        for item, time in zip(row["items"], row["times"], strict=True)
    ]
    assert sorted(found) == sorted(expected)
    dropped = sum(part.filtered.get("k-core", 0) for part in parts)
    assert dropped == len({event[:3] for event in events}) - len(expected)
    assert sum(part.kept for part in parts) == len(expected)


def test_a_core_that_falls_apart_step_by_step_is_followed_to_the_end() -> None:
    # Without item 9 (once) user c has one event, without c item 2 has one, then b has one, then nothing is left.
    events: list[Event] = [("a", 1, 1, 5.0), ("a", 2, 2, 5.0), ("b", 1, 1, 5.0), ("c", 2, 2, 5.0), ("c", 9, 3, 5.0)]
    buckets = buckets_of([*events, ("b", 8, 4, 5.0)], 3)
    plan = with_passes(buckets, tiny_plan(CUTOFFS, min_user_events=2, min_item_events=2))
    assert plan.keep_item_N is not None
    assert not plan.keep_item_N.any()
    assert [part.filtered["k-core"] for part in built(buckets, plan)] == [2, 2, 2]
    assert [part.users for part in built(buckets, plan)] == [0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(LOGS, st.integers(1, 3), st.integers(1, 9))
def test_exactly_n_users_train(events: list[Event], count: int, n: int) -> None:
    buckets = buckets_of(events, count)
    whole = tiny_plan(CUTOFFS, {0: HELD_OUT_TEST}, held_out_users=0.3)
    few = with_passes(buckets, tiny_plan(CUTOFFS, {0: HELD_OUT_TEST}, held_out_users=0.3, few_shot_users=n))
    before, after = built(buckets, whole), built(buckets, few)
    everyone = set(column(before, "rows/train", "user_id"))
    chosen = set(column(after, "rows/train", "user_id"))
    assert chosen <= everyone
    assert len(chosen) == min(n, len(everyone))
    known = set(column(after, "histories", "user_id"))
    assert known == chosen if len(everyone) >= n else known >= chosen
    for split in ("rows/valid", "rows/test"):
        assert [part.tables[split] for part in after] == [part.tables[split] for part in before]
    events_of_chosen = {event[:3] for event in events if event[0] in known and event[1] != 0}
    assert sum(sum(part.stats["count"].to_pylist()) for part in after) == len(events_of_chosen)
    assert (
        with_passes(
            [log(*events)], tiny_plan(CUTOFFS, {0: HELD_OUT_TEST}, held_out_users=0.3, few_shot_users=n)
        ).few_shot_user_limit
        == few.few_shot_user_limit
    )


@settings(max_examples=100, deadline=None)
@given(LOGS, st.integers(1, 3), st.integers(1, 40), st.sampled_from([None, 2]))
def test_exactly_n_interactions_train(events: list[Event], count: int, n: int, users: int | None) -> None:
    buckets = buckets_of(events, count)
    whole = with_passes(buckets, tiny_plan(CUTOFFS, {0: HELD_OUT_TEST}, few_shot_users=users))
    few = with_passes(buckets, tiny_plan(CUTOFFS, {0: HELD_OUT_TEST}, few_shot_users=users, few_shot_interactions=n))
    before, after = built(buckets, whole), built(buckets, few)
    total = train_targets(before)
    assert train_targets(after) == min(n, total)
    if total >= n:
        assert sum(len(items) for items in column(after, "histories", "items")) == n
        assert sum(sum(part.stats["count"].to_pylist()) for part in after) == n
    for split in ("rows/valid", "rows/test"):
        assert [part.tables[split] for part in after] == [part.tables[split] for part in before]


def test_another_seed_chooses_others() -> None:
    events: list[Event] = [(user, item, 10 * item, 5.0) for user in USERS for item in range(NUM_ITEMS)]
    chosen = set()
    for seed in range(8):
        plan = with_passes([log(*events)], replace(tiny_plan(CUTOFFS, few_shot_users=2), seed=seed))
        chosen.add(tuple(column(built([log(*events)], plan), "rows/train", "user_id")))
    assert len(chosen) > 4


def test_cold_users_are_seen_by_evaluation_alone() -> None:
    events: list[Event] = [(user, item, 100 * item, 5.0) for user in USERS for item in range(NUM_ITEMS)]
    plan = tiny_plan(CUTOFFS, held_out_users=0.5)
    cold = {
        user for user, held in zip(USERS, held_out_users(pa.array(list(USERS)), plan.split, 0), strict=True) if held
    }
    assert 0 < len(cold) < len(USERS)
    part = build(log(*events), plan, NOBODY)
    assert (
        set(column([part], "rows/train", "user_id")) == set(column([part], "histories", "user_id")) == set(USERS) - cold
    )
    assert sum(part.stats["count"].to_pylist()) == NUM_ITEMS * (len(USERS) - len(cold))
    warm = build(log(*events), tiny_plan(CUTOFFS), NOBODY)
    for split in ("rows/valid", "rows/test"):
        assert part.tables[split] == warm.tables[split]
        assert set(column([part], split, "user_id")) == set(USERS)
    assert (part.kept, part.users) == (len(events), len(USERS))


def test_nothing_else_is_known_of_a_few_interactions() -> None:
    buckets = buckets_of([(user, item, 100 * item, 5.0) for user in USERS for item in range(NUM_ITEMS)], 2)
    after = built(buckets, with_passes(buckets, tiny_plan(CUTOFFS, few_shot_interactions=20)))
    assert train_targets(after) == 20
    assert sum(len(items) for items in column(after, "histories", "items")) == 20
    assert sum(sum(part.stats["count"].to_pylist()) for part in after) == 20


def test_users_with_nothing_to_train_on_are_not_among_the_few() -> None:
    for late in USERS:
        events = [(user, item, 1500 * (user == late) + item, 5.0) for user in USERS for item in range(9)]
        after = built([log(*events)], with_passes([log(*events)], tiny_plan(CUTOFFS, few_shot_users=7)))
        assert column(after, "histories", "user_id") == sorted(set(USERS) - {late})
