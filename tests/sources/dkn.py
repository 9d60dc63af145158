"""DKN's news lines in two files."""

from pathlib import Path

from rayrec.data.sources.config import DknSource
from tests.sources.cases import Case, Rows, event, put


def dkn(folder: Path) -> DknSource:
    put(folder / "train.txt", [("0", "big news", "1", "12:Bob: Dylan;7:New York"), ("0", "old news", "0", "")])
    put(folder / "test.txt", [("0", "late news", "?", "7:NYC")])
    return DknSource(kind="dkn", uris=(str(folder / "train.txt"), str(folder / "test.txt")))


NEWS: dict[str, Rows] = {
    "interactions": [
        event("0", "big news", 0, timestamp=0, event="click"),
        event("0", "old news", 1, timestamp=1, event="skip"),
        event("0", "late news", 0, timestamp=10**10),
    ],
    "items": [
        {"item_id": "big news", "title": "big news", "attributes": ["Bob: Dylan", "New York"], "row": 0},
        {"item_id": "old news", "title": "old news", "row": 1},
        {"item_id": "late news", "title": "late news", "attributes": ["NYC"], "row": 0},
    ],
}


CASES = {
    "dkn": Case(dkn, NEWS, order_only=True),
}
