"""TrainConfig to DeepSpeed, in that direction only: configure, initialise, one optimiser step, gather the weights."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayrec.models.recommender import ModelInput, Recommender, open_groups
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.universal import SHARDS, load_universal

# DeepSpeed reads it when imported.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed

# Only inference collectives use this op, and building it takes minutes at the first initialise.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_config(config: TrainConfig, accumulation: int) -> dict[str, Any]:
    """DeepSpeed's JSON for one engine.

    Args:
        config: the source of every value.
        accumulation: micro-batches a rank and step: Loader.micro_batches.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the learning rate: a linear rise over `warmup` steps, then a linear fall to zero at `steps`.

    Args:
        step: steps done before.
        warmup: steps of the rise.
        steps: length of the stage.
    """
    return min((step + 1) / (warmup + 1), (steps - step) / max(steps - warmup, 1))


class Engine:
    """A DeepSpeed engine around a Recommender, with our schedule and our division of sums."""

    def __init__(self, model: Recommender, stage: StageConfig, config: TrainConfig, accumulation: int) -> None:
        """Args:
        model: on the device it trains on; the stage's groups are opened, the rest frozen.
        stage: what trains and how fast.
        config: DeepSpeed, decay, clipping.
        accumulation: micro-batches a rank and step.
        """
        self.config = config
        self.stage = stage
        groups: list[dict[str, Any]] = []
        opened = open_groups(model, set(stage.learning_rates))
        for group, rate in stage.learning_rates.items():
            for decays in (True, False):
                chosen = [value for _, value in opened[group] if (value.ndim > 1) == decays]
                if chosen:
                    decay = config.weight_decay if decays else 0.0
                    groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
        self.rates: list[float] = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(groups, lr=1.0)
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                # It reads these past the hooks by which ZeRO-3 gathers parameters; a resumed run would trip over it.
                for parameter in module.out_proj.parameters():
                    deepspeed.zero.register_external_parameter(module, parameter)
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(config, accumulation),
            dist_init_required=False,
        )
        self.scale = dist.get_world_size() * accumulation

    def step(self, inputs: Sequence[ModelInput], seeds: Sequence[int], counts: Tensor, step: int) -> Tensor:
        """One optimiser step over this rank's micro-batches.

        DeepSpeed averages gradients over ranks and micro-batches as if all had equal targets; the sums are divided by
        the step's global counts here, and the averaging is undone.

        Args:
            inputs: this rank's micro-batches.
            seeds: of dropout, one a micro-batch.
            counts: the step's ModelInput.counts() over all ranks, [3].
            step: steps done before this one in the stage, for the schedule.

        Returns:
            This rank's share of the weighted losses, [3]; the sum over ranks is the step's loss.
        """
        for group, rate in zip(self.engine.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule(step, self.config.warmup_steps, self.stage.steps)
        weights = torch.tensor([1.0, self.config.like_weight, self.stage.pull], dtype=torch.float64)
        factor = (weights / counts.clamp(min=1)).to(inputs[0].items_U.device, torch.float32)
        shares = []
        for micro, seed in zip(inputs, seeds, strict=True):
            torch.manual_seed(seed)
            losses = self.engine(micro) * factor
            self.engine.backward(losses.sum() * self.scale)
            self.engine.step()
            shares.append(losses.detach())
        return torch.stack(shares).sum(0).cpu()

    @contextlib.contextmanager
    def _whole(self, modifier_rank: int | None = None) -> Iterator[dict[str, nn.Parameter]]:
        """Trainable parameters by name, whole; those of `modifier_rank` are everyone's when they are shared again."""
        module: nn.Module = self.engine.module
        named = {name: value for name, value in module.named_parameters() if value.requires_grad}
        if self.config.zero_stage == 3:
            with deepspeed.zero.GatheredParameters(list(named.values()), modifier_rank=modifier_rank):
                yield named
        else:
            yield named

    def gathered_state(self) -> dict[str, Tensor]:
        """Trainable parameters by name, whole, on CPU, on every rank, at any ZeRO stage."""
        with self._whole() as named:
            return {name: value.detach().cpu().clone() for name, value in named.items()}

    def save(self, directory: str) -> None:
        """Writes this rank's shards; every rank calls it."""
        self.engine.save_checkpoint(directory, tag=SHARDS, exclude_frozen_parameters=True)

    def load(self, directory: str, universal: bool = False) -> None:
        """Reads a verified directory written by save(); every rank calls it.

        Args:
            directory: local; written at the same ZeRO stage and, at ZeRO 1 to 3, at the same world size.
            universal: of any world size and any ZeRO stage from 1 on, for to_universal() has been called on it.
        """
        if universal:
            with self._whole(modifier_rank=0) as named:
                load_universal(self.engine.optimizer, named, self.config.zero_stage, directory)
        else:
            self.engine.load_checkpoint(directory, tag=SHARDS, load_module_strict=False)

    def destroy(self) -> None:
        """Frees DeepSpeed's hooks and buffers, so that another engine can take over the process."""
        self.engine.destroy()
