"""A stage's checkpoints as its loop asks for them, and the rows of a step that ended a run."""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch.distributed as dist

from rayrec.data.loader import Loader, Step
from rayrec.storage import join, upload_directory
from rayrec.train.checkpoint import Checkpoints
from rayrec.train.engine import Engine
from rayrec.train.surroundings import LoopState


class StageSaving:
    """Binds the run's checkpoints to the engine and the reader of one stage."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        engine: Engine,
        loader: Loader,
        stage: str,
        minutes: float,
        waiting: Callable[[], None],
    ) -> None:
        """Args:
        checkpoints: of the run.
        engine: of the stage.
        loader: whose place is saved.
        stage: its name.
        minutes: after which a checkpoint is due.
        waiting: called now and then while the storage is waited for.
        """
        self.waiting = waiting
        self.lost_before = checkpoints.lost
        self.checkpoints, self.engine, self.loader, self.stage = checkpoints, engine, loader, stage
        self.seconds = 60 * minutes
        self.saved_at = time.monotonic()

    def resume(self) -> LoopState | None:
        """Sets engine and reader to the newest checkpoint of the stage; None where there is none."""
        found = self.checkpoints.resume(self.engine, self.stage)
        if found is None:
            return None
        state, reader = found
        self.loader.load_state_dict(reader)
        if self.checkpoints.converted:
            self.saved_at = -self.seconds  # due at once: the next start need not convert again
        return state

    def restore(self) -> LoopState | None:
        """Sets the engine to the newest checkpoint of the stage and leaves the reader where it is."""
        found = self.checkpoints.resume(self.engine, self.stage)
        return None if found is None else found[0]

    def save(self, state: LoopState) -> None:
        """Takes a snapshot."""
        self.saved_at, self.lost_before = time.monotonic(), self.checkpoints.lost
        self.checkpoints.save(self.engine, state, self.loader.state_dict(), self.stage)

    def busy(self) -> bool:
        """Whether this rank is storing one."""
        return self.checkpoints.busy()

    def due(self) -> bool:
        """Whether the first rank's clock asks for one."""
        return dist.get_rank() == 0 and time.monotonic() - self.saved_at >= self.seconds

    def advance(self, idle: bool) -> None:
        """Publishes what is stored and starts what is queued, where no rank is busy."""
        self.checkpoints.advance(idle)

    def drain(self) -> bool:
        """Returns when all is stored and published: whether the last snapshot was, or it and others were given up."""
        self.checkpoints.drain(self.waiting)
        return self.checkpoints.lost == self.lost_before


def keep_rows(step: Step, folder: str) -> str:
    """Stores this rank's micro-batches of a step as rank<k>.npz, each array under `<micro-batch>/<field of Batch>`.

    Args:
        step: what to store.
        folder: URI to store in.

    Returns:
        The folder.
    """
    arrays: dict[str, Any] = {
        f"{number}/{field.name}": np.asarray(getattr(batch, field.name))
        for number, batch in enumerate(step.batches)
        for field in dataclasses.fields(batch)
    }
    with tempfile.TemporaryDirectory() as directory:
        np.savez(os.path.join(directory, f"rank{dist.get_rank()}.npz"), **arrays)
        upload_directory(directory, folder)
    dist.barrier()
    return join(folder)
