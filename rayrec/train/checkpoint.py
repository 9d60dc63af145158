"""The checkpoints of a run: shards of all ranks, where loop and reader stand, the best weights, a manifest of it all.

DeepSpeed unpickles what it opens, and a pickle runs code. So nothing is opened where it lies: what the manifest lists
is copied into a directory of this user's own, and the copy must have the manifest's hashes.
"""

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rayrec.data.loader import merged
from rayrec.storage import WAITS, join, read_json, write_json
from rayrec.train.engine import Engine
from rayrec.train.store import Snapshot, Store, Task
from rayrec.train.surroundings import LoopState
from rayrec.train.trust import Manifest, Trust
from rayrec.train.universal import to_universal

SECONDS_TO_CLOSE, SECONDS_BETWEEN_LOOKS = 10.0, 0.2
Value = TypeVar("Value")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Flight:
    """The checkpoint on its way, and what this rank's thread does for it; the manifest comes when all have stored."""

    snapshot: Snapshot
    task: Task
    is_stored: bool = False


class Checkpoints:
    """Stores and restores the checkpoints of a run, in a folder of any storage; every rank has one.

    A step waits for a local copy only. A thread of each rank stores its files, and when all are there rank 0 writes the
    manifest and removes what is not kept. One checkpoint at a time is on its way; one waits, and a newer one takes its
    place. A storage that fails is tried again about a minute long; then the checkpoint is given up with a warning, as
    one that finds the disk full is, and training goes on. The best weights travel in every checkpoint: whichever are
    removed, they are kept.

    Attributes:
        stored: checkpoints that are there.
        replaced: those whose place in the queue a newer one took.
        lost: those given up.
        converted: whether the one resumed from was of another world size or ZeRO stage: the next saves the conversion.
    """

    def __init__(self, uri: str, trust: Trust, *, keep: int, waits: Sequence[float] = WAITS) -> None:
        """Args:
        uri: the folder they lie in.
        trust: names the run, and signs.
        keep: how many to keep.
        waits: seconds between tries of a storage that fails.
        """
        self._store = Store(uri, trust, keep, waits, threading.Event())
        self._local = tempfile.mkdtemp(prefix="rayrec-checkpoints-")
        self._last = -1
        self._flight: _Flight | None = None
        self._queued: Snapshot | None = None
        self.stored, self.replaced, self.lost = 0, 0, 0
        self.converted = False

    def save(self, engine: Engine, state: LoopState, reader: Mapping[str, Any], stage: str) -> None:
        """Takes a snapshot and queues it; every rank calls it, after resume().

        Args:
            engine: the stage's engine.
            state: where the loop stands.
            reader: where this rank's Loader stands; the ranks' are merged.
            stage: its name.
        """
        self._last += 1
        name = f"checkpoint_{self._last:06d}_{state.step:08d}"
        directory = os.path.join(self._local, name)
        readers = _gathered(reader)
        flaw = ""
        try:
            engine.save(directory)
            if dist.get_rank() == 0:
                about = {key: value for key, value in asdict(replace(state, best={})).items() if key != "best"}
                write_json(os.path.join(directory, "state.json"), {**about, "reader": merged(readers)})
                save_file(dict(state.best), os.path.join(directory, "best.safetensors"))
        except (OSError, SafetensorError) as error:
            flaw = _told(error)
        flaws = _gathered(flaw)
        if any(flaws):
            shutil.rmtree(directory, ignore_errors=True)
            self._lose(name, flaws)
            return
        if self._queued is not None:
            shutil.rmtree(self._queued.directory, ignore_errors=True)  # at ZeRO 0 rank 0 alone has one
            self.replaced += 1
        shape = {"world_size": dist.get_world_size(), "zero_stage": engine.config.zero_stage}
        self._queued = Snapshot(name, directory, {"stage": stage, **shape})
        if self._flight is None:
            self._start()

    def busy(self) -> bool:
        """Whether this rank's thread is at work; no collective call."""
        return self._flight is not None and self._flight.task.is_alive()

    def advance(self, idle: bool) -> None:
        """Takes the next step with the checkpoint on its way; every rank calls it, with the same value.

        Args:
            idle: no rank is busy(); then it is a collective call where something is on its way.
        """
        if idle and self._flight is not None:
            self._settle(self._flight)

    def drain(self, waiting: Callable[[], None] = lambda: None) -> None:
        """Returns when all that was queued is stored or given up; every rank calls it.

        Args:
            waiting: called now and then; no rank waits for another longer than that.
        """
        while self._flight is not None:
            busy = torch.tensor(float(self.busy()))
            dist.all_reduce(busy)
            if busy:
                waiting()
                self._flight.task.join(SECONDS_BETWEEN_LOOKS)
            else:
                self._settle(self._flight)

    def close(self) -> None:
        """Gives up what is on its way, and removes the local copies."""
        self._store.stop.set()
        if self._flight is not None:
            self._flight.task.join(SECONDS_TO_CLOSE)
        shutil.rmtree(self._local, ignore_errors=True)

    def _start(self) -> None:
        assert self._queued is not None
        self._flight = _Flight(self._queued, Task(partial(self._store.stored, self._queued)))
        self._queued = None

    def _settle(self, flight: _Flight) -> None:
        """Waits for the threads of all ranks, and starts what comes next."""
        outcomes = _gathered(flight.task.outcome())
        flaws = [flaw for _, flaw in outcomes]
        if not any(flaws) and not flight.is_stored:
            files = {name: entry for made, _ in outcomes for name, entry in made.items()}
            publish = partial(self._store.published, flight.snapshot, files)
            self._flight = replace(flight, task=Task(publish if dist.get_rank() == 0 else dict), is_stored=True)
            return
        if any(flaws):
            self._lose(flight.snapshot.name, flaws)
        else:
            self.stored += 1
        self._flight = None
        if self._queued is not None:
            self._start()

    def _lose(self, name: str, flaws: Sequence[str]) -> None:
        self.lost += 1
        seen = "; ".join(f"rank {rank}: {flaw}" for rank, flaw in enumerate(flaws) if flaw)
        _warn(f"the checkpoint {join(self._store.uri, name)} is given up: {seen}; training goes on")

    def resume(self, engine: Engine, stage: str) -> tuple[LoopState, dict[str, Any]] | None:
        """Restores the engine from the newest checkpoint that can be trusted; every rank calls it, all take the same.

        Rank 0 chooses by the manifests; the copies of the files are verified, and one flaw anywhere counts for all. A
        torn checkpoint, with a file missing, cut or altered, is passed over for the one before with a warning; when
        none is left, the stage starts anew. So is one of another run, or without the right signature where there is a
        key; but that is an attack or a mistake, and when none before it can be trusted the run ends. What another
        world size or ZeRO stage wrote is converted, once a node.

        Args:
            engine: the stage's engine.
            stage: its name; a trusted checkpoint of another stage means that this one has not saved any.

        Returns:
            Where the loop stands, and what every rank's Loader loads; None where the stage starts anew.

        Raises:
            ValueError: the only checkpoints belong to another run or lack the right signature, or ZeRO 0 wrote the one
                chosen and the engine has another stage.
            OSError: the storage cannot be read.
        """
        self.drain()
        self.converted = False
        flaw, foreign = "", ""
        names = of_first_rank(self._store.numbered)
        self._last = max([self._last, *(int(name.split("_")[1]) for name in names)])
        for name in reversed(names):
            found, flaw_here, is_foreign, _ = of_first_rank(partial(self._store.judged, name))
            if found is not None and found.stage != stage:
                foreign = ""
                break
            if found is not None:
                taken = self._taken(name, found, engine)
                if not isinstance(taken, str):
                    return taken
                flaw_here = taken
            flaw, foreign = flaw_here, foreign or (flaw_here if is_foreign else "")
            _warn(f"the checkpoint {join(self._store.uri, name)} is passed over: {flaw}")
        if foreign:
            raise ValueError(
                f"{foreign}; no checkpoint before it can be trusted: find out who wrote it, then remove it, "
                "or use another run folder to start anew"
            )
        if flaw:
            _warn(f"no checkpoint of stage {stage!r} can be used; the stage starts anew")
        return None

    def _taken(self, name: str, found: Manifest, engine: Engine) -> tuple[LoopState, dict[str, Any]] | str:
        """Where the loop stands after the engine has loaded a verified copy, or what is wrong with the copy."""
        zero_stage, rank = engine.config.zero_stage, dist.get_rank()
        fits = found.zero_stage == zero_stage and (found.world_size == dist.get_world_size() or zero_stage == 0)
        if not fits and found.zero_stage == 0:
            raise ValueError(
                f"the checkpoint {join(self._store.uri, name)} was written with train.zero_stage=0, this run has "
                f"{zero_stage}; set train.zero_stage=0 to go on, or use another run folder to start anew"
            )
        with tempfile.TemporaryDirectory(prefix="rayrec-resume-") as own:
            place = own if fits else _first_visible(_gathered(own))
            flaw, failure = "", ""
            if place == own:
                try:
                    flaw = self._store.copied(name, found, own, rank if fits else None)
                    if not flaw and not fits:
                        to_universal(own)
                except (OSError, RuntimeError) as error:  # of the storage, of the converter
                    failure = _told(error)
            outcomes = _gathered((flaw, failure))
            _fail_if([failure for _, failure in outcomes])
            flaw = next((flaw for flaw, _ in outcomes if flaw), "")
            if flaw:
                return flaw
            about = read_json(os.path.join(place, "state.json"))
            reader: dict[str, Any] = about.pop("reader")
            engine.load(place, universal=not fits)
            state = LoopState(**about, best=load_file(os.path.join(place, "best.safetensors")))
            dist.barrier()  # nobody removes what another rank still reads
        self.converted = not fits
        return state, reader


def _gathered(value: Value) -> list[Value]:
    """What every rank has, by rank."""
    box: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def of_first_rank(make: Callable[[], Value]) -> Value:
    """What rank 0 makes, on every rank; where its storage fails, every rank raises."""
    box: list[Any] = [None, ""]
    if dist.get_rank() == 0:
        try:
            box[0] = make()
        except OSError as error:
            box[1] = _told(error)
    dist.broadcast_object_list(box)
    _fail_if([box[1]])
    value: Value = box[0]
    return value


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _fail_if(failures: Sequence[str]) -> None:
    failure = next(filter(None, failures), None)
    if failure is not None:
        raise OSError(f"checkpoints cannot be read: {failure}; run the same command again when that is mended")


def _first_visible(folders: Sequence[str]) -> str:
    """The first of the ranks' private folders that this rank sees as its own user's: one for all ranks of a node."""
    for folder in folders:
        try:
            found = os.stat(folder)
        except FileNotFoundError:
            continue
        if found.st_uid == os.getuid() and found.st_mode & 0o077 == 0:
            return folder
    raise AssertionError("a rank sees its own folder")


def _warn(message: str) -> None:
    if dist.get_rank() == 0:
        logger.warning(message)
