"""From the slices of a bucket of users to the dataset's files: Parquet, the same bytes for the same rows."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.door import slices_path
from rayrec.data.plan import Plan
from rayrec.data.previous import Previous, events_of
from rayrec.data.sequence import build
from rayrec.data.work import Record, Work, dealt, read_slices, slices_bytes, write_table
from rayrec.schema import EVENTS, HISTORIES, IMPRESSIONS, ITEM_STATS, RAW_USERS, TRIPLES, USERS

SPLITS = ("train", "valid", "test")

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
    return _newest(_gathered(read_slices(work, paths, bucket), RAW_USERS).cast(USERS))


def _newest(told: pa.Table) -> pa.Table:
    """The last row of each user, in the order of ids."""
    numbered = told.append_column("row", pa.array(np.arange(len(told))))
    last = numbered.group_by("user_id").aggregate([("row", "max")]).sort_by("user_id")["row_max"]
    return told.take(last)


def write_bucket(
    work: Work,
    plan: Plan,
    ranges: int,
    paths: Mapping[str, Sequence[str]],
    previous: Previous | None,
    bucket: int,
) -> Record:
    """Writes a bucket's histories, rows and what is known of its users, and its piece of the item statistics.

    Args:
        work: where.
        plan: what rows depend on besides the events.
        ranges: into how many the item statistics are dealt.
        paths: files of slices of `interactions` and `users`, in the order of the logs.
        previous: the dataset that this one goes on from, if any.
        bucket: which.

    Returns:
        A record: rows (interactions), kept, filtered, carried, new, late (see Built), users (with events),
        distinct_users (told of), counts (rows and targets by split).
    """
    events = bucket_events(work, paths["interactions"], bucket)
    users = bucket_users(work, paths["users"], bucket)
    told, before, name = len(users), None, f"part-{bucket:05d}.parquet"
    if previous is not None:
        before = events_of(previous.table(f"histories/{name}", HISTORIES), plan.rule)
        users = _newest(pa.concat_tables([previous.table(f"users/{name}", USERS), users]))
    built = build(events, plan, users, before)
    files = work.write(_stats_path(work, bucket), slices_bytes(_by_range(built.stats, len(plan.held_out_N), ranges)))
    for folder, table in {**built.tables, "users": users.filter(pc.is_valid(users["text"]))}.items():
        if len(table):
            size = rows_per_group(len(table)) if folder.startswith("rows/") else None
            files |= write_table(work.uri, f"{folder}/{name}", table, size)
    return {
        "rows": len(events),
        "kept": built.kept,
        "filtered": built.filtered,
        "carried": built.carried,
        "new": built.new,
        "late": built.late,
        "users": built.users,
        "distinct_users": told,
        "counts": {split: count_rows(built.tables[f"rows/{split}"]) for split in SPLITS},
        "files": files,
    }


def count_rows(rows: pa.Table) -> dict[str, int]:
    """Rows and targets of a table of ROWS."""
    lengths = pc.sum(pc.list_value_length(rows["items"])).as_py() or 0
    return {"rows": len(rows), "targets": lengths - (pc.sum(rows["first_target"]).as_py() or 0)}


def stats_paths(work: Work, buckets: int, parts: int) -> list[str]:
    """Scratch files of item statistics: of buckets of users, and of so many parts of a previous dataset's."""
    old = [_old_stats_path(work, part) for part in range(parts)]
    return old + [_stats_path(work, bucket) for bucket in range(buckets)]


def _stats_path(work: Work, bucket: int) -> str:
    return work.scratch("stats", f"{bucket:05d}.slices")


def _old_stats_path(work: Work, part: int) -> str:
    return work.scratch("stats", f"old-{part:05d}.slices")


def _by_range(stats: pa.Table, num_items: int, ranges: int) -> list[pa.Table]:
    return dealt(stats, stats["item"].to_numpy().astype(np.int64) * ranges // max(num_items, 1), ranges)


def deal_old_stats(work: Work, previous: Previous, num_items: int, ranges: int, part: int) -> Record:
    """Deals a part of a previous dataset's item statistics to ranges of items.

    Args:
        work: where.
        previous: the dataset.
        num_items: of the catalogue now.
        ranges: into how many the item statistics are dealt.
        part: which.
    """
    stats = previous.table(previous.paths("item_stats")[part], ITEM_STATS)
    data = slices_bytes(_by_range(stats, num_items, ranges))
    return {"rows": len(stats), "files": work.write(_old_stats_path(work, part), data)}


def write_item_stats(work: Work, paths: Sequence[str], number: int) -> Record:
    """Sums a range of items over all of some scratch files and writes its part of item_stats/."""
    pieces = read_slices(work, paths, number)
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
