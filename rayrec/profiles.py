"""A user's history, interests and profile as of a moment, never after it; prepare and serve call the same functions.

Many histories are held flat: E events of U users one after the other, user u's at offsets_U1[u] to offsets_U1[u + 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from rayrec.schema import DISLIKED, LIKED, UNKNOWN
from rayrec.text import profile_text

INTEREST_HALF_LIFE = 25.0
"""Events after which an interaction counts half in the interest dictionary."""


@dataclass(frozen=True)
class LikeRule:
    """What counts as a like: a rating of at least `like_threshold`, or an event's name; anything else is no opinion."""

    like_threshold: float | None = 4.0
    liked_events: tuple[str, ...] = ()
    disliked_events: tuple[str, ...] = ()

    def likes(self, events: pa.Table) -> np.ndarray:
        """int8 LIKED, DISLIKED or UNKNOWN for each row; a rating speaks before an event.

        Args:
            events: columns `rating` and `event`, both may be null.
        """
        likes = np.full(len(events), UNKNOWN, np.int8)
        names = events["event"].combine_chunks()
        for value, wanted in ((LIKED, self.liked_events), (DISLIKED, self.disliked_events)):
            likes[pc.is_in(names, pa.array(wanted, pa.string())).to_numpy(zero_copy_only=False)] = value
        if self.like_threshold is not None:
            ratings = events["rating"].to_numpy().astype(np.float64)
            rated = ~np.isnan(ratings)
            likes[rated] = np.where(ratings[rated] >= self.like_threshold, LIKED, DISLIKED)
        return likes


@dataclass(frozen=True)
class Histories:
    """Flat histories in time order, with no exact repeat.

    Attributes:
        user_ids: U strings.
        offsets_U1: int64.
        items_E: int32 dense item indices.
        times_E: int64 ms.
        likes_E: int8.
        ratings_E: float32, nan where there is none.
    """

    user_ids: list[str]
    offsets_U1: np.ndarray
    items_E: np.ndarray
    times_E: np.ndarray
    likes_E: np.ndarray
    ratings_E: np.ndarray


def histories(events: pa.Table, rule: LikeRule) -> Histories:
    """Groups events by user, sorts each user's by time; equal times go by dense index, which is seeded-random.

    Args:
        events: user_id, item (int32 dense index), timestamp (ms), rating, event; any order, whole users.
        rule: what counts as a like.
    """
    events = events.append_column("like", pa.array(rule.likes(events)))
    # Rating and event decide which of exact repeats stays, so that the order of the input does not.
    by = ("user_id", "timestamp", "item", "rating", "event")
    events = events.sort_by([(name, "ascending") for name in by])
    users = events["user_id"].combine_chunks().dictionary_encode()
    user_E = users.indices.to_numpy(zero_copy_only=False)
    item_E, time_E = events["item"].to_numpy(), events["timestamp"].to_numpy()
    fresh_E = np.ones(len(events), bool)
    fresh_E[1:] = (np.diff(user_E) != 0) | (np.diff(item_E) != 0) | (np.diff(time_E) != 0)
    user_E = user_E[fresh_E]
    return Histories(
        user_ids=users.dictionary.to_pylist(),
        offsets_U1=np.searchsorted(user_E, np.arange(len(users.dictionary) + 1)),
        items_E=item_E[fresh_E].astype(np.int32),
        times_E=time_E[fresh_E].astype(np.int64),
        likes_E=events["like"].to_numpy()[fresh_E].astype(np.int8),
        ratings_E=events["rating"].to_numpy()[fresh_E].astype(np.float32),
    )


@dataclass(frozen=True)
class Categories:
    """The categories of each item of a catalogue: a sparse 0/1 matrix items x names."""

    names: list[str]
    matrix: sparse.csr_matrix


def categories_of(catalogue: pa.Table) -> Categories:
    """Reads the `categories` column of a catalogue in dense-index order."""
    lists = catalogue["categories"].combine_chunks().fill_null(pa.scalar([], pa.list_(pa.string())))
    encoded = lists.flatten().dictionary_encode()
    counts = lists.value_lengths().to_numpy(zero_copy_only=False)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    names = encoded.dictionary.to_pylist()
    matrix = sparse.csr_matrix((np.ones(len(indices)), indices, indptr), shape=(len(lists), max(len(names), 1)))
    return Categories(names, matrix)


def profile_texts(
    items_E: np.ndarray,
    likes_E: np.ndarray,
    offsets_R1: np.ndarray,
    user_texts: Sequence[str],
    categories: Categories,
    liked_terms: int = 4,
    disliked_terms: int = 2,
) -> list[str]:
    """The profile text of R moments, each from the events strictly before it.

    A category's weight is the recency-weighted sum of likes (an interaction without an opinion counts as one) less
    dislikes among the events given; positive weights are interests, negative ones are dislikes.

    Args:
        items_E: dense indices of the events before each moment, flat, in time order.
        likes_E: their likes.
        offsets_R1: where each moment's events begin and end.
        user_texts: R free texts ("" where there is none).
        categories: of the catalogue.
        liked_terms: interests at most.
        disliked_terms: dislikes at most.
    """
    lengths_R = np.diff(offsets_R1)
    age_E = np.repeat(offsets_R1[1:], lengths_R) - 1 - np.arange(len(items_E))
    weight_E = 0.5 ** (age_E / INTEREST_HALF_LIFE) * np.where(likes_E == DISLIKED, -1.0, 1.0)
    events = sparse.csr_matrix((weight_E, items_E, offsets_R1), shape=(len(lengths_R), categories.matrix.shape[0]))
    interests = (events @ categories.matrix).tocsr()
    interests.sort_indices()
    texts = []
    for row, user_text in enumerate(user_texts):
        span = slice(interests.indptr[row], interests.indptr[row + 1])
        weights = np.round(interests.data[span], 6)
        order = np.argsort(-weights, kind="stable")
        names = [categories.names[index] for index in interests.indices[span]]
        liked = [names[index] for index in order[:liked_terms] if weights[index] > 0]
        disliked = [names[index] for index in order[::-1][:disliked_terms] if weights[index] < 0]
        texts.append(profile_text(user_text, liked, disliked))
    return texts
