"""What a job reads: the parts of every table of the logs, and the names by which quarantine/ calls their files."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rayrec.data.config import DataConfig
from rayrec.data.door import PartTask
from rayrec.data.files import parts_of
from rayrec.data.sources.logs import Logs
from rayrec.storage import absolute

TABLES = ("interactions", "items", "users", "impressions", "triples")
_GLOB = "*?["


@dataclass(frozen=True)
class Inputs:
    """The parts of the logs.

    Attributes:
        parts: by table, in the order in which later rows win.
        order_only: timestamps are positions times a day.
    """

    parts: dict[str, list[PartTask]]
    order_only: bool

    def described(self) -> list[list[Any]]:
        """JSON: every part with its size and version; logs that were written anew give another list."""
        return [
            [table, task.part.uri, task.part.groups, task.part.size, task.part.version]
            for table, tasks in self.parts.items()
            for task in tasks
        ]

    def digest(self) -> str:
        """sha256 of the names and sizes of all parts: the same for a copy of the logs that lies elsewhere."""
        names = [
            [table, task.source, task.part.groups, task.part.size]
            for table, tasks in self.parts.items()
            for task in tasks
        ]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def list_inputs(logs: Logs, config: DataConfig) -> Inputs:
    """Finds every file of the logs.

    Args:
        logs: of the source.
        config: sizes and allowed schemes.

    Raises:
        ValueError: a file is missing, or its scheme is not allowed.
    """
    tables = {name: getattr(logs, name) for name in TABLES}
    uris = [uri for logged in tables.values() for table in logged for uri in table.uris]
    base = common_folder(uris)
    parts = {}
    for name, logged in tables.items():
        found = [
            (part, table.convert)
            for table in logged
            for part in parts_of(table.uris, table.format, config.part_mb << 20, config.allowed_schemes)
        ]
        parts[name] = [
            PartTask(number, part, convert, part.uri.removeprefix(base)) for number, (part, convert) in enumerate(found)
        ]
    return Inputs(parts, logs.order_only)


def common_folder(uris: Iterable[str]) -> str:
    """The longest folder that all of some URIs lie in, as the prefix that names in quarantine/ lose; "" for none."""
    folders = []
    for uri in uris:
        parts = absolute(uri).split("/")
        fixed = next((place for place, part in enumerate(parts) if any(sign in part for sign in _GLOB)), len(parts) - 1)
        folders.append(parts[: min(fixed, len(parts) - 1)])
    shared = folders[0] if folders else []
    for folder in folders[1:]:
        same = [first == second for first, second in zip(shared, folder, strict=False)]
        shared = shared[: same.index(False) if False in same else len(same)]
    return "/".join([*shared, ""])
