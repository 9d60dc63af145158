"""The order contract: which rows make up which micro-batch of which step, whatever the number of workers.

Seed and epoch deal row groups to V virtual streams. Each stream shuffles within a window, buckets by length and packs
micro-batches under a budget of slots (rows times the longest row). Step t is micro-batch t of all V streams; rank r of
W reads streams r, r + W, … and no others. A stream that has ended gives batches without a target.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.negatives import seeded, uniform_negatives
from rayrec.schema import ROWS, UNKNOWN, Batch, batch_of_rows

_DEAL, _SHUFFLE, _NEGATIVES = 0, 1, 2


@dataclass(frozen=True)
class Step:
    """What one rank does in one step.

    Attributes:
        number: of the step within its epoch.
        batches: one a stream of this rank, in the order of streams.
        ended: every stream of this rank has ended before this step, so its batches hold no target.
    """

    number: int
    batches: tuple[Batch, ...]
    ended: bool


class Loader:
    """Reads the rows of one split in the order that (seed, epoch) sets."""

    def __init__(self, dataset: Dataset, config: LoaderConfig, *, seed: int, split: str = "train") -> None:
        """Args:
            dataset: to read.
            config: streams, budget, window, negatives.
            seed: of order and negatives.
            split: whose rows.

        Raises:
            ValueError: no item may be drawn as a negative.
        """
        self.dataset, self.config, self.seed = dataset, config, seed
        self.groups = dataset.row_groups(split)
        self.items = dataset.trained_items()
        if not len(self.items):
            raise ValueError(f"{dataset.uri} has no item that was met before validation begins: nothing to train on")

    def epoch(self, epoch: int, *, rank: int, world_size: int, start_step: int = 0) -> Iterator[Step]:
        """Steps of one rank, without end: after its streams have ended it yields steps without targets.

        The caller stops when no rank's step holds a target.

        Args:
            epoch: counts from 0; each has its own order.
            rank: of this worker.
            world_size: number of workers.
            start_step: the first step to yield, to resume.

        Raises:
            ValueError: the world size does not divide the number of streams.
        """
        streams = self.config.streams
        if world_size < 1 or streams % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"rank {rank} of world size {world_size} cannot share {streams} streams evenly; expected a world size "
                f"that divides loader.streams: set loader.streams to a multiple of the number of workers"
            )
        return self._steps(epoch, range(rank, streams, world_size), start_step)

    def some_profiles(self, count: int) -> list[str]:
        """Up to `count` distinct profiles from the first row groups of the first epoch, the same for every rank."""
        profiles: dict[str, None] = {}
        for group in seeded(self.seed, _DEAL, 0).permutation(len(self.groups)):
            rows = self.dataset.read_row_group(self.groups[group])
            profiles.update(dict.fromkeys(text for text in rows["profile"].to_pylist() if text))
            if len(profiles) >= count:
                break
        return list(profiles)[:count]

    def _steps(self, epoch: int, streams: range, start_step: int) -> Iterator[Step]:
        readers = [self._micro_batches(epoch, stream) for stream in streams]
        number = 0
        while True:
            rows = [next(reader, None) for reader in readers]
            if number >= start_step:
                batches = tuple(
                    self._batch(part, (epoch, number, stream)) for part, stream in zip(rows, streams, strict=True)
                )
                yield Step(number, batches, all(part is None for part in rows))
            number += 1

    def _batch(self, rows: pa.Table | None, key: tuple[int, int, int]) -> Batch:
        rng = seeded(self.seed, _NEGATIVES, *key)
        negatives_K = uniform_negatives(self.items, self.config.num_negatives, rng)
        return _empty_batch(negatives_K) if rows is None else batch_of_rows(rows, negatives_K)

    def _micro_batches(self, epoch: int, stream: int) -> Iterator[pa.Table]:
        """The stream's micro-batches as tables of rows."""
        order = seeded(self.seed, _DEAL, epoch).permutation(len(self.groups))[stream :: self.config.streams]
        rng = seeded(self.seed, _SHUFFLE, epoch, stream)
        window = ROWS.empty_table()
        for group in order:
            window = pa.concat_tables([window, self.dataset.read_row_group(self.groups[group])])
            while len(window) >= self.config.shuffle_window:
                yield from self._pack(window[: self.config.shuffle_window], rng)
                window = window[self.config.shuffle_window :]
        if len(window):
            yield from self._pack(window, rng)

    def _pack(self, window: pa.Table, rng: np.random.Generator) -> Iterator[pa.Table]:
        """Shuffles a window, sorts it by length, cuts it where the budget is full, shuffles the micro-batches."""
        lengths = pc.list_value_length(window["items"]).to_numpy()
        order = rng.permutation(len(window))
        order = order[np.argsort(lengths[order], kind="stable")]
        borders = pack(lengths[order], self.config.slots_per_batch)
        for part in rng.permutation(len(borders) - 1):
            yield window.take(pa.array(order[borders[part] : borders[part + 1]]))


def pack(lengths: np.ndarray, slots: int) -> list[int]:
    """Where micro-batches begin among rows in ascending length, and the end: rows times the longest row fit the budget.

    A row longer than the whole budget makes a micro-batch of its own.

    Args:
        lengths: ascending.
        slots: the budget.
    """
    borders = [0]
    for row, length in enumerate(lengths):
        if row > borders[-1] and (row - borders[-1] + 1) * int(length) > slots:
            borders.append(row)
    return [*borders, len(lengths)]


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
