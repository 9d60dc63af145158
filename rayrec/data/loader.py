"""The order contract: which rows make up which micro-batch of which step, whatever the number of workers.

Seed and epoch shuffle the files, and within each file its row groups, and deal the sequence in equal parts to V virtual
streams. So a stream walks through whole files: a worker fetches and opens few, each once an epoch. A stream's windows
are runs of whole row groups; each is shuffled, sorted by length and packed under a budget of slots (window.py), seeded
by (seed, epoch, stream, window) alone. Step t is micro-batch t of all V streams; rank r of W reads streams r, r + W, …
and no others. A stream that has ended gives batches without a target, and so do the streams from V on that fill up the
ranks' steps where W does not divide V, for all ranks have equally many micro-batches.

Where a reader stands is one pair a stream: window, and micro-batch in it. To resume, each stream reads one window.
How many micro-batches came before depends on lengths that only its own rank has read; so a checkpoint gathers the
ranks' states (`merged`), and a reader of any world size takes its streams from the whole.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count, pairwise
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rayrec.data.cache import FileCache
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.negatives import seeded, uniform_negatives
from rayrec.data.window import COLUMNS, Window
from rayrec.schema import UNKNOWN, Batch

_DEAL, _SHUFFLE, _NEGATIVES = 0, 1, 2
_THREADS = 2
"""One decodes while the other, holding the interpreter, makes Python objects."""

Place = tuple[int, int]
"""Of a stream: the number of a window, and of the next micro-batch in it."""
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """What one rank does in one step.

    Attributes:
        number: of the step within its epoch.
        batches: one a stream of this rank, in the order of Loader.stream_numbers.
    """

    number: int
    batches: tuple[Batch, ...]


class Loader:
    """Reads one rank's share of a split in the order that (seed, epoch) sets, ahead of its consumer.

    Attributes:
        streams: that this rank reads.
        micro_batches: a step of every rank.
        stream_numbers: one a micro-batch of this rank's step, no other rank's: its streams, then a number from
            config.streams on where a batch without targets fills up the step.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: LoaderConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
    ) -> None:
        """Args:
            dataset: to read.
            config: streams, budget, window, negatives, read-ahead, cache.
            seed: of order and negatives.
            rank: of this worker.
            world_size: number of workers.
            split: whose rows.

        Raises:
            ValueError: there are more ranks than streams, or no item may be drawn as a negative.
        """
        if not 0 <= rank < world_size <= config.streams:
            raise ValueError(
                f"rank {rank} of world size {world_size} cannot share {config.streams} streams; expected at most as "
                "many workers as streams: lower the number of workers, or raise loader.streams and start anew"
            )
        self.config, self.seed = config, seed
        self.streams = range(rank, config.streams, world_size)
        self.micro_batches = -(-config.streams // world_size)
        self.stream_numbers = range(rank, world_size * self.micro_batches, world_size)
        self.groups = dataset.row_groups(split)
        self.items = dataset.trained_items()
        if not len(self.items):
            raise ValueError(f"{dataset.uri} has no item that was met before validation begins: nothing to train on")
        cache = None if dataset.is_local else FileCache(config.cache_folder, config.cache_mb * 1_000_000)
        self._open = partial(dataset.open, cache=cache)
        shards = [dataset.manifest["files"][path]["sha256"] for path in self.groups.paths]
        order = seed, config.streams, config.slots_per_batch, config.shuffle_window, shards
        self._order = hashlib.sha256(repr(order).encode()).hexdigest()
        self._epoch, self._step, self._places = 0, 0, self._beginning()

    def _beginning(self) -> tuple[Place, ...]:
        return ((0, 0),) * self.micro_batches

    def state_dict(self) -> dict[str, Any]:
        """Where this rank's streams stand after the last step that was handed out, as JSON values; see `merged`."""
        streams = {str(stream): list(place) for stream, place in zip(self.streams, self._places, strict=False)}
        return {"epoch": self._epoch, "step": self._step, "order": self._order, "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stands where a state says, so that `epoch` can go on there.

        Args:
            state: `merged` states of every rank, of any world size.

        Raises:
            ValueError: it belongs to another order: another dataset, seed or config.
        """
        if state["order"] != self._order:
            raise ValueError(
                "the state to resume from belongs to another order of rows; resume with the dataset, seed, "
                "loader.streams, loader.slots_per_batch and loader.shuffle_window it was saved with, or start anew"
            )
        self._epoch, self._step = state["epoch"], state["step"]
        places = [(window, part) for window, part in (state["streams"][str(v)] for v in self.streams)]
        self._places = (*places, *self._beginning()[len(places) :])

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Step]:
        """This rank's steps, without end: after its streams have ended it yields steps without targets.

        The caller stops when no rank's step holds a target. Threads make each stream's next window while one is
        consumed; they end with the iterator, and their errors come out there.

        Args:
            epoch: counts from 0; each has its own order.
            start_step: the first step to yield; 0, or where this loader stands.
        """
        if start_step == 0:
            self._epoch, self._step, self._places = epoch, 0, self._beginning()
        assert (epoch, start_step) == (self._epoch, self._step), "no state of that step was loaded"
        return self._steps()

    def some_profiles(self, count: int) -> list[str]:
        """Up to `count` distinct profiles from the first row groups of the first epoch, the same for every rank."""
        profiles: dict[str, None] = {}
        open_file = lru_cache(1)(self._open)
        for group in np.concatenate(self._deal(0)):
            rows = self._read(group[None], ("profile",), open_file)
            profiles.update(dict.fromkeys(text for text in rows["profile"].to_pylist() if text))
            if len(profiles) >= count:
                break
        return list(profiles)[:count]

    def _deal(self, epoch: int) -> list[np.ndarray]:
        """Each stream's row groups in the order it reads them; none for the numbers from config.streams on."""
        rng = seeded(self.seed, _DEAL, epoch)
        place_of_file = rng.permutation(len(self.groups.paths))
        order_G = np.lexsort((rng.random(len(self.groups.file_G)), place_of_file[self.groups.file_G]))
        none = [order_G[:0]] * len(range(self.config.streams, self.stream_numbers.stop))
        return [*np.array_split(order_G, self.config.streams), *none]

    def _read(
        self, groups: np.ndarray, columns: Sequence[str], open_file: Callable[[str], parquet.ParquetFile]
    ) -> pa.Table:
        """The rows of some row groups, in their order."""
        tables = []
        for run in np.split(groups, np.flatnonzero(np.diff(self.groups.file_G[groups])) + 1):
            file = open_file(self.groups.paths[self.groups.file_G[run[0]]])
            tables.append(file.read_row_groups(self.groups.index_G[run].tolist(), columns=columns, use_threads=False))
        return pa.concat_tables(tables)

    def _users(self, groups: np.ndarray) -> pa.ChunkedArray:
        return self._read(groups, ("user_id",), self._open)["user_id"]

    def _steps(self) -> Iterator[Step]:
        """Steps from where the loader stands; each is accounted for before it is handed out."""
        dealt = self._deal(self._epoch)
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rayrec-loader")
        readers = [
            self._stream(threads, (self._epoch, stream), dealt[stream], self._step, place)
            for stream, place in zip(self.stream_numbers, self._places, strict=True)
        ]
        try:
            for number in count(self._step):
                batches, places = zip(*map(next, readers), strict=True)
                self._step, self._places = number + 1, places
                yield Step(number, batches)
        finally:
            threads.shutdown(cancel_futures=True)

    def _stream(
        self, threads: ThreadPoolExecutor, key: tuple[int, int], groups: np.ndarray, step: int, place: Place
    ) -> Iterator[tuple[Batch, Place]]:
        """The micro-batches of one stream from a place on, each with the place after it.

        Args:
            threads: make windows ahead.
            key: epoch and stream.
            groups: the stream's row groups.
            step: the number of the next step.
            place: of its micro-batch.
        """
        number, part = place
        for batches in _ahead(threads, self._windows(key, groups, step, place)):
            places = [(number, after) for after in range(part + 1, part + len(batches))]
            number, part, step = number + 1, 0, step + len(batches)
            yield from zip(batches, [*places, (number, 0)], strict=True)
        for late in count(step):
            yield _empty_batch(self._negatives(late, 1, key)[0]), (number, 0)

    def _windows(self, key: tuple[int, int], groups: np.ndarray, step: int, place: Place) -> Iterator[list[Batch]]:
        """All micro-batches of each window from a place on, whose step is given."""
        first, skipped = place
        rows_before = np.cumsum(self.groups.rows_G[groups]) - self.groups.rows_G[groups]
        borders = np.flatnonzero(np.diff(rows_before // self.config.shuffle_window, prepend=-1)).tolist()
        open_file = lru_cache(1)(self._open)  # the next groups most often lie in the same file
        for number, (begin, end) in enumerate(pairwise([*borders, len(groups)])):
            if number < first:
                continue
            rng = seeded(self.seed, _SHUFFLE, *key, number)
            members = groups[begin:end]
            users = partial(self._users, members)
            window = Window(self._read(members, COLUMNS, open_file), self.config.slots_per_batch, rng, users)
            numbers = range(skipped, len(window))
            drawn_SK = self._negatives(step, len(numbers), key)
            yield [window.batch(part, negatives_K) for part, negatives_K in zip(numbers, drawn_SK, strict=True)]
            step, skipped = step + len(numbers), 0

    def _negatives(self, first: int, steps: int, key: tuple[int, int]) -> np.ndarray:
        return uniform_negatives(self.items, self.config.num_negatives, first, steps, self.seed, _NEGATIVES, *key)


def merged(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of all streams, of which a reader of any world size takes its own.

    Args:
        states: state_dict() of every rank, after the same step.
    """
    assert len({(state["epoch"], state["step"], state["order"]) for state in states}) == 1, "ranks stand apart"
    return {**states[0], "streams": {stream: place for state in states for stream, place in state["streams"].items()}}


def _ahead(threads: ThreadPoolExecutor, items: Iterator[T]) -> Iterator[T]:
    """An iterator whose next item is made in a thread while one is consumed."""
    coming = threads.submit(next, items, None)
    while (item := coming.result()) is not None:
        coming = threads.submit(next, items, None)
        yield item


def _empty_batch(negatives_K: np.ndarray) -> Batch:
    """One row without items or targets, so that a forward pass works and every parameter takes part."""
    return Batch(
        items_BL=np.zeros((1, 1), np.int64),
        likes_BL=np.full((1, 1), UNKNOWN, np.int8),
        lengths_B=np.zeros(1, np.int64),
        first_target_B=np.zeros(1, np.int64),
        as_of_B=np.zeros(1, np.int64),
        profiles=("",),
        row_ids=("",),
        negatives_K=negatives_K,
    )
