"""The meter on a clock by hand, the trace of a tiny loop."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rayrec.train import meter as module
from rayrec.train.meter import Meter
from rayrec.train.trace import trace


class Clock:
    """Both clocks of a process; what sleeps moves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.time, "time", lambda: 1e9 + self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def step(meter: Meter, clock: Clock, seconds: float = 1.0, examples: float = 100, tokens: float = 0) -> None:
    """A step of which a quarter waits for data."""
    with meter.during("data"):
        clock.sleep(seconds / 4)
    with meter.during("step"):
        clock.sleep(seconds * 3 / 4)
    meter.stepped(examples, tokens)


def fail(meter: Meter, clock: Clock, seconds: float) -> None:
    """A checkpoint that ends in an error."""
    with meter.during("checkpoint"):
        clock.sleep(seconds)
        raise RuntimeError


def test_all_time_is_in_one_phase(clock: Clock) -> None:
    meter = Meter("zero_shot")
    clock.sleep(3)
    with meter.during("publish"):
        clock.sleep(2)
    meter.begin("frozen")
    clock.sleep(5)  # start
    step(meter, clock, 4)
    clock.sleep(1)  # other
    with meter.during("validate"):
        clock.sleep(6)
        with meter.during("checkpoint"):
            clock.sleep(7)
        with meter.during("validate"):
            clock.sleep(1)
        clock.sleep(8)
    with pytest.raises(RuntimeError):
        fail(meter, clock, 9)
    clock.sleep(10)  # other
    told = meter.summary()
    assert told["stages"]["zero_shot"]["seconds"] == {"start": 3, "publish": 2}
    frozen = {"start": 5, "data": 1, "step": 3, "other": 11, "validate": 15, "checkpoint": 16}
    assert told["stages"]["frozen"]["seconds"] == frozen
    assert told["seconds"] == {**frozen, "start": 8, "publish": 2}
    assert told["shares"]["validate"] == 15 / 56
    assert sum(told["shares"].values()) == pytest.approx(1)
    assert told["stages"]["frozen"]["shares"]["validate"] == 15 / 51


def test_a_stage_starts_again_in_start(clock: Clock) -> None:
    meter = Meter("a")
    step(meter, clock)
    meter.begin("b")
    clock.sleep(2)
    step(meter, clock)
    assert meter.summary()["stages"]["b"]["seconds"]["start"] == 2
    meter.begin("a")
    step(meter, clock)
    assert meter.useful_seconds == 3


def test_begin_within_a_phase_is_our_mistake() -> None:
    meter = Meter("a")
    with pytest.raises(AssertionError, match="within"), meter.during("validate"):
        meter.begin("b")


def test_waiting_for_each_item_is_told_and_what_is_done_with_it_is_not(clock: Clock) -> None:
    def items() -> object:
        for number in range(3):
            clock.sleep(1)
            yield number
        clock.sleep(5)

    meter = Meter("a")
    seen = []
    for item in meter.each("data", items()):  # type: ignore[arg-type]
        clock.sleep(10)
        seen.append(item)
    assert seen == [0, 1, 2]
    assert meter.summary()["seconds"] == {"data": 8, "start": 30}


def test_rates_are_those_of_recent_steps(clock: Clock) -> None:
    meter = Meter("a")
    assert meter.rates() == {}
    for _ in range(module.RECENT_STEPS):
        step(meter, clock, 10, examples=1, tokens=7)
    for number in range(module.RECENT_STEPS):
        step(meter, clock, 2, examples=100, tokens=3000)
        if number % 10 == 0:
            with meter.during("validate"):
                clock.sleep(100)
    rates = meter.rates()
    assert (rates["examples/s"], rates["tokens/s"]) == (50, 1500)
    meter.begin("b")
    step(meter, clock, 4, examples=8)
    assert meter.rates() == {"examples/s": 2, "goodput": pytest.approx(604 / 1104)}  # nothing of "a", no tokens


def test_the_first_steps_tell_nothing_of_the_steady_state(clock: Clock) -> None:
    meter = Meter("a")
    for seconds in [100, 50, 25]:
        step(meter, clock, seconds, tokens=50)
    assert meter.summary()["stages"]["a"]["examples/s"] == 300 / 175  # where there are no others, they must do
    for _ in range(4):
        step(meter, clock, 2, tokens=50)
    told = meter.summary()["stages"]["a"]
    assert (told["steps"], told["examples/s"], told["tokens/s"]) == (7, 50, 25)


