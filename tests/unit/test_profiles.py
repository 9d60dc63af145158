"""Likes, histories and profiles, by hand."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.profiles import DISLIKED_QUOTA, INTEREST_HALF_LIFE, LIKED_QUOTA, LikeRule, histories, profile_texts
from rayrec.schema import CATALOGUE, DISLIKED, LIKED, UNKNOWN
from rayrec.terms import Terms, review_terms, terms_of

ITEMS: tuple[dict[str, Any], ...] = (
    {"categories": ["a"]},
    {"categories": ["b"]},
    {"categories": ["c"]},
    {"categories": ["a", "b"]},
    {},
    {"terms": ["steel", "bolt"], "term_weights": [4.0, 2.0]},
    {"categories": ["b"], "terms": ["bolt", "nut"], "term_weights": [3.0, 1.0]},
)
"""Rarity of the words: steel 4, bolt 2, nut 1."""


def terms() -> Terms:
    rows = [{"item_id": str(item), "title": "t", "held_out": "", **row} for item, row in enumerate(ITEMS)]
    return terms_of(pa.Table.from_pylist(rows, CATALOGUE))


def text_of(events: list[tuple[int, int]], about: str = "", reviews: list[str | None] | None = None) -> str:
    items_E, likes_E = (np.array([event[part] for event in events], int) for part in (0, 1))
    said = None if reviews is None else review_terms(pa.array(reviews, pa.string()), terms())
    (text,) = profile_texts(items_E, likes_E, np.array([0, len(events)]), [about], terms(), said)
    return text


@pytest.mark.parametrize(
    ("rating", "event", "like"),
    [
        (4.0, None, LIKED),
        (3.9, None, DISLIKED),
        (None, "click", LIKED),
        (None, "skip", DISLIKED),
        (None, "view", UNKNOWN),
        (None, None, UNKNOWN),
        (1.0, "click", DISLIKED),
        (5.0, "skip", LIKED),
    ],
)
def test_a_rating_speaks_before_an_event_and_an_unknown_event_is_no_opinion(
    rating: float | None, event: str | None, like: int
) -> None:
    events = pa.table({"rating": pa.array([rating], pa.float32()), "event": pa.array([event], pa.string())})
    assert LikeRule(4.0, ("click",), ("skip",)).likes(events).tolist() == [like]


def test_without_a_threshold_ratings_are_no_opinion() -> None:
    events = pa.table({"rating": pa.array([5.0], pa.float32()), "event": pa.array(["click"])})
    assert LikeRule(None).likes(events).tolist() == [UNKNOWN]


Row = tuple[str, int, int, float | None, str | None]


def log(*rows: Row) -> pa.Table:
    kinds = (pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.string())
    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=["user_id", "item", "timestamp", "rating", "event"])


def test_histories_are_sorted_by_user_time_and_index_and_hold_no_exact_repeat() -> None:
    rows = [("v", 1, 5, 4), ("u", 3, 9, 1), ("u", 2, 9, 5), ("u", 2, 9, 5), ("u", 2, 4, 2), ("v", 1, 6, 3)]
    found = histories(log(*((*row, None) for row in rows)), LikeRule())
    assert found.user_ids == ["u", "v"]
    assert found.offsets_U1.tolist() == [0, 3, 5]
    assert found.items_E.tolist() == [2, 2, 3, 1, 1]
    assert found.times_E.tolist() == [4, 9, 9, 5, 6]
    assert found.likes_E.tolist() == [DISLIKED, LIKED, DISLIKED, LIKED, DISLIKED]
    assert found.ratings_E.tolist() == [2, 5, 1, 4, 3]
    assert found.terms is None
    assert [array.dtype for array in (found.items_E, found.times_E, found.likes_E, found.ratings_E)] == [
        np.int32,
        np.int64,
        np.int8,
        np.float32,
    ]


def test_one_users_last_moment_is_not_the_next_ones_first() -> None:
    rows: list[Row] = [(user, 0, time, None, None) for user in "dcba" for time in (7, 3)]
    found = histories(log(*rows), LikeRule())
    assert (found.user_ids, found.times_E.tolist()) == (list("abcd"), [3, 7] * 4)


def test_there_may_be_no_events() -> None:
    found = histories(log(), LikeRule())
    assert (found.user_ids, found.offsets_U1.tolist(), len(found.items_E)) == ([], [0], 0)


def test_of_exact_repeats_the_least_rating_stays_then_the_first_event_name_then_the_first_row() -> None:
    rows: list[Row] = [("u", 0, 1, None, "a"), ("u", 0, 1, 4, None), ("u", 0, 1, 4, "z"), ("u", 0, 1, 4, "b")]
    by_name = LikeRule(None, ("b",), ("z",))
    assert histories(log(*rows), by_name).likes_E.tolist() == [LIKED]
    assert histories(log(*rows), by_name).ratings_E.tolist() == [4]
    assert histories(log(*rows[1:3]), by_name).likes_E.tolist() == [DISLIKED]
    twice = log(*[("u", 0, 1, None, None)] * 2, ("u", 1, 0, None, None))
    twice = twice.append_column("terms", pa.array([[7], [8], None], pa.list_(pa.int32())))
    assert histories(twice, by_name).terms.to_pylist() == [None, [7]]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["b", "a", "B", "\xe9", "\U0001f600"]),
            st.integers(0, 2),
            st.sampled_from([-(2**62), 0, 1, 2, 2**62]),
            st.none() | st.sampled_from([1.0, 5.0]),
            st.none() | st.sampled_from(["x", "y"]),
        ),
        max_size=30,
    ),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_any_order_of_the_rows_gives_the_histories_of_a_plain_sort(rows: list[Row], data: st.DataObject) -> None:
    def key(row: Row) -> tuple[Any, ...]:
        user, item, time, rating, event = row
        return (user.encode(), time, item, math.inf if rating is None else rating, event is None, event or "")

    wanted: dict[tuple[str, int, int], Row] = {}
    for row in sorted(rows, key=key):
        wanted.setdefault((row[0], row[2], row[1]), row)
    users = list(dict.fromkeys(user for user, _, _ in wanted))
    table = log(*data.draw(st.permutations(rows)))
    table = table.append_column("terms", pa.array([[item] for item in table["item"].to_pylist()], pa.list_(pa.int32())))
    found = histories(table, LikeRule())
    assert found.user_ids == users
    assert np.repeat(users, np.diff(found.offsets_U1)).tolist() == [user for user, _, _ in wanted]
    assert found.times_E.tolist() == [time for _, time, _ in wanted]
    assert found.items_E.tolist() == [item for _, _, item in wanted]
    assert found.terms.to_pylist() == [[item] for _, _, item in wanted]
    np.testing.assert_array_equal(found.ratings_E, [math.nan if row[3] is None else row[3] for row in wanted.values()])


def test_a_profile_names_interests_by_weight_and_dislikes_strongest_first() -> None:
    assert text_of([(0, LIKED), (1, LIKED), (1, UNKNOWN), (2, DISLIKED)]) == "likes b, a. dislikes c"
    assert text_of([(3, LIKED), (0, DISLIKED)], "Says This") == "likes b. dislikes a. says this"
    assert text_of([(4, LIKED)]) == ""
    assert text_of([]) == ""
    assert text_of([], "Me") == "me"


def test_labels_come_before_words_of_equal_ones_the_first_and_the_rarest() -> None:
    assert text_of([(6, LIKED), (5, LIKED)]) == "likes b, bolt, steel, nut"
    assert text_of([(6, LIKED)]) == "likes b, bolt, nut"
    assert text_of([(3, LIKED)]) == "likes a, b"
    assert text_of([(3, DISLIKED)]) == "dislikes b, a"


def test_a_review_counts_by_rarity_with_the_sign_of_its_event() -> None:
    assert text_of([(4, LIKED)], reviews=["nut and steel"]) == "likes steel, nut"
    assert text_of([(4, DISLIKED)], reviews=["nut and steel"]) == "dislikes steel, nut"
    assert text_of([(1, LIKED), (0, LIKED)], reviews=[None, "bolt"]) == "likes a, b, bolt"
    # steel: 1 from the item, less 1 from a later review
    assert text_of([(5, LIKED), (4, DISLIKED)], reviews=[None, "steel"]) == "likes bolt. dislikes steel"
    # nut: 1 from the item and 1/4 from the review of it; bolt 1
    assert text_of([(6, LIKED)], reviews=["a nut"]) == "likes b, nut, bolt"


def test_the_number_of_terms_is_bounded_for_labels_and_words_apart() -> None:
    labels, words = [f"l{place}" for place in range(9)], [f"w{place}" for place in range(9)]
    row = {
        "categories": labels,
        "attributes": None,
        "terms": words,
        "term_weights": [float(9 - place) for place in range(9)],
    }
    catalogue = pa.Table.from_pylist([row], pa.schema([field for field in CATALOGUE if field.name in row]))
    one, bounds = np.zeros(1, int), np.array([0, 1])
    (liked,) = profile_texts(one, np.array([LIKED]), bounds, [""], terms_of(catalogue))
    assert liked == "likes " + ", ".join(labels[: LIKED_QUOTA[1]] + words[: LIKED_QUOTA[0]])
    (disliked,) = profile_texts(one, np.array([DISLIKED]), bounds, [""], terms_of(catalogue))
    assert disliked == "dislikes " + ", ".join(labels[::-1][: DISLIKED_QUOTA[1]] + words[::-1][: DISLIKED_QUOTA[0]])


def test_an_event_counts_half_after_the_half_life() -> None:
    age = int(INTEREST_HALF_LIFE)
    between = [(4, LIKED)] * (age - 1)
    assert text_of([(0, LIKED), *between, (1, LIKED)]) == "likes b, a"
    assert text_of([(0, LIKED), (0, LIKED), (0, LIKED), *between, (1, LIKED)]) == "likes a, b"
    # In reviews steel counts 1 and bolt 1/2: what was said of steel falls behind once it counts less than half.
    for age, wanted in ((24, "steel, bolt"), (26, "bolt, steel")):
        events = [(4, LIKED)] * (age + 1)
        assert text_of(events, reviews=["steel", *[None] * (age - 1), "bolt"]) == f"likes {wanted}"
    assert math.isclose(INTEREST_HALF_LIFE, 25.0)


def test_moments_are_told_apart_and_only_their_own_events_and_reviews_count() -> None:
    items_E, likes_E = np.array([0, 1, 2]), np.array([LIKED, LIKED, DISLIKED])
    said = review_terms(pa.array(["steel", None, "nut"]), terms())
    abouts = pa.array(["", "x", None, None])
    texts = profile_texts(items_E, likes_E, np.array([0, 1, 1, 1, 3]), abouts, terms(), said)
    assert texts == ["likes a, steel", "x", "", "likes b. dislikes c, nut"]


def test_many_moments_give_what_each_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items_E, likes_E = rng.integers(0, len(ITEMS), offsets[-1]), rng.integers(-1, 2, offsets[-1])
    reviews = pa.array([rng.choice([None, "steel", "nut bolt"]) for _ in items_E], pa.string())
    said = review_terms(reviews, terms())
    abouts = [f"person {row}" for row in range(40)]
    monkeypatch.setattr("rayrec.profiles._MOMENTS_AT_ONCE", 7)
    together = profile_texts(items_E, likes_E, offsets, abouts, terms(), said)
    alone = []
    for start, end, about in zip(offsets[:-1], offsets[1:], abouts, strict=True):
        span = slice(start, end)
        alone += profile_texts(items_E[span], likes_E[span], np.array([0, end - start]), [about], terms(), said[span])
    assert together == alone
    assert len(set(together)) > 20


def test_a_later_event_and_its_review_change_no_earlier_moment() -> None:
    items_E, likes_E = np.array([5, 0, 6]), np.array([LIKED, DISLIKED, LIKED])
    offsets, known = np.array([0, 1, 3]), np.array([0, 0, 1])  # as of the second event, and as of the third
    told = []
    for last in ("nut", "steel bolt"):
        said = review_terms(pa.array(["bolt", None, last]), terms())
        told.append(
            profile_texts(items_E[known], likes_E[known], offsets, ["", ""], terms(), said.take(pa.array(known)))
        )
    assert told[0] == told[1] == ["likes bolt, steel", "likes bolt, steel. dislikes a"]
