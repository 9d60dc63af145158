"""Trouble with storage is waited out or passed on, and never taken for damage to a file; damage is never waited out."""

import bz2
import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError
from pyarrow import parquet

from rayrec.data import work
from rayrec.data.files import Delimited, Format, Parquet, Part, read_blocks
from rayrec.data.listing import files_at
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
    exists = local.exists

    def failing(path: str) -> bool:
        error = next(answers, None)
        if error is not None:
            raise error
        return bool(exists(path))

    monkeypatch.setattr(local, "exists", failing)
    assert files_at(str(tmp_path), ("file",)) == [(f"{tmp_path}/a.csv", len(LINES))]
    assert len(trouble.waits) == 1
