"""Shards of one world size to tensors by parameter, and those into an engine of any world size and ZeRO stage."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

SHARDS, UNIVERSAL = "ds", "universal"
"""Folders of a checkpoint: what every rank saved, and what to_universal() makes of it."""
MOMENTS = ("exp_avg", "exp_avg_sq")
_CONVERTER = "deepspeed.checkpoint.ds_to_universal"


class Piece(NamedTuple):
    """A run of a parameter's numbers that this rank's optimiser steps: `size` from `start`, at `offset` of its own."""

    name: str
    offset: int
    start: int
    size: int


def to_universal(directory: str) -> None:
    """Makes a checkpoint fit for any world size: DeepSpeed's converter, run in a process of its own.

    Args:
        directory: local and verified, for the converter unpickles it; written by Engine.save() at ZeRO 1 to 3 (what
            ZeRO 0 saves loads at any world size as it is). It gains the folder `universal`.

    Raises:
        RuntimeError: the converter failed; its last lines.
    """
    source, target = os.path.join(directory, SHARDS), os.path.join(directory, UNIVERSAL)
    command = [sys.executable, "-m", _CONVERTER, "--input_folder", source, "--output_folder", target]
    command += ["--inject_missing_state", "--num_extract_workers", "1", "--num_merge_workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "DS_ACCELERATOR": "cpu"})
    if done.returncode != 0:
        last = " | ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise RuntimeError(f"{_CONVERTER} ended with exit code {done.returncode} for {source}: {last}")
    os.remove(os.path.join(directory, f"latest_{UNIVERSAL}"))


def load_universal(optimizer: Any, named: Mapping[str, nn.Parameter], zero_stage: int, directory: str) -> None:
    """Fills weights, moments and step counters from the folder `universal` of a verified checkpoint.

    DeepSpeed's own loading fails where a rank holds only padding of a parameter group, and at ZeRO 3 gives every group
    the weight decay of the first and all of them one step counter.

    Args:
        optimizer: of the DeepSpeed engine.
        named: the trainable parameters, whole: at ZeRO 3 inside of GatheredParameters.
        zero_stage: of the engine.
        directory: what to_universal() was given.
    """
    folder = os.path.join(directory, UNIVERSAL, "zero")
    step = _step_of(folder, next(iter(named)))
    own = getattr(optimizer, "optimizer", optimizer)
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(_tensor(folder, name, "fp32").view(value.shape))
        for flat, pieces in _held(optimizer, named, zero_stage):
            filled = {"fp32": flat, **{key: torch.zeros_like(flat) for key in MOMENTS}}
            for piece in pieces:
                for key, tensor in filled.items():
                    run = _tensor(folder, piece.name, key).view(-1)[piece.start : piece.start + piece.size]
                    tensor.view(-1)[piece.offset : piece.offset + piece.size] = run
            own.state[flat] = {"step": torch.tensor(step), **{key: filled[key] for key in MOMENTS}}


def _held(optimizer: Any, named: Mapping[str, nn.Parameter], zero_stage: int) -> Iterator[tuple[Tensor, list[Piece]]]:
    """The fp32 tensors that this rank's optimiser steps, and what of which parameter lies where in them."""
    names = {id(value): name for name, value in named.items()}
    if zero_stage == 0:
        yield from ((value, [Piece(name, 0, 0, value.numel())]) for name, value in named.items())
    elif zero_stage == 3:
        for flat, group in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
            pieces = []
            for value in group:
                _, offset, size = optimizer.grad_position[optimizer.get_param_id(value)]
                start = size * dist.get_rank()
                pieces.append(Piece(names[id(value)], offset, start, min(size, max(value.numel() - start, 0))))
            yield flat, pieces
    else:
        for flat, group in zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True):
            pieces = []
            for value in group:
                if value._hp_mapping is not None:
                    here, whole = value._hp_mapping.hp_fragment_address, value._hp_mapping.lp_fragment_address
                    pieces.append(Piece(names[id(value)], here.start, whole.start, whole.numel))
            yield flat, pieces


def _tensor(folder: str, name: str, key: str) -> Tensor:
    held = torch.load(os.path.join(folder, name, f"{key}.pt"), weights_only=True, mmap=True, map_location="cpu")
    tensor: Tensor = held["param"] if isinstance(held, dict) else held
    return tensor


def _step_of(folder: str, name: str) -> float:
    """Optimiser steps done; one number for all parameters. Shards of ZeRO 3 keep it beside them."""
    path = os.path.join(folder, name, "step.pt")
    if os.path.exists(path):
        return float(torch.load(path, weights_only=True))
    about = torch.load(os.path.join(folder, "optimizer_state.pt"), weights_only=False, map_location="cpu")
    return float(about["optimizer_state_dict"]["state"][0]["step"])
