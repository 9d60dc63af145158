"""Checkpoints on their way to a storage that stalls, fails or lies, at two ranks; and a disk that is full.

The engine is a stand-in whose shard is a number. The storage is local files behind a gate: each case tells when it
opens and whose reads and writes fail.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import torch.distributed as dist

from rayrec.storage import MANIFEST
from rayrec.train import checkpoint
from rayrec.train.checkpoint import Checkpoints
from rayrec.train.surroundings import LoopState
from rayrec.train.trust import Trust
from tests.gated import Shards, Storage, of_rank

TRIES = 3
Run = Callable[[str], dict[str, Any]]


@dataclass
class Case:
    """One run's checkpoints and engine."""

    folder: str
    keep: int = 2
    zero_stage: int = 2

    def __post_init__(self) -> None:
        self.engine = Shards(self.zero_stage)
        self.checkpoints = Checkpoints(
            f"hdfs://{self.folder}", Trust({"seed": 0}), keep=self.keep, waits=(0.0,) * (TRIES - 1)
        )

    def resumed(self) -> int:
        """The step it goes on from; -1 where it starts anew."""
        found = self.checkpoints.resume(self.engine, "all")  # type: ignore[arg-type]
        if found is None:
            return -1
        assert self.engine.loaded == str(found[0].step)
        assert found[0].best["weight"].item() == found[0].step
        return found[0].step

    def step(self, number: int, *, drain: bool = True, full: bool = False) -> None:
        """As the loop does: advance, save; here each is stored before the next where not told otherwise."""
        busy = torch.tensor(float(self.checkpoints.busy()))
        dist.all_reduce(busy)
        self.checkpoints.advance(not busy)
        self.engine.step, self.engine.full = number, full
        state = LoopState(step=number, best={"weight": torch.tensor(float(number))})
        self.checkpoints.save(self.engine, state, {"epoch": 0, "step": 0, "order": "", "streams": {}}, "all")  # type: ignore[arg-type]
        if drain:
            self.checkpoints.drain()

    def counts(self) -> list[int]:
        """Stored, replaced, lost."""
        return [self.checkpoints.stored, self.checkpoints.replaced, self.checkpoints.lost]


def names(folder: str) -> list[str]:
    """Checkpoints that are there, by step, with a star where no manifest is."""
    found = sorted(Path(folder).glob("checkpoint_*"))
    return [f"{int(path.name.split('_')[2])}{'' if (path / MANIFEST).exists() else '*'}" for path in found]


def stalled(folder: str) -> dict[str, Any]:
    case = Case(folder)
    case.resumed()
    Storage.behaves()
    Storage.gate.clear()
    for number in range(1, 7):
        case.step(number, drain=False)
    left = len(os.listdir(case.checkpoints._local))
    busy = case.checkpoints.busy()
    dist.barrier()
    Storage.gate.set()
    case.checkpoints.drain()
    written = [path.split("checkpoint_")[1].split("/")[0] for mode, path in Storage.opened if mode == "wb"]
    return {"counts": case.counts(), "written": written, "busy": busy, "left": left, "names": names(folder)}


def short_outage(folder: str) -> dict[str, Any]:
    case = Case(folder)
    case.resumed()
    left = {"wb": TRIES - 1}

    def refused(path: str, mode: str) -> bool:
        left[mode] = left.get(mode, 0) - 1
        return dist.get_rank() == 1 and left[mode] >= 0

    Storage.behaves(refused)
    case.step(1)
    left["rb"] = TRIES - 1
    return {"counts": case.counts(), "names": names(folder), "resumed": Case(folder).resumed()}


def long_outage(folder: str) -> dict[str, Any]:
    case = Case(folder)
    case.resumed()
    Storage.behaves()
    case.step(1)
    Storage.behaves(of_rank(1, 2))
    case.step(2)
    during = names(folder)
    Storage.behaves(of_rank(0, 3, part=MANIFEST))
    case.step(3)
    Storage.behaves()
    case.step(4)
    return {"counts": case.counts(), "during": during, "names": names(folder)}


