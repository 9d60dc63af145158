"""What a previous dataset tells: its events as the job takes them, which of the new ones it holds already."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.config import CleanConfig, DataConfig
from rayrec.data.previous import events_of, held
from rayrec.data.sequence import build
from rayrec.data.split import CutOffs
from rayrec.profiles import LikeRule
from rayrec.schema import DISLIKED, HISTORIES, LIKED, UNKNOWN, USERS
from tests.synthetic import generate, judged

NAMES = LikeRule(None, ("buy", "keep"), ("return",))
PLAN = judged(generate(num_users=5, num_items=30, num_interactions=50), DataConfig(history_length=4))[2]
NOBODY = USERS.empty_table()


def history(**users: list[tuple[int, int, int, float]]) -> pa.Table:
    """Item, time, like, rating of each event, by user."""
    rows = [
        {"user_id": user, **dict(zip(("items", "times", "likes", "ratings"), zip(*events, strict=True), strict=True))}
        for user, events in users.items()
    ]
    return pa.Table.from_pylist(rows, HISTORIES)


def events(*rows: tuple[str, int, int]) -> pa.Table:
    columns = zip(*rows, strict=True)
    table = pa.table(dict(zip(("user_id", "item", "timestamp"), columns, strict=True)))
    table = table.set_column(1, "item", table["item"].cast(pa.int32()))
    table = table.append_column("rating", pa.nulls(len(table), pa.float32()))
    return table.append_column("event", pa.nulls(len(table), pa.string()))


@pytest.mark.parametrize("rule", [LikeRule(), NAMES], ids=["ratings", "names"])
def test_likes_of_old_events_stay_what_they_were(rule: LikeRule) -> None:
    nothing = float("nan")
    old = history(a=[(3, 10, LIKED, 5), (4, 20, DISLIKED, 2)], b=[(5, 30, UNKNOWN, nothing)])
    if rule is NAMES:
        old = history(a=[(3, 10, LIKED, 1), (4, 20, DISLIKED, nothing)], b=[(5, 30, UNKNOWN, 5)])
    told = events_of(old, rule)
    assert told["user_id"].to_pylist() == ["a", "a", "b"]
    assert told["item"].to_pylist() == [3, 4, 5]
    assert told["timestamp"].to_pylist() == [10, 20, 30]
    assert rule.likes(told).tolist() == [LIKED, DISLIKED, UNKNOWN]


def test_an_event_is_known_by_user_item_and_time() -> None:
    old = events(("a", 1, 5), ("b", 1, 6))
    new = events(("a", 1, 6), ("b", 1, 6), ("a", 2, 5), ("a", 1, 5), ("c", 1, 5), ("a", 1, 5))
    assert held(new, old).tolist() == [False, True, False, True, False, True]
    assert not held(new, old.slice(0, 0)).any()
    assert len(held(new.slice(0, 0), old)) == 0


def test_new_rows_begin_where_the_old_ones_ended() -> None:
    plan = replace(PLAN, held_out_N=np.zeros(30, np.int8), cutoffs=CutOffs(100, 200, 300), train_from=10)
    old = events_of(history(a=[(item, item, LIKED, 5) for item in range(12)]), plan.rule)
    new = events(*(("a", item, item) for item in range(12, 20)), ("a", 25, 3), ("b", 7, 12), ("b", 8, 150))
    built = build(new, plan, NOBODY, old)
    rows = [
        (row["user_id"], row["as_of"], row["items"], row["first_target"])
        for row in built.tables["rows/train"].to_pylist()
    ]
    assert rows == [
        ("a", 10, [8, 9, 10, 11, 12], 2),
        ("a", 13, [11, 12, 13, 14, 15], 2),
        ("a", 16, [14, 15, 16, 17, 18], 2),
        ("a", 19, [17, 18, 19], 2),
        ("b", 12, [7], 0),
    ]
    assert (built.carried, built.new, built.late, built.kept) == (12, 11, 1, 23)
    assert sorted(built.stats["item"].to_pylist()) == [7, 8, *range(12, 20), 25]
    (a, b) = built.tables["histories"].to_pylist()
    assert a["items"] == [0, 1, 2, 3, 25, *range(4, 20)]
    assert b["items"] == [7, 8]


def test_events_at_one_moment_do_not_know_of_each_other() -> None:
    plan = replace(PLAN, held_out_N=np.zeros(30, np.int8), cutoffs=CutOffs(100, 200, 300), train_from=10)
    old = events_of(history(a=[(1, 5, LIKED, 5), (2, 10, LIKED, 5)]), plan.rule)
    new = events(("a", 3, 10), ("a", 4, 11), ("a", 5, 11), ("a", 6, 11))
    rows = build(new, plan, NOBODY, old).tables["rows/train"].to_pylist()
    assert [(row["as_of"], row["items"], row["first_target"]) for row in rows] == [
        (10, [1, 2, 3], 1),
        (11, [2, 3, 4, 5, 6], 2),
    ]


def test_filters_look_across_the_border_and_count_what_they_drop() -> None:
    clean = CleanConfig(repeat_window_s=1, max_events=3)
    plan = replace(
        PLAN, held_out_N=np.zeros(30, np.int8), cutoffs=CutOffs(9000, 9001, 9002), train_from=10, clean=clean
    )
    old = events_of(history(a=[(1, 1000, UNKNOWN, float("nan")), (2, 1500, LIKED, 5)]), plan.rule)
    built = build(events(("a", 1, 1900), ("a", 2, 1500), ("a", 3, 5000), ("a", 4, 6000)), plan, NOBODY, old)
    assert built.filtered == {"exact repeat": 1, "repeat within 1 s": 1, "beyond the user's last 3 events": 1}
    assert (built.carried, built.new, built.kept) == (2, 2, 3)


def test_reviews_of_new_events_count_beside_old_ones_without() -> None:
    plan = replace(PLAN, held_out_N=np.zeros(30, np.int8), cutoffs=CutOffs(100, 200, 300), train_from=10)
    told = np.asarray(plan.terms.matrix[[1, *range(3, 9)]].sum(axis=0)).ravel()
    word = plan.terms.num_labels + int(np.argmin(told[plan.terms.num_labels :]))  # no item speaks of it
    old = events_of(history(a=[(1, 5, LIKED, 5)]), plan.rule)
    new = events(*(("a", 3 + place, 20 + place) for place in range(6)), ("a", 9, 150))
    said = pa.array([[word]] * 6 + [None], pa.list_(pa.int32()))
    profiles = []
    for terms in (said, pa.nulls(7, said.type)):
        (row,) = build(new.append_column("terms", terms), plan, NOBODY, old).tables["rows/valid"].to_pylist()
        profiles.append(row["profile"])
    name = plan.terms.names[word].as_py()
    assert [name in profile for profile in profiles] == [True, False]
