"""One contract for every source: the same logs in another layout are the same canonical tables."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from pyarrow import parquet

from rayrec.data.config import Columns, ColumnsSource, MovieLensSource
from rayrec.data.sources.listing import SOURCES
from rayrec.data.sources.logs import RAW_INTERACTIONS
from rayrec.data.sources.movielens import GENRES
from rayrec.schema import ITEMS, USERS

RATINGS = [("7", "1", 5, 881250949), ("7", "2", 3, 881250950), ("08", "2", 1, 891717742)]
FILMS = [
    ("1", "Misérables, Les", "1995", ["Drama", "Musical"]),
    ("2", 'The "Net"', "1994", ["Sci-Fi", "Thriller"]),
    ("3", "Good Morning", "1971", []),
]
PEOPLE = [("7", "24", "M", "technician"), ("08", "53", "F", "other")]

EXPECTED_ITEMS = [
    {"item_id": "1", "title": "Les Misérables (1995)", "categories": ["Drama", "Musical"]},
    {"item_id": "2", "title": 'The "Net" (1994)', "categories": ["Sci-Fi", "Thriller"]},
    {"item_id": "3", "title": "Good Morning (1971)", "categories": []},
]
EXPECTED_USERS = [
    {"user_id": "7", "text": "24-year-old male technician"},
    {"user_id": "08", "text": "53-year-old female"},
]

Source = MovieLensSource | ColumnsSource


def recbole(folder: Path) -> Source:
    def write(name: str, header: list[str], rows: list[list[str]]) -> None:
        (folder / name).write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n", encoding="utf-8")

    write(
        "ml-100k.inter",
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        [[str(value) for value in row] for row in RATINGS],
    )
    write(
        "ml-100k.item",
        ["item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"],
        [[item, title, year, " ".join(genres) or "unknown"] for item, title, year, genres in FILMS],
    )
    write(
        "ml-100k.user",
        ["user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"],
        [[*person, "85711"] for person in PEOPLE],
    )
    return MovieLensSource(uri=str(folder))


def grouplens(folder: Path) -> Source:
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    items = ""
    for item, title, year, genres in FILMS:
        flags = ["1" if genre in (genres or ["unknown"]) else "0" for genre in GENRES]
        items += "|".join([item, f"{title} ({year})", f"01-Jan-{year}", "", "http://us.imdb.com/x", *flags]) + "\n"
    (folder / "u.item").write_text(items, encoding="latin-1")
    (folder / "u.user").write_text("".join("|".join([*person, "85711"]) + "\n" for person in PEOPLE))
    return MovieLensSource(uri=str(folder))


def plain() -> dict[str, list[dict[str, object]]]:
    return {
        "ratings": [{"who": user, "what": item, "stars": rating, "when": time} for user, item, rating, time in RATINGS],
        "items": [{"what": row["item_id"], "name": row["title"], "tags": row["categories"]} for row in EXPECTED_ITEMS],
        "users": [{"who": row["user_id"], "about": row["text"]} for row in EXPECTED_USERS],
    }


def columns_source(folder: Path, ending: str) -> Source:
    return ColumnsSource(
        kind="columns",
        interactions=str(folder / f"ratings{ending}"),
        items=str(folder / f"items{ending}"),
        users=str(folder / f"users{ending}"),
        columns=Columns(
            user_id="who",
            item_id="what",
            timestamp="when",
            rating="stars",
            title="name",
            categories="tags",
            user_text="about",
        ),
    )


def parquet_files(folder: Path) -> Source:
    for name, rows in plain().items():
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return columns_source(folder, ".parquet")


def json_lines(folder: Path) -> Source:
    for name, rows in plain().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return columns_source(folder, ".jsonl")


def compressed_csv(folder: Path) -> Source:
    def cell(value: object) -> str:
        text = "|".join(value) if isinstance(value, list) else str(value)
        return '"' + text.replace('"', '""') + '"' if '"' in text else text

    for name, rows in plain().items():
        lines = [",".join(rows[0]), *(",".join(cell(value) for value in row.values()) for row in rows)]
        (folder / f"{name}.csv.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return columns_source(folder, ".csv.gz")


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("layout", [recbole, grouplens, parquet_files, json_lines, compressed_csv])
def test_every_layout_gives_the_same_canonical_tables(layout: Callable[[Path], Source], tmp_path: Path) -> None:
    source = layout(tmp_path)
    logs = SOURCES[source.kind](source)
    interactions = pa.concat_tables(ray.get(logs.interactions.to_arrow_refs()))
    assert interactions.schema.equals(RAW_INTERACTIONS)
    found = sorted(interactions.to_pylist(), key=lambda row: row["timestamp"])
    assert found == [
        {"user_id": user, "item_id": item, "timestamp": time * 1000, "rating": float(rating), "event": None}
        for user, item, rating, time in RATINGS
    ]
    assert logs.items.column_names == ITEMS.names
    nothing = {"text": None, "attributes": None}
    found_items = [row | {"categories": row["categories"] or []} for row in logs.items.to_pylist()]
    assert found_items == [row | nothing for row in EXPECTED_ITEMS]
    assert logs.users.select(USERS.names).to_pylist() == EXPECTED_USERS
