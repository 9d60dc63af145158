"""The job on Ray Data: the same bytes as in one process, also where a worker or the driver is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from ray.exceptions import RayTaskError

from rayrec.config import is_refusal
from rayrec.data.clean import check_quarantine
from rayrec.data.config import DataConfig
from rayrec.data.job import prepare
from rayrec.data.prepare import on_ray
from rayrec.data.work import Result, Task, in_process
from rayrec.storage import verify
from tests.synthetic import PLAIN, generate, write

pytestmark = pytest.mark.usefixtures("ray_cluster")

LOGS = generate(num_users=60, num_items=60, num_interactions=1800)
KILLED_DRIVER = """
import sys, time
from rayrec.data.config import DataConfig
from rayrec.data.job import prepare

def slowly(function, tasks, title):
    for task in tasks:
        yield function(task)
        time.sleep(0.05)

config = DataConfig.model_validate_json(sys.argv[1])
prepare(config, sys.argv[2], seed=0, provenance={"code": "test"}, run=slowly)
"""


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
    """Runs on Ray; the worker of the first task of a phase dies by SIGKILL once its work is done."""
    mark = str(flag / title)

    def task_or_death(task: Task) -> Result:
        result = function(task)
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return on_ray(task_or_death, tasks, title)


def test_workers_that_are_killed_change_no_byte(config: DataConfig, alone: dict[str, Any], tmp_path: Path) -> None:
    flag = tmp_path / "killed"
    flag.mkdir()
    assert made(config, tmp_path / "dataset", partial(killing, flag=flag)) == alone
    assert {"interactions", "users-written"} <= {path.name for path in flag.iterdir()}


def test_a_killed_driver_leaves_what_the_next_one_needs(
    config: DataConfig, alone: dict[str, Any], tmp_path: Path
) -> None:
    driver = subprocess.Popen([sys.executable, "-c", KILLED_DRIVER, config.model_dump_json(), str(tmp_path)])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("_work/*/interactions/done/*2.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    records = {path: path.stat().st_mtime_ns for path in tmp_path.glob("_work/*/*/done/*.json")}
    assert len(records) >= 4
    seen = dict[Path, int]()

    def looking(function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
        yield from on_ray(function, tasks, title)
        seen.update({path: path.stat().st_mtime_ns for path in records if path.exists()})

    assert made(config, tmp_path, looking) == alone
    assert seen == records


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
