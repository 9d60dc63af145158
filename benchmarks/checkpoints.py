"""What a checkpoint every 20 steps to a slow storage costs a step.

Every call of the storage is answered late, and its bandwidth is shared by the ranks. One run takes blocks of steps in
turns: with a checkpoint at each twentieth step, as the training loop takes them, and without any; what is still on its
way at the end of a block is waited for between the blocks. `overhead` is the time of a block with checkpoints over that
of the block without beside it; the order within a pair changes from pair to pair. Real MiniLM, MovieLens-100K's rows,
ZeRO 2, one thread a rank; `lora`: LoRA on the top two layers, `full`: all layers and the ID table train.

    python benchmarks/checkpoints.py   # writes results/checkpoints.json
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fsspec
import torch
import torch.distributed as dist
from collectives import Collectives
from data import git, machine
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem
from training import SEED, Job, Training, folder_of, median_of, prepared

from rayrec import storage
from rayrec.train.config import TrainConfig

RESULT = Path(__file__).parent / "results" / "checkpoints.json"
EVERY, KEPT, GOAL = 20, 2, 0.05
LATENCY_S = 0.2
CASES = (("lora", 1, 5e6), ("lora", 2, 5e6), ("full", 1, 50e6), ("full", 2, 50e6))
"""State, ranks, and bytes a second of the storage."""

Result = dict[str, Any]


class SlowFile(LocalFileOpener):  # type: ignore[misc]
    """A file that is written no faster than its storage takes it."""

    def write(self, data: bytes) -> int:
        """As of any file."""
        time.sleep(len(data) / self.fs.bytes_per_s)
        written: int = self.f.write(data)
        return written


class SlowFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A local folder that answers as a distant storage does: each call late, each byte in its time.

    Attributes:
        latency_s: of every call.
        bytes_per_s: of every file written.
    """

    protocol = "slow"
    latency_s, bytes_per_s = LATENCY_S, 5e6

    def __init__(self, **options: Any) -> None:
        """Makes folders by itself, as storages without folders do."""
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("slow://"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        time.sleep(self.latency_s)
        if "w" not in mode:
            return super()._open(path, mode, **options)
        self.makedirs(self._parent(path), exist_ok=True)
        return SlowFile(path, mode, fs=self, **options)

    def info(self, path: str, **options: Any) -> Any:
        """As of any filesystem."""
        time.sleep(self.latency_s)
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        """As of any filesystem."""
        time.sleep(self.latency_s)
        return super().ls(path, detail, **options)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """As of any filesystem."""
        time.sleep(self.latency_s)
        super().rm(path, recursive, maxdepth)


def work(
    pipe: Connection, counted: Collectives, folder: Path, kind: str, uri: str, bytes_per_s: float, slots: int
) -> None:
    """Work of a Job: trains (steps, with checkpoints) as each command says; answers seconds and counts of checkpoints.

    Args:
        pipe: commands and answers.
        counted: not looked at.
        folder, kind, slots: as of Training.
        uri: where checkpoints go.
        bytes_per_s: of the storage, shared by the ranks.
    """
    from rayrec.train.checkpoint import Checkpoints
    from rayrec.train.surroundings import LoopState
    from rayrec.train.trust import Trust

    fsspec.register_implementation("slow", SlowFileSystem)
    storage.ALLOWED_SCHEMES = (*storage.ALLOWED_SCHEMES, "slow")
    SlowFileSystem.bytes_per_s = bytes_per_s / dist.get_world_size()
    training = Training(
        folder, kind, TrainConfig(zero_stage=2, precision="fp32"), (dist.get_rank(), dist.get_world_size()), slots
    )
    checkpoints = Checkpoints(uri, Trust({"benchmark": kind}), keep=KEPT)
    best = training.engine.gathered_state()
    taken = 0
    pipe.send(None)
    while (command := pipe.recv()) is not None:
        steps, with_checkpoints = command
        dist.barrier()
        began = time.perf_counter()
        for number in range(steps):
            training.step()
            if not with_checkpoints:
                continue
            if number % EVERY == 0:
                state = LoopState(step=training.done, best=best)
                checkpoints.save(training.engine, state, training.loader.state_dict(), kind)
                taken += 1
            busy = torch.tensor(float(checkpoints.busy()))
            dist.all_reduce(busy)
            checkpoints.advance(not busy)
        seconds = time.perf_counter() - began
        checkpoints.drain()
        told = {"taken": taken, "stored": checkpoints.stored, "replaced": checkpoints.replaced}
        pipe.send({"seconds": seconds, **told, "lost": checkpoints.lost})
    checkpoints.close()
    training.engine.destroy()


def figures(pairs: Sequence[tuple[float, float]], steps: int) -> Result:
    """Medians over pairs of blocks.

    Args:
        pairs: seconds without and with checkpoints.
        steps: of a block.
    """
    overheads = [with_them / without - 1 for without, with_them in pairs]
    return {
        "step_s_without": median_of([without / steps for without, _ in pairs]),
        "step_s_with": median_of([with_them / steps for _, with_them in pairs]),
        "overhead": median_of(overheads),
        "overhead_range": [min(overheads), max(overheads)],
    }


def size_of(folder: str) -> int:
    """Bytes of the newest checkpoint below a folder."""
    newest = max(path for path in Path(folder).iterdir() if path.is_dir())
    return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


def measure(folder: Path, case: tuple[str, int, float], options: argparse.Namespace) -> Result:
    """One of CASES.

    Args:
        folder: of what is prepared.
        case: state, ranks, bytes a second.
        options: pairs, blocks, slots.
    """
    kind, ranks, bytes_per_s = case
    steps = EVERY * options.checkpoints
    with tempfile.TemporaryDirectory() as place:
        job = Job(work, ranks, folder, kind, f"slow://{place}", bytes_per_s, options.slots)
        job.answers()
        for warming in (False, True):
            answers = job.ask((2, warming))
        pairs = []
        for number in range(options.pairs):
            seconds = {}
            for with_checkpoints in (False, True) if number % 2 else (True, False):
                answers = job.ask((steps, with_checkpoints))
                seconds[with_checkpoints] = max(answer["seconds"] for answer in answers)
            pairs.append((seconds[False], seconds[True]))
        job.end()
        megabytes = size_of(place) / 1e6
    assert not answers[0]["lost"], f"{answers[0]['lost']} checkpoints were given up"
    told = {name: answers[0][name] for name in ("taken", "stored", "replaced")}
    store = {"latency_s": LATENCY_S, "bytes_per_s": bytes_per_s}
    return {"state": kind, "ranks": ranks, "store": store, "megabytes": megabytes, **figures(pairs, steps), **told}


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for what is prepared")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--checkpoints", type=int, default=2, help="of a block")
    parser.add_argument("--slots", type=int, default=100, help="of a micro-batch, one a rank and step")
    parser.add_argument("--kinds", nargs="+", default=["lora", "full"])
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = folder_of(options.folder)
    for kind in options.kinds:
        prepared(folder, kind)
    results = [measure(folder, case, options) for case in CASES if case[0] in options.kinds]
    result = {
        "question": f"what a checkpoint every {EVERY} steps to a slow storage costs a step; wanted: under {GOAL:.0%}",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py")),
        "seed": SEED,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **storage.provenance({})["packages"]},
        "config": {name: getattr(options, name) for name in ("pairs", "checkpoints", "slots")} | {"every": EVERY},
        "results": results,
        "met": all(one["overhead"] < GOAL for one in results),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({f"{one['state']}, {one['ranks']} ranks": one["overhead"] for one in results}))


if __name__ == "__main__":
    main()
