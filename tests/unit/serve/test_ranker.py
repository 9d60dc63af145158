import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.profiles import profile_texts
from rayrec.schema import DISLIKED, LIKED, UNKNOWN, batch_of_rows
from rayrec.serve.ranker import BadRequestError, RequestRanker, top_k
from rayrec.serve.requests import Candidate, Event, RankRequest, RecommendRequest, User
from rayrec.terms import terms_of
from tests.unit.serve.catalogue import END_OF_LOGS, film_bundle


def rated(*events: tuple[str, int, float]) -> list[Event]:
    return [Event(item_id=item, timestamp=time, rating=rating) for item, time, rating in events]


def test_a_request_becomes_the_row_that_prepare_would_make():
    bundle = film_bundle(history_length=3)
    events = rated(("crime1", 10, 5), ("space1", 20, 5), ("love1", 30, 1), ("space2", 40, 4), ("love2", 50, 5))
    user = User(history=[events[2], events[4], events[0], events[3], events[1], events[3]], profile="A Pilot")
    contexts = RequestRanker(bundle).contexts([user], [50])
    # the events of films 0 (space1), 3 (love1) and 1 (space2): strictly before 50, the last three, the repeat dropped
    items, likes = np.array([0, 3, 1]), np.array([LIKED, DISLIKED, LIKED], np.int8)
    expected = batch_of_rows(
        pa.table(
            {
                "user_id": ["request-0"],
                "as_of": [50],
                "items": [items],
                "likes": [likes],
                "first_target": [3],
                "profile": profile_texts(items, likes, np.array([0, 3]), ["A Pilot"], terms_of(bundle.items)),
            }
        )
    )
    np.testing.assert_array_equal(contexts.batch.items_BL, expected.items_BL)
    np.testing.assert_array_equal(contexts.batch.likes_BL, expected.likes_BL)
    np.testing.assert_array_equal(contexts.batch.first_target_B, expected.first_target_B)
    np.testing.assert_array_equal(contexts.batch.as_of_B, [50])
    assert contexts.batch.profiles == expected.profiles == ("likes space, adventure. dislikes romance. a pilot",)
    assert contexts.seen[0].tolist() == [0, 1, 3, 5]


