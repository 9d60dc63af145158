"""In which numbers the language model's trained layers run: chosen by what the hardware does well.

Weights, gradients, optimiser, whitening, statistics and losses are fp32 always: only those layers, where nearly all
arithmetic is, run under torch's autocast. DeepSpeed's own blocks turn the whole model, buffers and inputs too, to bf16
or fp16 (`bf16`, `fp16`), or send gradients around in them (`torch_autocast`).
"""

import os
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Name = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Name, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast runs in; None where there is nothing to cast."""
_CPU_INFO = "/proc/cpuinfo"
_BF16_FLAGS = ("amx_bf16", "avx512_bf16")


class Precision(NamedTuple):
    """What was chosen, and why, in words."""

    name: Name
    reason: str


def choose_precision(wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """What a device computes in.

    Args:
        wanted: train.precision.
        device: where the model trains.

    Raises:
        ValueError: the hardware lacks what is wanted.
    """
    best = _best_on_gpu(device) if device.type == "cuda" else _best_on_cpu()
    if wanted == "auto":
        return best
    lacking = wanted == "fp16" if device.type == "cpu" else wanted == "bf16" and best.name != "bf16"
    if lacking:
        raise ValueError(f"train.precision={wanted}, but {best.reason}; set train.precision={best.name} or auto")
    return Precision(wanted, f"train.precision={wanted}; auto would take {best.name}: {best.reason}")


def _best_on_gpu(device: torch.device) -> Precision:
    major, minor = torch.cuda.get_device_capability(device)
    about = f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}"
    if major >= 8:
        return Precision("bf16", f"{about}, with fast bf16")
    if major == 7:
        return Precision("fp16", f"{about}, with fast fp16 and no bf16")
    return Precision("fp32", f"{about}, with neither fast fp16 nor bf16")


def _best_on_cpu() -> Precision:
    flags: set[str] = set()
    if os.path.exists(_CPU_INFO):
        with open(_CPU_INFO) as file:
            flags = {flag for line in file if line.startswith("flags") for flag in line.split()}
    found = [flag for flag in _BF16_FLAGS if flag in flags]
    if found:
        return Precision("bf16", f"this CPU has {found[0]}, and CPUs train in no fp16")
    return Precision("fp32", f"this CPU has none of {', '.join(_BF16_FLAGS)}, without which bf16 is slow, and no fp16")


def agreed(own: Precision, everyone: Iterable[str]) -> Precision:
    """What all ranks compute in: fp32 where their hardware differs.

    Args:
        own: this rank's.
        everyone: the names that the ranks chose.
    """
    names = sorted(set(everyone))
    if len(names) == 1:
        return own
    return Precision("fp32", f"the workers' hardware differs: alone they would take {' or '.join(names)}")


class LossScale:
    """Keeps fp16 gradients from vanishing (Micikevicius et al., 2018, "Mixed precision training").

    The loss is multiplied by `value`, a power of two, and every parameter's gradient is divided by it before DeepSpeed
    sees it: clipping, moments and decay know nothing of it. A step whose gradients are not finite halves it.
    """

    GROWTH_STEPS = 1000

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.value = 2.0**12
        self.good_steps = 0
        for parameter in parameters:
            parameter.register_hook(self._unscaled)

    def _unscaled(self, gradient: Tensor) -> Tensor:
        return gradient / self.value

    def update(self, applied: bool) -> bool:
        """Call it after every step.

        Args:
            applied: all gradients were finite.

        Returns:
            Whether it was lowered.
        """
        before = self.value
        self.good_steps = self.good_steps + 1 if applied else 0
        if not applied:
            self.value = max(self.value / 2, 1.0)
        elif self.good_steps % self.GROWTH_STEPS == 0:
            self.value *= 2
        return self.value < before

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"value": self.value, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over state_dict()."""
        self.value, self.good_steps = state["value"], state["good_steps"]
