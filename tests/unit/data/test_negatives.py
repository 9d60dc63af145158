import numpy as np
import pytest

from rayrec.data.negatives import seeded, uniform_negatives


def test_negatives_are_uniform() -> None:
    counts = np.bincount(uniform_negatives(np.arange(5, 15), 1000, 0, 20, 1, 2).ravel(), minlength=15)
    assert not counts[:5].any()
    assert abs(counts[5:] - 2000).max() < 6 * np.sqrt(2000)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_step_draws_the_same_whichever_step_was_asked_for_first(count: int) -> None:
    items = np.arange(100_000)
    whole_SK = uniform_negatives(items, count, 0, 9, 3, 4)
    assert whole_SK.shape == (9, count)
    assert whole_SK.dtype == np.int64
    np.testing.assert_array_equal(uniform_negatives(items, count, 5, 3, 3, 4), whole_SK[5:8])
    assert len(np.unique(whole_SK)) == whole_SK.size


def test_every_part_of_the_key_counts() -> None:
    items = np.arange(1000)
    keys = [(0, 0), (0, 1), (1, 0)]
    assert len({tuple(uniform_negatives(items, 8, 0, 1, *key)[0]) for key in keys}) == 3
    assert len({seeded(*key).integers(1 << 62) for key in keys}) == 3
    assert seeded(1, 2).integers(1 << 62) == seeded(1, 2).integers(1 << 62)
