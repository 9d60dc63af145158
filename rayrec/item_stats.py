"""Popularity and like-rate of items as of a moment, from daily counts; a day counts only once it has ended."""

import numpy as np
import pyarrow as pa

DAY_MS = 86_400_000
RECENT_DAYS = 14
LIKE_RATE_PRIOR = 20.0
"""Interactions' worth of the overall like-rate that an item's own like-rate is shrunk towards."""

FEATURES = ("recent_popularity", "popularity", "unseen", "like_rate")


class ItemStats:
    """Looks up features of items at moments.

    Cumulative counts lie sorted by (item, day), so memory follows the number of active item-days and a look-up is a
    binary search.
    """

    def __init__(self, daily: pa.Table, num_items: int) -> None:
        """Args:
        daily: a table of the ITEM_STATS schema, one row an item and day.
        num_items: size of the catalogue.
        """
        daily = daily.sort_by([("item", "ascending"), ("day", "ascending")])
        items, days = (daily[name].to_numpy().astype(np.int64) for name in ("item", "day"))
        self.num_items = num_items
        self.first_day = int(days.min()) if len(days) else 0
        self.span = (int(days.max()) - self.first_day + 2) if len(days) else 1
        self.keys = items * self.span + (days - self.first_day)
        self.counts = np.concatenate([[0], np.cumsum(daily["count"].to_numpy().astype(np.int64))])
        self.likes = np.concatenate([[0], np.cumsum(daily["likes"].to_numpy().astype(np.int64))])
        by_day = np.bincount(days - self.first_day, daily["count"].to_numpy(), self.span) if len(days) else np.zeros(1)
        likes_by_day = (
            np.bincount(days - self.first_day, daily["likes"].to_numpy(), self.span) if len(days) else np.zeros(1)
        )
        self.all_counts = np.concatenate([[0], np.cumsum(by_day)])
        self.all_likes = np.concatenate([[0], np.cumsum(likes_by_day)])

    def _days_before(self, as_of: np.ndarray) -> np.ndarray:
        days: np.ndarray = np.clip(as_of // DAY_MS - self.first_day, 0, self.span - 1)
        return days

    def _rows_before(self, items: np.ndarray, days: np.ndarray) -> np.ndarray:
        rows: np.ndarray = np.searchsorted(self.keys, items * self.span + days)
        return rows

    def counts_between(self, items: np.ndarray, from_ms: np.ndarray, to_ms: np.ndarray) -> np.ndarray:
        """Interactions of each item on the days that began at or after from_ms's day and ended before to_ms's day."""
        items = np.asarray(items, np.int64)
        after = self._rows_before(items, self._days_before(np.asarray(to_ms)))
        before = self._rows_before(items, self._days_before(np.asarray(from_ms)))
        counts: np.ndarray = self.counts[after] - self.counts[before]
        return counts

    def features(self, items: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """The FEATURES of items at moments, float32 [..., 4]; both arguments broadcast against each other.

        recent_popularity and popularity are log(1 + count) over the last RECENT_DAYS days and over all days, `unseen`
        is 1 where nobody has met the item yet, `like_rate` is the shrunk log-odds of a like relative to all items.

        Args:
            items: dense indices.
            as_of: ms; only days that ended before this moment's day count.
        """
        items, as_of = np.broadcast_arrays(np.asarray(items, np.int64), np.asarray(as_of, np.int64))
        day = self._days_before(as_of)
        start = self._rows_before(items, np.zeros_like(day))
        recent = self._rows_before(items, self._days_before(as_of - RECENT_DAYS * DAY_MS))
        end = self._rows_before(items, day)
        count = self.counts[end] - self.counts[start]
        likes = self.likes[end] - self.likes[start]
        overall = (self.all_likes[day] + 1.0) / (self.all_counts[day] + 2.0)
        rate = (likes + LIKE_RATE_PRIOR * overall) / (count + LIKE_RATE_PRIOR)
        logit = np.log(rate / (1 - rate)) - np.log(overall / (1 - overall))
        recent_count = self.counts[end] - self.counts[recent]
        columns = [np.log1p(recent_count), np.log1p(count), (count == 0).astype(float), logit]
        return np.stack(columns, axis=-1).astype(np.float32)
