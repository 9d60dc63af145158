import threading
import traceback
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from rayrec.data import loader as module
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader, merged
from tests import shards

CONFIG = LoaderConfig(streams=4, slots_per_batch=60, shuffle_window=16, num_negatives=16)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shards.dataset(str(tmp_path_factory.mktemp("dataset")), [90, 17, 130, 64], rows_per_group=8)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rayrec-loader")]


def test_batches_fit_the_budget_and_lengths_are_alike(dataset: Dataset) -> None:
    config = LoaderConfig(slots_per_batch=60)
    steps = islice(Loader(dataset, config, seed=0).epoch(0), 100)
    shapes = [batch.items_BL.shape for step in steps for batch in step.batches if batch.lengths_B.any()]
    assert max(rows * length for rows, length in shapes) <= 60
    slots = sum(rows * length for rows, length in shapes)
    assert slots < 1.2 * sum(len(items) for items in dataset.rows("train")["items"])


def test_after_its_streams_a_rank_goes_on_without_targets(dataset: Dataset) -> None:
    steps = list(islice(Loader(dataset, CONFIG, seed=0, rank=1, world_size=4).epoch(0), 60))
    (batch,) = steps[-1].batches
    assert batch.items_BL.shape == (1, 1)
    assert not batch.targets_BL.any()
    assert len(batch.negatives_K) == 16
    assert batch.context_only().items_BL.shape[0] == 1
    assert len({tuple(step.batches[0].negatives_K) for step in steps}) == 60


def test_more_streams_than_row_groups_leave_some_empty(tmp_path: Path) -> None:
    steps = islice(Loader(shards.dataset(str(tmp_path), [5], 5), CONFIG, seed=0).epoch(0), 9)
    assert sum(batch.lengths_B.any() for step in steps for batch in step.batches) == 1


def test_streams_walk_through_whole_files(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = Dataset.open

    def opens(self: Dataset, path: str, cache: None = None) -> parquet.ParquetFile:
        opened.append(path)
        return original(self, path, cache)

    monkeypatch.setattr(Dataset, "open", opens)
    ranks = [Loader(dataset, CONFIG, seed=0, rank=rank, world_size=4) for rank in range(4)]
    opened.clear()
    for rank in ranks:
        list(islice(rank.epoch(0), 60))
    assert set(opened) == set(dataset.files("rows/train"))
    assert len(opened) <= len(set(opened)) + 3  # each border between two streams may split a file


def test_negatives_are_items_that_training_may_know(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dataset, "trained_items", lambda _: np.array([3, 5, 8, 13]))
    steps = islice(Loader(dataset, CONFIG, seed=0).epoch(0), 30)
    assert {int(item) for step in steps for batch in step.batches for item in batch.negatives_K} == {3, 5, 8, 13}


def test_nothing_to_draw_from_is_refused(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dataset, "trained_items", lambda _: np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="nothing to train on"):
        Loader(dataset, CONFIG, seed=0)


def test_profiles_are_distinct_and_the_same_for_every_rank(dataset: Dataset) -> None:
    ranks = [Loader(dataset, CONFIG, seed=0, rank=rank, world_size=2) for rank in range(2)]
    first, second = (rank.some_profiles(20) for rank in ranks)
    assert first == second
    assert len(set(first)) == 20
    known = {text for text in dataset.rows("train")["profile"].to_pylist() if text}
    assert set(first) <= known
    assert set(ranks[0].some_profiles(10_000)) == known


def test_the_state_is_small_and_ranks_must_stand_together(dataset: Dataset) -> None:
    ranks = [Loader(dataset, CONFIG, seed=0, rank=rank, world_size=2) for rank in range(2)]
    assert merged([rank.state_dict() for rank in ranks])["streams"] == {str(stream): [0, 0] for stream in range(4)}
    next(ranks[0].epoch(0))
    assert ranks[0].state_dict()["step"] == 1
    assert set(ranks[0].state_dict()["streams"]) == {"0", "2"}
    with pytest.raises(AssertionError, match="ranks stand apart"):
        merged([rank.state_dict() for rank in ranks])


def test_a_step_whose_place_is_not_known_is_not_guessed(dataset: Dataset) -> None:
    with pytest.raises(AssertionError, match="no state of that step"):
        Loader(dataset, CONFIG, seed=0).epoch(0, 5)


def test_windows_are_made_ahead_in_a_thread(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by: list[str] = []
    made: list[threading.Event] = [threading.Event() for _ in range(3)]
    original = module.Window

    class Watched(original):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            made[len(made_by)].set()
            made_by.append(threading.current_thread().name)

    monkeypatch.setattr(module, "Window", Watched)
    steps = Loader(dataset, LoaderConfig(streams=1, shuffle_window=200), seed=0).epoch(0)
    assert threads() == []
    next(steps)
    assert made[1].wait(timeout=10)  # before anybody asked for its first row
    assert not made[2].is_set()
    assert all(name.startswith("rayrec-loader") for name in made_by)
    assert threads()


def test_the_thread_ends_with_the_iterator(dataset: Dataset) -> None:
    steps = Loader(dataset, CONFIG, seed=0).epoch(0)
    next(steps)
    assert threads()
    steps.close()  # type: ignore[attr-defined]
    assert threads() == []
    for _ in Loader(dataset, CONFIG, seed=0).epoch(0):
        break
    assert threads() == []


def test_an_error_of_the_thread_comes_out_where_steps_are_asked_for(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [step.batches[0].items_BL.tolist() for step in islice(Loader(dataset, CONFIG, seed=0).epoch(0), 60)]
    reads = 0
    original = parquet.ParquetFile.read_row_groups

    def torn_disk(self: parquet.ParquetFile, *arguments: object, **options: object) -> object:
        nonlocal reads
        reads += 1
        if reads > 8:
            raise OSError("the disk is torn")
        return original(self, *arguments, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_groups", torn_disk)
    steps, seen = Loader(dataset, CONFIG, seed=0).epoch(0), list[object]()
    with pytest.raises(OSError, match="the disk is torn") as caught:
        seen.extend(step.batches[0].items_BL.tolist() for step in steps)
    assert "torn_disk" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert seen == whole[: len(seen)]
    assert seen
    del steps, caught
    assert threads() == []
