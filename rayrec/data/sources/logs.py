"""What every source gives, and the conversions of raw columns that sources share; nothing is judged here (clean.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.schema import INTERACTIONS

if TYPE_CHECKING:
    import ray.data

RAW_INTERACTIONS = pa.schema([field.with_nullable(True) for field in INTERACTIONS])
"""Interactions as a source gives them: values that are missing or make no sense are null (a rating: NaN)."""

MS_PER_UNIT = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_LARGEST_MS = 2.0**53
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"


@dataclass(frozen=True)
class Logs:
    """Raw logs in canonical columns.

    Attributes:
        interactions: a Ray Dataset of RAW_INTERACTIONS, lazily read.
        items: a table of the ITEMS columns, nulls allowed.
        users: a table of the USERS columns, nulls allowed; may be empty.
    """

    interactions: "ray.data.Dataset"
    items: pa.Table
    users: pa.Table


def strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Any scalar column as strings; whole numbers that pandas turned into floats lose their ".0"."""
    if pa.types.is_floating(column.type) and pc.all(pc.equal(column, pc.floor(column))).as_py():
        column = column.cast(pa.int64())
    return column.cast(pa.string())


def numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as float64; a string that is no number becomes NaN, a null stays null."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        valid = pc.match_substring_regex(column, _NUMBER)
        column = pc.if_else(valid, pc.utf8_trim_whitespace(column), pa.scalar("nan", column.type))
    return column.cast(pa.float64(), safe=False)


def milliseconds(column: pa.ChunkedArray, unit: str) -> pa.Array:
    """Timestamps as int64 ms since 1970, null where the value is missing or no number.

    Args:
        column: Arrow timestamps or dates (their own unit counts), numbers, or strings of numbers.
        unit: of plain numbers: s, ms, us or ns.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        unit, column = column.type.unit, column.cast(pa.int64())
    values = numbers(column).to_numpy() * MS_PER_UNIT[unit]
    missing = np.isnan(values)
    # Adding a hundredth of a ms undoes the rounding of the multiplication without reaching the next ms.
    whole = np.floor(np.clip(np.where(missing, 0, values), -_LARGEST_MS, _LARGEST_MS) + 0.01).astype(np.int64)
    return pa.array(whole, mask=missing)


def string_lists(column: pa.ChunkedArray, separator: str) -> pa.ChunkedArray:
    """A column of lists of strings: as it is if it holds lists, else each string split at the separator."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return column.cast(pa.list_(pa.string()))
    lists = [
        None if value is None else [part.strip() for part in value.split(separator) if part.strip()]
        for value in column.cast(pa.string()).to_pylist()
    ]
    return pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])


def canonical_interactions(block: pa.Table, columns: Mapping[str, str | None], unit: str) -> pa.Table:
    """One block of raw interactions in the columns of RAW_INTERACTIONS.

    Args:
        block: columns of any types.
        columns: which column of the block holds user_id, item_id, timestamp, rating, event (None: there is none).
        unit: of the timestamps.
    """
    arrays = {}
    for field in RAW_INTERACTIONS:
        name = columns.get(field.name)
        if name is None:
            arrays[field.name] = pa.nulls(len(block), field.type)
        elif field.name == "timestamp":
            arrays[field.name] = milliseconds(block[name], unit)
        elif field.name == "rating":
            arrays[field.name] = numbers(block[name]).cast(field.type, safe=False)
        else:
            arrays[field.name] = strings(block[name])
    return pa.table(arrays, schema=RAW_INTERACTIONS)
