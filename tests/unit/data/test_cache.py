import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rayrec.data.cache import FileCache
from rayrec.data.config import LoaderConfig
from rayrec.data.loader import Loader
from tests import shards


@pytest.fixture
def remote() -> Iterator[str]:
    """A folder of the file system in memory."""
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    fsspec.filesystem("memory").rm(name, recursive=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files as they are fetched."""
    log: list[str] = []
    original = MemoryFileSystem.get_file

    def get_file(self: MemoryFileSystem, path: str, local: str, **options: object) -> None:
        log.append(path.rpartition("/")[2])
        original(self, path, local, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
    return log


def put(remote: str, name: str, content: bytes) -> tuple[str, int, str]:
    """Writes a remote file; returns what FileCache.open takes."""
    fsspec.filesystem("memory").makedirs(remote, exist_ok=True)
    fsspec.filesystem("memory").pipe_file(f"{remote}/{name}", content)
    return f"{remote}/{name}", len(content), hashlib.sha256(content).hexdigest()


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_file_is_fetched_once_by_all_who_share_a_folder(remote: str, tmp_path: Path, fetched: list[str]) -> None:
    entry = put(remote, "a", b"one")
    for _ in range(2):
        cache = FileCache(str(tmp_path), 100)
        assert [bytes(cache.open(*entry).read()) for _ in range(2)] == [b"one", b"one"]
    assert fetched == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == [entry[2]]


def test_the_least_recently_opened_makes_room(remote: str, tmp_path: Path, fetched: list[str]) -> None:
    cache = FileCache(str(tmp_path), 25)
    entries = [put(remote, name, name.encode() * 10) for name in "abc"]
    for moment, entry in enumerate(entries[:2]):
        cache.open(*entry)
        os.utime(tmp_path / entry[2], (moment, moment))
    held = cache.open(*entries[0])
    cache.open(*entries[2])
    assert size_of(tmp_path) == 20
    assert not (tmp_path / entries[1][2]).exists()
    cache.open(*entries[1])
    assert fetched == ["a", "b", "c", "b"]
    assert size_of(tmp_path) == 20
    assert bytes(held.read()) == b"a" * 10  # evicted since, and still readable


def test_a_corrupt_copy_is_fetched_again(remote: str, tmp_path: Path, fetched: list[str]) -> None:
    entry = put(remote, "a", b"one")
    cache = FileCache(str(tmp_path), 100)
    cache.open(*entry)
    (tmp_path / entry[2]).write_bytes(b"0ne")
    assert bytes(cache.open(*entry).read()) == b"one"
    assert fetched == ["a", "a"]


def test_a_file_that_the_manifest_does_not_list_is_refused_and_not_kept(remote: str, tmp_path: Path) -> None:
    uri, size, digest = put(remote, "a", b"one")
    put(remote, "a", b"0ne")
    with pytest.raises(ValueError, match=r"/a is not the file its manifest lists: altered or torn"):
        FileCache(str(tmp_path), 100).open(uri, size, digest)
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_the_cache_is_refused_with_the_key(remote: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 1500001 bytes, .* set loader.cache_mb to at least 2"):
        FileCache(str(tmp_path), 1_000_000).open(*put(remote, "a", b"x" * 1_500_001))


def test_only_abandoned_partial_files_make_room(remote: str, tmp_path: Path) -> None:
    young, old = tmp_path / "young.partial", tmp_path / "old.partial"
    for path in (young, old):
        path.write_bytes(b"x" * 20)
    os.utime(old, (0, 0))
    FileCache(str(tmp_path), 25).open(*put(remote, "a", b"one"))
    assert young.exists()
    assert not old.exists()


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = FileCache(None, 100).folder
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0


def test_a_remote_dataset_is_read_through_the_cache_in_the_same_order(
    remote: str, tmp_path: Path, fetched: list[str]
) -> None:
    files = [30, 50, 40]
    local = shards.dataset(str(tmp_path / "local"), files, 8)
    distant = shards.dataset(remote, files, 8)
    size = max(entry["size"] for entry in distant.manifest["files"].values())
    config = LoaderConfig(slots_per_batch=60, shuffle_window=16, cache_mb=1, cache_folder=str(tmp_path / "cache"))

    def order(loader: Loader) -> list[tuple[str, ...]]:
        return [tuple(batch.row_ids) for step in islice(loader.epoch(0), 40) for batch in step.batches]

    loader = Loader(distant, config, seed=0)
    assert order(loader) == order(Loader(local, config, seed=0))
    assert len(set(fetched)) == len(fetched) == 3
    assert size_of(tmp_path / "cache") <= 3 * size
    assert distant.rows("train") == local.rows("train")
    assert len(fetched) == 3
