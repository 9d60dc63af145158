"""A search beside a grid, on logs with planted tastes: how near its best comes to the grid's, and at what cost.

Both search the same two learning rates of a stage that trains LoRA on MiniLM's top two layers: the grid tries every
pair of a few values and stops none, `rayrec tune` draws between the same bounds by TPE and stops by ASHA. Its first
trial is the grid's corner of the smallest rates. Cost is optimiser steps, and seconds of all trials, which on so small
a set are start-up for the most part. The interval is that of the grid's best value, over validation users.

    python benchmarks/tune.py                        # 15 minutes on 2 cores, writes results/tune.json
    python benchmarks/tune.py --trials 4 --steps 8   # a trial; --out PATH keeps the result
"""

import argparse
import itertools
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from data import git, machine

from rayrec import stages
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.metrics import ranking_metrics
from rayrec.models.ranker import load_ranker
from rayrec.schema import batch_of_rows, relevance
from rayrec.stages import RunConfig
from rayrec.statistics import Sampled, bootstrap, estimate, mean_over
from rayrec.storage import provenance
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.tune.config import Choices, Range, TuneConfig
from rayrec.tune.results import begin, records_of
from rayrec.tune.space import name_of

HERE = Path(__file__).parent
RESULT = HERE / "results" / "tune.json"
STAGE, SEED, SHARE = "tuned", 0, 1 / 3
RATES = {"adapters": (3e-4, 3e-3, 3e-2, 3e-1), "language_model": (1e-4, 1e-3, 1e-2)}
KEYS = {group: f"train.stages.{STAGE}.learning_rates.{group}" for group in RATES}

Result = dict[str, Any]


def config_of(run: Path, steps: int, tune: TuneConfig) -> RunConfig:
    """The run that is searched.

    Args:
        run: its folder.
        steps: of the stage.
        tune: the search.
    """
    smallest = {group: values[0] for group, values in RATES.items()}
    stage = StageConfig(
        name=STAGE, learning_rates={"scales": 1e-2, **smallest}, steps=steps, validate_every=2, patience=steps
    )
    return RunConfig(
        run=str(run),
        seed=SEED,
        loader=LoaderConfig(streams=1, slots_per_batch=400, num_negatives=64),
        train=TrainConfig(num_workers=1, precision="fp32", stages=(stage,)),
        export_stage=STAGE,
        tune=tune,
    )


def searched(config: RunConfig) -> Result:
    """What `rayrec tune` finds, and what it cost."""
    began = time.perf_counter()
    stages.tune(config)
    wall = time.perf_counter() - began
    records, _ = records_of(config.search)
    return {
        "trials": len(records),
        "steps": sum(record.steps for record in records),
        "trial_seconds": sum(record.seconds for record in records),
        "wall_s": wall,
        "best": records[0].value,
        "values": dict(records[0].values),
        "states": {state: sum(one.state == state for one in records) for state in sorted({r.state for r in records})},
        "all": [[one.value, one.steps, *one.values.values()] for one in records],
    }


def interval_of(config: RunConfig) -> list[float]:
    """The 95 % interval, over validation users, of the best trial's validation value."""
    best = records_of(config.search)[0][0]
    data = Dataset(config.dataset)
    ranker = load_ranker(f"{config.search}/trials/{best.name}/{STAGE}", data.stats())
    held_out_N = np.array(data.catalogue()["held_out"].to_pylist()) == "valid"
    rows = data.rows("valid")
    batch = batch_of_rows(rows)
    relevant_BN, unseen_BN = relevance(rows, batch, len(held_out_N))
    ndcg_B2 = np.stack(
        [
            ranking_metrics(ranker.score(batch), relevant_BN, candidates_BN, config.train.validation_k)["ndcg"]
            for candidates_BN in (unseen_BN, unseen_BN & held_out_N)
        ],
        axis=1,
    )
    everything, cold = bootstrap([mean_over(ndcg_B2)], len(rows), 2000, SEED)[0]
    samples_S = (everything.samples_S + cold.samples_S) / 2
    found = estimate(Sampled((everything.mean + cold.mean) / 2, samples_S, everything.users))
    assert abs(found.mean - best.value) < 1e-6, f"the trial said {best.value}, its weights give {found.mean}"
    return [found.low, found.high]


def measured(folder: Path, trials: int, steps: int) -> Result:
    """The grid, then the search.

    Args:
        folder: for both runs.
        trials: of the search.
        steps: of a trial.
    """
    sys.path.append(str(HERE.parent))
    from tests.synthetic import generate, published

    pairs = list(itertools.product(*RATES.values()))
    points = [dict(zip(KEYS.values(), pair, strict=True)) for pair in pairs]
    choices = {KEYS[group]: Choices(choices=values) for group, values in RATES.items()}
    grid = config_of(folder / "grid", steps, TuneConfig(space=choices, trials=len(points), scheduler="none"))
    bounds = {KEYS[group]: Range(low=values[0], high=values[-1], log=True) for group, values in RATES.items()}
    asha = config_of(folder / "asha", steps, TuneConfig(space=bounds, trials=trials))
    for config in (grid, asha):
        published(generate(num_users=400, num_items=300, num_interactions=12_000), Path(config.dataset))
    for point in points:  # trials that have begun come first
        begin(name_of(point), point, grid.search)
    with stages.ray_session(object_store_memory=300_000_000):
        found = {"grid": searched(grid), "asha": searched(asha)}
    low, high = interval_of(grid)
    cost = found["asha"]["steps"] / found["grid"]["steps"]
    goals = {
        "value within the grid's interval": [
            f"{found['asha']['best']:.4f}",
            f"{low:.4f}",
            found["asha"]["best"] >= low,
        ],
        "steps over the grid's": [f"{cost:.2f}", f"{SHARE:.2f}", cost <= SHARE],
    }
    return {**found, "interval": [low, high], "goals": goals}


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rr-") as folder:
        found = measured(Path(folder), options.trials, options.steps)
    result = {
        "question": "how near a search by TPE and ASHA comes to a grid's best, and at what share of its cost",
        "commit": git("rev-parse", "HEAD"),
        "changed_since_commit": bool(git("status", "--porcelain", "--", ":/rayrec", ":/benchmarks/*.py")),
        "seed": SEED,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **provenance({})["packages"]},
        "config": {"trials": options.trials, "steps": options.steps, "rates": RATES},
        **found,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found["goals"]))


if __name__ == "__main__":
    main()
