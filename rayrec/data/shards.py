"""From the slices of a bucket of users to the dataset's files: Parquet, the same bytes for the same rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.door import slices_path
from rayrec.data.plan import Plan
from rayrec.data.sequence import build
from rayrec.data.work import Record, Work, dealt, read_slices, slices_bytes, write_table
from rayrec.schema import IMPRESSIONS, ITEM_STATS, TRIPLES, USERS

SPLITS = ("train", "valid", "test")

EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item", pa.int32()),
        ("timestamp", pa.int64()),
        ("rating", pa.float32()),
        ("event", pa.string()),
    ]
)
"""What build() takes; `terms` beside it where there are reviews."""

GROUPS_PER_FILE, LEAST_ROWS, MOST_ROWS = 32, 16, 1024


def rows_per_group(rows: int) -> int:
    """Of a file of so many: enough groups to deal to streams where rows are few, large ones where they are many."""
    return min(max(rows // GROUPS_PER_FILE, LEAST_ROWS), MOST_ROWS)


def _gathered(tables: list[pa.Table], schema: pa.Schema) -> pa.Table:
    """Slices as one table of plain columns, in their order; a column that only some have is null in the others."""
    table = pa.concat_tables([schema.empty_table(), *(_plain(table) for table in tables)], promote_options="default")
    return table.combine_chunks()


def _plain(table: pa.Table) -> pa.Table:
    columns = [
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, table.column_names)


def bucket_events(work: Work, paths: Sequence[str], bucket: int) -> pa.Table:
    """The interactions of whole users, in the order of the logs: EVENTS and, where there are reviews, `terms`."""
    return _gathered(read_slices(work, paths, bucket), EVENTS)


def bucket_users(work: Work, paths: Sequence[str], bucket: int) -> pa.Table:
    """What is known of the bucket's users, of the USERS schema in the order of ids; what was told last counts."""
    told = _gathered(read_slices(work, paths, bucket), pa.schema([field.with_nullable(True) for field in USERS]))
    told = told.append_column("row", pa.array(np.arange(len(told))))
    last = told.group_by("user_id").aggregate([("row", "max")]).sort_by("user_id")["row_max"]
    return told.take(last).drop_columns("row").cast(USERS)


def write_bucket(
    work: Work,
    plan: Plan,
    ranges: int,
    paths: Mapping[str, Sequence[str]],
    bucket: int,
) -> Record:
    """Writes a bucket's histories and rows, and its piece of the item statistics.

    Args:
        work: where.
        plan: what rows depend on besides the events.
        ranges: into how many the item statistics are dealt.
        paths: files of slices of `interactions` and `users`, in the order of the logs.
        bucket: which.

    Returns:
        A record: rows (interactions), kept, filtered, users (with events), told_again (users), counts (rows and targets
        by split).
    """
    events = bucket_events(work, paths["interactions"], bucket)
    # What a user wrote is there as terms already.
    events = events.append_column("review", pa.nulls(len(events), pa.string()))
    users = bucket_users(work, paths["users"], bucket)
    built = build(events, plan, users)
    files = work.write(_stats_path(work, bucket), slices_bytes(_by_range(built.stats, len(plan.held_out_N), ranges)))
    for folder, table in built.tables.items():
        if len(table):
            size = rows_per_group(len(table)) if folder.startswith("rows/") else None
            files |= write_table(work.uri, f"{folder}/part-{bucket:05d}.parquet", table, size)
    return {
        "rows": len(events),
        "kept": built.kept,
        "filtered": built.filtered,
        "users": built.users,
        "distinct_users": len(users),
        "counts": {split: _counts(built.tables[f"rows/{split}"]) for split in SPLITS},
        "files": files,
    }


def _counts(rows: pa.Table) -> dict[str, int]:
    lengths = pc.sum(pc.list_value_length(rows["items"])).as_py() or 0
    return {"rows": len(rows), "targets": lengths - (pc.sum(rows["first_target"]).as_py() or 0)}


def _stats_path(work: Work, bucket: int) -> str:
    return work.scratch("stats", f"{bucket:05d}.slices")


def _by_range(stats: pa.Table, num_items: int, ranges: int) -> list[pa.Table]:
    return dealt(stats, stats["item"].to_numpy().astype(np.int64) * ranges // max(num_items, 1), ranges)


def write_item_stats(work: Work, buckets: int, number: int) -> Record:
    """Sums a range of items over all buckets of users and writes its part of item_stats/."""
    pieces = read_slices(work, [_stats_path(work, bucket) for bucket in range(buckets)], number)
    total = ITEM_STATS.empty_table()
    for piece in pieces:
        total = pa.concat_tables([total, piece])
    sums = total.group_by(["item", "day"], use_threads=False).aggregate([("count", "sum"), ("likes", "sum")])
    sums = sums.rename_columns({"count_sum": "count", "likes_sum": "likes"})
    sums = sums.sort_by([("item", "ascending"), ("day", "ascending")]).select(ITEM_STATS.names).cast(ITEM_STATS)
    files = write_table(work.uri, f"item_stats/part-{number:05d}.parquet", sums) if len(sums) else {}
    return {"rows": len(total), "files": files}


def write_impressions(work: Work, paths: Sequence[str], bucket: int) -> Record:
    """Writes a bucket's impressions by user and time, those of one moment in the order of the logs."""
    table = _gathered(read_slices(work, paths, bucket), IMPRESSIONS)
    order = pc.sort_indices(table, [("user_id", "ascending"), ("timestamp", "ascending")])
    files = write_table(work.uri, f"impressions/part-{bucket:05d}.parquet", table.take(order)) if len(table) else {}
    return {"rows": len(table), "files": files}


def write_triples(work: Work, blocks: Mapping[int, int], part: int) -> Record:
    """Writes the triples of one part of the logs; `blocks` tells how many files of slices each part has."""
    paths = [slices_path(work, "triples", part, block) for block in range(blocks[part])]
    table = _gathered(read_slices(work, paths, 0), TRIPLES)
    files = write_table(work.uri, f"triples/part-{part:05d}.parquet", table) if len(table) else {}
    return {"rows": len(table), "files": files}
