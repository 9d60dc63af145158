"""The door: a part of the logs is read, judged, redacted, pseudonymised; what is taken lies in scratch files by bucket.

What is refused goes to quarantine/ at once. How the rows of each table are judged and dealt: intake.py.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.clean import Verdict
from rayrec.data.config import CleanConfig
from rayrec.data.files import UNPARSEABLE, Block, Part, read_blocks
from rayrec.data.work import Record, Work, slices_bytes, write_table
from rayrec.privacy import Privacy, lists_like
from rayrec.schema import QUARANTINE

BLOCK_BYTES = 32 << 20
USER_PREFIX, NAME_PREFIX = "user:", "name:"
"""Of heads and tails of triples."""
LONGEST_FINDING = 320
"""Characters of the longest e-mail address, which nothing else that is redacted exceeds but a URL."""


@dataclass(frozen=True)
class Door:
    """What all rows pass.

    Attributes:
        work: where to.
        clean: what is refused.
        privacy: what is hidden.
        seed: of the catalogue's order.
        order_only: timestamps are positions times a day.
    """

    work: Work
    clean: CleanConfig
    privacy: Privacy
    seed: int
    order_only: bool


@dataclass(frozen=True)
class PartTask:
    """One part of a table of the logs.

    Attributes:
        number: of the part among all of the table, in the order in which later rows win.
        part: what to read.
        convert: raw block to canonical columns and `row`.
        source: the file's name for quarantine/.
    """

    number: int
    part: Part
    convert: Callable[[pa.Table], pa.Table]
    source: str


@dataclass
class Tally:
    """What was done to texts of a part: values cut to clean.max_text, and values in which something was redacted."""

    cut: int = 0
    redacted: int = 0


@dataclass(frozen=True)
class Taken:
    """What a block of canonical rows gives.

    Attributes:
        verdict: of each row.
        buckets: the rows taken, one table a bucket.
        hours: of the rows taken, hours since 1970; empty where nobody asks.
    """

    verdict: Verdict
    buckets: list[pa.Table]
    hours: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


Take = Callable[[pa.Table, Tally], Taken]


def take_in(door: Door, table: str, take: Take, task: PartTask) -> Record:
    """Reads a part, writes a file of slices a block and, where rows of it are refused, one of quarantine/.

    Args:
        door: what rows pass.
        table: interactions, items, users, impressions or triples.
        take: judges and deals a block of canonical rows.
        task: the part.

    Returns:
        A record: rows, refused (by reason), cut, redacted, blocks (files of slices), hours (pairs of hour and count).
    """
    tally, rows, blocks = Tally(), 0, 0
    hours, refused = Counter[int](), Counter[str]()
    files: Record = {}
    for block in map(_in_unicode, read_blocks(task.part, BLOCK_BYTES)):
        canonical = _canonical(task, block.rows)
        taken = take(canonical, tally)
        files |= door.work.write(slices_path(door.work, table, task.number, blocks), slices_bytes(taken.buckets))
        quarantine = _quarantined(door, table, task.source, canonical, taken.verdict, block)
        if len(quarantine):
            path = f"quarantine/{table}-{task.number:05d}-{blocks:05d}.parquet"
            files |= write_table(door.work.uri, path, quarantine)
        for pair in pc.value_counts(quarantine["reason"]).to_pylist():
            refused[pair["values"]] += pair["counts"]
        hours.update(_counts(taken.hours))
        rows += len(canonical) + len(block.refused)
        blocks += 1
    return {
        "rows": rows,
        "refused": dict(refused),
        "cut": tally.cut,
        "redacted": tally.redacted,
        "part": task.number,
        "blocks": blocks,
        "hours": sorted(hours.items()),
        "files": files,
    }


def _canonical(task: PartTask, rows: pa.Table) -> pa.Table:
    try:
        return task.convert(rows).combine_chunks()
    except KeyError as error:
        raise ValueError(  # what stands in its first line may be data, so it is not shown
            f"{task.source}: {error.args[0]} of {rows.num_columns - 1} columns: is its first line a header, is the "
            "layout the one that data.source names?"
        ) from error


def _in_unicode(block: Block) -> Block:
    """The block without rows that hold bytes which are no UTF-8: Parquet lets them pass as strings."""
    bad_R = np.zeros(len(block.rows), bool)
    for column in block.rows.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            bad_R |= _undecodable(column.combine_chunks())
    if not bad_R.any():
        return block
    bad = block.rows.filter(pa.array(bad_R))
    lost = pa.Table.from_pylist([{"row": row, "reason": "not UTF-8"} for row in bad["row"].to_pylist()], UNPARSEABLE)
    return Block(block.rows.filter(pa.array(~bad_R)), pa.concat_tables([block.refused, lost]))


def _undecodable(column: pa.Array) -> np.ndarray:
    """bool [R]: rows with a string that is no UTF-8, however deep in lists and structs."""
    if pa.types.is_struct(column.type):
        bad_FR = np.array([_undecodable(field) for field in column.flatten()], bool)
        return np.asarray(bad_FR.any(axis=0))
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        bad = _undecodable(column.flatten())
        parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        found = np.zeros(len(column), bool)
        found[parents[bad]] = True
        return found
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return np.zeros(len(column), bool)
    values = column.cast(pa.large_binary()).to_pylist()
    return np.array([value is not None and not _decodes(value) for value in values], bool)


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def slices_path(work: Work, table: str, part: int, block: int) -> str:
    """The file of slices of one block."""
    return work.scratch(table, f"{part:06d}-{block:05d}.slices")


def _counts(hours: np.ndarray) -> dict[int, int]:
    if not len(hours):
        return {}
    first = int(hours.min())
    counts = np.bincount(hours - first)
    return {first + int(hour): int(counts[hour]) for hour in np.flatnonzero(counts)}


def tidy(door: Door, texts: Any, tally: Tally) -> Any:
    """Texts cut to clean.max_text and redacted.

    A gigantic one is cut before, for its own sake, and after: its end goes, so that what straddles the first cut is not
    left as half an address.

    Args:
        door: what rows pass.
        texts: a column of strings or lists of strings; the same kind is returned.
        tally: counts what is done.
    """
    limit = door.clean.max_text
    if texts.null_count == len(texts):
        return texts
    if pa.types.is_list(texts.type):
        lists = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
        return lists_like(lists, tidy(door, lists.flatten(), tally))
    gigantic = pc.greater(pc.utf8_length(texts), 2 * limit + LONGEST_FINDING)
    long = pc.sum(pc.greater(pc.utf8_length(texts), limit)).as_py() or 0
    if long:
        texts = pc.utf8_slice_codeunits(texts, 0, 2 * limit + LONGEST_FINDING)
    texts, changed = door.privacy.redacted(texts)
    if long:
        ended = pc.if_else(gigantic, pc.utf8_slice_codeunits(texts, 0, -LONGEST_FINDING), texts)
        texts = pc.utf8_slice_codeunits(ended, 0, limit)
    tally.cut += long
    tally.redacted += changed
    return texts


def hidden(door: Door, names: pa.Array, tally: Tally) -> pa.Array:
    """Heads or tails of triples: what follows `user:` becomes a pseudonym, what follows `name:` is redacted."""
    is_user, is_name = pc.starts_with(names, USER_PREFIX), pc.starts_with(names, NAME_PREFIX)
    bare = pc.utf8_slice_codeunits(names, len(USER_PREFIX))
    assert len(USER_PREFIX) == len(NAME_PREFIX)
    users = pc.binary_join_element_wise(USER_PREFIX, door.privacy.pseudonyms(pc.if_else(is_user, bare, None)), "")
    texts = pc.binary_join_element_wise(NAME_PREFIX, tidy(door, pc.if_else(is_name, bare, None), tally), "")
    return pc.if_else(is_user, users, pc.if_else(is_name, texts, names))


def with_column(table: pa.Table, name: str, column: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def _quarantined(door: Door, table: str, source: str, rows: pa.Table, judged: Verdict, block: Block) -> pa.Table:
    """The refused rows of a block, of the QUARANTINE schema."""
    bad = rows.filter(pa.array(~judged.taken_R))
    users = pa.nulls(len(bad), pa.string())
    if "user_id" in bad.column_names:
        users = door.privacy.pseudonyms(bad["user_id"].combine_chunks())
    lost = block.refused
    columns = {
        "table": pa.repeat(pa.scalar(table), len(bad) + len(lost)),
        "source": pa.repeat(pa.scalar(source), len(bad) + len(lost)),
        "row": pa.chunked_array([*bad["row"].chunks, *lost["row"].chunks], pa.int64()),
        "reason": pa.chunked_array([judged.texts(), *lost["reason"].chunks], pa.string()),
        "user_id": pa.concat_arrays([users, pa.nulls(len(lost), pa.string())]),
        "record": pa.concat_arrays([_records(door, bad, users), pa.nulls(len(lost), pa.string())]),
    }
    for name in ("offset", "length", "sha256"):
        kind = QUARANTINE.field(name).type
        columns[name] = pa.chunked_array([pa.nulls(len(bad), kind), *lost[name].chunks], kind)
    return pa.table(columns, schema=QUARANTINE)


def _records(door: Door, bad: pa.Table, users: pa.Array) -> pa.Array:
    """Refused rows as JSON; every string in them is redacted, for a bad row may hold anything anywhere."""
    bad = bad.drop_columns("row")
    nobody = Tally()
    for name, kind in zip(bad.column_names, bad.schema.types, strict=True):
        if name == "user_id":
            bad = with_column(bad, name, users)
        elif name in ("head", "tail"):
            bad = with_column(bad, name, hidden(door, bad[name].combine_chunks(), nobody))
        elif pa.types.is_string(kind) or (pa.types.is_list(kind) and pa.types.is_string(kind.value_type)):
            bad = with_column(bad, name, tidy(door, bad[name], nobody))
    return pa.array([json.dumps(_plain(row), ensure_ascii=False) for row in bad.to_pylist()], pa.string())


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
