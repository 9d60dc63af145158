"""The folder of checkpoints: retries, the order of names, what is kept, whose files a rank copies."""

import threading
from pathlib import Path
from typing import Any

import pytest

from rayrec import storage
from rayrec.storage import MANIFEST, file_entry, join, remove, retried, upload_file, write_bytes
from rayrec.train import store
from rayrec.train.store import Snapshot, Store, Task
from rayrec.train.trust import Manifest, Trust

ABOUT = {"stage": "all", "world_size": 2, "zero_stage": 2}


def store_at(uri: object, keep: int = 2, run: int = 0, waits: tuple[float, ...] = (0.0, 0.0)) -> Store:
    return Store(str(uri), Trust({"seed": run}), keep, waits, threading.Event())


class Failing:
    """Fails some times, then works."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.calls = times, error, 0

    def __call__(self, *_: Any) -> dict[str, Any]:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return {"size": 1, "sha256": "0"}


def test_a_storage_that_fails_is_tried_again_and_no_longer_than_told() -> None:
    class ForeignError(Exception):
        """Of a storage whose errors are no OSError."""

    stop = threading.Event()
    for error in (OSError("stalled"), ForeignError("throttled")):
        work = Failing(2, error)
        assert retried(work, "reading", waits=(0.0, 0.0), stop=stop)["size"] == 1
        assert work.calls == 3
        work = Failing(3, error)
        with pytest.raises(OSError, match=rf"reading failed: {type(error).__name__}: {error} \(tried 3 times\)"):
            retried(work, "reading", waits=(0.0, 0.0), stop=stop)


def test_a_missing_file_is_an_answer_and_after_a_stop_nothing_is_tried_again() -> None:
    work = Failing(9, FileNotFoundError("x"))
    with pytest.raises(FileNotFoundError):
        retried(work, "reading", waits=(0.0,), stop=threading.Event())
    stop = threading.Event()
    stop.set()
    stopped = Failing(9, OSError("stalled"))
    with pytest.raises(OSError, match="tried 1 times"):
        retried(stopped, "reading", waits=(3600.0,), stop=stop)
    assert (work.calls, stopped.calls) == (1, 1)


def test_waits_grow_to_about_a_minute_and_differ_between_ranks() -> None:
    class Clock(threading.Event):
        """Tells how long it was waited for, and waits not."""

        def __init__(self) -> None:
            super().__init__()
            self.waited: list[float] = []

        def wait(self, timeout: float | None = None) -> bool:
            """Never set."""
            self.waited.append(timeout or 0.0)
            return False

    one, two = Clock(), Clock()
    for clock in (one, two):
        with pytest.raises(OSError, match="tried 5 times"):
            retried(Failing(9, OSError("stalled")), "reading", waits=storage.WAITS, stop=clock)
        assert clock.waited == sorted(clock.waited)
        assert 30 < sum(clock.waited) < 96
    assert one.waited != two.waited


def test_a_task_tells_of_the_storage_and_raises_a_mistake_of_ours() -> None:
    def fail(error: Exception) -> dict[str, Any]:
        raise error

    assert Task(lambda: {"a": {}}).outcome() == ({"a": {}}, "")
    assert Task(lambda: fail(OSError("stalled"))).outcome() == ({}, "OSError: stalled")
    with pytest.raises(KeyError):
        Task(lambda: fail(KeyError("x"))).outcome()


def checkpoint(store: Store, number: int, step: int = 0, directory: Path | None = None) -> str:
    """Stores and publishes a checkpoint of one file; returns its name."""
    name = f"checkpoint_{number:06d}_{step:08d}"
    local = (directory or Path(store.uri)) / f"local-{number}"
    write_bytes(str(local / "shard"), str(number).encode())
    snapshot = Snapshot(name, str(local), ABOUT)
    files = store.stored(snapshot)
    assert not local.exists()
    assert store.published(snapshot, files) == {}
    return name


def test_the_newest_are_kept_and_what_was_torn_before_them_goes(tmp_path: Path) -> None:
    uri = tmp_path / "checkpoints"
    ours, foreign = store_at(uri), store_at(uri, run=1)
    other = checkpoint(foreign, 0, directory=tmp_path)
    names = [checkpoint(ours, number, directory=tmp_path) for number in (1, 2)]
    for torn in ("checkpoint_000003_00000000", "checkpoint_000009_00000000", "notes"):
        write_bytes(str(uri / torn / "shard"), b"1")
    names.append(checkpoint(ours, 4, directory=tmp_path))
    assert ours.numbered() == [other, names[1], names[2], "checkpoint_000009_00000000"]
    assert (uri / "notes").exists()
    assert [ours.judged(name).manifest is not None for name in ours.numbered()] == [False, True, True, False]


def test_names_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    for name in ("checkpoint_1000000_1", "checkpoint_999999_00000009", "checkpoint_000010_00000001", "checkpoint_x"):
        write_bytes(str(tmp_path / name / "shard"), b"1")
    assert [name.split("_")[1] for name in store_at(tmp_path).numbered()] == ["000010", "999999", "1000000"]
    assert store_at(tmp_path / "none").numbered() == []


def test_old_checkpoints_that_cannot_be_removed_cost_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = store_at(tmp_path / "checkpoints", keep=1)
    checkpoint(ours, 0, directory=tmp_path)
    monkeypatch.setattr(store, "remove", Failing(9, PermissionError("not yours")))
    newest = checkpoint(ours, 1, directory=tmp_path)
    assert len(ours.numbered()) == 2
    assert ours.judged(newest).manifest is not None
    assert "old checkpoints are left" in caplog.text
    assert "not yours" in caplog.text


def test_a_removal_cut_short_leaves_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = checkpoint(store_at(tmp_path), 0)
    filesystem, _ = storage.located(str(tmp_path))

    def torn(*_: object, **__: object) -> None:
        raise OSError("stalled")

    monkeypatch.setattr(type(filesystem), "rm", torn)
    with pytest.raises(OSError, match="stalled"):
        remove(str(tmp_path / name))
    assert store_at(tmp_path).judged(name).absent


def test_a_rank_copies_its_own_files_and_those_that_are_nobodys(tmp_path: Path) -> None:
    own = [
        "ds/{}zero_pp_rank_{}_mp_rank_00_optim_states.pt",
        "ds/zero_pp_rank_{1}_mp_rank_00_model_states.pt",
        "ds/offloaded_tensors/rank{1:02d}/x.swp",
    ]
    common = {"ds/mp_rank_00_model_states.pt", "state.json", "best.safetensors"}
    files = {form.format(prefix, rank) for form in own for prefix in ("", "bf16_") for rank in (0, 1, 10)}
    for name in files | common:
        write_bytes(str(tmp_path / "checkpoint_1_1" / name), name.encode())
    entries = {name: file_entry(str(tmp_path / "checkpoint_1_1" / name)) for name in files | common}
    found = Manifest.model_validate({"files": entries, "run": {}, **ABOUT})
    for rank in (0, 1, 10):
        local = tmp_path / f"copy-{rank}"
        assert store_at(tmp_path).copied("checkpoint_1_1", found, str(local), rank) == ""
        copied = {str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()}
        assert copied == common | {form.format(prefix, rank) for form in own for prefix in ("", "bf16_")}
    assert store_at(tmp_path).copied("checkpoint_1_1", found, str(tmp_path / "whole"), None) == ""
    assert {str(path.relative_to(tmp_path / "whole")) for path in (tmp_path / "whole").rglob("*.*")} == files | common


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 3])
def test_a_file_is_sent_whole_with_the_hash_of_its_bytes(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(b"x" * size)
    for uri in (str(tmp_path / "deep" / "b"), "memory://sent/deep/b"):
        assert upload_file(str(tmp_path / "a"), uri) == file_entry(str(tmp_path / "a"))
        assert storage.read_bytes(uri) == b"x" * size
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["b"]


def test_a_signed_manifest_is_written_where_there_is_a_key(tmp_path: Path) -> None:
    key = b"0123456789abcdef"
    signing = Store(str(tmp_path), Trust({"seed": 0}, key), 2, (), threading.Event())
    name = checkpoint(signing, 0)
    assert signing.judged(name).manifest is not None
    assert b'"signature"' in storage.read_bytes(join(str(tmp_path), name, MANIFEST))
    assert b"signature" not in storage.read_bytes(join(str(tmp_path), checkpoint(store_at(tmp_path), 1), MANIFEST))
