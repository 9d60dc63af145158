"""A checkpoint: DeepSpeed's shards of all ranks, where loop and reader stand, best weights, a manifest of it all."""

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file

from rayrec.data.loader import merged
from rayrec.storage import file_entry, publish, read_json, verify, write_json
from rayrec.train.config import TrainConfig
from rayrec.train.engine import Engine
from rayrec.train.loop import LoopState


def save_checkpoint(
    directory: str, engine: Engine, state: LoopState, reader: Mapping[str, Any], stage: str, config: TrainConfig
) -> None:
    """Writes this rank's files into its own local directory; every rank calls it.

    Rank 0 adds the loop's state, the best weights and the manifest, which lists the files of all ranks.

    Args:
        directory: empty, local.
        engine: the stage's engine.
        state: where the loop stands.
        reader: where this rank's Loader stands; the ranks' are merged.
        stage: its name.
        config: world size and ZeRO stage are recorded, for a checkpoint fits no other.
    """
    engine.save(directory)
    readers: list[Mapping[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(readers, reader)
    if dist.get_rank() == 0:
        about = {name: value for name, value in asdict(replace(state, best={})).items() if name != "best"}
        about |= {
            "reader": merged(readers),
            "stage": stage,
            "world_size": dist.get_world_size(),
            "zero_stage": config.zero_stage,
        }
        write_json(os.path.join(directory, "state.json"), about)
        save_file(dict(state.best), os.path.join(directory, "best.safetensors"))
    own = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            own[os.path.relpath(path, directory)] = file_entry(path)
    everyone: list[dict[str, dict[str, object]]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    if dist.get_rank() == 0:
        publish(directory, "checkpoint", {name: entry for files in everyone for name, entry in files.items()})


def checkpoint_stage(directory: str) -> str:
    """The stage that a checkpoint belongs to."""
    return str(read_json(os.path.join(directory, "state.json"))["stage"])


def load_checkpoint(directory: str, engine: Engine, config: TrainConfig) -> tuple[LoopState, dict[str, Any]]:
    """Verifies every file, then restores the engine; every rank calls it.

    Returns:
        Where the loop stands, and what every rank's Loader loads.

    Raises:
        ValueError: a file is missing or altered, or another world size or ZeRO stage wrote it.
    """
    verify(directory, "checkpoint")
    about = read_json(os.path.join(directory, "state.json"))
    for name, seen in (("world_size", dist.get_world_size()), ("zero_stage", config.zero_stage)):
        if about[name] != seen:
            key = "train.num_workers" if name == "world_size" else "train.zero_stage"
            raise ValueError(
                f"the checkpoint was written with {key}={about[name]}, this run has {seen}; "
                f"set {key}={about[name]} to go on, or use another run folder to start anew"
            )
        del about[name]
    del about["stage"]
    reader = about.pop("reader")
    engine.load(directory)
    return LoopState(**about, best=load_file(os.path.join(directory, "best.safetensors"))), reader
