"""Scorers without a language model: baselines of evaluation, and features or stacked parts of a served model.

A scorer is fitted on what happened before a moment and scores rows as of that moment or later, from each row's context
alone. Letters: B rows, L positions, N items, E events, K items of a block, M distinct moments.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import linalg, sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from rayrec.item_stats import DAY_MS, RECENT_DAYS, ItemStats
from rayrec.models.past import Past, Positives
from rayrec.schema import DISLIKED, LIKED, Batch, Scorer
from rayrec.text import item_texts

LIKE_PRIOR = 5.0
"""Opinions' worth of the overall share of likes that a user's own share is shrunk towards."""
TIE_BREAK = 1e-4
"""Weight of recent popularity beside a likeness of at most about 1."""
EASE_MAX_ITEMS = 10_000
"""Its time grows with the cube of the catalogue, its memory with the square: 1.6 GB at this size."""
_BLOCK = 512


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
        moments_M, moment_B = np.unique(batch.as_of_B, return_inverse=True)
        items_N, until_M1 = np.arange(self.stats.num_items), moments_M[:, None]
        counts_MN = self.stats.counts_between(items_N, np.zeros_like(until_M1), until_M1).astype(np.float64)
        if self.days is not None:
            recent_MN = self.stats.counts_between(items_N, until_M1 - self.days * DAY_MS, until_M1)
            counts_MN = recent_MN + counts_MN / (counts_MN.max(initial=0) + 1)
        counts_BN = np.asarray(counts_MN[moment_B], np.float32)
        return counts_BN, counts_BN


class LikeShare(Scorer):
    """A user's own share of likes, smoothed, and with `by_item` each item's; without it the ranking is constant."""

    def __init__(self, stats: ItemStats, overall: float, by_item: bool) -> None:
        """Args:
        stats: like-rates by day.
        overall: share of likes among all opinions of the past.
        by_item: whether to add the item's log-odds relative to all items.
        """
        self.stats = stats
        self.overall = overall
        self.by_item = by_item

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of a like, float32 [B, N], twice."""
        context = batch.context_only()
        likes_B = (context.likes_BL == LIKED).sum(axis=1)
        opinions_B = likes_B + (context.likes_BL == DISLIKED).sum(axis=1)
        share_B = (likes_B + LIKE_PRIOR * self.overall) / (opinions_B + LIKE_PRIOR)
        log_odds_BN = np.repeat(np.log(share_B / (1 - share_B))[:, None], self.stats.num_items, axis=1)
        if self.by_item:
            moments_M, moment_B = np.unique(batch.as_of_B, return_inverse=True)
            features_MNF = self.stats.features(np.arange(self.stats.num_items), moments_M[:, None])
            log_odds_BN += features_MNF[moment_B, :, -1]
        answer_BN = np.asarray(log_odds_BN, np.float32)
        return answer_BN, answer_BN


