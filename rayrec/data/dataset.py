"""Reads a published dataset: tables whole, or training rows group by group."""

from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rayrec.data.split import CutOffs
from rayrec.item_stats import ItemStats
from rayrec.profiles import LikeRule
from rayrec.schema import CATALOGUE, HISTORIES, ITEM_STATS, ROWS
from rayrec.storage import absolute, join, manifest


@dataclass(frozen=True)
class RowGroup:
    """One Parquet row group: a file of the dataset and the group's number in it."""

    path: str
    index: int


class Dataset:
    """A dataset that `prepare` published; tables are read when asked for, from the files its manifest lists."""

    def __init__(self, uri: str) -> None:
        """Args:
            uri: of the dataset.

        Raises:
            ValueError: no dataset is published there.
        """
        self.uri = absolute(uri)
        self.manifest: dict[str, Any] = manifest(uri, "dataset")
        self.cutoffs = CutOffs(**self.manifest["cutoffs"])
        self.num_items: int = self.manifest["num_items"]
        self.history_length: int = self.manifest["history_length"]
        rule = self.manifest["like_rule"]
        self.rule = LikeRule(rule["like_threshold"], tuple(rule["liked_events"]), tuple(rule["disliked_events"]))
        self._open: dict[str, parquet.ParquetFile] = {}

    def files(self, folder: str) -> list[str]:
        """Paths of the Parquet files in a folder, sorted."""
        return sorted(name for name in self.manifest["files"] if name.rpartition("/")[0] == folder)

    def _file(self, path: str) -> parquet.ParquetFile:
        if path not in self._open:
            filesystem, full = fsspec.core.url_to_fs(join(self.uri, path))
            self._open[path] = parquet.ParquetFile(filesystem.open(full, "rb"))
        return self._open[path]

    def _table(self, folder: str, schema: pa.Schema) -> pa.Table:
        tables = [self._file(path).read().cast(schema) for path in self.files(folder)]
        return pa.concat_tables(tables).combine_chunks() if tables else schema.empty_table()

    def catalogue(self) -> pa.Table:
        """Items of the CATALOGUE schema; the row number is the dense index."""
        return self._table("items", CATALOGUE)

    def item_stats(self) -> pa.Table:
        """Interactions and likes by item and day, of the ITEM_STATS schema."""
        return self._table("item_stats", ITEM_STATS)

    def stats(self) -> ItemStats:
        """Popularity and like-rate of items as of a moment."""
        return ItemStats(self.item_stats(), self.num_items)

    def rows(self, split: str) -> pa.Table:
        """All rows of train, valid or test, of the ROWS schema, in the order of the files."""
        return self._table(f"rows/{split}", ROWS)

    def histories(self) -> pa.Table:
        """Every user's last events, of the HISTORIES schema."""
        return self._table("histories", HISTORIES)

    def trained_items(self) -> np.ndarray:
        """int64 dense indices of the items training may know: not held out, met on a day before validation begins."""
        items = np.arange(self.num_items)
        counts = self.stats().counts_between(items, np.zeros(1, np.int64), np.array([self.cutoffs.valid]))
        return items[counts > 0]

    def row_groups(self, split: str) -> list[RowGroup]:
        """The row groups of train, valid or test, in the order of the files."""
        return [
            RowGroup(path, index)
            for path in self.files(f"rows/{split}")
            for index in range(self._file(path).num_row_groups)
        ]

    def read_row_group(self, group: RowGroup) -> pa.Table:
        """The rows of one group, of the ROWS schema."""
        return self._file(group.path).read_row_group(group.index).cast(ROWS)
