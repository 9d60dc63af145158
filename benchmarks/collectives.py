"""What torch.distributed is asked to do in this process: calls, bytes and seconds of every collective, by kind."""

import inspect
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PAYLOAD: dict[str, str] = {
    "all_reduce": "tensor",
    "all_reduce_coalesced": "tensors",
    "broadcast": "tensor",
    "reduce": "tensor",
    "all_gather": "tensor_list",
    "all_gather_into_tensor": "output_tensor",
    "reduce_scatter": "input_list",
    "reduce_scatter_tensor": "input",
}
"""Collectives, and the argument that holds all that travels."""


def bytes_of(value: Any) -> int:
    """Of a tensor, or of the tensors of a list."""
    return value.nbytes if isinstance(value, torch.Tensor) else sum(map(bytes_of, value))


def sent(kind: str, payload: float, ranks: int) -> float:
    """Bytes that one rank sends in a ring; for broadcast and reduce, the mean over ranks.

    Args:
        kind: of PAYLOAD.
        payload: bytes that all ranks hold in the end (all-gather, all-reduce) or at the start (reduce-scatter).
        ranks: that take part.
    """
    return (2 if kind.startswith("all_reduce") else 1) * payload * (ranks - 1) / ranks


class _Waited:
    """A handle of an asynchronous collective, whose wait is timed."""

    def __init__(self, work: Any, took: Callable[[float], None]) -> None:
        self._work, self._took = work, took

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = self._work.wait(*args, **kwargs)
        self._took(time.perf_counter() - began)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


class Collectives:
    """Counts from install() on, for as long as the process lives; install before DeepSpeed is imported.

    Attributes:
        calls, payload: number and bytes by kind.
        seconds: spent in collectives, waiting for other ranks included.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.payload: Counter[str] = Counter()
        self.seconds = 0.0

    def install(self) -> "Collectives":
        """Puts itself before the functions of torch.distributed."""
        for kind, argument in PAYLOAD.items():
            setattr(dist, kind, self._counted(kind, argument, getattr(dist, kind)))
        return self

    def sent(self, ranks: int) -> float:
        """Bytes that one rank sent, by the formula of a ring."""
        return sum(sent(kind, size, ranks) for kind, size in self.payload.items())

    def told(self) -> Mapping[str, Mapping[str, int]]:
        """Calls and bytes by kind."""
        return {kind: {"calls": self.calls[kind], "bytes": self.payload[kind]} for kind in sorted(self.calls)}

    def _took(self, seconds: float) -> None:
        self.seconds += seconds

    def _counted(self, kind: str, argument: str, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[kind] += 1
            self.payload[kind] += bytes_of(signature.bind(*args, **kwargs).arguments[argument])
            began = time.perf_counter()
            result = original(*args, **kwargs)
            self._took(time.perf_counter() - began)
            return _Waited(result, self._took) if hasattr(result, "wait") else result

        return counted


def loopback_bytes(table: str | None = None) -> int:
    """Bytes that this network namespace has sent to itself, with the headers of TCP.

    Args:
        table: what /proc/net/dev says; read here by default.
    """
    lines = (table or Path("/proc/net/dev").read_text()).splitlines()
    fields = next(line.partition(":")[2].split() for line in lines if line.strip().startswith("lo:"))
    return int(fields[8])
