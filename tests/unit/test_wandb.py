"""rayrec.tracking and Weights & Biases, offline: what its files hold, who is refused, what an outage costs."""

import json
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayrec import tracking
from rayrec.data.config import LoaderConfig
from rayrec.models.config import ModelConfig
from rayrec.tracking import MetricsLog, WandbRun, require_wandb
from rayrec.train.config import TrainConfig
from rayrec.train.trainer import train

BLOCK, HEADER = 32_768, 7
RUN = {"seed": 3, "model": {"size": 8}}


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account, and a server that is not there."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def begin(folder: Path, **changes: Any) -> WandbRun:
    given: dict[str, Any] = {"project": "shop", "mode": "offline", "run": RUN, "uri": "s3://bucket/a"}
    return WandbRun(str(folder), **{**given, **changes})


def records(path: Path) -> Iterator[Any]:
    """The records of a run's file: protobuf messages in the frames of LevelDB's log, behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, held = path.read_bytes(), HEADER, b""
    assert data.startswith(b":W&B")
    while place + HEADER <= len(data):
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        held += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
        if kind in (1, 4):  # whole, or the last of its parts
            record = Record()
            record.ParseFromString(held)
            held = b""
            yield record


def history(path: Path) -> list[dict[str, float]]:
    """What was logged, without what the package adds."""
    rows = []
    for record in records(path):
        if record.HasField("history"):
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    return rows


def files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def test_offline_files_hold_what_was_logged_by_stage(tmp_path: Path) -> None:
    with MetricsLog(str(tmp_path), begin(tmp_path)) as log:
        for step in range(1, 1001):  # more than a block of the file
            log.log(step, **{"frozen/loss": 1.0 / step, "frozen/stage": "a name", "frozen/none": None})
        log.log(1000, **{"frozen/valid/ndcg": 0.25})
        log.log(1, **{"tuned/loss": 0.5})
    (path,) = files(tmp_path)
    expected = [{"frozen/loss": 1.0 / step, "frozen/step": step} for step in range(1, 1001)]
    expected += [{"frozen/valid/ndcg": 0.25, "frozen/step": 1000}, {"tuned/loss": 0.5, "tuned/step": 1}]
    assert history(path) == expected
    axes = {}
    for record in records(path):
        if record.HasField("metric") and record.metric.step_metric:
            axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
    assert axes == {"frozen/*": "frozen/step", "tuned/*": "tuned/step"}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1002


def test_nothing_else_is_told(tmp_path: Path) -> None:
    run = begin(tmp_path)
    print("for this terminal alone")
    run.close()
    (path,) = files(tmp_path)
    told = [record for record in records(path) if record.HasField("run")]
    assert {item.key: item.value_json for item in told[0].run.config.update if item.key != "_wandb"} == {
        "seed": "3",
        "model": '{"size":8}',
    }
    assert not told[0].run.host
    assert not told[0].run.git.remote_url
    for kind in ("output", "output_raw", "stats", "environment"):
        assert not any(record.HasField(kind) for record in records(path)), kind
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_a_resumed_run_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    same = dict(reversed(RUN.items()))
    for changes in ({}, {"run": same}, {"run": {**RUN, "seed": 1}}, {"uri": "s3://bucket/b"}):
        run = begin(tmp_path, **changes)
        run.log(1, {"a/loss": 1.0})
        run.close()
    names = [path.name for path in files(tmp_path)]
    assert len(names) == 4
    assert len(set(names)) == 3


@pytest.mark.parametrize("failed", [False, True])
def test_an_error_ends_it_as_failed(tmp_path: Path, failed: bool) -> None:
    log = MetricsLog(str(tmp_path), begin(tmp_path))
    if failed:
        with pytest.raises(RuntimeError), log:
            raise RuntimeError
    else:
        log.close()
    (path,) = files(tmp_path)
    assert [record.exit.exit_code for record in records(path) if record.HasField("exit")] == [int(failed)]


def test_a_missing_package_is_refused_with_its_command_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise tracking.PackageNotFoundError(name)

    require_wandb()
    monkeypatch.setattr(tracking, "version", missing)
    with pytest.raises(ValueError, match=r"pip install 'rayrec\[tracking\]'"):
        train(
            str(tmp_path / "no_dataset"),
            str(tmp_path / "run"),
            model=ModelConfig(),
            loader=LoaderConfig(),
            config=TrainConfig(wandb_project="shop"),
            seed=0,
            provenance={},
        )


def test_online_without_an_account_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set WANDB_API_KEY for the workers, or train\.wandb_mode=offline"):
        begin(tmp_path, mode="online")


def test_an_outage_at_the_start_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(tracking, "SECONDS_TO_CONNECT", 1.0)
    with caplog.at_level(logging.WARNING):
        run = begin(tmp_path, mode="online")
    assert "does not answer" in caplog.text
    run.log(1, {"a/loss": 0.5})
    run.close()
    assert history(files(tmp_path)[-1]) == [{"a/loss": 0.5, "a/step": 1}]
