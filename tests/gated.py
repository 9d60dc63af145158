"""What checkpoints meet without DeepSpeed: a storage that stalls and fails as told, and an engine of one number."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from fsspec.implementations.local import LocalFileSystem


class Storage(LocalFileSystem):  # type: ignore[misc]
    """Local files, each opening noted, at a gate, and maybe refused."""

    protocol = "hdfs"
    gate = threading.Event()
    refused: Callable[[str, str], bool] = staticmethod(lambda path, mode: False)
    opened: list[tuple[str, str]] = []  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(str(path).removeprefix("hdfs://"))
        return stripped

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb":
            assert self.gate.wait(60)
        self.opened.append((mode, path))
        if self.refused(path, mode):
            raise ConnectionResetError("the storage is away")
        return super()._open(path, mode, **options)

    @classmethod
    def behaves(cls, refused: Callable[[str, str], bool] = lambda path, mode: False) -> None:
        """From now on; the gate is open."""
        cls.refused = staticmethod(refused)
        cls.opened.clear()
        cls.gate.set()


class Shards:
    """Stands in for an engine: each rank's shard says the step. Where `full` the disk of rank 1 is."""

    def __init__(self, zero_stage: int) -> None:
        self.config = SimpleNamespace(zero_stage=zero_stage)
        self.step, self.full, self.loaded = 0, False, ""

    def save(self, directory: str) -> None:
        """Writes a shard; a full disk leaves half of one."""
        dist.barrier()
        shard = Path(directory) / "ds" / f"zero_pp_rank_{dist.get_rank()}_mp_rank_00_optim_states.pt"
        shard.parent.mkdir(parents=True)
        shard.write_text(f"{self.step}")
        if self.full and dist.get_rank() == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def load(self, directory: str, universal: bool) -> None:
        """Reads it; the others are there where the copy is universal."""
        shards = list((Path(directory) / "ds").iterdir())
        (own,) = (shard for shard in shards if f"_rank_{dist.get_rank()}_" in shard.name)
        assert len(shards) == (2 if universal else 1)
        self.loaded = own.read_text()


def of_rank(rank: int, step: int, mode: str = "wb", part: str = "/") -> Callable[[str, str], bool]:
    """What is refused: a rank's openings of files of one step's checkpoint."""
    return lambda path, seen: dist.get_rank() == rank and seen == mode and f"_{step:08d}/" in path and part in path
