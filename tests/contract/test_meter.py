"""What a training of two ranks that was interrupted tells about itself when it has been gone on with."""

import json
import shutil
from pathlib import Path

import pytest

from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.meter import STEP_PHASES
from tests import tiny
from tests.synthetic import generate, published
from tests.workers import Run, settings, work

STEPS, SAVED = 5, 4
STAGE = StageConfig(name="all", learning_rates={"scales": 2e-2}, steps=STEPS, validate_every=STEPS)


def test_time_goodput_trace_and_run_of_an_interrupted_training(tmp_path: Path) -> None:
    """The stage's outcome is taken away, so that it goes on from the checkpoint and repeats the last step."""
    data = published(generate(num_users=60, num_items=60, num_interactions=1800), tmp_path / "dataset")
    model = tiny.model_config(tiny.language_model(tmp_path / "language_model"))
    config = TrainConfig(
        zero_stage=1, stages=(STAGE,), checkpoint_every=2, trace_steps=1, wandb_project="shop", wandb_mode="offline"
    )
    run = Run(settings(data, tmp_path, model, config, streams=2, slots_per_batch=400))
    logs = Path(run.settings.uri) / "logs"
    assert work([run], 2) == [None]
    first = json.loads((logs / "summary.json").read_text())
    assert first["stages"]["all"]["steps"] == STEPS
    assert "tokens/s" not in first["stages"]["all"]  # the language model is frozen
    for rank in range(2):
        events = json.loads((logs / "all" / f"trace-rank{rank}.json").read_text())["traceEvents"]
        assert "ProfilerStep#3" in {event["name"] for event in events}

    shutil.rmtree(Path(run.settings.uri) / "all")
    assert work([run], 2) == [None]
    second = json.loads((logs / "summary.json").read_text())
    newest = max(run.checkpoints.iterdir())
    saved = json.loads((newest / "state.json").read_text())
    assert saved["step"] == SAVED
    assert second["began"] == saved["began"] == first["began"]
    assert second["stages"]["all"]["steps"] == STEPS - SAVED
    again = sum(second["stages"]["all"]["seconds"][phase] for phase in STEP_PHASES)
    assert second["useful_seconds"] == pytest.approx(saved["useful_seconds"] + again)
    wall = sum(second["seconds"].values())
    assert wall > sum(first["seconds"].values()) + second["seconds"]["start"]
    assert second["goodput"] == pytest.approx(second["useful_seconds"] / wall, rel=1e-3)
    runs = [path.name for path in (logs / "wandb").glob("offline-run-*/run-*.wandb")]
    assert len(runs) == 2
    assert len(set(runs)) == 1
