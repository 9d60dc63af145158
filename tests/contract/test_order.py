"""The order contract: which rows a step holds depends on seed, epoch and step, and not on the number of workers."""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader, Step, merged
from rayrec.schema import Batch, batch_of_rows
from tests import shards

CONFIG = LoaderConfig(streams=4, slots_per_batch=60, shuffle_window=24, num_negatives=16)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shards.dataset(str(tmp_path_factory.mktemp("dataset")), [90, 17, 130, 64, 40], rows_per_group=8)


def ranks_of(dataset: Dataset, world_size: int, config: LoaderConfig = CONFIG, seed: int = 0) -> list[Loader]:
    return [Loader(dataset, config, seed=seed, rank=rank, world_size=world_size) for rank in range(world_size)]


def whole(parts: Sequence[Step]) -> list[Batch]:
    """A step's batches in the order of streams, put together from all ranks; those beyond the streams come last."""
    return [batch for batches in zip(*(part.batches for part in parts), strict=True) for batch in batches]


def steps_of(ranks: Sequence[Loader], epoch: int = 0, start_step: int = 0) -> Iterator[list[Batch]]:
    """The batches of each step until no rank holds a target."""
    readers = [rank.epoch(epoch, start_step) for rank in ranks]
    for number in count(start_step):
        parts = [next(reader) for reader in readers]
        assert {part.number for part in parts} == {number}
        streams = ranks[0].config.streams
        batches, beyond = whole(parts)[:streams], whole(parts)[streams:]
        assert not any(batch.targets_BL.any() or any(batch.row_ids) for batch in beyond)
        if not any(batch.targets_BL.any() for batch in batches):
            return
        yield batches


def states(ranks: Sequence[Loader]) -> dict[str, Any]:
    """What a checkpoint holds, having been a file."""
    state: dict[str, Any] = json.loads(json.dumps(merged([rank.state_dict() for rank in ranks])))
    return state


def same(left: Batch, right: Batch) -> bool:
    return (*left.row_ids, *left.profiles) == (*right.row_ids, *right.profiles) and all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("items_BL", "likes_BL", "lengths_B", "first_target_B", "as_of_B", "negatives_K")
    )


def all_same(left: list[list[Batch]], right: list[list[Batch]]) -> bool:
    return len(left) == len(right) and all(
        same(one, other)
        for ones, others in zip(left, right, strict=True)
        for one, other in zip(ones, others, strict=True)
    )


def row_ids(steps: Sequence[list[Batch]]) -> list[str]:
    return [row for step in steps for batch in step for row in batch.row_ids if row]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_world_size_sees_the_same_rows_and_negatives_in_each_step(dataset: Dataset, world_size: int) -> None:
    alone = list(steps_of(ranks_of(dataset, 1)))
    assert len(alone) > 5
    assert all(len(step) == CONFIG.streams for step in alone)
    assert all_same(alone, list(steps_of(ranks_of(dataset, world_size))))


@settings(max_examples=25, deadline=None)
@given(streams=st.integers(1, 12), world_size=st.integers(1, 12))
def test_every_rank_has_equally_many_micro_batches_and_a_number_of_its_own_for_each(
    dataset: Dataset, streams: int, world_size: int
) -> None:
    if world_size > streams:
        return
    ranks = ranks_of(dataset, world_size, CONFIG.model_copy(update={"streams": streams}))
    assert {rank.micro_batches for rank in ranks} == {math.ceil(streams / world_size)}
    assert sorted(stream for rank in ranks for stream in rank.streams) == list(range(streams))
    numbers = [number for rank in ranks for number in rank.stream_numbers]
    assert sorted(numbers) == list(range(math.ceil(streams / world_size) * world_size))
    for rank in ranks:
        assert list(rank.stream_numbers)[: len(rank.streams)] == list(rank.streams)
        assert len(next(rank.epoch(0)).batches) == rank.micro_batches == len(rank.stream_numbers)


def test_batches_beyond_the_streams_have_negatives_of_their_own(dataset: Dataset) -> None:
    parts = [next(rank.epoch(0)) for rank in ranks_of(dataset, 3)]
    assert [[bool(batch.row_ids[0]) for batch in part.batches] for part in parts] == [
        [True] * 2,
        [True, False],
        [True, False],
    ]
    assert len({tuple(batch.negatives_K) for part in parts for batch in part.batches}) == 6


def test_every_row_comes_once_an_epoch(dataset: Dataset) -> None:
    expected = Counter(batch_of_rows(dataset.rows("train")).row_ids)
    assert len(expected) == 341
    for epoch in (0, 1):
        assert Counter(row_ids(list(steps_of(ranks_of(dataset, 1), epoch)))) == expected


def test_a_batch_is_what_its_rows_say(dataset: Dataset) -> None:
    rows = batch_of_rows(dataset.rows("train"))
    place = {row: number for number, row in enumerate(rows.row_ids)}
    batches = [batch for step in steps_of(ranks_of(dataset, 1)) for batch in step if batch.row_ids[0]]
    assert any(len(set(batch.lengths_B)) > 1 for batch in batches)
    for batch in batches:
        expected = batch_of_rows(dataset.rows("train").take([place[row] for row in batch.row_ids]), batch.negatives_K)
        assert same(batch, expected)
        assert {name: value.dtype for name, value in vars(batch).items() if hasattr(value, "dtype")} == {
            name: value.dtype for name, value in vars(expected).items() if hasattr(value, "dtype")
        }
        assert batch.items_BL.flags.writeable
        assert batch.likes_BL.flags.writeable


