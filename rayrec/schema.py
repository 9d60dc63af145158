"""Arrow schemas of logs and artifacts, and the Batch that data hands to models.

Dimension letters used in names across the package: B rows of a batch, L positions of a row, N items of the
catalogue, K negatives, D vector size, T tokens of a text, U users.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

LIKED, DISLIKED, UNKNOWN = 1, 0, -1
"""Values of `like`: an explicit yes, an explicit no, or an interaction that carries no opinion (a click, a play)."""

INTERACTIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),  # UTC, ms since 1970
        pa.field("rating", pa.float32()),
        pa.field("event", pa.string()),
        pa.field("review", pa.string()),  # what the user wrote of the item; tells of later interactions only
    ]
)

ITEMS = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("attributes", pa.list_(pa.string())),
    ]
)

# What a source gives, before anything is judged: the columns above, every one nullable.
RAW_INTERACTIONS, RAW_ITEMS = (
    pa.schema([field.with_nullable(True) for field in table]) for table in (INTERACTIONS, ITEMS)
)

# What is known of users; users/ of a dataset has those of whom something is, so that a next version knows it too.
USERS = pa.schema([pa.field("user_id", pa.string(), nullable=False), pa.field("text", pa.string())])

RAW_USERS = pa.schema([field.with_nullable(True) for field in USERS])

# What was shown together, in the order it was shown, and which of it was clicked.
RAW_IMPRESSIONS = pa.schema(
    [
        ("impression_id", pa.string()),
        ("user_id", pa.string()),
        ("timestamp", pa.int64()),
        ("item_ids", pa.list_(pa.string())),
        ("clicked", pa.list_(pa.bool_())),
    ]
)

EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item", pa.int32()),
        ("timestamp", pa.int64()),
        ("rating", pa.float32()),
        ("event", pa.string()),
    ]
)
"""What becomes histories; `terms` beside it where there are reviews."""

# Knowledge graph and friendships; head and tail are ids of items or users, or names: "item:ID", "user:ID", "name:NAME".
TRIPLES = pa.schema([("head", pa.string()), ("relation", pa.string()), ("tail", pa.string())])

# impressions/ of a dataset: items are dense indices, unknown ones left out.
IMPRESSIONS = pa.schema(
    [
        ("impression_id", pa.string()),
        ("user_id", pa.string()),
        ("timestamp", pa.int64()),
        ("items", pa.list_(pa.int32())),
        ("clicked", pa.list_(pa.bool_())),
    ]
)

# quarantine/ of a dataset: where a refused row lies and why; an unparseable one only as offset, length and hash.
QUARANTINE = pa.schema(
    [
        ("table", pa.string()),
        ("source", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("user_id", pa.string()),  # as in the rows, so that a user can be forgotten
        ("record", pa.string()),  # the redacted row as JSON; null where it cannot be parsed
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("sha256", pa.string()),
    ]
)

# items/ of a dataset: the catalogue in dense-index order (the row number is the index the other tables use).
CATALOGUE = pa.schema(
    [
        *ITEMS,
        pa.field("terms", pa.list_(pa.string())),  # its most telling words, strongest first
        pa.field("term_weights", pa.list_(pa.float32())),
        pa.field("held_out", pa.string(), nullable=False),  # "" | "valid" | "test": cold items of that split
    ]
)

# item_stats/ of a dataset: interactions and likes by item and UTC day (days since 1970), held-out items absent.
ITEM_STATS = pa.schema([("item", pa.int32()), ("day", pa.int32()), ("count", pa.int32()), ("likes", pa.int32())])

# histories/ of a dataset: every user's last events in time order, held-out items absent.
HISTORIES = pa.schema(
    [
        ("user_id", pa.string()),
        ("items", pa.list_(pa.int32())),
        ("times", pa.list_(pa.int64())),
        ("likes", pa.list_(pa.int8())),
        ("ratings", pa.list_(pa.float32())),
    ]
)

# rows/{train,valid,test}/: a chunk of one history. Positions before first_target are context, the rest are targets.
ROWS = pa.schema(
    [
        ("user_id", pa.string()),
        ("as_of", pa.int64()),  # ms; everything but the targets was known strictly before it
        ("items", pa.list_(pa.int32())),
        ("likes", pa.list_(pa.int8())),
        ("first_target", pa.int32()),
        ("profile", pa.string()),
        ("seen", pa.list_(pa.int32())),  # valid and test only: distinct items before as_of, never ranked again
    ]
)


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model, right-padded; padding has item 0, like UNKNOWN and lies beyond `lengths_B`.

    Attributes:
        items_BL: int64, dense item indices, context first, then targets, in time order.
        likes_BL: int8, LIKED, DISLIKED or UNKNOWN for each item.
        lengths_B: int64, items of each row.
        first_target_B: int64, position of the first target of each row.
        as_of_B: int64, ms; the moment whose profile and statistics belong to the row.
        profiles: B strings; "" where nothing is known of the user.
        row_ids: B strings `user_id@as_of`, for logs and for the order contract.
        negatives_K: int64, item indices drawn for the softmax, shared by the rows; may be empty.
    """

    items_BL: np.ndarray
    likes_BL: np.ndarray
    lengths_B: np.ndarray
    first_target_B: np.ndarray
    as_of_B: np.ndarray
    profiles: tuple[str, ...]
    row_ids: Sequence[str]
    negatives_K: np.ndarray

    @property
    def targets_BL(self) -> np.ndarray:
        """bool: the positions that are targets."""
        position_L = np.arange(self.items_BL.shape[1])
        return (position_L >= self.first_target_B[:, None]) & (position_L < self.lengths_B[:, None])

    def context_only(self) -> "Batch":
        """The same rows without their targets: what a scorer may see at `as_of`."""
        width = int(self.first_target_B.max(initial=0))
        keep_BL = np.arange(width) < self.first_target_B[:, None]
        return replace(
            self,
            items_BL=np.where(keep_BL, self.items_BL[:, :width], 0),
            likes_BL=np.where(keep_BL, self.likes_BL[:, :width], UNKNOWN).astype(np.int8),
            lengths_B=self.first_target_B.copy(),
        )


