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
from rayrec.terms import Terms, lists_of, strongest
from rayrec.text import profile_sentences

INTEREST_HALF_LIFE = 25.0
"""Events after which an interaction counts half in the interest dictionary."""
LIKED_QUOTA, DISLIKED_QUOTA = (6, 4), (2, 2)
"""Words and labels that a profile names at most."""

_MOMENTS_AT_ONCE = 4096


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
        terms: what the user wrote of each item, as E lists from review_terms(); None where the log has no reviews.
    """

    user_ids: list[str]
    offsets_U1: np.ndarray
    items_E: np.ndarray
    times_E: np.ndarray
    likes_E: np.ndarray
    ratings_E: np.ndarray
    terms: pa.ListArray | None = None


def histories(events: pa.Table, rule: LikeRule) -> Histories:
    """Groups events by user, in order of id, and sorts each user's by time, equal times by dense index.

    Of exact repeats (one user, time and item) the least rating stays, then the first event name, then the row that
    comes first.

    Args:
        events: user_id, item (int32 dense index), timestamp (ms), rating, event, and terms (list<int32>) where there
            are reviews; any order, whole users.
        rule: what counts as a like.
    """
    user_E, user_ids = _ranked(events["user_id"].combine_chunks())
    item_E, time_E, rating_E = (events[name].to_numpy() for name in ("item", "timestamp", "rating"))
    order = _in_order(user_E, time_E)
    tied = np.zeros(len(order), bool)
    same = (np.diff(user_E[order]) == 0) & (np.diff(time_E[order]) == 0)
    tied[1:] |= same
    tied[:-1] |= same
    rows = np.sort(order[tied])
    event_R, _ = _ranked(events["event"].combine_chunks().take(pa.array(rows)))
    order[tied] = rows[np.lexsort((event_R, rating_E[rows], item_E[rows], time_E[rows], user_E[rows]))]

    fresh = np.ones(len(order), bool)
    fresh[1:] = ~same | (np.diff(item_E[order]) != 0)
    kept = order[fresh]
    terms = events["terms"].combine_chunks().take(pa.array(kept)) if "terms" in events.column_names else None
    return Histories(
        user_ids=user_ids.to_pylist(),
        offsets_U1=np.concatenate([[0], np.cumsum(np.bincount(user_E[kept], minlength=len(user_ids)))]),
        items_E=item_E[kept].astype(np.int32),
        times_E=time_E[kept].astype(np.int64),
        likes_E=rule.likes(events)[kept],
        ratings_E=rating_E[kept].astype(np.float32),
        terms=terms,
    )


def _ranked(names: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The rank of each string among the distinct ones, nulls last, and those in order."""
    encoded = names.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order) + 1, np.int64)
    rank[order.to_numpy()], rank[-1] = np.arange(len(order)), len(order)
    codes = encoded.indices.fill_null(len(order)).to_numpy(zero_copy_only=False)
    return rank[codes], encoded.dictionary.take(order)


def _in_order(user_E: np.ndarray, time_E: np.ndarray) -> np.ndarray:
    """Places by user, then time; which of equal ones comes first is not told. One sort of one key is the fastest."""
    first, last = int(time_E.min(initial=0)), int(time_E.max(initial=0))
    if (int(user_E.max(initial=0)) + 1) * (last - first + 1) > np.iinfo(np.int64).max:
        time_E = np.unique(time_E, return_inverse=True)[1]
        first, last = 0, len(time_E)
    order: np.ndarray = np.argsort(user_E * (last - first + 1) + (time_E - first))
    return order


def profile_texts(
    items_E: np.ndarray,
    likes_E: np.ndarray,
    offsets_R1: np.ndarray,
    user_texts: Sequence[str] | pa.Array,
    terms: Terms,
    review_terms_E: pa.ListArray | None = None,
) -> list[str]:
    """The profile text of R moments, each from the events strictly before it.

    A term's weight in the interest dictionary is the recency-weighted number of the events given whose item it tells
    of, and of those whose review mentions it, the latter times its rarity. Events that were disliked count as negative,
    events without an opinion as likes. Positive weights are interests, negative ones dislikes; labels and words are
    chosen apart, so that neither crowds out the other. Equal weights go by the order of `terms.names`, backwards for
    dislikes.

    Args:
        items_E: dense indices of the events before each moment, flat, in time order.
        likes_E: their likes.
        offsets_R1: where each moment's events begin and end.
        user_texts: R free texts ("" or null where there is none).
        terms: of the catalogue.
        review_terms_E: what the user wrote of the same events' items, from review_terms(); None where there is none.
    """
    lengths_R = np.diff(offsets_R1)
    age_E = np.repeat(offsets_R1[1:], lengths_R) - 1 - np.arange(len(items_E))
    weight_E = 0.5 ** (age_E / INTEREST_HALF_LIFE) * np.where(likes_E == DISLIKED, -1.0, 1.0)
    texts = pa.array(user_texts, pa.string()).fill_null("")
    said: list[str] = []
    for start in range(0, len(lengths_R), _MOMENTS_AT_ONCE):
        bounds = offsets_R1[start : start + _MOMENTS_AT_ONCE + 1]
        span = slice(int(bounds[0]), int(bounds[-1]))
        reviews = None if review_terms_E is None else review_terms_E[span]
        interests = _interests(weight_E[span], items_E[span], bounds - bounds[0], terms, reviews)
        liked, disliked = _strongest_names(interests, terms)
        said += profile_sentences(texts[start : start + _MOMENTS_AT_ONCE], liked, disliked).to_pylist()
    return said


def _interests(
    weight_E: np.ndarray, items_E: np.ndarray, offsets_R1: np.ndarray, terms: Terms, reviews: pa.ListArray | None
) -> sparse.csr_matrix:
    """The interest dictionary of each moment, csr [R, V]."""
    met, item_E = np.unique(items_E, return_inverse=True)
    events = sparse.csr_matrix((weight_E, item_E, offsets_R1), shape=(len(offsets_R1) - 1, len(met)))
    interests = events @ terms.matrix[met].astype(np.float64)
    if reviews is not None:
        counts_E = reviews.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        words = reviews.flatten().to_numpy(zero_copy_only=False)
        weights = np.repeat(weight_E, counts_E) * terms.rarity_V[words]
        bounds = np.concatenate([[0], np.cumsum(counts_E)])[offsets_R1]
        interests = interests + sparse.csr_matrix((weights, words, bounds), shape=interests.shape)
    interests.sort_indices()
    return interests


def _strongest_names(interests: sparse.csr_matrix, terms: Terms) -> tuple[pa.ListArray, pa.ListArray]:
    """Liked and disliked names of each moment: labels, then words, each strongest first."""
    weight = np.round(interests.data, 6)
    places = np.concatenate([np.flatnonzero(weight > 0), np.flatnonzero(weight < 0)[::-1]])
    weight, index = weight[places], interests.indices[places]
    row = np.repeat(np.arange(interests.shape[0]), np.diff(interests.indptr))[places]
    disliked, word = weight < 0, index >= terms.num_labels
    quota = np.where(disliked, np.where(word, *DISLIKED_QUOTA), np.where(word, *LIKED_QUOTA))
    # Small integers sort fastest.
    group = (row * 4 + disliked * 2 + word).astype(np.uint16)
    best = strongest(group, np.abs(weight), quota)
    lists = []
    for chosen in (best[~disliked[best]], best[disliked[best]]):
        names = terms.names.take(pa.array(index[chosen]))
        lists.append(lists_of(row[chosen], interests.shape[0], names))
    return lists[0], lists[1]
