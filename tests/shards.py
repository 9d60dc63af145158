"""Training rows written by hand: shards of any sizes, published as a dataset that holds nothing else."""

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rayrec.data.dataset import Dataset
from rayrec.schema import ITEM_STATS, ROWS
from rayrec.storage import join, publish, write_bytes

NUM_ITEMS, LONGEST = 40, 12
END_MS = 100 * 86_400_000


def training_rows(count: int, seed: int = 0) -> pa.Table:
    """Rows of the ROWS schema, each with another user."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum([0, *rng.integers(1, LONGEST + 1, count)]).tolist()
    items, likes = rng.integers(0, NUM_ITEMS, ends[-1]).tolist(), rng.integers(-1, 2, ends[-1]).tolist()
    return pa.table(
        {
            "user_id": [f"user-{seed}-{row}" for row in range(count)],
            "as_of": np.arange(count) + 1000,
            "items": [items[begin:end] for begin, end in pairwise(ends)],
            "likes": [likes[begin:end] for begin, end in pairwise(ends)],
            "first_target": rng.integers(0, np.diff(ends)),
            "profile": [f"likes {seed} and {row}" if row % 3 else None for row in range(count)],
            "seen": pa.nulls(count, pa.list_(pa.int32())),
        }
    ).cast(ROWS)


def dataset(uri: str, files: Sequence[int], rows_per_group: int) -> Dataset:
    """A published dataset whose training rows lie in one file for each number of rows."""
    every = np.arange(NUM_ITEMS)
    stats = pa.table({"item": every, "day": every * 0, "count": every * 0 + 1, "likes": every * 0}).cast(ITEM_STATS)
    tables = {f"rows/train/part-{number:05d}.parquet": training_rows(rows, number) for number, rows in enumerate(files)}
    entries = {}
    for path, table in {**tables, "item_stats/part-0.parquet": stats}.items():
        buffer = io.BytesIO()
        parquet.write_table(table, buffer, row_group_size=rows_per_group)
        entries[path] = write_bytes(join(uri, path), buffer.getvalue())
    rule = {"like_threshold": 4.0, "liked_events": [], "disliked_events": []}
    cutoffs = {"valid": END_MS, "test": END_MS, "end": END_MS}
    publish(uri, "dataset", entries, cutoffs=cutoffs, num_items=NUM_ITEMS, history_length=LONGEST, like_rule=rule)
    return Dataset(uri)
