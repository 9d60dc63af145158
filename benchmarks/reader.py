"""Rows a second of the reader against a raw pyarrow scan of the same shards, at 1, 2 and 4 processes.

The reader runs with its default config: shuffled, bucketed, padded, with profiles and negatives, as its consumer gets
them; it does not read user ids, which training never looks at. The raw scan decodes all columns to Arrow and drops
them, once with pyarrow's threads and once without; a turn of the reader is compared with the faster of the two. All are
timed in the same processes, turn by turn, from a common start to the last process's end; the files lie in the page
cache. A reader's one start-up (`Loader(...)`: footers and item statistics) is timed apart.

    python benchmarks/reader.py    # prints JSON and writes benchmarks/results/reader.json
"""

import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader
from rayrec.schema import ITEM_STATS, ROWS
from rayrec.storage import file_entry, publish

SEED = 0
FILES, ROWS_PER_FILE, ROWS_PER_GROUP = 16, 32_768, 1024
NUM_ITEMS, ZIPF, MAX_HISTORY, HISTORY_LENGTH, PROFILE_WORDS = 100_000, 1.5, 1000, 50, 15
PROCESSES = (1, 2, 4)
REPETITIONS = 7
RESULT = Path(__file__).parent / "results" / "reader.json"


def row_lengths(users: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of training rows: histories of Zipf lengths, cut into chunks that share half a history of context."""
    events_U = np.minimum(rng.zipf(ZIPF, users), MAX_HISTORY)
    stride = HISTORY_LENGTH + 1 - HISTORY_LENGTH // 2
    more_U = -(-np.maximum(events_U - HISTORY_LENGTH - 1, 0) // stride)
    row_U = np.repeat(np.cumsum(more_U + 1) - more_U - 1, more_U + 1)
    chunk_R = np.arange(len(row_U)) - row_U
    begin_R = np.maximum(chunk_R * stride, 0)
    left_R: np.ndarray = np.repeat(events_U, more_U + 1) - begin_R
    clipped_R: np.ndarray = np.clip(left_R, 1, HISTORY_LENGTH + 1)
    return clipped_R


def training_rows(count: int, rng: np.random.Generator) -> pa.Table:
    """Rows of the ROWS schema: Zipf items, a profile of about a hundred letters."""
    lengths = row_lengths(count, rng)[:count]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    total = int(lengths.sum())
    items = np.minimum(rng.zipf(1.2, total), NUM_ITEMS) - 1
    letters = rng.choice(np.frombuffer(b"abcdefghijklmnoprstu", np.uint8), (500, 6))
    words = np.array([bytes(word).decode() for word in letters])[rng.integers(0, 500, (count, PROFILE_WORDS))]
    users = np.sort(rng.integers(0, 2**62, count))
    return pa.table(
        {
            "user_id": [f"{user:032x}" for user in users],
            "as_of": rng.integers(1_500_000_000_000, 1_700_000_000_000, count),
            "items": pa.ListArray.from_arrays(offsets, pa.array(items, pa.int32())),
            "likes": pa.ListArray.from_arrays(offsets, pa.array(rng.integers(-1, 2, total), pa.int8())),
            "first_target": np.zeros(count, np.int32),
            "profile": [" ".join(row) for row in words],
            "seen": pa.nulls(count, pa.list_(pa.int32())),
        }
    ).cast(ROWS)


def write_dataset(folder: Path) -> None:
    """A published dataset that holds training rows and item statistics."""
    rng = np.random.default_rng(SEED)
    stats = pa.table({name: np.zeros(NUM_ITEMS, np.int32) for name in ITEM_STATS.names})
    stats = stats.set_column(0, "item", pa.array(np.arange(NUM_ITEMS))).set_column(
        2, "count", pa.array([1] * NUM_ITEMS)
    )
    tables = {f"rows/train/part-{number:05d}.parquet": training_rows(ROWS_PER_FILE, rng) for number in range(FILES)}
    tables["item_stats/part-0.parquet"] = stats.cast(ITEM_STATS)
    for path, table in tables.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, folder / path, row_group_size=ROWS_PER_GROUP, compression="zstd")
    cutoffs = {"valid": 1_700_000_000_000, "test": 1_700_000_000_000, "end": 1_700_000_000_000}
    rule = {"like_threshold": 4.0, "liked_events": [], "disliked_events": []}
    about = {"cutoffs": cutoffs, "num_items": NUM_ITEMS, "history_length": HISTORY_LENGTH, "like_rule": rule}
    publish(str(folder), "dataset", {path: file_entry(str(folder / path)) for path in tables}, **about)


def scan(paths: list[str], use_threads: bool) -> int:
    """Decodes files to Arrow; returns how many rows they hold."""
    files = (parquet.ParquetFile(path) for path in paths)
    return sum(len(batch) for file in files for batch in file.iter_batches(columns=ROWS.names, use_threads=use_threads))


def read(loader: Loader, epoch: int) -> int:
    """One epoch of one rank; returns how many rows it got."""
    rows = 0
    for step in loader.epoch(epoch):
        got = sum(len(batch.profiles) for batch in step.batches if batch.lengths_B[-1])  # a row has an item at least
        if not got:
            return rows
        rows += got
    raise AssertionError("an epoch has no end of its own")


def worker(folder: str, rank: int, processes: int, barrier: Barrier, results: Connection) -> None:
    """Scans and reads its share turn by turn, together with the other processes."""
    dataset = Dataset(folder)
    started = time.perf_counter()
    loader = Loader(dataset, LoaderConfig(), seed=SEED, rank=rank, world_size=processes)
    start_up = time.perf_counter() - started
    paths = [f"{folder}/{path}" for path in dataset.files("rows/train")[rank::processes]]

    def timed(work: Callable[[], int]) -> tuple[int, float, float]:
        barrier.wait()
        begin = time.perf_counter()
        rows = work()
        return rows, begin, time.perf_counter()

    for epoch in range(-1, REPETITIONS):  # the first turn warms up
        kinds = partial(scan, paths, True), partial(scan, paths, False), partial(read, loader, epoch + 1)
        turn = [timed(kind) for kind in kinds]
        if epoch >= 0:
            results.send(turn)
    results.send(start_up)


def measure(folder: str, processes: int) -> dict[str, Any]:
    """Medians over the repetitions at one number of processes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    pipes = [context.Pipe(duplex=False) for _ in range(processes)]
    started = [
        context.Process(target=worker, args=(folder, rank, processes, barrier, pipe[1]))
        for rank, pipe in enumerate(pipes)
    ]
    for process in started:
        process.start()
    rates: dict[str, list[float]] = {"scan_with_threads": [], "scan": [], "reader": []}
    for _ in range(REPETITIONS):
        turns = [pipe[0].recv() for pipe in pipes]
        for number, name in enumerate(rates):
            counted, begins, ends = zip(*(turn[number] for turn in turns), strict=True)
            assert sum(counted) == FILES * ROWS_PER_FILE, f"{name} gave {sum(counted)} rows"
            rates[name].append(sum(counted) / (max(ends) - min(begins)))
    start_up = max(pipe[0].recv() for pipe in pipes)
    for process in started:
        process.join()
    ratios = [reader / max(scans) for *scans, reader in zip(*rates.values(), strict=True)]
    return {
        "processes": processes,
        **{f"{name}_rows_per_s": round(median(values)) for name, values in rates.items()},
        "ratio": round(median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "start_up_s": round(start_up, 3),
    }


def main() -> None:
    """Measures and writes the result."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        results = [measure(folder, processes) for processes in PROCESSES]
    result = {
        "question": "rows/s of the reader against a raw pyarrow scan of the same shards",
        "commit": commit,
        "seed": SEED,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {"python": platform.python_version(), "pyarrow": pa.__version__, "numpy": np.__version__},
        "config": {
            "loader": LoaderConfig().model_dump(mode="json"),
            "rows": FILES * ROWS_PER_FILE,
            "files": FILES,
            "rows_per_group": ROWS_PER_GROUP,
            "megabytes": round(size / 1e6, 1),
            "repetitions": REPETITIONS,
        },
        "results": results,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
