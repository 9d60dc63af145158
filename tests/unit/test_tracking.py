"""rayrec.tracking: lines where there is no terminal, a bar where there is one, metrics that survive a kill."""

import io
import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rayrec import tracking
from rayrec.tracking import MetricsLog, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_terminal_gets_a_line_every_ten_seconds_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    stream = io.StringIO()
    with Progress("training", 100, "step", stream) as progress:
        for _ in range(100):
            now += 0.25
            progress.update(1, loss=0.5)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3  # at 10 s, at 20 s, at the end
    assert lines[0].startswith("training:  40%")
    assert "00:10<00:15" in lines[0]
    assert "4.00step/s" in lines[0]
    assert "loss=0.5" in lines[0]
    assert "100%" in lines[-1]
    assert "\r" not in stream.getvalue()


def test_a_terminal_gets_a_live_bar() -> None:
    stream = Terminal()
    with Progress("reading", 10, stream=stream) as progress:
        progress.update(10)
    assert stream.getvalue().count("\r") >= 1
    assert "10.0/10.0" in stream.getvalue()


def test_an_unknown_total_shows_the_count() -> None:
    stream = io.StringIO()
    with Progress("reading", None, stream=stream) as progress:
        progress.update(7)
    assert "7.00row" in stream.getvalue()


def test_metrics_are_appended_and_mirrored(tmp_path: Path) -> None:
    for step in (1, 2):
        with MetricsLog(str(tmp_path)) as log:
            log.log(step, loss=1.0 / step, stage="frozen", auc=None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": 1.0 / step, "stage": "frozen", "auc": None} for step in (1, 2)]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5)]


def test_half_a_line_of_a_killed_process_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    with MetricsLog(str(tmp_path)) as log:
        log.log(3, loss=0.25)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [
        '{"step": 1}',
        '{"step": 2, "lo',
        '{"step": 3, "loss": 0.25}',
    ]


def test_the_rate_is_that_of_recent_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 updates of a second, then 60 of an eighth: the last 50 alone tell the rate and the time left."""
    now = 0.0
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    stream = io.StringIO()
    with Progress("training", 200, "step", stream) as progress:
        for seconds in [1.0] * 100 + [0.125] * 60:
            now += seconds
            progress.update(1)
    last = stream.getvalue().splitlines()[-1]
    assert "8.00step/s" in last
    assert "01:47<00:05" in last


def test_what_was_done_before_tells_nothing_about_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now)
    stream = io.StringIO()
    with Progress("training", 1000, "step", stream) as progress:
        now += 5.0
        progress.resume(900)
        for _ in range(20):
            now += 0.5
            progress.update(1)
    line = stream.getvalue().splitlines()[-1]
    assert "920/1.00k" in line
    assert "2.00step/s" in line
    assert "<00:40" in line


def test_a_bar_goes_on_where_it_was() -> None:
    stream = Terminal()
    with Progress("training", 1000, "step", stream) as progress:
        progress.resume(900)
        progress.update(1)
        assert (progress.bar.n, progress.bar.initial) == (901, 900)
    assert "90%" in stream.getvalue()


def test_large_figures_are_short() -> None:
    stream = io.StringIO()
    with Progress("training", 2, "step", stream) as progress:
        progress.update(1, **{"loss": 0.123456, "examples/s": 9876.5, "tokens/s": 1_234_567.0})
    assert "loss=0.1235, examples/s=9876, tokens/s=1.23M" in stream.getvalue()
