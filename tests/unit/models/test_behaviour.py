"""Known answers of each behaviour scorer; what all of them hold is in tests/contract/test_scorers.py."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from rayrec.item_stats import DAY_MS, ItemStats
from rayrec.models import counts, neighbours, regression
from rayrec.models.past import Past, past
from rayrec.schema import CATALOGUE, DISLIKED, HISTORIES, ITEM_STATS, LIKED
from tests.checkerboard import AS_OF, CONTEXTS, EVEN, ITEMS, ODD, USERS, Build, catalogue, fitted, rows


def on_days(days: dict[int, dict[int, tuple[int, int]]], users: list[dict[str, list[int]]] | None = None) -> Past:
    """A past with these statistics, item -> day -> (count, likes), and with these histories."""
    table = pa.Table.from_pylist(
        [
            {"item": item, "day": day, "count": count, "likes": likes}
            for item, by_day in days.items()
            for day, (count, likes) in by_day.items()
        ],
        ITEM_STATS,
    )
    histories = pa.Table.from_pylist([{"user_id": str(n), **user} for n, user in enumerate(users or [])], HISTORIES)
    return past(histories, ItemStats(table, ITEMS + 1), catalogue(), AS_OF)


def fitted_on(days: dict[int, dict[int, tuple[int, int]]], build: Build) -> np.ndarray:
    scores_N: np.ndarray = build(on_days(days)).score(rows([[]]))[0]
    return scores_N


def history(*items: int, first_day: float = 30, likes: list[int] | None = None) -> dict[str, list[int]]:
    times = [int((first_day + place) * DAY_MS) for place in range(len(items))]
    return {"items": list(items), "times": times, "likes": likes or [LIKED] * len(items), "ratings": [5] * len(items)}


def likeness(build: Build, context: list[tuple[int, int]], *users: dict[str, list[int]]) -> np.ndarray:
    """What the context alone says: `like` has no tie-break."""
    like_N: np.ndarray = build(on_days({0: {30: (1, 0)}}, list(users))).like(rows([context]))[0]
    return like_N


def test_like_share_is_the_smoothed_share_of_likes() -> None:
    log_odds_BN = fitted(partial(counts.fit_like_rates, user_prior=7.0)).like(rows([EVEN, ODD, []]))
    overall = (USERS * 5 + 1) / (USERS * 5 + USERS // 2 + 2)
    expected_B = np.array([(3 + 7 * overall) / (3 + 7), (3 + 7 * overall) / (4 + 7), overall])
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds_BN[:, 0])), expected_B, rtol=1e-5)
    assert (log_odds_BN == log_odds_BN[:, :1]).all()


def test_decayed_popularity_is_the_sum_of_halved_counts() -> None:
    """The last day before AS_OF is 39; among the days are long gaps, several of one item, and one that is not over."""
    days = {0: {39: (4, 0)}, 1: {36: (4, 0), 39: (2, 0), 40: (99, 0)}, 3: {29: (1, 0), 30: (6, 0), 38: (2, 0)}}
    days |= {4: {-3000: (5, 0)}, 5: {30: (3, 0), 31: (3, 0), 32: (3, 0), 33: (3, 0), 34: (3, 0)}}
    scores_N = fitted_on(days, partial(counts.fit_decayed_popularity, half_life=3.0))
    tail = sum(3 * 0.5 ** ((39 - day) / 3) for day in range(30, 35))
    expected = [4.0, 2 + 4 / 2, 6 / 8 + 2 * 0.5 ** (1 / 3) + 0.5 ** (10 / 3), 0.0, tail]
    np.testing.assert_allclose(2.0 ** scores_N[[0, 1, 3, 4, 5]], expected, rtol=1e-5, atol=1e-9)
    unmet = [2, *range(6, ITEMS + 1)]
    assert (scores_N[unmet] == scores_N[2]).all()
    assert scores_N[4] > scores_N[2], "what was met ages ago still comes before what was never met"


def test_item_like_rate_is_the_smoothed_rate_relative_to_all_items() -> None:
    """30 interactions and 20 likes before AS_OF; a past without opinions, so that the overall share is a half."""
    days = {0: {20: (10, 10), 25: (5, 0)}, 1: {25: (15, 10)}, 2: {41: (50, 50)}}
    log_odds_N = fitted_on(days, partial(counts.fit_like_rates, item_prior=4.0))
    overall = 21 / 32
    expected = np.array([(10 + 4 * overall) / 19, (10 + 4 * overall) / 19, overall])
    odds = expected / (1 - expected) / (overall / (1 - overall))
    np.testing.assert_allclose(np.exp(log_odds_N[:3]), odds, rtol=1e-5)


def test_like_rates_add_what_user_and_item_say() -> None:
    batch = rows(CONTEXTS)
    user_BN, item_BN, both_BN = (
        fitted(partial(counts.fit_like_rates, **setting)).like(batch)
        for setting in ({"user_prior": 5.0}, {"item_prior": 2.0}, {"user_prior": 5.0, "item_prior": 2.0})
    )
    nothing_BN = fitted(counts.fit_like_rates).like(batch)
    np.testing.assert_allclose(both_BN, user_BN + item_BN - nothing_BN, rtol=1e-5)
    assert np.ptp(user_BN, axis=0).min() > 0.1
    assert np.ptp(item_BN, axis=1).min() > 0.1


def test_item_knn_is_the_shrunk_cosine_of_the_nearest() -> None:
    users = [history(0, 1, 2), history(0, 1), history(0, 3), history(1, 2)]
    knn = partial(neighbours.fit_item_knn, half_life=1.0, nearest_to="context", neighbours=2, shrinkage=2.0)
    like_N = likeness(knn, [(0, LIKED)], *users)
    np.testing.assert_allclose(like_N[[1, 3]], [2 / (3 + 2), 1 / (np.sqrt(3) + 2)], rtol=1e-5)
    assert np.count_nonzero(like_N) == 2, "item 2 is farther than the two nearest"
    like_N = likeness(knn, [(3, LIKED), (7, DISLIKED), (0, LIKED)], *users)
    np.testing.assert_allclose(like_N[1], 2 / 3 * 2 / 5, rtol=1e-5)
    users = [history(4, 6), history(4, 5), history(4, 7), history(4, 7)]
    like_N = likeness(knn, [(4, LIKED)], *users)
    assert np.flatnonzero(like_N).tolist() == [5, 7], "of equally near items the first is kept"


def test_item_knn_keeps_the_nearest_of_context_items_or_of_candidates() -> None:
    """Item 0 goes with items 1 to 3, most often with 1; each of those goes with item 0 alone."""
    users = [history(0, 1), history(0, 1), history(0, 2), history(0, 3)]
    knn = partial(neighbours.fit_item_knn, half_life=1.0, neighbours=1, shrinkage=0.0)
    like_N = likeness(partial(knn, nearest_to="context"), [(0, LIKED)], *users)
    assert np.flatnonzero(like_N).tolist() == [1]
    like_N = likeness(partial(knn, nearest_to="candidate"), [(0, LIKED)], *users)
    assert np.flatnonzero(like_N).tolist() == [1, 2, 3]


def test_markov_counts_what_followed_with_gaps_and_age() -> None:
    markov = partial(neighbours.fit_markov, half_life=1.0, window=2, days=5.0)
    users = [
        history(0, 1, 2, 3, first_day=36),
        history(0, 5, 4, first_day=32, likes=[LIKED, DISLIKED, LIKED]),
    ]
    like_N = likeness(markov, [(0, LIKED)], *users)
    scale = 1 / np.sqrt(np.array([2, 1, 1, 1, 1]) + 10)
    pairs = np.array([0.5 ** (2 / 5), 0.5 ** (1 / 5) / 2, 0, 0.5 ** (5 / 5)])
    np.testing.assert_allclose(like_N[1:5], scale[0] * scale[1:] * pairs, rtol=1e-5)
    like_N = likeness(markov, [(2, LIKED)], *users)
    assert np.flatnonzero(like_N).tolist() == [3], "no pair leads back in time"


def test_bm25_is_the_share_of_the_query_that_a_text_answers() -> None:
    """Texts are `harbour 0. harbour` and the like: an item's own word is rare, the other is in every second one."""
    like_N = likeness(partial(neighbours.fit_bm25, b=0.5, half_life=1.0), [(0, LIKED)])
    idf_word, idf_own = np.log1p((ITEMS + 1 - 7 + 0.5) / 7.5), np.log1p((ITEMS + 1 - 1 + 0.5) / 1.5)
    word, idf_own = idf_word * 2 / (2 + 1.2), idf_own / (1 + 1.2)
    np.testing.assert_allclose(like_N[0], 1.0, rtol=1e-5)
    np.testing.assert_allclose(like_N[2::2], word / (word + idf_own), rtol=1e-5)
    assert not like_N[1::2].any()


