"""Directories on any fsspec URI, published whole: files first, `manifest.json` with their hashes last.

A directory without a manifest is no artifact; a file that the manifest does not list is not part of it.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata, util
from typing import Any, TypeVar

import fsspec

ALLOWED_SCHEMES: tuple[str, ...] = ("file", "s3", "gs", "abfs", "hdfs", "memory", "package")
MANIFEST = "manifest.json"
_COPIED_AT_ONCE = 1 << 20
RECORDED_PACKAGES = ("rayrec", "ray", "torch", "transformers", "deepspeed", "peft", "pyarrow", "numpy")
WAITS = (0.75, 3.0, 12.0, 48.0)
"""Seconds between tries of a storage that fails: about a minute in all."""
Value = TypeVar("Value")
logger = logging.getLogger(__name__)


def absolute(uri: str) -> str:
    """The URI with a scheme untouched, a local path made absolute.

    `package://NAME/PATH` is a file that an installed package ships.

    Raises:
        ValueError: the scheme is not one of ALLOWED_SCHEMES, or the package is not installed.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return os.path.abspath(os.path.expanduser(uri))
    if scheme not in ALLOWED_SCHEMES:
        raise ValueError(
            f"the URI {uri!r} has the scheme {scheme!r}; expected one of {', '.join(ALLOWED_SCHEMES)} or a local path"
        )
    if scheme == "package":
        name, _, path = rest.partition("/")
        spec = util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{uri!r} points into the package {name!r}, which is not installed; pip install it")
        return os.path.join(spec.submodule_search_locations[0], path)
    return rest if scheme == "file" else uri


def join(uri: str, *parts: str) -> str:
    """The URI of something below `uri`."""
    return "/".join([uri.rstrip("/"), *parts])


def located(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """A URI's filesystem and the path there.

    Raises:
        ValueError: the scheme is not one of ALLOWED_SCHEMES, or a package for it is not installed.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(absolute(uri))
    except ImportError as error:
        remedy = "pip install 'rayrec[s3]'" if uri.startswith("s3://") else "install the package it names"
        raise ValueError(f"{uri!r} needs a package that is not installed ({error}); {remedy}") from error
    return filesystem, path


def retried(work: Callable[[], Value], what: str, *, waits: Sequence[float], stop: threading.Event) -> Value:
    """What `work` returns, tried again where the storage fails.

    Args:
        work: reads or writes, and can be repeated.
        what: it does, for messages.
        waits: seconds before each further try; half of it to one and a half, lest all ranks come back at once.
        stop: once set, no further try is made.

    Raises:
        FileNotFoundError: at once, for that is an answer.
        OSError: the last try failed too.
    """
    for number, wait in enumerate((*waits, None), start=1):
        try:
            return work()
        except FileNotFoundError:
            raise
        except Exception as error:  # each kind of storage raises its own; few of them are OSErrors
            seen = f"{what} failed: {type(error).__name__}: {error}"
            if wait is None or stop.wait(wait * random.SystemRandom().uniform(0.5, 1.5)):
                raise OSError(f"{seen} (tried {number} times)") from error
            logger.warning(f"{seen}; it is tried again")
    raise AssertionError("the last try returns or raises")


def exists(uri: str) -> bool:
    """Whether a file or directory is there."""
    filesystem, path = located(uri)
    return bool(filesystem.exists(path))


def read_bytes(uri: str) -> bytes:
    """The whole file."""
    filesystem, path = located(uri)
    return bytes(filesystem.cat_file(path))


def file_entry(path: str) -> dict[str, Any]:
    """The manifest entry of a local file: size in bytes and sha256."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": os.path.getsize(path), "sha256": digest}


def write_bytes(uri: str, data: bytes) -> dict[str, Any]:
    """Writes a file whole or not at all, making its directory; returns its manifest entry: size in bytes and sha256."""
    filesystem, path = located(uri)
    if "file" in filesystem.protocol:  # elsewhere a path is a name, and s3fs would make a bucket that it does not reach
        filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        part = f"{path}.{os.getpid()}"
        with open(part, "wb") as file:
            file.write(data)
        os.replace(part, path)
    else:  # an object store shows a whole object or none
        filesystem.pipe_file(path, data)
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def read_json(uri: str) -> Any:
    """The parsed JSON file."""
    return json.loads(read_bytes(uri))


