from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data.plan import Plan
from rayrec.data.sequence import build
from rayrec.data.split import HELD_OUT_TEST, HELD_OUT_VALID, CutOffs
from rayrec.item_stats import DAY_MS
from rayrec.profiles import profile_texts
from rayrec.schema import DISLIKED, HISTORIES, ITEM_STATS, LIKED, ROWS, USERS
from rayrec.terms import review_terms, terms_of
from tests.events import NOBODY, NUM_ITEMS, log, tiny_plan

PEOPLE = pa.table({"user_id": ["b", "a", "nobody"], "text": ["a baker", None, "a ghost"]}, schema=USERS)


def plan(length: int = 4, held_out: dict[int, int] | None = None) -> Plan:
    return tiny_plan(CutOffs(1000, 2000, 3000), held_out, history_length=length, max_history=5)


def test_one_short_user_gives_one_train_row_of_targets_only_and_the_windows() -> None:
    events = [("b", item, 100 + item, 5.0) for item in range(3)]
    built = build(log(*events, ("b", 7, 1500, 2.0), ("b", 8, 2500, 4.0)), plan(), PEOPLE)
    (train,), (valid,), (test,) = (built.tables[f"rows/{split}"].to_pylist() for split in ("train", "valid", "test"))
    assert train == {
        **{"user_id": "b", "as_of": 100, "items": [0, 1, 2], "likes": [LIKED] * 3, "first_target": 0},
        **{"profile": "a baker", "seen": []},
    }
    assert (valid["as_of"], valid["items"], valid["first_target"], valid["seen"]) == (1000, [0, 1, 2, 7], 3, [0, 1, 2])
    assert valid["likes"] == [LIKED, LIKED, LIKED, DISLIKED]
    assert (test["as_of"], test["items"], test["first_target"], test["seen"]) == (
        2000,
        [0, 1, 2, 7, 8],
        4,
        [0, 1, 2, 7],
    )
    assert "genre 0" in valid["profile"]
    assert "genre 3" not in valid["profile"], "the item at 1500 is not known at 1000"
    assert built.tables["histories"].to_pylist()[0]["items"] == [0, 1, 2, 7, 8]
    assert [table.schema for table in built.tables.values()] == [HISTORIES, ROWS, ROWS, ROWS]


def test_a_long_history_is_cut_into_overlapping_rows() -> None:
    built = build(log(*(("a", item, 100 + item, 5.0) for item in range(10))), plan(length=4), PEOPLE)
    rows = built.tables["rows/train"].to_pylist()
    assert [(row["items"], row["first_target"], row["as_of"]) for row in rows] == [
        ([0, 1, 2, 3, 4], 0, 100),
        ([3, 4, 5, 6, 7], 2, 105),
        ([6, 7, 8, 9], 2, 108),
    ]


def test_equal_times_at_a_border_move_it_back() -> None:
    times = [100, 101, 102, 103, 104, 104, 105]
    built = build(log(*(("a", item, time, 5.0) for item, time in enumerate(times))), plan(length=4), PEOPLE)
    rows = built.tables["rows/train"].to_pylist()
    assert [(row["items"], row["first_target"], row["as_of"]) for row in rows] == [
        ([0, 1, 2, 3], 0, 100),
        ([2, 3, 4, 5, 6], 2, 104),
    ]


def test_too_many_equal_times_end_the_context_before_them() -> None:
    times = [100, 101, *[102] * 8]
    built = build(log(*(("a", item, time, 5.0) for item, time in enumerate(times))), plan(length=4), PEOPLE)
    rows = built.tables["rows/train"].to_pylist()
    assert [(row["items"], row["first_target"], row["as_of"]) for row in rows] == [
        ([0, 1, 2, 3, 4], 0, 100),
        ([0, 1, 5, 6, 7], 2, 102),
        ([0, 1, 8, 9], 2, 102),
    ]


