"""Scorers that add up how alike a candidate is to each item of a row's context: by users, by order, or by words.

Letters: B rows, L positions, N items, E events, K items of a block, V words.
"""

from typing import Any, Literal

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from rayrec.item_stats import DAY_MS, RECENT_DAYS, ItemStats
from rayrec.models.counts import Popularity
from rayrec.models.past import Past
from rayrec.schema import DISLIKED, Batch, Scorer
from rayrec.text import item_texts

NearestTo = Literal["context", "candidate"]
TIE_BREAK = 1e-4
"""Weight of recent popularity beside a likeness of at most about 1."""
BM25_K1 = 1.2
"""How far a word counts more that a text repeats."""
_BLOCK_VALUES = 1 << 23
"""Likenesses computed at once, which bounds memory."""
_WORD = r"\b\w+\b"


def context_weights(context: Batch, num_items: int, half_life: float) -> sparse.csr_array:
    """What the items of each row's context weigh: 1 for the newest, half of it `half_life` events before.

    What was turned down does not count, here as in Past.positives().

    Args:
        context: rows without targets.
        num_items: size of the catalogue.
        half_life: events.

    Returns:
        float32 [B, N]; an item met twice has the sum.
    """
    there_BL = np.arange(context.items_BL.shape[1]) < context.lengths_B[:, None]
    keep_BL = there_BL & (context.likes_BL != DISLIKED)
    age_BL = np.cumsum(keep_BL[:, ::-1], axis=1)[:, ::-1] - 1
    row_E, position_E = np.nonzero(keep_BL)
    weight_E = (0.5 ** (age_BL[row_E, position_E] / half_life)).astype(np.float32)
    cells = (row_E, context.items_BL[row_E, position_E])
    return sparse.coo_array((weight_E, cells), (len(keep_BL), num_items)).tocsr()


