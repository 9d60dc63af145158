"""Ranking and classification metrics, exact, with intervals over users.

Ties count against the scorer: of candidates with equal scores, those that are not relevant come first, so a constant
scorer gets about 0. Letters: B rows of a block (one row a user), N items, R relevant pairs of row and item, E labelled
examples, U users, S bootstrap samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_SAMPLED_VALUES = 1 << 22
"""Values drawn at once by the bootstrap, which bounds its memory."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % percentile interval over users; nan where there is nothing to measure."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class SampledAuc:
    """An AUC, and the AUC of each bootstrap sample of its users; nan where a label is missing."""

    auc: float
    aucs_S: np.ndarray


def ranking_metrics(
    scores_BN: np.ndarray, relevant_BN: np.ndarray, candidates_BN: np.ndarray, k: int
) -> dict[str, np.ndarray]:
    """Metrics of each row's ranking of its candidates.

    `ndcg` has binary gains and the ideal of min(k, relevant) items, `recall` is hits over relevant items, `precision`
    hits over k, `mrr` the reciprocal rank of the first relevant item, 0 where that lies beyond k.

    Args:
        scores_BN: higher is better.
        relevant_BN: bool; relevant items that are no candidates are ignored.
        candidates_BN: bool, what is ranked: the catalogue, less the items already seen, less what a slice leaves out.
        k: cut-off of the list.

    Returns:
        float64 [B] by name; nan where a row has no relevant candidate.

    Raises:
        ValueError: a score is not finite.
    """
    row_R, rank_R = relevant_ranks(scores_BN, relevant_BN, candidates_BN)
    rows = len(scores_BN)
    relevant_B = np.bincount(row_R, minlength=rows)
    hit_R = rank_R <= k
    gain_R = np.where(hit_R, 1 / np.log2(rank_R + 1.0), 0.0)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    hits_B = np.bincount(row_R, hit_R, rows)
    first_B = np.zeros(rows)
    np.maximum.at(first_B, row_R, np.where(hit_R, 1.0 / rank_R, 0.0))
    some_B = relevant_B > 0
    with np.errstate(invalid="ignore"):
        return {
            "ndcg": np.bincount(row_R, gain_R, rows) / ideal[np.minimum(relevant_B, k)],
            "recall": hits_B / relevant_B,
            "precision": np.where(some_B, hits_B / k, np.nan),
            "mrr": np.where(some_B, first_B, np.nan),
        }


