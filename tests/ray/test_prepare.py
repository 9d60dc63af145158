"""The job on Ray Data: the same bytes as in one process, also where a worker or the driver is killed on the way."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from pyarrow import parquet
from ray.exceptions import RayTaskError

from rayrec import stages
from rayrec.config import is_refusal
from rayrec.data.clean import check_quarantine
from rayrec.data.config import CleanConfig, DataConfig, PrivacyConfig
from rayrec.data.job import prepare
from rayrec.data.prepare import on_ray
from rayrec.data.work import Result, Task, in_process
from rayrec.stages import RunConfig
from rayrec.storage import verify
from tests.driver import preparing
from tests.synthetic import PLAIN, generate, write

pytestmark = pytest.mark.usefixtures("ray_cluster")

KILLED_PHASES = ("items", "interactions", "users-written", "item-stats")
LOGS = generate(num_users=60, num_items=60, num_interactions=1800)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Of logs in five files of shuffled rows."""
    folder = tmp_path_factory.mktemp("logs")
    source = write(LOGS, folder)
    (folder / "interactions.parquet").unlink()
    shuffled = LOGS.interactions.take(pa.array(np.random.default_rng(0).permutation(1800)))
    for part in range(5):
        parquet.write_table(shuffled.slice(part * 360, 360), folder / f"interactions-{part}.parquet")
    source = source.model_copy(update={"interactions": f"{folder}/interactions-*.parquet"})
    return DataConfig(source=source, privacy=PLAIN, buckets=4)


@pytest.fixture(scope="module")
def alone(config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest that one process makes."""
    return made(config, tmp_path_factory.mktemp("alone"), in_process)


def made(config: DataConfig, folder: Path, run: Any) -> dict[str, Any]:
    return prepare(config, str(folder), seed=0, provenance={"code": "test"}, run=run)


def test_ray_gives_the_same_bytes_as_one_process(config: DataConfig, alone: dict[str, Any], tmp_path: Path) -> None:
    assert made(config, tmp_path, on_ray) == alone
    verify(str(tmp_path), "dataset")


def killing(function: Callable[[Task], Result], tasks: Sequence[Task], title: str, flag: Path) -> Iterator[Result]:
    """Runs on Ray; the worker of the first task of some phases dies by SIGKILL once its work is done."""
    mark = str(flag / title)

    def task_or_death(task: Task) -> Result:
        result = function(task)
        if title in KILLED_PHASES and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return on_ray(task_or_death, tasks, title)


def test_workers_that_are_killed_change_no_byte(config: DataConfig, alone: dict[str, Any], tmp_path: Path) -> None:
    flag = tmp_path / "killed"
    flag.mkdir()
    assert made(config, tmp_path / "dataset", partial(killing, flag=flag)) == alone
    assert {path.name for path in flag.iterdir()} == set(KILLED_PHASES)


def test_a_killed_driver_leaves_what_the_next_one_needs(
    config: DataConfig, alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunConfig(run=str(tmp_path / "run"), data=config)
    with preparing(run, tmp_path) as driver:
        driver.wait_for(lambda: list(tmp_path.glob("run/dataset/_work/*/interactions/done/*2.json")))
        driver.kill()
    assert not Path(run.dataset, "manifest.json").exists()
    records = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/dataset/_work/*/*/done/*.json")}
    assert len(records) >= 4
    seen = dict[Path, int]()

    def looking(function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
        yield from on_ray(function, tasks, title)
        seen.update({path: path.stat().st_mtime_ns for path in records if path.exists()})

    monkeypatch.setattr("rayrec.data.prepare.on_ray", looking)
    stages.prepare(run)
    assert seen == records
    again = verify(run.dataset, "dataset")
    assert {key: again[key] for key in alone.keys() - {"code"}} == {key: alone[key] for key in alone.keys() - {"code"}}


def printing(task: str) -> str:
    print(task)
    return task


def test_no_log_of_ray_tells_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = pa.array([f"rawuser-{place % 60}" for place in range(1800)])
    reviews = pa.array(["write to anna.geheim@planted-mail.example"] * 1800)
    events = LOGS.interactions.set_column(0, "user_id", users).append_column("review", reviews)
    times = pa.array([-5, *events["timestamp"].to_pylist()[1:]])
    logs = replace(LOGS, interactions=events.set_column(2, "timestamp", times))
    monkeypatch.setenv("RAYREC_TEST_KEY", "k" * 32)
    config = DataConfig(source=write(logs, tmp_path / "logs"), privacy=PrivacyConfig(key_env="RAYREC_TEST_KEY"))
    strict = config.model_copy(update={"clean": CleanConfig(quarantine_limit=0)})
    with pytest.raises(ValueError, match="1 of 1800 interactions"):
        made(strict, tmp_path / "refused", on_ray)
    made(config, tmp_path / "made", on_ray)
    assert list(on_ray(printing, ["a worker's word"], "printing")) == ["a worker's word"]
    folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    logged = [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert any("a worker's word" in text for text in logged)
    assert [text for text in logged if "rawuser-" in text or "anna.geheim" in text or "k" * 32 in text] == []


def test_a_refusal_in_a_worker_is_one_here_and_a_failure_is_none() -> None:
    refuse = partial(check_quarantine, {"torn": 9}, 10, 0.5)
    with pytest.raises(ValueError, match=r"9 of 10 rows .*torn: 9") as refusal:
        list(on_ray(refuse, ["rows"], "refusing"))
    assert is_refusal(refusal.value)
    with pytest.raises(RayTaskError, match="Expecting value") as failure:
        list(on_ray(json.loads, ["no JSON"], "failing"))
    assert not isinstance(failure.value, ValueError)


def test_many_tasks_share_one_large_argument() -> None:
    shared = np.arange(1_000_000)
    results = on_ray(partial(np.take, shared), list(range(40)), "sharing")
    assert sorted(int(result) for result in results) == list(range(40))
    assert list(on_ray(int, [], "nothing")) == []
