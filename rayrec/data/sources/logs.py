"""What every source gives; nothing is judged here (clean.py)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from rayrec.data.files import Format
from rayrec.data.sources.times import milliseconds
from rayrec.data.sources.values import Column, numbers, strings
from rayrec.schema import RAW_INTERACTIONS


@dataclass(frozen=True)
class LogTable:
    """One logical table of the logs: where it lies, how its bytes become rows, how those become canonical.

    Attributes:
        uris: files, folders or globs; in this order, and within a folder or glob by name.
        format: of the files.
        convert: picklable; raw block (its columns and `row`) -> canonical columns and `row`. A raw row may give no row,
            one or several; it judges nothing: what is missing or makes no sense is null (a rating: NaN).
    """

    uris: tuple[str, ...]
    format: Format
    convert: Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Logs:
    """Raw logs, lazily.

    Attributes:
        interactions: convert gives RAW_INTERACTIONS and `row`.
        items: convert gives RAW_ITEMS and `row`; several tables may tell of one item, the later wins.
        users: convert gives RAW_USERS and `row`.
        impressions: convert gives RAW_IMPRESSIONS and `row`: what was shown and what of it was clicked.
        triples: convert gives TRIPLES and `row`.
        order_only: timestamps are no times, but integers that rise with a user's interactions (the number of the
            row, a position); the job makes them the place within the user's sequence times a day, and the split must be
            leave_last_out.
    """

    interactions: tuple[LogTable, ...]
    items: tuple[LogTable, ...]
    users: tuple[LogTable, ...] = ()
    impressions: tuple[LogTable, ...] = ()
    triples: tuple[LogTable, ...] = ()
    order_only: bool = False


def canonical(schema: pa.Schema, row: Column, columns: Mapping[str, Column]) -> pa.Table:
    """Columns in the types and order of a schema, those that are not there null, and `row`."""
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(row), field.type)
        for field in schema
    ]
    return pa.table([*arrays, row], schema=schema.append(pa.field("row", pa.int64())))


def canonical_interactions(block: pa.Table, columns: Mapping[str, str | None], unit: str) -> pa.Table:
    """One block of raw interactions in the columns of RAW_INTERACTIONS, and `row`.

    Args:
        block: columns of any types, and `row`.
        columns: which column of the block holds which field of RAW_INTERACTIONS (None, or not named: none does).
        unit: of the timestamps.
    """
    arrays = {}
    for field, name in columns.items():
        if name is not None and field == "timestamp":
            arrays[field] = milliseconds(block[name], unit)
        elif name is not None:
            arrays[field] = numbers(block[name]) if field == "rating" else strings(block[name])
    return canonical(RAW_INTERACTIONS, block["row"], arrays)
