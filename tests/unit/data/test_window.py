from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.data.window import COLUMNS, Window, pack
from rayrec.schema import batch_of_rows
from tests.shards import training_rows


@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=80), slots=st.integers(1, 400))
def test_micro_batches_hold_every_row_and_as_many_as_the_budget_takes(lengths: list[int], slots: int) -> None:
    lengths = sorted(lengths)
    borders = pack(np.array(lengths), slots)
    assert borders[0] == 0
    assert borders[-1] == len(lengths)
    for begin, end in pairwise(borders):
        assert end > begin
        assert end - begin == 1 or (end - begin) * lengths[end - 1] <= slots
        assert end == len(lengths) or (end + 1 - begin) * max(lengths[end], 1) > slots


def test_micro_batches_use_the_budget() -> None:
    assert pack(np.full(10, 5), 20) == [0, 4, 8, 10]
    assert pack(np.array([1, 1, 1, 2, 2, 9, 9]), 8) == [0, 4, 5, 6, 7]
    assert pack(np.zeros(0, np.int64), 8) == [0]


@pytest.mark.parametrize("rows", [1, 2, 70])
def test_every_batch_is_batch_of_rows(rows: int) -> None:
    table = training_rows(rows, seed=3)
    expected = {row: batch_of_rows(table.slice(number, 1)) for number, row in enumerate(batch_of_rows(table).row_ids)}
    halves = pa.concat_tables([table.slice(0, rows // 2), table.slice(rows // 2)])  # chunks that begin within buffers
    window = Window(halves.select(COLUMNS), 40, np.random.default_rng(0), lambda: halves["user_id"])
    seen = []
    for number in range(len(window)):
        batch = window.batch(number, np.array([7]))
        assert batch.negatives_K.tolist() == [7]
        for place, row in enumerate(batch.row_ids):
            one, length = expected[row], batch.lengths_B[place]
            assert batch.items_BL[place].tolist() == one.items_BL[0].tolist() + [0] * (batch.items_BL.shape[1] - length)
            assert batch.likes_BL[place, :length].tolist() == one.likes_BL[0].tolist()
            assert (batch.likes_BL[place, length:] == -1).all()
            assert (batch.lengths_B[place], batch.as_of_B[place]) == (one.lengths_B[0], one.as_of_B[0])
            assert (batch.first_target_B[place], batch.profiles[place]) == (one.first_target_B[0], one.profiles[0])
        assert (batch.row_ids[-1], list(batch.row_ids[1:3])) == (list(batch.row_ids)[-1], list(batch.row_ids)[1:3])
        seen += batch.row_ids
    assert sorted(seen) == sorted(expected)


def test_nobody_reads_user_ids_until_they_are_asked_for() -> None:
    rows, asked = training_rows(30), []
    window = Window(rows.select(COLUMNS), 40, np.random.default_rng(0), lambda: (asked.append(1), rows["user_id"])[1])
    batches = [window.batch(number, np.zeros(0)) for number in range(len(window))]
    assert sum(len(batch.row_ids) for batch in batches) == 30
    assert asked == []
    assert len({row for batch in batches for row in batch.row_ids}) == 30
    assert asked == [1]


def test_rows_and_batches_are_shuffled_by_the_generator_alone() -> None:
    def order(seed: int) -> list[tuple[str, ...]]:
        rows = training_rows(60)
        window = Window(rows.select(COLUMNS), 40, np.random.default_rng(seed), lambda: rows["user_id"])
        return [tuple(window.batch(number, np.zeros(0)).row_ids) for number in range(len(window))]

    assert order(0) == order(0)
    assert order(0) != order(1)
    longest = [max(int(row.split("@")[1]) for row in rows) for rows in order(0)]
    assert longest != sorted(longest)
    assert {frozenset(rows) for rows in order(0)} != {frozenset(rows) for rows in order(1)}
