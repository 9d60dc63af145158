"""A user is forgotten: nothing of that user is found any more, everything of everybody else is as it was."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from rayrec.data import job
from rayrec.data.config import DataConfig, PrivacyConfig
from rayrec.data.dataset import Dataset
from rayrec.data.files import Parquet
from rayrec.data.forget import forget
from rayrec.data.scan import Who, scan
from rayrec.data.sources.columns import read_columns
from rayrec.data.sources.logs import LogTable
from rayrec.data.work import in_process
from rayrec.privacy import Privacy, pseudonym
from rayrec.schema import RAW_IMPRESSIONS, TRIPLES
from rayrec.storage import fingerprint, verify
from tests.contract.test_prepare import KilledError, Killer
from tests.synthetic import START_S, SyntheticLogs, generate, write
from tests.versions import FIRST_NEW_S, half

KEY = b"k" * 32
KEYED = Privacy(KEY, False, ())
LOGS = generate(num_users=40, num_items=50, num_interactions=1600)
USER, OTHER = LOGS.users.filter(pc.is_valid(LOGS.users["about"]))["user_id"].to_pylist()[3:5]
NAME = pseudonym(USER, KEY)
WHO = Who(USER, NAME)
IDS = LOGS.items["item_id"].to_pylist()
BAD_ROWS = [(USER, "no such item"), (OTHER, "no such item"), (USER, "nor this one")]
SHOWN = [
    {
        "impression_id": f"{user}-{time}"[5:],
        "user_id": user,
        "timestamp": time,
        "item_ids": IDS[:3],
        "clicked": [True] * 3,
    }
    for user in (USER, OTHER)
    for time in (1_704_067_200_000, 1_704_067_300_000)
]
FACTS = [
    (f"user:{USER}", "friend", f"user:{OTHER}"),
    (f"user:{OTHER}", "friend", f"user:{USER}"),
    (f"user:{OTHER}", "likes", f"item:{IDS[0]}"),
    (f"user:{USER}", "", "item:without a relation"),
]


def same(block: pa.Table) -> pa.Table:
    return block


def prepared(logs: SyntheticLogs, folder: Path, without: str | None = None, **settings: Any) -> Dataset:
    """A dataset with quarantine, impressions and triples, of all users or of all but one."""
    bad = pa.Table.from_pylist(
        [{"user_id": user, "item_id": item, "timestamp": START_S, "rating": 3} for user, item in BAD_ROWS],
        logs.interactions.schema,
    )
    told = replace(logs, interactions=pa.concat_tables([logs.interactions, bad]))
    shown, facts = SHOWN, FACTS
    if without is not None:
        kept = {
            name: getattr(told, name).filter(pc.not_equal(getattr(told, name)["user_id"], without))
            for name in ("interactions", "users")
        }
        told = replace(told, **kept)
        shown = [row for row in SHOWN if row["user_id"] != without]
        facts = [fact for fact in FACTS if f"user:{without}" not in fact]
    source = write(told, folder / "logs")
    parquet.write_table(pa.Table.from_pylist(shown, RAW_IMPRESSIONS), folder / "logs" / "shown.parquet")
    rows = [dict(zip(TRIPLES.names, fact, strict=True)) for fact in facts]
    parquet.write_table(pa.Table.from_pylist(rows, TRIPLES), folder / "logs" / "facts.parquet")
    tables = [LogTable((f"{folder}/logs/{name}.parquet",), Parquet(), same) for name in ("shown", "facts")]
    found = replace(read_columns(source), impressions=(tables[0],), triples=(tables[1],))
    privacy = PrivacyConfig(key_env="RAYREC_TEST_KEY", redact=False)
    config = DataConfig(source=source, **{"privacy": privacy, "buckets": 3, "history_length": 8, **settings})
    config = config.model_copy(update={"clean": config.clean.model_copy(update={"quarantine_limit": 1.0})})
    job.prepare(config, f"{folder}/dataset", seed=0, provenance={"code": "test"}, run=in_process, logs=found)
    return Dataset(f"{folder}/dataset")


@dataclass(frozen=True)
class Case:
    """A dataset, the same without a user, what forget() said, and a dataset of logs without that user."""

    old: Dataset
    new: Dataset
    said: dict[str, Any]
    never: Dataset


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYREC_TEST_KEY", KEY.decode())
        yield


@pytest.fixture(scope="module")
def case(key: None, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("forget")
    old = prepared(LOGS, folder / "old")
    said = forget(old.uri, f"{folder}/new/dataset", USER, privacy=KEYED, run=in_process)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "split_cut_offs", lambda *_: old.cutoffs)
        never = prepared(LOGS, folder / "never", without=USER)
    return Case(old, Dataset(f"{folder}/new/dataset"), said, never)


def test_nothing_of_the_user_is_left(case: Case) -> None:
    verify(case.new.uri, "dataset")
    here = Path(case.new.uri)
    every = [path for path in here.rglob("*") if path.is_file()]
    for path in every:
        told = path.read_bytes()
        if path.suffix == ".parquet":
            told = json.dumps(parquet.read_table(path).to_pylist(), default=str).encode()
        assert NAME.encode() not in told, path
        assert USER.encode() not in told, path
    assert case.said["found"] == 0
    assert case.said["files"] == len(every)
    assert case.said["rows"] > 100
    assert not (here / "_work").exists()


def test_the_summary_tells_what_was_removed(case: Case) -> None:
    removed = case.said["removed"]
    assert set(removed) == {
        *("histories", "users", "impressions", "triples", "quarantine"),
        *(f"rows/{split}" for split in ("train", "valid", "test") if rows_of(case.old, f"rows/{split}", NAME)),
    }
    assert (removed["impressions"], removed["triples"], removed["quarantine"]) == (2, 2, 3)
    before, after = case.old.manifest, case.new.manifest
    assert after["forgotten"] == 1
    assert after["ancestors"] == [fingerprint(case.old.uri, "dataset")]
    assert after["counts"]["users"] == before["counts"]["users"] - 1
    for split, counts in after["counts"]["rows"].items():
        rows = case.new.rows(split)
        targets = pc.sum(pc.list_value_length(rows["items"])).as_py() - pc.sum(rows["first_target"]).as_py()
        assert counts == {"rows": len(rows), "targets": targets}
    assert after["counts"]["interactions"] == before["counts"]["interactions"]


def rows_of(dataset: Dataset, folder: str, user: str) -> int:
    return sum(dataset.open(path).read()["user_id"].to_pylist().count(user) for path in dataset.files(folder))


def test_everything_of_everybody_else_is_as_it_was(case: Case) -> None:
    copied = 0
    for path, entry in case.old.manifest["files"].items():
        if path.startswith("item_stats/"):
            continue
        before = case.old.open(path).read().to_pylist()
        after = case.new.open(path).read().to_pylist() if path in case.new.manifest["files"] else []
        assert after == [row for row in before if not any(text in str(row) for text in (NAME, USER))]
        if after == before:
            assert case.new.manifest["files"][path] == entry
            copied += 1
    assert 0 < copied < len(case.old.manifest["files"])


def test_it_is_what_a_job_without_the_user_makes(case: Case) -> None:
    assert case.new.item_stats() == case.never.item_stats()
    assert case.new.item_stats() != case.old.item_stats()
    assert case.new.histories() == case.never.histories()
    for folder in ("rows/train", "rows/valid", "rows/test", "users", "impressions", "triples"):
        tables = [
            [row for path in each.files(folder) for row in each.open(path).read().to_pylist()]
            for each in (case.new, case.never)
        ]
        assert tables[0] == tables[1]
    assert case.new.manifest["counts"]["rows"] == case.never.manifest["counts"]["rows"]


PLANTED = {
    "rows/train/part-00000.parquet": ("profile", f"a friend of {NAME}."),
    "users/part-00001.parquet": ("text", f"as {USER} said"),
    "histories/part-00002.parquet": ("user_id", USER),
    "items/part-00000.parquet": ("attributes", ["x", NAME]),
    "triples/part-00000.parquet": ("tail", f"user:{NAME}"),
    "quarantine/interactions-00000-00000.parquet": ("record", json.dumps({"user_id": NAME})),
    "manifest.json": ("", f'{{"logs": "/logs/{USER}.csv"}}'),
}


@pytest.mark.parametrize("path", PLANTED)
def test_the_search_finds_what_is_planted(path: str, case: Case, tmp_path: Path) -> None:
    column, value = PLANTED[path]
    target = tmp_path / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not column:
        target.write_text(str(value))
    else:
        table = case.new.open(path).read()
        place = table.column_names.index(column)
        values = [*table[column].to_pylist()[:-1], value]
        parquet.write_table(table.set_column(place, column, pa.array(values, table.schema.types[place])), target)
    assert scan(str(tmp_path), WHO, in_process)["where"] == {path: 1}


def test_what_others_say_of_the_user_stops_the_publishing(tmp_path: Path) -> None:
    abouts = [f"a friend of {USER}" if user == OTHER else None for user in LOGS.users["user_id"].to_pylist()]
    users = LOGS.users.set_column(1, "about", pa.array(abouts, pa.string()))
    old = prepared(replace(LOGS, users=users), tmp_path / "old")
    with pytest.raises(ValueError, match=r"still named in .*rows/train/part-0000") as refused:
        forget(old.uri, f"{tmp_path}/new", USER, privacy=KEYED, run=in_process)
    assert USER not in str(refused.value)
    assert NAME not in str(refused.value)
    assert not (tmp_path / "new" / "manifest.json").exists()


def test_files_called_by_the_user_stop_the_publishing(tmp_path: Path) -> None:
    (tmp_path / f"of {USER}").mkdir()
    old = prepared(LOGS, tmp_path / f"of {USER}")
    with pytest.raises(ValueError, match="names the user, and so would the new one"):
        forget(old.uri, f"{tmp_path}/new", USER, privacy=KEYED, run=in_process)
    assert not (tmp_path / "new" / "manifest.json").exists()


def test_killed_and_called_again_it_is_the_same(case: Case, tmp_path: Path) -> None:
    whole, stray = Killer(), tmp_path / "whole" / "users" / "part-00077.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_bytes((Path(case.old.uri) / "users" / "part-00000.parquet").read_bytes())
    forget(case.old.uri, f"{tmp_path}/whole", USER, privacy=KEYED, run=whole)
    assert Dataset(f"{tmp_path}/whole").manifest == case.new.manifest
    for after in range(0, len(whole.titles), 7):
        with pytest.raises(KilledError):
            forget(case.old.uri, f"{tmp_path}/{after}", USER, privacy=KEYED, run=Killer(after))
        assert not (tmp_path / str(after) / "manifest.json").exists()
        again = Killer()
        said = forget(case.old.uri, f"{tmp_path}/{after}", USER, privacy=KEYED, run=again)
        assert said == case.said
        assert Dataset(f"{tmp_path}/{after}").manifest == case.new.manifest
        fresh = [title for title in again.titles if title in ("forget", "forget-looking")]
        assert fresh == [title for title in whole.titles[after:] if title in ("forget", "forget-looking")]
    once_more = Killer()
    assert forget(case.old.uri, f"{tmp_path}/whole", USER, privacy=KEYED, run=once_more) == case.said
    assert set(once_more.titles) == {"forget-looking", "forget: looking", "forget: scanning"}
    assert not (tmp_path / "whole" / "_work").exists()


def test_refusals_name_nobody(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds nothing of this user") as refused:
        forget(case.old.uri, f"{tmp_path}/new", "user-99999", privacy=KEYED, run=in_process)
    assert "99999" not in str(refused.value)
    assert not any((tmp_path / "new").glob("*"))
    other = Privacy(b"q" * 32, False, ())
    with pytest.raises(ValueError, match="made with another key"):
        forget(case.old.uri, f"{tmp_path}/new", USER, privacy=other, run=in_process)
    with pytest.raises(ValueError, match="holds another dataset; expected none"):
        forget(case.old.uri, case.never.uri, USER, privacy=KEYED, run=in_process)
    with pytest.raises(ValueError, match="holds a version without another user than this one") as refused:
        forget(case.old.uri, case.new.uri, OTHER, privacy=KEYED, run=in_process)
    assert OTHER not in str(refused.value)
    with pytest.raises(ValueError, match="holds nothing of this user"):
        forget(case.old.uri, case.new.uri, "user-99999", privacy=KEYED, run=in_process)
    verify(case.new.uri, "dataset")
    with pytest.raises(ValueError, match="nothing is published"):
        forget(f"{tmp_path}/nowhere", f"{tmp_path}/new", USER, privacy=KEYED, run=in_process)


def test_a_version_without_a_user_is_that_of_no_logs(case: Case) -> None:
    assert "logs" in case.old.manifest
    assert "logs" not in case.new.manifest


def test_versions_go_on_from_what_is_left_and_are_forgotten_in_too(tmp_path: Path) -> None:
    first = prepared(half(LOGS, START_S, FIRST_NEW_S), tmp_path / "first")
    forget(first.uri, f"{tmp_path}/left", USER, privacy=KEYED, run=in_process)
    later = half(LOGS, FIRST_NEW_S)
    second = prepared(later, tmp_path / "second", without=USER, previous=f"{tmp_path}/left")
    assert scan(second.uri, WHO, in_process)["found"] == 0
    assert second.manifest["version"] == 2
    with_user = prepared(later, tmp_path / "with", previous=first.uri)
    forget(with_user.uri, f"{tmp_path}/both", USER, privacy=KEYED, run=in_process)
    with pytest.raises(ValueError, match="holds another dataset"):
        forget(first.uri, with_user.uri, USER, privacy=KEYED, run=in_process)
    both = Dataset(f"{tmp_path}/both")
    assert len(both.manifest["ancestors"]) == 2
    assert both.item_stats() == second.item_stats()
    assert np.array_equal(both.histories()["user_id"], second.histories()["user_id"])
    assert both.manifest["counts"]["rows"] == second.manifest["counts"]["rows"]
    forget(both.uri, f"{tmp_path}/two", OTHER, privacy=KEYED, run=in_process)
    assert Dataset(f"{tmp_path}/two").manifest["forgotten"] == 2
