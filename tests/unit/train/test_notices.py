"""rayrec.train.notices: signals that a training hears, and what a worker asks while it trains."""

import logging
import os
import signal
import threading
from collections.abc import Callable

import pytest

from rayrec.train.notices import NOTHING, SAVE, SIGNALS, STOP, InterruptedTraining, Notices, listening

PATIENCE_S = 60


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers() -> object:
    """Handlers are what they were before, whatever happened."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


class Training:
    """Work that ends when it is asked to, and sends its own process signals."""

    def __init__(self, *signals: int, heeds: bool = True) -> None:
        self.signals, self.heeds = signals, heeds
        self.asked = threading.Event()
        self.asks = 0

    def work(self) -> str:
        for number in self.signals:
            send(number)
            assert self.asked.wait(PATIENCE_S)
        if len(self.signals) > 1:
            threading.Event().wait(PATIENCE_S)
        return "stopped, with a checkpoint," if self.signals else ""

    def stop(self) -> bool:
        self.asks += 1
        self.asked.set()
        return self.heeds


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_first_signal_asks_once_and_waits_for_the_end(
    number: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training(number)
    with pytest.raises(
        InterruptedTraining, match=f"stopped, with a checkpoint, on {signal.Signals(number).name}"
    ) as end:
        listening(training.work, training.stop)
    assert (end.value.exit_code, training.asks) == (code, 1)
    assert "a checkpoint at the next step, then the end; once more ends at once" in capsys.readouterr().err


def test_a_second_signal_waits_for_nothing() -> None:
    training = Training(signal.SIGTERM, signal.SIGINT)
    with pytest.raises(InterruptedTraining, match="without a new checkpoint, on SIGINT") as end:
        listening(training.work, training.stop)
    assert (end.value.exit_code, training.asks) == (130, 1)


def test_a_signal_that_nobody_heeds_ends_at_once() -> None:
    training = Training(signal.SIGTERM, heeds=False)
    with pytest.raises(InterruptedTraining, match="no worker listened, on SIGTERM"):
        listening(training.work, training.stop)


def test_work_that_had_ended_when_it_was_asked_to_stop_is_whole() -> None:
    training = Training(signal.SIGINT)
    listening(lambda: training.work()[:0], training.stop)
    assert training.asks == 1


def test_without_signals_work_is_done_and_its_errors_come_out() -> None:
    def fail() -> str:
        raise KeyError("of the work")

    def never() -> bool:
        raise AssertionError

    done: list[str] = []

    def work() -> str:
        done.append(threading.current_thread().name)
        return ""

    listening(work, never)
    assert done == ["rayrec-train"]
    with pytest.raises(KeyError, match="of the work"):
        listening(fail, never)
    other = threading.Thread(target=listening, args=(work, never), name="other")
    other.start()
    other.join(PATIENCE_S)
    assert done == ["rayrec-train", "other"]


def test_a_node_about_to_be_taken_is_one_notice_and_another_a_second() -> None:
    leaving: list[str] = []
    notices = Notices(lambda: False, lambda: leaving)
    said = []
    for nodes in ([], ["a"], ["a"], ["b", "a"], [], ["a"], ["c"]):
        leaving[:] = nodes
        notices.ask()
        said.append((notices(), notices()))
    assert said == [(wanted, NOTHING) for wanted in (NOTHING, SAVE, NOTHING, SAVE, NOTHING, NOTHING, SAVE)]


def test_a_stop_outweighs_all_and_lasts() -> None:
    stops = iter([False, True, False])
    notices = Notices(lambda: next(stops), lambda: ["a"])
    notices.ask()
    assert notices() == SAVE
    notices.ask()
    assert [notices(), notices()] == [STOP, STOP]
    notices.ask()
    assert notices() == STOP


def test_what_cannot_be_asked_is_warned_of_once_and_asked_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Callable[[], bool]] = [lambda: 1 / 0 > 0, lambda: 1 / 0 > 0, lambda: True]
    monkeypatch.setattr("rayrec.train.notices._ASK_S", 0.01)
    done = threading.Event()

    def stop() -> bool:
        if len(answers) == 1:
            done.set()
        return answers.pop(0)() if answers else False

    with caplog.at_level(logging.WARNING, "rayrec"), Notices(stop, lambda: []) as notices:
        assert done.wait(PATIENCE_S)
        while notices() != STOP:
            pass
    assert caplog.text.count("cannot ask whether to stop or to save, training goes on: division by zero") == 1
    notices._thread.join(PATIENCE_S)
    assert not notices._thread.is_alive()
