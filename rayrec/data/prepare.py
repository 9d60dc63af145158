"""Runs the tasks of a job on Ray Data, streamed to whatever the cluster has."""

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from rayrec.config import is_refusal
from rayrec.data.work import Result, Task
from rayrec.tracking import Progress


def on_ray(function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
    """Runs tasks on Ray Data, one a block; what they share lies in the object store once. Shows progress.

    Raises:
        ValueError: a task refused its input.
    """
    if not tasks:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours tells rows
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns of what was asked for
    pickled = [{"task": pickle.dumps(task)} for task in tasks]
    blocks = ray.data.from_items(pickled, override_num_blocks=len(pickled))
    done = blocks.map_batches(partial(_call, shared=ray.put(function)), batch_size=None, batch_format="pyarrow")
    rows, began = 0, time.monotonic()
    with Progress(title, len(tasks), "task") as progress:
        for row in done.iter_rows():
            result, refusal = pickle.loads(row["result"])
            if refusal is not None:
                raise ValueError(refusal)
            rows += result.get("rows", 0) if isinstance(result, dict) else 0
            progress.update(rows=rows, rows_per_s=rows / max(time.monotonic() - began, 1e-9))
            yield result


def _call(block: pa.Table, shared: ray.ObjectRef[Callable[[Any], Any]]) -> pa.Table:
    """Calls the function in `shared` with every task of a block; a refusal comes back as its text."""
    pa.set_cpu_count(1)
    function = ray.get(shared)
    results = []
    for task in block["task"].to_pylist():
        try:
            results.append(pickle.dumps((function(pickle.loads(task)), None)))
        except ValueError as error:
            if not is_refusal(error):
                raise
            results.append(pickle.dumps((None, str(error))))
    pa.default_memory_pool().release_unused()
    return pa.table({"result": pa.array(results, pa.binary())})
