"""Bootstrap over users: intervals, paired differences, and a correction where many differences are looked at.

Users are what is drawn, for what one user did is not independent. All figures of a report are taken from the same
samples of users, so that their differences are paired. Letters: U users, S samples, V figures, E labelled examples,
J differences.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_SAMPLED_VALUES = 1 << 22
"""Weights of users held at once by the bootstrap, which bounds its memory."""
_LEAST_USERS = 30
"""Of fewer, the bootstrap's error is too small: of 20 comparisons of 20 users without any difference 7 % had a win."""
_LEVEL = 95.0
_ROUNDING = 1e-12
"""A standard error below it is no spread but rounding: every user differs by the same."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval over users; nan where there is nothing to measure."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Statistic:
    """V figures as a function of how often each user counts.

    Attributes:
        users_V: int; users that each figure is of.
        of: weights_SU -> float64 [S, V], nan where a sample holds nothing to measure.
    """

    users_V: np.ndarray
    of: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sampled:
    """A figure, its value in every bootstrap sample (nan where nothing was drawn), and how many users it is of."""

    mean: float
    samples_S: np.ndarray
    users: int


def mean_over(values_UV: np.ndarray) -> Statistic:
    """Means over users; a user whose value is nan does not count."""
    known_UV = (~np.isnan(values_UV)).astype(np.float64)
    filled_UV = np.where(known_UV == 1, values_UV, 0.0)

    def means(weights_SU: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray((weights_SU @ filled_UV) / (weights_SU @ known_UV))

    return Statistic(known_UV.sum(axis=0).astype(np.int64), means)


def auc_over(labels_E: np.ndarray, scores_E: np.ndarray, user_E: np.ndarray) -> Statistic:
    """The AUC over all examples of all users, ties counted half; one figure.

    Args:
        labels_E: 1 or 0.
        scores_E: any increasing function of the probability of 1.
        user_E: row number of each example's user.
    """
    positive_E = labels_E == 1
    order_E = np.argsort(scores_E[~positive_E], kind="stable")
    negative_scores_E, negative_user_E = scores_E[~positive_E][order_E], user_E[~positive_E][order_E]
    positive_user_E = user_E[positive_E]
    first_E, last_E = (np.searchsorted(negative_scores_E, scores_E[positive_E], side) for side in ("left", "right"))

    def aucs(weights_SU: np.ndarray) -> np.ndarray:
        found_S1 = np.full((len(weights_SU), 1), np.nan)
        for sample, weight_U in enumerate(weights_SU):
            positive_weight_E = weight_U[positive_user_E]
            below_E1 = np.concatenate([[0.0], np.cumsum(weight_U[negative_user_E])])
            pairs = positive_weight_E.sum() * below_E1[-1]
            if pairs:
                found_S1[sample] = positive_weight_E @ (below_E1[first_E] + below_E1[last_E]) / (2 * pairs)
        return found_S1

    return Statistic(np.array([len(np.unique(user_E))]), aucs)


def bootstrap(statistics: Sequence[Statistic], users: int, samples: int, seed: int) -> list[list[Sampled]]:
    """Every figure over all users and over samples of as many users, drawn with replacement; the same for all figures.

    Args:
        statistics: of the same users.
        users: how many there are.
        samples: how many to draw.
        seed: of the draw.

    Returns:
        For each statistic its figures.
    """
    whole = [statistic.of(np.ones((1, users)))[0] for statistic in statistics]
    drawn = [[statistic.of(weights_SU) for statistic in statistics] for weights_SU in _weights(users, samples, seed)]
    joined = [np.concatenate([block[place] for block in drawn]) for place in range(len(statistics))]
    return [
        [
            Sampled(float(mean), samples_S, int(of))
            for mean, samples_S, of in zip(mean_V, samples_SV.T, statistic.users_V, strict=True)
        ]
        for statistic, mean_V, samples_SV in zip(statistics, whole, joined, strict=True)
    ]


def _weights(users: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each sample holds each user: float64 [S, U], some samples at a time."""
    generator = np.random.default_rng(seed)
    rows = max(_SAMPLED_VALUES // max(users, 1), 1)
    for start in range(0, samples, rows):
        drawn = [generator.integers(0, max(users, 1), users) for _ in range(min(rows, samples - start))]
        yield np.stack([np.bincount(user_U, minlength=users) for user_U in drawn]).astype(np.float64)


def estimate(sampled: Sampled) -> Estimate:
    """The figure with its percentile interval."""
    known_S = sampled.samples_S[~np.isnan(sampled.samples_S)]
    tail = (100 - _LEVEL) / 2
    low, high = np.percentile(known_S, [tail, 100 - tail]) if len(known_S) else (np.nan, np.nan)
    return Estimate(sampled.mean, float(low), float(high))


def difference(a: Sampled, b: Sampled) -> Sampled:
    """The figure of a less that of b, paired: both must come from the same users and samples."""
    return Sampled(a.mean - b.mean, a.samples_S - b.samples_S, min(a.users, b.users))


def interval(values_U: np.ndarray, samples: int, seed: int) -> Estimate:
    """The mean over users whose value is not nan, with its interval."""
    return estimate(bootstrap([mean_over(values_U[:, None])], len(values_U), samples, seed)[0][0])


def auc_interval(labels_E: np.ndarray, scores_E: np.ndarray, user_E: np.ndarray, samples: int, seed: int) -> Estimate:
    """The AUC over all examples with its interval over whole users, named by any values."""
    users, row_E = np.unique(user_E, return_inverse=True)
    return estimate(bootstrap([auc_over(labels_E, scores_E, row_E)], len(users), samples, seed)[0][0])


def simultaneous(differences: Sequence[Sampled]) -> list[Estimate]:
    """Intervals that hold for all differences at once with 95 %: however many are looked at, a false win is that rare.

    Every interval is as many bootstrap standard errors wide as 95 % of the samples stay within in all differences at
    once, which takes into account how the differences hang together (single-step max-T; Westfall and Young,
    Resampling-Based Multiple Testing, 1993).

    Args:
        differences: one family, all from the same samples, each with a mean that is no nan.

    Returns:
        For each its interval; low and high are nan where it is of too few users to claim anything.
    """
    errors = [float(np.nanstd(one.samples_S)) if one.users >= _LEAST_USERS else np.nan for one in differences]
    furthest_S = np.zeros(1)
    for one, error in zip(differences, errors, strict=True):
        if error > _ROUNDING:
            furthest_S = np.fmax(furthest_S, np.abs(one.samples_S - one.mean) / error)
    within = float(np.percentile(furthest_S, _LEVEL))
    return [
        Estimate(one.mean, one.mean - within * error, one.mean + within * error)
        for one, error in zip(differences, errors, strict=True)
    ]
