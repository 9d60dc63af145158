"""Scorers by ridge regression: of every item on all others (EASE), or of items and users on each other (iALS).

Letters: B rows, N items, F factors.
"""

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

from rayrec.item_stats import RECENT_DAYS, ItemStats
from rayrec.models.counts import Popularity
from rayrec.models.neighbours import ItemToItem, context_weights, with_tie_break
from rayrec.models.past import Past
from rayrec.schema import Batch, Scorer

EASE_MAX_ITEMS = 10_000
"""Its time grows with the cube of the catalogue, its memory with the square: 1.6 GB at this size."""
_SEED = 0
_ITERATIONS = 15


def fit_ease(past: Past, *, half_life: float, regularisation: float) -> Scorer:
    """EASE: ridge regression of every item on all others, in closed form (Steck, WWW 2019).

    Args:
        past: what to fit on.
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
    matrix = past.positives()
    met = np.flatnonzero(np.asarray(matrix.sum(axis=0)))
    choose = sparse.eye_array(matrix.shape[1], format="csr", dtype=np.float32)[:, met]
    gram = (choose.T @ (matrix.T @ matrix) @ choose).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += regularisation
    inverse = linalg.inv(gram, assume_a="pos", overwrite_a=True) if len(met) else gram
    weights = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return ItemToItem((choose, weights, choose.T.tocsr()), past.stats, half_life)


class FoldedIn(Scorer):
    """Item factors; a row's own factors are solved from its context alone, which scores a new user too."""

    def __init__(
        self,
        model: AlternatingLeastSquares,
        stats: ItemStats,
        half_life: float,
        confidence: float,
    ) -> None:
        """Args:
        model: with the item factors.
        stats: of the recent popularity, which breaks ties.
        half_life: events after which a context item adds half of the confidence.
        confidence: what a context item's square counts beyond that of an item not met.
        """
        self.model = model
        self.recent = Popularity(stats, RECENT_DAYS)
        self.half_life = half_life
        self.confidence = confidence

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, N]: the predicted preference, 0 without a context, with the tie-break and without it."""
        factors_NF = self.model.item_factors = np.require(self.model.item_factors, requirements="W")  # the solver asks
        weights = context_weights(batch.context_only(), len(factors_NF), self.half_life)
        weights.data = 1 + self.confidence * weights.data
        with threadpool_limits(1, user_api="blas"):
            users_BF = self.model.recalculate_user(np.arange(weights.shape[0]), sparse.csr_matrix(weights))
        likeness_BN = np.asarray(users_BF @ factors_NF.T, np.float32)
        return with_tie_break(likeness_BN, self.recent, batch), likeness_BN


def fit_ials(
    past: Past,
    *,
    half_life: float,
    factors: int,
    regularisation: float,
    confidence: float,
) -> Scorer:
    """iALS: factors of users and items by alternating ridge regression on what was met and, with less weight, not met.

    Y. Hu, Y. Koren, C. Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008; computed by
    `implicit`, in one thread and from a fixed seed, so that the same past gives the same factors.

    Args:
        past: what to fit on.
        half_life: events after which a context item adds half of the confidence.
        factors: of a user and of an item.
        regularisation: of both.
        confidence: what the square of an item met counts beyond that of an item not met.
    """
    matrix = sparse.csr_matrix(past.positives())
    matrix.data[:] = 1 + confidence
    with threadpool_limits(1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=factors, regularization=regularisation, iterations=_ITERATIONS, num_threads=1, random_state=_SEED
        )
        model.fit(matrix, show_progress=False)
    return FoldedIn(model, past.stats, half_life, confidence)
