"""Whole lines of a stream, some at a time, in memory that does not grow with the file.

Letters: R records of a chunk.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

TOO_LONG = "longer than a record may be"
NOT_UTF8 = "not UTF-8"
BOM = b"\xef\xbb\xbf"
NEWLINE, RETURN = 10, 13


class UnreadableError(ValueError):
    """A file is not what it was said to be; the message continues the file's name."""


class Stream(Protocol):
    """What is read from: a file, decompressed."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class Unparseable(NamedTuple):
    """A record that gave no row; offset and length in bytes, without its newline."""

    row: int
    offset: int
    length: int
    sha256: str
    reason: str


class Records(NamedTuple):
    """Where the records of a chunk lie, blank ones left out.

    `starts_R` and `ends_R` (the newline of each) are positions, int64; `broken_R`, bool, marks what cannot be read.
    """

    starts_R: np.ndarray
    ends_R: np.ndarray
    broken_R: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """Whole records, or one line that is too long to be kept.

    Attributes:
        offset: of its first byte in the file.
        data: whole lines; the last one has its newline even where the file ends without. Empty for a line too long.
        records: where the records lie; None: each line is one, or they have not been looked for.
        too_long: length and sha256 of that line.
    """

    offset: int
    data: bytes
    records: Records | None = None
    too_long: tuple[int, str] | None = None


def whole_lines(stream: Stream, block_bytes: int, max_record: int) -> Iterator[Chunk]:
    """A stream in chunks of whole lines; a byte order mark at its start is skipped.

    Args:
        stream: read to its end.
        block_bytes: to read at once.
        max_record: bytes a line may have before its newline; a longer one is hashed and not kept.
    """
    data = stream.read(len(BOM))
    offset, data = (len(BOM), b"") if data == BOM else (0, data)
    while block := stream.read(block_bytes):
        data += block
        cut = _end_of_lines(data, max_record)
        while len(data) - cut > max_record:
            if cut:
                yield Chunk(offset, data[:cut])
            length, digest, data = _skipped_line(stream, data[cut:], block_bytes)
            yield Chunk(offset + cut, b"", too_long=(length, digest))
            offset += cut + length + 1
            cut = _end_of_lines(data, max_record)
        if cut:
            yield Chunk(offset, data[:cut])
        offset, data = offset + cut, data[cut:]
    if data:
        yield Chunk(offset, data if data.endswith(b"\n") else data + b"\n")


def _end_of_lines(data: bytes, max_record: int) -> int:
    """Where the first line begins that does not end within `max_record` bytes."""
    start = 0
    while (newline := data.rfind(b"\n", start, start + max_record + 1)) >= 0:
        start = newline + 1
    return start


def _skipped_line(stream: Stream, block: bytes, block_bytes: int) -> tuple[int, str, bytes]:
    """Length and sha256 of the line that `block` begins with, and what was read after its newline."""
    digest, length = hashlib.sha256(), 0
    while block:
        line, newline, rest = block.partition(b"\n")
        digest.update(line)
        length += len(line)
        if newline:
            return length, digest.hexdigest(), rest
        block = stream.read(block_bytes)
    return length, digest.hexdigest(), b""


def line_records(data: bytes) -> Records:
    """Every line as a record; one with a carriage return that ends no line is broken."""
    places = np.frombuffer(data, np.uint8)
    ends_R = np.flatnonzero(places == NEWLINE)
    starts_R = np.concatenate([[0], ends_R[:-1] + 1])
    broken_R = np.zeros(len(ends_R), bool)
    broken_R[np.searchsorted(ends_R, stray_returns(places))] = True
    return without_blanks(places, Records(starts_R, ends_R, broken_R))


def stray_returns(places: np.ndarray) -> np.ndarray:
    """Positions of the carriage returns that no newline follows, in uint8 text that ends with a newline."""
    found: np.ndarray = np.flatnonzero((places[:-1] == RETURN) & (places[1:] != NEWLINE))
    return found


def has_stray_return(data: bytes) -> bool:
    """Whether there is a carriage return that no newline follows."""
    return b"\r" in data and data.count(b"\r") != data.count(b"\r\n")


def without_blanks(places: np.ndarray, records: Records) -> Records:
    """The records that are not empty."""
    length_R = records.ends_R - records.starts_R
    kept_R = (length_R > 1) | ((length_R == 1) & (places[records.starts_R] != RETURN))
    return Records(*(values_R[kept_R] for values_R in records))


def is_utf8(data: bytes) -> bool:
    """Whether all of it is valid UTF-8."""
    if data.isascii():
        return True
    try:
        pa.array([data], pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def numbered(table: pa.Table, first_row: int, missing: list[int]) -> pa.Table:
    """A table with `row`, the numbers of its rows; a column that is called so gives way.

    Args:
        table: the rows of a chunk that are good.
        first_row: the number of the chunk's first record.
        missing: places among the chunk's records that gave no row.
    """
    rows = np.delete(np.arange(first_row, first_row + len(table) + len(missing)), missing)
    if "row" in table.column_names:
        table = table.drop_columns("row")
    return table.append_column("row", pa.array(rows, pa.int64()))


def unparseable(row: int, chunk: Chunk, start: int, end: int, reason: str) -> Unparseable:
    """A record of a chunk by its start and the position of its newline."""
    digest = hashlib.sha256(chunk.data[start:end]).hexdigest()
    return Unparseable(row, chunk.offset + start, end - start, digest, reason)


def unkept(row: int, chunk: Chunk) -> Unparseable:
    """The line that a chunk stands for because it is too long."""
    assert chunk.too_long is not None
    return Unparseable(row, chunk.offset, *chunk.too_long, TOO_LONG)
