"""A training by a script, for the loop: an engine of one weight, checkpoints in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor

from rayrec.data.loader import Step
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.loop import run_stage
from rayrec.train.meter import Meter
from rayrec.train.notices import NOTHING
from rayrec.train.surroundings import Callbacks, Feed, LoopState

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
    stored: bool = True
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

    def drain(self) -> bool:
        """Counts."""
        self.drained += 1
        return self.stored

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
