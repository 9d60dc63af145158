"""The loop by a script: what it validates, keeps and saves, where it goes on; then real runs that must not harm."""

import json
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rayrec.data.dataset import Dataset
from rayrec.storage import manifest
from rayrec.train import worker
from rayrec.train.config import ParameterGroup, StageConfig, TrainConfig
from rayrec.train.loop import seed_of
from rayrec.train.notices import NOTHING
from rayrec.train.validate import Validation
from tests import tiny
from tests.scripted import Script, stage
from tests.workers import settings

pytestmark = pytest.mark.usefixtures("alone")


def test_early_stopping_keeps_the_best_weights() -> None:
    script = Script([0.1, 0.5, 0.3, 0.5, 0.9])
    final = script.run(stage())
    assert script.validated == [0, 2, 4, 6]
    assert (final.best_step, final.best_value, final.step, final.finished) == (2, 0.5, 6, True)
    assert float(final.best["weight"]) == 2


def test_a_late_gain_resets_the_patience() -> None:
    final = Script([0.1, 0.0, 0.2, 0.1, 0.3, 0.2, 0.2]).run(stage())
    assert (final.best_step, final.step) == (8, 12)


def test_step_0_is_a_candidate() -> None:
    final = Script([0.5, 0.4, 0.5]).run(stage())
    assert (final.best_step, final.best_value) == (0, 0.5)
    assert float(final.best["weight"]) == 0


def test_the_last_step_is_validated_and_ends_the_stage() -> None:
    script = Script([0.1, 0.2, 0.3, 0.4])
    final = script.run(stage(steps=5))
    assert script.validated == [0, 2, 4, 5]
    assert script.steps == [0, 1, 2, 3, 4]
    assert (final.best_step, final.finished) == (5, True)


def test_epochs_follow_each_other_without_the_steps_that_hold_nothing() -> None:
    script = Script([0.1] * 9)
    final = script.run(stage(steps=7, patience=9))
    assert script.fed == [(0, 0), (1, 0), (2, 0)]
    assert script.seeds == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert (final.epoch, final.epoch_step) == (2, 1)


def test_a_checkpoint_is_where_the_run_goes_on() -> None:
    script = Script([0.1, 0.6, 0.3, 0.4])
    script.run(stage(steps=5), checkpoint_every=2)
    assert [(state.step, state.epoch, state.epoch_step) for state in script.checkpoints] == [(2, 0, 2), (4, 1, 1)]
    assert script.checkpoints[1].misses == 1
    again = Script([0.4], weight=4)
    final = again.run(stage(steps=5), state=script.checkpoints[1])
    assert again.fed == [(1, 1)]
    assert again.validated == [5]
    assert (final.step, final.best_step, final.best_value, final.misses) == (5, 2, 0.6, 2)


def test_a_finished_stage_has_nothing_left_to_save() -> None:
    script = Script([0.1, 0.2, 0.3])
    script.run(stage(steps=4), checkpoint_every=4)
    assert script.checkpoints == []


def test_the_meter_is_told_and_checkpoints_hold_where_it_stands() -> None:
    script = Script([0.1, 0.6, 0.3, 0.4])
    script.run(stage(steps=5), checkpoint_every=2)
    told = script.meter.summary()
    assert {"data", "collate", "step", "validate", "checkpoint"} < told["seconds"].keys()
    assert told["stages"]["a"]["steps"] == 5
    assert told["stages"]["a"]["tokens/s"] == pytest.approx(7 * told["stages"]["a"]["examples/s"])
    first, second = script.checkpoints
    assert 0 < first.useful_seconds < second.useful_seconds < told["useful_seconds"]
    assert first.began == told["began"]


def test_seeds_are_the_same_on_every_machine_and_differ_by_every_part() -> None:
    assert seed_of(0) == seed_of(0)
    assert seed_of(1, 2, 3) == 8064461727618995781
    assert len({seed_of(a, b) for a in range(30) for b in range(30)}) == 900
    assert all(0 <= seed_of(part) < 2**63 for part in range(100))


@pytest.mark.parametrize(("sign", "kept"), [(-1, False), (1, True)], ids=["harmful", "useful"])
def test_a_stage_that_harms_changes_nothing(
    data: Dataset, language_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: int, kept: bool
) -> None:
    """Where validation falls with every step the start is published, where it rises the end."""
    values = count(0, sign)
    monkeypatch.setattr(Validation, "__call__", lambda *_: {"value": float(next(values))})
    monkeypatch.setattr(worker, "calibrate", lambda ranker, validation: validation(ranker))
    rates: dict[ParameterGroup, float] = {"scales": 1e-2, "adapters": 1e-2, "id": 1e-2, "language_model": 1e-2}
    stage = StageConfig(name="a", learning_rates=rates, steps=4, validate_every=2)
    config = TrainConfig(zero_stage=0, warmup_steps=0, trace_steps=1, stages=(stage,))
    model = tiny.model_config(language_model)
    chosen = settings(data, tmp_path, model, config, streams=2, slots_per_batch=400, num_negatives=32)
    worker.Worker(chosen, lambda: NOTHING, torch.device("cpu")).run()
    about = manifest(f"{chosen.uri}/a", "weights")
    assert about["kept"] == kept
    assert about["validation"]["best_step"] == (4 if kept else 0)
    told = json.loads((Path(chosen.uri) / "logs" / "summary.json").read_text())
    assert sum(told["seconds"].values()) == pytest.approx(time.time() - chosen.began, rel=0.03)
    assert {stage: of["steps"] for stage, of in told["stages"].items()} == {"zero_shot": 0, "a": 4}
    assert {"start", "data", "collate", "step", "validate", "publish"} <= told["stages"]["a"]["seconds"].keys()
    assert told["stages"]["a"]["tokens/s"] > told["stages"]["a"]["examples/s"] > 0
    assert 0 < told["goodput"] < 1
    trace = json.loads((Path(chosen.uri) / "logs" / "a" / "trace-rank0.json").read_text())
    assert "ProfilerStep#3" in {event["name"] for event in trace["traceEvents"]}
    for name in ("model", "items"):
        start, end = (load_file(Path(chosen.uri) / stage / f"{name}.safetensors") for stage in ("zero_shot", "a"))
        assert start.keys() == end.keys()
        assert any(not torch.equal(end[key], start[key]) for key in end) == kept