def full_disk(folder: str) -> dict[str, Any]:
    case = Case(folder)
    case.resumed()
    Storage.behaves()
    for number in (1, 2, 3):
        case.step(number, full=number == 2)
    left = len(os.listdir(case.checkpoints._local))
    return {"counts": case.counts(), "names": names(folder), "left": left}


def torn_upload(folder: str) -> dict[str, Any]:
    """The process ends while a checkpoint is on its way; another goes on."""
    case = Case(folder)
    case.resumed()
    Storage.behaves()
    case.step(1)
    Storage.behaves(of_rank(1, 2))
    case.step(2, drain=False)
    case.checkpoints.close()
    dist.barrier()
    torn, closed = names(folder), os.path.exists(case.checkpoints._local)
    Storage.behaves()
    again = Case(folder)
    resumed = again.resumed()
    again.step(2)
    files = sorted(path.name for path in Path(folder).iterdir())
    return {"torn": torn, "closed": closed, "resumed": resumed, "names": names(folder), "files": files}


def kept(folder: str) -> dict[str, Any]:
    case = Case(folder, keep=3)
    case.resumed()
    Storage.behaves()
    for number in range(1, 6):
        case.step(number)
    other = Case(folder, keep=1)
    other.resumed()
    other.step(9)
    return {"counts": case.counts(), "names": names(folder), "files": sorted(os.listdir(folder))}


def unreadable(folder: str) -> dict[str, Any]:
    """What one rank cannot read no rank goes past."""
    case = Case(folder)
    case.resumed()
    Storage.behaves()
    case.step(1)
    said = []
    for refused in (of_rank(0, 1, "rb", MANIFEST), of_rank(1, 1, "rb", "zero_pp_rank_1")):
        Storage.behaves(refused)
        with pytest.raises(OSError, match="checkpoints cannot be read") as caught:
            Case(folder).resumed()
        said.append(str(caught.value))
    Storage.behaves()
    return {"said": said, "resumed": Case(folder).resumed()}


def converted(folder: str) -> dict[str, Any]:
    """Another ZeRO stage: one rank of the node copies and converts, and the other reads that."""
    case = Case(folder)
    case.resumed()
    case.step(1)
    places: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "to_universal", places.append)
        Storage.behaves()
        other = Case(folder, zero_stage=3)
        resumed, flag = other.resumed(), other.checkpoints.converted
        copied = len([path for mode, path in Storage.opened if mode == "rb" and MANIFEST not in path])
        other.step(2)
        again = Case(folder, zero_stage=3)
        saved = [again.resumed(), again.checkpoints.converted]
    return {"resumed": resumed, "flag": flag, "copied": copied, "calls": len(places), "saved": saved}