def test_held_out_items_are_targets_of_their_own_ranking_only() -> None:
    held_out = {1: HELD_OUT_VALID, 2: HELD_OUT_TEST, 3: HELD_OUT_VALID, 4: HELD_OUT_TEST}
    past = [("a", 0, 10, 5.0), ("a", 1, 11, 5.0), ("a", 2, 12, 5.0)]
    window = [("a", 3, 1001, 5.0), ("a", 4, 1002, 5.0), ("a", 5, 1003, 5.0), ("a", 6, 2001, 5.0)]
    built = build(log(*past, *window, ("a", 2, 2002, 5.0)), plan(held_out=held_out), PEOPLE)
    (train,), (valid,), (test,) = (built.tables[f"rows/{split}"].to_pylist() for split in ("train", "valid", "test"))
    assert train["items"] == [0]
    assert (valid["items"], valid["first_target"], valid["seen"]) == ([0, 3, 5], 1, [0, 1, 2])
    assert (test["items"], test["first_target"], test["seen"]) == ([0, 5, 6], 2, [0, 1, 2, 3, 4, 5])
    assert built.tables["histories"].to_pylist()[0]["items"] == [0, 5, 6]
    assert set(built.stats["item"].to_pylist()) == {0, 5, 6}


def test_a_user_who_begins_in_the_window_has_an_empty_context() -> None:
    built = build(log(("b", 3, 2500, 5.0), ("b", 3, 2600, 1.0), ("b", 4, 2700, None)), plan(), PEOPLE)
    (test,) = built.tables["rows/test"].to_pylist()
    assert (test["items"], test["first_target"], test["seen"]) == ([3, 4], 0, [])
    assert test["profile"] == "a baker"
    assert not len(built.tables["rows/train"])
    assert not len(built.tables["rows/valid"])


def test_exact_repeats_are_dropped_whatever_their_order() -> None:
    repeats = [("a", 1, 10, 5.0), ("a", 1, 10, 1.0), ("a", 1, 10, None), ("a", 2, 11, 5.0)]
    first, second = (build(log(*events), plan(), PEOPLE) for events in (repeats, repeats[::-1]))
    assert first.filtered == second.filtered
    assert (first.kept, first.filtered["exact repeat"]) == (2, 2)
    assert first.tables == second.tables


def test_item_day_counts_add_up() -> None:
    built = build(log(("a", 1, 5, 5.0), ("b", 1, 6, 1.0), ("a", 1, DAY_MS + 5, 4.0), ("b", 2, 7, None)), plan(), PEOPLE)
    assert built.stats.schema == ITEM_STATS
    assert {tuple(row.values()) for row in built.stats.to_pylist()} == {(1, 0, 2, 1), (1, 1, 1, 1), (2, 0, 1, 0)}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.integers(0, NUM_ITEMS - 1),
        st.integers(0, 60).map(lambda time: time * 50),
        st.sampled_from([1.0, 5.0, None]),
    ),
    min_size=1,
    max_size=120,
)


