from pathlib import Path

import numpy as np
import pytest

from rayrec.data.dataset import Dataset
from rayrec.schema import CATALOGUE, HISTORIES, ROWS
from tests import shards
from tests.synthetic import generate, published


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return published(generate(num_users=60, num_items=60, num_interactions=1800), tmp_path_factory.mktemp("dataset"))


def test_tables_are_canonical(dataset: Dataset) -> None:
    assert dataset.catalogue().schema == CATALOGUE
    assert dataset.histories().schema == HISTORIES
    assert dataset.rows("valid").schema == ROWS
    assert dataset.num_items == len(dataset.catalogue()) == 60
    assert dataset.stats().counts_between(np.arange(60), np.array([0]), np.array([dataset.cutoffs.end])).sum() > 1000


def test_items_that_training_may_know_were_met_and_are_not_held_out(dataset: Dataset) -> None:
    held_out = np.array(dataset.catalogue()["held_out"].to_pylist()) != ""
    met = {item for row in dataset.rows("train")["items"].to_pylist() for item in row}
    known = dataset.trained_items()
    assert not held_out[known].any()
    assert set(known.tolist()) <= met
    assert len(known) > 0.8 * len(met)


def test_row_groups_are_those_of_the_files(tmp_path: Path) -> None:
    groups = shards.dataset(str(tmp_path), [20, 3, 16], 8).row_groups("train")
    assert [path.rpartition("/")[2] for path in groups.paths] == [f"part-{number:05d}.parquet" for number in range(3)]
    assert groups.file_G.tolist() == [0, 0, 0, 1, 2, 2]
    assert groups.index_G.tolist() == [0, 1, 2, 0, 0, 1]
    assert groups.rows_G.tolist() == [8, 8, 4, 3, 8, 8]


def test_files_do_not_stay_open(tmp_path: Path) -> None:
    dataset = shards.dataset(str(tmp_path), [5] * 30, 8)
    before = len(list(Path("/proc/self/fd").iterdir()))
    dataset.row_groups("train")
    dataset.rows("train")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_nothing_published_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is published"):
        Dataset(str(tmp_path))
