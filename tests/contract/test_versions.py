"""A new version from the previous one and new days, beside one job over all logs that is split at the same moments."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.data import job
from rayrec.data.config import DataConfig
from rayrec.data.dataset import Dataset
from rayrec.data.split import held_out_codes, item_order
from rayrec.data.work import Run
from rayrec.profiles import profile_texts
from rayrec.storage import fingerprint, verify
from rayrec.terms import terms_of
from tests.contract.test_prepare import KilledError, Killer, backwards
from tests.synthetic import PLAIN, START_S, write
from tests.versions import (
    DAY_S,
    LOGS,
    NEW_ITEMS,
    RETOLD,
    TOLD_TWICE,
    Instalments,
    half,
    instalments,
    made,
    made_at_once,
)

Case = tuple[Instalments, Dataset, Dataset, Dataset]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The logs, the first version, the second, and what one job makes of both instalments."""
    folder, logs = tmp_path_factory.mktemp("versions"), instalments()
    first = made(logs.first, folder / "first")
    second = made(logs.second, folder / "second", previous=first.uri)
    with pytest.MonkeyPatch.context() as patch:
        whole = made_at_once(logs.whole, folder / "whole", second.cutoffs, patch)
    return logs, first, second, whole


def ids_of(dataset: Dataset) -> list[str]:
    return list(dataset.catalogue()["item_id"].to_pylist())


def named(dataset: Dataset, items: Sequence[int]) -> list[str]:
    ids = ids_of(dataset)
    return [ids[item] for item in items]


def histories_of(dataset: Dataset) -> dict[str, list[tuple[Any, ...]]]:
    """Item id, time, like and rating of each event, by user."""
    ids = ids_of(dataset)
    return {
        row["user_id"]: [(ids[item], *rest) for item, *rest in zip(*(row[name] for name in list(row)[1:]), strict=True)]
        for row in dataset.histories().to_pylist()
    }


def train_files(dataset: Dataset, new: bool) -> list[dict[str, Any]]:
    paths = [path for path in dataset.files("rows/train") if ("-v" not in path) == new]
    assert paths
    return [row for path in paths for row in dataset.open(path).read().to_pylist()]


def test_items_keep_their_index_and_new_ones_follow_in_the_order_of_their_hash(case: Case) -> None:
    _, first, second, _ = case
    old, every = ids_of(first), ids_of(second)
    assert every[: len(old)] == old
    fresh = pa.array(every[len(old) :])
    assert set(fresh.to_pylist()) == set(LOGS.items["item_id"].to_pylist()[:NEW_ITEMS])
    assert (np.diff(item_order(fresh, 0).astype(object)) > 0).all()
    assert (np.diff(item_order(pa.array(every), 0).astype(object)) < 0).any()
    counts = second.manifest["counts"]["items"]
    assert counts == {
        "read": NEW_ITEMS + RETOLD,
        "kept": NEW_ITEMS,
        "filtered": {"item told again": 0, "item told again with another text": RETOLD},
        "quarantined": {},
    }


def test_texts_and_terms_are_those_of_one_job_over_all_items(case: Case) -> None:
    *_, second, whole = case
    by_id = [table.sort_by("item_id") for table in (second.catalogue(), whole.catalogue())]
    assert by_id[0] == by_id[1]
    assert sum(title.startswith("Another orchard") for title in by_id[0]["title"].to_pylist()) == RETOLD


def test_the_new_days_alone_are_split(case: Case) -> None:
    _, first, second, _ = case
    assert second.cutoffs.valid > first.cutoffs.end
    late = second.manifest["counts"]["interactions"]["late"]
    assert late == len(case[0].late) > 0
    events = second.rows("valid").num_rows
    assert events > 10


def test_histories_and_statistics_are_those_of_one_job(case: Case) -> None:
    *_, second, whole = case
    assert histories_of(second) == histories_of(whole)
    counts: list[set[tuple[Any, ...]]] = []
    for dataset in (second, whole):
        items, *rest = (dataset.item_stats()[name].to_pylist() for name in ("item", "day", "count", "likes"))
        counts.append(set(zip(named(dataset, items), *rest, strict=True)))
    assert counts[0] == counts[1]


