"""What is recommended at all, groups of users and items, and blocks in any order, on rows written by hand."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest

from rayrec.data.work import Result, Task
from rayrec.evaluate.measure import LONG_HISTORY, Measured, group_slices, measure, report_slices
from rayrec.schema import CATALOGUE, DISLIKED, LIKED, ROWS, Batch, Scorer

ITEMS = 6
COUNTS_N = np.array([8, 1, 4, 3, 0, 0])
"""Percentiles: 11/12, 5/12, 9/12, 7/12, 2/12, 2/12."""
HISTORIES = ([], [0], [0] * (LONG_HISTORY - 1), [0] * LONG_HISTORY, [0, 2])


class Indices(Scorer):
    """Ranks items by falling index, whoever asks."""

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The index as a score, twice."""
        scores_BN = np.repeat(np.arange(ITEMS, dtype=np.float32)[None], len(batch.row_ids), axis=0)
        return scores_BN, scores_BN


def catalogue() -> pa.Table:
    items = [{"item_id": str(item), "title": "", "held_out": "test" if item == 5 else ""} for item in range(ITEMS)]
    return pa.Table.from_pylist(items, CATALOGUE)


def rows(targets: Sequence[int], likes: Sequence[int]) -> pa.Table:
    made = [
        {
            "user_id": str(user),
            "as_of": 0,
            "items": [*history, *targets],
            "likes": [*([LIKED] * len(history)), *likes],
            "first_target": len(history),
            "profile": "",
            "seen": sorted(set(history)),
        }
        for user, history in enumerate(HISTORIES)
    ]
    return pa.Table.from_pylist(made, ROWS)


def measured(k: int, users_per_block: int = 2, run: object = None) -> Measured:
    table = rows([1, 3], [LIKED, DISLIKED])
    slices = report_slices(table, catalogue()) | group_slices(table, catalogue(), COUNTS_N)
    how = {} if run is None else {"run": run}
    return measure(Indices(), table, slices, k=k, users_per_block=users_per_block, counts_N=COUNTS_N, **how)  # type: ignore[arg-type]


def test_groups_of_users_by_history_and_of_items_by_popularity() -> None:
    slices = group_slices(rows([1], [LIKED]), catalogue(), COUNTS_N)
    assert slices["short_history"].users_U.tolist() == [False, True, True, False, True]
    assert slices["long_history"].users_U.tolist() == [False, False, False, True, False]
    assert slices["head"].relevant_N.tolist() == [True, False, False, False, False, False]
    assert slices["tail"].relevant_N.tolist() == [False, True, True, True, True, False]
    assert all(part.candidates_N.all() for part in slices.values())
    odd = group_slices(rows([1], [LIKED]), catalogue(), np.array([3, 2, 3, 2, 0, 0]))
    assert np.flatnonzero(odd["head"].relevant_N).tolist() == [0, 2]


def test_lists_are_counted_by_slice_and_user() -> None:
    found = measured(k=2)
    assert found.listed["all"].tolist() == [0, 0, 0, 0, 5, 5]
    assert found.listed["warm"].tolist() == [0, 0, 0, 5, 5, 0]
    assert found.listed["cold"].tolist() == [0, 0, 0, 0, 0, 5]
    assert found.listed["no_history"].tolist() == [0, 0, 0, 0, 1, 1]
    assert found.listed["long_history"].tolist() == [0, 0, 0, 0, 1, 1]
    assert measured(k=6).listed["all"].tolist() == [1, 5, 4, 5, 5, 5], "what was seen is not recommended"


def test_popularity_bias_is_of_the_list_less_of_what_was_met() -> None:
    """Met are items 1 and 3, one liked and one not; listed are 4 and 5."""
    found = measured(k=2).metrics
    np.testing.assert_allclose(found["all"]["popularity"], 2 / 12)
    np.testing.assert_allclose(found["all"]["popularity_bias"], 2 / 12 - (5 + 7) / 24)
    np.testing.assert_allclose(found["warm"]["popularity"], (7 + 2) / 24)
    np.testing.assert_allclose(found["tail"]["popularity_bias"], 2 / 12 - (5 + 7) / 24)
    assert np.isnan(found["head"]["popularity_bias"]).all(), "nobody met an item of the head"
    np.testing.assert_allclose(found["head"]["popularity"], 2 / 12)
    assert np.isnan(found["no_history"]["popularity"]).tolist() == [False, True, True, True, True]


def test_without_counts_no_lists_are_made() -> None:
    table = rows([1], [LIKED])
    found = measure(Indices(), table, report_slices(table, catalogue()), k=2, users_per_block=2)
    assert found.listed == {}
    assert set(found.metrics["all"]) == {"ndcg", "recall", "precision", "mrr"}


def backwards(function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
    """A Run that answers in the wrong order."""
    return map(function, tasks[::-1])


@pytest.mark.parametrize("users_per_block", [1, 2, 3, 5, 50])
def test_blocks_of_any_size_in_any_order_change_nothing(users_per_block: int) -> None:
    whole, parts = measured(k=2, users_per_block=50), measured(k=2, users_per_block=users_per_block, run=backwards)
    for name, metrics in whole.metrics.items():
        assert list(parts.metrics[name]) == list(metrics)
        for metric, values_U in metrics.items():
            np.testing.assert_array_equal(parts.metrics[name][metric], values_U)
        np.testing.assert_array_equal(parts.listed[name], whole.listed[name])
    for column in ("row_E", "item_E", "label_E", "like_E"):
        np.testing.assert_array_equal(getattr(parts, column), getattr(whole, column))
    assert whole.row_E.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
