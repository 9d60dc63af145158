"""Intervals against simulation and brute force, pairing, and the correction for many comparisons."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from rayrec import statistics
from rayrec.statistics import Sampled


def sampled_means(values_UV: np.ndarray, samples: int, seed: int) -> list[Sampled]:
    return statistics.bootstrap([statistics.mean_over(values_UV)], len(values_UV), samples, seed)[0]


def test_95_percent_intervals_of_paired_differences_cover_what_they_should() -> None:
    """Two systems of 150 users whose NDCGs hang together, 400 times over."""
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        b_U = generator.beta(0.5, 1.5, 150)
        a_U = np.where(generator.random(150) < 0.7, b_U, generator.beta(0.7, 1.3, 150))
        found = statistics.interval(a_U - b_U, 300, seed)
        covered += found.low <= 0.3 * (0.35 - 0.25) <= found.high
    assert 0.92 <= covered / 400 <= 0.975


def test_users_without_a_value_do_not_count_and_the_draw_is_seeded() -> None:
    values_U = np.array([0.0, 1.0, np.nan, 1.0] * 10)
    found = statistics.interval(values_U, 500, 7)
    assert found.mean == pytest.approx(2 / 3)
    assert 0.4 < found.low < found.mean < found.high < 0.9
    assert found == statistics.interval(values_U, 500, 7) != statistics.interval(values_U, 500, 8)
    assert sampled_means(values_U[:, None], 10, 0)[0].users == 30
    for nothing_U in (np.array([np.nan]), np.zeros(0)):
        nothing = statistics.interval(nothing_U, 10, 0)
        assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_every_sample_is_what_its_drawn_users_say(seed: int, users: int) -> None:
    """Brute force: each sample's users written out one by one, for means with gaps and for an AUC with ties."""
    generator = np.random.default_rng(seed)
    values_UV = np.where(generator.random((users, 2)) < 0.3, np.nan, generator.random((users, 2)))
    user_E = generator.integers(0, users, 40)
    labels_E, scores_E = generator.integers(0, 2, 40), generator.integers(0, 5, 40).astype(np.float32)
    parts = [statistics.mean_over(values_UV), statistics.auc_over(labels_E, scores_E, user_E)]
    (first, second), (auc,) = statistics.bootstrap(parts, users, 5, seed)
    drawn = np.random.default_rng(seed)
    for sample in range(5):
        chosen = drawn.integers(0, users, users)
        for column, found in enumerate((first, second)):
            known = values_UV[chosen, column][~np.isnan(values_UV[chosen, column])]
            expected = known.mean() if len(known) else np.nan
            assert found.samples_S[sample] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        example_E = np.concatenate([np.flatnonzero(user_E == user) for user in chosen])
        expected = np.nan
        if len(set(labels_E[example_E])) == 2:
            expected = roc_auc_score(labels_E[example_E], scores_E[example_E])
        assert auc.samples_S[sample] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert auc.users == len(np.unique(user_E))


def test_samples_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values_UV = np.random.default_rng(0).random((20, 3))
    whole = sampled_means(values_UV, 50, 0)
    monkeypatch.setattr(statistics, "_SAMPLED_VALUES", 60)
    for one, other in zip(whole, sampled_means(values_UV, 50, 0), strict=True):
        np.testing.assert_allclose(one.samples_S, other.samples_S, rtol=1e-14)


def test_a_difference_is_paired_by_user() -> None:
    generator = np.random.default_rng(1)
    b_U = generator.random(200)
    a_U = b_U + 0.01 + 0.001 * generator.standard_normal(200)
    a, b = sampled_means(np.stack([a_U, b_U], axis=1), 500, 0)
    found = statistics.estimate(statistics.difference(a, b))
    together = statistics.interval(a_U - b_U, 500, 0)
    assert (found.low, found.high) == pytest.approx((together.low, together.high), abs=1e-12)
    assert 0.009 < found.low < found.mean < found.high < 0.011
    assert statistics.estimate(a).high - statistics.estimate(a).low > 0.05


