"""What a run shows while it runs: a progress bar on stderr, metrics.jsonl, and the same scalars for TensorBoard."""

import json
import os
import sys
import time
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
"""How often a progress line is written where stderr is a file or a pipe."""


class Progress:
    """A live bar with rate and time left; where stderr is no terminal, a plain line every ten seconds and at the end.

    Use it as a context manager.
    """

    def __init__(self, description: str, total: int | None, unit: str = "row", stream: TextIO | None = None) -> None:
        """Args:
        description: what is being done.
        total: units in all, or None where that is unknown.
        unit: one unit's name, singular.
        stream: where to write; stderr by default.
        """
        self.description, self.total, self.unit = description, total, unit
        self.stream = sys.stderr if stream is None else stream
        self.done, self.began, self.figures = 0, time.monotonic(), ""
        self.written = self.began
        self.bar: Any = None
        if self.stream.isatty():
            self.bar = tqdm(total=total, desc=description, unit=unit, unit_scale=True, file=self.stream)

    def update(self, units: int = 1, **figures: float) -> None:
        """Counts `units` more as done and shows the newest figures beside the bar."""
        self.done += units
        self.figures = ", ".join(f"{name}={value:.4g}" for name, value in figures.items())
        if self.bar is not None:
            self.bar.set_postfix_str(self.figures, refresh=False)
            self.bar.update(units)
        elif time.monotonic() - self.written >= SECONDS_BETWEEN_LINES:
            self._write_line()

    def _write_line(self) -> None:
        self.written = time.monotonic()
        meter = tqdm.format_meter(
            self.done,
            self.total,
            self.written - self.began,
            ncols=0,
            prefix=self.description,
            unit=self.unit,
            unit_scale=True,
            postfix=self.figures or None,
        )
        self.stream.write(meter + "\n")  # Ray Train patches print() and would show the line twice
        self.stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        else:
            self._write_line()


class MetricsLog:
    """Appends one JSON object a call to metrics.jsonl and mirrors its numbers to TensorBoard event files beside it."""

    def __init__(self, directory: str) -> None:
        """Args:
        directory: a local directory, made if it is missing; an existing metrics.jsonl is continued.
        """
        from torch.utils.tensorboard import SummaryWriter  # torch is heavy; this module stays light

        os.makedirs(directory, exist_ok=True)
        self.path = os.path.join(directory, "metrics.jsonl")
        self._end_torn_line()
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.writer = SummaryWriter(directory)

    def _end_torn_line(self) -> None:
        """A killed process may leave half a line; the next one must not be glued to it."""
        if os.path.exists(self.path) and os.path.getsize(self.path):
            with open(self.path, "rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def log(self, step: int, **figures: float | int | str | None) -> None:
        """Writes one line and flushes it.

        Args:
            step: the x axis.
            figures: JSON values by name; only numbers go to TensorBoard.
        """
        self.file.write(json.dumps({"step": step, **figures}) + "\n")
        self.file.flush()
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self.file.close()
        self.writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