def test_bm25_counts_a_word_of_a_long_text_less_as_far_as_b_says() -> None:
    titles = ["harbour", "harbour at night", "harbour at night in the rain of the north", *"abcdefghij"]
    texts = pa.Table.from_pylist([{"item_id": title, "title": title, "held_out": ""} for title in titles], CATALOGUE)
    met = replace(on_days({0: {30: (1, 0)}}), catalogue=texts)
    for b, falls in ((0.0, False), (0.5, True)):
        like_N = neighbours.fit_bm25(met, half_life=1.0, b=b).like(rows([[(0, LIKED)]]))[0]
        np.testing.assert_allclose(like_N[:1], 1.0, rtol=1e-5)
        assert (like_N[1] > like_N[2] + 0.1) == falls
        assert (like_N[0] > like_N[1] + 0.1) == falls
        assert not like_N[3:].any()


def test_what_is_met_twice_counts_once() -> None:
    twice = on_days({0: {30: (1, 0)}}, [history(0, 0, 1), history(2)])
    assert twice.positives().toarray()[:, :3].tolist() == [[1, 1, 0], [0, 0, 1]]


def test_ials_solves_a_row_from_its_context_alone() -> None:
    setting = {"half_life": 2.0, "factors": 4, "regularisation": 0.5, "confidence": 3.0}
    scorer = fitted(partial(regression.fit_ials, **setting))
    assert isinstance(scorer, regression.FoldedIn)
    items_NF = scorer.model.item_factors.astype(np.float64)
    weight_N = np.ones(ITEMS + 1)
    weight_N[[0, 2, 4]] += 3 * 0.5 ** np.array([1, 0.5, 0])
    met_N = np.isin(np.arange(ITEMS + 1), [0, 2, 4])
    user_F = np.linalg.solve(items_NF.T * weight_N @ items_NF + 0.5 * np.eye(4), items_NF.T @ (weight_N * met_N))
    np.testing.assert_allclose(scorer.like(rows([EVEN]))[0], items_NF @ user_F, rtol=1e-4, atol=1e-5)
    again = fitted(partial(regression.fit_ials, **setting))
    np.testing.assert_array_equal(again.score(rows(CONTEXTS)), scorer.score(rows(CONTEXTS)))


def test_ease_predicts_each_item_from_all_others_by_ridge_regression() -> None:
    users = [history(0, 1, 2), history(0, 1), history(0, 3), history(1, 2), history(2, 3, 4)]
    like_N = likeness(partial(regression.fit_ease, half_life=1.0, regularisation=2.0), [(1, LIKED), (0, LIKED)], *users)
    matrix = np.array([[item in user["items"] for item in range(5)] for user in users], float)
    for item in range(5):
        others = np.delete(np.arange(5), item)
        gram = matrix[:, others].T @ matrix[:, others] + 2 * np.eye(4)
        weights = np.zeros(5)
        weights[others] = np.linalg.solve(gram, matrix[:, others].T @ matrix[:, item])
        np.testing.assert_allclose(like_N[item], (weights[1] / 2 + weights[0]) / 1.5, rtol=1e-4)


def test_ease_refuses_a_large_catalogue_and_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "EASE_MAX_ITEMS", ITEMS)
    with pytest.raises(ValueError, match=f"has {ITEMS + 1} items; expected at most {ITEMS}: use ItemKNN"):
        fitted(partial(regression.fit_ease, half_life=3.0, regularisation=1.0))