def test_an_auc_has_an_interval_over_whole_users() -> None:
    generator = np.random.default_rng(2)
    user_E = np.repeat(np.arange(30), 10)
    taste_E = np.repeat(generator.standard_normal(30), 10)
    labels_E = (generator.random(300) < 0.5).astype(int)
    found = statistics.auc_interval(labels_E, labels_E + 3 * taste_E, user_E, 300, 5)
    alone = statistics.auc_interval(labels_E, labels_E + 3 * taste_E, np.arange(300), 300, 5)
    assert found.mean == alone.mean == pytest.approx(roc_auc_score(labels_E, labels_E + 3 * taste_E))
    assert found.high - found.low != pytest.approx(alone.high - alone.low, rel=0.05)
    named = statistics.auc_interval(labels_E, labels_E + 3 * taste_E, np.array([f"u{u:02}" for u in user_E]), 300, 5)
    assert named == found


def false_wins(comparisons: int, repetitions: int, corrected: bool) -> float:
    """The share of experiments without any true difference that claim a win somewhere."""
    claimed = 0
    for seed in range(repetitions):
        generator = np.random.default_rng(repetitions + seed)
        shared_U1 = generator.standard_normal((120, 1))
        differences = sampled_means(shared_U1 * 0.5 + generator.standard_normal((120, comparisons)), 400, seed)
        wide = statistics.simultaneous(differences)
        claimed += any(
            (one.low if corrected else statistics.estimate(each).low) > 0
            for one, each in zip(wide, differences, strict=True)
        )
    return claimed / repetitions


def test_many_comparisons_claim_a_false_win_no_oftener_than_one() -> None:
    assert false_wins(20, 100, corrected=False) > 0.15
    assert false_wins(20, 200, corrected=True) <= 0.05


def test_one_comparison_is_hardly_widened_and_true_gains_are_still_found() -> None:
    generator = np.random.default_rng(3)
    values_UV = generator.standard_normal((200, 30)) + np.where(np.arange(30) < 3, 0.5, 0.0)
    many = sampled_means(values_UV, 2000, 0)
    (alone,), own = statistics.simultaneous(many[:1]), statistics.estimate(many[0])
    assert alone.high - alone.low == pytest.approx(own.high - own.low, rel=0.05)
    found = statistics.simultaneous(many)
    assert [one.low > 0 for one in found] == [True] * 3 + [False] * 27
    assert found[0].mean == many[0].mean
    assert 1.4 < (found[0].high - found[0].low) / (alone.high - alone.low) < 1.8


def test_too_few_users_claim_nothing_and_widen_nothing() -> None:
    values_UV = np.random.default_rng(4).random((40, 2)) + 1
    values_UV[29:, 1] = np.nan
    many = sampled_means(values_UV, 200, 0)
    first, second = statistics.simultaneous(many)
    assert np.isnan([second.low, second.high]).all()
    assert first == statistics.simultaneous(many[:1])[0]
    values_UV[29, 1] = 1.5
    assert statistics.simultaneous(sampled_means(values_UV, 200, 0))[1].low > 0


def test_the_same_gain_for_every_user_is_a_win_and_none_is_no_win() -> None:
    generator = np.random.default_rng(5)
    b_U = generator.random(50)
    columns = [b_U, b_U + 0.3, b_U, b_U + generator.standard_normal(50)]
    b, a, same, noisy = sampled_means(np.stack(columns, axis=1), 200, 0)
    others = [statistics.difference(a, b), statistics.difference(same, b)]
    gain, none = statistics.simultaneous(others)
    assert gain.low == pytest.approx(0.3)
    assert (none.mean, none.low, none.high) == (0, 0, 0)
    noise = [statistics.difference(noisy, b)]
    assert statistics.simultaneous(noise + others)[0] == statistics.simultaneous(noise)[0], "rounding is no spread"
