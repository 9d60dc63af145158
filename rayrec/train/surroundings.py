"""What the loop is given: where it stands, what it is fed with, what it asks of its surroundings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from rayrec.data.loader import Step
from rayrec.models.recommender import ModelInput
from rayrec.schema import Batch


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Training stopped because it was asked to.

    Attributes:
        saved: a checkpoint holds where it stands; False where the storage would not take it.
    """

    def __init__(self, saved: bool) -> None:
        super().__init__(saved)
        self.saved = saved


class DivergedError(ValueError):
    """Training went to where no loss is finite, and going back did not help: its settings are at fault."""


@dataclass(frozen=True)
class LoopState:
    """Where a stage stands: what a checkpoint holds beside DeepSpeed's shards.

    Attributes:
        step: optimiser steps done in the stage.
        epoch: the epoch the next step belongs to.
        epoch_step: steps done in that epoch.
        best_value: best validation value so far; step 0 counts.
        best_step: where it was reached.
        best: the trainable parameters there.
        misses: validations since then.
        skipped: steps that were not applied, for a loss or a gradient was not finite.
        skipped_in_a_row: those since the last step that was applied.
        rolled_back_from: the furthest step from which the stage went back to a checkpoint; 0 where it never did.
        finished: nothing is left to do.
        useful_seconds, began: of the Meter.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    best_value: float = float("-inf")
    best_step: int = 0
    misses: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    rolled_back_from: int = 0
    finished: bool = False
    useful_seconds: float = 0.0
    began: float = float("inf")
    best: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Feed:
    """What the loop is fed with.

    Attributes:
        steps: (epoch, first step) to this rank's Steps from there on.
        prepare: a micro-batch as tensors.
        seeds: (epoch, step) to the seeds of dropout, one a micro-batch of this rank's step.
    """

    steps: Callable[[int, int], Iterable[Step]]
    prepare: Callable[[Batch], ModelInput]
    seeds: Callable[[int, int], Sequence[int]]


@dataclass(frozen=True)
class Callbacks:
    """What the loop asks of its surroundings; every rank calls validate, after_step and keep at the same steps.

    Attributes:
        validate: (trainable parameters, step) to a value, higher is better, equal on all ranks.
        after_step: (state, the step's weighted LOSSES over all ranks, global counts) for progress and logs.
        notice: notices.NOTHING, SAVE or STOP, as this rank was asked; cheap.
        keep: stores the micro-batches of a step that ended the run; returns the URI of the folder.
    """

    validate: Callable[[Mapping[str, Tensor], int], float]
    after_step: Callable[[LoopState, Tensor, Tensor], None]
    notice: Callable[[], int]
    keep: Callable[[Step], str]


class Saving(Protocol):
    """The checkpoints of the stage; all but `busy` and `due` are called by every rank at the same step."""

    def save(self, state: LoopState) -> None:
        """Takes a snapshot of engine, reader and state, to be stored while training goes on."""
        ...

    def restore(self) -> LoopState | None:
        """Sets the engine to the newest checkpoint of the stage, and nothing else; None where there is none."""
        ...

    def busy(self) -> bool:
        """Whether this rank is storing one."""
        ...

    def due(self) -> bool:
        """Whether this rank's clock asks for one."""
        ...

    def advance(self, idle: bool) -> None:
        """Publishes what is stored and starts what is queued, where no rank is busy."""
        ...

    def drain(self) -> bool:
        """Returns when all is stored and published; whether the last snapshot was."""
        ...