class ItemToItem(Scorer):
    """Recency-weighted mean, over a row's context, of each context item's likeness to the candidates.

    Where the context says nothing of an item, recent popularity decides: it is added with a tiny weight.
    """

    def __init__(self, factors: tuple[Any, ...], stats: ItemStats, half_life: float) -> None:
        """Args:
        factors: matrices, sparse or dense, whose product [N, N] holds the likeness of item (row) to candidate (column).
        stats: of the recent popularity.
        half_life: events after which a context item counts half.
        """
        self.factors = factors
        self.recent = Popularity(stats, RECENT_DAYS)
        self.half_life = half_life

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, N]: the mean likeness, 0 without a context, with the tie-break and without it."""
        weights = context_weights(batch.context_only(), self.factors[0].shape[0], self.half_life)
        likeness = sparse.diags_array(1 / np.maximum(weights.sum(axis=1), 1e-12)) @ weights
        for factor in self.factors:
            likeness = likeness @ factor
        likeness_BN = np.asarray(likeness.toarray() if sparse.issparse(likeness) else likeness, np.float32)
        return with_tie_break(likeness_BN, self.recent, batch), likeness_BN


def with_tie_break(likeness_BN: np.ndarray, recent: Popularity, batch: Batch) -> np.ndarray:
    """Adds recent popularity, scaled to TIE_BREAK; float32 [B, N]."""
    recent_BN = recent.score(batch)
    tie_break_BN = recent_BN / (1 + recent_BN.max(axis=1, initial=0, keepdims=True))
    return np.asarray(likeness_BN + TIE_BREAK * tie_break_BN, np.float32)


def fit_item_knn(past: Past, *, half_life: float, nearest_to: NearestTo, neighbours: int, shrinkage: float) -> Scorer:
    """Cosine of items' user vectors, shrunk where few users speak for it, between an item and its nearest.

    Args:
        past: what to fit on.
        half_life: events after which a context item counts half.
        nearest_to: whose neighbours are kept. Those of a context item are often the popular candidates; those of a
            candidate are as many for each, so that popularity counts less.
        neighbours: kept for each item, which bounds memory; of equally near ones the first in the catalogue.
        shrinkage: added to the product of norms.
    """
    matrix = past.positives()
    norm_N = np.sqrt(matrix.sum(axis=0))
    columns = matrix.T.tocsr()
    blocks = []
    size = max(_BLOCK_VALUES // columns.shape[0], 1)
    for start in range(0, columns.shape[0], size):
        likeness_KN = (columns[start : start + size] @ matrix).toarray()
        likeness_KN /= np.maximum(norm_N[start : start + size, None] * norm_N + shrinkage, 1e-12)
        row_K = np.arange(len(likeness_KN))
        likeness_KN[row_K, start + row_K] = 0
        blocks.append(sparse.csr_array(_nearest(likeness_KN, neighbours)))
    nearest = sparse.vstack(blocks, format="csr")
    return ItemToItem((nearest if nearest_to == "context" else nearest.T.tocsr(),), past.stats, half_life)


def _nearest(likeness_KN: np.ndarray, neighbours: int) -> np.ndarray:
    """The `neighbours` largest of each row, 0 for the others."""
    if neighbours >= likeness_KN.shape[1]:
        return likeness_KN
    least_K1 = -np.partition(-likeness_KN, neighbours - 1, axis=1)[:, neighbours - 1 : neighbours]
    nearer_KN, tied_KN = likeness_KN > least_K1, likeness_KN == least_K1
    left_K1 = neighbours - nearer_KN.sum(axis=1, keepdims=True)
    return np.where(nearer_KN | (tied_KN & (np.cumsum(tied_KN, axis=1) <= left_K1)), likeness_KN, 0)


def fit_markov(past: Past, *, half_life: float, window: int, days: float) -> Scorer:
    """What followed what: pairs of a user's events, scaled by the items' frequencies.

    A pair weighs 1/distance, for other events may lie between, and half of it for every `days` since it happened.

    Args:
        past: what to fit on.
        half_life: events after which a context item counts half.
        window: the largest distance between two events; 1 takes neighbours alone.
        days: half-life of a pair, counted back from the last event.
    """
    keep_E = past.likes_E != DISLIKED
    user_E, items_E = past.user_E[keep_E], past.items_E[keep_E]
    age_E = (past.times_E.max(initial=0) - past.times_E[keep_E]) / DAY_MS
    size = len(past.catalogue)
    follows = sparse.csr_array((size, size), dtype=np.float32)
    for distance in range(1, window + 1):
        pair = (user_E[distance:] == user_E[:-distance]) & (items_E[distance:] != items_E[:-distance])
        cells = (items_E[:-distance][pair], items_E[distance:][pair])
        weights = (0.5 ** (age_E[distance:][pair] / days) / distance).astype(np.float32)
        follows = follows + sparse.coo_array((weights, cells), (size, size)).tocsr()
    scale = sparse.diags_array(1 / np.sqrt(np.bincount(items_E, minlength=size) + 10.0))
    return ItemToItem(((scale @ follows @ scale).tocsr(),), past.stats, half_life)


def fit_tfidf(past: Past, *, half_life: float) -> Scorer:
    """Cosine of the candidate's TF-IDF vector with those of the context items.

    Args:
        past: what to fit on; only its catalogue's texts count.
        half_life: events after which a context item counts half.
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=_WORD, dtype=np.float32)
    texts = sparse.csr_array(vectorizer.fit_transform(item_texts(past.catalogue)))
    return ItemToItem((texts, texts.T.tocsr()), past.stats, half_life)


def fit_bm25(past: Past, *, half_life: float, b: float) -> Scorer:
    """BM25 of the candidate's text with each context item's words as the query, over the query's BM25 with itself.

    S. Robertson, H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009; its idf with 1 added
    inside the logarithm, so that frequent words count little rather than against.

    Args:
        past: what to fit on; only its catalogue's texts count.
        half_life: events after which a context item counts half.
        b: how far a long text's words count less, 0 to 1.
    """
    vectorizer = CountVectorizer(token_pattern=_WORD, dtype=np.float32)
    counts = sparse.csr_array(vectorizer.fit_transform(item_texts(past.catalogue)))
    row_E = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    items_V = np.bincount(counts.indices, minlength=counts.shape[1])
    idf_V = np.log1p((len(past.catalogue) - items_V + 0.5) / (items_V + 0.5))
    length_N = counts.sum(axis=1)
    soft_N = BM25_K1 * (1 - b + b * length_N / length_N.mean())
    words = counts.copy()
    words.data = (idf_V[counts.indices] * counts.data / (counts.data + soft_N[row_E])).astype(np.float32)
    counts.data[:] = 1
    query = sparse.diags_array(1 / np.maximum(words.sum(axis=1), 1e-12)) @ counts
    return ItemToItem((query.tocsr(), words.T.tocsr()), past.stats, half_life)
