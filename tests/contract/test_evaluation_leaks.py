"""Evaluation shows no scorer the test: the lists are the same when everything from the test cut-off on is another.

That rows themselves know nothing of their future is test_as_of.py's matter.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from rayrec.data.dataset import Dataset
from rayrec.evaluate import evaluator
from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.measure import group_slices, report_slices
from rayrec.item_stats import DAY_MS, ItemStats
from rayrec.models.past import past
from rayrec.schema import DISLIKED, LIKED, Batch
from rayrec.text import item_texts
from rayrec.tracking import Progress
from tests.synthetic import SyntheticLogs, generate, published

CONFIG = EvaluateConfig(k=5)
Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return published(generate(num_users=120, num_items=60, num_interactions=3000), tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def other(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same dataset with another test: from its cut-off on other items were met, and opinions are turned round."""
    folder = tmp_path_factory.mktemp("other") / "dataset"
    shutil.copytree(data.uri, folder)
    cutoff, items = data.cutoffs.test, data.num_items

    def late(lists: pa.ListArray, late_E: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> pa.ListArray:
        flat = lists.flatten().to_numpy()
        return pa.ListArray.from_arrays(
            lists.offsets, pa.array(np.where(late_E, change(flat), flat), lists.type.value_type)
        )

    def rewrite(path: Path, change: Callable[[pa.Table], dict[str, Any]]) -> None:
        table = parquet.read_table(path).combine_chunks()
        for name, column in change(table).items():
            table = table.set_column(table.column_names.index(name), name, column)
        parquet.write_table(table, path)

    def others(table: pa.Table, late_E: np.ndarray) -> dict[str, Any]:
        turned = {
            "items": lambda item_E: (item_E + 7) % items,
            "likes": lambda like_E: np.where(like_E == LIKED, DISLIKED, LIKED),
        }
        return {name: late(table[name].combine_chunks(), late_E, change) for name, change in turned.items()}

    def other_rows(table: pa.Table) -> dict[str, Any]:
        lengths = pc.list_value_length(table["items"]).to_numpy()
        place_E = np.concatenate([np.arange(length) for length in lengths])
        return others(table, place_E >= np.repeat(table["first_target"].to_numpy(), lengths))

    def other_histories(table: pa.Table) -> dict[str, Any]:
        return others(table, pc.list_flatten(table["times"]).to_numpy() >= cutoff)

    def other_stats(table: pa.Table) -> dict[str, Any]:
        late_S = table["day"].to_numpy() >= cutoff // DAY_MS
        counts = table["count"].to_numpy()
        return {
            "count": pa.array(np.where(late_S, counts * (1 + table["item"].to_numpy() % 5 * 20), counts), pa.int32())
        }

    for path in folder.glob("rows/test/*.parquet"):
        rewrite(path, other_rows)
    for path in folder.glob("histories/*.parquet"):
        rewrite(path, other_histories)
    for path in folder.glob("item_stats/*.parquet"):
        rewrite(path, other_stats)
    return Dataset(str(folder))


def told(data: Dataset) -> dict[str, Any]:
    """All that evaluation chooses and recommends before it looks at the test's targets, as plain values."""
    rows, catalogue, counts_N = data.rows("test"), data.catalogue(), evaluator.counts_before_test(data)
    slices = report_slices(rows, catalogue) | group_slices(rows, catalogue, counts_N)
    with Progress("told", None) as progress:
        measured, chosen, _ = evaluator.measure_baselines(data, rows, slices, CONFIG, progress)
    found: dict[str, Any] = {f"{name} chosen": setting for name, setting in chosen.items()}
    for name, one in measured.items():
        found |= {f"{name} lists of {part}": listed_N.tolist() for part, listed_N in one.listed.items()}
        found |= {f"{name} popularity": repr(one.metrics["all"]["popularity"].tolist())}
    return (
        found
        | {f"users of {name}": part.users_U.tolist() for name, part in slices.items()}
        | {f"items of {name}": part.relevant_N.tolist() for name, part in slices.items()}
    )


def leaks(data: Dataset, other: Dataset) -> list[str]:
    one, two = told(data), told(other)
    return [key for key in one if one[key] != two[key]]


def test_no_list_knows_the_test(data: Dataset, other: Dataset) -> None:
    assert data.rows("test")["items"] != other.rows("test")["items"]
    assert data.histories()["items"] != other.histories()["items"]
    assert data.item_stats() != other.item_stats()
    assert leaks(data, other) == []


def future_events_in_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines fitted on all there is."""
    monkeypatch.setattr(evaluator, "past", lambda *tables: past(*tables[:3], 1 << 62))


def targets_in_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scorers shown the rows whole."""
    monkeypatch.setattr(Batch, "context_only", lambda batch: replace(batch, first_target_B=batch.lengths_B))


def statistics_after_the_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that look a week ahead."""
    days_before = ItemStats._days_before
    monkeypatch.setattr(ItemStats, "_days_before", lambda stats, as_of: days_before(stats, as_of + 7 * DAY_MS))


def settings_chosen_on_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials measured on test rows."""
    tune = evaluator.tune
    tests: list[pa.Table] = []
    read = Dataset.rows

    def rows(data: Dataset, split: str) -> pa.Table:
        tests.append(read(data, "test"))
        return read(data, split)

    monkeypatch.setattr(Dataset, "rows", rows)
    monkeypatch.setattr(
        evaluator, "tune", lambda baseline, before, _, config: tune(baseline, before, tests[-1], config)
    )


def groups_by_all_interactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Popularity of the whole log."""
    monkeypatch.setattr(
        evaluator,
        "counts_before_test",
        lambda data: data.stats().counts_between(np.arange(data.num_items), np.zeros(1, int), np.array([1 << 60])),
    )


PLANTED = {
    future_events_in_the_fit: "item_knn lists of all",
    targets_in_the_context: "tfidf lists of all",
    statistics_after_the_cut_off: "popularity lists of all",
    settings_chosen_on_the_test: "item_knn chosen",
    groups_by_all_interactions: "items of head",
}


@pytest.mark.parametrize(("plant", "found"), PLANTED.items(), ids=[plant.__name__ for plant in PLANTED])
def test_the_check_finds_a_planted_leak(
    plant: Plant, found: str, data: Dataset, other: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert found in leaks(data, other)


def met_again(logs: SyntheticLogs) -> SyntheticLogs:
    """Every third interaction once more, ten days later: duplicates on both sides of every cut-off."""
    table = logs.interactions.take(np.arange(0, len(logs.interactions), 3))
    later = table.set_column(2, "timestamp", pc.add(table["timestamp"], 10 * 86_400))
    return replace(logs, interactions=pa.concat_tables([logs.interactions, later]))


def told_before(tables: dict[str, pa.Table]) -> list[tuple[str, int]]:
    """User and item of relevant test targets that the user met before, in a row of training or validation or here."""
    before, relevant = set(), set()
    for split, table in tables.items():
        for row in table.to_pylist():
            first = row["first_target"]
            known = row["items"][:first] if split == "test" else row["items"]
            before |= {(row["user_id"], item) for item in known}
            if split == "test":
                ranked = zip(row["items"][first:], row["likes"][first:], strict=True)
                relevant |= {(row["user_id"], i) for i, like in ranked if like != DISLIKED and i not in row["seen"]}
    assert len(relevant) > 20
    return sorted(before & relevant)


def test_what_stands_on_both_sides_of_the_split_is_no_hit(data: Dataset, tmp_path: Path) -> None:
    again = published(met_again(generate(num_users=120, num_items=60, num_interactions=3000)), tmp_path)
    tables = {split: again.rows(split) for split in ("train", "valid", "test")}
    assert told_before(tables) == []
    test = tables["test"]
    repeated = {
        "first_target": pc.max_element_wise(pc.subtract(test["first_target"], 1), 0),
        "seen": pa.array([[]] * len(test), test.schema.field("seen").type),
    }
    for name, column in repeated.items():
        test = test.set_column(test.column_names.index(name), name, column)
    assert told_before({**tables, "test": test}), "planted: the last item before the cut-off is met there once more"
    mixed = pa.concat_tables([data.rows("train"), data.rows("test")])
    assert told_before({"train": mixed, "test": data.rows("test")}), "planted: test rows among the training rows"


def reviewed(logs: SyntheticLogs, turned: bool) -> SyntheticLogs:
    """With a review for every interaction; opinions and reviews as they are, or turned round."""
    ratings = logs.interactions["rating"].to_numpy()
    ratings = 6 - ratings if turned else ratings
    said = [f"I {'adored' if rating > 3 else 'hated'} number {rating:.0f}" for rating in ratings]
    table = logs.interactions.set_column(3, "rating", pa.array(ratings)).append_column("review", pa.array(said))
    return replace(logs, interactions=table)


def test_texts_of_items_tell_of_no_opinion(tmp_path: Path) -> None:
    logs = generate(num_users=60, num_items=40, num_interactions=1200)
    one, two = (published(reviewed(logs, turned), tmp_path / str(turned)) for turned in (False, True))

    def texts(data: Dataset, leaking: bool) -> list[str]:
        likes_N = np.bincount(data.item_stats()["item"], data.item_stats()["likes"], data.num_items)
        planted = [f", liked by {likes:.0f}" if leaking else "" for likes in likes_N]
        return [text + more for text, more in zip(item_texts(data.catalogue()), planted, strict=True)]

    assert texts(one, leaking=False) == texts(two, leaking=False)
    assert texts(one, leaking=True) != texts(two, leaking=True), "planted: labels in the texts"
