"""Scorers that count: how often items were met, how often users and items are liked.

Letters: B rows, L positions, N items, D distinct days of a batch, R rows of the item statistics.
"""

import numpy as np

from rayrec.item_stats import DAY_MS, RECENT_DAYS, ItemStats
from rayrec.models.past import Past
from rayrec.schema import DISLIKED, LIKED, Batch, Scorer


class Popularity(Scorer):
    """How often an item was met as of a row's moment, over all days or over the last few, where all days break ties."""

    def __init__(self, stats: ItemStats, days: int | None) -> None:
        """Args:
        stats: counts by day.
        days: length of the window that ends with the day before the moment's; None for all days.
        """
        self.stats = stats
        self.days = days

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Interactions in the window, float32 [B, N], twice."""
        days_D, day_B = np.unique(batch.as_of_B // DAY_MS, return_inverse=True)
        items_N, until_D1 = np.arange(self.stats.num_items), days_D[:, None] * DAY_MS
        counts_DN = self.stats.counts_between(items_N, np.zeros_like(until_D1), until_D1).astype(np.float64)
        if self.days is not None:
            recent_DN = self.stats.counts_between(items_N, until_D1 - self.days * DAY_MS, until_D1)
            counts_DN = recent_DN + counts_DN / (counts_DN.max(axis=1, initial=0, keepdims=True) + 1)
        counts_BN = np.asarray(counts_DN[day_B], np.float32)
        return counts_BN, counts_BN


class DecayedPopularity(Scorer):
    """How often an item was met, where an interaction counts half for every `half_life` days since."""

    def __init__(self, stats: ItemStats, half_life: float) -> None:
        """Args:
        stats: counts by day.
        half_life: days.
        """
        self.stats = stats
        self.half_life = half_life
        item_R, self.day_R = np.divmod(stats.keys, stats.span)
        sum_R = np.diff(stats.counts).astype(np.float64)
        reach, longest = 1, np.bincount(item_R, minlength=1).max()
        while reach < longest:  # a sum that holds the last `reach` days of its item takes in as many before them
            same_R = item_R[reach:] == item_R[:-reach]
            days_R = np.where(same_R, self.day_R[reach:] - self.day_R[:-reach], np.inf)
            sum_R[reach:] += 0.5 ** (days_R / half_life) * sum_R[:-reach]
            reach *= 2
        self.log_sum_R = np.log2(sum_R)

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """log2 of the decayed count as of the day before the moment's, float32 [B, N], twice; least where unmet.

        A logarithm tells items apart whose last interaction lies many half-lives back.
        """
        days_D, day_B = np.unique(batch.as_of_B // DAY_MS - self.stats.first_day, return_inverse=True)
        day_D1 = np.maximum(days_D, 0)[:, None]
        first_N, end_DN = _rows_until(self.stats, day_D1)
        scores_DN = np.repeat(-day_D1 / self.half_life - 1, self.stats.num_items, axis=1)
        met_DN = end_DN > first_N
        last = end_DN[met_DN] - 1
        age = np.broadcast_to(day_D1 - 1, end_DN.shape)[met_DN] - self.day_R[last]
        scores_DN[met_DN] = self.log_sum_R[last] - age / self.half_life
        scores_BN = np.asarray(scores_DN[day_B], np.float32)
        return scores_BN, scores_BN


class LikeRates(Scorer):
    """The share of likes of a user, of an item, or both added up as log-odds; each shrunk towards the overall share."""

    def __init__(self, stats: ItemStats, overall: float, user_prior: float | None, item_prior: float | None) -> None:
        """Args:
        stats: likes by day.
        overall: share of likes among all opinions of the past.
        user_prior: opinions' worth of `overall` in a user's share; None leaves users out: all get the same answer.
        item_prior: interactions' worth of the overall share in an item's; None leaves items out: a constant ranking.
        """
        self.stats = stats
        self.overall = overall
        self.user_prior = user_prior
        self.item_prior = item_prior

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of a like, float32 [B, N], twice."""
        log_odds_BN = np.full((len(batch.as_of_B), self.stats.num_items), _log_odds(self.overall))
        if self.user_prior is not None:
            likes_BL = batch.context_only().likes_BL
            likes_B = (likes_BL == LIKED).sum(axis=1)
            opinions_B = likes_B + (likes_BL == DISLIKED).sum(axis=1)
            share_B = (likes_B + self.user_prior * self.overall) / (opinions_B + self.user_prior)
            log_odds_BN += (_log_odds(share_B) - _log_odds(self.overall))[:, None]
        if self.item_prior is not None:
            days_D, day_B = np.unique(batch.as_of_B // DAY_MS - self.stats.first_day, return_inverse=True)
            log_odds_BN += self._items(days_D[:, None], self.item_prior)[day_B]
        answer_BN = np.asarray(log_odds_BN, np.float32)
        return answer_BN, answer_BN

    def _items(self, day_D1: np.ndarray, prior: float) -> np.ndarray:
        """Log-odds relative to those of all items, as of the days before."""
        first_N, end_DN = _rows_until(self.stats, day_D1)
        count_DN = self.stats.counts[end_DN] - self.stats.counts[first_N]
        likes_DN = self.stats.likes[end_DN] - self.stats.likes[first_N]
        known_D1 = np.clip(day_D1, 0, self.stats.span - 1)
        overall_D1 = (self.stats.all_likes[known_D1] + 1) / (self.stats.all_counts[known_D1] + 2)
        rate_DN = (likes_DN + prior * overall_D1) / (count_DN + prior)
        return np.asarray(_log_odds(rate_DN) - _log_odds(overall_D1))


def _rows_until(stats: ItemStats, day_D1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each item's first row of the statistics [N], and where its rows before a day end [D, N].

    Args:
        stats: counts by day.
        day_D1: counted from the first day of the statistics.
    """
    first_N = np.arange(stats.num_items, dtype=np.int64) * stats.span
    ends = np.searchsorted(stats.keys, first_N + np.clip(day_D1, 0, stats.span - 1))
    return np.searchsorted(stats.keys, first_N), ends


def _log_odds(share: np.ndarray | float) -> np.ndarray:
    return np.asarray(np.log(share / (1 - share)))


def fit_popularity(past: Past) -> Scorer:
    """Counts over all days."""
    return Popularity(past.stats, None)


def fit_recent_popularity(past: Past) -> Scorer:
    """Counts over the last RECENT_DAYS days."""
    return Popularity(past.stats, RECENT_DAYS)


def fit_decayed_popularity(past: Past, *, half_life: float) -> Scorer:
    """Counts that halve every `half_life` days."""
    return DecayedPopularity(past.stats, half_life)


def fit_like_rates(past: Past, *, user_prior: float | None = None, item_prior: float | None = None) -> Scorer:
    """Shares of likes, of users, items or both; see LikeRates."""
    likes, opinions = (past.likes_E == LIKED).sum(), (past.likes_E >= DISLIKED).sum()
    return LikeRates(past.stats, (likes + 1) / (opinions + 2), user_prior, item_prior)
