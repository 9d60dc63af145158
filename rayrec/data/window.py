"""A window of training rows as micro-batches: shuffled, sorted by length, cut under a budget, padded.

All work that follows the number of rows is done for the whole window at once, so that a micro-batch is a few slices.
R rows of a window, E their items one after the other; for B, L and K see schema.py.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.schema import UNKNOWN, Batch

COLUMNS = ("as_of", "items", "likes", "first_target", "profile")
"""What training needs of ROWS."""


class Window:
    """Its micro-batches, in random order; each equals batch_of_rows() of its rows."""

    def __init__(
        self, rows: pa.Table, slots: int, rng: np.random.Generator, users: Callable[[], pa.ChunkedArray]
    ) -> None:
        """Args:
        rows: with the COLUMNS of ROWS.
        slots: budget of a micro-batch: rows times the longest row.
        rng: of both shuffles.
        users: gives `user_id` of the rows; called when a row id is asked for.
        """
        rows = rows.combine_chunks()
        lengths_R = pc.list_value_length(rows["items"]).to_numpy()
        order_R = rng.permutation(len(rows))
        order_R = order_R[np.argsort(lengths_R[order_R].astype(np.uint16), kind="stable")]  # few bits: sorted by radix
        order = pa.array(order_R)
        self.lengths_R = lengths_R[order_R].astype(np.int64)
        self.items_E = _taken(rows["items"], order)
        self.likes_E = _taken(rows["likes"], order)
        self.first_target_R = rows["first_target"].to_numpy()[order_R].astype(np.int64)
        self.as_of_R = rows["as_of"].to_numpy()[order_R]
        self.profiles: tuple[str, ...] = tuple(rows["profile"].fill_null("").take(order).to_pylist())
        self.users, self.order = users, order
        self.borders = pack(self.lengths_R, slots)
        self.offsets: list[int] = np.concatenate([[0], np.cumsum(self.lengths_R)])[self.borders].tolist()
        self.parts: list[int] = rng.permutation(len(self.borders) - 1).tolist()

    def __len__(self) -> int:
        return len(self.parts)

    @cached_property
    def row_ids(self) -> list[str]:
        """Of all rows, in the order of `items_E`."""
        moments = pa.array(self.as_of_R).cast(pa.string())
        ids: list[str] = pc.binary_join_element_wise(self.users().take(self.order), moments, "@").to_pylist()
        return ids

    def batch(self, number: int, negatives_K: np.ndarray) -> Batch:
        """One micro-batch.

        Args:
            number: below len().
            negatives_K: int64 item indices.
        """
        part = self.parts[number]
        begin, end = self.borders[part], self.borders[part + 1]
        first, last = self.offsets[part], self.offsets[part + 1]
        items_BL, likes_BL, lengths_B = self.items_E[first:last], self.likes_E[first:last], self.lengths_R[begin:end]
        shape = end - begin, int(lengths_B[-1])
        if shape[0] * shape[1] == last - first:
            # Copies: what Arrow lends may not be written to, and tensors are made of these.
            items_BL, likes_BL = items_BL.reshape(shape).astype(np.int64), likes_BL.reshape(shape).copy()
        else:
            mask_BL = np.arange(shape[1]) < lengths_B[:, None]
            items_BL = _padded(items_BL, mask_BL, 0, np.int64)
            likes_BL = _padded(likes_BL, mask_BL, UNKNOWN, np.int8)
        return Batch(
            items_BL=items_BL,
            likes_BL=likes_BL,
            lengths_B=lengths_B,
            first_target_B=self.first_target_R[begin:end],
            as_of_B=self.as_of_R[begin:end],
            profiles=self.profiles[begin:end],
            row_ids=RowIds(self, range(begin, end)),
            negatives_K=negatives_K,
        )


class RowIds(Sequence[str]):
    """Row ids of a micro-batch, made when one is looked at: training never does, and users' ids stay unread."""

    def __init__(self, window: Window, rows: range) -> None:
        """Args:
        window: whose rows.
        rows: which of them.
        """
        self.window, self.rows = window, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "RowIds": ...
    def __getitem__(self, index: int | slice) -> "str | RowIds":
        rows = self.rows[index]
        return RowIds(self.window, rows) if isinstance(rows, range) else self.window.row_ids[rows]

    def __iter__(self) -> Iterator[str]:
        return (self.window.row_ids[row] for row in self.rows)


def _taken(lists: pa.ChunkedArray, order: pa.Array) -> np.ndarray:
    """The values of lists in another order, one list after the other; each is copied as bytes, not value by value."""
    whole = lists.combine_chunks()
    kind = whole.type.value_type.to_pandas_dtype()
    width = np.dtype(kind).itemsize
    offsets = pa.py_buffer(whole.offsets.to_numpy() * np.int32(width))
    taken = pa.Array.from_buffers(pa.binary(), len(whole), [None, offsets, whole.values.buffers()[1]]).take(order)
    _, offsets, values = taken.buffers()
    end = np.frombuffer(offsets, np.int32)[len(taken)]
    return np.frombuffer(values, kind, end // width)


def _padded(flat_E: np.ndarray, mask_BL: np.ndarray, padding: int, kind: type[np.integer[Any]]) -> np.ndarray:
    """The values where the mask is set, row by row, and padding elsewhere."""
    values_BL = np.full(mask_BL.shape, padding, kind)
    np.place(values_BL, mask_BL, flat_E)
    return values_BL


def pack(lengths_R: np.ndarray, slots: int) -> list[int]:
    """Where micro-batches begin among rows in ascending length, and the end: rows times the longest row fit the budget.

    A row longer than the whole budget makes a micro-batch of its own.

    Args:
        lengths_R: ascending.
        slots: the budget.
    """
    lengths, borders = lengths_R.tolist(), [0]
    while (begin := borders[-1]) < len(lengths):
        most = max(1, min(slots // max(lengths[begin], 1), len(lengths) - begin))
        if most * lengths[begin + most - 1] > slots:
            most = max(1, bisect_right(range(1, most), slots, key=lambda rows: rows * lengths[begin + rows - 1]))
        borders.append(begin + most)
    return borders
