"""Where records end when their fields may stand in quotes, with delimiters and newlines in them (RFC 4180).

A quote opens a field only at the field's start, so `5" screen` is plain text. Where a quote closes, the field must end;
where it does not, or does not close within the longest record allowed, the line alone is broken and the next one starts
afresh, so that one stray quote cannot swallow the rows behind it.

Letters: Q quotes, N newlines, R records.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rayrec.data.lines import NEWLINE, RETURN, Chunk, Records, has_stray_return, stray_returns, without_blanks

QUOTE = 34


def quoted_records(lines: Iterator[Chunk], delimiter: bytes, max_record: int) -> Iterator[Chunk]:
    """Chunks of whole lines as chunks of whole records; where they lie is told where that took more than a look.

    Args:
        lines: as whole_lines() gives them.
        delimiter: one byte.
        max_record: bytes; a quoted record that is longer is taken for one that lost its closing quote.
    """
    rest, offset = b"", 0
    for chunk in lines:
        if chunk.too_long:
            # A record that reaches into this line is too long whatever follows.
            if rest:
                yield _split(Chunk(offset, rest), delimiter, max_record, final=True)[0]
            rest = b""
            yield chunk
            continue
        chunk = replace(chunk, offset=offset if rest else chunk.offset, data=rest + chunk.data)
        whole, cut = _whole(chunk, delimiter, max_record)
        if cut:
            yield whole
        rest, offset = chunk.data[cut:], chunk.offset + cut
    if rest:
        yield _split(Chunk(offset, rest), delimiter, max_record, final=True)[0]


def _whole(chunk: Chunk, delimiter: bytes, max_record: int) -> tuple[Chunk, int]:
    """The whole records at the front of a chunk, and where they end."""
    if b'"' not in chunk.data and not has_stray_return(chunk.data):
        return chunk, len(chunk.data)
    cut = _regular_end(chunk.data, delimiter, max_record)
    if cut is None:
        return _split(chunk, delimiter, max_record, final=False)
    return replace(chunk, data=chunk.data[:cut]), cut


def _regular_end(data: bytes, delimiter: bytes, max_record: int) -> int | None:
    """Where the last record ends if every quote opens, closes or is doubled as it should; None if that is not sure."""
    if has_stray_return(data):
        return None
    places = np.frombuffer(data, np.uint8)
    quotes_Q = np.flatnonzero(places == QUOTE)
    opening_Q, closing_Q = quotes_Q[::2], quotes_Q[1::2]
    # places[-1] is the last newline: right, for it stands before a quote at position 0.
    before = places[opening_Q - 1]
    opens = (before == delimiter[0]) | (before == NEWLINE)
    if not opens.all():
        opens[1:] |= opening_Q[1:] - closing_Q[: len(opening_Q) - 1] == 1
    after = places[closing_Q + 1]
    closes = (after == delimiter[0]) | (after == NEWLINE) | (after == RETURN) | (after == QUOTE)
    if not (opens.all() and closes.all()):
        return None

    def outside(low: int, high: int) -> int:
        """The last newline from low to high that no quotes enclose, or -1."""
        while (newline := data.rfind(b"\n", low, high)) >= 0 and np.searchsorted(quotes_Q, newline) % 2:
            high = newline
        return newline

    low = max(0, len(data) - max_record - 1)
    cut = outside(low, len(data)) + 1
    if low and not cut:
        return None
    step = max(1, max_record // 2)
    near = all(outside(low, low + step) >= 0 for low in range(0, cut - step, step))
    return cut if near else None


def split(chunk: Chunk, delimiter: bytes, max_record: int) -> Records:
    """Where the records of a chunk of whole records lie."""
    found = chunk.records or _split(chunk, delimiter, max_record, final=True)[0].records
    assert found is not None
    return found


def _split(chunk: Chunk, delimiter: bytes, max_record: int, final: bool) -> tuple[Chunk, int]:
    """The records at the front of a chunk, and where the first one begins whose end is not there (never if `final`).

    Between two doubtful bytes the number of quotes before a newline tells whether it ends a record. A record with a
    doubtful byte is matched alone, and counting begins anew behind it.
    """
    data, places = chunk.data, np.frombuffer(chunk.data, np.uint8)
    quotes_Q, newlines_N = np.flatnonzero(places == QUOTE), np.flatnonzero(places == NEWLINE)
    odd_N = np.searchsorted(quotes_Q, newlines_N) % 2 == 1
    ends_by_base = (newlines_N[~odd_N], newlines_N[odd_N])
    doubtful_by_base = _doubtful(places, quotes_Q, delimiter)
    record = _pattern(delimiter)
    runs: list[Records] = []
    start = 0
    while start < len(data):
        base = int(np.searchsorted(quotes_Q, start)) % 2
        ends, doubtful = ends_by_base[base], doubtful_by_base[base]
        known = np.searchsorted(doubtful, start)
        limit = doubtful[known] if known < len(doubtful) else len(data)
        ends_R = ends[np.searchsorted(ends, start) : np.searchsorted(ends, limit)]
        starts_R = np.concatenate([[start], ends_R[:-1] + 1]) if len(ends_R) else ends_R
        long = np.flatnonzero(ends_R - starts_R > max_record)
        kept = int(long[0]) if len(long) else len(ends_R)
        if kept:
            runs.append(Records(starts_R[:kept], ends_R[:kept], np.zeros(kept, bool)))
            start = int(ends_R[kept - 1]) + 1
        if start == len(data):
            break
        match = record.match(data, start, start + max_record + 1)
        if match is None and not final and len(data) - start <= max_record:
            break
        end = match.end() - 1 if match else data.index(b"\n", start)
        runs.append(Records(np.array([start]), np.array([end]), np.array([match is None])))
        start = end + 1
    empty = np.zeros(0, np.int64)
    records = Records(*(np.concatenate(values) for values in zip(*runs, (empty, empty, empty > 0), strict=True)))
    return Chunk(chunk.offset, data[:start], without_blanks(places, records)), start


def _doubtful(places: np.ndarray, quotes_Q: np.ndarray, delimiter: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Positions that counting cannot judge: if quotes of even number open fields, and if those of odd number do."""
    before, after = places[quotes_Q - 1], places[quotes_Q + 1]
    doubled = np.diff(quotes_Q, prepend=-2) == 1
    opens_Q = (before == delimiter[0]) | (before == NEWLINE) | doubled
    closes_Q = (after == delimiter[0]) | (after == NEWLINE) | (after == RETURN) | (after == QUOTE)
    even_Q = np.arange(len(quotes_Q)) % 2 == 0
    returns = stray_returns(places)
    return (
        np.union1d(quotes_Q[~np.where(even_Q, opens_Q, closes_Q)], returns),
        np.union1d(quotes_Q[~np.where(even_Q, closes_Q, opens_Q)], returns),
    )


def _pattern(delimiter: bytes) -> re.Pattern[bytes]:
    """One well-formed record with its newline."""
    mark = re.escape(delimiter)
    field = rb'(?:"(?:[^"]++|"")*+"|[^"' + mark + rb"\r\n][^" + mark + rb"\r\n]*+|)"
    return re.compile(field + rb"(?:" + mark + field + rb")*+\r?\n")
