"""JSON objects, one a line or all in one array: pyarrow reads what is plain, Python's json the rest."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from rayrec.data.json_values import EXACT, NO_OBJECT, OtherTypesError, columns, fitting, loads
from rayrec.data.lines import (
    BOM,
    Chunk,
    Stream,
    Unparseable,
    UnreadableError,
    is_utf8,
    numbered,
    unkept,
    unparseable,
    whole_lines,
)

SAMPLE = 100
"""Records that types are first guessed from."""
LEAF = 256
"""Records of a stretch that pyarrow refused which Python reads, rather than cutting it in two again."""
_SPACE = b" \t\r"
_INFINITE = re.compile(rb"Inf\s*[,\]}]")
_OPEN = re.compile(r"\s*\[\s*(\]\s*\Z)?")
_NEXT = re.compile(r"\s*(,|\]\s*\Z)\s*")


def read_json_lines(
    stream: Stream, fields: Sequence[str], block_bytes: int, max_record: int
) -> Iterator[tuple[pa.Table, list[Unparseable]]]:
    """Rows of some fields (absent: null) and `row`, a block at a time, and the lines that gave none.

    Args:
        stream: the file.
        fields: to take; one that is called `row` gives way.
        block_bytes: to read at once.
        max_record: bytes of the longest line; a longer one is refused.
    """
    fields = [name for name in fields if name != "row"]
    assert fields
    schema: pa.Schema | None = None
    row = 0
    for chunk in whole_lines(stream, block_bytes, max_record):
        if chunk.too_long:
            yield numbered(columns([], fields), row, []), [unkept(row, chunk)]
            row += 1
            continue
        schema = _guess(chunk.data, fields) if schema is None else schema
        table = _by_arrow(chunk.data.replace(b"\r\n", b"\n") if b"\r" in chunk.data else chunk.data, schema)
        refused: list[Unparseable] = []
        if table is None:
            table, refused = _careful(chunk, row, schema)
            schema = table.schema if len(table) else schema
        yield numbered(table, row, [fault.row - row for fault in refused]), refused
        row += len(table) + len(refused)
    if not row:
        yield numbered(columns([], fields), row, []), []


def read_json_array(
    data: bytes, fields: Sequence[str], block_bytes: int
) -> Iterator[tuple[pa.Table, list[Unparseable]]]:
    """As read_json_lines(), from a whole file that is one array of objects.

    Raises:
        UnreadableError: it is not.
    """
    fields = [name for name in fields if name != "row"]
    chunk = Chunk(len(BOM) if data.startswith(BOM) else 0, data.removeprefix(BOM))
    objects: list[dict[str, Any]] = []
    refused: list[Unparseable] = []
    row, first, begun = 0, 0, 0
    for start, end, value in _elements(chunk.data):
        if isinstance(value, dict):
            objects.append(value)
        else:
            refused.append(unparseable(row, chunk, start, end, NO_OBJECT))
        row += 1
        if end - begun >= block_bytes:
            yield numbered(columns(objects, fields), first, [fault.row - first for fault in refused]), refused
            objects, refused, first, begun = [], [], row, end
    if row > first or not row:
        yield numbered(columns(objects, fields), first, [fault.row - first for fault in refused]), refused


def keys(stream: Stream, max_record: int) -> list[str]:
    """The keys of the first records, in the order they are met."""
    found: dict[str, None] = {}
    for chunk in whole_lines(stream, max_record, max_record):
        for line in chunk.data.split(b"\n")[:SAMPLE]:
            value, _ = loads(line)
            found.update(dict.fromkeys(value or {}))
        if found:
            break
    return list(found)


def array_keys(data: bytes) -> list[str]:
    """The keys of the first objects of an array, in the order they are met.

    Raises:
        UnreadableError: it is no array.
    """
    found: dict[str, None] = {}
    for count, (_, _, value) in enumerate(_elements(data.removeprefix(BOM))):
        found.update(dict.fromkeys(value if isinstance(value, dict) else {}))
        if count == SAMPLE:
            break
    return list(found)


def _elements(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """The elements of an array, and where each begins and ends."""
    decoder = json.JSONDecoder()
    try:
        text = data.decode()
        place, mark = _behind(_OPEN, text, 0)
        told = byte = 0
        while not mark.startswith("]"):
            value, end = decoder.raw_decode(text, place)
            start = byte + len(text[told:place].encode())
            told, byte = end, start + len(text[place:end].encode())
            yield start, byte, value
            place, mark = _behind(_NEXT, text, end)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"is not one JSON array of objects ({error}); take array=False for one a line") from error


def _behind(pattern: re.Pattern[str], text: str, place: int) -> tuple[int, str]:
    """Where the next element begins, and the mark before it (or the bracket that closes the array)."""
    found = pattern.match(text, place)
    if found is None:
        raise ValueError(f"char {place}: expected a bracket or a comma")
    return found.end(), found[1] or ""


def _guess(data: bytes, fields: Sequence[str]) -> pa.Schema:
    """Types of the fields by the first lines."""
    values = (loads(line.strip(_SPACE))[0] for line in data.split(b"\n", SAMPLE)[:SAMPLE])
    return columns([value for value in values if value is not None], fields).schema


def _by_arrow(data: bytes, schema: pa.Schema) -> pa.Table | None:
    """The rows of some lines; None unless each line is an object, its fields are of these types and nothing is lost."""
    places = np.frombuffer(data, np.uint8)
    lines = np.count_nonzero(places == ord("\n"))
    # pyarrow takes objects that share a line or stretch over several, and dies of a null outside of one.
    borders = np.count_nonzero((places[:-2] == ord("}")) & (places[1:-1] == ord("\n")) & (places[2:] == ord("{")))
    if borders != lines - 1 or not data.startswith(b"{") or not data.endswith(b"}\n"):
        return None
    if not is_utf8(data):
        return None
    # Literals that pyarrow takes and Python does not; one byte is found much faster than three.
    if (b"I" in data and _INFINITE.search(data)) or (b"N" in data and b"-NaN" in data):
        return None
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    floats = [column for column in table.columns if pa.types.is_floating(column.type)]
    exact = not any(pc.any(pc.greater_equal(pc.abs(column), EXACT)).as_py() for column in floats)
    return table if len(table) == lines and exact else None


def _careful(chunk: Chunk, first_row: int, schema: pa.Schema) -> tuple[pa.Table, list[Unparseable]]:
    """The rows of a chunk that pyarrow did not take as a whole, and the lines that are no object."""
    raw = chunk.data.split(b"\n")[:-1]
    ends = (np.cumsum([len(line) + 1 for line in raw]) - 1).tolist()
    places = [place for place, line in enumerate(raw) if line.strip(_SPACE)]
    lines = [raw[place].strip(_SPACE) for place in places]
    faults: dict[int, str] = {}
    try:
        table = pa.concat_tables(_stretches(lines, 0, len(lines), schema, faults))
    except OtherTypesError:
        table = columns(_objects(lines, 0, len(lines), faults), schema.names)
    refused = []
    for index, reason in sorted(faults.items()):
        end = ends[places[index]]
        refused.append(unparseable(first_row + index, chunk, end - len(raw[places[index]]), end, reason))
    return table, refused


def _stretches(lines: list[bytes], start: int, end: int, schema: pa.Schema, faults: dict[int, str]) -> list[pa.Table]:
    """Rows of some lines, cut in two until pyarrow takes each piece or it is small; adds to the faults."""
    if end - start <= LEAF:
        return [fitting(_objects(lines, start, end, faults), schema)]
    table = _by_arrow(b"\n".join(lines[start:end]) + b"\n", schema)
    if table is not None:
        return [table]
    middle = (start + end) // 2
    return [
        *_stretches(lines, start, middle, schema, faults),
        *_stretches(lines, middle, end, schema, faults),
    ]


def _objects(lines: list[bytes], start: int, end: int, faults: dict[int, str]) -> list[dict[str, Any]]:
    """The objects of some lines; adds those that are none to the faults."""
    objects = []
    for index in range(start, end):
        value, fault = loads(lines[index])
        if value is None:
            faults[index] = fault
        else:
            objects.append(value)
    return objects