def test_epochs_and_seeds_differ(dataset: Dataset) -> None:
    first = row_ids(list(steps_of(ranks_of(dataset, 1))))
    assert first != row_ids(list(steps_of(ranks_of(dataset, 1), epoch=1)))
    assert first != row_ids(list(steps_of(ranks_of(dataset, 1, seed=1))))
    assert first == row_ids(list(steps_of(ranks_of(dataset, 1))))


def test_negatives_differ_by_step_and_stream(dataset: Dataset) -> None:
    drawn = [tuple(batch.negatives_K) for step in steps_of(ranks_of(dataset, 1)) for batch in step]
    assert len(set(drawn)) == len(drawn)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_killed_anywhere_and_resumed_at_any_world_size_it_is_the_undisturbed_run(data: st.DataObject) -> None:
    files = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=5), label="files")
    rows_per_group = data.draw(st.integers(1, 20), label="rows_per_group")
    streams = data.draw(st.integers(1, 6), label="streams")
    config = LoaderConfig(
        streams=streams,
        slots_per_batch=data.draw(st.integers(1, 80), label="slots"),
        shuffle_window=data.draw(st.integers(1, 50), label="window"),
        num_negatives=data.draw(st.integers(1, 5), label="negatives"),
    )
    worlds = st.integers(1, streams)
    with tempfile.TemporaryDirectory() as folder:
        made = shards.dataset(folder, files, rows_per_group)
        undisturbed = list(steps_of(ranks_of(made, 1, config), epoch=3))
        assert Counter(row_ids(undisturbed)) == Counter(batch_of_rows(made.rows("train")).row_ids)
        seen: list[list[Batch]] = []
        state = None
        while len(seen) < len(undisturbed):
            ranks = ranks_of(made, data.draw(worlds, label="world size"), config)
            if state is not None:
                for rank in ranks:
                    rank.load_state_dict(state)
            lives = data.draw(st.integers(1, len(undisturbed)), label="steps until it is killed")
            for batches, _ in zip(steps_of(ranks, 3, len(seen)), range(lives), strict=False):
                seen.append(batches)
                state = states(ranks)
        assert all_same(seen, undisturbed)
        for rank in (last := ranks_of(made, 1, config)):
            rank.load_state_dict(state or {})
        assert list(steps_of(last, 3, len(seen))) == []


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were decoded, call by call."""
    log: list[int] = []
    original = parquet.ParquetFile.read_row_groups

    def read(self: parquet.ParquetFile, groups: list[int], **options: Any) -> Any:
        table = original(self, groups, **options)
        log.append(len(table))
        return table

    monkeypatch.setattr(parquet.ParquetFile, "read_row_groups", read)
    return log


def test_ranks_read_the_rows_of_their_streams_only(dataset: Dataset, reads: list[int]) -> None:
    list(steps_of(ranks_of(dataset, 4)))
    assert sum(reads) == 341  # nobody reads a row that another rank reads
    for rank in ranks_of(dataset, 4):
        reads.clear()
        own = [list(step.batches) for step, _ in zip(rank.epoch(0), range(50), strict=False)]
        assert sum(reads) == sum(batch.lengths_B.any() and len(batch.lengths_B) for step in own for batch in step)


def test_to_resume_each_stream_reads_from_its_window_on(dataset: Dataset, reads: list[int]) -> None:
    (first,) = ranks_of(dataset, 1)
    steps = first.epoch(0)
    for _ in range(12):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    places = first.state_dict()["streams"].values()
    assert min(window for window, _ in places) >= 1
    (again,) = ranks_of(dataset, 1)
    again.load_state_dict(states([first]))
    reads.clear()
    rest = list(steps_of([again], 0, 12))
    left, longest_window = sum(len(batch.lengths_B) for step in rest for batch in step), CONFIG.shuffle_window + 8
    assert 0 < left <= sum(reads) + 4 * len(rest)
    assert sum(reads) <= left + CONFIG.streams * longest_window
    assert sum(reads) < 341 * 3 / 4


@pytest.mark.parametrize(("rank", "world_size"), [(0, 5), (0, 8), (2, 2), (0, 0)])
def test_more_ranks_than_streams_are_refused(dataset: Dataset, rank: int, world_size: int) -> None:
    expected = f"rank {rank} of world size {world_size} cannot share 4 streams; expected at most as many workers"
    with pytest.raises(ValueError, match=expected):
        Loader(dataset, CONFIG, seed=0, rank=rank, world_size=world_size)


@pytest.mark.parametrize("change", [{"shuffle_window": 8}, {"slots_per_batch": 50}, {"streams": 2}])
def test_a_state_of_another_order_is_refused(dataset: Dataset, tmp_path: Path, change: dict[str, int]) -> None:
    state = states(ranks_of(dataset, 1))
    others = [
        *ranks_of(dataset, 1, CONFIG.model_copy(update=change)),
        *ranks_of(dataset, 1, seed=1),
        *ranks_of(shards.dataset(str(tmp_path), [17, 90, 130, 64, 40], 8), 1),
    ]
    for other in others:
        with pytest.raises(ValueError, match="belongs to another order of rows; resume with the dataset, seed"):
            other.load_state_dict(state)
