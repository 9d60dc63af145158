"""What can be measured here of the cost model: bytes that gloo sends by ZeRO stage, and a step beside its arithmetic.

Bytes are those of the loopback device of a network namespace in which nothing else lives (TCP headers included); one
that may not be made is a skip with its reason. Run with a folder this file prints them; cost_model.py calls it so.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from training import MODELS, Job, median_of, prepared, turns

from rayrec.train.config import TrainConfig

RANKS = (1, 2, 4)
SLOTS, STEPS = 60, 2
"""Of a measurement of bytes, which do not depend on them."""
COMPUTE_SLOTS = 400

Result = dict[str, Any]


def in_namespace(command: list[str]) -> list[str]:
    """A command in a network namespace of its own, whose loopback device is up."""
    script = 'ip link set lo up && exec "$0" "$@"'
    return ["unshare", "--net", "sh", "-c", script, *command]


def no_namespace() -> str:
    """Why a network namespace cannot be made here; empty where it can."""
    missing = [name for name in ("unshare", "ip") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install util-linux and iproute2"
    tried = subprocess.run(in_namespace(["true"]), capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"network namespaces are not permitted: {tried.stderr.strip()}"


def measured_bytes(folder: Path) -> tuple[list[Result], str]:
    """Bytes a rank and step by kind of model, ranks and ZeRO stage; or the reason why they were not measured.

    Args:
        folder: for what is prepared.
    """
    if reason := no_namespace():
        return [], reason
    for kind in MODELS:
        prepared(folder, kind)
    command = in_namespace([sys.executable, __file__, str(folder)])
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rows: list[Result] = json.loads(printed.strip().splitlines()[-1])
    return rows, ""


def bytes_here(folder: Path) -> list[Result]:
    """The same, by this namespace's loopback device."""
    rows = []
    for kind, ranks, stage in ((kind, ranks, stage) for kind in MODELS for ranks in RANKS for stage in range(4)):
        job = Job(turns, ranks, folder, kind, TrainConfig(zero_stage=stage, precision="fp32"), None, SLOTS)
        sizes = job.answers()[0]
        job.ask(1)
        answers = job.ask(STEPS)
        job.end()
        rows.append(
            {
                "kind": kind,
                "ranks": ranks,
                "zero_stage": stage,
                "sent_bytes": round(answers[0]["sent"] / STEPS),
                "loopback_bytes": round(answers[0]["loopback"] / STEPS / ranks),
                "calls": answers[0]["calls"],
                **sizes,
            }
        )
        print(f"{kind}, {ranks} ranks, ZeRO {stage}: {rows[-1]['loopback_bytes']:,} bytes", file=sys.stderr)
    return rows


def matmul_rate(rows: int, hidden: int, inner: int, seconds: float = 1.0) -> float:
    """Floating-point operations a second of an fp32 product by one thread.

    Args:
        rows, hidden, inner: of the two matrices.
        seconds: to try for.
    """
    torch.set_num_threads(1)
    left, right = torch.randn(rows, hidden), torch.randn(hidden, inner)
    torch.mm(left, right)
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        torch.mm(left, right)
        times += 1
    return 2.0 * rows * hidden * inner * times / (time.perf_counter() - began)


def measured_compute(folder: Path, repetitions: int) -> list[Result]:
    """A step of one rank beside the time of its products at the rate of this machine, in turns, by kind of model.

    Args:
        folder: for what is prepared.
        repetitions: turns of one step each.
    """
    from cost_model import MINILM, flop, shape

    found = []
    for kind, layers in (("lora", 2), ("full", 6)):
        prepared(folder, kind)
        job = Job(turns, 1, folder, kind, TrainConfig(zero_stage=0, precision="fp32"), None, COMPUTE_SLOTS)
        job.answers()
        job.ask(1)
        one = shape(kind, MINILM, layers, 384 if kind == "lora" else None)
        rates, predicted, measured = [], [], []
        for _ in range(repetitions):
            rates.append(matmul_rate(2048, 384, 1536))
            answer = job.ask(1)[0]
            predicted.append(flop(one, answer["tokens"]) / rates[-1])
            measured.append(answer["ended"] - answer["began"] - answer["communication_s"])
        job.end()
        shares = [a / b for a, b in zip(predicted, measured, strict=True)]
        found.append(
            {
                "kind": kind,
                "gflop_per_s": median_of(rates) / 1e9,
                "predicted_s": median_of(predicted),
                "measured_s": median_of(measured),
                "share": median_of(shares),
                "share_range": [min(shares), max(shares)],
            }
        )
    return found


if __name__ == "__main__":
    print(json.dumps(bytes_here(Path(sys.argv[1]))))
