"""Where the time of a training goes: seconds by phase, examples and tokens a second, and the share that counts."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from rayrec.storage import exists, read_json, write_json

START, OTHER, BEFORE = "start", "other", "before"
"""Until a stage's first step; what no phase covers; since the run began, but not in this process."""
STEP_PHASES = ("data", "collate", "step")
"""Their seconds make a step's."""
RECENT_STEPS = 50
WARM_UP = 3
"""Steps of a stage that tell little about the others."""
Item = TypeVar("Item")


@dataclass
class _Stage:
    """What one stage took in this process; `steady` leaves the first steps out."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    steps: int = 0
    all: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    steady: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def rates(self) -> dict[str, float]:
        return _rates(*(self.steady if self.steps > WARM_UP else self.all))


def _rates(examples: float, tokens: float, seconds: float) -> dict[str, float]:
    rates = {"examples/s": examples / seconds, "tokens/s": tokens / seconds} if seconds else {}
    return {name: rate for name, rate in rates.items() if rate}


class _Phase:
    """`with` it, and time is the phase's."""

    __slots__ = ("meter", "name")

    def __init__(self, meter: "Meter", name: str) -> None:
        self.meter, self.name = meter, name

    def __enter__(self) -> None:
        self.meter.spend()
        self.meter.phases.append(self.name)
        self.meter.entered(self.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.meter.spend()
        self.meter.phases.pop()
        self.meter.entered(self.meter.phases[-1])


class Meter:
    """A worker's clock, for its main thread; all the time since it was made is in exactly one phase of one stage.

    Goodput is the share of the time since the run first began that went into steps whose effect is in the weights:
    `useful_seconds` is in every checkpoint, so that steps which are repeated after a failure count once.
    """

    def __init__(
        self, stage: str, began: float | None = None, entered: Callable[[str], None] = lambda phase: None
    ) -> None:
        """Args:
        stage: what is done before the first begin().
        began: when the run first began, Unix seconds; None for now.
        entered: told of every phase that begins or goes on.
        """
        self.entered = entered
        self.made_at = self.last = time.monotonic()
        self.made, self.began = time.time(), time.time()
        self.useful_seconds = 0.0
        self.phases = [START]
        self.stages: dict[str, _Stage] = {}
        self.earlier: dict[str, Any] = {}
        self.cached: dict[str, _Phase] = {}
        self.recent: deque[tuple[float, float, float]] = deque(maxlen=RECENT_STEPS)
        self.resume(0.0, self.began if began is None else began)
        self.begin(stage)

    def resume(self, useful_seconds: float, began: float) -> None:
        """Goes on from a checkpoint, after a failure or back within this process.

        Args:
            useful_seconds, began: as this object had them when the checkpoint was written.
        """
        self.useful_seconds = useful_seconds
        self.began = min(self.began, began)

    def begin(self, stage: str) -> None:
        """From here on time is of that stage; outside of every phase."""
        if self.stages:
            self.spend()
        assert len(self.phases) == 1, f"begin({stage!r}) within {self.phases[1:]}"
        self.phases = [START]
        self.stage = self.stages.setdefault(stage, _Stage())
        self.recent.clear()
        self.entered(START)
        self.in_steps = self._seconds_in_steps()

    def spend(self) -> None:
        """Gives the time since the last call to the phase that is on."""
        now = time.monotonic()
        self.stage.seconds[self.phases[-1]] += now - self.last
        self.last = now

    def during(self, phase: str) -> _Phase:
        """A context manager, under 5 microseconds: its time is the phase's, but for that of phases within."""
        if phase not in self.cached:
            self.cached[phase] = _Phase(self, phase)
        return self.cached[phase]

    def each(self, phase: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time of waiting for each is the phase's."""
        iterator = iter(items)
        while True:
            with self.during(phase):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _seconds_in_steps(self) -> float:
        return sum(self.stage.seconds[phase] for phase in STEP_PHASES)

    def stepped(self, examples: float, tokens: float, useful: bool = True) -> None:
        """Ends a step, which has taken the seconds of STEP_PHASES since the last.

        Args:
            examples: user-target pairs learnt from, over all ranks.
            tokens: that went through the language model, over all ranks; 0 where it is frozen.
            useful: false where the step was skipped.
        """
        self.spend()
        seconds = self._seconds_in_steps() - self.in_steps
        self.in_steps += seconds
        if self.phases[0] == START:
            self.phases[0] = OTHER
        self.useful_seconds += seconds * useful
        stage, told = self.stage, (examples * useful, tokens * useful, seconds)
        stage.steps += 1
        for total in (stage.all, stage.steady) if stage.steps > WARM_UP else (stage.all,):
            for place, value in enumerate(told):
                total[place] += value
        self.recent.append(told)

    def wall_seconds(self) -> float:
        """Since the run first began."""
        return self.made - self.began + time.monotonic() - self.made_at

    def goodput(self) -> float:
        """Between 0 and 1."""
        return self.useful_seconds / max(self.wall_seconds(), 1e-9)

    def rates(self) -> dict[str, float]:
        """`examples/s` and `tokens/s` of recent steps, each where there are any, and `goodput` of the whole run."""
        return {**_rates(*map(sum, zip(*self.recent, strict=True))), "goodput": self.goodput()} if self.recent else {}

    def summary(self) -> dict[str, Any]:
        """Seconds and shares by phase since the run began, goodput, and the same by stage, as JSON values.

        `before` is the time before this process. A stage is as the last process that worked on it saw it; its rates
        are those of its steps but the first ones.
        """
        self.spend()
        seconds: dict[str, float] = defaultdict(float, {BEFORE: self.made - self.began})
        for stage in self.stages.values():
            for phase, value in stage.seconds.items():
                seconds[phase] += value
        stages = self.earlier | {
            name: {**_shares(stage.seconds), "steps": stage.steps, **stage.rates()}
            for name, stage in self.stages.items()
        }
        about = {"began": self.began, "useful_seconds": self.useful_seconds, "goodput": self.goodput()}
        return {**_shares(seconds), **about, "stages": stages}

    def store(self, uri: str) -> None:
        """Writes the summary.

        Args:
            uri: of a JSON file.
        """
        write_json(uri, self.summary())

    def restore(self, uri: str) -> None:
        """Goes on from what an earlier process stored, if one did; a checkpoint, which is newer, comes after it."""
        if exists(uri):
            told = read_json(uri)
            self.earlier = told["stages"]
            self.resume(told["useful_seconds"], told["began"])

    def lines(self) -> list[str]:
        """The summary for people: the whole, then a line a stage."""
        told = self.summary()
        whole = sum(told["seconds"].values())
        lines = [f"where {whole:,.0f} s went: {_listed(told['shares'])}; goodput {told['goodput']:.1%}"]
        for name, stage in told["stages"].items():
            rates = [f"{stage[rate]:,.0f} {rate}" for rate in ("examples/s", "tokens/s") if rate in stage]
            spent = f"{stage['steps']:,} steps in {sum(stage['seconds'].values()):,.0f} s"
            lines.append(f"  {name}: {'; '.join([spent, *rates, _listed(stage['shares'])])}")
        return lines


def _shares(seconds: Mapping[str, float]) -> dict[str, Any]:
    known = {phase: value for phase, value in seconds.items() if value > 0}
    return {"seconds": known, "shares": {phase: value / sum(known.values()) for phase, value in known.items()}}


def _listed(shares: Mapping[str, float]) -> str:
    """Phases of at least one per cent, the longest first."""
    ranked = sorted(shares.items(), key=lambda share: -share[1])
    return ", ".join(f"{phase} {share:.0%}" for phase, share in ranked if share >= 0.01)
