"""Leave-last-out: the last event is the test's, the one before is validation's, whatever their times."""

import pickle

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data.passes import few_shot_event_hashes
from rayrec.data.plan import past_of
from rayrec.data.sequence import Built, build
from rayrec.data.split import HELD_OUT_TEST, HELD_OUT_VALID, CutOffs
from rayrec.item_stats import DAY_MS
from tests.events import NOBODY, NUM_ITEMS, Event, log, tiny_plan

LAST_OUT = {"kind": "leave_last_out"}


def rows(built: Built, split: str) -> dict[str, tuple[list[int], list[int]]]:
    """Context and targets by user, of a split with one row a user."""
    found = built.tables[f"rows/{split}"].to_pylist()
    assert len({row["user_id"] for row in found}) == len(found)
    return {row["user_id"]: (row["items"][: row["first_target"]], row["items"][row["first_target"] :]) for row in found}


def test_the_last_two_events_move_to_the_cut_offs() -> None:
    plan = tiny_plan(**LAST_OUT)
    past, _ = past_of(log(*(("a", item, 7 * item, None) for item in range(5)), ("b", 1, 3, None)), plan)
    assert plan.cutoffs == CutOffs(DAY_MS, 2 * DAY_MS, 3 * DAY_MS)
    assert past.times_E.tolist() == [0, 7, 14, DAY_MS, 2 * DAY_MS, 3]


def test_targets_and_what_is_known_of_them() -> None:
    built = build(log(*(("a", item, 7 * item, 5.0) for item in range(5))), tiny_plan(**LAST_OUT), NOBODY)
    assert rows(built, "train") == {"a": ([], [0, 1, 2])}
    assert rows(built, "valid") == {"a": ([0, 1, 2], [3])}
    assert rows(built, "test") == {"a": ([0, 1, 2, 3], [4])}
    days = dict(zip(built.stats["item"].to_pylist(), built.stats["day"].to_pylist(), strict=True))
    assert days == {0: 0, 1: 0, 2: 0, 3: 1, 4: 2}
    assert built.tables["histories"].to_pylist()[0]["items"] == [0, 1, 2, 3, 4]


def test_two_events_are_for_training_alone() -> None:
    built = build(log(("a", 1, 1, None), ("a", 2, 2, None), ("b", 3, 3, None)), tiny_plan(**LAST_OUT), NOBODY)
    assert rows(built, "train") == {"a": ([], [1, 2]), "b": ([], [3])}
    assert rows(built, "valid") == rows(built, "test") == {}


def test_held_out_items_are_targets_of_their_own_ranking_when_last() -> None:
    held_out = {3: HELD_OUT_TEST, 4: HELD_OUT_VALID}
    plan = tiny_plan(held_out=held_out, **LAST_OUT)
    events = [(user, item, item, None) for user in "ab" for item in range(3)]
    built = build(
        log(*events, ("a", 3, 8, None), ("a", 4, 9, None), ("b", 4, 8, None), ("b", 3, 9, None)), plan, NOBODY
    )
    assert rows(built, "valid") == {"b": ([0, 1, 2], [4])}
    assert rows(built, "test") == {"a": ([0, 1, 2], [4]), "b": ([0, 1, 2], [3])}


def test_an_item_met_before_is_no_target() -> None:
    built = build(
        log(*(("a", item, time, None) for time, item in enumerate([1, 2, 3, 1]))), tiny_plan(**LAST_OUT), NOBODY
    )
    assert rows(built, "train") == {"a": ([], [1, 2])}
    assert rows(built, "valid") == {"a": ([1, 2], [3])}
    assert rows(built, "test") == {}


def test_without_time_days_count_back_from_the_end() -> None:
    plan = tiny_plan(order_only=True, max_events=6, **LAST_OUT)
    events: list[Event] = [("long", item, 10**12 + item, None) for item in range(8)]
    events += [("short", item, 5 * item, None) for item in range(4)] + [("two", item, item, None) for item in range(2)]
    past, filtered = past_of(log(*events), plan)
    assert plan.cutoffs == CutOffs(6 * DAY_MS, 7 * DAY_MS, 8 * DAY_MS)
    days = (past.times_E // DAY_MS).tolist()
    assert days == [2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5]
    assert filtered["beyond the user's last 6 events"] == 2


LOGS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, NUM_ITEMS - 1), st.integers(0, 50), st.just(5.0)),
    min_size=1,
    max_size=60,
    unique_by=lambda event: event[:2],
)


@settings(max_examples=150, deadline=None)
@given(LOGS, st.booleans(), st.integers(1, 9))
def test_everybody_with_three_events_has_their_last_as_the_one_target(
    events: list[Event], order_only: bool, length: int
) -> None:
    plan = tiny_plan(order_only=order_only, history_length=length, **LAST_OUT)
    built = build(log(*events), plan, NOBODY)
    expected: dict[str, dict[str, tuple[list[int], list[int]]]] = {"valid": {}, "test": {}}
    train = {}
    for user in {event[0] for event in events}:
        items = [item for _, item in sorted((time, item) for name, item, time, _ in events if name == user)]
        cut = len(items) - 2 if len(items) >= 3 else len(items)
        train[user] = items[:cut]
        if len(items) >= 3:
            expected["valid"][user] = (items[:cut][-length:], [items[-2]])
            expected["test"][user] = (items[: cut + 1][-length:], [items[-1]])
    assert {split: rows(built, split) for split in expected} == expected
    found: dict[str, list[int]] = {}
    for row in built.tables["rows/train"].to_pylist():
        found.setdefault(row["user_id"], []).extend(row["items"][row["first_target"] :])
    assert found == train
    before = built.stats["day"].to_numpy() < plan.cutoffs.valid // DAY_MS
    assert built.stats["count"].to_numpy()[before].sum() == sum(map(len, train.values()))


def test_few_shot_draws_go_by_what_trains() -> None:
    plan = tiny_plan(few_shot_interactions=100, **LAST_OUT)
    assert len(few_shot_event_hashes(log(*(("a", item, item, None) for item in range(9))), plan)) == 7


def test_a_plan_travels_by_pickle() -> None:
    plan = tiny_plan(few_shot_users=3, **LAST_OUT)
    events = log(*(("a", item, item, 5.0) for item in range(9)))
    sent = pickle.loads(pickle.dumps(plan))
    assert build(events, sent, NOBODY).tables == build(events, plan, NOBODY).tables
    assert np.array_equal(sent.held_out_N, plan.held_out_N)