class ItemToItem(Scorer):
    """Recency-weighted mean, over a row's context, of each context item's likeness to the candidates.

    Where the context says nothing of an item, recent popularity decides: it is added with a tiny weight.
    """

    def __init__(self, factors: tuple[Any, ...], stats: ItemStats, positives: Positives, half_life: float) -> None:
        """Args:
        factors: matrices, sparse or dense, whose product [N, N] holds the likeness of item (row) to candidate (column).
        stats: of the recent popularity.
        positives: which context items count.
        half_life: events after which a context item counts half.
        """
        self.factors = factors
        self.recent = Popularity(stats, RECENT_DAYS)
        self.positives = positives
        self.half_life = half_life

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, N]: the mean likeness, 0 without a context, with the tie-break and without it."""
        likeness = self._context(batch.context_only())
        for factor in self.factors:
            likeness = likeness @ factor
        likeness_BN = np.asarray(likeness.toarray() if sparse.issparse(likeness) else likeness, np.float32)
        recent_BN = self.recent.score(batch)
        tie_break_BN = recent_BN / (1 + recent_BN.max(axis=1, initial=0, keepdims=True))
        return np.asarray(likeness_BN + TIE_BREAK * tie_break_BN, np.float32), likeness_BN

    def _context(self, context: Batch) -> sparse.csr_array:
        keep_BL = np.arange(context.items_BL.shape[1]) < context.lengths_B[:, None]
        if self.positives == "likes":
            keep_BL &= context.likes_BL != DISLIKED
        age_BL = np.cumsum(keep_BL[:, ::-1], axis=1)[:, ::-1] - 1
        weight_BL = np.where(keep_BL, 0.5 ** (age_BL / self.half_life), 0.0)
        weight_BL /= np.maximum(weight_BL.sum(axis=1, keepdims=True), 1e-12)
        row_E, position_E = np.nonzero(keep_BL)
        cells = (row_E, context.items_BL[row_E, position_E])
        shape = (len(keep_BL), self.factors[0].shape[0])
        return sparse.coo_array((weight_BL[row_E, position_E].astype(np.float32), cells), shape).tocsr()


def fit_popularity(past: Past) -> Scorer:
    """Counts over all days."""
    return Popularity(past.stats, None)


def fit_recent_popularity(past: Past) -> Scorer:
    """Counts over the last RECENT_DAYS days."""
    return Popularity(past.stats, RECENT_DAYS)


def fit_like_share(past: Past, *, by_item: bool) -> Scorer:
    """The user's share of likes, with or without the item's."""
    likes, opinions = (past.likes_E == LIKED).sum(), (past.likes_E >= DISLIKED).sum()
    return LikeShare(past.stats, (likes + 1) / (opinions + 2), by_item)


def fit_item_knn(
    past: Past, *, positives: Positives, half_life: float, neighbours: int, shrinkage: float = 20.0
) -> Scorer:
    """Cosine of items' user vectors, shrunk where few users speak for it; the nearest `neighbours` of each item.

    Args:
        past: what to fit on.
        positives: which interactions count, here and in a row's context.
        half_life: events after which a context item counts half.
        neighbours: kept for each item, which bounds memory.
        shrinkage: added to the product of norms.
    """
    matrix = past.interactions(positives)
    norm_N = np.sqrt(matrix.sum(axis=0))
    columns = matrix.T.tocsr()
    blocks = []
    for start in range(0, columns.shape[0], _BLOCK):
        likeness_KN = (columns[start : start + _BLOCK] @ matrix).toarray()
        likeness_KN /= norm_N[start : start + _BLOCK, None] * norm_N + shrinkage
        row_K = np.arange(len(likeness_KN))
        likeness_KN[row_K, start + row_K] = 0
        if neighbours < likeness_KN.shape[1]:
            least_K1 = -np.partition(-likeness_KN, neighbours - 1, axis=1)[:, neighbours - 1 : neighbours]
            likeness_KN[likeness_KN < least_K1] = 0
        blocks.append(sparse.csr_array(likeness_KN))
    return ItemToItem((sparse.vstack(blocks, format="csr"),), past.stats, positives, half_life)


def fit_ease(past: Past, *, positives: Positives, half_life: float, regularisation: float) -> Scorer:
    """EASE: ridge regression of every item on all others, in closed form (Steck, WWW 2019).

    Args:
        past: what to fit on.
        positives: which interactions count, here and in a row's context.
        half_life: events after which a context item counts half.
        regularisation: added to the diagonal of the Gram matrix.

    Raises:
        ValueError: the catalogue is larger than EASE_MAX_ITEMS.
    """
    if len(past.catalogue) > EASE_MAX_ITEMS:
        raise ValueError(
            f"EASE inverts a matrix as wide as the catalogue, which has {len(past.catalogue)} items; "
            f"expected at most {EASE_MAX_ITEMS}: use ItemKNN for a catalogue of this size"
        )
    matrix = past.interactions(positives)
    met = np.flatnonzero(np.asarray(matrix.sum(axis=0)))
    choose = sparse.eye_array(matrix.shape[1], format="csr", dtype=np.float32)[:, met]
    gram = (choose.T @ (matrix.T @ matrix) @ choose).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = linalg.inv(gram, assume_a="pos", overwrite_a=True) if len(met) else gram
    weights = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return ItemToItem((choose, weights, choose.T.tocsr()), past.stats, positives, half_life)


def fit_markov(past: Past, *, positives: Positives, half_life: float, window: int = 3) -> Scorer:
    """What followed what: pairs of a user's events, 1/distance each, scaled by the items' frequencies.

    Args:
        past: what to fit on.
        positives: which interactions count, here and in a row's context.
        half_life: events after which a context item counts half.
        window: the largest distance between two events.
    """
    keep_E = past.counted(positives)
    user_E, items_E = past.user_E[keep_E], past.items_E[keep_E]
    size = len(past.catalogue)
    follows = sparse.csr_array((size, size), dtype=np.float32)
    for distance in range(1, window + 1):
        pair = (user_E[distance:] == user_E[:-distance]) & (items_E[distance:] != items_E[:-distance])
        cells = (items_E[:-distance][pair], items_E[distance:][pair])
        follows = follows + sparse.coo_array((np.full(pair.sum(), 1 / distance), cells), (size, size)).tocsr()
    scale_N = 1 / np.sqrt(np.bincount(items_E, minlength=size) + 10.0)
    scale = sparse.diags_array(scale_N)
    return ItemToItem(((scale @ follows @ scale).tocsr(),), past.stats, positives, half_life)


def fit_tfidf(past: Past, *, positives: Positives, half_life: float) -> Scorer:
    """Cosine of the candidate's TF-IDF vector with those of the context items.

    Args:
        past: what to fit on; only its catalogue's texts count.
        positives: which context items count.
        half_life: events after which a context item counts half.
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\b\w+\b", dtype=np.float32)
    texts = sparse.csr_array(vectorizer.fit_transform(item_texts(past.catalogue)))
    return ItemToItem((texts, texts.T.tocsr()), past.stats, positives, half_life)


def _grid(**values: tuple[Any, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))


@dataclass(frozen=True)
class Baseline:
    """How to fit a scorer, and the settings to choose from on validation: six where there is a choice."""

    fit: Callable[..., Scorer]
    grid: tuple[Mapping[str, Any], ...] = ({},)
    log_odds: bool = False
    max_items: int | None = None


_BOTH: tuple[Positives, ...] = ("all", "likes")
BASELINES = {
    "popularity": Baseline(fit_popularity),
    "recent_popularity": Baseline(fit_recent_popularity),
    "like_share": Baseline(fit_like_share, _grid(by_item=(False,)), log_odds=True),
    "like_rates": Baseline(fit_like_share, _grid(by_item=(True,)), log_odds=True),
    "item_knn": Baseline(fit_item_knn, _grid(positives=_BOTH, half_life=(15.0,), neighbours=(20, 50, 200))),
    "ease": Baseline(
        fit_ease,
        _grid(positives=_BOTH, half_life=(15.0,), regularisation=(100.0, 500.0, 2000.0)),
        max_items=EASE_MAX_ITEMS,
    ),
    "markov": Baseline(fit_markov, _grid(positives=_BOTH, half_life=(1.0, 3.0, 15.0))),
    "tfidf": Baseline(fit_tfidf, _grid(positives=_BOTH, half_life=(3.0, 15.0, 1000.0))),
}