CASES: tuple[Run, ...] = (stalled, short_outage, long_outage, full_disk, torn_upload, kept, unreadable, converted)


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    fsspec.register_implementation("hdfs", Storage, clobber=True)
    made = {}
    for case in CASES:
        place = f"{folder}/{case.__name__}"
        os.makedirs(place, exist_ok=True)
        warned = logging.FileHandler(f"{place}-{rank}.log")
        logging.getLogger("rayrec").addHandler(warned)
        Storage.behaves()
        dist.barrier()
        made[case.__name__] = case(place)
        dist.barrier()
        logging.getLogger("rayrec").removeHandler(warned)
        made[case.__name__]["warnings"] = Path(f"{place}-{rank}.log").read_text()
    Path(f"{folder}/made-{rank}.json").write_text(json.dumps(made))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def made() -> Iterator[list[dict[str, dict[str, Any]]]]:
    """By rank and case what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (folder,), nprocs=2)
        yield [json.loads(Path(f"{folder}/made-{rank}.json").read_text()) for rank in range(2)]


def test_one_is_on_its_way_one_waits_and_a_newer_one_takes_its_place(made: list[dict[str, Any]]) -> None:
    for rank, seen in enumerate(case["stalled"] for case in made):
        assert seen["counts"] == [2, 4, 0]
        assert seen["busy"]
        assert seen["left"] == 2
        first, last = (f"{number:06d}_{number + 1:08d}" for number in (0, 5))
        files = 4 if rank == 0 else 1  # shard; state, best and manifest
        assert seen["written"] == [first] * files + [last] * files
        assert seen["names"] == ["1", "6"]
        assert seen["warnings"] == ""


def test_an_outage_shorter_than_the_tries_costs_nothing(made: list[dict[str, Any]]) -> None:
    for seen in (case["short_outage"] for case in made):
        assert seen["counts"] == [1, 0, 0]
        assert seen["names"] == ["1"]
        assert seen["resumed"] == 1
    assert made[1]["short_outage"]["warnings"].count("it is tried again") == 2 * (TRIES - 1)


def test_a_longer_one_costs_a_checkpoint_and_no_more(made: list[dict[str, Any]]) -> None:
    for seen in (case["long_outage"] for case in made):
        assert seen["counts"] == [2, 0, 2]
        assert seen["during"] == ["1", "2*"]
        assert seen["names"] == ["1", "4"]
    given_up = [line for line in made[0]["long_outage"]["warnings"].splitlines() if "given up" in line]
    assert [f"_{number:08d} is given up: rank" in line for number, line in zip((2, 3), given_up, strict=True)]
    assert "rank 1: OSError: writing hdfs://" in given_up[0]
    assert "ConnectionResetError: the storage is away (tried 3 times)" in given_up[0]
    assert "rank 0: OSError: writing the manifest" in given_up[1]


def test_a_full_disk_of_one_rank_costs_a_checkpoint_and_no_more(made: list[dict[str, Any]]) -> None:
    for seen in (case["full_disk"] for case in made):
        assert seen["counts"] == [2, 0, 1]
        assert seen["names"] == ["1", "3"]
        assert seen["left"] == 0
    assert "_00000002 is given up: rank 1: OSError: [Errno 28] No space left" in made[0]["full_disk"]["warnings"]


def test_a_torn_upload_is_passed_over_and_goes_when_a_newer_one_is_there(made: list[dict[str, Any]]) -> None:
    for seen in (case["torn_upload"] for case in made):
        assert seen["torn"] == ["1", "2*"]
        assert not seen["closed"]
        assert seen["resumed"] == 1
        assert seen["files"] == ["checkpoint_000000_00000001", "checkpoint_000002_00000002"]
        assert seen["names"] == ["1", "2"]
    assert f"{MANIFEST} is missing" in made[0]["torn_upload"]["warnings"]


def test_as_many_are_kept_as_are_wanted(made: list[dict[str, Any]]) -> None:
    for seen in (case["kept"] for case in made):
        assert seen["counts"] == [5, 0, 0]
        assert seen["files"] == ["checkpoint_000005_00000009"]


def test_where_one_rank_cannot_read_all_ranks_end(made: list[dict[str, Any]]) -> None:
    for seen in (case["unreadable"] for case in made):
        assert "reading the manifest of hdfs://" in seen["said"][0]
        assert "zero_pp_rank_1_mp_rank_00_optim_states.pt failed: ConnectionResetError" in seen["said"][1]
        assert seen["resumed"] == 1


def test_another_zero_stage_is_converted_once_a_node(made: list[dict[str, Any]]) -> None:
    first, second = (case["converted"] for case in made)
    assert (first["calls"], first["copied"]) == (1, 4)
    assert (second["calls"], second["copied"]) == (0, 0)
    for seen in (first, second):
        assert (seen["resumed"], seen["flag"]) == (1, True)
        assert seen["saved"] == [2, False]