def batch_of_rows(rows: pa.Table, negatives_K: np.ndarray | None = None) -> Batch:
    """Pads rows of the ROWS schema to one Batch.

    Args:
        rows: a table of ROWS; `seen` is not needed.
        negatives_K: item indices for the softmax, or None.
    """
    items = rows["items"].combine_chunks()
    likes = rows["likes"].combine_chunks()
    lengths_B = items.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    mask_BL = np.arange(int(lengths_B.max(initial=0))) < lengths_B[:, None]
    items_BL = np.zeros(mask_BL.shape, np.int64)
    likes_BL = np.full(mask_BL.shape, UNKNOWN, np.int8)
    items_BL[mask_BL] = items.flatten().to_numpy()
    likes_BL[mask_BL] = likes.flatten().to_numpy()
    users, as_of = rows["user_id"].to_pylist(), rows["as_of"].to_numpy().astype(np.int64)
    return Batch(
        items_BL=items_BL,
        likes_BL=likes_BL,
        lengths_B=lengths_B,
        first_target_B=rows["first_target"].to_numpy().astype(np.int64),
        as_of_B=as_of,
        profiles=tuple(text or "" for text in rows["profile"].to_pylist()),
        row_ids=tuple(f"{user}@{moment}" for user, moment in zip(users, as_of, strict=True)),
        negatives_K=np.zeros(0, np.int64) if negatives_K is None else negatives_K.astype(np.int64),
    )


def relevance(rows: pa.Table, batch: Batch, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """What counts as a hit, and what may be ranked: relevant_BN and unseen_BN, both bool.

    Relevant are targets that were not disliked; what was seen before the row's moment is not ranked.

    Args:
        rows: a table of ROWS.
        batch: batch_of_rows() of the same rows.
        num_items: size of the catalogue.
    """
    relevant_BN, unseen_BN = np.zeros((len(rows), num_items), bool), np.ones((len(rows), num_items), bool)
    row_E, place_E = np.nonzero(batch.targets_BL & (batch.likes_BL != DISLIKED))
    relevant_BN[row_E, batch.items_BL[row_E, place_E]] = True
    seen = rows["seen"].combine_chunks()
    row_S = np.repeat(np.arange(len(seen)), seen.value_lengths().to_numpy(zero_copy_only=False))
    unseen_BN[row_S, seen.flatten().to_numpy()] = False
    return relevant_BN, unseen_BN


class Scorer(Protocol):
    """What evaluation ranks with and serving answers with: a behaviour scorer or a trained recommender."""

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Both answers, float32 [B, N], at the price of one: what `score` and what `like` gives."""
        ...

    def score(self, batch: Batch) -> np.ndarray:
        """float32 [B, N]: how well each item follows a row's context at its `as_of`; higher is better."""
        return self.score_and_like(batch)[0]

    def like(self, batch: Batch) -> np.ndarray:
        """float32 [B, N]: log-odds, or any increasing function of them, that the row's user would like each item."""
        return self.score_and_like(batch)[1]
