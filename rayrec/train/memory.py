"""The recommender without weights, and the memory that it takes by ZeRO stage."""

from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import inject_adapter_in_model
from torch import nn
from transformers import AutoConfig, AutoModel

from rayrec.models.config import ModelConfig
from rayrec.models.encoder import TopLayers
from rayrec.models.recommender import Recommender
from rayrec.storage import absolute
from rayrec.train.config import TrainConfig
from rayrec.train.deepspeed_config import deepspeed_config  # it sets what DeepSpeed reads when it is imported

# isort: split
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

FLOAT = 4
"""Bytes of a number: weights, gradients and both of AdamW's states are fp32."""


def local_path(config: ModelConfig) -> str:
    """Where transformers finds the language model."""
    return absolute(config.language_model) if "://" in config.language_model else config.language_model


def numel(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def empty_model(config: ModelConfig, num_items: int) -> tuple[Recommender, int]:
    """The Recommender that training builds, with shapes and without weights, and the size of the layers below it.

    Raises:
        OSError: the language model is not on this machine.
        ValueError: it is not BERT-like, or has fewer layers than are to be trained.
    """
    about = AutoConfig.from_pretrained(local_path(config), local_files_only=True)
    with torch.device("meta"):
        try:
            language_model: Any = AutoModel.from_config(about, add_pooling_layer=False)
            layers = language_model.encoder.layer
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{config.language_model!r} is a {about.model_type}; expected a BERT-like encoder"
            ) from error
        count = config.trainable_layers
        if count > len(layers):
            raise ValueError(
                f"model.trainable_layers is {count}; {config.language_model!r} has {len(layers)} layers: lower it"
            )
        lower = numel(language_model.embeddings) + numel(layers[: len(layers) - count])
        language_model.embeddings, language_model.encoder.layer = nn.Identity(), layers[len(layers) - count :]
        if config.tuning == "lora":
            lora = PeftLora(r=config.lora.rank, target_modules=list(config.lora.modules))
            inject_adapter_in_model(lora, language_model)
        return Recommender(config, TopLayers(language_model, config.pooling), num_items=num_items), lower


def memory(model: nn.Module, trainable: int, config: TrainConfig, zero_stage: int) -> dict[str, int | None]:
    """Bytes that one worker's model takes where it trains, without activations.

    Args:
        model: with or without weights.
        trainable: how many of its parameters train.
        config: workers, which share what ZeRO partitions; what is offloaded.
        zero_stage: in the place of the config's.

    Returns:
        `weights`, `gradients`, `copy` of trained weights, `optimizer`; `states`, their sum; DeepSpeed's `buffers`, at
        most; `host`, what is offloaded to host memory instead; `deepspeed`, its own estimate of the states without
        offload, None where it has none.
    """
    zero = DeepSpeedZeroConfig(**{**deepspeed_config(config, 1, trainable)["zero_optimization"], "stage": zero_stage})
    workers, total = config.num_workers, numel(model)
    shared = -(-trainable // workers)
    fixed = sum(buffer.nbytes for buffer in model.buffers())
    states = {
        "weights": FLOAT * (-(-total // workers) if zero_stage == 3 else total) + fixed,
        "gradients": FLOAT * (shared if zero_stage >= 2 else trainable),
        "copy": FLOAT * shared if zero_stage else 0,
        "optimizer": 2 * FLOAT * (shared if zero_stage else trainable),
    }
    moved = dict.fromkeys(states, 0)
    if config.offload_optimizer is not None and zero_stage:
        moved.update(gradients=FLOAT * shared, copy=states["copy"], optimizer=states["optimizer"])
        states.update(gradients=0, copy=0, optimizer=0)
    if config.offload_parameters is not None and zero_stage == 3:
        moved["weights"] = states["weights"] - fixed
        states["weights"] = fixed
    on_disk = ["copy", "optimizer"] if config.offload_optimizer == "nvme" else []
    on_disk += ["weights"] if config.offload_parameters == "nvme" else []
    gathered = min(total, zero.max_live_parameters) if zero_stage == 3 else 0
    layer = max(sum(value.numel() for value in module.parameters(recurse=False)) for module in model.modules())
    frozen = 2 * (total - trainable)
    estimates: dict[int, int] = {
        2: estimate_zero2_model_states_mem_needs(trainable, workers, cpu_offload=False)[1] + frozen,
        3: estimate_zero3_model_states_mem_needs(trainable, layer, workers, cpu_offload=False)[1] + frozen // workers,
    }
    return {
        **states,
        "states": sum(states.values()),
        "buffers": FLOAT * (min(trainable, zero.reduce_bucket_size) + gathered),
        "host": sum(size for name, size in moved.items() if name not in on_disk),
        "deepspeed": estimates.get(zero_stage),
    }
