"""One flat loop for one worker and one stage. It knows no Ray: steps come in, callbacks validate and report."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor

from rayrec.data.loader import Step
from rayrec.models.recommender import ModelInput
from rayrec.schema import Batch
from rayrec.train.config import StageConfig
from rayrec.train.engine import Engine


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
        best: the trainable parameters there.
        finished: nothing is left to do.
    """

    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    best_value: float = float("-inf")
    best_step: int = 0
    misses: int = 0
    finished: bool = False
    best: Mapping[str, Tensor] = field(default_factory=dict)


def seed_of(*parts: int) -> int:
    """A 63-bit seed from whole numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def global_counts(inputs: Sequence[ModelInput]) -> Tensor:
    """ModelInput.counts() summed over micro-batches and ranks, float64 [3]."""
    counts = torch.stack([micro.counts() for micro in inputs]).sum(0)
    dist.all_reduce(counts)
    return counts.cpu()


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
    """What the loop asks of its surroundings; every rank calls each of them at the same steps.

    Attributes:
        validate: (trainable parameters, step) to a value, higher is better, equal on all ranks.
        checkpoint: saves engine and state.
        after_step: (state, the step's weighted LOSSES over all ranks, global counts) for progress and logs.
    """

    validate: Callable[[Mapping[str, Tensor], int], float]
    checkpoint: Callable[[Engine, LoopState], None]
    after_step: Callable[[LoopState, Tensor, Tensor], None]


def run_stage(
    engine: Engine, feed: Feed, callbacks: Callbacks, *, stage: StageConfig, checkpoint_every: int, state: LoopState
) -> LoopState:
    """Trains one stage to its end: its last step, or when patience runs out.

    Dropout is seeded before each micro-batch, so a resumed run needs no random state.

    Args:
        engine: holds the model and the optimiser.
        feed: steps, tensors, seeds.
        callbacks: what to do at validation, at a checkpoint and after a step.
        stage: length, validation interval, patience.
        checkpoint_every: steps between checkpoints.
        state: LoopState() or that of a checkpoint.

    Returns:
        The final state; its `best` are the weights to keep.
    """
    if not state.best:
        weights = engine.gathered_state()
        state = replace(state, best_value=callbacks.validate(weights, state.step), best=weights)
    while True:
        for step in feed.steps(state.epoch, state.epoch_step):
            inputs = [feed.prepare(batch) for batch in step.batches]
            counts = global_counts(inputs)
            if counts[2] == 0 and state.epoch_step == 0:
                raise ValueError("no training row has a target; check the training rows that prepare counted")
            if counts[2] == 0:
                break
            losses = engine.step(inputs, feed.seeds(state.epoch, state.epoch_step), counts, state.step)
            dist.all_reduce(losses)
            if not torch.isfinite(losses).all():
                raise ValueError(
                    f"stage {stage.name!r} diverged at step {state.step + 1}: losses {losses.tolist()}; "
                    "lower its learning_rates and run the same command again"
                )
            state = replace(state, step=state.step + 1, epoch_step=state.epoch_step + 1)
            callbacks.after_step(state, losses, counts)
            if state.step == stage.steps or state.step % stage.validate_every == 0:
                state = _validated(engine, stage, state, callbacks)
            if state.finished:
                return state
            if state.step % checkpoint_every == 0:
                callbacks.checkpoint(engine, state)
        state = replace(state, epoch=state.epoch + 1, epoch_step=0)


def _validated(engine: Engine, stage: StageConfig, state: LoopState, callbacks: Callbacks) -> LoopState:
    weights = engine.gathered_state()
    value = callbacks.validate(weights, state.step)
    if value > state.best_value:
        state = replace(state, best_value=value, best_step=state.step, misses=0, best=weights)
    else:
        state = replace(state, misses=state.misses + 1)
    return replace(state, finished=state.misses >= stage.patience or state.step == stage.steps)
