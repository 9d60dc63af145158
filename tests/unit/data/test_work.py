from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data import work as rooms
from rayrec.data.work import Record, Work, dealt, in_process, open_work, phase, read_slices, retried, slices_bytes


def double(work: Work, calls: list[int]) -> Callable[[int], Record]:
    """A task that writes a file of its number, and notes that it was called."""

    def task(number: int) -> Record:
        calls.append(number)
        return {"twice": 2 * number, "files": work.write(work.scratch("double", f"{number}.bin"), b"x" * number)}

    return task


def carry_out(work: Work, calls: list[int]) -> list[int]:
    tasks = {f"{number:03d}": number for number in (3, 1, 2)}
    return sorted(record["twice"] for record in phase(work, "double", double(work, calls), tasks, in_process))


def test_finished_tasks_are_not_run_again(tmp_path: Path) -> None:
    work, calls = open_work(str(tmp_path), {"a": 1}), list[int]()
    assert carry_out(work, calls) == [2, 4, 6]
    assert calls == [1, 2, 3]
    assert carry_out(open_work(str(tmp_path), {"a": 1}), calls) == [2, 4, 6]
    assert calls == [1, 2, 3]


@pytest.mark.parametrize(
    "harm",
    [
        lambda scratch: scratch.unlink(),
        lambda scratch: scratch.write_bytes(b"x"),
        lambda scratch: scratch.write_bytes(b"xy"),
        lambda scratch: (scratch.parent / "done" / "002.json").write_text('{"twice": 4, "fil'),
        lambda scratch: (scratch.parent / "done" / "002.json").rename(scratch.parent / "done" / "002.json.77"),
    ],
    ids=["missing", "torn", "altered", "torn record", "record under way"],
)
def test_a_task_whose_files_are_not_what_its_record_says_is_run_again(
    harm: Callable[[Path], object], tmp_path: Path
) -> None:
    work, calls = open_work(str(tmp_path), "job"), list[int]()
    carry_out(work, calls)
    harm(tmp_path / work.scratch("double", "2.bin"))
    assert carry_out(work, calls) == [2, 4, 6]
    assert calls == [1, 2, 3, 2]
    assert (tmp_path / work.scratch("double", "2.bin")).read_bytes() == b"xx"


def test_the_work_of_another_job_is_removed(tmp_path: Path) -> None:
    first = open_work(str(tmp_path), {"seed": 0})
    carry_out(first, [])
    assert open_work(str(tmp_path), {"seed": 0}) == first
    assert (tmp_path / first.folder).exists()
    other = open_work(str(tmp_path), {"seed": 1})
    assert other.folder != first.folder
    assert not (tmp_path / first.folder).exists()


def test_a_slice_is_read_alone_and_an_empty_one_is_left_out(tmp_path: Path) -> None:
    work = Work(str(tmp_path), "_work/x")
    users = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["u", "v"]))
    tables = [pa.table({"user": users, "n": [1, None]}), pa.table({"user": users, "n": [3, 4]}).slice(0, 0)]
    data = slices_bytes([*tables, tables[0].slice(1)])
    work.write("a.slices", data)
    work.write("b.slices", slices_bytes([tables[1], tables[0], tables[1]]))
    read = {bucket: read_slices(work, ["a.slices", "b.slices"], bucket) for bucket in range(3)}
    assert [[table.to_pylist() for table in read[bucket]] for bucket in range(3)] == [
        [[{"user": "u", "n": 1}, {"user": "v", "n": None}]],
        [[{"user": "u", "n": 1}, {"user": "v", "n": None}]],
        [[{"user": "v", "n": None}]],
    ]
    (tmp_path / "a.slices").write_bytes(data[: np.frombuffer(data, "<i8", 1)[0]])
    assert read_slices(work, ["a.slices"], 1) == []


@pytest.mark.parametrize("buckets", [3, 70_000])
def test_rows_are_dealt_in_the_order_they_had(buckets: int) -> None:
    bucket_R = np.array([2, 0, 2, buckets - 1, 0])
    parts = dealt(pa.table({"row": range(5)}), bucket_R, buckets)
    assert len(parts) == buckets
    assert {bucket: part["row"].to_pylist() for bucket, part in enumerate(parts) if len(part)} == {
        bucket: np.flatnonzero(bucket_R == bucket).tolist() for bucket in set(bucket_R.tolist())
    }


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    return action


def test_storage_that_fails_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(rooms.time, "sleep", waits.append)
    assert retried(failing(4, OSError("503 slow down"))) == "done"
    assert len(waits) == 4
    for times, error in ((5, OSError("503")), (1, FileNotFoundError("x")), (1, PermissionError("x")), (1, KeyError())):
        with pytest.raises(type(error)):
            retried(failing(times, error))


def test_a_task_is_tried_again_where_storage_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms.time, "sleep", lambda _: None)
    left = [OSError("reset")]

    def task(number: int) -> dict[str, Any]:
        if left:
            raise left.pop()
        return {"rows": number, "files": {}}

    assert list(phase(open_work(str(tmp_path), 0), "x", task, {"0": 7}, in_process)) == [{"rows": 7, "files": {}}]