def test_counts_balance_and_repeats_of_old_events_change_nothing(case: Case) -> None:
    logs, first, second, _ = case
    counts = second.manifest["counts"]["interactions"]
    assert counts["read"] == len(logs.second.interactions)
    assert counts["filtered"]["exact repeat"] == TOLD_TWICE - on_held_out(first, logs)
    assert counts["carried"] == sum(map(len, histories_of(first).values()))
    assert counts["read"] + counts["carried"] == counts["kept"] + sum(counts["filtered"].values())
    assert counts["new"] == counts["kept"] - counts["carried"]
    told = second.manifest["counts"]["user_records"]
    assert told == {"read": 3, "kept": 3, "filtered": {"user told again": 0}, "quarantined": {}}


def on_held_out(first: Dataset, logs: Instalments) -> int:
    """Of the repeats those with a held-out item, which no history holds."""
    held_out = dict(zip(*(first.catalogue()[name].to_pylist() for name in ("item_id", "held_out")), strict=True))
    repeats = logs.second.interactions["item_id"].to_pylist()[-TOLD_TWICE:]
    return sum(held_out[item] != "" for item in repeats)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluation_rows_are_those_of_one_job_but_for_what_old_days_told_of_held_out_items(
    split: str, case: Case
) -> None:
    logs, first, second, whole = case
    kept = held_out_codes(first.catalogue()["held_out"]) == 0
    forgotten = {item for item, keep in zip(ids_of(first), kept.tolist(), strict=True) if not keep}
    old = set(zip(*(logs.first.interactions[name].to_pylist() for name in ("user_id", "item_id")), strict=True))
    rows = []
    for dataset in (second, whole):
        told = dataset.rows(split).to_pylist()
        for row in told:
            row["items"], row["seen"] = named(dataset, row["items"]), set(named(dataset, row["seen"]))
        rows.append(sorted(told, key=lambda row: str(row["user_id"])))
    assert len(rows[0]) > 10
    lost = 0
    for row in rows[1]:
        unknown = {item for item in row["seen"] & forgotten if (row["user_id"], item) in old}
        unknown -= {item for user, item in logs.late if user == row["user_id"]}
        lost += len(unknown)
        row["seen"] -= unknown
    assert rows[0] == rows[1]
    assert lost > 0, "no user met a held-out item in the old days: the limit is not looked at"


def test_each_event_is_a_target_of_training_once_and_late_ones_never(case: Case) -> None:
    logs, _, second, _ = case
    expected = {
        (user, item)
        for user, events in histories_of(second).items()
        for item, time, *_ in events
        if time < second.cutoffs.valid
    }
    targets = Counter[tuple[str, str]]()
    for row in train_files(second, new=False) + train_files(second, new=True):
        targets.update((row["user_id"], item) for item in named(second, row["items"][row["first_target"] :]))
    assert set(targets.values()) == {1}
    assert set(targets) == expected - logs.late
    assert expected & logs.late
    rows = second.manifest["counts"]["rows"]["train"]
    assert rows == {"rows": len(second.rows("train")), "targets": len(targets)}


def test_new_training_rows_tell_what_was_known_at_their_moment(case: Case) -> None:
    _, first, second, _ = case
    past = {
        row["user_id"]: list(zip(row["times"], row["items"], row["likes"], strict=True))
        for row in second.histories().to_pylist()
    }
    texts = dict(zip(*(LOGS.users[name].to_pylist() for name in ("user_id", "about")), strict=True))
    texts |= dict(zip(*(instalments().second.users[name].to_pylist() for name in ("user_id", "about")), strict=True))
    terms, length, with_context = terms_of(second.catalogue()), second.history_length, 0
    for row in train_files(second, new=True):
        assert row["as_of"] >= first.cutoffs.valid
        events = past[row["user_id"]]
        known = [event for event in events if event[0] < row["as_of"]]
        context, targets = row["items"][: row["first_target"]], row["items"][row["first_target"] :]
        assert context == [item for _, item, _ in known][len(known) - len(context) :]
        assert targets == [item for _, item, _ in events[len(known) :]][: len(targets)]
        with_context += bool(context)
        _, items, likes = (
            (np.array(column) for column in zip(*known[-length:], strict=True)) if known else [[0], [], []]
        )
        said = profile_texts(
            np.array(items, np.int32),
            np.array(likes, np.int8),
            np.array([0, len(items)]),
            pa.array([texts[row["user_id"]]], pa.string()),
            terms,
        )
        assert [row["profile"] or ""] == [said[0] or ""]
    assert with_context > 10


