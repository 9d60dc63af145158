"""A trace of some steps by torch's profiler, for chrome://tracing or Perfetto, and a table of what took longest."""

import logging
import os
from types import TracebackType
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED, WARMED = 2, 1
"""Steps before the recorded ones: left alone, then profiled and thrown away, for profiling is slow at first."""
ROWS = 40
logger = logging.getLogger(__name__)


class trace:  # noqa: N801 (used as `with trace(...) as traced`)
    """Records steps between calls of stepped(), then writes trace-rank<k>.json and .txt and does nothing more."""

    def __init__(self, steps: int, directory: str, rank: int) -> None:
        """Args:
        steps: how many to record; 0 for none, and then nothing is written.
        directory: local, made when it is written to.
        rank: of this process.
        """
        self.steps, self.rank, self.done = steps, rank, 0
        self.path = os.path.join(directory, f"trace-rank{rank}")
        self.profile: profile | None = None

    def __enter__(self) -> Self:
        if self.steps:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
            planned = schedule(wait=SKIPPED, warmup=WARMED, active=self.steps, repeat=1)
            self.profile = profile(activities=activities, schedule=planned, on_trace_ready=self._write)
            self.profile.start()
        return self

    def stepped(self) -> None:
        """Tells that a step has ended."""
        if self.profile is not None:
            self.done += 1
            self.profile.step()
            if self.done == SKIPPED + WARMED + self.steps:
                self._stop()

    def _stop(self) -> None:
        assert self.profile is not None
        self.profile.stop()
        self.profile = None

    def _write(self, recorded: profile) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        recorded.export_chrome_trace(f"{self.path}.json")
        key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        with open(f"{self.path}.txt", "w", encoding="utf-8") as file:
            file.write(str(recorded.key_averages().table(sort_by=key, row_limit=ROWS)) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.profile is not None:
            recorded = max(self.done - SKIPPED - WARMED, 0)
            logger.warning("%d of the %d steps to trace were made: %s.json", recorded, self.steps, self.path)
            self._stop()
