"""Parquet files cut at row groups and read in batches."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.data.lines import UnreadableError

_BATCH_ROWS = 1 << 14
"""Rows decoded at once, at most: what a row takes once decoded is not known before."""
_BUFFER_BYTES = 1 << 20


def cut(source: Any, columns: Sequence[str], part_bytes: int) -> list[tuple[tuple[int, int], int, int]]:
    """Row groups (from, to), number of the first row and stored bytes of each part, in order.

    A file without row groups is one part without any.

    Args:
        source: a local path or an open file.
        columns: whose bytes count; empty: all.
        part_bytes: a part grows to about so much, and holds one row group at least.
    """
    found = pq.read_metadata(source)
    parts: list[tuple[tuple[int, int], int, int]] = []
    begun = first_row = row = size = 0
    for index in range(found.num_row_groups):
        group = found.row_group(index)
        chunks = [group.column(place) for place in range(group.num_columns)]
        group_bytes = sum(
            chunk.total_compressed_size
            for chunk in chunks
            if not columns or chunk.path_in_schema.partition(".")[0] in columns
        )
        if begun < index and size + group_bytes > part_bytes:
            parts.append(((begun, index), first_row, size))
            begun, first_row, size = index, row, 0
        size += group_bytes
        row += group.num_rows
    return [*parts, ((begun, found.num_row_groups), first_row, size)]


def names(source: Any) -> list[str]:
    """The names of a file's columns."""
    return list(pq.read_schema(source).names)


def read_parquet(
    source: Any, groups: tuple[int, int], first_row: int, columns: Sequence[str], block_bytes: int
) -> Iterator[pa.Table]:
    """Rows of some row groups and `row`, a batch at a time.

    Args:
        source: a local path or an open file.
        groups: from and to (exclusive).
        first_row: the number of the first row.
        columns: to read, all where empty; one that the file lacks is null, one that is called `row` gives way.
        block_bytes: of a batch, about.

    Raises:
        UnreadableError: the file has none of the columns.
    """
    # Local row groups are streamed; from afar the columns of one are fetched in a few large requests.
    local = isinstance(source, str)
    with pq.ParquetFile(source, pre_buffer=not local, buffer_size=_BUFFER_BYTES if local else 0) as file:
        there = file.schema_arrow
        wanted = [name for name in columns or there.names if name in there.names and name != "row"]
        if not wanted:
            raise UnreadableError(f"has none of the columns {', '.join(columns)}; found {', '.join(there.names)}")
        row, size = first_row, 0
        held: list[pa.RecordBatch] = []
        kinds = pa.schema([there.field(name) for name in wanted])
        for group in range(*groups):
            about = file.metadata.row_group(group)
            rows = min(_BATCH_ROWS, max(1, block_bytes * about.num_rows // max(1, about.total_byte_size)))
            for batch in file.iter_batches(rows, row_groups=[group], columns=wanted, use_threads=False):
                held.append(batch)
                size += batch.nbytes
                if size >= block_bytes:
                    yield (table := _as_asked(held, kinds, columns, row))
                    row, size, held = row + len(table), 0, []
        if held or row == first_row:
            yield _as_asked(held, kinds, columns, row)


def _as_asked(batches: list[pa.RecordBatch], kinds: pa.Schema, columns: Sequence[str], row: int) -> pa.Table:
    """Batches as one table, absent columns as nulls, with the rows' numbers."""
    table = pa.Table.from_batches(batches, kinds)
    for name in columns:
        if name not in table.column_names and name != "row":
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    return table.append_column("row", pa.array(np.arange(row, row + len(table))))
