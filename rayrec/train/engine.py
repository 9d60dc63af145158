"""A DeepSpeed engine: initialise, one optimiser step, gather the weights, save, load."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayrec.models.recommender import ModelInput, Recommender, open_groups
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.deepspeed_config import deepspeed_config  # it sets what DeepSpeed reads when it is imported
from rayrec.train.precision import DTYPES, LossScale, agreed, choose_precision
from rayrec.train.universal import SHARDS, load_universal

# isort: split
import deepspeed

# Only inference collectives use this op, and building it takes minutes at the first initialise.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class CheckedAdamW(torch.optim.AdamW):
    """AdamW that steps only where all gradients are finite, as DeepSpeed's own optimisers at ZeRO 1 to 3 do.

    `overflow` is where DeepSpeed looks for a step that was not taken.
    """

    overflow = False

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, or none; every rank does the same, for gradients are averaged before."""
        gradients = [value.grad for group in self.param_groups for value in group["params"] if value.grad is not None]
        self.overflow = not torch.nn.utils.get_total_norm(gradients).isfinite()
        if not self.overflow:
            super().step()


def check_offload(config: TrainConfig) -> None:
    """Refuses what DeepSpeed could only fail at in the middle.

    Raises:
        ValueError: NVMe offload where its asynchronous I/O cannot be compiled.
    """
    places = {"offload_optimizer": config.offload_optimizer, "offload_parameters": config.offload_parameters}
    keys = [f"train.{key}=nvme" for key, place in places.items() if place == "nvme"]
    if keys and not deepspeed.accelerator.get_accelerator().create_op_builder("AsyncIOBuilder").is_compatible():
        raise ValueError(
            f"{' and '.join(keys)} needs DeepSpeed's async_io, which cannot be compiled here for libaio's headers are "
            "missing; install libaio-dev (Debian) or libaio-devel (Fedora) on every node, or set cpu"
        )


def schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the learning rate: a linear rise over `warmup` steps, then a linear fall to zero at `steps`.

    Args:
        step: steps done before.
        warmup: steps of the rise.
        steps: length of the stage.
    """
    return min((step + 1) / (warmup + 1), (steps - step) / max(steps - warmup, 1))


class Engine:
    """A DeepSpeed engine around a Recommender, with our schedule and our division of sums.

    Attributes:
        precision: what the language model's trained layers run in, and why.
        applied: the last step() was taken; False where a gradient on any rank was not finite, and then weights and
            optimiser are as they were. The same on all ranks.
        rescaled: it was not taken for fp16's loss scale was too large, and is lower now; nothing is wrong.
    """

    def __init__(self, model: Recommender, stage: StageConfig, config: TrainConfig, accumulation: int) -> None:
        """Args:
        model: on the device it trains on; the stage's groups are opened, the rest frozen.
        stage: what trains and how fast.
        config: DeepSpeed, decay, clipping.
        accumulation: micro-batches a rank and step.

        Raises:
            ValueError: the hardware lacks train.precision, or NVMe offload cannot be had.
        """
        check_offload(config)
        own = choose_precision(config.precision, next(model.parameters()).device)
        names = [own.name] * dist.get_world_size()
        dist.all_gather_object(names, own.name)
        self.precision = agreed(own, names)
        self.applied, self.rescaled = False, False
        model.top.precision = DTYPES[self.precision.name]
        if config.activation_checkpointing:
            model.top.checkpoint_layers()
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
        trainable = [value for group in groups for value in group["params"]]
        self.loss_scale = LossScale(trainable) if self.precision.name == "fp16" else None
        optimizer = (torch.optim.AdamW if config.zero_stage else CheckedAdamW)(groups, lr=1.0)
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                # It reads these past the hooks by which ZeRO-3 gathers parameters; a resumed run would trip over it.
                for parameter in module.out_proj.parameters():
                    deepspeed.zero.register_external_parameter(module, parameter)
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(config, accumulation, sum(value.numel() for value in trainable)),
            dist_init_required=False,
        )
        self.engine.checkpoint_engine.save = self._write
        self.engine.checkpoint_engine.makedirs = lambda *_, **__: None  # _write does
        self.engine._copy_recovery_script = lambda _: None  # nobody runs what lies beside the shards
        self._failure: OSError | None = None
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
        scale = self.scale * (self.loss_scale.value if self.loss_scale is not None else 1.0)
        shares = []
        for micro, seed in zip(inputs, seeds, strict=True):
            torch.manual_seed(seed)
            losses = self.engine(micro) * factor
            self.engine.backward(losses.sum() * scale)
            self.engine.step()
            shares.append(losses.detach())
        self.applied = self.engine.was_step_applied()
        self.rescaled = self.loss_scale is not None and self.loss_scale.update(self.applied)
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
        """Writes this rank's shards; every rank calls it.

        Raises:
            OSError: a shard of this rank cannot be written; raised after the last collective call.
        """
        self._failure = None
        scale = {} if self.loss_scale is None else {"loss_scale": self.loss_scale.state_dict()}
        self.engine.save_checkpoint(
            directory, tag=SHARDS, client_state=scale, exclude_frozen_parameters=True, save_latest=False
        )
        if self._failure is not None:
            raise self._failure

    def _write(self, state_dict: Mapping[str, Any], path: str) -> None:
        """In DeepSpeed's place, which would leave the other ranks waiting when this rank's disk is full."""
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            torch.save(state_dict, path)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            self._failure = self._failure or OSError(f"{path} cannot be written: {error}")

    def load(self, directory: str, universal: bool = False) -> None:
        """Reads a verified directory written by save(); every rank calls it.

        Args:
            directory: local; written at the same ZeRO stage and, at ZeRO 1 to 3, at the same world size.
            universal: of any world size and any ZeRO stage from 1 on, for to_universal() has been called on it. The
                scale of an fp16 loss then starts anew.

        Raises:
            ValueError: `universal` with NVMe offload.
        """
        if not universal:
            _, state = self.engine.load_checkpoint(directory, tag=SHARDS, load_module_strict=False)
            if self.loss_scale is not None and "loss_scale" in state:
                self.loss_scale.load_state_dict(state["loss_scale"])
            return
        if self.config.offload_optimizer == "nvme":
            raise ValueError(
                "a checkpoint of another world size does not load with train.offload_optimizer=nvme; set cpu, or "
                "train.num_workers as it was"
            )
        with self._whole(modifier_rank=0) as named:
            load_universal(self.engine.optimizer, named, self.config.zero_stage, directory)

    def destroy(self) -> None:
        """Frees DeepSpeed's hooks and buffers, so that another engine can take over the process."""
        self.engine.destroy()
