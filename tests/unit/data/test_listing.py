"""Trouble with storage is waited out or passed on, and never taken for damage to a file; damage is never waited out."""

import bz2
import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError
from pyarrow import parquet

from rayrec.data import work
from rayrec.data.files import Delimited, Format, Parquet, Part, read_blocks
from rayrec.data.listing import Found, files_at
from rayrec.data.work import StorageError

ROWS = [{"a": str(place), "b": "x" * (place % 7)} for place in range(3000)]
LINES = b"a,b\n" + b"".join(f"{row['a']},{row['b']}\n".encode() for row in ROWS)


def parquet_bytes() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=500)
    return sink.getvalue()


FILES: dict[str, tuple[bytes, Format]] = {
    "a.csv": (LINES, Delimited()),
    "a.csv.gz": (gzip.compress(LINES), Delimited()),
    "a.csv.zst": (bytes(pa.compress(LINES, "zstd", asbytes=True)), Delimited()),
    "a.csv.bz2": (bz2.compress(LINES), Delimited()),
    "a.parquet": (parquet_bytes(), Parquet()),
}
TROUBLE: list[Callable[[], Exception]] = [
    lambda: OSError("no errno, as some filesystems raise it"),
    lambda: OSError(16, "503 slow down"),
    lambda: ConnectionResetError(104, "reset by peer"),
    lambda: EndpointConnectionError(endpoint_url="http://127.0.0.1:1"),
    lambda: ConnectionClosedError(endpoint_url="http://127.0.0.1:1"),
]


class Trouble:
    """A remote store whose reads fail, some at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = fsspec.filesystem("memory")
        self.failures: Iterator[Exception | None] = iter(())
        self.waits: list[float] = []
        monkeypatch.setattr(work.time, "sleep", self.waits.append)
        monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", self._read(io.BytesIO.read))

    def _read(self, read: Callable[..., bytes]) -> Callable[..., bytes]:
        def failing(file: io.BytesIO, *size: int) -> bytes:
            error = next(self.failures, None)
            if error is not None:
                raise error
            return read(file, *size)

        return failing

    def rows(self, name: str, data: bytes, form: Format) -> list[dict[str, str]]:
        self.store.pipe_file(f"/{name}", data)
        part = Part(f"memory://{name}", form, (0, 6) if isinstance(form, Parquet) else None, 0, len(data))
        return [row for block in read_blocks(part, 4000) for row in block.rows.select(["a", "b"]).to_pylist()]


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trouble]:
    found = Trouble(monkeypatch)
    yield found
    found.store.store.clear()


@pytest.mark.parametrize("error", TROUBLE, ids=["plain", "busy", "reset", "no server", "closed"])
@pytest.mark.parametrize("name", FILES)
def test_a_read_that_fails_for_a_moment_is_tried_again(
    name: str, error: Callable[[], Exception], trouble: Trouble
) -> None:
    data, form = FILES[name]
    told = [{**row, "b": row["b"] or None} for row in ROWS] if isinstance(form, Delimited) else ROWS
    trouble.failures = iter([None, error(), error(), None, error()])
    assert trouble.rows(name, data, form) == told
    assert len(trouble.waits) >= 2


@pytest.mark.parametrize("error", TROUBLE, ids=["plain", "busy", "reset", "no server", "closed"])
@pytest.mark.parametrize("name", FILES)
def test_a_store_that_stays_away_is_no_damaged_file(
    name: str, error: Callable[[], Exception], trouble: Trouble
) -> None:
    data, form = FILES[name]
    trouble.failures = iter([None, *(error() for _ in range(99))])
    with pytest.raises(StorageError, match=r"storage failed 5 times, the last time with .*run the same command again"):
        trouble.rows(name, data, form)
    assert len(trouble.waits) == 4


@pytest.mark.parametrize("name", [name for name in FILES if name != "a.csv"])
def test_a_torn_file_is_refused_at_once(name: str, trouble: Trouble) -> None:
    data, form = FILES[name]
    with pytest.raises(ValueError, match=f"^'memory://{name}' is damaged, or no (Delimited|Parquet) file"):
        trouble.rows(name, data[:-40], form)
    assert trouble.waits == []


def test_a_local_file_is_found_though_its_folder_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    (tmp_path / "a.csv").write_bytes(LINES)
    local = fsspec.filesystem("file")
    answers = iter([OSError(5, "input/output error")])
    info = local.info

    def failing(path: str, **options: Any) -> Any:
        error = next(answers, None)
        if error is not None:
            raise error
        return info(path, **options)

    monkeypatch.setattr(local, "info", failing)
    assert [file[:2] for file in files_at(str(tmp_path), ("file",))] == [(f"{tmp_path}/a.csv", len(LINES))]
    assert len(trouble.waits) == 1


@pytest.mark.parametrize("place", ["", "/a.csv", "/*.csv"], ids=["folder", "file", "glob"])
@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_file_written_anew_has_another_version(place: str, scheme: str, tmp_path: Path, trouble: Trouble) -> None:
    base = str(tmp_path) if scheme == "file" else "memory://logs"
    filesystem, root = fsspec.core.url_to_fs(base)
    versions = list[Found]()
    for data in (b"a\n1\n", b"a\n2\n"):
        filesystem.pipe_file(f"{root}/a.csv", data)
        if scheme == "file":
            os.utime(tmp_path / "a.csv", (0, 1_700_000_000 + len(versions)))
        (found,) = files_at(base + place, (scheme,))
        assert files_at(base + place, (scheme,)) == [found]
        versions.append(found)
    assert versions[0][:2] == versions[1][:2]
    assert "" != versions[0].version != versions[1].version


@pytest.mark.parametrize(
    ("told", "version"), [({"ETag": '"ab"', "LastModified": 3}, '"ab"'), ({"mtime": 0.0}, "0.0"), ({}, "")]
)
def test_the_version_is_what_the_listing_says_and_costs_no_request(
    told: dict[str, Any], version: str, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    for name in ("a", "b"):
        trouble.store.pipe_file(f"/logs/{name}.csv", b"x")
    listed = {f"/logs/{name}.csv": {"size": 1, "type": "file", **told} for name in ("a", "b")}
    monkeypatch.setattr(trouble.store, "find", lambda *_, **__: listed)
    monkeypatch.delattr(type(trouble.store), "created")
    assert [file.version for file in files_at("memory://logs", ("memory",))] == [version] * 2


def test_storage_that_fails_for_a_moment_makes_no_folder_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    filesystem, failures = type(fsspec.filesystem("file")), [OSError("busy")]
    told = filesystem.info

    def info(self: object, path: str, **options: object) -> object:
        if failures:
            raise failures.pop()
        return told(self, path, **options)

    monkeypatch.setattr(filesystem, "info", info)
    monkeypatch.setattr("rayrec.data.work.time.sleep", lambda _: None)
    (found,) = files_at(str(tmp_path / "a.csv"), ("file",))
    assert found.uri.endswith("a.csv")
    assert failures == []