def relevant_ranks(
    scores_BN: np.ndarray, relevant_BN: np.ndarray, candidates_BN: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rank, from 1, of every relevant candidate: after all others with a score as high as its own.

    Returns:
        row_R and rank_R, by row and then by rank.

    Raises:
        ValueError: a score is not finite.
    """
    if not np.isfinite(scores_BN).all():
        row, item = np.argwhere(~np.isfinite(scores_BN))[0]
        raise ValueError(
            f"score {scores_BN[row, item]} of item {item} in row {row} of the block; expected finite scores: "
            "a scorer that diverged cannot be ranked, look at its training or its input"
        )
    row_R, item_R = np.nonzero(relevant_BN & candidates_BN)
    order_R = np.lexsort((-scores_BN[row_R, item_R], row_R))
    row_R, item_R = row_R[order_R], item_R[order_R]
    others_BN = np.sort(np.where(candidates_BN & ~relevant_BN, scores_BN, -np.inf), axis=1)
    below_R = _count_below(others_BN, row_R, scores_BN[row_R, item_R])
    place_R = np.arange(len(row_R)) - np.searchsorted(row_R, row_R)
    return row_R, others_BN.shape[1] - below_R + place_R + 1


def _count_below(sorted_BN: np.ndarray, row_R: np.ndarray, value_R: np.ndarray) -> np.ndarray:
    """How many values of a row are strictly smaller than a value: a binary search in many rows at once."""
    low_R, high_R = np.zeros(len(row_R), np.int64), np.full(len(row_R), sorted_BN.shape[1])
    while (low_R < high_R).any():
        middle_R = np.minimum((low_R + high_R) // 2, sorted_BN.shape[1] - 1)
        right_R = (sorted_BN[row_R, middle_R] < value_R) & (low_R < high_R)
        low_R, high_R = np.where(right_R, middle_R + 1, low_R), np.where(right_R, high_R, middle_R)
    return low_R


def auc(labels_E: np.ndarray, scores_E: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; nan unless both labels occur.

    Args:
        labels_E: 1 or 0.
        scores_E: any increasing function of the probability of 1.

    Raises:
        ValueError: a score is nan.
    """
    return float(group_aucs(labels_E, scores_E, np.zeros(len(labels_E), np.int64), 1)[0])


def group_aucs(labels_E: np.ndarray, scores_E: np.ndarray, group_E: np.ndarray, groups: int) -> np.ndarray:
    """The AUC within each group (a user: their mean is GAUC); float64 [groups], nan where a label is missing.

    Raises:
        ValueError: a score is nan.
    """
    _refuse_nan(scores_E)
    order_E = np.lexsort((scores_E, group_E))
    label_E, score_E, sorted_E = labels_E[order_E] == 1, scores_E[order_E], group_E[order_E]
    fresh_E = np.ones(len(order_E), bool)
    fresh_E[1:] = (np.diff(sorted_E) != 0) | (score_E[1:] != score_E[:-1])
    tie_E = np.cumsum(fresh_E) - 1
    negatives_T = np.bincount(tie_E, ~label_E)
    before_T = np.cumsum(negatives_T) - negatives_T
    positive_G = np.bincount(sorted_E, label_E, groups)
    negative_G = np.bincount(sorted_E, ~label_E, groups)
    earlier_G = np.cumsum(negative_G) - negative_G
    won_E = label_E * (before_T[tie_E] - earlier_G[sorted_E] + negatives_T[tie_E] / 2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(sorted_E, won_E, groups) / (positive_G * negative_G))


def log_losses(labels_E: np.ndarray, log_odds_E: np.ndarray) -> np.ndarray:
    """-y log p - (1 - y) log(1 - p) of each example, in nats; its mean is the log loss.

    Args:
        labels_E: 1 or 0.
        log_odds_E: log(p / (1 - p)).

    Raises:
        ValueError: a value is nan.
    """
    _refuse_nan(log_odds_E)
    log_odds_E = log_odds_E.astype(np.float64)
    return np.asarray(np.logaddexp(0.0, np.where(labels_E == 1, -log_odds_E, log_odds_E)))


def interval(values_U: np.ndarray, samples: int, seed: int) -> Estimate:
    """The mean over users with a percentile interval by bootstrap; users whose value is nan are left out."""
    known_U = values_U[~np.isnan(values_U)]
    users = len(known_U)
    if not users:
        return Estimate(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    rows = max(_SAMPLED_VALUES // users, 1)
    means_S = np.concatenate(
        [
            known_U[generator.integers(0, users, (min(rows, samples - start), users))].mean(axis=1)
            for start in range(0, samples, rows)
        ]
    )
    return _estimate(float(known_U.mean()), means_S)


def paired_difference(values_a_U: np.ndarray, values_b_U: np.ndarray, samples: int, seed: int) -> Estimate:
    """The mean of a - b over the same users, with its interval; a gain is claimed only where that excludes 0."""
    return interval(values_a_U - values_b_U, samples, seed)


def sampled_auc(labels_E: np.ndarray, scores_E: np.ndarray, user_E: np.ndarray, samples: int, seed: int) -> SampledAuc:
    """AUC over all examples, and over bootstrap samples of whole users, for a user's examples are not independent.

    Raises:
        ValueError: a score is nan.
    """
    order_E = np.argsort(scores_E, kind="stable")
    score_E, label_E = scores_E[order_E], labels_E[order_E] == 1
    users, index_E = np.unique(user_E[order_E], return_inverse=True)
    first_E = np.searchsorted(score_E, score_E[label_E], side="left")
    last_E = np.searchsorted(score_E, score_E[label_E], side="right")
    aucs_S = np.full(samples, np.nan)
    for sample, weight_U in enumerate(_user_weights(len(users), samples, seed)):
        weight_E = weight_U[index_E]
        below_E1 = np.concatenate([[0.0], np.cumsum(weight_E * ~label_E)])
        pairs = weight_E[label_E].sum() * below_E1[-1]
        if pairs:
            aucs_S[sample] = weight_E[label_E] @ (below_E1[first_E] + below_E1[last_E]) / (2 * pairs)
    return SampledAuc(auc(labels_E, scores_E), aucs_S)


def auc_interval(sampled: SampledAuc) -> Estimate:
    """The AUC with its interval over users."""
    return _estimate(sampled.auc, sampled.aucs_S)


def auc_difference(a: SampledAuc, b: SampledAuc) -> Estimate:
    """The AUC of a less that of b; both from the same examples, users and seed, so that their samples are paired."""
    return _estimate(a.auc - b.auc, a.aucs_S - b.aucs_S)


def _user_weights(users: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    for _ in range(samples if users else 0):
        yield np.bincount(generator.integers(0, users, users), minlength=users)


def _estimate(mean: float, samples_S: np.ndarray) -> Estimate:
    known_S = samples_S[~np.isnan(samples_S)]
    low, high = np.percentile(known_S, [2.5, 97.5]) if len(known_S) else (np.nan, np.nan)
    return Estimate(mean, float(low), float(high))


def _refuse_nan(scores_E: np.ndarray) -> None:
    if np.isnan(scores_E).any():
        raise ValueError(
            f"{int(np.isnan(scores_E).sum())} of {len(scores_E)} scores are nan; expected numbers: "
            "a scorer that diverged cannot be measured, look at its training or its input"
        )
