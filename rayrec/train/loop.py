"""One flat loop for one worker and one stage. It knows no Ray: steps come in, callbacks validate and report.

After each step the ranks exchange one small vector: the losses, and what any of them was asked or has found. So all of
them save, stop, skip or go back at the same step.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from rayrec.data.loader import Step
from rayrec.models.recommender import ModelInput
from rayrec.schema import Batch
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.engine import Engine
from rayrec.train.meter import Meter
from rayrec.train.notices import SAVE, STOP


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Training stopped because it was asked to; a checkpoint holds where it stands."""


@dataclass(frozen=True)
class LoopState:
    """Where a stage stands: what a checkpoint holds beside DeepSpeed's shards.

    Attributes:
        step: optimiser steps done in the stage.
        epoch: the epoch the next step belongs to.
        epoch_step: steps done in that epoch.
        best_value: best validation value so far; step 0 counts.
        best_step: where it was reached.
        misses: validations since then.
        skipped: steps that were not applied, for a loss or a gradient was not finite.
        skipped_in_a_row: those since the last step that was applied.
        rolled_back_from: the furthest step from which the stage went back to a checkpoint; 0 where it never did.
        best: the trainable parameters there.
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


def seed_of(*parts: int) -> int:
    """A 63-bit seed from whole numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def global_counts(inputs: Sequence[ModelInput]) -> tuple[Tensor, float]:
    """ModelInput.counts() and tokens() summed over micro-batches and ranks: float64 [3], and a number."""
    counts = torch.stack([torch.cat([micro.counts(), micro.tokens()[None]]) for micro in inputs]).sum(0)
    dist.all_reduce(counts)
    counts = counts.cpu()
    return counts[:3], float(counts[3])


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

    def drain(self) -> None:
        """Returns when all is stored and published."""
        ...


class _Agreed(NamedTuple):
    """A step as all ranks see it."""

    losses: Tensor
    applied: bool
    save: bool
    stop: bool
    idle: bool


def _agreed(engine: Engine, losses: Tensor, notice: int, saving: Saving) -> _Agreed:
    flags = (notice == SAVE or saving.due(), notice == STOP, saving.busy())
    report = torch.cat([losses, torch.tensor(flags, dtype=losses.dtype)])
    dist.all_reduce(report)
    losses, (save, stop, busy) = report[:-3], (report[-3:] > 0).tolist()
    return _Agreed(losses, engine.applied and bool(torch.isfinite(losses).all()), save, stop, not busy)


def run_stage(
    engine: Engine,
    feed: Feed,
    callbacks: Callbacks,
    saving: Saving,
    *,
    stage: StageConfig,
    config: TrainConfig,
    state: LoopState,
    meter: Meter,
) -> LoopState:
    """Trains one stage to its end: its last step, or when patience runs out.

    Dropout is seeded before each micro-batch, so a resumed run needs no random state. A step whose losses or gradients
    are not finite is skipped, on all ranks; `config.max_skipped` in a row send weights and optimiser back to the last
    checkpoint, and training goes on with the rows that come next.

    Args:
        engine: holds the model and the optimiser.
        feed: steps, tensors, seeds.
        callbacks: what to do at validation and after a step.
        saving: the stage's checkpoints.
        stage: length, validation interval, patience.
        config: steps between checkpoints; how many steps may be skipped in a row.
        state: LoopState() or that of a checkpoint.
        meter: told of every phase and step; the checkpoints hold where it stands.

    Returns:
        The final state; its `best` are the weights to keep.

    Raises:
        Stopped: a notice asked for it, and a checkpoint is stored.
        ValueError: no row has a target; steps were skipped in a row, and going back did not help or was not possible.
    """
    if not state.best:
        with meter.during("validate"):
            weights = engine.gathered_state()
            state = replace(state, best_value=callbacks.validate(weights, state.step), best=weights)
    while True:
        for step in meter.each("data", feed.steps(state.epoch, state.epoch_step)):
            with meter.during("collate"):
                inputs = [feed.prepare(batch) for batch in step.batches]
            with meter.during("step"):
                counts, tokens = global_counts(inputs)
            if counts[2] == 0 and state.epoch_step == 0:
                raise ValueError("no training row has a target; check the training rows that prepare counted")
            if counts[2] == 0:
                break
            with meter.during("step"):
                own_losses = engine.step(inputs, feed.seeds(state.epoch, state.epoch_step), counts, state.step)
                agreed = _agreed(engine, own_losses, callbacks.notice(), saving)
            meter.stepped(float(counts[0]), tokens, useful=agreed.applied)
            state = replace(
                state,
                step=state.step + 1,
                epoch_step=state.epoch_step + 1,
                skipped=state.skipped + (not agreed.applied),
                skipped_in_a_row=0 if agreed.applied else state.skipped_in_a_row + (not engine.rescaled),
            )
            callbacks.after_step(state, agreed.losses, counts)
            if state.skipped_in_a_row == config.max_skipped:
                with meter.during("checkpoint"):
                    state = _rolled_back(stage, state, agreed.losses, saving, partial(callbacks.keep, step))
                meter.resume(state.useful_seconds, state.began)
                continue
            if state.step == stage.steps or state.step % stage.validate_every == 0:
                with meter.during("validate"):
                    state = _validated(engine, stage, state, callbacks)
            if state.finished:
                return state
            with meter.during("checkpoint"):
                saving.advance(agreed.idle)
                due = agreed.save or state.step % config.checkpoint_every == 0
                if agreed.stop or (agreed.applied and due):
                    state = replace(state, useful_seconds=meter.useful_seconds, began=meter.began)
                    saving.save(state)
                if agreed.stop:
                    saving.drain()
                    raise Stopped
        state = replace(state, epoch=state.epoch + 1, epoch_step=0)


def _rolled_back(
    stage: StageConfig, state: LoopState, losses: Tensor, saving: Saving, keep: Callable[[], str]
) -> LoopState:
    """The state of the last checkpoint, but for the place in the data: the rows that were skipped are not met again."""
    restored = saving.restore() if state.step > state.rolled_back_from else None
    if restored is None:
        tried = f"as before step {state.rolled_back_from}" if state.rolled_back_from else "with no checkpoint before"
        raise ValueError(
            f"stage {stage.name!r} diverged: {state.skipped_in_a_row} steps in a row up to step {state.step}, {tried}, "
            f"had a loss or a gradient that is not finite (losses {losses.tolist()}); expected finite ones: lower its "
            f"learning_rates or look at the rows of the last one, which lie in {keep()}; then use another run folder"
        )
    return replace(
        restored,
        epoch=state.epoch,
        epoch_step=state.epoch_step,
        skipped=state.skipped,
        skipped_in_a_row=0,
        rolled_back_from=state.step,
    )


def _validated(engine: Engine, stage: StageConfig, state: LoopState, callbacks: Callbacks) -> LoopState:
    weights = engine.gathered_state()
    value = callbacks.validate(weights, state.step)
    if value > state.best_value:
        state = replace(state, best_value=value, best_step=state.step, misses=0, best=weights)
    else:
        state = replace(state, misses=state.misses + 1)
    return replace(state, finished=state.misses >= stage.patience or state.step == stage.steps)
