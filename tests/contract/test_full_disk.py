"""A disk that is full on one rank while DeepSpeed writes: told there after the last collective call, no rank waits."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from rayrec.train.config import TrainConfig
from tests import engines, tiny


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """In this process no file grows beyond, which to a writer is a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def saves(language_model: str, folder: str) -> tuple[str, list[str]]:
    """Saves with a disk that is full on rank 1, then again; what the first said, and what the second wrote."""
    engine = engines.engine(language_model, TrainConfig(zero_stage=3, stages=(engines.STAGE,)))
    engines.train(engine, [0])
    said = ""
    with files_of_at_most(10_000 if dist.get_rank() == 1 else 10**9):
        try:
            engine.save(f"{folder}/first-{dist.get_rank()}")
        except OSError as error:
            said = str(error)
    second = Path(folder) / f"second-{dist.get_rank()}"
    engine.save(str(second))
    return said, sorted(str(path.relative_to(second)) for path in second.rglob("*.*"))


def test_a_full_disk_of_one_rank_is_told_there_and_the_next_save_is_whole(tmp_path: Path) -> None:
    language_model = tiny.language_model(tmp_path / "language_model")
    first, second = engines.in_world(2, saves, language_model, str(tmp_path))
    assert first[0] == ""
    assert f"{tmp_path}/first-1/ds/zero_pp_rank_1_mp_rank_00_" in second[0]
    assert ".pt cannot be written: " in second[0]
    for rank, (_, made) in enumerate((first, second)):
        names = [f"zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt" for kind in ("model", "optim")]
        assert made == [f"ds/{name}" for name in names]
