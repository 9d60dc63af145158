from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from rayrec.data.config import DataConfig, SplitConfig
from rayrec.data.phases import sum_counts
from rayrec.data.shards import bucket_events, bucket_users, stats_paths, write_impressions, write_item_stats
from rayrec.data.work import Work, slices_bytes, write_table
from rayrec.schema import IMPRESSIONS, ITEM_STATS
from tests.synthetic import SyntheticLogs, generate, published

LOGS = generate(num_users=40, num_items=40, num_interactions=800)


def with_interactions(interactions: pa.Table) -> SyntheticLogs:
    return replace(LOGS, interactions=interactions)


def coded(values: list[str | None]) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def scratch(folder: Path, *tables: pa.Table) -> tuple[Work, list[str]]:
    """Files of slices with one bucket each."""
    work = Work(str(folder), "_work/x")
    paths = [work.scratch(f"{number}.slices") for number in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        work.write(path, slices_bytes([table]))
    return work, paths


def test_counts_add_up(tmp_path: Path) -> None:
    dataset = published(LOGS, tmp_path)
    counts = dataset.manifest["counts"]
    assert counts["users"] == 40
    assert (counts["interactions"]["read"], counts["interactions"]["kept"]) == (800, 800)
    assert set(counts["interactions"]["filtered"].values()) == {0}
    assert counts["user_records"] == {"read": 40, "kept": 40, "filtered": {"user told again": 0}, "quarantined": {}}
    for split, count in counts["rows"].items():
        rows = dataset.rows(split)
        targets = pc.sum(pc.list_value_length(rows["items"])).as_py() - pc.sum(rows["first_target"]).as_py()
        assert count == {"rows": len(rows), "targets": targets}


def test_rows_lie_in_small_row_groups(tmp_path: Path) -> None:
    write_table(str(tmp_path), "x.parquet", pa.table({"a": range(10)}), 4)
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3


def test_one_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hold 1 user"):
        published(with_interactions(LOGS.interactions.slice(0, 20)), tmp_path)


def test_a_split_without_targets_is_refused(tmp_path: Path) -> None:
    rows = LOGS.interactions.slice(0, 2).to_pylist()
    # Two users who met one item, over and over: nothing new lies in any later window.
    repeated = [
        {**row, "user_id": user, "item_id": rows[0]["item_id"], "timestamp": row["timestamp"] + 86_400 * day}
        for row in rows
        for user in ("user-00000", "user-00001")
        for day in range(10)
    ]
    logs = with_interactions(pa.Table.from_pylist(repeated, LOGS.interactions.schema))
    with pytest.raises(ValueError, match="the valid split holds no target"):
        published(logs, tmp_path, DataConfig(split=SplitConfig(held_out_test=0, held_out_valid=0)))


def test_slices_of_events_become_one_table_in_their_order(tmp_path: Path) -> None:
    plain = {"item": pa.array([1, 2], pa.int32()), "timestamp": [5, 4], "rating": pa.array([1, None], pa.float32())}
    first = pa.table({"user_id": coded(["b", "a"]), **plain, "event": coded([None, "click"])})
    words = pa.array([[7], None], pa.list_(pa.int32()))
    second = pa.table({"user_id": coded(["c", "b"]), **plain, "event": coded(["play", None]), "terms": words})
    work, paths = scratch(tmp_path, first, second)
    events = bucket_events(work, paths, 0)
    assert events["user_id"].to_pylist() == ["b", "a", "c", "b"]
    assert events["event"].to_pylist() == [None, "click", "play", None]
    assert events["terms"].to_pylist() == [None, None, [7], None]
    assert events.schema.field("user_id").type == pa.string()
    assert "terms" not in bucket_events(work, paths[:1], 0).column_names
    assert len(bucket_events(work, [], 0)) == 0


def test_what_was_told_of_a_user_last_counts(tmp_path: Path) -> None:
    first = pa.table({"user_id": coded(["b", "a", "b"]), "text": ["one", "two", "three"]})
    second = pa.table({"user_id": coded(["a"]), "text": pa.array([None], pa.string())})
    work, paths = scratch(tmp_path, first, second)
    assert bucket_users(work, paths, 0).to_pylist() == [
        {"user_id": "a", "text": None},
        {"user_id": "b", "text": "three"},
    ]
    assert bucket_users(work, paths[::-1], 0)["text"].to_pylist() == ["two", "three"]


def test_pieces_of_statistics_are_summed(tmp_path: Path) -> None:
    pieces = ([(3, 9, 1, 0), (2, 9, 2, 1)], [(2, 9, 5, 4), (2, 8, 1, 1)])
    work = Work(str(tmp_path), "_work/x")
    for bucket, rows in enumerate(pieces):
        columns = [pa.array(column, pa.int32()) for column in zip(*rows, strict=True)]
        table = pa.table(columns, schema=ITEM_STATS)
        work.write(work.scratch("stats", f"{bucket:05d}.slices"), slices_bytes([table.slice(0, 0), table]))
    paths = stats_paths(work, 2, 0)
    assert write_item_stats(work, paths, 0) == {"rows": 0, "files": {}}
    write_item_stats(work, paths, 1)
    table = parquet.read_table(tmp_path / "item_stats" / "part-00001.parquet")
    assert table.schema == ITEM_STATS
    assert [tuple(row.values()) for row in table.to_pylist()] == [(2, 8, 1, 1), (2, 9, 7, 5), (3, 9, 1, 0)]


def test_impressions_lie_by_user_and_time(tmp_path: Path) -> None:
    rows = [("x", "b", 2), ("y", "a", 9), ("z", "b", 2), ("w", "b", 1)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    lists = [pa.array([[number]] * 4, pa.list_(kind)) for number, kind in ((5, pa.int32()), (True, pa.bool_()))]
    table = pa.table([columns[0], coded(columns[1]), pa.array(columns[2], pa.int64()), *lists], IMPRESSIONS.names)
    work, paths = scratch(tmp_path, table)
    write_impressions(work, paths, 0)
    found = parquet.read_table(tmp_path / "impressions" / "part-00000.parquet")
    assert found.schema == IMPRESSIONS
    assert found["impression_id"].to_pylist() == ["y", "w", "x", "z"]


def test_nests_of_counts_are_summed_key_by_key() -> None:
    first = {"rows": 1, "by": {"a": 2}}
    assert sum_counts({}, first) == first
    assert sum_counts(first, {"rows": 3, "by": {"a": 1, "b": 5}}) == {"rows": 4, "by": {"a": 3, "b": 5}}
    assert np.array_equal(sum_counts({"n": 1}, {})["n"], 1)
