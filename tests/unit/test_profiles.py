"""Likes, histories and profiles, by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from rayrec.profiles import INTEREST_HALF_LIFE, Categories, LikeRule, categories_of, histories, profile_texts
from rayrec.schema import CATALOGUE, DISLIKED, LIKED, UNKNOWN

NAMES = ("a", "b", "c")


def categories() -> Categories:
    rows = [
        {"item_id": str(item), "title": "t", "categories": names, "held_out": ""}
        for item, names in enumerate([["a"], ["b"], ["c"], ["a", "b"], None])
    ]
    return categories_of(pa.Table.from_pylist(rows, CATALOGUE))


def text_of(events: list[tuple[int, int]], about: str = "", **terms: int) -> str:
    items_E, likes_E = (np.array([event[part] for event in events], int) for part in (0, 1))
    (text,) = profile_texts(items_E, likes_E, np.array([0, len(events)]), [about], categories(), **terms)
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


def test_histories_are_sorted_by_user_time_and_index_and_hold_no_exact_repeat() -> None:
    rows = [("v", 1, 5), ("u", 3, 9), ("u", 2, 9), ("u", 2, 9), ("u", 2, 4), ("v", 1, 6)]
    events = pa.table(
        {
            "user_id": [row[0] for row in rows],
            "item": pa.array([row[1] for row in rows], pa.int32()),
            "timestamp": [row[2] for row in rows],
            "rating": pa.array([4, 1, 5, 5, 2, 3], pa.float32()),
            "event": pa.nulls(len(rows), pa.string()),
        }
    )
    found = histories(events, LikeRule())
    assert found.user_ids == ["u", "v"]
    assert found.offsets_U1.tolist() == [0, 3, 5]
    assert found.items_E.tolist() == [2, 2, 3, 1, 1]
    assert found.times_E.tolist() == [4, 9, 9, 5, 6]
    assert found.likes_E.tolist() == [DISLIKED, LIKED, DISLIKED, LIKED, DISLIKED]
    assert found.ratings_E.tolist() == [2, 5, 1, 4, 3]


def test_a_profile_names_interests_by_weight_and_dislikes_strongest_first() -> None:
    assert text_of([(0, LIKED), (1, LIKED), (1, UNKNOWN), (2, DISLIKED)]) == "likes b, a. dislikes c"
    assert text_of([(3, LIKED), (0, DISLIKED)], "Says This") == "likes b. dislikes a. says this"
    assert text_of([(4, LIKED)]) == ""
    assert text_of([]) == ""


def test_the_number_of_terms_is_bounded() -> None:
    liked = [(0, LIKED), (1, LIKED), (2, LIKED)]
    assert text_of(liked, liked_terms=2) == "likes c, b"
    assert text_of([(item, DISLIKED) for item, _ in liked], disliked_terms=1) == "dislikes c"


def test_an_event_counts_half_after_the_half_life() -> None:
    age = int(INTEREST_HALF_LIFE)
    between = [(4, LIKED)] * (age - 1)
    assert text_of([(0, LIKED), *between, (1, LIKED)]) == "likes b, a"
    assert text_of([(0, LIKED), (0, LIKED), (0, LIKED), *between, (1, LIKED)]) == "likes a, b"
    assert math.isclose(INTEREST_HALF_LIFE, 25.0)


def test_moments_are_told_apart() -> None:
    items_E, likes_E = np.array([0, 1, 2]), np.array([LIKED, LIKED, DISLIKED])
    texts = profile_texts(items_E, likes_E, np.array([0, 1, 1, 3]), ["", "x", ""], categories())
    assert texts == ["likes a", "x", "likes b. dislikes c"]
