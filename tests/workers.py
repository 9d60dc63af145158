"""Training workers in processes of their own, joined by gloo, without Ray."""

import json
import logging
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import load_encoder
from rayrec.text import item_texts
from rayrec.train import store
from rayrec.train.config import TrainConfig
from rayrec.train.engine import Engine
from rayrec.train.initial import model_of
from rayrec.train.notices import NOTHING
from rayrec.train.validate import Validation
from rayrec.train.worker import CHECKPOINTS, Worker, WorkerSettings
from tests.tiny import states_in_process

WARNINGS, KILLED = "warnings.txt", "killed"
POINTS: dict[str, tuple[Any, str]] = {
    "step": (Engine, "step"),
    "validation": (Validation, "__call__"),
    "snapshot": (Engine, "save"),
    "upload": (store, "upload_file"),
    "manifest": (store, "publish"),
}
"""Functions at which a process may be killed."""
OF_FIRST_RANK = ("upload", "manifest")
"""Points where the first rank dies, which alone has files at every ZeRO stage and writes the manifest."""


@dataclass(frozen=True)
class Run:
    """One training: what the worker is told, and what it has logged."""

    settings: WorkerSettings

    @property
    def checkpoints(self) -> Path:
        """The folder that its checkpoints lie in."""
        return Path(self.settings.uri) / CHECKPOINTS

    def _logged(self, stage: str) -> list[dict[str, Any]]:
        lines = (Path(self.settings.uri) / "logs" / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if f"{stage}/loss" in row]

    def logged_steps(self, stage: str) -> list[int]:
        """The steps of a stage in the order they were logged; a step that was repeated is there twice."""
        return [row["step"] for row in self._logged(stage)]

    def figures(self, stage: str, name: str) -> list[float]:
        """One figure of every step of a stage, as it was logged last."""
        last = {row["step"]: row[f"{stage}/{name}"] for row in self._logged(stage)}
        return [last[step] for step in sorted(last)]

    def losses(self, stage: str) -> list[float]:
        """The loss of every step of a stage, as it was logged last."""
        return self.figures(stage, "loss")

    def resumed_at(self, stage: str) -> int:
        """The first step that was logged after the last start."""
        steps = self.logged_steps(stage)
        return next((after for before, after in reversed(list(pairwise(steps))) if after <= before), steps[0])

    def warnings(self) -> str:
        """What rank 0 warned of, one line a warning."""
        return (Path(self.settings.uri) / WARNINGS).read_text()


@dataclass(frozen=True)
class Kill:
    """Where a process dies by SIGKILL: at the nth call of a function, before or after it has done its work.

    Attributes:
        point: one of POINTS.
        nth: counts from 1.
        after: whether the function has done its work.
    """

    point: str
    nth: int
    after: bool = False

    def arm(self, marker: Path) -> None:
        """Lies in wait in this process; the marker tells that it came to it."""
        owner, name = POINTS[self.point]
        function, calls = getattr(owner, name), count(1)

        def deadly(*args: Any, **kwargs: Any) -> Any:
            due = next(calls) == self.nth
            made = function(*args, **kwargs) if self.after or not due else None
            if due:
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return made

        setattr(owner, name, deadly)


def settings(data: Dataset, folder: Path, model: ModelConfig, train: TrainConfig, **loader: int) -> WorkerSettings:
    """What a worker needs to train on a data set, its catalogue's states made here and shared by runs of a folder."""
    states = {}
    for shape in (model, *(model_of(model, stage.control) for stage in train.all_stages())):
        place = folder / f"states_{shape.pretrained}"
        states[shape.pretrained] = str(place)
        if not place.exists():
            place.mkdir(parents=True)
            catalogue = states_in_process(item_texts(data.catalogue()), load_encoder(shape)[0])
            catalogue.flat_SH.tofile(place / "states.bin")
            catalogue.offsets_N1.tofile(place / "offsets.bin")
    return WorkerSettings(
        dataset=data.uri,
        uri=tempfile.mkdtemp(dir=folder),
        states=states,
        model=model,
        loader=LoaderConfig.model_validate(loader),
        config=train.model_copy(update={"precision": "fp32"}),  # what is compared to the bit
        seed=0,
        about={},
    )


def work(runs: Sequence[Run], world_size: int) -> list[str | None]:
    """Trains the runs one after the other in fresh processes.

    Returns:
        For each run the message of the ValueError that ended it, if one did.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (world_size, folder, list(runs), None), nprocs=world_size)
        outcome: list[str | None] = json.loads((Path(folder) / "outcome.json").read_text())
    return outcome


def kill(run: Run, world_size: int, where: Kill) -> None:
    """Trains a run in fresh processes until one is killed: the last rank, or the first where storing is the point."""
    with tempfile.TemporaryDirectory() as folder:
        with suppress(ProcessExitedException, ProcessRaisedException):
            torch.multiprocessing.spawn(_work, (world_size, folder, [run], where), nprocs=world_size)
        assert (Path(folder) / KILLED).exists(), f"nobody came to {where}"


def _work(rank: int, world_size: int, folder: str, runs: list[Run], where: Kill | None) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))  # as a launcher does
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    if where is not None and rank == (0 if where.point in OF_FIRST_RANK else world_size - 1):
        where.arm(Path(folder) / KILLED)
    outcome: list[str | None] = []
    for run in runs:
        warned = logging.FileHandler(Path(run.settings.uri) / WARNINGS if rank == 0 else os.devnull)
        logging.getLogger("rayrec").addHandler(warned)
        try:
            Worker(run.settings, lambda: NOTHING, torch.device("cpu")).run()
            outcome.append(None)
        except ValueError as error:
            outcome.append(str(error))
        logging.getLogger("rayrec").removeHandler(warned)
        warned.close()
    if rank == 0:
        (Path(folder) / "outcome.json").write_text(json.dumps(outcome))
    dist.barrier()
    dist.destroy_process_group()
