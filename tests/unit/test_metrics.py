"""Metrics against scikit-learn, against brute force, and on cases with a known answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from rayrec import metrics


def every(shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, True)


def random_block(seed: int, rows: int = 6, items: int = 15) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores_BN = np.stack([generator.permutation(items) for _ in range(rows)]).astype(np.float32)
    return scores_BN, generator.random((rows, items)) < generator.uniform(0.05, 0.6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_ndcg_equals_scikit_learn_without_ties(seed: int, k: int) -> None:
    scores_BN, relevant_BN = random_block(seed)
    found_B = metrics.ranking_metrics(scores_BN, relevant_BN, every(scores_BN.shape), k)["ndcg"]
    for row in range(len(scores_BN)):
        if relevant_BN[row].any():
            expected = ndcg_score(relevant_BN[row : row + 1].astype(int), scores_BN[row : row + 1], k=k)
            assert found_B[row] == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(found_B[row])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_ties_and_candidates_equal_an_explicit_list(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    _, relevant_BN = random_block(seed)
    scores_BN = generator.integers(0, 4, relevant_BN.shape).astype(np.float32)
    candidates_BN = generator.random(relevant_BN.shape) < 0.7
    found = metrics.ranking_metrics(scores_BN, relevant_BN, candidates_BN, k)
    for row in range(len(scores_BN)):
        items = np.flatnonzero(candidates_BN[row])
        ranked = sorted(items, key=lambda item: (-scores_BN[row, item], relevant_BN[row, item]))
        hits = relevant_BN[row, ranked]
        total = hits.sum()
        if not total:
            assert all(np.isnan(values_B[row]) for values_B in found.values())
            continue
        top = hits[:k]
        discount = 1 / np.log2(np.arange(2, k + 2))
        assert found["recall"][row] == pytest.approx(top.sum() / total)
        assert found["precision"][row] == pytest.approx(top.sum() / k)
        assert found["mrr"][row] == pytest.approx(1 / (1 + np.argmax(top)) if top.any() else 0)
        ideal = discount[: min(total, k)].sum()
        assert found["ndcg"][row] == pytest.approx((top * discount[: len(top)]).sum() / ideal, abs=1e-12)


def test_constant_scorer_gets_nothing() -> None:
    relevant_BN = np.zeros((3, 100), bool)
    relevant_BN[:, [0, 1]] = True
    found = metrics.ranking_metrics(np.ones((3, 100), np.float32), relevant_BN, every((3, 100)), 10)
    assert {name: values_B.tolist() for name, values_B in found.items()} == {
        name: [0.0] * 3 for name in ("ndcg", "recall", "precision", "mrr")
    }


def test_relevant_items_outside_the_candidates_are_ignored() -> None:
    scores_BN = np.array([[3.0, 2.0, 1.0]])
    relevant_BN = np.array([[True, False, True]])
    found = metrics.ranking_metrics(scores_BN, relevant_BN, np.array([[False, True, True]]), 2)
    assert found["recall"][0] == 1.0
    assert found["mrr"][0] == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores_BN = np.array([[1.0, 2.0], [3.0, bad]])
    with pytest.raises(ValueError, match="item 1 in row 1"):
        metrics.ranking_metrics(scores_BN, every((2, 2)), every((2, 2)), 1)


labelled = st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=60)


@settings(max_examples=100, deadline=None)
@given(labelled)
def test_auc_and_log_loss_equal_scikit_learn(examples: list[tuple[bool, int]]) -> None:
    labels_E = np.array([label for label, _ in examples], np.int8)
    scores_E = np.array([score for _, score in examples], np.float32)
    probabilities_E = 1 / (1 + np.exp(-scores_E.astype(np.float64)))
    expected = log_loss(labels_E, probabilities_E, labels=[0, 1])
    assert metrics.log_losses(labels_E, scores_E).mean() == pytest.approx(expected, abs=1e-9)
    if len(set(labels_E)) == 2:
        assert metrics.auc(labels_E, scores_E) == pytest.approx(roc_auc_score(labels_E, scores_E), abs=1e-9)
    else:
        assert np.isnan(metrics.auc(labels_E, scores_E))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=60))
def test_group_aucs_are_the_auc_within_each_user(examples: list[tuple[bool, int, int]]) -> None:
    labels_E, scores_E, user_E = (np.array(column) for column in zip(*examples, strict=True))
    found_U = metrics.group_aucs(labels_E, scores_E, user_E, 5)
    expected_U = [metrics.auc(labels_E[user_E == user], scores_E[user_E == user]) for user in range(5)]
    np.testing.assert_allclose(found_U, expected_U, atol=1e-12)


def test_no_examples_have_no_auc() -> None:
    empty_E = np.zeros(0)
    assert np.isnan(metrics.auc(empty_E, empty_E))
    sampled = metrics.sampled_auc(empty_E, empty_E, empty_E, 10, 0)
    assert np.isnan([sampled.auc, metrics.auc_interval(sampled).low]).all()


@pytest.mark.parametrize("measure", [metrics.auc, metrics.log_losses])
def test_nan_opinions_are_refused(measure: object) -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are nan"):
        measure(np.array([1, 0]), np.array([np.nan, 0.0]))  # type: ignore[operator]


def test_interval_covers_the_mean_it_estimates() -> None:
    generator = np.random.default_rng(0)
    covered = sum(
        found.low <= 0.3 <= found.high
        for seed in range(200)
        for found in [metrics.interval((generator.random(80) < 0.3).astype(float), 400, seed)]
    )
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_leaves_out_unknown_users_and_is_seeded() -> None:
    values_U = np.array([0.0, 1.0, np.nan, 1.0])
    found = metrics.interval(values_U, 500, 7)
    assert found.mean == pytest.approx(2 / 3)
    assert found == metrics.interval(values_U[[0, 1, 3]], 500, 7)
    assert np.isnan(metrics.interval(np.array([np.nan]), 10, 0).mean)


def test_paired_difference_is_narrower_than_its_parts() -> None:
    generator = np.random.default_rng(1)
    b_U = generator.random(200)
    a_U = b_U + 0.01 + 0.001 * generator.standard_normal(200)
    found = metrics.paired_difference(a_U, b_U, 500, 0)
    assert 0.009 < found.low < found.mean < found.high < 0.011


def test_auc_samples_resample_whole_users_and_pair() -> None:
    generator = np.random.default_rng(2)
    user_E = np.repeat(np.arange(30), 10)
    labels_E = (generator.random(300) < 0.5).astype(int)
    good_E = labels_E + generator.standard_normal(300)
    good, noise = (
        metrics.sampled_auc(labels_E, scores_E, user_E, 300, 5) for scores_E in (good_E, generator.standard_normal(300))
    )
    assert good.auc == metrics.auc(labels_E, good_E)
    interval = metrics.auc_interval(good)
    assert interval.low < good.auc < interval.high
    assert metrics.auc_difference(good, noise).low > 0
    same = metrics.auc_difference(good, metrics.sampled_auc(labels_E, 2 * good_E, user_E, 300, 5))
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    weights_U = next(metrics._user_weights(30, 1, 5))
    repeated_E = np.repeat(np.arange(300), weights_U[user_E])
    assert good.aucs_S[0] == pytest.approx(metrics.auc(labels_E[repeated_E], good_E[repeated_E]), abs=1e-12)
