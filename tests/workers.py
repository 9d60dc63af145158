"""Training workers in processes of their own, joined by gloo, without Ray."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import load_encoder
from rayrec.text import item_texts
from rayrec.train.config import TrainConfig
from rayrec.train.worker import Worker, WorkerSettings, model_of
from tests.tiny import states_in_process

WARNINGS = "warnings.txt"


@dataclass(frozen=True)
class Run:
    """One training: what the worker is told, and the folder its checkpoints lie in."""

    settings: WorkerSettings
    checkpoints: str

    def losses(self, stage: str) -> list[float]:
        """The loss of every step of a stage, as logged."""
        lines = (Path(self.settings.uri) / "logs" / "metrics.jsonl").read_text().splitlines()
        return [row[f"{stage}/loss"] for row in map(json.loads, lines) if f"{stage}/loss" in row]

    def warnings(self) -> str:
        """What rank 0 warned of, one line a warning."""
        return (Path(self.settings.uri) / WARNINGS).read_text()


class FolderCheckpoints:
    """Every checkpoint in a numbered folder."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def newest_first(self) -> list[str]:
        """The folders, the highest number first."""
        return sorted(map(str, self.folder.iterdir()), reverse=True)

    def put(self, directory: str, metrics: Mapping[str, float]) -> None:
        """Every rank copies its files."""
        number = 1 + max((int(path.name) for path in self.folder.iterdir()), default=-1)
        dist.barrier()
        shutil.copytree(directory, self.folder / f"{number:03d}", dirs_exist_ok=True)
        dist.barrier()


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
        config=train,
        seed=0,
        about={},
    )


def work(runs: Sequence[Run], world_size: int) -> list[str | None]:
    """Trains the runs one after the other in fresh processes.

    Returns:
        For each run the message of the ValueError that ended it, if one did.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (world_size, folder, list(runs)), nprocs=world_size)
        outcome: list[str | None] = json.loads((Path(folder) / "outcome.json").read_text())
    return outcome


def _work(rank: int, world_size: int, folder: str, runs: list[Run]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))  # as a launcher does
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    outcome: list[str | None] = []
    for run in runs:
        warned = logging.FileHandler(Path(run.settings.uri) / WARNINGS if rank == 0 else os.devnull)
        logging.getLogger("rayrec").addHandler(warned)
        try:
            Worker(run.settings, FolderCheckpoints(run.checkpoints), torch.device("cpu")).run()
            outcome.append(None)
        except ValueError as error:
            outcome.append(str(error))
        logging.getLogger("rayrec").removeHandler(warned)
        warned.close()
    if rank == 0:
        (Path(folder) / "outcome.json").write_text(json.dumps(outcome))
    dist.barrier()
    dist.destroy_process_group()
