import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.split import HOUR_MS, catalogue, cut_offs
from rayrec.schema import CATALOGUE, ITEMS


def items(count: int) -> pa.Table:
    rows = [{"item_id": str(number), "title": f"title {number}"} for number in range(count)]
    return pa.Table.from_pylist(rows, ITEMS)


def test_cut_offs_leave_the_wanted_shares_behind() -> None:
    hours = np.array([7, 3, 9, 4, 5, 6, 8, 10, 11, 12])
    found = cut_offs(hours, np.full(10, 100), 0.2, 0.1)
    assert (found.valid, found.test, found.end) == (10 * HOUR_MS, 12 * HOUR_MS, 13 * HOUR_MS)


def test_a_crowded_last_hour_still_leaves_three_parts() -> None:
    found = cut_offs(np.array([1, 2, 3]), np.array([1, 1, 1000]), 0.1, 0.1)
    assert (found.valid, found.test, found.end) == (2 * HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS)


def test_too_few_hours_are_refused() -> None:
    with pytest.raises(ValueError, match="2 distinct hour"):
        cut_offs(np.array([1, 2]), np.array([5, 5]), 0.1, 0.1)


def test_the_catalogue_does_not_depend_on_the_order_of_items() -> None:
    table = items(300)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(300)))
    first, second = catalogue(table, 0.05, 0.15, 0), catalogue(shuffled, 0.05, 0.15, 0)
    assert first.schema == CATALOGUE
    assert first.equals(second)
    assert not first.equals(catalogue(table, 0.05, 0.15, 1))


def test_indices_mean_nothing_and_shares_are_met() -> None:
    table = catalogue(items(3000), 0.05, 0.15, 0)
    numbers = np.array(table["item_id"].to_pylist(), int)
    assert abs(np.corrcoef(numbers, np.arange(3000))[0, 1]) < 0.06
    held_out = np.array(table["held_out"].to_pylist())
    assert (held_out == "test").mean() == pytest.approx(0.15, abs=0.03)
    assert (held_out == "valid").mean() == pytest.approx(0.05, abs=0.02)
    assert abs(np.corrcoef(held_out == "test", np.arange(3000))[0, 1]) < 0.06


def test_an_item_keeps_its_part_when_others_join() -> None:
    few, many = (catalogue(items(count), 0.05, 0.15, 0) for count in (100, 300))
    parts = dict(zip(many["item_id"].to_pylist(), many["held_out"].to_pylist(), strict=True))
    assert all(parts[row["item_id"]] == row["held_out"] for row in few.to_pylist())


def test_all_items_held_out_is_refused() -> None:
    with pytest.raises(ValueError, match="all 2 items are held out"):
        catalogue(items(2), 0.49, 0.509, 0)
