"""Training as a user starts it, and what ends it: Ctrl-C and SIGTERM."""

import json
from pathlib import Path
from typing import Any

from rayrec.data.config import LoaderConfig
from rayrec.stages import RunConfig
from rayrec.storage import is_published
from rayrec.train.config import StageConfig, TrainConfig
from tests import tiny
from tests.driver import running
from tests.synthetic import generate, published

ENDLESS = 100_000


def training(folder: Path, **train: Any) -> RunConfig:
    """A run whose only stage does not end and saves no checkpoint by itself."""
    published(generate(num_users=60, num_items=60, num_interactions=1800), folder / "run" / "dataset")
    stage = StageConfig(name="tuned", learning_rates={"scales": 1e-4}, steps=ENDLESS, validate_every=ENDLESS)
    return RunConfig(
        run=str(folder / "run"),
        model=tiny.model_config(tiny.language_model(folder / "language_model"), dropout=0.2),
        loader=LoaderConfig(streams=3, slots_per_batch=200, num_negatives=16),
        train=TrainConfig(precision="fp32", checkpoint_every=ENDLESS, stages=(stage,), **train),
        export_stage="tuned",
    )


def steps_of(run: RunConfig, stage: str = "tuned") -> list[int]:
    """The steps that a stage has logged so far."""
    path = Path(run.weights) / "logs" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row["step"] for row in map(json.loads, lines) if f"{stage}/loss" in row]


def saved_steps(run: RunConfig) -> list[int]:
    """The steps that there are checkpoints of."""
    return sorted(json.loads(path.read_text())["step"] for path in Path(run.weights).glob("checkpoints/**/state.json"))


def test_ctrl_c_saves_a_checkpoint_ends_the_run_and_tells_how_to_go_on(tmp_path: Path) -> None:
    run = training(tmp_path)
    with running("train", run, tmp_path) as driver:
        driver.wait_for(lambda: len(steps_of(run)) > 2)
        driver.interrupt()
        code, printed = driver.finish()
    assert code == 130, printed
    assert "rayrec train: stopped, with a checkpoint, on SIGINT; to go on: rayrec train --config " in printed
    assert saved_steps(run) == [len(steps_of(run))]
    assert is_published(f"{run.weights}/zero_shot")
    assert not is_published(f"{run.weights}/tuned")


def test_sigterm_before_there_are_workers_ends_the_run_at_once(tmp_path: Path) -> None:
    run = training(tmp_path)
    with running("train", run, tmp_path) as driver:
        driver.wait_for(lambda: "Running Dataset" in driver.log.read_text())  # the catalogue is being encoded
        driver.terminate()
        code, printed = driver.finish()
    assert code == 143, printed
    assert (
        "rayrec train: ended at once, for no worker listened, on SIGTERM; to go on: rayrec train --config " in printed
    )
    assert not Path(run.weights, "zero_shot").exists()
    assert "SIGTERM handler is not set" not in printed  # by a second Ray
