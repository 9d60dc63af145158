import time
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.clean import (
    LATEST_MS,
    LONGEST_ID,
    check_quarantine,
    id_faults,
    ids_of,
    infinite,
    stop_early,
    time_faults,
    verdict,
)

NOW = datetime(2024, 1, 1)
NOW_MS = int(NOW.replace(tzinfo=UTC).timestamp() * 1000)


def told(values: list[str | None]) -> list[str | None]:
    """The reason of each id."""
    ids = ids_of(pa.chunked_array([pa.array(values, pa.string())]))
    return reasons(id_faults(ids, "user_id"), len(values))


def reasons(faults: list[tuple[str, np.ndarray]], rows: int) -> list[str | None]:
    judged = verdict(faults, rows)
    return [judged.reasons[code - 1] if code else None for code in judged.code_R]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("u", None),
        ("ü-7 b", None),
        ("x" * LONGEST_ID, None),
        (None, "no user_id"),
        ("", "no user_id"),
        (" \t", "no user_id"),
        ("x" * (LONGEST_ID + 1), "user_id longer than 512 characters"),
        ("é" * 100_000, "user_id longer than 512 characters"),
        ("a\x00b", "user_id with control characters"),
        ("a\nb", "user_id with control characters"),
        ("a\x7f", "user_id with control characters"),
    ],
)
def test_ids(value: str | None, reason: str | None) -> None:
    assert told(["good", value, "good", value]) == [None, reason, None, reason]


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        (0, None),
        (5, None),
        (NOW_MS, None),
        (None, "timestamp missing or not a number"),
        (-1, "timestamp before 1970"),
        (NOW_MS * 1000, "timestamp 1000 times too large"),
        (NOW_MS // 1000, "timestamp 1000 times too small"),
        (LATEST_MS, "timestamp after 2099"),
        (1 << 53, "timestamp after 2099"),
        (NOW_MS + 1, "timestamp after clean.now"),
    ],
)
def test_times(moment: int | None, reason: str | None) -> None:
    (found,) = reasons(time_faults(pa.array([moment], pa.int64()), NOW, order_only=False), 1)
    assert found == reason or (reason is not None and str(found).startswith(reason))


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose own time is not UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_east")
def test_a_moment_with_a_zone_is_that_moment_and_one_without_is_utc() -> None:
    zoned = datetime.fromisoformat("2024-01-01T01:00:00+01:00")
    times = pa.array([NOW_MS, NOW_MS + 1])
    assert reasons(time_faults(times, zoned, order_only=False), 2) == [None, "timestamp after clean.now"]
    assert reasons(time_faults(times, NOW, order_only=False), 2) == [None, "timestamp after clean.now"]
    assert reasons(time_faults(times, None, order_only=False), 2) == [None, None]


def test_positions_may_be_small() -> None:
    times = pa.array([86_400_000 * position for position in range(1, 40)])
    assert set(reasons(time_faults(times, None, order_only=True), 39)) == {None}
    assert None not in set(reasons(time_faults(times, None, order_only=False), 39)[11:])


def test_ratings_may_be_missing_but_not_infinite() -> None:
    ratings = pa.array([None, 3.0, float("nan"), float("inf"), float("-inf")], pa.float32())
    assert infinite(ratings).tolist() == [False, False, True, True, True]


def test_the_first_fault_is_told_and_each_row_is_counted_once() -> None:
    first, second = np.array([True, False, True, False]), np.array([True, True, False, False])
    judged = verdict([("one", first), ("two", second)], 4)
    assert sorted(judged.texts().to_pylist()) == ["one", "one", "two"]
    assert judged.taken_R.tolist() == [False, False, False, True]
    assert judged.texts().to_pylist() == ["one", "two", "one"]
    assert len(verdict([("one", np.zeros(2, bool))], 2).texts()) == 0


def test_the_quarantine_limit_names_counts_and_remedy() -> None:
    check_quarantine({"no user_id": 5}, 100, 0.05, "interactions")
    with pytest.raises(ValueError, match=r"6 of 100 interactions \(6.0%\).*no user_id: 6.*raise clean.quaran"):
        check_quarantine({"no user_id": 6}, 100, 0.05, "interactions")
    with pytest.raises(ValueError, match="hold no interactions"):
        check_quarantine({}, 0, 0.05, "interactions")
    check_quarantine({}, 0, 0.05, "users", needed=False)
    with pytest.raises(ValueError, match="1 of 1 users"):
        check_quarantine({"no user_id": 1}, 1, 0.05, "users", needed=False)


def test_a_job_stops_early_only_where_the_rest_cannot_mend_it() -> None:
    assert not stop_early(9_999, 9_999, 0.05, 0.5)
    assert stop_early(2_000, 20_000, 0.05, 0.6)
    assert not stop_early(2_000, 20_000, 0.05, 0.5)
    assert stop_early(1_001, 20_000, 0.05, 1.0)
