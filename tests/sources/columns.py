"""Plain columns: the same content in every format, and a log that has positions in place of times."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from rayrec.data.sources.config import Columns, ColumnsSource
from tests.sources.cases import NAN, Case, Rows, put, put_json

EVENTS: Rows = [
    {"who": "u1", "what": "a", "when": "881250949", "stars": "4.5", "did": "view", "said": "so, so"},
    {"who": "u1", "what": "b", "when": "2024-01-01 02:00:00.5+02:00", "stars": None, "did": "buy", "said": None},
    {"who": None, "what": "a", "when": None, "stars": "-", "did": None, "said": None},
]
WARES: Rows = [
    {
        "what": "a",
        "name": "Cup &amp; Saucer",
        "about": "['Blue.', 'Holds a \"pint\".']",
        "tags": "home|tea|",
        "made": "X",
    },
    {"what": "b", "name": "[REC] AT&T", "about": None, "tags": None, "made": None},
]
COLUMNS = Columns(
    user_id="who",
    item_id="what",
    timestamp="when",
    rating="stars",
    event="did",
    review="said",
    title="name",
    text="about",
    categories="tags",
    attributes="made",
    user_text="bio",
)
TOLD: dict[str, Rows] = {
    "interactions": [
        {"user_id": "u1", "item_id": "a", "timestamp": 881250949000, "rating": 4.5, "event": "view", "review": "so, so"}
        | {"row": 0},
        {"user_id": "u1", "item_id": "b", "timestamp": 1704067200500, "event": "buy", "row": 1},
        {"item_id": "a", "rating": NAN, "row": 2},
    ],
    "items": [
        {"item_id": "a", "title": "Cup & Saucer", "text": 'Blue. Holds a "pint".', "categories": ["home", "tea"]}
        | {"attributes": ["X"], "row": 0},
        {"item_id": "b", "title": "[REC] AT&T", "row": 1},
    ],
    "users": [{"user_id": "u1", "text": "a cook", "row": 0}],
}


def columns_in(ending: str, write: Callable[[Path, Rows], None]) -> Callable[[Path], ColumnsSource]:
    def write_all(folder: Path) -> ColumnsSource:
        tables = {"events": EVENTS, "wares": WARES, "people": [{"who": "u1", "bio": "a cook"}]}
        for name, rows in tables.items():
            write(folder / f"{name}{ending}", rows)
        uris = {"interactions": "events", "items": "wares", "users": "people"}
        files = {field: str(folder / f"{name}{ending}") for field, name in uris.items()}
        return ColumnsSource(kind="columns", columns=COLUMNS, **files)

    return write_all


def delimited(separator: str) -> Callable[[Path, Rows], None]:
    def write(path: Path, rows: Rows) -> None:
        quoted = [
            ['"{}"'.format(str(cell).replace('"', '""')) if cell else "" for cell in row.values()] for row in rows
        ]
        text = "".join(separator.join(row) + "\n" for row in [list(rows[0]), *quoted])
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())

    return write


def in_parquet(path: Path, rows: Rows) -> None:
    parquet.write_table(pa.Table.from_pylist(rows), path)


def with_positions(folder: Path) -> ColumnsSource:
    put(
        folder / "log.csv", [("user_id", "item_id", "position"), ("u", "a", "0"), ("u", "a", "1"), ("v", "a", "x")], ","
    )
    put_json(folder / "items.jsonl", [{"item_id": "a", "title": "A"}])
    files = {"interactions": str(folder / "log.csv"), "items": str(folder / "items.jsonl")}
    return ColumnsSource(kind="columns", columns=Columns(position="position"), **files)


POSITIONS: dict[str, Rows] = {
    "interactions": [
        {"user_id": "u", "item_id": "a", "timestamp": 0, "row": 0},
        {"user_id": "u", "item_id": "a", "timestamp": 1, "row": 1},
        {"user_id": "v", "item_id": "a", "row": 2},
    ],
    "items": [{"item_id": "a", "title": "A", "row": 0}],
}


CASES = {
    "columns csv": Case(columns_in(".csv", delimited(",")), TOLD),
    "columns csv.gz": Case(columns_in(".csv.gz", delimited(",")), TOLD),
    "columns tsv": Case(columns_in(".tsv", delimited("\t")), TOLD),
    "columns jsonl": Case(columns_in(".jsonl", put_json), TOLD),
    "columns parquet": Case(columns_in(".parquet", in_parquet), TOLD),
    "columns with positions": Case(with_positions, POSITIONS, order_only=True),
}
