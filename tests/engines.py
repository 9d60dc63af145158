"""Engines in gloo processes of their own, fed with random micro-batches, without data set and Worker."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rayrec.item_stats import FEATURES
from rayrec.models.encoder import pad_states
from rayrec.models.ranker import new_model
from rayrec.models.recommender import ModelInput, Recommender
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.engine import Engine
from tests import tiny

ITEMS, HIDDEN, STREAMS = 20, 32, 4
STAGE = StageConfig(
    name="all", learning_rates={"scales": 2e-2, "adapters": 3e-3, "id": 3e-3, "language_model": 1e-3}, steps=20
)
"""All groups train; the ID vectors' gate is a group of the optimiser with a single number."""


def model(language_model: str, **changes: Any) -> Recommender:
    """A recommender on the toy language model, all of whose items have been met; dropout is on."""
    config = tiny.model_config(language_model, dropout=changes.pop("dropout", 0.2), **changes)
    _, made = new_model(config, num_items=ITEMS, use_text=True, seed=0)
    made.fusion.known_N.fill_(True)
    return made


def micro_batch(seed: int) -> ModelInput:
    """Six histories of eight random items with five negatives; every text has random states of two to nine tokens."""
    draw = torch.Generator().manual_seed(seed)
    rows, length, negatives = 6, 8, 5
    states = [
        torch.randn(int(torch.randint(2, 10, (1,), generator=draw)), HIDDEN, generator=draw)
        for _ in range(ITEMS + rows)
    ]
    return ModelInput(
        items_U=torch.arange(ITEMS),
        slots_BL=torch.randint(0, ITEMS, (rows, length), generator=draw),
        likes_BL=torch.randint(-1, 2, (rows, length), generator=draw).to(torch.int8),
        targets_BL=torch.rand(rows, length, generator=draw) < 0.6,
        negatives_K=torch.randint(0, ITEMS, (negatives,), generator=draw),
        features_BLF=torch.randn(rows, length, len(FEATURES), generator=draw),
        features_BKF=torch.randn(rows, negatives, len(FEATURES), generator=draw),
        has_profile_B=torch.ones(rows, dtype=torch.bool),
        pooled_XH=None,
        states_X=pad_states(states),
        anchor_UH=torch.randn(ITEMS, HIDDEN, generator=draw),
    )


def engine(language_model: str, config: TrainConfig, **changes: Any) -> Engine:
    """An engine of this process's world, whose ranks share STREAMS micro-batches a step."""
    return Engine(model(language_model, **changes).train(), STAGE, config, STREAMS // dist.get_world_size())


def inputs_of(step: int) -> tuple[list[ModelInput], list[int], Tensor]:
    """This rank's micro-batches of a step, their seeds, and the step's counts over all ranks."""
    whole = [micro_batch(STREAMS * step + stream) for stream in range(STREAMS)]
    own = range(dist.get_rank(), STREAMS, dist.get_world_size())
    counts = torch.stack([micro.counts() for micro in whole]).sum(0)
    return [whole[stream] for stream in own], [STREAMS * step + stream for stream in own], counts


def train(engine: Engine, steps: Sequence[int]) -> list[float]:
    """Trains steps; the loss of each over all ranks."""
    losses = []
    for step in steps:
        inputs, seeds, counts = inputs_of(step)
        share = engine.step(inputs, seeds, counts, step)
        dist.all_reduce(share)
        losses.append(float(share.sum()))
    return losses


def in_world(size: int, job: Callable[..., Any], *args: Any) -> list[Any]:
    """Runs a function of a module in fresh processes joined by gloo; what each rank returned, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_member, (size, folder, job, args), nprocs=size)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _member(rank: int, size: int, folder: str, job: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))  # as a launcher does
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    torch.save(job(*args), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
