"""Conversions of raw columns that sources share: any type comes in, what is missing or senseless goes out as null."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
_TEXTS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
)
_NUMBERS = (
    *(pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    *(pa.types.is_boolean, pa.types.is_null),
)

Column: TypeAlias = pa.Array | pa.ChunkedArray


def plain(column: Column) -> pa.Array:
    """One array, dictionaries decoded, texts (also raw bytes) as `string`, null where they are not UTF-8."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not any(is_text(column.type) for is_text in _TEXTS):
        return column
    column = column.cast(pa.large_binary())
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:  # Parquet promises UTF-8 and does not check it
        return pa.array([_utf8(value) for value in column.to_pylist()], pa.string())


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def is_list(kind: pa.DataType) -> bool:
    """Whether the values of a type are lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def scalars(column: Column) -> pa.Array:
    """One array; a list of one value gives that, for one list among a block's JSON makes lists of all its values."""
    column = plain(column)
    while is_list(column.type):
        values, rows = pc.list_flatten(column), pc.list_parent_indices(column).to_numpy()
        place = np.zeros(len(column), np.int64)
        place[rows] = np.arange(len(rows))
        column = values.take(pa.array(place, mask=np.bincount(rows, minlength=len(column)) != 1))
    return column


def strings(column: Column) -> pa.Array:
    """Scalars as strings; a whole float (an id that pandas gave a null beside it) loses its ".0"; NaN is null."""
    column = scalars(column)
    if pa.types.is_nested(column.type):
        return pa.nulls(len(column), pa.string())
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 2.0**53)).fill_null(False)
        integers = pc.if_else(whole, column, 0.0).cast(pa.int64()).cast(pa.string())
        return pc.if_else(whole, integers, pc.if_else(pc.is_nan(column), None, column).cast(pa.string()))
    return column.cast(pa.string())


def numbers(column: Column) -> pa.Array:
    """Float64; a string that is no number becomes NaN, a null stays null."""
    column = scalars(column)
    if not any(is_number(column.type) for is_number in _NUMBERS):
        return pa.nulls(len(column), pa.float64())
    if pa.types.is_string(column.type):
        valid = pc.match_substring_regex(column, _NUMBER)
        column = pc.if_else(valid, pc.utf8_trim_whitespace(column), "nan")
    return column.cast(pa.float64(), safe=False)


def flat(lists: Column) -> tuple[pa.Array, np.ndarray]:
    """The values of lists (of lists) one after the other, and the row each came from, int64."""
    values, rows = plain(lists), np.arange(len(lists))
    while is_list(values.type):
        rows = rows[pc.list_parent_indices(values).to_numpy()]
        values = pc.list_flatten(values)
    return values, rows


def places(rows: np.ndarray) -> np.ndarray:
    """The place of each value within its row, from 0; rows as flat() gives them."""
    within: np.ndarray = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return within


def lists_of(values: pa.Array, rows: np.ndarray, valid: np.ndarray) -> pa.Array:
    """flat() undone: a list for each row, null where it is not valid.

    Args:
        values: E of them, grouped by row.
        rows: int64 [E], ascending.
        valid: bool, one for each row.
    """
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(valid)))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pa.array(~valid))


def string_lists(column: Column, separator: str) -> pa.Array:
    """Lists of strings without blanks: lists are taken (nested ones flattened), a string is split at the separator."""
    column = plain(column)
    lists = column if is_list(column.type) else pc.split_pattern(strings(column), separator)
    values, rows = flat(lists)
    values = pc.utf8_trim_whitespace(strings(values))
    keep = pc.not_equal(values, "").fill_null(False)
    return lists_of(values.filter(keep), rows[keep.to_numpy(zero_copy_only=False)], _mask(lists.is_valid()))


def flagged(block: pa.Table, names: list[str]) -> pa.Array:
    """For each row the names of those columns that hold a 1, as a list."""
    flags = [pc.equal(numbers(block[name]), 1.0).fill_null(False) for name in names]
    rows, columns = np.nonzero(np.stack([_mask(flag) for flag in flags], axis=1))
    return lists_of(pa.array(names).take(pa.array(columns)), rows, np.ones(len(block), bool))


def without(lists: pa.Array, names: tuple[str, ...]) -> pa.Array:
    """Lists less the values that say nothing ("unknown"); a null list becomes an empty one."""
    values, rows = flat(lists)
    keep = _mask(pc.invert(pc.is_in(values, pa.array(names))))
    return lists_of(values.filter(pa.array(keep)), rows[keep], np.ones(len(lists), bool))


def distinct(lists: pa.Array) -> pa.Array:
    """Lists less the values that came before in the same list."""
    values, rows = flat(lists)
    code = values.dictionary_encode().indices.to_numpy()
    _, first = np.unique(np.stack([rows, code]), axis=1, return_index=True)
    first.sort()
    return lists_of(values.take(pa.array(first)), rows[first], _mask(lists.is_valid()))


def _mask(column: pa.Array) -> np.ndarray:
    values: np.ndarray = column.to_numpy(zero_copy_only=False).astype(bool)
    return values


def renamed(column: Column, names: Mapping[str, str]) -> pa.Array:
    """Codes as words; a code that is not among the names becomes null."""
    return pa.array(list(names.values())).take(pc.index_in(strings(column), pa.array(list(names))))


def filled(column: Column) -> pa.Array:
    """Scalars as strings, null where they are empty."""
    text = strings(column)
    return pc.if_else(pc.equal(text, ""), None, text)


def prefixed(prefix: str, column: Column) -> pa.Array:
    """Each string with something before it; null stays null."""
    return pc.binary_join_element_wise(prefix, strings(column), "")


def repeated(value: str, like: pa.Table | Column) -> pa.Array:
    """A column that says the same in every row, as long as another one or a block."""
    return pa.repeat(pa.scalar(value), len(like))
