"""Item statistics, against counts made by hand from a few days of a few items."""

import numpy as np
import pyarrow as pa
import pytest

from rayrec.item_stats import DAY_MS, FEATURES, LIKE_RATE_PRIOR, RECENT_DAYS, ItemStats
from rayrec.schema import ITEM_STATS

# item, day, count, likes; item 2 was never met
DAILY = [(1, 100, 5, 5), (0, 100, 2, 1), (0, 103, 4, 0), (0, 130, 1, 1), (3, 131, 8, 2)]
NUM_ITEMS = 4


def stats(rows: list[tuple[int, int, int, int]]) -> ItemStats:
    names = ITEM_STATS.names
    return ItemStats(
        pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], ITEM_STATS), len(DAILY) - 1
    )


def before(item: int, day: int, first: int = 0) -> tuple[int, int]:
    rows = [row for row in DAILY if row[0] == item and first <= row[1] < day]
    return sum(row[2] for row in rows), sum(row[3] for row in rows)


@pytest.mark.parametrize("day", [0, 99, 100, 101, 103, 104, 117, 118, 130, 131, 132, 500])
def test_features_are_the_counts_of_days_that_have_ended(day: int) -> None:
    moment = day * DAY_MS + DAY_MS // 2
    features_NF = stats(DAILY).features(np.arange(NUM_ITEMS), np.array(moment))
    ended = [row for row in DAILY if row[1] < day]
    overall = (sum(row[3] for row in ended) + 1) / (sum(row[2] for row in ended) + 2)
    for item in range(NUM_ITEMS):
        count, likes = before(item, day)
        recent, _ = before(item, day, day - RECENT_DAYS)
        rate = (likes + LIKE_RATE_PRIOR * overall) / (count + LIKE_RATE_PRIOR)
        odds = np.log(rate / (1 - rate)) - np.log(overall / (1 - overall))
        expected = dict(
            recent_popularity=np.log1p(recent), popularity=np.log1p(count), unseen=float(count == 0), like_rate=odds
        )
        np.testing.assert_allclose(features_NF[item], [expected[name] for name in FEATURES], rtol=1e-5, atol=1e-6)


def test_the_day_of_the_moment_itself_does_not_count() -> None:
    first, last = stats(DAILY), stats([*DAILY, (2, 131, 9, 9)])
    moments = 131 * DAY_MS + np.array([0, DAY_MS - 1])
    np.testing.assert_array_equal(
        first.features(np.arange(NUM_ITEMS)[None], moments[:, None])[..., :3],
        last.features(np.arange(NUM_ITEMS)[None], moments[:, None])[..., :3],
    )
    assert last.features(np.array(2), np.array(132 * DAY_MS))[FEATURES.index("unseen")] == 0


def test_items_and_moments_broadcast() -> None:
    some = stats(DAILY)
    moments = np.array([104, 132]) * DAY_MS
    features_MNF = some.features(np.arange(NUM_ITEMS)[None], moments[:, None])
    assert features_MNF.shape == (2, NUM_ITEMS, len(FEATURES))
    assert features_MNF.dtype == np.float32
    for row, moment in enumerate(moments):
        np.testing.assert_array_equal(features_MNF[row], some.features(np.arange(NUM_ITEMS), moment))


def test_counts_between_two_days() -> None:
    counts = stats(DAILY).counts_between(np.arange(NUM_ITEMS), np.array(101 * DAY_MS), np.array(131 * DAY_MS))
    assert counts.tolist() == [5, 0, 0, 0]


def test_without_any_interaction_every_item_is_unseen() -> None:
    features_NF = stats([]).features(np.arange(NUM_ITEMS), np.array(10 * DAY_MS))
    np.testing.assert_array_equal(features_NF, np.tile(np.float32([0, 0, 1, 0]), (NUM_ITEMS, 1)))
