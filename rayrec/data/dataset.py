"""Reads a published dataset: tables whole, or training rows group by group."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rayrec.data.cache import FileCache
from rayrec.data.split import CutOffs
from rayrec.item_stats import ItemStats
from rayrec.profiles import LikeRule
from rayrec.schema import CATALOGUE, HISTORIES, ITEM_STATS, ROWS
from rayrec.storage import absolute, join, manifest

_FOOTERS_AT_ONCE = 16
"""Requests at once: on object storage a footer costs latency and little else."""


@dataclass(frozen=True)
class RowGroups:
    """The Parquet row groups of one split, G in all, in the order of the files.

    Attributes:
        paths: of the files.
        file_G: which of them a group lies in.
        index_G: the group's number in its file.
        rows_G: how many rows it holds.
    """

    paths: tuple[str, ...]
    file_G: np.ndarray
    index_G: np.ndarray
    rows_G: np.ndarray


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
        self._filesystem, self._path = fsspec.core.url_to_fs(self.uri)

    def files(self, folder: str) -> list[str]:
        """Paths of the Parquet files in a folder, sorted."""
        return sorted(name for name in self.manifest["files"] if name.rpartition("/")[0] == folder)

    @property
    def is_local(self) -> bool:
        """Whether its files lie on this machine's own file system."""
        return "file" in self._filesystem.protocol

    def open(self, path: str, cache: FileCache | None = None) -> parquet.ParquetFile:
        """One of its Parquet files.

        Args:
            path: as the manifest lists it.
            cache: where a remote file is fetched to, whole and verified; None reads it in place.
        """
        if self.is_local:
            return parquet.ParquetFile(join(self._path, path))
        if cache is None:
            return parquet.ParquetFile(self._filesystem.open(join(self._path, path), "rb"))
        entry = self.manifest["files"][path]
        return parquet.ParquetFile(cache.open(join(self.uri, path), entry["size"], entry["sha256"]))

    def _table(self, folder: str, schema: pa.Schema) -> pa.Table:
        tables = [self.open(path).read().cast(schema) for path in self.files(folder)]
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

    def row_groups(self, split: str) -> RowGroups:
        """The row groups of train, valid or test, in the order of the files; only their footers are read."""
        paths = tuple(self.files(f"rows/{split}"))
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            rows = list(pool.map(self._rows_of_groups, paths))
        groups = [len(each) for each in rows]
        return RowGroups(
            paths=paths,
            file_G=np.repeat(np.arange(len(paths)), groups),
            index_G=np.concatenate([np.arange(each) for each in groups], dtype=np.int64),
            rows_G=np.array([count for each in rows for count in each], np.int64),
        )

    def _rows_of_groups(self, path: str) -> list[int]:
        metadata = self.open(path).metadata
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
