"""The Ray Data job: the same bytes as without Ray, whatever the files' order; bad rows aside, bad logs refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rayrec.data.config import DataConfig
from rayrec.data.dataset import Dataset
from rayrec.data.prepare import prepare
from rayrec.storage import verify
from tests.synthetic import generate, published, write

pytestmark = pytest.mark.usefixtures("ray_cluster")

LOGS = generate(num_users=60, num_items=60, num_interactions=1800)


def test_the_job_gives_the_same_bytes_as_one_process_whatever_the_order_of_rows(tmp_path: Path) -> None:
    source = write(LOGS, tmp_path / "logs")
    (tmp_path / "logs" / "interactions.parquet").unlink()
    shuffled = LOGS.interactions.take(pa.array(np.random.default_rng(0).permutation(1800)))
    for part in range(5):
        table = shuffled.slice(part * 360, 360)
        parquet.write_table(table, tmp_path / "logs" / f"interactions-{part}.parquet", row_group_size=100)
    config = DataConfig(source=source.model_copy(update={"interactions": f"{tmp_path}/logs/interactions-*.parquet"}))
    made = prepare(config, str(tmp_path / "ray"), seed=0, provenance={"code": "test"})
    alone = published(LOGS, tmp_path / "alone", config)
    verify(str(tmp_path / "ray"), "dataset")
    assert made["files"] == alone.manifest["files"]
    assert made["counts"] == alone.manifest["counts"]
    assert made["code"] == "test"
    assert Dataset(str(tmp_path / "ray")).rows("test") == alone.rows("test")

    before = (tmp_path / "ray" / "manifest.json").stat().st_mtime_ns
    assert prepare(config, str(tmp_path / "ray"), seed=0, provenance={}) == made
    assert (tmp_path / "ray" / "manifest.json").stat().st_mtime_ns == before
    for other, seed, key in (
        (config.model_copy(update={"history_length": 7}), 0, "history_length"),
        (config, 1, "seed"),
    ):
        with pytest.raises(ValueError, match=f"made with {key} = .*another run folder"):
            prepare(other, str(tmp_path / "ray"), seed=seed, provenance={})


def test_bad_rows_are_put_aside_and_counted(tmp_path: Path) -> None:
    bad = {"user_id": ["u", None], "item_id": ["never listed", "x"], "timestamp": [1_704_067_200, 1_704_067_200]}
    repeated = LOGS.interactions.slice(0, 3)
    interactions = pa.concat_tables(
        [LOGS.interactions, pa.table({**bad, "rating": pa.nulls(2, pa.float32())}), repeated]
    )
    source = write(replace(LOGS, interactions=interactions), tmp_path / "logs")
    made = prepare(DataConfig(source=source), str(tmp_path / "out"), seed=0, provenance={})
    assert made["counts"]["interactions"] == {
        "read": 1805,
        "kept": 1800,
        "filtered": {"exact repeat": 3},
        "quarantined": {"item_id is not among the items": 1, "no user_id": 1},
    }
    files = [name for name in made["files"] if name.startswith("quarantine/")]
    rows = [row for name in files for row in parquet.read_table(tmp_path / "out" / name).to_pylist()]
    assert {(row["user_id"], row["item_id"]) for row in rows} == {("u", "never listed"), (None, "x")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (0, "hold no interactions"),
        (30, r"30 of 30 interactions \(100.0%\) .*not among the items: 30.*quarantine_limit"),
    ],
)
def test_logs_that_are_empty_or_bad_are_refused_and_nothing_is_published(
    rows: int, message: str, tmp_path: Path
) -> None:
    unlisted = LOGS.interactions.slice(0, rows).set_column(1, "item_id", pa.array(["never listed"] * rows, pa.string()))
    source = write(replace(LOGS, interactions=unlisted), tmp_path / "logs")
    with pytest.raises(ValueError, match=message):
        prepare(DataConfig(source=source), str(tmp_path / "out"), seed=0, provenance={})
    assert not (tmp_path / "out" / "manifest.json").exists()
