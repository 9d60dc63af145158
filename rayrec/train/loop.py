"""One flat loop for one worker and one stage. It knows no Ray: steps come in, callbacks validate and report.

After each step the ranks exchange one small vector: the losses, and what any of them was asked or has found. So all of
them save, stop, skip or go back at the same step.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from rayrec.models.recommender import ModelInput
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.engine import Engine
from rayrec.train.meter import Meter
from rayrec.train.notices import SAVE, STOP
from rayrec.train.surroundings import Callbacks, DivergedError, Feed, LoopState, Saving, Stopped


def seed_of(*parts: int) -> int:
    """A 63-bit seed from whole numbers, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def global_counts(inputs: Sequence[ModelInput]) -> tuple[Tensor, float]:
    """ModelInput.counts() and tokens() summed over micro-batches and ranks: float64 [3], and a number."""
    counts = torch.stack([torch.cat([micro.counts(), micro.tokens()[None]]) for micro in inputs]).sum(0)
    dist.all_reduce(counts)
    counts = counts.cpu()
    return counts[:3], float(counts[3])


class _Agreed(NamedTuple):
    """A step as all ranks see it."""

    losses: Tensor
    applied: bool
    due: bool
    save: bool
    stop: bool
    idle: bool


def _agreed(engine: Engine, losses: Tensor, notice: int, saving: Saving) -> _Agreed:
    flags = (saving.due(), notice == SAVE, notice == STOP, saving.busy())
    report = torch.cat([losses, torch.tensor(flags, dtype=losses.dtype)])
    dist.all_reduce(report)
    losses, (due, save, stop, busy) = report[:-4], (report[-4:] > 0).tolist()
    return _Agreed(losses, engine.applied and bool(torch.isfinite(losses).all()), due, save, stop, not busy)


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

    Dropout is seeded before each micro-batch, so a resumed run needs no random state. A step with a gradient that is
    not finite is not taken, on any rank. `config.max_skipped` such steps in a row, or steps whose losses are not
    finite, send weights and optimiser back to the last checkpoint, and training goes on with the rows that come next.

    Args:
        engine: holds the model and the optimiser.
        feed: steps, tensors, seeds.
        callbacks, saving: what the loop asks for.
        stage, config: lengths, intervals, limits.
        state: LoopState() or that of a checkpoint.
        meter: told of every phase and step; the checkpoints hold where it stands.

    Returns:
        The final state; its `best` are the weights to keep.

    Raises:
        Stopped: a notice asked for it.
        ValueError: no row has a target.
        DivergedError: steps were skipped in a row, and going back did not help or could not be.
    """
    if not state.best:
        with meter.during("validate"):
            weights = engine.gathered_state()
            state = replace(state, best_value=callbacks.validate(weights, state.step), best=weights)
    asked = False
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
            asked = asked or agreed.save
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
                due = agreed.due or asked or state.step % config.checkpoint_every == 0
                if agreed.stop or (agreed.applied and due):
                    state = replace(state, useful_seconds=meter.useful_seconds, began=meter.began)
                    _save(state, saving, stop=agreed.stop, wait=asked)
                    asked = False
        state = replace(state, epoch=state.epoch + 1, epoch_step=0)


def _save(state: LoopState, saving: Saving, *, stop: bool, wait: bool) -> None:
    saving.save(state)
    if stop:
        raise Stopped(saving.drain())
    if wait:
        saving.drain()  # whoever asked for it may not leave the time for another step


def _rolled_back(
    stage: StageConfig, state: LoopState, losses: Tensor, saving: Saving, keep: Callable[[], str]
) -> LoopState:
    """The state of the last checkpoint, but for the place in the data: the rows that were skipped are not met again."""
    restored = saving.restore() if state.step > state.rolled_back_from else None
    if restored is None:
        tried = f"as before step {state.rolled_back_from}" if state.rolled_back_from else "with no checkpoint before"
        raise DivergedError(
            f"stage {stage.name!r} diverged: {state.skipped_in_a_row} steps in a row up to step {state.step}, {tried}, "
            f"had a loss or a gradient that is not finite (losses {losses.tolist()}); expected finite ones: lower its "
            f"learning_rates or look at the rows of the last one, which lie in {keep()}; then use another run folder"
        )
    best = restored if restored.best_value >= state.best_value else state
    return replace(
        restored,
        best=best.best,
        best_value=best.best_value,
        best_step=best.best_step,
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
