"""Metrics of rankings, of opinions, and of what is recommended at all; exact and vectorised.

Ties count against the scorer: of candidates with equal scores, those that are not relevant come first, so a constant
scorer gets about 0. Letters: B rows of a block (one row a user), N items, R relevant pairs of row and item, E labelled
examples, G groups, T ties.
"""

import numpy as np


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


def calibration_error(labels_E: np.ndarray, log_odds_E: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: how far the share of 1s lies from the mean probability, averaged over bins.

    The bins hold equal numbers of examples, but equal probabilities fall together, and weigh as much as they hold. Nan
    without examples.

    Args:
        labels_E: 1 or 0.
        log_odds_E: log(p / (1 - p)).
        bins: how many.

    Raises:
        ValueError: a value is nan.
    """
    _refuse_nan(log_odds_E)
    if not len(labels_E):
        return float("nan")
    probability_E = np.exp(-np.logaddexp(0.0, -log_odds_E.astype(np.float64)))
    edges = np.sort(probability_E)[(len(probability_E) - 1) * np.arange(1, bins) // bins]
    surplus = np.bincount(np.searchsorted(edges, probability_E), probability_E - (labels_E == 1))
    return float(np.abs(surplus).sum() / len(labels_E))


def top_k(scores_BN: np.ndarray, candidates_BN: np.ndarray, k: int) -> np.ndarray:
    """Which candidates make up each row's list of k; of equal scores the lower index, of fewer candidates all.

    Returns:
        bool [B, N].
    """
    masked_BN = np.where(candidates_BN, scores_BN, -np.inf)
    place = masked_BN.shape[1] - min(k, masked_BN.shape[1])
    least_B1 = np.partition(masked_BN, place, axis=1)[:, place : place + 1]
    above_BN, tied_BN = masked_BN > least_B1, (masked_BN == least_B1) & candidates_BN
    room_B1 = k - above_BN.sum(axis=1, keepdims=True)
    full_B = tied_BN.sum(axis=1) > room_B1[:, 0]
    tied_BN[full_B] &= np.cumsum(tied_BN[full_B], axis=1) <= room_B1[full_B]
    return np.asarray(above_BN | tied_BN)


def coverage(listed_N: np.ndarray) -> float:
    """The share of items that stand in somebody's list; nan without items.

    Args:
        listed_N: how many lists each item stands in.
    """
    return float((listed_N > 0).mean()) if len(listed_N) else float("nan")


def gini(listed_N: np.ndarray) -> float:
    """How unequally items are listed: 0 where all are equally often, near 1 where one alone is; nan without lists.

    Args:
        listed_N: how many lists each item stands in.
    """
    sorted_N, items = np.sort(listed_N).astype(np.float64), len(listed_N)
    total = sorted_N.sum()
    return float((2 * np.arange(1, items + 1) - items - 1) @ sorted_N / (items * total)) if total else float("nan")


def percentiles(values_N: np.ndarray) -> np.ndarray:
    """The share of items below each, equals counted half: float64 [N] within 0 and 1, with mean 1/2."""
    sorted_N = np.sort(values_N)
    below_N, until_N = (np.searchsorted(sorted_N, values_N, side) for side in ("left", "right"))
    return np.asarray((below_N + until_N) / (2 * len(values_N)))


def _refuse_nan(scores_E: np.ndarray) -> None:
    if np.isnan(scores_E).any():
        raise ValueError(
            f"{int(np.isnan(scores_E).sum())} of {len(scores_E)} scores are nan; expected numbers: "
            "a scorer that diverged cannot be measured, look at its training or its input"
        )
