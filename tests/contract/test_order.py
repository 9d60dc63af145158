"""The order contract: which rows a step holds depends on seed, epoch and step, and not on the number of workers."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader, Step
from rayrec.schema import Batch, batch_of_rows
from tests.synthetic import generate, published

CONFIG = LoaderConfig(streams=4, slots_per_batch=160, shuffle_window=24, num_negatives=16)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return published(generate(num_users=120, num_items=60, num_interactions=4800), tmp_path_factory.mktemp("dataset"))


def steps_of(
    dataset: Dataset, world_size: int, epoch: int = 0, seed: int = 0, start_step: int = 0
) -> list[list[Batch]]:
    """The batches of each step in the order of streams, put together from all ranks, until all have ended."""
    loader = Loader(dataset, CONFIG, seed=seed)
    ranks = [loader.epoch(epoch, rank=rank, world_size=world_size, start_step=start_step) for rank in range(world_size)]
    steps = []
    while True:
        parts: list[Step] = [next(rank) for rank in ranks]
        assert {part.number for part in parts} == {start_step + len(steps)}
        if all(part.ended for part in parts):
            return steps
        batches: list[Batch | None] = [None] * CONFIG.streams
        for rank, part in enumerate(parts):
            batches[rank::world_size] = part.batches
        steps.append([batch for batch in batches if batch is not None])


def same(left: Batch, right: Batch) -> bool:
    return left.row_ids == right.row_ids and all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("items_BL", "likes_BL", "lengths_B", "first_target_B", "as_of_B", "negatives_K")
    )


def all_same(left: list[list[Batch]], right: list[list[Batch]]) -> bool:
    return len(left) == len(right) and all(
        same(one, other)
        for ones, others in zip(left, right, strict=True)
        for one, other in zip(ones, others, strict=True)
    )


def row_ids(steps: list[list[Batch]]) -> list[str]:
    return [row for step in steps for batch in step for row in batch.row_ids if row]


@pytest.mark.parametrize("world_size", [2, 4])
def test_every_world_size_sees_the_same_rows_and_negatives_in_each_step(dataset: Dataset, world_size: int) -> None:
    alone = steps_of(dataset, 1)
    assert len(alone) > 5
    assert all(len(step) == CONFIG.streams for step in alone)
    assert all_same(alone, steps_of(dataset, world_size))


def test_every_row_comes_once_an_epoch(dataset: Dataset) -> None:
    expected = Counter(batch_of_rows(dataset.rows("train")).row_ids)
    for epoch in (0, 1):
        assert Counter(row_ids(steps_of(dataset, 1, epoch))) == expected


def test_epochs_and_seeds_differ(dataset: Dataset) -> None:
    first = row_ids(steps_of(dataset, 1))
    assert first != row_ids(steps_of(dataset, 1, epoch=1))
    assert first != row_ids(steps_of(dataset, 1, seed=1))
    assert first == row_ids(steps_of(dataset, 1))


@pytest.mark.parametrize("start_step", [1, 4])
def test_a_resumed_epoch_is_the_tail_of_the_whole(dataset: Dataset, start_step: int) -> None:
    whole = steps_of(dataset, 1)
    assert all_same(whole[start_step:], steps_of(dataset, 1, start_step=start_step))
    assert all_same(whole[start_step:], steps_of(dataset, 2, start_step=start_step))


def test_negatives_differ_by_step_and_stream(dataset: Dataset) -> None:
    drawn = [tuple(batch.negatives_K) for step in steps_of(dataset, 1) for batch in step]
    assert len(set(drawn)) == len(drawn)


def test_a_rank_reads_the_row_groups_of_its_streams_only(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[object]] = [[], []]
    original = Dataset.read_row_group
    for rank in range(2):
        log = read[rank]
        monkeypatch.setattr(
            Dataset, "read_row_group", lambda self, group, log=log: (log.append(group), original(self, group))[1]
        )
        list(islice(Loader(dataset, CONFIG, seed=0).epoch(0, rank=rank, world_size=2), 200))
    assert not set(read[0]) & set(read[1])
    assert set(read[0]) | set(read[1]) == set(dataset.row_groups("train"))


@pytest.mark.parametrize(("rank", "world_size"), [(0, 3), (0, 8), (2, 2)])
def test_a_world_size_that_does_not_divide_the_streams_is_refused(dataset: Dataset, rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="a world size that divides"):
        Loader(dataset, CONFIG, seed=0).epoch(0, rank=rank, world_size=world_size)