def test_the_previous_files_are_carried_over_and_nothing_of_it_changes(case: Case) -> None:
    _, first, second, _ = case
    assert verify(first.uri, "dataset") == first.manifest
    verify(second.uri, "dataset")
    for path in first.files("rows/train"):
        assert second.manifest["files"][path.replace(".parquet", "-v1.parquet")] == first.manifest["files"][path]
    about = {name: second.manifest[name] for name in ("version", "buckets", "ancestors")}
    assert about == {"version": 2, "buckets": 3, "ancestors": [fingerprint(first.uri, "dataset")]}


def test_killed_and_run_again_or_run_backwards_it_is_the_same(case: Case, tmp_path: Path) -> None:
    logs, first, second, _ = case
    source, whole = write(logs.second, tmp_path / "logs"), Killer()
    config = DataConfig(source=source, privacy=PLAIN, buckets=3, history_length=8, previous=first.uri)

    def again_made(folder: str, run: Run) -> Any:
        return job.prepare(config, f"{tmp_path}/{folder}", seed=0, provenance={"code": "test"}, run=run)["files"]

    files = second.manifest["files"]
    assert again_made("0", whole) == files
    for after in range(0, len(whole.titles), 3):
        again = Killer()
        with pytest.raises(KilledError):
            again_made("1", Killer(after))
        assert again_made("1", again) == files
        assert [title for title in again.titles if not title.endswith("looking")] == whole.titles[after:]
        for path in sorted((tmp_path / "1").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    assert again_made("2", backwards) == files


def test_new_days_need_no_new_items(case: Case, tmp_path: Path) -> None:
    logs, first, *_ = case
    known = pc.is_in(logs.second.interactions["item_id"], logs.first.items["item_id"].combine_chunks())
    events = logs.second.interactions.filter(known)
    without = replace(logs.second, interactions=events, items=LOGS.items.slice(0, 0), users=LOGS.users.slice(0, 0))
    second = made(without, tmp_path / "second", previous=first.uri)
    assert second.catalogue() == first.catalogue()
    assert second.manifest["counts"]["interactions"]["new"] > 100


def test_a_third_version_goes_on_from_the_second(tmp_path: Path) -> None:
    borders = [START_S, START_S + 30 * DAY_S, START_S + 45 * DAY_S, START_S + 60 * DAY_S]
    dataset: Dataset | None = None
    for number in range(3):
        logs = half(LOGS, borders[number], borders[number + 1])
        settings: dict[str, Any] = {} if dataset is None else {"previous": dataset.uri, "buckets": 7}
        dataset = made(logs, tmp_path / str(number), **settings)
    assert dataset is not None
    assert (dataset.manifest["version"], dataset.manifest["buckets"]) == (3, 3)
    assert len(dataset.manifest["ancestors"]) == 2
    names = {path.rpartition("-")[2] for path in dataset.files("rows/train")}
    assert {"v1.parquet", "v2.parquet", "00000.parquet"} <= names
    rows = dataset.rows("train").to_pylist()
    targets = Counter((row["user_id"], item) for row in rows for item in row["items"][row["first_target"] :])
    assert set(targets.values()) == {1}
    events = histories_of(dataset)
    early = sum(time < dataset.cutoffs.valid for user in events.values() for _, time, *_ in user)
    assert len(targets) == early
    assert dataset.num_items == len(LOGS.items)
