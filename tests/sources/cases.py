"""What a source's small logs are made of: files with dirt among them, and the rows that they are, less nulls."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One layout.

    Attributes:
        write: writes its files to a folder and returns the config of the source.
        tables: canonical rows by table.
        order_only: as in Logs.
    """

    write: Callable[[Path], Any]
    tables: dict[str, Rows]
    order_only: bool = False


def put(path: Path, rows: Iterable[Sequence[str]], separator: str = "\t", encoding: str = "utf-8") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(separator.join(row) + "\n" for row in rows), encoding=encoding, newline="")


def put_json(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


NAN = "NaN"
"""How the tests write a rating that is no number."""


def event(user: str, item: str, row: int, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "row": row, **more}
