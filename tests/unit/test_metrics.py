"""Metrics against ir-measures and scikit-learn, against brute force, and on cases with a known answer."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
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
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 30))
def test_rankings_equal_ir_measures(seed: int, k: int, levels: int) -> None:
    """It ranks equal scores by falling id, so ids say that what is relevant comes last: ties against the scorer."""
    generator = np.random.default_rng(seed)
    _, relevant_BN = random_block(seed)
    scores_BN = generator.integers(-levels, levels, relevant_BN.shape).astype(np.float32)
    candidates_BN = generator.random(relevant_BN.shape) < 0.8
    judged, run = [], []
    for row, item in np.argwhere(candidates_BN):
        name = f"{'a' if relevant_BN[row, item] else 'b'}{item}"
        run.append(ir_measures.ScoredDoc(str(row), name, float(scores_BN[row, item])))
        if relevant_BN[row, item]:
            judged.append(ir_measures.Qrel(str(row), name, 1))
    names = {ir_measures.nDCG @ k: "ndcg", ir_measures.R @ k: "recall", ir_measures.P @ k: "precision"}
    found = metrics.ranking_metrics(scores_BN, relevant_BN, candidates_BN, k)
    expected = {name: np.full(len(scores_BN), np.nan) for name in found}
    for one in ir_measures.iter_calc([*names, ir_measures.RR], judged, run) if judged else ():
        if one.measure in names:
            expected[names[one.measure]][int(one.query_id)] = one.value
        else:
            expected["mrr"][int(one.query_id)] = one.value if round(1 / one.value) <= k else 0.0
    for name, values_B in found.items():
        np.testing.assert_allclose(values_B, expected[name], rtol=0, atol=1e-9, err_msg=name)


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


def test_no_examples_have_no_auc_and_no_calibration() -> None:
    empty_E = np.zeros(0)
    assert np.isnan(metrics.auc(empty_E, empty_E))
    assert np.isnan(metrics.calibration_error(empty_E, empty_E))


@pytest.mark.parametrize("measure", [metrics.auc, metrics.log_losses, metrics.calibration_error])
def test_nan_opinions_are_refused(measure: object) -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are nan"):
        measure(np.array([1, 0]), np.array([np.nan, 0.0]))  # type: ignore[operator]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 30), st.integers(1, 40))
def test_calibration_error_equals_scikit_learn(seed: int, bins: int, each: int, levels: int) -> None:
    """Its curve tells the bins' means; their sizes are counted here.

    Where a quantile is one of the examples it is at the mercy of rounding there, so their number is a multiple.
    """
    generator, examples = np.random.default_rng(seed), bins * each
    log_odds_E = generator.integers(-levels, levels + 1, examples) / 4
    labels_E = (generator.random(examples) < 0.4).astype(np.int8)
    probability_E = 1 / (1 + np.exp(-log_odds_E))
    share, mean = calibration_curve(labels_E, probability_E, n_bins=bins, strategy="quantile")
    edges = np.percentile(probability_E, np.linspace(0, 100, bins + 1)[1:-1])
    sizes = np.bincount([sum(edge < value for edge in edges) for value in probability_E], minlength=bins)
    expected = (sizes[sizes > 0] * np.abs(share - mean)).sum() / examples
    assert metrics.calibration_error(labels_E, log_odds_E, bins) == pytest.approx(expected, abs=1e-9)


def test_calibration_error_of_known_forecasts() -> None:
    labels_E, even_E = np.array([0, 1, 1, 1] * 5), np.zeros(20)
    assert metrics.calibration_error(labels_E, even_E) == pytest.approx(0.25)
    assert metrics.calibration_error(labels_E, even_E + np.log(3)) == pytest.approx(0, abs=1e-12)
    sure_E = np.array([-800.0, 800.0, 800.0, 800.0] * 5)
    assert metrics.calibration_error(labels_E, sure_E) == 0
    assert metrics.calibration_error(1 - labels_E, sure_E) == 1
    two_halves_E = np.repeat([np.log(3), -np.log(3)], 8)
    labels_E = np.array([1, 1, 0, 0] * 2 + [0, 0, 0, 1] * 2)
    assert metrics.calibration_error(labels_E, two_halves_E, 2) == pytest.approx((0.25 + 0) / 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 30))
def test_top_k_are_the_first_of_a_stable_sort(seed: int, k: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    scores_BN = generator.integers(-levels, levels, (6, 15)).astype(np.float32)
    candidates_BN = generator.random((6, 15)) < 0.6
    candidates_BN[0] = False
    found_BN = metrics.top_k(scores_BN, candidates_BN, k)
    for row in range(6):
        ranked = sorted(np.flatnonzero(candidates_BN[row]), key=lambda item: (-scores_BN[row, item], item))
        assert np.flatnonzero(found_BN[row]).tolist() == sorted(ranked[:k])


def test_coverage_and_gini_of_known_lists() -> None:
    assert metrics.coverage(np.array([3, 0, 1, 0])) == 0.5
    assert metrics.gini(np.array([2, 2, 2])) == 0
    assert metrics.gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)
    assert metrics.gini(np.array([1, 3])) == pytest.approx(1 / 4)
    assert np.isnan([metrics.gini(np.zeros(3)), metrics.gini(np.zeros(0)), metrics.coverage(np.zeros(0))]).all()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_gini_is_half_the_mean_difference_over_the_mean(listed: list[int]) -> None:
    listed_N = np.array(listed)
    expected = np.abs(listed_N[:, None] - listed_N).mean() / (2 * listed_N.mean())
    assert metrics.gini(listed_N) == pytest.approx(expected, abs=1e-9)


def test_percentiles_count_equals_half() -> None:
    np.testing.assert_allclose(metrics.percentiles(np.array([5, 0, 5, 9])), [0.5, 0.125, 0.5, 0.875])
