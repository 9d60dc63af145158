"""Where checkpoints are stored: files first, the manifest last, then the oldest go; and verified copies of them."""

import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from rayrec.storage import fetch_file, folder_names, join, local_files, publish, remove, retried, upload_file
from rayrec.train.trust import Judgement, Manifest, Trust, judged

NAME = re.compile(r"checkpoint_(\d+)_(\d+)")
OF_A_RANK = re.compile(r"(?:zero_pp_rank_|offloaded_tensors/rank)(\d+)[_/]")
"""In the name of a file that one rank alone opens."""
Files = dict[str, dict[str, Any]]
Value = TypeVar("Value")
logger = logging.getLogger(__name__)


class Task(threading.Thread):
    """Work on a thread of its own; a daemon, so that a storage that hangs keeps no process alive."""

    def __init__(self, work: Callable[[], Files]) -> None:
        """Starts at once.

        Args:
            work: returns the files it stored.
        """
        super().__init__(daemon=True)
        self._work = work
        self._made: Files = {}
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """What the thread does."""
        try:
            self._made = self._work()
        except BaseException as error:
            self._error = error

    def outcome(self) -> tuple[Files, str]:
        """Waits for the end; what was stored, and how the storage failed or ""."""
        self.join()
        if isinstance(self._error, OSError):
            return {}, f"{type(self._error).__name__}: {self._error}"
        if self._error is not None:
            raise self._error
        return self._made, ""


class Snapshot(NamedTuple):
    """A checkpoint as a rank wrote it: its name, its local folder, and what the manifest says beside the files."""

    name: str
    directory: str
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Store:
    """A folder of checkpoints; where it fails, it is tried again.

    Attributes:
        uri: of any fsspec storage.
        trust: names the run, and signs.
        keep: how many are left.
        waits: seconds between tries.
        stop: set when nothing is to be tried again.
    """

    uri: str
    trust: Trust
    keep: int
    waits: Sequence[float]
    stop: threading.Event

    def numbered(self) -> list[str]:
        """Names of what may be checkpoints, the oldest first: by their numbers, for clocks of nodes differ."""
        names = self._tried(partial(folder_names, self.uri), f"listing {self.uri}")
        found = [(int(match[1]), int(match[2]), name) for name in names if (match := NAME.fullmatch(name))]
        return [name for _, _, name in sorted(found)]

    def judged(self, name: str) -> Judgement:
        """What a checkpoint's manifest tells."""
        uri = join(self.uri, name)
        return self._tried(partial(judged, uri, self.trust), f"reading the manifest of {uri}")

    def stored(self, snapshot: Snapshot) -> Files:
        """Uploads this rank's files and removes its local folder; returns their manifest entries."""
        try:
            made = {}
            for name, path in local_files(snapshot.directory):
                uri = join(self.uri, snapshot.name, name)
                made[name] = self._tried(partial(upload_file, path, uri), f"writing {uri}")
            return made
        finally:
            shutil.rmtree(snapshot.directory, ignore_errors=True)

    def published(self, snapshot: Snapshot, files: Files) -> Files:
        """Writes the manifest, signed where there is a key, then removes what is not kept; stores no further file."""
        made = Manifest.model_validate({"files": files, "run": dict(self.trust.run), **snapshot.about})
        if self.trust.key is not None:
            made = made.model_copy(update={"signature": made.signed(self.trust.key)})
        uri = join(self.uri, snapshot.name)
        self._tried(partial(publish, uri, **made.model_dump(exclude_none=True)), f"writing the manifest of {uri}")
        try:
            self._tidy()
        except OSError as error:
            logger.warning(f"old checkpoints are left in {self.uri}: {error}")
        return {}

    def copied(self, name: str, found: Manifest, directory: str, rank: int | None) -> str:
        """Copies what the manifest lists.

        Args:
            name: of the checkpoint.
            found: its manifest.
            directory: empty, local.
            rank: whose files are copied, beside those that are nobody's; None for all.

        Returns:
            What is wrong with the copy, or "".
        """
        for file, entry in found.files.items():
            owner = OF_A_RANK.search(file)
            if rank is not None and owner is not None and int(owner[1]) != rank:
                continue
            uri = join(self.uri, name, file)
            try:
                seen = self._tried(partial(fetch_file, uri, os.path.join(directory, file)), f"reading {uri}")
            except FileNotFoundError:
                return f"{uri} is missing though the manifest lists it"
            if seen != entry.model_dump():
                return (
                    f"{uri} has {seen['size']} bytes and sha256 {seen['sha256'][:12]}…, the manifest says "
                    f"{entry.size} and {entry.sha256[:12]}…: altered or torn"
                )
        return ""

    def _tidy(self) -> None:
        """Removes all but the newest `keep` that can be trusted, and what lies before the newest without a manifest."""
        names = self.numbered()
        judgements = {name: self.judged(name) for name in names}
        trusted = [name for name in names if judgements[name].manifest is not None]
        torn = [name for name in names[: names.index(trusted[-1])] if judgements[name].absent] if trusted else []
        for name in [*trusted[: -self.keep], *torn]:
            uri = join(self.uri, name)
            self._tried(partial(remove, uri), f"removing {uri}")

    def _tried(self, work: Callable[[], Value], what: str) -> Value:
        return retried(work, what, waits=self.waits, stop=self.stop)
