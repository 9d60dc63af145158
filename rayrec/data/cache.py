"""Files of a remote artifact on local disk: fetched once, checked against the manifest, bounded in size.

A file lies under its sha256, so that any number of processes of a machine may share a folder: a name always stands for
the same bytes, and appears by an atomic rename. The least recently opened files make room for new ones.
"""

import hashlib
import os
import tempfile
import time
from pathlib import Path
from threading import Lock

import fsspec
import pyarrow as pa

_PARTIAL = ".partial"
_ABANDONED_S = 3600
"""A partial file untouched for so long belongs to a process that died."""


class FileCache:
    """A folder of fetched files."""

    def __init__(self, folder: str | None, max_bytes: int) -> None:
        """Args:
        folder: local; None for this user's own below the system's temporary directory.
        max_bytes: of all files together; what is being fetched counts as soon as it is begun.
        """
        self.folder = Path(folder) if folder else Path(tempfile.gettempdir()) / f"rayrec-cache-{os.getuid()}"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.max_bytes = max_bytes
        self._locks: dict[str, Lock] = {}

    def open(self, uri: str, size: int, sha256: str) -> pa.NativeFile:
        """A verified copy, open for reading; it stays readable when another process evicts it.

        Args:
            uri: of the file.
            size: in bytes, as the manifest has it.
            sha256: as the manifest has it.

        Raises:
            ValueError: the file is larger than the cache, or its bytes are not those of the manifest.
        """
        path = self.folder / sha256
        with self._locks.setdefault(sha256, Lock()):  # two threads want one file once
            return _verified(path, sha256) or self._fetch(uri, size, sha256, path)

    def _fetch(self, uri: str, size: int, sha256: str, path: Path) -> pa.NativeFile:
        if size > self.max_bytes:
            raise ValueError(
                f"{uri} holds {size} bytes, more than the reader's cache of {self.max_bytes}; "
                f"set loader.cache_mb to at least {-(-size // 1_000_000)}"
            )
        self._make_room(size)
        handle, name = tempfile.mkstemp(_PARTIAL, dir=self.folder)
        os.close(handle)
        partial = Path(name)
        try:
            filesystem, remote = fsspec.core.url_to_fs(uri)
            filesystem.get_file(remote, name)
            file = _verified(partial, sha256)
            if file is None:
                raise ValueError(f"{uri} is not the file its manifest lists: altered or torn; make the artifact again")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return file

    def _make_room(self, size: int) -> None:
        """Evicts until `size` more bytes fit; other processes' partial files stay."""
        held = []
        for path in self.folder.iterdir():
            try:
                found = path.stat()
            except FileNotFoundError:  # evicted or renamed by another process
                continue
            held.append((found.st_mtime, found.st_size, path))
        total = sum(length for _, length, _ in held) + size
        for opened, length, path in sorted(held):
            if total <= self.max_bytes:
                return
            if path.suffix != _PARTIAL or opened < time.time() - _ABANDONED_S:
                path.unlink(missing_ok=True)
                total -= length


def _verified(path: Path, sha256: str) -> pa.NativeFile | None:
    """The file, open and marked as just used; None, and no file, where there is none or its bytes are others."""
    try:
        file = pa.OSFile(str(path))
        if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
            os.utime(path)
            file.seek(0)
            return file
        path.unlink()
    except FileNotFoundError:  # never fetched, or evicted meanwhile
        pass
    return None
