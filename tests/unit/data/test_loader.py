from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader, pack
from rayrec.data.negatives import seeded, uniform_negatives
from rayrec.schema import CATALOGUE, HISTORIES, ROWS
from tests.synthetic import generate, published


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return published(generate(num_users=60, num_items=60, num_interactions=1800), tmp_path_factory.mktemp("dataset"))


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=80), slots=st.integers(1, 400))
def test_micro_batches_hold_every_row_and_the_budget(lengths: list[int], slots: int) -> None:
    lengths = sorted(lengths)
    borders = pack(np.array(lengths), slots)
    assert borders[0] == 0
    assert borders[-1] == len(lengths)
    for begin, end in pairwise(borders):
        assert end > begin
        assert end - begin == 1 or (end - begin) * lengths[end - 1] <= slots


def test_micro_batches_use_the_budget() -> None:
    assert pack(np.full(10, 5), 20) == [0, 4, 8, 10]


def test_batches_fit_the_budget_and_lengths_are_alike(dataset: Dataset) -> None:
    loader = Loader(dataset, LoaderConfig(slots_per_batch=200), seed=0)
    shapes = []
    for step in loader.epoch(0, rank=0, world_size=1):
        if step.ended:
            break
        shapes += [batch.items_BL.shape for batch in step.batches if batch.lengths_B.any()]
    assert max(rows * length for rows, length in shapes) <= 200
    targets = dataset.manifest["counts"]["rows"]["train"]["targets"]
    assert sum(rows * length for rows, length in shapes) < 2 * targets


def test_after_its_streams_a_rank_goes_on_without_targets(dataset: Dataset) -> None:
    steps = Loader(dataset, LoaderConfig(), seed=0).epoch(0, rank=1, world_size=4)
    ended = [step for step, _ in zip(steps, range(50), strict=False) if step.ended]
    assert len(ended) > 10
    (batch,) = ended[-1].batches
    assert batch.items_BL.shape == (1, 1)
    assert not batch.targets_BL.any()
    assert len(batch.negatives_K) == LoaderConfig().num_negatives
    assert batch.context_only().items_BL.shape[0] == 1


def test_negatives_are_items_that_training_may_know(dataset: Dataset) -> None:
    held_out = np.array(dataset.catalogue()["held_out"].to_pylist()) != ""
    met = {item for row in dataset.rows("train")["items"].to_pylist() for item in row}
    drawn = set()
    for step in Loader(dataset, LoaderConfig(), seed=0).epoch(0, rank=0, world_size=1):
        if step.ended:
            break
        drawn |= {int(item) for batch in step.batches for item in batch.negatives_K}
    assert not held_out[sorted(drawn)].any()
    assert drawn <= met
    assert len(drawn) > 0.8 * len(met)


def test_negatives_are_uniform() -> None:
    counts = np.bincount(uniform_negatives(np.arange(5, 15), 20_000, seeded(0, 1)), minlength=15)
    assert not counts[:5].any()
    assert counts[5:].min() > 1800


def test_the_reader_returns_canonical_tables(dataset: Dataset) -> None:
    assert dataset.catalogue().schema == CATALOGUE
    assert dataset.histories().schema == HISTORIES
    assert dataset.rows("valid").schema == ROWS
    assert dataset.num_items == len(dataset.catalogue()) == 60
    groups = [dataset.read_row_group(group) for group in dataset.row_groups("train")]
    assert pa.concat_tables(groups).combine_chunks() == dataset.rows("train")
    assert dataset.stats().counts_between(np.arange(60), np.array([0]), np.array([dataset.cutoffs.end])).sum() > 1000


def test_nothing_published_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is published"):
        Dataset(str(tmp_path))
