"""Personal data planted in every text of the logs, and raw user ids, reach no file, log or error message.

Looked at are the bytes of all files below the dataset, scratch files among them, and what they hold once decoded. The
same search finds all of it where nothing is redacted.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rayrec.data.config import CleanConfig, DataConfig, PrivacyConfig
from rayrec.data.job import prepare
from rayrec.data.sources.config import Columns, ColumnsSource
from rayrec.data.work import Result, Task, in_process
from tests.synthetic import generate

KEY = "RAYREC_TEST_KEY"
USER = "rawuser-"
LOGS = generate(num_users=30, num_items=30, num_interactions=600)

# What is planted, and what of it tells that it came through, once spaces and dashes are gone.
PLANTED = {
    "email": ("write to anna.geheim@planted-mail.example today", ["anna.geheim", "plantedmail"]),
    "phone": ("call +49 30 23125678 or +1 (212) 736-5000", ["23125678", "7365000"]),
    "card": ("card 4111 1111 1111 1111 paid", ["411111111111"]),
    "iban": ("to DE89 3704 0044 0532 0130 00 please", ["37040044"]),
    "ip": ("from 198.51.100.77 last night", ["198.51.100.77"]),
    "url": ("see https://shop.example/cb?token=s3cr3tTokenX", ["s3cr3tTokenX"]),
    "id": ("BSN 111222333 is mine", ["111222333"]),
}
ALL = "; ".join(text for text, _ in PLANTED.values())
NEEDLES = [needle for _, needles in PLANTED.values() for needle in needles]

Row = dict[str, Any]


def rename(user: str) -> str:
    return user.replace("user-", USER)


def interactions() -> tuple[list[Row], list[Row]]:
    """Good rows and bad ones; personal data in each review, in bad rows in all other texts as well."""
    good = LOGS.interactions.to_pylist()
    texts = [text for text, _ in PLANTED.values()]
    for place, row in enumerate(good):
        row |= {"user_id": rename(row["user_id"]), "event": f"bought, {ALL}", "review": texts[place % len(texts)]}
    base = good[0] | {"review": ALL, "event": ALL}
    bad = [
        {"user_id": f"{USER}minus", "timestamp": -5},
        {"user_id": f"{USER}late", "timestamp": 1 << 33},
        {"user_id": f"{USER}rated", "rating": float("inf")},
        {"user_id": f"{USER}lost", "item_id": f"nothing {ALL}"},
        {"user_id": f"{USER}bell\u0007"},
        {"user_id": USER + "x" * 600},
        {"user_id": None},
    ]
    return good, [base | row for row in bad]


def items() -> tuple[list[Row], list[Row]]:
    good = LOGS.items.to_pylist()
    for row in good:
        row |= {"title": f"{row['title']} {ALL}", "text": ALL, "format": f"{ALL}|film", "seller": ALL}
    return good, [good[0] | {"item_id": None}, good[1] | {"item_id": "blank", "title": " "}]


def users() -> tuple[list[Row], list[Row]]:
    good = [{"user_id": rename(user), "about": ALL} for user in LOGS.users["user_id"].to_pylist()]
    return good, [{"user_id": None, "about": ALL}, {"user_id": f"{USER}\u0001", "about": ALL}]


def parquet_file(rows: list[Row], path: Path, torn: bool) -> str:
    table = pa.Table.from_pylist(rows)
    if torn:
        broken = pa.array([f"{USER}torn {ALL}".encode() + b"\xff"], pa.binary())
        row = [
            pa.Array.from_buffers(pa.string(), 1, broken.buffers()) if pa.types.is_string(kind) else pa.nulls(1, kind)
            for kind in table.schema.types
        ]
        table = pa.concat_tables([table, pa.table(row, table.schema)])
    parquet.write_table(table, f"{path}.parquet")
    return f"{path}.parquet"


def csv_file(rows: list[Row], path: Path, torn: bool) -> str:
    def cell(value: object) -> str:
        return "" if value is None else '"' + str(value).replace('"', '""') + '"'

    lines = [",".join(rows[0]), *(",".join(cell(value) for value in row.values()) for row in rows)]
    data = [line.encode() for line in lines]
    if torn:
        data[20:20] = [f"{USER}torn,{ALL}".encode(), f'{USER}torn,"{ALL}'.encode() + b"\xff" * 9 + b'"']
    Path(f"{path}.csv").write_bytes(b"\n".join(data) + b"\n")
    return f"{path}.csv"


def json_lines(rows: list[Row], path: Path, torn: bool) -> str:
    data = [json.dumps(row).encode() for row in rows]
    if torn:
        half = f'{{"user_id": "{USER}torn", "review": "{ALL}'.encode()
        data[20:20] = [half, half + b'\xff"}', f'["{USER}torn", "{ALL}"]'.encode()]
    Path(f"{path}.jsonl").write_bytes(b"\n".join(data) + b"\n")
    return f"{path}.jsonl"


def json_array(rows: list[Row], path: Path, torn: bool) -> str:
    Path(f"{path}.json").write_text(json.dumps([*rows, f"{USER}torn {ALL}"] if torn else rows))
    return f"{path}.json"


LAYOUTS = [parquet_file, csv_file, json_lines, json_array]


@dataclass
class Seen:
    """All that a job wrote, by file, scratch files that are removed again among them, and what it said."""

    files: dict[str, str] = field(default_factory=dict)
    said: str = ""

    def holding(self, needle: str) -> list[str]:
        """Names of the files, or "said", in which something is found."""
        return [name for name, text in {**self.files, "said": self.said}.items() if bare(needle) in text]


def bare(text: str) -> str:
    return text.translate(str.maketrans("", "", " -"))


def decoded(path: Path) -> str:
    """The bytes of a file, and all that it tells once they are decoded."""
    data = path.read_bytes()
    told = [data.decode("latin-1")]
    if path.suffix == ".parquet":
        table, about = parquet.read_table(path), parquet.read_metadata(path)
        groups = [about.row_group(group).to_dict() for group in range(about.num_row_groups)]
        told += [repr(table.to_pylist()), repr(table.schema), repr(about.metadata), repr(groups)]
    elif path.suffix == ".slices":
        tables = int(np.frombuffer(data, "<i8", 1)[0]) // 8 - 1
        offsets = np.frombuffer(data, "<i8", tables + 1).tolist()
        for start, end in pairwise(offsets):
            if end > start:
                for batch in pa.ipc.open_stream(data[start:end]):
                    told.append(repr(batch.to_pylist()))
                    told += [repr(column.dictionary.to_pylist()) for column in batch if hasattr(column, "dictionary")]
    return bare("".join(told))


def job(
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    layout: Callable[[list[Row], Path, bool], str],
    privacy: PrivacyConfig,
    bad_rows: bool = True,
    limit: float = 0.5,
) -> tuple[Seen, ValueError | None]:
    """What a job on the logs wrote and said, and with what it ended."""
    (folder / "logs").mkdir()
    uris = {
        name: layout(good + bad if bad_rows else good, folder / "logs" / name, bad_rows)
        for name, (good, bad) in {"interactions": interactions(), "items": items(), "users": users()}.items()
    }
    columns = Columns(
        rating="rating",
        event="event",
        review="review",
        text="text",
        categories="format",
        attributes="seller",
        user_text="about",
    )
    source = ColumnsSource(kind="columns", columns=columns, **uris)
    config = DataConfig(source=source, privacy=privacy, clean=CleanConfig(quarantine_limit=limit), buckets=2)
    seen, out = Seen(), folder / "dataset"

    def look() -> None:
        for path in out.rglob("*"):
            if path.is_file() and str(path) not in seen.files:
                seen.files[str(path)] = bare(str(path.relative_to(out))) + decoded(path)

    def looking(function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
        yield from in_process(function, tasks, title)
        look()

    ended = None
    try:
        prepare(config, str(out), seed=0, provenance={}, run=looking)
    except ValueError as error:
        ended = error
    look()
    seen.said = bare("".join(capfd.readouterr()) + repr(ended) + repr(getattr(ended, "__context__", None)))
    return seen, ended


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> PrivacyConfig:
    monkeypatch.setenv(KEY, "k" * 32)
    return PrivacyConfig(key_env=KEY)


@pytest.mark.parametrize("bad_rows", [True, False], ids=["quarantine", "all good"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_of_it_is_written_or_said(
    layout: Callable[..., str],
    bad_rows: bool,
    hidden: PrivacyConfig,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen, ended = job(tmp_path, capfd, layout, hidden, bad_rows)
    assert ended is None
    assert any("/quarantine/" in name for name in seen.files) is bad_rows
    assert {name for name in seen.files if name.endswith(".slices")}
    assert {needle: seen.holding(needle) for needle in [*NEEDLES, USER] if seen.holding(needle)} == {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_refusal_says_nothing_of_it(
    layout: Callable[..., str], hidden: PrivacyConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen, ended = job(tmp_path, capfd, layout, hidden, limit=0)
    assert "quarantine_limit allows 0.0%" in str(ended)
    assert any("/quarantine/" in name for name in seen.files)
    assert {needle: seen.holding(needle) for needle in [*NEEDLES, USER] if seen.holding(needle)} == {}


def torn_gzip(rows: list[Row], path: Path, _: bool) -> str:
    plain = Path(csv_file(rows, path, torn=False))
    Path(f"{path}.csv.gz").write_bytes(gzip.compress(plain.read_bytes())[:-20])
    return f"{path}.csv.gz"


def torn_array(rows: list[Row], path: Path, _: bool) -> str:
    Path(f"{path}.json").write_text(json.dumps(rows)[:-20])
    return f"{path}.json"


@pytest.mark.parametrize("layout", [torn_gzip, torn_array])
def test_an_unreadable_file_is_named_without_what_it_holds(
    layout: Callable[..., str], hidden: PrivacyConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen, ended = job(tmp_path, capfd, layout, hidden)
    assert f"{tmp_path}/logs/" in str(ended)
    assert {needle: seen.holding(needle) for needle in [*NEEDLES, USER] if seen.holding(needle)} == {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_search_finds_what_is_left_as_it_is(
    layout: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen, ended = job(tmp_path, capfd, layout, PrivacyConfig(user_ids="plain", redact=False))
    assert ended is None
    for needle in NEEDLES:
        found = seen.holding(needle)
        for folder in ("/items/", "/users/", "/quarantine/", ".slices"):
            assert any(folder in name for name in found), (needle, folder)
    for folder in ("/histories/", "/rows/train/", "/users/", "/quarantine/", ".slices"):
        assert any(folder in name for name in seen.holding(USER)), folder
