from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from rayrec.data.config import DataConfig
from rayrec.data.shards import Job, publish_dataset, write_buckets, write_table
from rayrec.storage import verify
from tests.synthetic import SyntheticLogs, generate, judged, published

LOGS = generate(num_users=40, num_items=40, num_interactions=800)


def with_interactions(interactions: pa.Table) -> SyntheticLogs:
    return replace(LOGS, interactions=interactions)


def test_the_order_of_rows_changes_no_byte(tmp_path: Path) -> None:
    shuffled = LOGS.interactions.take(pa.array(np.random.default_rng(0).permutation(800)))
    first = published(LOGS, tmp_path / "first")
    second = published(with_interactions(shuffled), tmp_path / "second")
    assert first.manifest == second.manifest
    assert verify(first.uri, "dataset") == first.manifest


def test_the_number_of_buckets_changes_files_and_not_rows(tmp_path: Path) -> None:
    few, many = (published(LOGS, tmp_path / str(count), DataConfig(buckets=count)) for count in (1, 8))
    assert len(few.files("rows/train")) == 1
    assert len(many.files("rows/train")) > 4
    assert few.manifest["counts"] == many.manifest["counts"]
    order = [("user_id", "ascending"), ("as_of", "ascending")]
    assert few.rows("train").sort_by(order) == many.rows("train").sort_by(order)
    assert few.stats().counts.tolist() == many.stats().counts.tolist()


def test_counts_add_up(tmp_path: Path) -> None:
    dataset = published(LOGS, tmp_path)
    counts = dataset.manifest["counts"]
    assert counts["users"] == 40
    assert counts["interactions"] == {"read": 800, "kept": 800, "filtered": {"exact repeat": 0}, "quarantined": {}}
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
        published(logs, tmp_path, DataConfig(held_out_test=0, held_out_valid=0))


def test_a_bucket_in_two_blocks_is_refused(tmp_path: Path) -> None:
    events, items, plan = judged(LOGS, DataConfig(buckets=1))
    job = Job(str(tmp_path), plan, 64)
    written = pa.concat_tables([write_buckets(events.slice(0, 400), job), write_buckets(events.slice(400), job)])
    refused = items.slice(0, 0).append_column("reason", pa.array([], pa.string()))
    with pytest.raises(ValueError, match="raise `buckets`"):
        publish_dataset(job, written, items, refused, {}, {})
