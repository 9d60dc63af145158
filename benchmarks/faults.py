"""A training whose hosts are killed one after the other: rows, repeated steps, recovery, goodput.

Three hosts (hosts.py) with a Ray node of one processor each train with two workers, the third is the spare. Ray's head
and `rayrec train` run on a fourth host, which stays. In the middle of every period all processes of a host that trains
are killed; when the training makes new steps again, a fresh host joins as the next spare. Before that, the same one
runs undisturbed past the first failure's step. MovieLens-100K, MiniLM with LoRA on its top two layers.

Rows are told by the targets of every step: of those in the final history (of a step that was repeated, its last record)
each must be what the loader deals for that step, computed here; losses must be those of the undisturbed run.

    python benchmarks/faults.py                                     # 25 minutes, writes results/faults.json
    python benchmarks/faults.py --minutes-between 2 --failures 1    # a trial; --out PATH keeps the result
"""

import argparse
import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import git, machine
from history import Failure, History, dealt, judged
from hosts import Host, Hosts, not_permitted, wait_for
from training import median_of, prepared

from rayrec.storage import provenance

HERE = Path(__file__).parent
RESULT = HERE / "results" / "faults.json"
STAGE, WORKERS, SPARES, SLOTS, CHECKPOINT_EVERY = "faults", 2, 1, 200, 20
PORT = 6379
WORKER = "RayTrainWorker"
HEALTH = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}
"""How Ray's head notices a node that falls silent; one whose connection ends it notices at once."""
COLD_START_PATIENCE_S = 900.0
PAST_FAILURE_S = 60.0

Result = dict[str, Any]


def environment(token: str, home: Path) -> dict[str, str]:
    """Of every process of every host.

    Args:
        token: that Ray asks for.
        home: where nobody's settings lie.
    """
    return {
        **os.environ,
        **HEALTH,
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "eth0",
        "DS_ACCELERATOR": "cpu",
    }


