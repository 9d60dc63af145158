"""What a training survives on a cluster: nodes that vanish or are announced to, its driver killed or stopped."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from rayrec.data.config import LoaderConfig
from rayrec.stages import RunConfig
from rayrec.train.config import StageConfig, TrainConfig
from tests import tiny
from tests.driver import running
from tests.ray.test_faults import saved_steps, steps_of
from tests.synthetic import generate, published

pytestmark = pytest.mark.timeout(1500)

STEPS, EVERY = 600, 25
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that no worker runs on, and three nodes for one worker each."""
    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        made.add_node(**NODE)
    yield made
    made.shutdown()


def training(folder: Path, name: str, steps: int = STEPS, every: int = EVERY, **train: Any) -> RunConfig:
    run = folder / name
    published(generate(num_users=60, num_items=60, num_interactions=1800), run / "dataset")
    stage = StageConfig(
        name="tuned",
        learning_rates={"scales": 1e-3, "adapters": 1e-3, "language_model": 1e-4},
        steps=steps,
        validate_every=steps,
    )
    return RunConfig(
        run=str(run),
        model=tiny.model_config(tiny.language_model(folder / "language_model"), dropout=0.2),
        loader=LoaderConfig(streams=3, slots_per_batch=200, num_negatives=16),
        train=TrainConfig(precision="fp32", checkpoint_every=every, warmup_steps=2, stages=(stage,), **train),
        export_stage="tuned",
    )


def losses_of(run: RunConfig) -> list[tuple[int, float]]:
    lines = (Path(run.weights) / "logs" / "metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["tuned/loss"]) for row in map(json.loads, lines) if "tuned/loss" in row]


def weights_of(run: RunConfig) -> str:
    return hashlib.sha256((Path(run.weights) / "tuned" / "model.safetensors").read_bytes()).hexdigest()


def raylet(node: Any) -> int:
    """The process that all others of a node come from."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def workers_of(node: Any) -> list[int]:
    """The processes of a node that train."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet(node) and b"ray::RayTrainWorker" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def kill_node(cluster: Cluster, node: Any) -> None:
    """SIGKILL to all of a node."""
    workers = workers_of(node)
    cluster.remove_node(node, allow_graceful=False)
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def passes(run: RunConfig, step: int) -> Callable[[], bool]:
    """Whether the newest logged step is beyond one."""
    return lambda: bool(steps := steps_of(run)) and steps[-1] > step


def train_undisturbed(run: RunConfig, folder: Path, address: dict[str, str]) -> None:
    with running("train", run, folder, address) as driver:
        code, printed = driver.finish()
    assert code == 0, printed


def test_node_driver_and_signals_change_no_loss_and_no_weight(cluster: Cluster, tmp_path: Path) -> None:
    address = {"RAY_ADDRESS": cluster.address}
    whole, run = training(tmp_path, "whole"), training(tmp_path, "disturbed")
    train_undisturbed(whole, tmp_path, address)
    with running("train", run, tmp_path, address) as driver:
        driver.wait_for(passes(run, EVERY))
        kill_node(cluster, next(filter(workers_of, cluster.worker_nodes)))
        seen = len(steps_of(run))
        driver.wait_for(lambda: len(steps_of(run)) > seen + EVERY)
        driver.kill()
    with running("train", run, tmp_path, address) as driver:
        driver.wait_for(lambda: "Started training worker group" in driver.log.read_text())
        seen = len(steps_of(run))
        driver.wait_for(lambda: len(steps_of(run)) > seen)
        driver.terminate()
        code, printed = driver.finish()
    assert code == 143, printed
    stopped = steps_of(run)[-1]
    train_undisturbed(run, tmp_path, address)
    expected, found = dict(losses_of(whole)), losses_of(run)
    assert [step for step, _ in found].count(stopped) == 1  # nothing is done again after a stop
    assert {step for step, _ in found} == set(expected)
    assert all(loss == expected[step] for step, loss in found)
    repeated = len(found) - len(expected)
    assert 0 < repeated <= 2 * EVERY + 2
    assert weights_of(run) == weights_of(whole)


def drain(cluster: Cluster, node: Any, seconds: int) -> None:
    """Announces that a node will be taken, as a provider's agent does."""
    client = ray._raylet.GcsClient(address=cluster.address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node.node_id, reason, "spot", time.time_ns() // 10**6 + seconds * 1000)
    assert accepted, why


def test_a_node_about_to_be_taken_is_saved_from_and_fewer_workers_go_on(cluster: Cluster, tmp_path: Path) -> None:
    spare = next(iter(cluster.worker_nodes))
    cluster.remove_node(spare)
    endless = 10**6
    run = training(tmp_path, "elastic", endless, endless, min_workers=1, zero_stage=0)
    with running("train", run, tmp_path, {"RAY_ADDRESS": cluster.address}) as driver:
        driver.wait_for(passes(run, 2))
        taken = next(filter(workers_of, cluster.worker_nodes))
        drain(cluster, taken, 15)
        driver.wait_for(lambda: saved_steps(run))
        (saved,) = saved_steps(run)
        kill_node(cluster, taken)
        driver.wait_for(lambda: steps_of(run)[-1] < max(steps_of(run)))
        assert steps_of(run)[-1] > saved
        assert "worker group of size 1" in driver.log.read_text()
        driver.interrupt()
        code, printed = driver.finish()
    assert code == 130, printed