def write_json(uri: str, value: Any) -> dict[str, Any]:
    """Writes readable JSON with sorted keys and returns its manifest entry."""
    return write_bytes(uri, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def folder_names(uri: str) -> list[str]:
    """Names of the folders right below a directory, sorted; none where nothing is there."""
    filesystem, path = located(uri)
    filesystem.invalidate_cache()  # other processes write there
    if not filesystem.exists(path):
        return []
    return sorted(
        str(info["name"]).rstrip("/").rpartition("/")[2]
        for info in filesystem.ls(path, detail=True)
        if info["type"] == "directory"
    )


def fetch_file(uri: str, local: str) -> dict[str, Any]:
    """Copies a file, making the directories of its local path; returns the copy's manifest entry.

    Raises:
        FileNotFoundError: it is not there.
    """
    filesystem, path = located(uri)
    with filesystem.open(path, "rb") as source:
        os.makedirs(os.path.dirname(local), exist_ok=True)
        with open(local, "wb") as target:
            shutil.copyfileobj(source, target, _COPIED_AT_ONCE)
    return file_entry(local)


def local_files(directory: str) -> Iterator[tuple[str, str]]:
    """Relative name, with slashes, and path of every file below a local directory, sorted."""
    paths = sorted(os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names)
    for path in paths:
        yield os.path.relpath(path, directory).replace(os.sep, "/"), path


def upload_file(local: str, uri: str) -> dict[str, Any]:
    """Copies a local file piece by piece, whole or not at all; returns its manifest entry."""
    filesystem, path = located(uri)
    is_local = "file" in filesystem.protocol
    if is_local:
        filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    part = f"{path}.{os.getpid()}" if is_local else path
    with open(local, "rb") as source, filesystem.open(part, "wb") as target:
        shutil.copyfileobj(source, target, _COPIED_AT_ONCE)
    if is_local:
        os.replace(part, path)
    return file_entry(local)


def upload_directory(local: str, uri: str) -> dict[str, dict[str, Any]]:
    """Copies every file below a local directory to `uri` and returns their manifest entries by relative path."""
    return {name: upload_file(path, join(uri, name)) for name, path in local_files(local)}


def remove(uri: str) -> None:
    """Removes a folder, its manifest first: what a removal that is cut short leaves is no artifact."""
    filesystem, path = located(uri)
    if filesystem.exists(join(path, MANIFEST)):
        filesystem.rm_file(join(path, MANIFEST))
    filesystem.rm(path, recursive=True)


def download_directory(uri: str, local: str) -> str:
    """A verified local copy of a published directory: the directory itself where `uri` is local.

    Raises:
        ValueError: nothing is published there, or a file is missing or altered.
    """
    verify(uri)
    filesystem, path = located(uri)
    if "file" in filesystem.protocol:
        return path
    for name in [*manifest(uri)["files"], MANIFEST]:
        target = os.path.join(local, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(read_bytes(join(uri, name)))
    return local


def provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    """What every artifact says of its making: resolved config, code version, package versions, seed."""
    packages = {}
    for name in RECORDED_PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {"config": dict(config), "code": packages["rayrec"], "packages": packages, "seed": config.get("seed")}


def publish(uri: str, kind: str, files: Mapping[str, Mapping[str, Any]], **about: Any) -> str:
    """Makes a written directory an artifact by writing its manifest, last.

    Args:
        uri: the directory.
        kind: dataset, weights, checkpoint, report or bundle.
        files: manifest entries (size, sha256) by relative path.
        about: further JSON values to store (counts, provenance, inputs).

    Returns:
        The absolute URI.
    """
    write_json(join(uri, MANIFEST), {"kind": kind, "files": dict(sorted(files.items())), **about})
    return absolute(uri)


def is_published(uri: str) -> bool:
    """Whether a manifest is there."""
    return exists(join(uri, MANIFEST))


def manifest(uri: str, kind: str | None = None) -> dict[str, Any]:
    """The manifest of a published directory.

    Raises:
        ValueError: no manifest, or an artifact of another kind.
    """
    if not is_published(uri):
        raise ValueError(
            f"nothing is published at {absolute(uri)} (no {MANIFEST}); expected {kind or 'an artifact'}: "
            "run the stage that makes it, or point the config at another URI"
        )
    found: dict[str, Any] = read_json(join(uri, MANIFEST))
    if kind is not None and found.get("kind") != kind:
        raise ValueError(f"{absolute(uri)} holds a {found.get('kind')}; expected a {kind}")
    return found


def fingerprint(uri: str, kind: str) -> str:
    """sha256 of an artifact's manifest, which holds the hash of every file: equal only for equal artifacts.

    Raises:
        ValueError: nothing of that kind is published there.
    """
    manifest(uri, kind)
    return hashlib.sha256(read_bytes(join(uri, MANIFEST))).hexdigest()


def verify(uri: str, kind: str | None = None) -> dict[str, Any]:
    """The manifest, after every listed file was found with its size and hash.

    Raises:
        ValueError: names the first file that is missing, differs, or would lie outside the directory.
    """
    found = manifest(uri, kind)
    for name, entry in found["files"].items():
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"the manifest of {absolute(uri)} lists {name!r}, outside of it; do not use this artifact")
        if not exists(join(uri, name)):
            raise ValueError(f"{join(absolute(uri), name)} is missing though the manifest lists it; make it again")
        digest = hashlib.sha256(read_bytes(join(uri, name))).hexdigest()
        if digest != entry["sha256"]:
            raise ValueError(
                f"{join(absolute(uri), name)} has sha256 {digest[:12]}…, the manifest says {entry['sha256'][:12]}…: "
                "the file was altered or torn; make the artifact again"
            )
    return found
