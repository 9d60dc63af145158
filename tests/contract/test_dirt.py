"""Kinds of dirt: each counted under its own reason, every good row beside it kept, no user id written as it is."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from rayrec.data.config import CleanConfig, DataConfig, PrivacyConfig
from rayrec.data.dataset import Dataset
from rayrec.data.job import prepare
from rayrec.data.sources.config import Columns, ColumnsSource
from rayrec.data.work import in_process
from tests.dirt import (
    CLEAN,
    CSV_LINES,
    FILTERED,
    ITEM,
    ITEMS_FILTERED,
    ITEMS_REFUSED,
    ITEMS_STRANGE,
    JSON_LINES,
    LOGS,
    REFUSED,
    STRANGE,
    USERS_FILTERED,
    USERS_REFUSED,
    Row,
    counts_of,
    dirty,
    planted,
)
from tests.synthetic import PLAIN, START_S, write

KEY = "RAYREC_TEST_KEY"

Layout = Callable[[pa.Table, Path], tuple[str, dict[str, int]]]


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
    return lines_file([line.encode() for line in lines], CSV_LINES, Path(f"{stem}.csv"))


def json_lines(rows: pa.Table, stem: Path) -> tuple[str, dict[str, int]]:
    return lines_file([json.dumps(row).encode() for row in rows.to_pylist()], JSON_LINES, Path(f"{stem}.jsonl"))


def lines_file(data: list[bytes], dirt: Sequence[tuple[bytes, str | None]], path: Path) -> tuple[str, dict[str, int]]:
    """The lines with those of dirt among them."""
    for place, (line, _) in enumerate(dirt):
        data.insert(9 + 3 * place, line)
    path.write_bytes(b"\n".join(data) + b"\n")
    return str(path), dict(Counter(reason for _, reason in dirt if reason is not None))


def made(folder: Path, layout: Layout, privacy: PrivacyConfig = PLAIN) -> Row:
    """The manifest of the dirty logs in some layout, and the rows of each table that cannot be parsed, by reason."""
    folder.mkdir(exist_ok=True)
    written = {name: layout(rows, folder / name) for name, rows in dirty().items()}
    columns = Columns(rating="rating", review="review", text="text", categories="format", user_text="about")
    source = ColumnsSource(kind="columns", columns=columns, **{name: uri for name, (uri, _) in written.items()})
    config = DataConfig(source=source, privacy=privacy, clean=CLEAN, buckets=3)
    manifest = prepare(config, str(folder / "dataset"), seed=0, provenance={}, run=in_process)
    (lost,) = {tuple(sorted(lost.items())) for _, lost in written.values()}
    return {**manifest, "lost": dict(lost)}


def test_there_are_more_than_twenty_kinds() -> None:
    rows = [*REFUSED, *FILTERED, *STRANGE, *ITEMS_REFUSED, *ITEMS_FILTERED, *ITEMS_STRANGE]
    rows += [*USERS_REFUSED, *USERS_FILTERED]
    kinds = {dirt.what for dirt in rows} | {line for line, _ in [*CSV_LINES, *JSON_LINES]}
    assert len(kinds) == len(rows) + len(CSV_LINES) + len(JSON_LINES) - 1  # both formats have an empty line
    assert len(rows) >= 20


@pytest.mark.parametrize("layout", [parquet_file, csv_file, json_lines])
def test_each_kind_is_counted_and_every_good_row_is_kept(layout: Layout, tmp_path: Path) -> None:
    manifest = made(tmp_path, layout)
    counts, lost = manifest["counts"], manifest["lost"]
    for name, refused, filtered, kept in (
        ("interactions", REFUSED, FILTERED, 600 + 25 + len(STRANGE)),
        ("items", ITEMS_REFUSED, ITEMS_FILTERED, 31),
        ("user_records", USERS_REFUSED, USERS_FILTERED, 30),
    ):
        told = counts[name]
        assert told["quarantined"] == counts_of(refused) | lost
        assert {reason: count for reason, count in told["filtered"].items() if count} == counts_of(filtered)
        assert told["kept"] == kept
        assert told["read"] == kept + sum(told["filtered"].values()) + sum(told["quarantined"].values())
        rows = len(dirty()[name.replace("user_records", "users")])
        assert told["read"] == rows + sum(lost.values())
    assert counts["texts"]["cut"] == {"interactions": 1, "items": 1}

    dataset = Dataset(str(tmp_path / "dataset"))
    assert pc.max(pc.utf8_length(dataset.catalogue()["text"])).as_py() == 2_000
    times = {row["user_id"]: row["times"] for row in dataset.histories().to_pylist()}
    assert {"ünïcode 用户", "endless"} <= times.keys()
    assert "bot" not in times
    assert all(row == sorted(row) for row in times.values())
    assert times["user-00003"][0] == (START_S + 3) * 1000
    check_quarantine_rows(tmp_path / "dataset", manifest)


def check_quarantine_rows(folder: Path, manifest: Row) -> None:
    """Every refused row lies there with where it is from; one that cannot be parsed only as its place and a hash."""
    rows = [row for path in sorted(folder.glob("quarantine/*")) for row in parquet.read_table(path).to_pylist()]
    quarantined = [manifest["counts"][name]["quarantined"] for name in ("interactions", "items", "user_records")]
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
    events = parquet.read_table(tmp_path / "interactions.parquet")
    seen = 0
    for row in parquet.read_table(tmp_path / "dataset" / "quarantine" / "interactions-00000-00000.parquet").to_pylist():
        assert row["source"] == "interactions.parquet"
        if row["record"] is not None:
            assert json.loads(row["record"])["user_id"] == events["user_id"][row["row"]].as_py()
            seen += 1
    assert seen == len(planted(REFUSED))


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
    rows = parquet.read_table(tmp_path / "secret" / "dataset" / "quarantine" / "interactions-00000-00000.parquet")
    (early,) = [row for row in rows.to_pylist() if row["reason"] == "timestamp before 1970"]
    assert early["user_id"] in users
    assert json.loads(early["record"])["user_id"] == early["user_id"]


def everything(folder: Path) -> str:
    """All that lies in a dataset, as text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "".join(
        repr(parquet.read_table(path).to_pylist()) if path.suffix == ".parquet" else path.read_text() for path in files
    )