def _events_of(user: str, events: list[tuple[str, int, int, float | None]]) -> list[tuple[int, int]]:
    return sorted({(time, item) for name, item, time, _ in events if name == user})


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, length=st.integers(1, 9))
def test_every_training_event_is_a_target_once_and_all_else_lies_before_it(
    events: list[tuple[str, int, int, float | None]], length: int
) -> None:
    held_out = {0: HELD_OUT_TEST, 1: HELD_OUT_VALID}
    facts = plan(length, held_out)
    built = build(log(*events), facts, PEOPLE)
    rows = built.tables["rows/train"].to_pylist()
    for user in "abcd":
        kept = [(t, i) for t, i in _events_of(user, events) if i not in held_out and t < facts.cutoffs.valid]
        own = [row for row in rows if row["user_id"] == user]
        assert [item for row in own for item in row["items"][row["first_target"] :]] == [item for _, item in kept]
        begins = np.cumsum([0, *(len(row["items"]) - row["first_target"] for row in own)])
        for row, begin in zip(own, begins, strict=False):
            assert 0 < len(row["items"]) <= length + 1
            assert row["as_of"] == kept[begin][0]
            before = [(time, item) for time, item in kept if time < row["as_of"]]
            context = row["items"][: row["first_target"]]
            assert context == [item for _, item in before][len(before) - len(context) :]
        if len(own) > 1 and len({time for time, _ in kept}) == len(kept):
            assert all(row["first_target"] == length // 2 for row in own[1:-1]), "context where times differ"
            assert all(left["as_of"] < right["as_of"] for left, right in pairwise(own))


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, length=st.integers(1, 9))
def test_evaluation_rows_agree_with_a_plain_loop(events: list[tuple[str, int, int, float | None]], length: int) -> None:
    held_out = {0: HELD_OUT_TEST, 1: HELD_OUT_VALID}
    facts = plan(length, held_out)
    built = build(log(*events), facts, PEOPLE)
    assert built.kept == len({event[:3] for event in events}) == len(events) - built.filtered["exact repeat"]
    for split, begin, end in (("valid", 1000, 2000), ("test", 2000, 3000)):
        expected = {}
        for user in "abcd":
            own = _events_of(user, events)
            seen = {item for time, item in own if time < begin}
            context = [item for time, item in own if time < begin and item not in held_out][-length:]
            targets = [i for t, i in own if begin <= t < end and i not in seen and (split == "test" or i != 0)]
            targets = list(dict.fromkeys(targets))
            if targets:
                expected[user] = (context + targets, len(context), sorted(seen), begin)
        rows = built.tables[f"rows/{split}"].to_pylist()
        found = {row["user_id"]: (row["items"], row["first_target"], row["seen"], row["as_of"]) for row in rows}
        assert found == expected


def test_profiles_tell_of_the_last_events_before_as_of() -> None:
    ratings = [5.0, 1.0, 5.0, 5.0, 1.0, 5.0, 5.0, 1.0]
    facts = plan(length=3)
    built = build(log(*(("b", item, 100 + item, rating) for item, rating in enumerate(ratings))), facts, PEOPLE)
    likes = np.array([LIKED if rating > 3 else DISLIKED for rating in ratings], np.int8)
    for row in built.tables["rows/train"].to_pylist():
        known = np.flatnonzero(np.arange(len(ratings)) + 100 < row["as_of"])[-3:]
        (text,) = profile_texts(known, likes[known], np.array([0, len(known)]), ["a baker"], facts.terms)
        assert row["profile"] == text


def test_no_event_gives_empty_tables() -> None:
    built = build(log(), plan(), NOBODY)
    assert [table.schema for table in built.tables.values()] == [HISTORIES, ROWS, ROWS, ROWS]
    assert not any(map(len, (*built.tables.values(), built.stats)))
    assert (built.users, built.kept) == (0, 0)


def test_a_review_tells_of_later_rows_only() -> None:
    words = ["velvet", "rusty"] + [""] * (NUM_ITEMS - 2)
    catalogue = pa.table(
        {
            "categories": pa.array([[]] * NUM_ITEMS, pa.list_(pa.string())),
            "terms": pa.array([[word] if word else [] for word in words], pa.list_(pa.string())),
            "term_weights": pa.array([[1.0] if word else [] for word in words], pa.list_(pa.float32())),
        }
    )
    facts = replace(plan(), terms=terms_of(catalogue))
    events = log(("a", 7, 2500, 5.0), ("a", 5, 100, 5.0), ("a", 6, 1500, 5.0))
    reviews = pa.array(["velvet rusty", "all velvet", "a RUSTY thing of the nowhere"])
    built = build(events.append_column("terms", review_terms(reviews, facts.terms)), facts, NOBODY)
    (train,), (valid,), (test,) = (built.tables[f"rows/{split}"].to_pylist() for split in ("train", "valid", "test"))
    told = [[word for word in ("velvet", "rusty") if word in row["profile"]] for row in (train, valid, test)]
    assert told == [[], ["velvet"], ["velvet", "rusty"]]
    assert "nowhere" not in test["profile"]