@given(st.permutations(range(6)))
def test_the_order_of_timed_events_does_not_matter(order: list[int]):
    ranker = RequestRanker(film_bundle(history_length=4))
    events = rated(*((item, 100 + place // 2, 3 + place % 3) for place, item in enumerate(ranker.item_ids)))
    [given_batch, sorted_batch] = [
        ranker.contexts([User(history=history)], [None]).batch for history in ([events[i] for i in order], events)
    ]
    np.testing.assert_array_equal(given_batch.items_BL, sorted_batch.items_BL)
    np.testing.assert_array_equal(given_batch.likes_BL, sorted_batch.likes_BL)
    assert given_batch.profiles == sorted_batch.profiles


def test_events_without_timestamps_keep_their_order_and_have_no_opinion():
    ranker = RequestRanker(film_bundle(history_length=3))
    user = User(history=[Event(item_id=item) for item in ("love2", "space1", "crime1", "space3", "love2")])
    batch = ranker.contexts([user], [None]).batch
    assert batch.items_BL.tolist() == [[5, 2, 4]]
    assert batch.likes_BL.tolist() == [[UNKNOWN] * 3]
    assert batch.as_of_B.tolist() == [END_OF_LOGS]


def test_without_a_moment_a_history_newer_than_the_logs_counts_in_full():
    ranker = RequestRanker(film_bundle())
    user = User(history=rated(("space1", END_OF_LOGS + 5_000, 5), ("love1", END_OF_LOGS + 9_000, 5)))
    batch = ranker.contexts([user], [None]).batch
    assert batch.as_of_B.tolist() == [END_OF_LOGS + 9_001]
    assert batch.items_BL.tolist() == [[0, 3]]


def test_users_of_one_batch_do_not_touch_each_other():
    ranker = RequestRanker(film_bundle())
    requests = [
        RecommendRequest(history=rated(("space1", 10, 5)), k=3),
        RecommendRequest(profile="crime and drama", k=2),
        RecommendRequest(history=rated(("love1", 10, 5), ("space2", 20, 1)), profile="comedy", k=6, as_of=900),
        RecommendRequest(history=[Event(item_id="not a film")], k=1),
    ]
    together = ranker.recommend(requests)
    assert ranker.bundle.ranker.calls == 1
    assert together == [ranker.recommend([request])[0] for request in requests]


def test_recommend_leaves_out_what_was_seen_or_excluded_and_names_what_it_does_not_know():
    ranker = RequestRanker(film_bundle(history_length=1))
    events = rated(("space1", 10, 5), ("love1", 20, 5), ("gone", 25, 5), ("space2", 30, 5))
    request = RecommendRequest(history=events, exclude=["space3", "nowhere", "gone"], k=6)
    answer = ranker.recommend([request])[0]
    assert [item.item_id for item in answer.items] == ["love2", "crime1"]
    assert answer.unknown_items == ["gone", "nowhere"]
    assert (answer.model.fingerprint, answer.model.stage) == ("ab12", "tuned")


def test_what_happens_at_or_after_the_moment_is_neither_used_nor_left_out():
    ranker = RequestRanker(film_bundle())
    later = RecommendRequest(history=rated(("love1", 10, 5), ("space1", 50, 5)), as_of=50, k=6)
    without = RecommendRequest(history=rated(("love1", 10, 5)), as_of=50, k=6)
    assert ranker.recommend([later]) == ranker.recommend([without])
    assert "space1" in [item.item_id for item in ranker.recommend([later])[0].items]


def test_recommend_scores_and_probabilities_are_the_rankers():
    ranker = RequestRanker(film_bundle())
    answer = ranker.recommend([RecommendRequest(profile="romance comedy wedding", k=2)])[0]
    assert [(item.item_id, item.title, item.score) for item in answer.items] == [
        ("love2", "Summer Wedding", 3.0),
        ("love1", "Paris Letters", 1.0),
    ]
    assert [item.like_probability for item in answer.items] == pytest.approx([1 / (1 + np.exp(-2)), 0.5])


def test_rank_orders_known_and_unseen_candidates_together():
    ranker = RequestRanker(film_bundle())
    request = RankRequest(
        user=User(profile="space drama"),
        candidates=[
            Candidate(item_id="love1"),
            Candidate(title="A Drama in Space", categories=["Space", "Drama"], text="A space drama."),
            Candidate(item_id="space3", title="Another name"),
            Candidate(item_id="new", title="Two Weddings"),
            Candidate(item_id="space2"),
        ],
    )
    answer = ranker.rank(request)
    assert [(item.candidate, item.score) for item in answer.items] == [(1, 6.0), (2, 2.0), (4, 1.0), (0, 0.0), (3, 0.0)]
    assert [item.title for item in answer.items[:2]] == ["A Drama in Space", "Rocket Fall"]
    assert [item.item_id for item in answer.items] == [None, "space3", "space2", "love1", "new"]


def test_rank_and_recommend_give_an_item_the_same_score():
    ranker = RequestRanker(film_bundle())
    history = rated(("space1", 10, 5), ("love1", 20, 2))
    recommended = ranker.recommend([RecommendRequest(history=history, profile="crime", k=6)])[0].items
    candidates = [Candidate(item_id=item.item_id) for item in recommended]
    ranked = ranker.rank(RankRequest(user=User(history=history, profile="crime"), candidates=candidates)).items
    assert [(item.item_id, item.score, item.like_probability) for item in ranked] == [
        (item.item_id, item.score, item.like_probability) for item in recommended
    ]


def test_a_candidate_without_title_that_the_bundle_does_not_know_is_refused():
    ranker = RequestRanker(film_bundle())
    request = RankRequest(
        user=User(profile="x"), candidates=[Candidate(item_id="love1"), Candidate(item_id="gone", text="words")]
    )
    with pytest.raises(BadRequestError, match="no item of that id; give its title") as error:
        ranker.rank(request)
    assert error.value.location == ("candidates", 1, "item_id")
    assert "gone" not in str(error.value)


@pytest.mark.parametrize("redact", [False, True])
def test_texts_are_redacted_before_anything_sees_them_if_those_of_the_logs_were(redact: bool):
    ranker = RequestRanker(film_bundle(redact=redact))
    user = User(history=rated(("space1", 10, 5)), profile="Write to ann@example.com")
    profiles = ranker.contexts([user, User(profile="space")], [None, None]).batch.profiles
    assert profiles == (f"likes space, adventure. write to {'[email]' if redact else 'ann@example.com'}", "space")
    candidate = Candidate(
        title="Call 212-555-0123",
        text="or ann@example.com",
        categories=["Space", "10.0.0.99"],
        attributes=["SSN 123-45-6789"],
    )
    answer = ranker.rank(
        RankRequest(user=user, candidates=[Candidate(item_id="space2"), candidate, Candidate(title="Plain")])
    )
    [encoded, plain] = ranker.bundle.ranker.encoded
    expected = "Call [phone]. space, [ip]. SSN [id]. or [email]"
    raw = "Call 212-555-0123. space, 10.0.0.99. SSN 123-45-6789. or ann@example.com"
    assert (encoded, plain) == (expected if redact else raw, "Plain")
    titles = {item.candidate: item.title for item in answer.items}
    assert titles == {0: "Moon Station", 1: "Call [phone]" if redact else "Call 212-555-0123", 2: "Plain"}


@given(st.lists(st.sampled_from([-np.inf, 0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=12), st.integers(1, 15))
def test_top_k_is_a_stable_sort_without_the_excluded(scores: list[float], k: int):
    wanted = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if scores[i] > -np.inf][:k]
    assert top_k(np.array(scores, np.float32), k).tolist() == wanted
