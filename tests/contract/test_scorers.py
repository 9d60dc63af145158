"""What every scorer must hold, on a checkerboard of likes: even users like even items, odd users odd ones.

A scorer joins by one line in SCORERS: a function from a Past to a Scorer.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from rayrec.item_stats import DAY_MS, ItemStats
from rayrec.models import behaviour
from rayrec.models.past import Past, past
from rayrec.schema import (
    CATALOGUE,
    DISLIKED,
    HISTORIES,
    ITEM_STATS,
    LIKED,
    ROWS,
    UNKNOWN,
    Batch,
    Scorer,
    batch_of_rows,
)
from tests import tiny

ITEMS, USERS = 12, 48
AS_OF = 40 * DAY_MS
Build = Callable[[Past], Scorer]

SCORERS: dict[str, Build] = {
    f"{name}-{index}": partial(baseline.fit, **setting)
    for name, baseline in behaviour.BASELINES.items()
    for index, setting in enumerate(baseline.grid)
}
SCORERS["ranker"] = lambda past: tiny.moved_ranker(past.catalogue, past.stats, AS_OF)
PERSONAL = [name for name in SCORERS if name.split("-")[0] in ("item_knn", "ease", "markov", "tfidf")]

every_scorer = pytest.mark.parametrize("build", list(SCORERS.values()), ids=list(SCORERS))
personal_scorers = pytest.mark.parametrize("build", [SCORERS[name] for name in PERSONAL], ids=PERSONAL)


def catalogue() -> pa.Table:
    words = ["harbour", "mountain"]
    rows = [
        {"item_id": str(item), "title": f"{words[item % 2]} {item}", "categories": [words[item % 2]], "held_out": ""}
        for item in range(ITEMS + 1)
    ]
    return pa.Table.from_pylist(rows, CATALOGUE)


def logs(after: bool) -> tuple[pa.Table, ItemStats]:
    """Histories and statistics of the checkerboard; with `after`, events from AS_OF on that turn it upside down."""
    users = []
    for user in range(USERS):
        own = [item for item in range(ITEMS) if item % 2 == user % 2 and item // 2 != user // 2 % (ITEMS // 2)]
        turn, side = user // 2 % len(own), user // 2 // len(own) % 2
        met = [(item, LIKED) for item in (own[turn:] + own[:turn])[:: 1 - 2 * side]]
        if user % 4 > 1:
            met.insert(2, ((user + 1) % ITEMS, DISLIKED))
        events = [(item, (20 + place) * DAY_MS + user, like) for place, (item, like) in enumerate(met)]
        if after:
            wrong = [item for item in range(ITEMS + 1) if item % 2 != user % 2]
            events += [(item, AS_OF + place * DAY_MS // 4, LIKED) for place, item in enumerate(wrong)]
        users.append((str(user), events))
    histories = pa.Table.from_pylist(
        [
            {
                "user_id": user,
                "items": [item for item, _, _ in events],
                "times": [time for _, time, _ in events],
                "likes": [like for _, _, like in events],
                "ratings": [5.0 if like == LIKED else 1.0 for _, _, like in events],
            }
            for user, events in users
        ],
        HISTORIES,
    )
    daily: dict[tuple[int, int], list[int]] = {}
    for _, events in users:
        for item, time, like in events:
            count = daily.setdefault((item, time // DAY_MS), [0, 0])
            count[0] += 1
            count[1] += like == LIKED
    table = pa.Table.from_pylist(
        [{"item": item, "day": day, "count": n, "likes": likes} for (item, day), (n, likes) in daily.items()],
        ITEM_STATS,
    )
    return histories, ItemStats(table, ITEMS + 1)


def fitted(build: Build, after: bool = False) -> Scorer:
    histories, stats = logs(after)
    return build(past(histories, stats, catalogue(), AS_OF))


def rows(contexts: list[list[tuple[int, int]]], targets: list[tuple[int, int]]) -> Batch:
    table = pa.Table.from_pylist(
        [
            {
                "user_id": f"row {index}",
                "as_of": AS_OF,
                "items": [item for item, _ in context + targets],
                "likes": [like for _, like in context + targets],
                "first_target": len(context),
                "profile": "",
                "seen": [item for item, _ in context],
            }
            for index, context in enumerate(contexts)
        ],
        ROWS,
    )
    return batch_of_rows(table)


EVEN, ODD = [(0, LIKED), (2, LIKED), (4, LIKED)], [(1, LIKED), (3, LIKED), (6, DISLIKED), (5, LIKED)]
CONTEXTS = [EVEN, ODD, [], [(3, UNKNOWN)], [(7, DISLIKED)]]


@personal_scorers
def test_checkerboard_is_recovered(build: Build) -> None:
    scorer = fitted(build)
    batch = rows([EVEN, [(1, LIKED), (3, LIKED), (5, LIKED)]], [])
    for answer_BN in (scorer.score(batch), scorer.like(batch)):
        assert answer_BN[0, [6, 8, 10]].min() > answer_BN[0, 1:ITEMS:2].max()
        assert answer_BN[1, [7, 9, 11]].min() > answer_BN[1, 0:ITEMS:2].max()


@every_scorer
def test_shape_type_and_finite_scores(build: Build) -> None:
    """Among the rows is a user without a context and one with a dislike alone, among the items one that nobody met."""
    scorer, batch = fitted(build), rows(CONTEXTS, [])
    for answer_BN in (scorer.score(batch), scorer.like(batch)):
        assert answer_BN.shape == (len(CONTEXTS), ITEMS + 1)
        assert answer_BN.dtype == np.float32
        assert np.isfinite(answer_BN).all()


@every_scorer
def test_no_context_at_all_is_scored(build: Build) -> None:
    scorer = fitted(build)
    assert np.isfinite(scorer.score(rows([[], []], []))).all()


@every_scorer
def test_batch_equals_one_by_one_and_rows_permute(build: Build) -> None:
    scorer = fitted(build)
    order = [3, 0, 4, 2, 1]
    for answer in (scorer.score, scorer.like):
        whole_BN = answer(rows(CONTEXTS, []))
        single_BN = np.concatenate([answer(rows([context], [])) for context in CONTEXTS])
        np.testing.assert_allclose(single_BN, whole_BN, rtol=1e-5, atol=1e-6)
        permuted_BN = answer(rows([CONTEXTS[row] for row in order], []))
        np.testing.assert_allclose(permuted_BN, whole_BN[order], rtol=1e-5, atol=1e-6)


@every_scorer
def test_nothing_after_the_moment_matters(build: Build) -> None:
    batch = rows(CONTEXTS, [])
    before, after = fitted(build, after=False), fitted(build, after=True)
    np.testing.assert_array_equal(after.score(batch), before.score(batch))
    np.testing.assert_array_equal(after.like(batch), before.like(batch))


@every_scorer
def test_targets_do_not_matter(build: Build) -> None:
    scorer, with_targets = fitted(build), rows(CONTEXTS, [(8, LIKED), (9, DISLIKED)])
    flipped = replace(with_targets, likes_BL=np.where(with_targets.targets_BL, UNKNOWN, with_targets.likes_BL))
    for answer in (scorer.score, scorer.like):
        expected_BN = answer(with_targets.context_only())
        np.testing.assert_array_equal(answer(with_targets), expected_BN)
        np.testing.assert_array_equal(answer(flipped), expected_BN)


def test_what_was_turned_down_is_no_positive_among_likes() -> None:
    histories, stats = logs(False)
    before = past(histories, stats, catalogue(), AS_OF)
    assert before.interactions("all").nnz - before.interactions("likes").nnz == USERS // 2


def test_without_context_recent_popularity_decides() -> None:
    batch = rows([[]], [])
    recent_BN = fitted(SCORERS["recent_popularity-0"]).score(batch)
    for name in PERSONAL:
        np.testing.assert_array_equal(np.argsort(fitted(SCORERS[name]).score(batch)), np.argsort(recent_BN))


def test_like_share_is_the_smoothed_share_of_likes() -> None:
    log_odds_BN = fitted(SCORERS["like_share-0"]).like(rows([EVEN, ODD, []], []))
    overall = (USERS * 5 + 1) / (USERS * 5 + USERS // 2 + 2)
    prior = behaviour.LIKE_PRIOR
    expected_B = np.array([(3 + prior * overall) / (3 + prior), (3 + prior * overall) / (4 + prior), overall])
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds_BN[:, 0])), expected_B, rtol=1e-5)
    assert (log_odds_BN == log_odds_BN[:, :1]).all()


def test_ease_refuses_a_large_catalogue_and_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "EASE_MAX_ITEMS", ITEMS)
    with pytest.raises(ValueError, match=f"has {ITEMS + 1} items; expected at most {ITEMS}: use ItemKNN"):
        fitted(SCORERS["ease-0"])
