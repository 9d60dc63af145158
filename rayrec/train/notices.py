"""What asks a training for a checkpoint out of turn: SIGINT and SIGTERM on the driver, a node about to be taken."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Self

NOTHING, SAVE, STOP = 0, 1, 2
"""What a Notices says: nothing; a checkpoint is wanted now; a checkpoint, and then the end."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LISTEN_S, _ASK_S = 0.2, 1.0
logger = logging.getLogger(__name__)


class InterruptedTraining(Exception):  # noqa: N818 - no error: somebody wanted it
    """A signal has ended a training; the same command goes on with it.

    Attributes:
        exit_code: as a shell gives it, 128 and the number of the signal.
    """

    def __init__(self, number: int, what: str) -> None:
        """Args:
        number: of the signal.
        what: became of the training.
        """
        super().__init__(f"{what} on {signal.Signals(number).name}")
        self.exit_code = 128 + number


class _Thread(threading.Thread):
    """Work whose outcome is kept; it does not keep the process alive."""

    def __init__(self, work: Callable[[], str]) -> None:
        super().__init__(name="rayrec-train", daemon=True)
        self._work = work
        self._stopped = ""
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._stopped = self._work()
        except BaseException as error:
            self._error = error  # raised by outcome()

    def outcome(self) -> str:
        if self._error is not None:
            raise self._error
        return self._stopped


def listening(work: Callable[[], str], stop: Callable[[], bool]) -> None:
    """Does work in a thread while the main thread, which alone hears signals, listens; elsewhere just does it.

    At the first signal `stop` is called, and the work is waited for.

    Args:
        work: what may take long; returns what became of it where it was stopped before its end, else "".
        stop: asks it to; returns whether anybody listens who could.

    Raises:
        InterruptedTraining: the work was stopped, nobody listened, or a second signal came. In the last two cases the
            work is left to end with the process.
    """
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    thread = _Thread(work)
    with ExitStack() as restored:
        for number in SIGNALS:
            restored.callback(signal.signal, number, signal.signal(number, hear))
        thread.start()
        asked = False
        while thread.is_alive():
            thread.join(_LISTEN_S)
            if heard and not asked:
                asked = True
                if not stop():
                    raise InterruptedTraining(heard[0], "ended at once, for no worker listened,")
                name = signal.Signals(heard[0]).name
                print(f"{name}: a checkpoint at the next step, then the end; once more ends at once", file=sys.stderr)
            if len(heard) > 1:
                raise InterruptedTraining(heard[1], "ended at once, without a new checkpoint,")
        if stopped := thread.outcome():
            raise InterruptedTraining(heard[0], stopped)


class Notices:
    """Asks in a thread of its own, so that reading costs nothing; what cannot be asked is nothing to die of.

    Used as a context; calling it returns NOTHING, SAVE (once for each node about to be taken) or, from then on, STOP.
    """

    def __init__(self, stop: Callable[[], bool], leaving: Callable[[], Collection[str]]) -> None:
        """Args:
        stop: whether the training shall stop; may block or raise.
        leaving: names of the nodes that are about to be taken; may block or raise.
        """
        self._stop, self._leaving = stop, leaving
        self._stopping, self._unsaved = False, False
        self._known: frozenset[str] = frozenset()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="rayrec-notices", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._ended.set()

    def __call__(self) -> int:
        """What is wanted now."""
        if self._stopping:
            return STOP
        wanted, self._unsaved = self._unsaved, False
        return SAVE if wanted else NOTHING

    def ask(self) -> None:
        """Asks once."""
        self._stopping = self._stopping or self._stop()
        new = frozenset(self._leaving()) - self._known
        if new:
            logger.warning("%s will be taken; a checkpoint at the next step", ", ".join(sorted(new)))
            self._known, self._unsaved = self._known | new, True

    def _poll(self) -> None:
        failed = False
        while not self._ended.wait(_ASK_S):
            try:
                self.ask()
                failed = False
            except Exception as error:
                if not failed:
                    logger.warning("cannot ask whether to stop or to save, training goes on: %s", error)
                failed = True
