"""Weak scaling from one to two workers on this machine: the same rows a worker, by ZeRO stage.

One thread a process, so that the machine's cores are the limit. Four processes live at a time and take turns: two
workers of one group, one worker alone with the first one's rows, and that one together with a lone worker with the
second one's rows. So `efficiency` is the rate of two workers over twice that of one, and `machine` is the rate of two
processes that have nothing to say to each other over twice that of one: what caches, memory and scheduling leave.
`communication` is the share of a step of two that is spent in collectives, waiting for the other included.
Examples are the events that a step learns from. Real MiniLM, LoRA on its top two layers, MovieLens-100K's rows.

    python benchmarks/scaling.py   # writes results/scaling.json
"""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import git, machine
from training import SEED, Job, folder_of, median_of, prepared, turns

from rayrec.storage import provenance
from rayrec.train.config import TrainConfig

RESULT = Path(__file__).parent / "results" / "scaling.json"
ZERO_STAGES = (0, 1, 2, 3)
KIND = "lora"

Result = dict[str, Any]


def rate(answers: Sequence[Result]) -> float:
    """Examples a second of processes that worked at the same time, from the first one's start to the last one's end."""
    seconds = max(one["ended"] for one in answers) - min(one["began"] for one in answers)
    return float(sum(one["targets"] for one in answers) / seconds)


def figures(turns_taken: Sequence[dict[str, list[Result]]]) -> Result:
    """Medians over the turns; ratios are those within a turn.

    Args:
        turns_taken: answers by `pair`, `alone` and `beside`.
    """
    rates = {name: [rate(turn[name]) for turn in turns_taken] for name in ("alone", "pair", "beside")}
    waits = [
        max(one["communication_s"] / (one["ended"] - one["began"]) for one in turn["pair"]) for turn in turns_taken
    ]
    efficiency = [pair / alone / 2 for pair, alone in zip(rates["pair"], rates["alone"], strict=True)]
    ceiling = [beside / alone / 2 for beside, alone in zip(rates["beside"], rates["alone"], strict=True)]
    return {
        "examples_per_s_1": median_of(rates["alone"]),
        "examples_per_s_2": median_of(rates["pair"]),
        "efficiency": median_of(efficiency),
        "efficiency_range": [min(efficiency), max(efficiency)],
        "machine": median_of(ceiling),
        "of_the_machine": median_of([a / b for a, b in zip(efficiency, ceiling, strict=True)]),
        "communication": median_of(waits),
    }


def measure(folder: Path, stage: int, options: argparse.Namespace) -> Result:
    """One ZeRO stage.

    Args:
        folder: of what is prepared.
        stage: of ZeRO.
        options: repetitions, steps, slots.
    """
    config = TrainConfig(zero_stage=stage, precision="fp32")
    pair = Job(turns, 2, folder, KIND, config, None, options.slots)
    alone, beside = (Job(turns, 1, folder, KIND, config, (rank, 2), options.slots) for rank in (0, 1))
    jobs = (pair, alone, beside)
    for job in jobs:
        job.answers()
    for job in jobs:
        job.ask(1)
    taken = []
    for _ in range(options.repetitions):
        turn = {"pair": pair.ask(options.steps), "alone": alone.ask(options.steps)}
        for job in (alone, beside):
            job.tell(options.steps)
        taken.append({**turn, "beside": [*alone.answers(), *beside.answers()]})
    for job in jobs:
        job.end()
    return {"zero_stage": stage, **figures(taken)}


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for what is prepared")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--slots", type=int, default=400, help="of a micro-batch, one a worker and step")
    parser.add_argument("--zero-stages", type=int, nargs="+", default=ZERO_STAGES)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = folder_of(options.folder)
    prepared(folder, KIND)
    results = [measure(folder, stage, options) for stage in options.zero_stages]
    result = {
        "question": "examples a second of two workers over twice those of one, by ZeRO stage",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py")),
        "seed": SEED,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **provenance({})["packages"]},
        "config": {
            "dataset": "movielens-100k",
            "model": "MiniLM, LoRA on its top two layers",
            "slots": options.slots,
            "steps": options.steps,
            "repetitions": options.repetitions,
            "threads": 1,
        },
        "results": results,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"efficiency": {one["zero_stage"]: one["efficiency"] for one in results}}))


if __name__ == "__main__":
    main()
