"""What a scorer without a language model is fitted on: the events before a moment.

Letters: E events, U users, N items.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from rayrec.item_stats import ItemStats
from rayrec.schema import DISLIKED


@dataclass(frozen=True)
class Past:
    """What a scorer may be fitted on.

    Attributes:
        user_E: int64, row number of the user, ascending; each user's events are in time order.
        items_E: int64 dense indices.
        times_E: int64, ms.
        likes_E: int8.
        num_users: U.
        stats: item statistics; looked up as of a row's moment.
        catalogue: items in dense-index order.
    """

    user_E: np.ndarray
    items_E: np.ndarray
    times_E: np.ndarray
    likes_E: np.ndarray
    num_users: int
    stats: ItemStats
    catalogue: pa.Table

    def positives(self) -> sparse.csr_array:
        """The 0/1 matrix [U, N] of who met what and did not turn it down, repeats counted once."""
        keep_E = self.likes_E != DISLIKED
        cells = (self.user_E[keep_E], self.items_E[keep_E])
        matrix = sparse.coo_array((np.ones(keep_E.sum(), np.float32), cells), (self.num_users, len(self.catalogue)))
        matrix = matrix.tocsr()
        matrix.data[:] = 1
        return matrix


def past(histories: pa.Table, stats: ItemStats, catalogue: pa.Table, before_ms: int) -> Past:
    """The events of a HISTORIES table strictly before a moment."""
    lists = histories["items"].combine_chunks()
    user_E = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy(zero_copy_only=False))
    items_E, times_E, likes_E = (pc.list_flatten(histories[name]).to_numpy() for name in ("items", "times", "likes"))
    keep_E = times_E < before_ms
    items_E = items_E.astype(np.int64)
    return Past(user_E[keep_E], items_E[keep_E], times_E[keep_E], likes_E[keep_E], len(lists), stats, catalogue)
