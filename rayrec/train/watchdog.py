"""Names the rank that holds up a training, and ends the process, so that the run goes on from its last checkpoint.

A collective that one rank does not reach hangs on all others, and no other rank can tell. So every rank tells the
store that it was joined by, from a thread, where it stands; the one whose own beats stop reads what the others told.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any, Self

import torch.distributed as dist

HUNG = 75
"""Exit code of a process that its watchdog has ended."""
_STDERR = 2
_LONGEST_TICK_S = 5.0
_COLLECTIVES = os.path.join("torch", "distributed", "")


@dataclass(frozen=True)
class Told:
    """Where a rank stands.

    Attributes:
        step: of the stage.
        doing: the phase of the step.
        where: the function it is in.
        waits: it is in a collective, waiting for others.
    """

    step: int
    doing: str
    where: str = "?"
    waits: bool = False

    def __str__(self) -> str:
        return f"at step {self.step}, doing {self.doing!r} in {self.where}"


def behind(told: Mapping[int, Told | None]) -> list[int]:
    """The ranks that the others wait for, as far as can be told.

    Args:
        told: by rank; None where a rank has told nothing.
    """
    silent = [rank for rank, each in told.items() if each is None]
    if silent:
        return silent
    known = {rank: each for rank, each in told.items() if each is not None}
    first = min(each.step for each in known.values())
    last = [rank for rank, each in known.items() if each.step == first]
    return [rank for rank in last if not known[rank].waits] or last


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """The function a thread is in, and whether a collective is below or above it."""
    if frame is None:
        return "?", False
    code = frame.f_code
    where = f"{code.co_name} ({os.path.basename(code.co_filename)}:{frame.f_lineno})"
    above: FrameType | None = frame
    while above is not None:
        if _COLLECTIVES in above.f_code.co_filename:
            return where, True
        above = above.f_back
    return where, False


class Watchdog:
    """Used as a context by the thread that trains; ends the process where its beats stop.

    The limit is that of one phase, on any rank, for the others wait for it: what may take longer beats in between.
    """

    def __init__(self, seconds: float) -> None:
        """Args:
        seconds: that may lie between two beats.
        """
        self.seconds = seconds
        self._tick = min(seconds / 10, _LONGEST_TICK_S)
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        # A connection of its own: the process's is locked while anything waits by it.
        c10d: Any = dist.distributed_c10d
        self._store = c10d.PrefixStore("rayrec-watchdog", c10d._get_default_store().clone())
        self._store.set_timeout(timedelta(seconds=max(self._tick, 1)))
        self._beat = (time.monotonic(), 0, "start")
        self._ended = threading.Event()
        self._trains = threading.get_ident()

    def beat(self, step: int, doing: str) -> None:
        """Something begins; costs nothing.

        Args:
            step: the last step that was done.
            doing: what begins, in a word.
        """
        self._beat = (time.monotonic(), step, doing)

    def __enter__(self) -> Self:
        self._trains = threading.get_ident()
        self.beat(0, "start")
        for work in (self._tell, self._watch):
            threading.Thread(target=work, name=f"rayrec-watchdog{work.__name__}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._ended.set()

    def _own(self) -> Told:
        _, step, doing = self._beat
        where, waits = _place(sys._current_frames().get(self._trains))
        return Told(step, doing, where, waits)

    def _tell(self) -> None:
        """Tells the store; where that fails, this rank's collectives fail too, or its watch ends it."""
        while not self._ended.wait(self._tick):
            try:
                self._store.set(str(self._rank), json.dumps(asdict(self._own())))
            except RuntimeError:  # torch's DistError
                return

    def _watch(self) -> None:
        """Never touches the store, for that may block."""
        while not self._ended.wait(self._tick):
            idle = time.monotonic() - self._beat[0]
            if idle > self.seconds:
                self._end(idle)

    def _end(self, idle: float) -> None:
        own = self._own()
        time.sleep(2 * self._tick)  # the others tell where they hang
        held_up = self._verdict()
        if self._ended.is_set() or self._beat[0] > time.monotonic() - self.seconds:
            return
        print(
            f"rank {self._rank} of {self._world} stands still for {idle:.0f} s, {own}; {held_up}. The process ends, so "
            "that the run goes on from its last checkpoint; train.hang_seconds is the limit",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(_STDERR)
        time.sleep(3 * self._tick)  # others still read the store, or fail with this process's connections
        os._exit(HUNG)

    def _verdict(self) -> str:
        """Who is behind, in words; asked in a thread that may be left behind."""
        told: dict[int, Told | None] = {}
        read = threading.Thread(target=self._read, args=(told,), daemon=True)
        read.start()
        read.join(max(2 * self._tick, 1))
        missing = sorted(set(range(self._world)) - told.keys())
        if missing:
            return f"the store that rank 0 keeps does not answer for rank {missing[0]}: rank 0 or its node is down"
        found = [f"rank {rank} {told[rank] or 'has told nothing'}" for rank in behind(told)]
        return f"behind: {'; '.join(found)}"

    def _read(self, told: dict[int, Told | None]) -> None:
        for rank in range(self._world):
            try:
                there = self._store.check([str(rank)])
                told[rank] = Told(**json.loads(self._store.get(str(rank)))) if there else None
            except RuntimeError:  # torch's DistError: what is missing tells
                return
