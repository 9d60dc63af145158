"""Text in columns, read by pyarrow; the records that it cannot read are found and left out.

Letters: R records of a chunk.
"""

import csv as python_csv
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import csv

from rayrec.data.lines import (
    NOT_UTF8,
    Chunk,
    Records,
    Stream,
    Unparseable,
    UnreadableError,
    has_stray_return,
    is_utf8,
    line_records,
    numbered,
    unkept,
    unparseable,
    whole_lines,
)
from rayrec.data.quotes import quoted_records, split

MISPLACED = "a quote or carriage return out of place"
FIELDS = "wrong number of fields"
SEPARATOR = b"\x1f"
"""Stands for a delimiter of several bytes while pyarrow, which knows only single ones, reads a chunk."""
RESERVED = "holds the character 1F"


def read_delimited(
    stream: Stream,
    delimiter: str,
    names: Sequence[str],
    quoted: bool,
    encoding: str,
    block_bytes: int,
    max_record: int,
) -> Iterator[tuple[pa.Table, list[Unparseable]]]:
    """Rows as strings (empty: null) and `row`, a block at a time, and the records that gave none.

    Of a file without a line there is a block without rows, if its columns are known, or else none.

    Args:
        stream: the file.
        delimiter: one character, or several where nothing is quoted.
        names: of the columns; empty: the first line that is not blank holds them, `name:type` without its type.
        quoted: whether fields may stand in double quotes.
        encoding: utf-8 or latin-1.
        block_bytes: to read at once.
        max_record: bytes of the longest record; a longer one is refused.

    Raises:
        UnreadableError: the first line names no columns.
    """
    chunks = whole_lines(stream, block_bytes, max_record)
    if not names:
        names, chunks = _header(chunks, delimiter, quoted, encoding)
        if not names:
            return
    mark = delimiter.encode()
    if quoted:
        chunks = quoted_records(chunks, mark, max_record)
    row = 0
    for chunk in chunks:
        if chunk.too_long:
            yield numbered(_table(b"", names, mark, quoted)[0], row, []), [unkept(row, chunk)]
            row += 1
            continue
        table, refused = _block(chunk, row, names, mark, quoted, encoding, max_record)
        yield table, refused
        row += len(table) + len(refused)
    if not row:
        yield numbered(_table(b"", names, mark, quoted)[0], row, []), []


def header(stream: Stream, delimiter: str, quoted: bool, encoding: str, max_record: int) -> list[str]:
    """The names of the columns in the first line; none where the file is empty.

    Raises:
        UnreadableError: the first line names no columns.
    """
    return _header(whole_lines(stream, max_record, max_record), delimiter, quoted, encoding)[0]


def _header(chunks: Iterator[Chunk], delimiter: str, quoted: bool, encoding: str) -> tuple[list[str], Iterator[Chunk]]:
    """The names in the first line that is not blank, and the chunks behind it."""
    for chunk in chunks:
        start = len(chunk.data) - len(chunk.data.lstrip(b"\r\n"))
        end = chunk.data.find(b"\n", start)
        if chunk.too_long is None and end < 0:
            continue
        try:
            line = chunk.data[start:end].decode(encoding).removesuffix("\r")
            fields = next(python_csv.reader([line], delimiter=delimiter), []) if quoted else line.split(delimiter)
        except (UnicodeDecodeError, python_csv.Error):
            fields = []
        names = [field.partition(":")[0].strip() for field in fields]
        # The line may be somebody's data, so it is not shown.
        if not names or len(set(names)) < len(names):
            raise UnreadableError(
                f"begins with a line of {len(names)} readable fields, {len(set(names))} of them different; expected "
                f"the name of each column once, in {encoding}: give the names, or another delimiter or encoding"
            )
        rest = Chunk(chunk.offset + end + 1, chunk.data[end + 1 :])
        return names, itertools.chain([rest] if rest.data else [], chunks)
    return [], iter(())


