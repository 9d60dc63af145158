"""What every scorer must hold, on a checkerboard of likes: even users like even items, odd users odd ones.

A scorer joins by one line in SCORERS: a function from a Past to a Scorer. Those of BASELINES are in it with every
setting of their grid.
"""

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from ray import cloudpickle

from rayrec.item_stats import DAY_MS
from rayrec.models import behaviour
from rayrec.models.past import past
from rayrec.schema import DISLIKED, LIKED, UNKNOWN
from tests import tiny
from tests.checkerboard import AS_OF, CONTEXTS, EVEN, ITEMS, UNMET, USERS, Build, catalogue, fitted, logs, rows

SCORERS: dict[str, Build] = {
    f"{name}-{index}": partial(baseline.fit, **setting)
    for name, baseline in behaviour.BASELINES.items()
    for index, setting in enumerate(baseline.grid)
}
SCORERS["ranker"] = lambda past: tiny.moved_ranker(past.catalogue, past.stats, AS_OF)
PERSONAL = [name for name in SCORERS if name.split("-")[0] in ("item_knn", "ease", "ials", "markov", "tfidf", "bm25")]

every_scorer = pytest.mark.parametrize("build", list(SCORERS.values()), ids=list(SCORERS))
personal_scorers = pytest.mark.parametrize("build", [SCORERS[name] for name in PERSONAL], ids=PERSONAL)


@personal_scorers
def test_checkerboard_is_recovered(build: Build) -> None:
    scorer = fitted(build)
    batch = rows([EVEN, [(1, LIKED), (3, LIKED), (5, LIKED)]])
    for answer_BN in (scorer.score(batch), scorer.like(batch)):
        assert answer_BN[0, [6, 8, 10]].min() > answer_BN[0, 1:ITEMS:2].max()
        assert answer_BN[1, [7, 9, 11]].min() > answer_BN[1, 0:ITEMS:2].max()


@every_scorer
def test_shape_type_and_finite_scores(build: Build) -> None:
    scorer, batch = fitted(build), rows(CONTEXTS)
    for answer_BN in (scorer.score(batch), scorer.like(batch)):
        assert answer_BN.shape == (len(CONTEXTS), ITEMS + 1)
        assert answer_BN.dtype == np.float32
        assert np.isfinite(answer_BN).all()


@every_scorer
def test_no_context_at_all_is_scored(build: Build) -> None:
    scorer = fitted(build)
    assert np.isfinite(scorer.score(rows([[], []]))).all()


@every_scorer
def test_batch_equals_one_by_one_and_rows_permute(build: Build) -> None:
    scorer = fitted(build)
    order = [3, 0, 5, 4, 2, 1]
    for answer in (scorer.score, scorer.like):
        whole_BN = answer(rows(CONTEXTS))
        single_BN = np.concatenate([answer(rows([context])) for context in CONTEXTS])
        np.testing.assert_allclose(single_BN, whole_BN, rtol=1e-5, atol=1e-6)
        permuted_BN = answer(rows([CONTEXTS[row] for row in order]))
        np.testing.assert_allclose(permuted_BN, whole_BN[order], rtol=1e-5, atol=1e-6)


@every_scorer
def test_rows_of_several_moments_equal_one_by_one(build: Build) -> None:
    """Moments out of order, two of them on one day, one before anything was met."""
    scorer = fitted(build)
    moments = [AS_OF, AS_OF - 12 * DAY_MS, AS_OF + 1000, DAY_MS, AS_OF - 19 * DAY_MS, AS_OF + 30 * DAY_MS]
    whole_BN = scorer.score(rows(CONTEXTS, moments=moments))
    for row, (context, moment) in enumerate(zip(CONTEXTS, moments, strict=True)):
        single_BN = scorer.score(rows([context], moments=[moment]))
        np.testing.assert_allclose(single_BN[0], whole_BN[row], rtol=1e-5, atol=1e-6)


@every_scorer
def test_nothing_after_the_moment_matters(build: Build) -> None:
    batch = rows(CONTEXTS)
    before, after = fitted(build, after=False), fitted(build, after=True)
    np.testing.assert_array_equal(after.score(batch), before.score(batch))
    np.testing.assert_array_equal(after.like(batch), before.like(batch))


@every_scorer
def test_a_copy_sent_elsewhere_answers_alike(build: Build) -> None:
    """As when blocks of users are measured by other processes, to which Ray lends arrays that may not be written to."""
    scorer, batch, lent = fitted(build), rows(CONTEXTS), list[pickle.PickleBuffer]()
    sent = cloudpickle.dumps(scorer, protocol=5, buffer_callback=lent.append)
    copy = cloudpickle.loads(sent, buffers=[bytes(buffer.raw()) for buffer in lent])
    np.testing.assert_array_equal(copy.score(batch), scorer.score(batch))


@every_scorer
def test_targets_do_not_matter(build: Build) -> None:
    scorer, with_targets = fitted(build), rows(CONTEXTS, [(8, LIKED), (9, DISLIKED)])
    flipped = replace(with_targets, likes_BL=np.where(with_targets.targets_BL, UNKNOWN, with_targets.likes_BL))
    for answer in (scorer.score, scorer.like):
        expected_BN = answer(with_targets.context_only())
        np.testing.assert_array_equal(answer(with_targets), expected_BN)
        np.testing.assert_array_equal(answer(flipped), expected_BN)


def test_what_was_turned_down_is_no_positive() -> None:
    histories, stats = logs(False)
    before = past(histories, stats, catalogue(), AS_OF)
    assert len(before.items_E) - before.positives().nnz == USERS // 2


@pytest.mark.parametrize("name", ["item_knn-0", "ease-0", "ials-0", "markov-0"])
def test_an_unseen_item_says_nothing_and_has_no_likeness(name: str) -> None:
    scorer = fitted(SCORERS[name])
    like_BN = scorer.like(rows([[(UNMET, LIKED)], [], EVEN]))
    assert not like_BN[:2].any()
    assert not like_BN[:, UNMET].any()
    assert like_BN[2].any()


def test_without_context_recent_popularity_decides() -> None:
    batch = rows([[]])
    recent_BN = fitted(SCORERS["recent_popularity-0"]).score(batch)
    for name in PERSONAL:
        np.testing.assert_array_equal(np.argsort(fitted(SCORERS[name]).score(batch)), np.argsort(recent_BN))


def test_every_grid_has_six_trials_or_nothing_to_choose() -> None:
    for name, baseline in behaviour.BASELINES.items():
        assert len({tuple(setting.items()) for setting in baseline.grid}) == len(baseline.grid)
        assert len(baseline.grid) == (1 if name in ("popularity", "recent_popularity") else 6), name
