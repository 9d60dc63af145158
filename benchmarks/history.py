"""The steps of a training as its log tells them, and what its failures cost."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader
from rayrec.schema import DISLIKED

RECOVERY_GOAL, GOODPUT_GOAL, LOSS_GOAL = 1.3, 0.05, 1e-5

Result = dict[str, Any]


class Record(NamedTuple):
    """One step: when its line was seen (monotonic seconds), its number, loss and targets."""

    at: float
    step: int
    loss: float
    targets: int


class Failure(NamedTuple):
    """When a host was killed, after which step, how many steps were made again, what followed after how many seconds.

    `noticed` is when the other workers were ended too; None where they outlived the recovery.
    """

    at: float
    step: int
    repeated: int
    noticed: float | None
    recovery: float


class History:
    """A metrics.jsonl as it grows; a step that is made again has several records."""

    def __init__(self, path: Path, stage: str) -> None:
        """Args:
        path: of the file, which need not be there yet.
        stage: whose steps are looked at.
        """
        self.path, self.stage = path, stage
        self.records: list[Record] = []
        self._read = 0

    def look(self) -> None:
        """Takes what was added; a line that is not ended yet is left for the next time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        now, loss, targets = time.monotonic(), f"{self.stage}/loss", f"{self.stage}/targets"
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # cut by a kill
            if loss in row:
                self.records.append(Record(now, row["step"], row[loss], int(row[targets])))

    def last_step(self) -> int:
        """The highest step so far."""
        return max((record.step for record in self.records), default=0)

    def final(self) -> dict[int, Record]:
        """By step its last record: what the weights have learnt from."""
        return {record.step: record for record in self.records}

    def step_seconds(self) -> list[float]:
        """Between one step and the next."""
        return [after.at - before.at for before, after in zip(self.records, self.records[1:], strict=False)]


def dealt(dataset: str, workers: int, slots: int, steps: int) -> list[int]:
    """How many next-item targets the loader deals to each step, epoch after epoch, for streams as many as workers.

    Args:
        dataset: its URI.
        workers: and streams.
        slots: of a micro-batch.
        steps: how many.
    """
    data, config = Dataset(dataset), LoaderConfig(streams=workers, slots_per_batch=slots)
    loader = Loader(data, config, seed=0)
    found: list[int] = []
    for epoch in range(1 << 30):
        for step in loader.epoch(epoch):
            if not any(batch.targets_BL.any() for batch in step.batches):
                break
            found.append(sum(int(np.sum(b.targets_BL & (b.likes_BL != DISLIKED))) for b in step.batches))
            if len(found) >= steps:
                return found
    raise AssertionError("an epoch has steps")


def judged(
    history: History,
    reference: History,
    order: Sequence[int],
    failures: Sequence[Failure],
    period: float,
    step_s: float,
    cold_start: float,
    checkpoint_every: int,
) -> Result:
    """The goals, each as (seen, wanted, met), and the failures.

    Args:
        history: of the disturbed training.
        reference: of the undisturbed one.
        order: targets by step.
        failures: of the disturbed training, one in each period.
        period: seconds.
        step_s: of most steps of the disturbed training; speeds of a machine drift from one run to the next.
        cold_start: seconds from the command to the first step.
        checkpoint_every: steps.
    """
    final, undisturbed = history.final(), reference.final()
    wrong = sum(number not in final or final[number].targets != count for number, count in enumerate(order, 1))
    common = sorted(set(final) & set(undisturbed))
    apart = max((abs(final[s].loss / undisturbed[s].loss - 1) for s in common), default=float("inf"))
    covered = bool(failures) and bool(common) and common[-1] > failures[0].step
    began, end = history.records[0].at, history.records[0].at + len(failures) * period
    made = max((record.step for record in history.records if record.at <= end), default=0)
    goodput = made * step_s / (end - began)
    recovery = float(np.mean([one.recovery for one in failures]))
    expected = 1 - (recovery + checkpoint_every * step_s / 2) / period
    repeated, ratio = max(one.repeated for one in failures), max(one.recovery for one in failures) / cold_start
    return {
        "goals": {
            "steps_whose_rows_are_lost_or_seen_twice": (f"{wrong} of {len(order)}", "0", wrong == 0),
            "losses_beside_the_undisturbed_run": (
                f"{apart:.1e} apart at most over {len(common)} steps" + " (before the first failure)" * (not covered),
                f"{LOSS_GOAL:.0e}",
                apart <= LOSS_GOAL and covered,
            ),
            "steps_repeated_by_a_failure": (f"{repeated} at most", f"{checkpoint_every}", repeated <= checkpoint_every),
            "recovery_over_cold_start": (f"{ratio:.2f} at most", f"{RECOVERY_GOAL}", ratio <= RECOVERY_GOAL),
            "goodput": (
                f"{goodput:.1%}",
                f"{expected:.1%} within {GOODPUT_GOAL:.0%}",
                abs(goodput - expected) <= GOODPUT_GOAL,
            ),
        },
        "failures": [
            {
                "at_s": one.at - began,
                "step": one.step,
                "repeated": one.repeated,
                "noticed_s": one.noticed,
                "recovery_s": one.recovery,
            }
            for one in failures
        ],
    }
