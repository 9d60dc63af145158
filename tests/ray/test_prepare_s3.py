"""The job where logs and dataset lie on an S3 server that is slow, often busy, and killed on the way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from rayrec.data import work
from rayrec.data.config import DataConfig
from rayrec.data.job import prepare
from rayrec.data.sources.config import ColumnsSource
from rayrec.data.work import in_process, retried
from rayrec.stages import RunConfig
from rayrec.storage import is_published, verify
from tests import s3
from tests.driver import preparing
from tests.synthetic import PLAIN, generate, write

LOGS = generate(num_users=60, num_items=60, num_interactions=1800)
TABLES = ("interactions", "items", "users")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ColumnsSource:
    """The logs on this machine."""
    return write(LOGS, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def alone(source: ColumnsSource, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of an undisturbed job on this machine's own files."""
    folder = tmp_path_factory.mktemp("alone")
    return prepare(config_of(source), str(folder), seed=0, provenance={}, run=in_process)


def config_of(source: ColumnsSource) -> DataConfig:
    return DataConfig(source=source, privacy=PLAIN, buckets=4)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Server]:
    """One that answers every 23rd request by 503 and each after some milliseconds; this process is its client."""
    with s3.serving(tmp_path / "journal", busy_every=23, latency_ms=3) as started:
        for name, value in started.environment().items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield started


def uploaded(source: ColumnsSource) -> DataConfig:
    """The config of the same logs, put on the server."""
    filesystem = fsspec.filesystem("s3")
    there = {}
    for table in TABLES:
        path = Path(getattr(source, table))
        there[table] = f"s3://{s3.BUCKET}/logs/{path.name}"
        retried(lambda path=path: filesystem.pipe_file(f"{s3.BUCKET}/logs/{path.name}", path.read_bytes()))
    return config_of(source.model_copy(update=there))


def test_a_slow_server_that_is_often_busy_changes_no_byte(
    server: s3.Server, source: ColumnsSource, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(work.time, "sleep", waits.append)
    uri = f"s3://{s3.BUCKET}/dataset"
    made = prepare(uploaded(source), uri, seed=0, provenance={}, run=in_process)
    assert len(waits) > 5
    assert (made["files"], made["counts"]) == (alone["files"], alone["counts"])
    left = retried(lambda: fsspec.filesystem("s3").find(uri))
    assert {path.partition("/dataset/")[2] for path in left} == {"manifest.json", *made["files"]}


def test_a_killed_driver_and_then_a_killed_server_change_no_byte(
    server: s3.Server, source: ColumnsSource, alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunConfig(run=f"s3://{s3.BUCKET}/run", data=uploaded(source))

    def done(phase: str = "") -> list[str]:
        return [path for path in server.written() if f"{phase}/done/" in path]

    with preparing(run, tmp_path) as driver:
        driver.wait_for(lambda: done("interactions"))
        driver.kill()
    before = done()
    with preparing(run, tmp_path) as driver:
        driver.wait_for(lambda: len(done("users-written")) >= 2)
        server.kill()
        code, printed = driver.finish()
    assert code == 1
    assert "StorageError: storage failed 5 times" in printed
    assert "run the same command again once it answers: what is done is kept" in printed
    server.start()
    assert not retried(lambda: is_published(run.dataset))
    with preparing(run, tmp_path) as driver:
        code, printed = driver.finish()
    assert code == 0, printed
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    again = verify(run.dataset, "dataset")
    assert (again["files"], again["counts"]) == (alone["files"], alone["counts"])
    # What was done before the driver was killed was done once.
    assert before
    assert [server.written().count(path) for path in before] == [1] * len(before)
