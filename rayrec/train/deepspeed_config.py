"""TrainConfig to DeepSpeed's JSON, in that direction only. It needs no DeepSpeed."""

import os
from collections.abc import Mapping
from typing import Any

import torch

from rayrec.train.config import TrainConfig

# DeepSpeed reads it when imported: what imports DeepSpeed imports this module first.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

LARGEST_BUCKET = 500_000_000
"""Numbers in DeepSpeed's default bucket: 2 GB that it sets aside on every GPU, however small the model."""


def deepspeed_config(config: TrainConfig, accumulation: int, trainable: int) -> dict[str, Any]:
    """DeepSpeed's JSON for one engine; its weights are fp32, whatever train.precision is.

    Args:
        config: the source of every value.
        accumulation: micro-batches a rank and step: Loader.micro_batches.
        trainable: parameters that train; a bucket holds them all, up to DeepSpeed's default size.
    """
    bucket = min(trainable + trainable % 2, LARGEST_BUCKET)  # DeepSpeed aligns it to two numbers
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    for key, place in (("offload_optimizer", config.offload_optimizer), ("offload_param", config.offload_parameters)):
        if place is not None:
            zero[key] = {"device": place, "pin_memory": config.use_gpu}
        if place == "nvme":
            zero[key]["nvme_path"] = config.offload_folder
    derived = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    return _merged(derived, config.deepspeed)


def _merged(derived: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """The block over what is derived; TrainConfig has refused the keys that have a source of ours."""
    made = dict(derived)
    for key, value in block.items():
        both = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = _merged(made[key], value) if both else value
    return made