def _block(
    chunk: Chunk, first_row: int, names: Sequence[str], mark: bytes, quoted: bool, encoding: str, max_record: int
) -> tuple[pa.Table, list[Unparseable]]:
    """A chunk's rows, and its refused records: broken ones before pyarrow reads, those with other fields after."""
    data, records = chunk.data, chunk.records
    faults: dict[int, str] = {}
    if _is_doubtful(chunk, mark, quoted, encoding):
        records = _records(chunk, mark, quoted, max_record)
        faults = _faults(data, records, mark, encoding)
        data = _without(data, records, faults)
    if encoding != "utf-8" and not data.isascii():
        data = data.decode(encoding).encode()
    table, odd = _table(data, names, mark, quoted)
    if odd:
        records = _records(chunk, mark, quoted, max_record)
        good_R = np.delete(np.arange(len(records.starts_R)), list(faults))
        faults.update(dict.fromkeys(good_R[odd].tolist(), FIELDS))
    refused = []
    for index, reason in sorted(faults.items()):
        assert records is not None
        start, end = int(records.starts_R[index]), int(records.ends_R[index])
        refused.append(unparseable(first_row + index, chunk, start, end, reason))
    return numbered(table, first_row, sorted(faults)), refused


def _records(chunk: Chunk, mark: bytes, quoted: bool, max_record: int) -> Records:
    return split(chunk, mark, max_record) if quoted else line_records(chunk.data)


def _is_doubtful(chunk: Chunk, mark: bytes, quoted: bool, encoding: str) -> bool:
    """Whether a chunk has records that pyarrow must not see."""
    return (
        (chunk.records is not None and bool(chunk.records.broken_R.any()))
        or (not quoted and has_stray_return(chunk.data))
        or (len(mark) > 1 and SEPARATOR in chunk.data)
        or (encoding == "utf-8" and not is_utf8(chunk.data))
    )


def _faults(data: bytes, records: Records, mark: bytes, encoding: str) -> dict[int, str]:
    """Records by index that pyarrow must not see, and why."""
    faults = dict.fromkeys(np.flatnonzero(records.broken_R).tolist(), MISPLACED)
    places = np.frombuffer(data, np.uint8)
    if len(mark) > 1:
        faults.update(dict.fromkeys(_holding(records, places == SEPARATOR[0]), RESERVED))
    if encoding == "utf-8":
        for index in _holding(records, places > 127):
            if not is_utf8(data[records.starts_R[index] : records.ends_R[index]]):
                faults[index] = NOT_UTF8
    return faults


def _holding(records: Records, wanted: np.ndarray) -> list[int]:
    """The records in which something is found; none of it is a newline."""
    found: list[int] = np.unique(np.searchsorted(records.ends_R, np.flatnonzero(wanted))).tolist()
    return found


def _without(data: bytes, records: Records, faults: dict[int, str]) -> bytes:
    """The lines of the other records."""
    pieces, start = [], 0
    for index in sorted(faults):
        pieces.append(data[start : records.starts_R[index]])
        start = int(records.ends_R[index]) + 1
    return b"".join([*pieces, data[start:]])


def _table(data: bytes, names: Sequence[str], mark: bytes, quoted: bool) -> tuple[pa.Table, list[int]]:
    """The rows of well-formed records, and which records have more or fewer fields than there are names."""
    types = pa.schema([(name, pa.string()) for name in names])
    if not data:
        return types.empty_table(), []
    if len(mark) > 1:
        data, mark = data.replace(mark, SEPARATOR), SEPARATOR
    odd: list[int] = []

    def leave_out(record: csv.InvalidRow) -> str:
        odd.append(record.number - 1)
        return "skip"

    table = csv.read_csv(
        pa.BufferReader(data),
        csv.ReadOptions(use_threads=False, column_names=list(names), block_size=len(data) + 1),
        csv.ParseOptions(
            delimiter=mark.decode(),
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
            invalid_row_handler=leave_out,
        ),
        csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""]),
    )
    return table, odd
