"""Where a worker begins under Ray Train, and the actor by which a signal reaches it.

Ray Train's controller and that actor import this module too, so what a worker needs is imported when it begins.

Of a node about to be taken workers learn from Ray Train's own watcher, which tells every worker; its public question
is a barrier of all of them, so it is read where the watcher leaves it.
"""

import os
import pickle
import tempfile
import time
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
import ray.train
from ray.train.v2._internal.execution.context import get_train_context

if TYPE_CHECKING:
    from rayrec.train.worker import WorkerSettings

ANSWER_S = 10
GROUP = "placement_group"
_LISTENS_S = 30


class UserMistakeError(Exception):
    """A ValueError of a worker, told apart from failures of the machine."""


class DivergedWorkerError(UserMistakeError):
    """A DivergedError of a worker."""


class StopRequest:
    """An actor on the driver's node: whether the workers shall stop, and whether they have asked lately."""

    def __init__(self) -> None:
        self._asked, self._heeded = False, float("-inf")

    def ask(self) -> bool:
        """Asks them to; returns whether anybody is there to heed it."""
        self._asked = True
        return time.monotonic() - self._heeded < _LISTENS_S

    def asked(self) -> bool:
        """What rank 0 wants to know."""
        self._heeded = time.monotonic()
        return self._asked


def _leaving() -> Collection[str]:
    """The nodes of this fit that are about to be taken, as Ray Train has told this worker."""
    info = get_train_context().preemption_context.preemption_info
    return [] if info is None else [f"node {node}" for node in info.preempted_node_ids]


def _report(figures: dict[str, Any]) -> None:
    """Tells Ray Train of a validation, and where the workers are: whoever ends the trial has to free that place."""
    group = ray.util.get_current_placement_group()
    assert group is not None, "Ray Train places workers in a group"
    ray.train.report({**figures, GROUP: group.id.hex()})


def orders(settings: "WorkerSettings", request: Any, told: bool) -> dict[str, Any]:
    """What work() is given.

    Args:
        settings: the worker's; pickled here, for the controller would import the worker to read them.
        request: handle of a StopRequest.
        told: Ray Train is told of each validation.
    """
    return {"settings": pickle.dumps(settings), "stop": request, "told": told}


def work(given: dict[str, Any]) -> str:
    """Trains; returns what became of it where it was stopped before its end, else "".

    Args:
        given: orders().

    Raises:
        UserMistakeError: the training refuses to go on.
    """
    import ray.train.torch

    from rayrec.config import is_refusal
    from rayrec.storage import download_directory
    from rayrec.train.notices import NOTHING, Notices
    from rayrec.train.surroundings import DivergedError, Stopped
    from rayrec.train.worker import Worker

    local: WorkerSettings = pickle.loads(given["settings"])
    request = given["stop"]

    def stop() -> bool:
        asked: bool = ray.get(request.asked.remote(), timeout=ANSWER_S)
        return asked

    first = ray.train.get_context().get_world_rank() == 0
    with (
        tempfile.TemporaryDirectory() as directory,
        Notices(stop, _leaving) if first else nullcontext(lambda: NOTHING) as notice,
    ):
        states = {
            pretrained: download_directory(uri, os.path.join(directory, f"states_{pretrained}"))
            for pretrained, uri in local.states.items()
        }
        told = _report if given["told"] else lambda figures: None
        try:
            Worker(replace(local, states=states), notice, ray.train.torch.get_device(), told).run()
        except Stopped as stopped:
            return "stopped, with a checkpoint," if stopped.saved else "stopped, without a new checkpoint,"
        except ValueError as error:
            if not is_refusal(error):
                raise
            kind = DivergedWorkerError if isinstance(error, DivergedError) else UserMistakeError
            raise kind(str(error)) from error
    return ""
