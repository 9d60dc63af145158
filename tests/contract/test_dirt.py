"""Kinds of dirt: each counted under its own reason, every good row beside it kept, no user id written as it is."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from rayrec.data.config import CleanConfig, DataConfig, PrivacyConfig
from rayrec.data.dataset import Dataset
from rayrec.data.job import prepare
from rayrec.data.sources.config import Columns, ColumnsSource
from rayrec.data.work import in_process
from tests.synthetic import PLAIN, START_S, generate, write

LOGS = generate(num_users=30, num_items=30, num_interactions=600)
KEY = "RAYREC_TEST_KEY"
ITEM = LOGS.items["item_id"][0].as_py()
NOW = datetime.fromtimestamp(START_S + 100 * 86_400)
GOOD = {"user_id": "user-00000", "item_id": ITEM, "timestamp": START_S + 86_400, "rating": 4.0, "review": None}

Row = dict[str, Any]
# Interactions that are refused, by reason; numbers are written as they are, so that text formats can hold any.
REFUSED: dict[str, list[Row]] = {
    "no user_id": [{"user_id": None}, {"user_id": "  "}],
    "user_id longer than 512 characters": [{"user_id": "u" * 513}],
    "user_id with control characters": [{"user_id": "user\u0007"}],
    "no item_id": [{"item_id": None}, {"item_id": " "}],
    "item_id longer than 512 characters": [{"item_id": "i" * 10_000}],
    "item_id with control characters": [{"item_id": "item\u0001"}],
    "item_id is not among the items": [{"item_id": "never listed"}, {"item_id": "item-"}, {"item_id": "ITEM-0001"}],
    "timestamp missing or not a number": [{"timestamp": None}],
    "timestamp before 1970": [{"timestamp": -5}],
    "timestamp after 2099, is time_unit right?": [{"timestamp": 1 << 33}],
    "timestamp 1000 times too large, in a finer unit than time_unit?": [{"timestamp": START_S * 1000 + 7}],
    "timestamp 1000 times too small, in a coarser unit than time_unit?": [{"timestamp": START_S // 1000}],
    "timestamp after clean.now": [{"timestamp": START_S + 101 * 86_400}],
    "rating is not a finite number": [{"rating": float("inf")}, {"rating": float("nan")}],
}
# Strange but good: late and out of order, a user nobody describes, no rating, a gigantic review.
STRANGE: list[Row] = [
    {"user_id": "ünïcode 用户", "timestamp": START_S + 5},
    {"user_id": "user-00001", "rating": None, "timestamp": START_S + 7},
    {"user_id": "user-00002", "review": "zero gravity " * 10_000, "timestamp": START_S + 9},
]
ITEMS_REFUSED: dict[str, list[Row]] = {
    "no item_id": [{"item_id": None}],
    "no title": [{"title": None}, {"title": " \t"}],
    "item_id with control characters": [{"item_id": "a\u0000b"}],
}


def table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema)


def dirty() -> tuple[pa.Table, pa.Table]:
    """Interactions and items with all of the dirt among the good rows."""
    schema = LOGS.interactions.schema.append(pa.field("review", pa.string()))
    good = LOGS.interactions.append_column("review", pa.nulls(600, pa.string()))
    bad = [GOOD | row for rows in REFUSED.values() for row in rows]
    repeated = good.slice(0, 4)
    strange = table([GOOD | row for row in STRANGE], schema)
    half = len(bad) // 2
    interactions = pa.concat_tables(
        [table(bad[:half], schema), good.slice(0, 300), strange, table(bad[half:], schema), good.slice(300), repeated]
    )
    plain = {"item_id": "new", "title": "New", "text": None, "format": None}
    items = [plain | row for rows in ITEMS_REFUSED.values() for row in rows]
    items += [plain | {"item_id": "gigantic", "text": "word " * 10_000}]
    again = LOGS.items.slice(3, 2).to_pylist()
    items += [again[0], again[1] | {"title": "Another title"}]
    return interactions, pa.concat_tables([LOGS.items, table(items, LOGS.items.schema)])


def parquet_file(rows: pa.Table, stem: Path) -> tuple[str, dict[str, int]]:
    bytes_1 = pa.array([b"\xff\xfe"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 1, bytes_1.buffers())
    row = [broken if field.type == pa.string() else pa.nulls(1, field.type) for field in rows.schema]
    parquet.write_table(pa.concat_tables([rows, pa.table(row, rows.schema)]), f"{stem}.parquet", row_group_size=50)
    return f"{stem}.parquet", {"not UTF-8": 1}


def csv_file(rows: pa.Table, stem: Path) -> tuple[str, dict[str, int]]:
    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if re.search('[",\n\r]', text) else text

    lines = [
        ",".join(rows.column_names),
        *(",".join(cell(value) for value in row.values()) for row in rows.to_pylist()),
    ]
    data = [line.encode() for line in lines]
    data.insert(9, b"\xff\xfe" + b"," * (rows.num_columns - 1))
    data.insert(20, b"too,few")
    Path(f"{stem}.csv").write_bytes(b"\n".join(data) + b"\n")
    return f"{stem}.csv", {"not UTF-8": 1, "wrong number of fields": 1}


def json_lines(rows: pa.Table, stem: Path) -> tuple[str, dict[str, int]]:
    data = [json.dumps(row).encode() for row in rows.to_pylist()]
    data.insert(9, b'{"user_id": "\xff\xfe"}')
    data.insert(20, b'{"user_id": "user-00000", "item')
    Path(f"{stem}.jsonl").write_bytes(b"\n".join(data) + b"\n")
    return f"{stem}.jsonl", {"not UTF-8": 1, "not JSON": 1}


def made(folder: Path, layout: Callable[..., tuple[str, dict[str, int]]], privacy: PrivacyConfig = PLAIN) -> Row:
    """The manifest of the dirty logs in some layout, and the rows of each table that cannot be parsed, by reason."""
    folder.mkdir(exist_ok=True)
    (interactions, lost), (items, lost_items) = (
        layout(rows, folder / name) for name, rows in zip(("events", "items"), dirty(), strict=True)
    )
    source = ColumnsSource(
        kind="columns",
        interactions=interactions,
        items=items,
        columns=Columns(rating="rating", review="review", text="text", categories="format"),
    )
    config = DataConfig(
        source=source, privacy=privacy, clean=CleanConfig(quarantine_limit=0.3, now=NOW, max_text=2_000), buckets=3
    )
    manifest = prepare(config, str(folder / "dataset"), seed=0, provenance={}, run=in_process)
    assert lost == lost_items
    return {**manifest, "lost": lost}


@pytest.mark.parametrize("layout", [parquet_file, csv_file, json_lines])
def test_each_kind_is_counted_and_every_good_row_is_kept(
    layout: Callable[..., tuple[str, dict[str, int]]], tmp_path: Path
) -> None:
    manifest = made(tmp_path, layout)
    counts = manifest["counts"]["interactions"]
    assert counts["quarantined"] == {reason: len(rows) for reason, rows in REFUSED.items()} | manifest["lost"]
    assert counts["filtered"]["exact repeat"] == 4
    assert counts["kept"] == 600 + len(STRANGE)
    assert counts["read"] == counts["kept"] + sum(counts["filtered"].values()) + sum(counts["quarantined"].values())

    items = manifest["counts"]["items"]
    assert items["kept"] == 31
    assert items["filtered"] == {"item told again": 1, "item told again with another text": 1}
    assert items["quarantined"] == {reason: len(rows) for reason, rows in ITEMS_REFUSED.items()} | manifest["lost"]
    assert items["read"] == items["kept"] + 2 + sum(items["quarantined"].values())
    assert manifest["counts"]["texts"]["cut"] == {"interactions": 1, "items": 1}

    dataset = Dataset(str(tmp_path / "dataset"))
    assert pc.max(pc.utf8_length(dataset.catalogue()["text"])).as_py() == 2_000
    assert "ünïcode 用户" in dataset.histories()["user_id"].to_pylist()
    check_quarantine_rows(tmp_path / "dataset", manifest)


def check_quarantine_rows(folder: Path, manifest: Row) -> None:
    """Every refused row lies there with where it is from; one that cannot be parsed only as its place and a hash."""
    rows = [row for path in sorted(folder.glob("quarantine/*")) for row in parquet.read_table(path).to_pylist()]
    quarantined = [manifest["counts"][name]["quarantined"] for name in ("interactions", "items")]
    assert len(rows) == sum(sum(counts.values()) for counts in quarantined)
    for row in rows:
        assert "/" not in row["source"]
        assert row["row"] is not None
        if row["record"] is None:
            in_text = not row["source"].endswith(".parquet")
            assert (in_text, in_text) == (row["length"] is not None, row["sha256"] is not None)
        else:
            assert (row["offset"], row["length"], row["sha256"]) == (None, None, None)
            assert isinstance(json.loads(row["record"]), dict)
    (early,) = [row for row in rows if row["reason"] == "timestamp before 1970"]
    record = json.loads(early["record"])
    assert (record["user_id"], record["item_id"], record["timestamp"]) == ("user-00000", ITEM, -5000)
    assert early["user_id"] == "user-00000"


def test_a_bad_row_lies_where_quarantine_says(tmp_path: Path) -> None:
    made(tmp_path, parquet_file)
    events = parquet.read_table(tmp_path / "events.parquet")
    seen = 0
    for row in parquet.read_table(tmp_path / "dataset" / "quarantine" / "interactions-00000.parquet").to_pylist():
        assert row["source"] == "events.parquet"
        if row["record"] is not None:
            assert json.loads(row["record"])["user_id"] == events["user_id"][row["row"]].as_py()
            seen += 1
    assert seen == sum(len(rows) for rows in REFUSED.values())


def test_more_than_the_limit_is_refused_and_nothing_is_published(tmp_path: Path) -> None:
    source = write(LOGS, tmp_path / "logs")
    unlisted = pa.array(["never listed"] * 30 + LOGS.interactions["item_id"].to_pylist()[30:])
    parquet.write_table(
        LOGS.interactions.set_column(1, "item_id", unlisted), tmp_path / "logs" / "interactions.parquet"
    )
    config = DataConfig(source=source, privacy=PLAIN, clean=CleanConfig(quarantine_limit=0.049))
    with pytest.raises(
        ValueError, match=r"30 of 600 interactions \(5.0%\) .*not among the items: 30.*quarantine_limit"
    ):
        prepare(config, str(tmp_path / "out"), seed=0, provenance={}, run=in_process)
    assert not (tmp_path / "out" / "manifest.json").exists()
    config = config.model_copy(update={"clean": CleanConfig(quarantine_limit=0.05)})
    assert prepare(config, str(tmp_path / "out"), seed=0, provenance={}, run=in_process)["counts"]["users"] == 29


def test_users_appear_nowhere_but_as_pseudonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "k" * 32)
    plain = made(tmp_path / "plain", parquet_file)
    secret = made(tmp_path / "secret", parquet_file, PrivacyConfig(key_env=KEY, redact=False))
    assert secret["counts"] == plain["counts"]
    raw = re.compile(r"user-0000|ünïcode|uuuuuu")
    assert raw.search(everything(tmp_path / "plain" / "dataset"))
    assert not raw.search(everything(tmp_path / "secret" / "dataset"))
    users = set(Dataset(str(tmp_path / "secret" / "dataset")).histories()["user_id"].to_pylist())
    rows = parquet.read_table(tmp_path / "secret" / "dataset" / "quarantine" / "interactions-00000.parquet")
    (early,) = [row for row in rows.to_pylist() if row["reason"] == "timestamp before 1970"]
    assert early["user_id"] in users
    assert json.loads(early["record"])["user_id"] == early["user_id"]


def everything(folder: Path) -> str:
    """All that lies in a dataset, as text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "".join(
        repr(parquet.read_table(path).to_pylist()) if path.suffix == ".parquet" else path.read_text() for path in files
    )
