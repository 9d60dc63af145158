"""The work folder of a job: scratch files, and what says which tasks are done, so a killed job redoes only the rest.

A task writes its files first and its done-record last and whole; a record counts only while its files are what it says.
A file of slices holds one Arrow table a bucket, behind an index, so that whoever wants a bucket reads only its bytes.
"""

import contextlib
import hashlib
import io
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rayrec.storage import absolute, join, write_bytes

WORK = "_work"
READS_AT_ONCE = 16
TRIES, FIRST_WAIT_S = 5, 0.5
CLIENT_ERRORS = (
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "aiohttp.client_exceptions.ClientError",
    "requests.exceptions.RequestException",
    "gcsfs.retry.HttpError",
    "azure.core.exceptions.AzureError",
)
"""What clients of object stores raise, besides OSErrors, where a store does not answer."""

Task = TypeVar("Task")
Result = TypeVar("Result")
Record = dict[str, Any]
"""What a task tells: JSON values, among them `files` (manifest entries by path below the dataset) and `rows` (read)."""


class Run(Protocol):
    """Runs a picklable function on every task, anywhere and in any order, and yields what it returns."""

    def __call__(self, function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
        """Args:
        function: of one task; it may be called again for the same task.
        tasks: picklable.
        title: what is being done, for a progress bar.
        """
        ...


def in_process(function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
    """The plainest Run: one task after the other, here."""
    return map(function, tasks)


class StorageError(OSError):
    """Storage did not answer, though it was asked again and again."""


NO_USE = (StorageError, FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
"""What trying again does not mend."""


def retried(action: Callable[[], Result]) -> Result:
    """What an action that reads or writes returns, tried again a few times where storage fails for a moment.

    Raises:
        StorageError: it failed each time.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except Exception as error:
            if not _may_pass(error):
                raise
            if attempt == TRIES:
                raise StorageError(
                    f"storage failed {TRIES} times, the last time with {type(error).__name__}: {error}; run the same "
                    "command again once it answers: what is done is kept"
                ) from error
            time.sleep(FIRST_WAIT_S * 2**attempt * random.random())
    raise AssertionError("TRIES is 0")


def _may_pass(error: Exception) -> bool:
    """Whether it tells of storage that may answer the next time."""
    if isinstance(error, OSError):
        return not isinstance(error, NO_USE)
    return any(f"{kind.__module__}.{kind.__name__}" in CLIENT_ERRORS for kind in type(error).__mro__)


@dataclass(frozen=True)
class Work:
    """Where a job works.

    Attributes:
        uri: of the dataset.
        folder: of this job's scratch, below `uri`; it names all that determines the result.
    """

    uri: str
    folder: str

    def scratch(self, *parts: str) -> str:
        """The path of a scratch file, below the dataset's URI."""
        return "/".join([self.folder, *parts])

    def write(self, path: str, data: bytes) -> Record:
        """Writes a file below the dataset's URI; returns a record of `files`."""
        return {path: retried(partial(write_bytes, join(self.uri, path), data))}


def open_work(uri: str, determined_by: Any) -> Work:
    """The work folder of a job; those of other jobs are removed.

    Args:
        uri: of the dataset.
        determined_by: JSON of all that determines the dataset.
    """
    digest = hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()[:16]
    found = retried(partial(_names, join(absolute(uri), WORK)))
    remove(uri, *(f"{WORK}/{name}" for name in found if name != digest))
    return Work(absolute(uri), f"{WORK}/{digest}")


def _names(uri: str) -> list[str]:
    """What lies in a folder, by name; nothing where there is none."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.invalidate_cache()  # other processes write there
    try:
        return sorted(found.rstrip("/").rsplit("/", 1)[-1] for found in filesystem.ls(path, detail=False))
    except FileNotFoundError:
        return []


def remove(uri: str, *folders: str) -> None:
    """Removes folders below `uri`; one that is not there is passed over."""
    filesystem, path = fsspec.core.url_to_fs(absolute(uri))
    for folder in folders:
        filesystem.invalidate_cache()  # other processes wrote there
        if retried(partial(filesystem.exists, f"{path}/{folder}")):
            with contextlib.suppress(FileNotFoundError):  # the try before removed it, and was not told so
                retried(partial(filesystem.rm, f"{path}/{folder}", recursive=True))


def phase(
    work: Work, name: str, function: Callable[[Any], Record], tasks: Mapping[str, Any], run: Run
) -> Iterator[Record]:
    """Carries out the tasks that are not done yet and yields every task's record, in no order.

    Args:
        work: where to.
        name: of the phase.
        function: of one task; it returns a record.
        tasks: by a key that is a file name.
        run: how.
    """
    listed = retried(partial(_names, join(work.uri, work.folder, name, "done")))
    done = {record.removesuffix(".json") for record in listed}
    missing = [key for key in tasks if key not in done]
    recall, carry_out = partial(_recall, work, name), partial(_carry_out, work, name, function)
    for key, record in run(partial(_tried, recall), [key for key in tasks if key in done], f"{name}: looking"):
        if record is None:
            missing.append(key)
        else:
            yield record
    yield from run(partial(_tried, carry_out), [(key, tasks[key]) for key in sorted(missing)], name)


def _tried(function: Callable[[Task], Result], task: Task) -> Result:
    return retried(partial(function, task))


def _carry_out(work: Work, name: str, function: Callable[[Any], Record], task: tuple[str, Any]) -> Record:
    key, subject = task
    record = function(subject)
    work.write(work.scratch(name, "done", f"{key}.json"), json.dumps(record).encode())
    return record


def _recall(work: Work, name: str, key: str) -> tuple[str, Record | None]:
    """A task's record, or None where a file of it is missing, torn or altered."""
    filesystem, root = fsspec.core.url_to_fs(work.uri)
    try:
        record: Record = json.loads(_whole_file(filesystem, f"{root}/{work.folder}/{name}/done/{key}.json"))
    except ValueError:
        return key, None
    for path, entry in record["files"].items():
        try:
            digest = hashlib.sha256(_whole_file(filesystem, f"{root}/{path}")).hexdigest()
        except FileNotFoundError:
            return key, None
        if digest != entry["sha256"]:
            return key, None
    return key, record


def _whole_file(filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
    return bytes(retried(partial(filesystem.cat_file, path)))


def slices_bytes(tables: Sequence[pa.Table]) -> bytes:
    """One table a bucket: int64 offsets, one more than there are tables, then each as a compressed Arrow stream.

    A bucket without rows takes no byte.
    """
    streams = [_stream(table) if len(table) else b"" for table in tables]
    offsets = 8 * (len(tables) + 1) + np.concatenate([[0], np.cumsum([len(stream) for stream in streams])])
    return b"".join([offsets.astype("<i8").tobytes(), *streams])


def _stream(table: pa.Table) -> Any:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def read_slices(work: Work, paths: Sequence[str], bucket: int) -> list[pa.Table]:
    """The tables of one bucket in some files of slices, in the order of the files; those without rows left out."""
    filesystem, root = fsspec.core.url_to_fs(work.uri)

    def read(path: str) -> pa.Table | None:
        fetch = partial(filesystem.cat_file, f"{root}/{path}")
        index = retried(partial(fetch, start=8 * bucket, end=8 * bucket + 16))
        start, end = np.frombuffer(index, "<i8").tolist()
        if start == end:
            return None
        return pa.ipc.open_stream(retried(partial(fetch, start=start, end=end))).read_all()

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return [table for table in pool.map(read, paths) if table is not None]


def dealt(table: pa.Table, bucket_R: np.ndarray, buckets: int) -> list[pa.Table]:
    """The rows of each bucket, in the order they had."""
    order = np.argsort(bucket_R.astype(np.uint16 if buckets <= 1 << 16 else np.int64), kind="stable")
    borders = np.searchsorted(bucket_R[order], np.arange(buckets + 1))
    table = table.take(pa.array(order)).combine_chunks()
    return [table.slice(start, end - start) for start, end in pairwise(borders)]


def write_table(uri: str, path: str, table: pa.Table, rows_per_group: int | None = None) -> Record:
    """Writes a table below `uri` and returns its manifest entry by its path.

    Args:
        uri: the artifact's directory.
        path: of the file within it.
        table: its schema, metadata included, is written as it is.
        rows_per_group: rows of a Parquet row group; None for Arrow's default.
    """
    buffer = io.BytesIO()
    # Ids and times hardly repeat within a row group: without a dictionary files are written faster and are smaller.
    options = {"row_group_size": rows_per_group, "compression": "zstd", "use_dictionary": False}
    parquet.write_table(table.combine_chunks(), buffer, **options)
    return {path: retried(partial(write_bytes, join(uri, path), buffer.getvalue()))}
