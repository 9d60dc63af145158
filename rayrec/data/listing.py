"""Files found by file, folder or glob on any storage, and opened."""

import contextlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
from fsspec.core import has_magic

from rayrec.data.work import retried
from rayrec.storage import ALLOWED_SCHEMES, absolute, located

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_HIDDEN = (".", "_")
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
"""Where filesystems say which version of a file they list, the most telling first."""


class Found(NamedTuple):
    """A file: its URI, bytes as stored, and what differs where it was written anew (empty where storage says nothing).

    The version is the same in any process, but not of a copy.
    """

    uri: str
    size: int
    version: str


def files_at(uri: str, allowed: Sequence[str]) -> list[Found]:
    """Every file of a file, folder or glob, by name.

    Raises:
        ValueError: the scheme is not allowed, nothing is there, or a folder has files of several endings.
    """
    return retried(partial(_files_at, uri, allowed))


def _files_at(uri: str, allowed: Sequence[str]) -> list[Found]:
    filesystem, path = _located(uri, allowed)
    where = absolute(uri)
    there = False
    # exists() and isfile() answer no where storage fails for a moment; info() raises, and is tried again.
    with contextlib.suppress(FileNotFoundError):
        info = filesystem.info(path)
        if info["type"] == "file":
            return [_found(where, info)]
        there = True
    if there:
        found, base = _below(filesystem, path), where
        endings = sorted({ending(name) for name in found})
        if len(endings) > 1:
            raise ValueError(
                f"the folder {uri!r} has files that end in {', '.join(map(repr, endings))}; expected one kind: "
                "narrow it by a glob"
            )
    elif has_magic(path):
        base = where[: _magic(where)].rpartition("/")[0] + "/"
        pattern, path = path, fsspec.core.url_to_fs(base)[1]
        found = _matching(filesystem, pattern, path)
    else:
        found, base = {}, where
    if not found:
        raise ValueError(
            f"{uri!r} has no file to read (looked for {where}); expected a file, a folder with files or a glob that "
            "matches some: names that begin with a dot or an underscore do not count"
        )
    folder = base if base.endswith("/") else base + "/"
    return [_found(folder + name[len(path) :].lstrip("/"), info) for name, info in sorted(found.items())]


def _found(uri: str, info: Mapping[str, Any]) -> Found:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")
    return Found(uri, int(info["size"]), version)


def check_scheme(uri: str, allowed: Sequence[str]) -> None:
    """Refuses a URI before anything is looked at.

    Args:
        uri: a local path has the scheme `file`.
        allowed: schemes, of data.allowed_schemes.

    Raises:
        ValueError: the scheme is not among them.
    """
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    if scheme not in allowed:
        remedy = "add it there if meant" if scheme in ALLOWED_SCHEMES else "copy the files to one of these"
        raise ValueError(f"{uri!r} has the scheme {scheme!r}; data.allowed_schemes has {', '.join(allowed)}: {remedy}")


def _located(uri: str, allowed: Sequence[str]) -> tuple[fsspec.AbstractFileSystem, str]:
    check_scheme(uri, allowed)
    return located(uri)


def _below(filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    """Files below a folder, as they are listed."""
    listed = filesystem.find(path, detail=True).items()
    return {name: info for name, info in listed if not _is_hidden(name[len(path) :])}


def _matching(filesystem: fsspec.AbstractFileSystem, pattern: str, base: str) -> dict[str, Any]:
    """Files that a glob matches, and those below folders that it matches, as listed; `base` has no wildcard."""
    found: dict[str, Any] = {}
    meant = _is_hidden(pattern[len(base) :])
    for name, info in filesystem.glob(pattern, detail=True).items():
        if meant or not _is_hidden(name[len(base) :]):
            found.update(_below(filesystem, name) if info["type"] == "directory" else {name: info})
    return found


def _is_hidden(path: str) -> bool:
    return any(part.startswith(_HIDDEN) for part in path.split("/"))


def _magic(uri: str) -> int:
    return min(place for mark in "*?[" if (place := uri.find(mark)) >= 0)


def ending(uri: str) -> str:
    """How a file's name ends, without its compression: `.csv` for `a.csv.gz`."""
    stem, found = posixpath.splitext(uri)
    return posixpath.splitext(stem)[1] if found in COMPRESSIONS else found


@contextlib.contextmanager
def opened(uri: str, seekable: bool = False) -> Iterator[Any]:
    """A file's decompressed stream, or (`seekable`) the file as it is: by its path where it is local."""
    filesystem, path = located(uri)
    if seekable and "file" in filesystem.protocol:
        yield path
        return
    with retried(partial(filesystem.open, path, "rb")) as file:
        codec, patient = COMPRESSIONS.get(posixpath.splitext(uri)[1]), _Patient(file)
        if seekable or codec is None:
            yield patient
            return
        with pa.CompressedInputStream(pa.PythonFile(patient, mode="r"), codec) as stream:
            yield stream


class _Patient:
    """An open file, each read of which is tried again where storage fails for a moment.

    What still fails is a StorageError, which nobody takes for damage to what the file holds.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, *size: int) -> Any:
        """As the file's own."""
        return retried(partial(self._file.read, *size))
