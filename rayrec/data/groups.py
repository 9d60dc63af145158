"""Groups of event positions, held flat: how a block of users becomes rows without a call per user or row.

Letters: E events, R groups (users or rows).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Groups:
    """R groups of event positions.

    Attributes:
        events: positions, group after group.
        offsets_R1: int64; group r is events[offsets_R1[r] : offsets_R1[r + 1]].
    """

    events: np.ndarray
    offsets_R1: np.ndarray

    def narrow(self, keep: np.ndarray) -> "Groups":
        """The same groups with the events that a mask over `events` keeps."""
        return Groups(self.events[keep], offsets(keep)[self.offsets_R1])

    def slices(self, starts: np.ndarray, lengths: np.ndarray) -> "Groups":
        """Groups that are slices of the flat events: one from each start on."""
        return Groups(self.events[ranges(starts, lengths)], offsets(lengths))

    def last(self, chosen: np.ndarray, length: int) -> "Groups":
        """The last `length` events at most of the chosen groups."""
        lengths = np.minimum(np.diff(self.offsets_R1)[chosen], length)
        return self.slices(self.offsets_R1[chosen + 1] - lengths, lengths)

    def of(self, chosen: np.ndarray) -> "Groups":
        """The chosen groups."""
        return self.last(chosen, len(self.events))


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The concatenation of start, start + 1, … start + length - 1 over all pairs."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    flat: np.ndarray = np.arange(total) + np.repeat(starts - ends + lengths, lengths)
    return flat


def offsets(lengths: np.ndarray) -> np.ndarray:
    """int64 [R + 1]: where groups of these lengths begin and end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def joined(left: Groups, right: Groups) -> Groups:
    """Group by group the events of one, then those of the other."""
    lengths_R2 = np.stack([np.diff(left.offsets_R1), np.diff(right.offsets_R1)], axis=1)
    starts_R2 = np.stack([left.offsets_R1[:-1], right.offsets_R1[:-1] + len(left.events)], axis=1)
    pool = np.concatenate([left.events, right.events])
    return Groups(pool[ranges(starts_R2.ravel(), lengths_R2.ravel())], offsets(lengths_R2.sum(axis=1)))


def first_of_each(values: np.ndarray, offsets_R1: np.ndarray) -> Groups:
    """Of positions that share a group and a value the first, by group in the order of values.

    Args:
        values: non-negative whole numbers by position.
        offsets_R1: where groups of positions begin and end.
    """
    group = np.repeat(np.arange(len(offsets_R1) - 1), np.diff(offsets_R1))
    keys = group * (np.int64(values.max(initial=0)) + 1) + values
    order = np.argsort(keys, kind="stable")
    return Groups(order, offsets_R1).narrow(np.diff(keys[order], prepend=-1) != 0)