class Cluster:
    """A head and hosts that train, for one training."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        """Args:
        hosts: that are there until the end of their block.
        folder: for logs, sockets and the like.
        """
        self.hosts, self.folder = hosts, folder
        self.environment = environment(secrets.token_hex(32), folder)
        self.head = hosts.add()
        self.training: list[Host] = []
        options = ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
        wait_for(self._node(self.head, *options), "Ray head")
        for _ in range(WORKERS + SPARES):  # one at a time, or nodes of a small machine run into Ray's time limits
            wait_for(self.join(), "Ray node")

    def join(self) -> Callable[[], bool]:
        """Starts one more host; the answer tells whether its node has started."""
        host = self.hosts.add()
        self.training.append(host)
        return self._node(host, f"--address={self.head.address}:{PORT}", "--num-cpus=1")

    def _node(self, host: Host, *options: str) -> Callable[[], bool]:
        place = self.folder / host.address.rpartition(".")[2]
        log = place.with_suffix(".log")
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory=100000000"]
        words = [*ray, f"--node-ip-address={host.address}", f"--temp-dir={place}", *options]
        with log.open("wb") as file:
            host.start(words, self.environment, file)
        return lambda: "Ray runtime started" in log.read_text()

    def train(self, run: Path, log: Path) -> subprocess.Popen[bytes]:
        """Starts `rayrec train` beside the head.

        Args:
            run: folder of the run.
            log: what it prints.
        """
        stage = {
            "name": STAGE,
            "learning_rates": {"scales": 3e-3, "adapters": 3e-4, "language_model": 2e-3},
            "steps": 1_000_000,
            "validate_every": 1_000_000,
            "pull": 0.1,
        }
        overrides = {
            "run": str(run),
            "export_stage": STAGE,
            "loader.streams": WORKERS,
            "loader.slots_per_batch": SLOTS,
            "train.num_workers": WORKERS,
            "train.checkpoint_every": CHECKPOINT_EVERY,
            "train.max_failures": 100,
            "train.stages": [stage],
        }
        words = [sys.executable, str(HERE.parent / "jobs" / "train.py")]
        words += ["--config", str(HERE.parent / "jobs" / "configs" / "movielens-100k.yaml")]
        for key, value in overrides.items():
            words += ["--set", f"{key}={json.dumps(value) if isinstance(value, list) else value}"]
        address = {"RAY_ADDRESS": f"{self.head.address}:{PORT}"}
        with log.open("wb") as file:
            return self.head.start(words, self.environment | address, file)


def run_of(folder: Path, name: str, dataset: Path, states: Path | None) -> Path:
    """A run folder with the dataset, and the catalogue's states where they were made before.

    Args:
        folder: to put it in.
        name: of the run.
        dataset: prepared.
        states: of another run.
    """
    run = folder / name
    shutil.copytree(dataset, run / "dataset")
    if states is not None:
        shutil.copytree(states, run / "weights" / "states")
    return run


def started(cluster: Cluster, run: Path, log: Path) -> tuple[History, float]:
    """Starts a training; its history, and the seconds from the command to the first step.

    Raises:
        RuntimeError: it ended instead.
    """
    history = History(run / "weights" / "logs" / "metrics.jsonl", STAGE)
    began = time.monotonic()
    training = cluster.train(run, log)

    def has_begun() -> bool:
        history.look()
        if training.poll() is not None:
            raise RuntimeError(f"rayrec train ended with {training.returncode}:\n{log.read_text()[-3000:]}")
        return bool(history.records)

    wait_for(has_begun, "first step", COLD_START_PATIENCE_S)
    return history, history.records[0].at - began


def fail(cluster: Cluster, history: History, number: int) -> Failure:
    """Kills a host that trains, and returns when the training has made a new step."""
    busy = [host for host in cluster.training if host.pids(WORKER)]
    victim = busy[number % len(busy)]
    others = [pid for host in busy if host is not victim for pid in host.pids(WORKER)]
    history.look()
    last = history.last_step()
    killed = time.monotonic()
    victim.kill()
    cluster.training.remove(victim)
    noticed: float | None = None
    count = len(history.records)

    def goes_on() -> bool:
        nonlocal noticed
        history.look()
        if noticed is None and not all(os.path.exists(f"/proc/{pid}") for pid in others):
            noticed = time.monotonic() - killed
        return history.last_step() > last

    wait_for(goes_on, "new step after a failure", COLD_START_PATIENCE_S)
    before = [one for one in history.records[count:] if one.at < killed]  # written as it was killed
    after = history.records[count + len(before) :]
    new = next(one for one in after if one.step > last)
    return Failure(killed, last, last - after[0].step + 1, noticed, new.at - killed)


def undisturbed(folder: Path, dataset: Path, seconds: float) -> History:
    """The same training without failures, for so long after its first step."""
    folder.mkdir()
    with Hosts() as hosts:
        cluster = Cluster(hosts, folder)
        history, _ = started(cluster, run_of(folder, "run", dataset, None), folder / "train.log")
        while time.monotonic() < history.records[0].at + seconds:
            time.sleep(0.05)
            history.look()
    return history


def disturbed(
    folder: Path, dataset: Path, states: Path, period: float, failures: int
) -> tuple[History, float, list[Failure]]:
    """The training with its failures, one in the middle of each period; history, cold start, failures."""
    folder.mkdir()
    with Hosts() as hosts:
        cluster = Cluster(hosts, folder)
        history, cold_start = started(cluster, run_of(folder, "run", dataset, states), folder / "train.log")
        found: list[Failure] = []
        began = history.records[0].at
        for number in range(failures):
            while time.monotonic() < began + (number + 0.5) * period:
                time.sleep(0.05)
                history.look()
            found.append(fail(cluster, history, number))
            print(f"failure {number + 1}: {found[-1]}", file=sys.stderr)
            cluster.join()
        while time.monotonic() < began + failures * period:
            time.sleep(0.05)
            history.look()
    return history, cold_start, found


def measured(folder: Path, period: float, failures: int) -> Result:
    """Both trainings, and what they tell.

    Args:
        folder: on a path short enough for sockets.
        period: seconds between failures.
        failures: how many.
    """
    prepared(folder, "lora")
    dataset = folder / "dataset"
    reference = undisturbed(folder / "a", dataset, period / 2 + PAST_FAILURE_S)
    states = folder / "a" / "run" / "weights" / "states"
    history, cold_start, found = disturbed(folder / "b", dataset, states, period, failures)
    order = dealt(str(dataset), WORKERS, SLOTS, history.last_step())
    step_s = median_of(history.step_seconds())
    judgement = judged(history, reference, order, found, period, step_s, cold_start, CHECKPOINT_EVERY)
    return {"cold_start_s": cold_start, "step_s": step_s, "steps": history.last_step(), **judgement}


def written(found: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    """Writes the result."""
    result = {
        "question": "what a host that is killed every few minutes costs a training",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py", ":/jobs")),
        "seed": 0,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **provenance({})["packages"]},
        "config": config,
        "health": {name.removeprefix("RAY_health_check_"): int(value) for name, value in HEALTH.items()},
        **found,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes-between", type=float, default=5.0)
    parser.add_argument("--failures", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    reason = not_permitted()
    found: Result = {"skipped": reason}
    if not reason:
        with tempfile.TemporaryDirectory(prefix="rr-") as folder:
            found |= measured(Path(folder), 60 * options.minutes_between, options.failures)
    config = {
        "minutes_between": options.minutes_between,
        "hosts": WORKERS + SPARES,
        "workers": WORKERS,
        "slots": SLOTS,
        "checkpoint_every": CHECKPOINT_EVERY,
    }
    written(found, config, options.out)
    print(json.dumps({"skipped": reason, **{name: goal for name, goal in found.get("goals", {}).items()}}))


if __name__ == "__main__":
    main()
