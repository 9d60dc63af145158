"""A dataset's files: Parquet, the same bytes for the same rows, written bucket by bucket, published at the end."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from rayrec.data.sequence import Plan, build
from rayrec.schema import ITEM_STATS
from rayrec.storage import join, publish, write_bytes

SPLITS = ("train", "valid", "test")

WRITTEN = pa.schema(
    [
        ("bucket", pa.int32()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("rows", pa.int64()),
        ("targets", pa.int64()),
        ("users", pa.int64()),
        ("events", pa.int64()),
        ("repeats", pa.int64()),
        ("stats", pa.list_(pa.struct(ITEM_STATS))),
    ]
)
"""One row a written file, and one with a null path a bucket, for the bucket's users, events, repeats and counts."""


@dataclass(frozen=True)
class Job:
    """What every write task needs.

    Attributes:
        uri: the dataset's directory.
        plan: what rows depend on besides the events.
        rows_per_group: training and evaluation rows of a Parquet row group.
    """

    uri: str
    plan: Plan
    rows_per_group: int


def write_table(uri: str, path: str, table: pa.Table, rows_per_group: int | None = None) -> dict[str, Any]:
    """Writes a table below `uri` and returns its manifest entry.

    Args:
        uri: the artifact's directory.
        path: of the file within it.
        table: its schema, metadata included, is written as it is.
        rows_per_group: rows of a Parquet row group; None for Arrow's default.
    """
    buffer = io.BytesIO()
    parquet.write_table(table.combine_chunks(), buffer, row_group_size=rows_per_group, compression="zstd")
    return write_bytes(join(uri, path), buffer.getvalue())


def write_buckets(block: pa.Table, job: Job) -> pa.Table:
    """Writes the files of each bucket in a block, the same bytes if it runs again.

    Args:
        block: RAW_INTERACTIONS with `item`, `reason` and `bucket`; whole buckets.
        job: where to and how.

    Returns:
        a table of the WRITTEN schema.
    """
    rows: list[dict[str, Any]] = []
    for bucket in sorted(pc.unique(block["bucket"]).to_pylist()):
        whole = block.filter(pc.equal(block["bucket"], bucket)).drop_columns("bucket")
        events = whole.filter(pc.is_null(whole["reason"]))
        built = build(events, job.plan)
        refused = whole.filter(pc.is_valid(whole["reason"])).drop_columns("item")
        refused = refused.sort_by([(name, "ascending") for name in refused.column_names])
        summary = {"users": built.users, "repeats": built.repeats, "stats": built.stats.to_pylist()}
        rows.append({"bucket": bucket, "events": len(events), **summary})
        for folder, table in {**built.tables, "quarantine": refused}.items():
            if len(table):
                path = f"{folder}/part-{bucket:05d}.parquet"
                entry = write_table(job.uri, path, table, job.rows_per_group if folder.startswith("rows/") else None)
                rows.append({"bucket": bucket, "path": path, "rows": len(table), "targets": _targets(table), **entry})
    return pa.Table.from_pylist(rows, WRITTEN)


def _targets(table: pa.Table) -> int:
    if "first_target" not in table.column_names:
        return 0
    lengths = pc.sum(pc.list_value_length(table["items"])).as_py()
    return int(lengths - pc.sum(table["first_target"]).as_py())


def publish_dataset(
    job: Job,
    written: pa.Table,
    items: pa.Table,
    refused_items: pa.Table,
    reasons: dict[str, int],
    about: Mapping[str, Any],
) -> None:
    """Writes what is not bucketed, then the manifest.

    Args:
        job: the job of all buckets.
        written: what write_buckets returned, all buckets together.
        items: the catalogue, of the CATALOGUE schema.
        refused_items: items not taken, with a `reason`.
        reasons: quarantined interactions by reason.
        about: further keys of the manifest.

    Raises:
        ValueError: a bucket came in several blocks, there is one user, or a split is empty.
    """
    written = written.sort_by([("bucket", "ascending"), ("path", "ascending")])
    buckets = written.filter(pc.is_null(written["path"]))
    parts = written.filter(pc.is_valid(written["path"])).drop_columns("stats").to_pylist()
    users, events, repeats = (pc.sum(buckets[name]).as_py() for name in ("users", "events", "repeats"))
    if len(buckets) != len(pc.unique(buckets["bucket"])):
        raise ValueError("a bucket of users is larger than a block of Ray Data; raise `buckets` in the config")
    if users < 2:
        raise ValueError(f"the logs hold {users} user; expected at least 2, and in practice hundreds")
    counts = {
        "users": users,
        "rows": _count_rows(parts),
        "interactions": {
            "read": events + sum(reasons.values()),
            "kept": events - repeats,
            "filtered": {"exact repeat": repeats},
            "quarantined": reasons,
        },
        "items": {
            "read": len(items) + len(refused_items),
            "kept": len(items),
            "quarantined": tally(refused_items["reason"]),
        },
    }
    files = {part["path"]: {"size": part["size"], "sha256": part["sha256"]} for part in parts}
    sides = {"items/part-0.parquet": items, "item_stats/part-0.parquet": _sum_stats(buckets)}
    if len(refused_items):
        sides["quarantine/items.parquet"] = refused_items
    files |= {path: write_table(job.uri, path, table) for path, table in sides.items()}
    known = {
        "counts": counts,
        "cutoffs": asdict(job.plan.cutoffs),
        "num_items": len(items),
        "history_length": job.plan.history_length,
        "like_rule": asdict(job.plan.rule),
    }
    publish(job.uri, "dataset", files, **{**about, **known})


def tally(reasons: pa.ChunkedArray) -> dict[str, int]:
    """Rows by reason."""
    return {str(pair["values"]): pair["counts"] for pair in pc.value_counts(reasons).to_pylist()}


def _count_rows(parts: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    rows = {split: {"rows": 0, "targets": 0} for split in SPLITS}
    for part in parts:
        folder, _, split = part["path"].rpartition("/")[0].partition("/")
        if folder == "rows":
            rows[split]["rows"] += part["rows"]
            rows[split]["targets"] += part["targets"]
    for split, count in rows.items():
        if not count["rows"]:
            raise ValueError(
                f"the {split} split holds no target; expected users who met items they had not met before in each "
                "window of time: use more logs, or change valid_fraction, test_fraction and the held-out shares"
            )
    return rows


def _sum_stats(buckets: pa.Table) -> pa.Table:
    flat = pa.Table.from_struct_array(pc.list_flatten(buckets["stats"]).combine_chunks())
    sums = flat.group_by(["item", "day"]).aggregate([("count", "sum"), ("likes", "sum")])
    sums = sums.rename_columns({"count_sum": "count", "likes_sum": "likes"})
    return sums.sort_by([("item", "ascending"), ("day", "ascending")]).select(ITEM_STATS.names).cast(ITEM_STATS)