def test_goodput_counts_a_repeated_step_once_and_a_skipped_one_not(clock: Clock) -> None:
    """Six steps, of which the checkpoint holds four; the process dies, waits, repeats two and skips one."""
    first = Meter("a")
    for number in range(6):
        step(first, clock, 10)
        if number == 3:
            saved = first.useful_seconds, first.began
    assert saved == (40, 1e9 + 1000)
    assert first.goodput() == 1
    clock.sleep(20)
    second = Meter("a")
    clock.sleep(10)
    second.resume(*saved)
    for _ in range(2):
        step(second, clock, 10)
    with second.during("step"):
        clock.sleep(10)
    second.stepped(100, 0, useful=False)
    assert second.useful_seconds == 60
    assert second.goodput() == 60 / 120
    told = second.summary()
    assert told["seconds"] == {"before": 80, "start": 10, "data": 5, "step": 25}
    assert sum(told["seconds"].values()) == second.wall_seconds() == 120
    assert told["stages"]["a"]["examples/s"] == 200 / 30


def test_back_to_a_checkpoint_within_a_process(clock: Clock) -> None:
    meter = Meter("a")
    step(meter, clock, 10)
    saved = meter.useful_seconds, meter.began
    step(meter, clock, 10)
    meter.resume(*saved)
    step(meter, clock, 10)
    assert meter.goodput() == 20 / 30


def test_the_run_may_have_begun_before_this_process_but_not_after_it(clock: Clock) -> None:
    assert Meter("a", began=1e9 + 940).wall_seconds() == 60
    assert Meter("a", began=1e9 + 2000).wall_seconds() == 0  # another machine's clock


def test_what_an_earlier_process_stored_goes_on(clock: Clock, tmp_path: Path) -> None:
    path = str(tmp_path / "logs" / "summary.json")
    first = Meter("a")
    first.restore(path)  # nothing there
    step(first, clock, 10)
    first.store(path)
    clock.sleep(30)
    second = Meter("zero_shot")
    second.restore(path)
    second.begin("b")
    step(second, clock, 20)
    assert second.goodput() == 30 / 60
    second.store(path)
    told = json.loads(Path(path).read_text())
    assert told == second.summary()
    assert {name: stage["seconds"] for name, stage in told["stages"].items()} == {
        "a": {"data": 2.5, "step": 7.5},
        "zero_shot": {},
        "b": {"data": 5, "step": 15},
    }


def test_lines_for_people(clock: Clock) -> None:
    meter = Meter("zero_shot", began=1e9 + 1000 - 1000)
    clock.sleep(50)
    meter.begin("tuned")
    for _ in range(1000):
        step(meter, clock, 8, examples=10_000, tokens=80_000)
    with meter.during("validate"):
        clock.sleep(945)
    with meter.during("publish"):
        clock.sleep(5)
    assert meter.lines() == [
        "where 10,000 s went: step 60%, data 20%, before 10%, validate 9%; goodput 80.0%",
        "  zero_shot: 0 steps in 50 s; start 100%",
        "  tuned: 1,000 steps in 8,950 s; 1,250 examples/s; 10,000 tokens/s; step 67%, data 22%, validate 11%",
    ]


def test_the_meter_is_light() -> None:
    code = "import sys, rayrec.train.meter; assert not {'torch', 'ray', 'deepspeed'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def loop(steps: int, of: int, directory: Path, rank: int = 0) -> None:
    """Steps of one matrix product each, of which some are traced."""
    with trace(of, str(directory), rank) as traced:
        for _ in range(steps):
            torch.ones(8, 8) @ torch.ones(8, 8)
            traced.stepped()


@pytest.mark.parametrize("of", [1, 3])
def test_a_trace_holds_the_steps_asked_for(tmp_path: Path, of: int) -> None:
    loop(12, of, tmp_path / "logs", rank=5)
    events = json.loads((tmp_path / "logs" / "trace-rank5.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    assert names.count("aten::mm") == of
    assert sorted(name for name in names if name.startswith("ProfilerStep")) == [
        f"ProfilerStep#{number}" for number in range(3, 3 + of)
    ]
    assert "aten::mm" in (tmp_path / "logs" / "trace-rank5.txt").read_text()


def test_no_trace_is_written_unless_asked_for(tmp_path: Path) -> None:
    loop(12, 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_too_short_gives_what_there_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop(5, 4, tmp_path)
    assert "2 of the 4 steps to trace were made" in caplog.text
    events = json.loads((tmp_path / "trace-rank0.json").read_text())["traceEvents"]
    assert [event["name"] for event in events].count("aten::mm") == 2
