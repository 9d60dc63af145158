"""The loop by a script: what it validates, keeps and saves, where it goes on; then real runs that must not harm."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rayrec.data.dataset import Dataset
from rayrec.data.loader import Step
from rayrec.storage import manifest
from rayrec.train import worker
from rayrec.train.config import ParameterGroup, StageConfig, TrainConfig
from rayrec.train.loop import Callbacks, Feed, LoopState, Stopped, run_stage, seed_of
from rayrec.train.meter import Meter
from rayrec.train.notices import NOTHING, SAVE, STOP
from rayrec.train.validate import Validation
from tests import tiny
from tests.workers import settings

EPOCH = 3


@dataclass
class Script:
    """An engine whose one weight counts the steps, and a record of what the loop did."""

    values: list[float]
    weight: float = 0.0
    meter: Meter = field(default_factory=lambda: Meter("a"))
    fed: list[tuple[int, int]] = field(default_factory=list)
    seeds: list[tuple[int, int]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)
    checkpoints: list[LoopState] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)
    overflows: tuple[int, ...] = ()
    too_large_scales: tuple[int, ...] = ()
    asked: dict[int, int] = field(default_factory=dict)
    late: tuple[int, ...] = ()
    uploading: tuple[int, ...] = ()
    saved_weights: list[float] = field(default_factory=list)
    advanced: list[bool] = field(default_factory=list)
    drained: int = 0
    kept: list[int] = field(default_factory=list)
    applied: bool = True
    rescaled: bool = False

    def gathered_state(self) -> dict[str, Tensor]:
        """The weight."""
        return {"weight": torch.tensor(self.weight)}

    def step(self, inputs: object, seeds: object, counts: Tensor, step: int) -> Tensor:
        """Counts, unless the gradient overflows: `overflows` and `losses` tell of the steps that ever ran."""
        self.steps.append(step)
        self.rescaled = len(self.steps) in self.too_large_scales
        self.applied = not self.rescaled and len(self.steps) not in self.overflows
        self.weight += self.applied
        return torch.full((3,), self.losses.get(len(self.steps), 0.0))

    def save(self, state: LoopState) -> None:
        """Records."""
        self.checkpoints.append(state)
        self.saved_weights.append(self.weight)

    def restore(self) -> LoopState | None:
        """The last that was saved."""
        if not self.checkpoints:
            return None
        self.weight = self.saved_weights[-1]
        return self.checkpoints[-1]

    def busy(self) -> bool:
        """As the script says."""
        return len(self.steps) in self.uploading

    def due(self) -> bool:
        """As the script says."""
        return len(self.steps) in self.late

    def advance(self, idle: bool) -> None:
        """Records."""
        self.advanced.append(idle)

    def drain(self) -> None:
        """Counts."""
        self.drained += 1

    def _keep(self, step: Step) -> str:
        self.kept.append(step.number)
        return "the/folder"

    def _steps(self, epoch: int, first: int) -> Iterator[Step]:
        self.fed.append((epoch, first))
        number = first
        while True:
            batch = SimpleNamespace(targets=number < EPOCH)
            yield Step(number, (batch,))  # type: ignore[arg-type]
            number += 1

    def _validate(self, weights: Mapping[str, Tensor], step: int) -> float:
        self.validated.append(step)
        assert float(weights["weight"]) == self.weight
        return self.values.pop(0)

    def _seeds(self, epoch: int, step: int) -> list[int]:
        self.seeds.append((epoch, step))
        return [0]

    def run(self, stage: StageConfig, state: LoopState | None = None, **config: int) -> LoopState:
        """The loop on this script."""
        feed = Feed(
            steps=self._steps,
            prepare=lambda batch: SimpleNamespace(  # type: ignore[arg-type, return-value]
                counts=lambda: torch.full((3,), float(batch.targets)), tokens=lambda: torch.tensor(7.0)
            ),
            seeds=self._seeds,
        )
        callbacks = Callbacks(
            validate=self._validate,
            after_step=lambda *_: None,
            notice=lambda: self.asked.get(len(self.steps), NOTHING),
            keep=self._keep,
        )
        return run_stage(
            self,  # type: ignore[arg-type]
            feed,
            callbacks,
            self,
            stage=stage,
            config=TrainConfig(stages=(), **config),  # type: ignore[arg-type]
            state=state or LoopState(),
            meter=self.meter,
        )


def stage(steps: int = 20, validate_every: int = 2, patience: int = 2) -> StageConfig:
    return StageConfig(
        name="a", learning_rates={"scales": 1e-2}, steps=steps, validate_every=validate_every, patience=patience
    )


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


def test_a_step_with_a_loss_or_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    script = Script([0.1] * 9, losses={2: float("nan")}, overflows=(2, 3, 5))
    final = script.run(stage(steps=6, patience=9), max_skipped=3)
    assert (final.step, final.skipped, final.skipped_in_a_row, script.weight) == (6, 3, 0, 3)


def test_a_step_skipped_for_a_loss_scale_to_be_lowered_is_nothing_to_go_back_for() -> None:
    script = Script([0.1] * 9, too_large_scales=(1, 2, 4), overflows=(3,))
    final = script.run(stage(steps=6, patience=9), max_skipped=2)
    assert (final.step, final.skipped, script.weight) == (6, 4, 2)


def test_steps_skipped_in_a_row_go_back_to_the_checkpoint_and_on_with_the_next_rows() -> None:
    script = Script([0.1] * 9, overflows=(5, 6))
    final = script.run(stage(steps=8, patience=9), max_skipped=2, checkpoint_every=2)
    assert script.steps == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert script.seeds == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]
    assert (final.step, final.skipped, final.rolled_back_from, script.weight) == (8, 2, 6, 8)
    assert not script.kept


def test_a_stage_that_goes_back_in_vain_ends_with_its_rows_kept() -> None:
    script = Script([0.1] * 9, overflows=(4, 5, 6, 7))
    with pytest.raises(ValueError, match=r"2 steps in a row up to step 4, as before step 5, .*in the/folder") as told:
        script.run(stage(steps=8, patience=9), max_skipped=2, checkpoint_every=2)
    assert "lower its learning_rates" in str(told.value)
    assert script.kept == [0]
    with pytest.raises(ValueError, match="up to step 1, with no checkpoint before"):
        Script([0.1], overflows=(1,)).run(stage(), max_skipped=1)


def test_nothing_is_saved_at_a_step_that_was_skipped() -> None:
    script = Script([0.1] * 9, overflows=(2,))
    script.run(stage(steps=5, patience=9), checkpoint_every=2)
    assert [state.step for state in script.checkpoints] == [4]


def test_a_checkpoint_is_saved_where_a_notice_or_the_clock_asks_for_one() -> None:
    script = Script([0.1] * 9, asked={3: SAVE}, late=(5,))
    final = script.run(stage(steps=7, patience=9))
    assert [state.step for state in script.checkpoints] == [3, 5]
    assert (final.step, script.drained) == (7, 0)


def test_a_stage_that_is_told_to_stop_ends_with_a_stored_checkpoint_from_which_it_goes_on() -> None:
    script = Script([0.1, 0.2, 0.3], asked={3: STOP})
    with pytest.raises(Stopped):
        script.run(stage(steps=4))
    assert ([state.step for state in script.checkpoints], script.drained) == ([3], 1)
    again = Script([0.3], weight=3)
    assert again.run(stage(steps=4), state=script.checkpoints[0]).best_step == 4


def test_uploads_advance_only_where_no_rank_is_busy() -> None:
    script = Script([0.1] * 9, uploading=(2, 3))
    script.run(stage(steps=5, patience=9))
    assert script.advanced == [True, False, False, True]


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
