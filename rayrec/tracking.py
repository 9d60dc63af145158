"""What a run shows: a live line on stderr, metrics.jsonl, the same for TensorBoard and Weights & Biases."""

import hashlib
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from tqdm import tqdm

METRICS = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0
"""How often a progress line is written where stderr is a file or a pipe."""
RECENT_UPDATES = 50
"""By how many updates the rate and the time left of such a line are told."""
SECONDS_TO_CONNECT, SECONDS_TO_UPLOAD = 30.0, 60.0
"""How long Weights & Biases may take at the start and at the end; what it has not received is left for `wandb sync`."""
logger = logging.getLogger(__name__)


class Progress:
    """A live bar with rate and time left; where stderr is no terminal, a plain line every ten seconds and at the end.

    Rate and time left are those of recent updates. Use it as a context manager.
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
        self.recent = deque([(self.began, 0)], maxlen=RECENT_UPDATES)
        self.bar: Any = None
        if self.stream.isatty():
            self.bar = tqdm(total=total, desc=description, unit=unit, unit_scale=True, file=self.stream)

    def resume(self, units: int) -> None:
        """Counts `units` as done before this process, which tell nothing about its rate."""
        self.done = units
        self.recent.clear()
        self.recent.append((time.monotonic(), units))
        if self.bar is not None:
            self.bar.n = self.bar.last_print_n = self.bar.initial = units
            self.bar.refresh()

    def update(self, units: int = 1, **figures: float) -> None:
        """Counts `units` more as done and shows the newest figures beside the bar."""
        self.done += units
        self.recent.append((time.monotonic(), self.done))
        self.figures = ", ".join(f"{name}={_short(value)}" for name, value in figures.items())
        if self.bar is not None:
            self.bar.set_postfix_str(self.figures, refresh=False)
            self.bar.update(units)
        elif time.monotonic() - self.written >= SECONDS_BETWEEN_LINES:
            self._write_line()

    def _write_line(self) -> None:
        self.written = time.monotonic()
        (since, done_then), (until, done_now) = self.recent[0], self.recent[-1]
        meter = tqdm.format_meter(
            self.done,
            self.total,
            self.written - self.began,
            ncols=0,
            prefix=self.description,
            unit=self.unit,
            unit_scale=True,
            rate=(done_now - done_then) / (until - since) if until > since else 0.0,
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


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else str(tqdm.format_sizeof(value))


def require_wandb() -> None:
    """Raises:
    ValueError: Weights & Biases is wanted and its package is not installed.
    """
    try:
        version("wandb")
    except PackageNotFoundError:
        raise ValueError(
            "train.wandb_project is set and the package wandb is not installed; "
            "run pip install 'rayrec[tracking]', or unset train.wandb_project"
        ) from None


def _quiet() -> dict[str, Any]:
    """Settings that report figures alone."""
    return {
        "console": "off",
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "finish_timeout": SECONDS_TO_UPLOAD,
        "host": "",
        "init_timeout": SECONDS_TO_CONNECT,
        "reinit": "finish_previous",
        "silent": True,
        "symlink": False,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
    }


class WandbRun:
    """One run of Weights & Biases, gone on with by whoever names the same; it takes figures and nothing else.

    Neither the machine, the code, the console nor usage of the package is reported.
    """

    def __init__(
        self,
        directory: str,
        *,
        project: str,
        mode: Literal["online", "offline"],
        run: Mapping[str, Any],
        uri: str,
    ) -> None:
        """Args:
        directory: a local directory; its folder wandb/ holds what is, or offline is to be, sent.
        project: its name.
        mode: online sends at once, offline writes files for `wandb sync`; so does online where nobody answers.
        run: JSON values that determine the run, shown beside it.
        uri: the run's place, which tells it from others that are alike, and is the same when it is resumed.

        Raises:
            ValueError: the package is not installed, or who sends is not known.
        """
        require_wandb()
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when the package is imported
        import wandb  # an extra

        identity = json.dumps([uri, run], sort_keys=True)
        begin = partial(
            wandb.init,
            project=project,
            dir=directory,
            id=hashlib.sha256(identity.encode()).hexdigest()[:16],
            resume="allow",
            config=dict(run),
            settings=wandb.Settings(**_quiet()),
        )
        try:
            self.run: Any = begin(mode=mode)
        except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
            raise ValueError(
                f"Weights & Biases refuses: {' '.join(str(error).split())}; set WANDB_API_KEY for the workers, "
                "or train.wandb_mode=offline"
            ) from error
        except wandb.errors.CommError as error:  # no reason to stop a training, or not to resume it
            logger.warning("Weights & Biases does not answer (%s); %s/wandb is left for `wandb sync`", error, directory)
            wandb.teardown()  # else the attempt goes on and holds the identity
            self.run = begin(mode="offline")
        self.axes: set[str] = set()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Sends figures; those whose names begin with `a/` are drawn over `a/step`, for every stage counts anew.

        Args:
            step: the x axis.
            figures: by name.
        """
        axes = {}
        for name in figures:
            group, slash, _ = name.partition("/")
            axis, drawn = (f"{group}/step", f"{group}/*") if slash else ("step", name)
            if drawn not in self.axes:
                self.run.define_metric(drawn, step_metric=axis)
                self.axes.add(drawn)
            axes[axis] = step
        self.run.log({**figures, **axes})

    def close(self, failed: bool = False) -> None:
        """Ends it, as failed where an error ended the run; it can be gone on with."""
        import wandb

        self.run.finish(exit_code=int(failed))
        wandb.teardown()  # finish() returns before the file is whole


class MetricsLog:
    """Appends one JSON object a call to metrics.jsonl; its numbers go to TensorBoard and Weights & Biases too."""

    def __init__(self, directory: str, wandb: WandbRun | None = None) -> None:
        """Args:
        directory: a local directory, made if it is missing; an existing metrics.jsonl is continued.
        wandb: where numbers go too, closed with this; None for nowhere.
        """
        from torch.utils.tensorboard import SummaryWriter  # torch is heavy; this module stays light

        os.makedirs(directory, exist_ok=True)
        self.path = os.path.join(directory, METRICS)
        self._end_torn_line()
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self.writer = SummaryWriter(directory)
        self.wandb = wandb

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
            figures: JSON values by name; only numbers go to TensorBoard and Weights & Biases.
        """
        self.file.write(json.dumps({"step": step, **figures}) + "\n")
        self.file.flush()
        numbers = {
            name: value
            for name, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log(step, numbers)

    def close(self, failed: bool = False) -> None:
        """Flushes and closes all; `failed` tells whether an error ended the run."""
        self.file.close()
        self.writer.close()
        if self.wandb is not None:
            self.wandb.close(failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)
