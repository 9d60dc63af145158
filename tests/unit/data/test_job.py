"""The job without Ray: buckets, order of rows, what is told twice; k-core and few-shot limits in rounds."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.config import CleanConfig, DataConfig, SplitConfig
from rayrec.data.dataset import Dataset
from rayrec.data.items import bucket_path, gather_items, order_hashes
from rayrec.data.work import Work, read_slices, slices_bytes
from rayrec.schema import ITEMS
from rayrec.storage import verify
from tests.synthetic import SyntheticLogs, generate, published

LOGS = generate(num_users=40, num_items=40, num_interactions=800)
BY_ROW = [("user_id", "ascending"), ("as_of", "ascending"), ("first_target", "ascending")]


def same_rows(first: Dataset, second: Dataset) -> bool:
    return (
        first.manifest["counts"] == second.manifest["counts"]
        and first.manifest["cutoffs"] == second.manifest["cutoffs"]
        and first.catalogue() == second.catalogue()
        and first.item_stats() == second.item_stats()
        and first.histories().sort_by("user_id") == second.histories().sort_by("user_id")
        and all(first.rows(s).sort_by(BY_ROW) == second.rows(s).sort_by(BY_ROW) for s in ("train", "valid", "test"))
    )


def test_the_order_of_rows_changes_no_byte(tmp_path: Path) -> None:
    shuffled = LOGS.interactions.take(pa.array(np.random.default_rng(0).permutation(800)))
    first = published(LOGS, tmp_path / "first")
    second = published(replace(LOGS, interactions=shuffled), tmp_path / "second")
    assert first.manifest["logs"] != second.manifest["logs"]  # files of another size
    assert {**first.manifest, "logs": ""} == {**second.manifest, "logs": ""}
    assert verify(first.uri, "dataset") == first.manifest
    assert not (tmp_path / "first" / "_work").exists()


CONFIGS = [
    DataConfig(),
    DataConfig(clean=CleanConfig(min_user_events=5, min_item_events=8)),
    DataConfig(split=SplitConfig(few_shot_users=9)),
    DataConfig(split=SplitConfig(few_shot_users=20, few_shot_interactions=150)),
    DataConfig(split=SplitConfig(kind="leave_last_out", held_out_users=0.2)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "k-core", "few users", "few interactions", "last out"])
def test_the_number_of_buckets_changes_files_and_not_rows(config: DataConfig, tmp_path: Path) -> None:
    few, many = (
        published(LOGS, tmp_path / str(count), config.model_copy(update={"buckets": count})) for count in (1, 8)
    )
    assert len(few.files("rows/valid")) == 1
    assert len(many.files("rows/valid")) > 3
    assert len(many.files("item_stats")) == 2
    assert same_rows(few, many)


def test_few_shot_training_sees_no_more_than_asked_for(tmp_path: Path) -> None:
    users = published(LOGS, tmp_path / "users", CONFIGS[2])
    assert len(set(users.rows("train")["user_id"].to_pylist())) == 9
    events = published(LOGS, tmp_path / "events", CONFIGS[3])
    assert events.manifest["counts"]["rows"]["train"]["targets"] == 150
    assert events.manifest["counts"]["rows"]["test"] == users.manifest["counts"]["rows"]["test"]


def test_the_k_core_is_what_a_loop_over_all_interactions_leaves(tmp_path: Path) -> None:
    few = LOGS.interactions.take(pa.array(np.random.default_rng(1).choice(800, 300, replace=False)))
    logs = replace(LOGS, interactions=few)
    pairs = list(zip(few["user_id"].to_pylist(), few["item_id"].to_pylist(), strict=True))
    sizes = [0, len(pairs)]
    while sizes[-1] != sizes[-2]:
        items = Counter(item for _, item in pairs)
        pairs = [pair for pair in pairs if items[pair[1]] >= 5]
        users = Counter(user for user, _ in pairs)
        pairs = [pair for pair in pairs if users[pair[0]] >= 6]
        sizes.append(len(pairs))
    assert len(sizes) > 5
    assert len(pairs) > 100
    config = DataConfig(clean=CleanConfig(min_user_events=6, min_item_events=5), buckets=5)
    counts = published(logs, tmp_path, config).manifest["counts"]
    assert (counts["interactions"]["kept"], counts["users"]) == (len(pairs), len({user for user, _ in pairs}))
    assert counts["interactions"]["filtered"]["k-core"] == 300 - len(pairs)


def told(*rows: tuple[str, str, list[str]], hashes: list[int]) -> pa.Table:
    items: list[dict[str, Any]] = [
        {"item_id": item, "title": title, "categories": labels} for item, title, labels in rows
    ]
    return pa.Table.from_pylist(items, ITEMS).append_column("hash", pa.array(hashes, pa.uint64()))


def test_of_an_item_told_again_the_later_counts(tmp_path: Path) -> None:
    work = Work(str(tmp_path), "_work/x")
    pieces = [
        told(("b", "old", []), ("a", "same", ["x"]), hashes=[9, 3]),
        told(("a", "same", ["x"]), ("b", "new", []), ("b", "newest", []), ("c", "one", []), hashes=[3, 9, 9, 1 << 63]),
    ]
    for number, piece in enumerate(pieces):
        work.write(f"{number}.slices", slices_bytes([piece]))
    record = gather_items(work, ["0.slices", "1.slices"], 0)
    assert record["items"] == 3
    assert record["filtered"] == {"item told again": 1, "item told again with another text": 2}
    assert order_hashes(work, [bucket_path(work, 0)]).tolist() == [3, 9, 1 << 63]


def test_the_last_of_very_many_counts(tmp_path: Path) -> None:
    work = Work(str(tmp_path), "_work/x")
    rows = [(f"i{number % 7}", f"title {number}", list[str]()) for number in range(700)]
    work.write("0.slices", slices_bytes([told(*rows, hashes=[number % 7 for number in range(700)])]))
    assert gather_items(work, ["0.slices"], 0)["filtered"]["item told again with another text"] == 693
    (items,) = read_slices(work, [bucket_path(work, 0)], 0)
    assert items["title"].to_pylist() == [f"title {number}" for number in range(693, 700)]


def test_two_items_with_one_hash_are_refused(tmp_path: Path) -> None:
    work = Work(str(tmp_path), "_work/x")
    work.write("0.slices", slices_bytes([told(("a", "x", []), ("b", "x", []), hashes=[3, 3])]))
    with pytest.raises(ValueError, match=r"'a' and 'b' have the same 64-bit hash.*rename one of them"):
        gather_items(work, ["0.slices"], 0)


def renamed(logs: SyntheticLogs, title: str) -> SyntheticLogs:
    """One item told again at the end of the file, with another title."""
    again = logs.items.slice(5, 1).set_column(1, "title", pa.array([title]))
    return replace(logs, items=pa.concat_tables([logs.items, again]))


def test_what_an_earlier_job_of_another_config_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "rows" / "train").mkdir(parents=True)
    left = [tmp_path / "rows" / "train" / "part-00007.parquet", tmp_path / "quarantine" / "items-00000.parquet"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left")
    (tmp_path / "notes.txt").write_text("mine")
    dataset = published(renamed(LOGS, "Another title"), tmp_path)
    assert not any(path.exists() for path in left)
    assert (tmp_path / "notes.txt").exists()
    titles = dict(zip(*(dataset.catalogue()[name].to_pylist() for name in ("item_id", "title")), strict=True))
    assert titles[LOGS.items["item_id"][5].as_py()] == "Another title"
    assert dataset.manifest["counts"]["items"]["filtered"]["item told again with another text"] == 1
