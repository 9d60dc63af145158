"""The job of data.py by `rayrec prepare`'s own function on a local Ray; prints one line of JSON.

python benchmarks/data_rayrec.py LOGS OUT
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from data_peers import THREADS, Clock

from rayrec.data.config import DataConfig
from rayrec.data.job import prepare
from rayrec.data.prepare import on_ray
from rayrec.data.work import Result, Task
from rayrec.storage import provenance

OBJECT_STORE_BYTES = 500_000_000
SEED = 0


def config_of(logs: Path) -> DataConfig:
    """The defaults, but for ids as they are and no held-out items, neither of which the peers do.

    Args:
        logs: from synthetic_logs.py.
    """
    texts = json.loads((logs / "logs.json").read_text())["size"]["texts"]
    columns = {"rating": "rating", **({"text": "text", "categories": "categories"} if texts else {})}
    source = {
        "kind": "columns",
        "interactions": f"{logs}/interactions",
        "items": f"{logs}/items",
        "columns": columns,
        "time_unit": "ms",
    }
    return DataConfig.model_validate(
        {
            "source": source,
            "privacy": {"user_ids": "plain"},
            "split": {"held_out_valid": 0, "held_out_test": 0},
        }
    )


class Timed:
    """Runs tasks as prepare does and adds up seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, function: Callable[[Task], Result], tasks: Sequence[Task], title: str) -> Iterator[Result]:
        """As on_ray()."""
        if not tasks:
            return
        began = time.perf_counter()
        yield from on_ray(function, tasks, title)
        self.seconds[title] = round(self.seconds.get(title, 0.0) + time.perf_counter() - began, 3)


def at_rest(number: int) -> int:
    """Long enough for each worker to take one: afterwards all have imported what they need, as the peers have."""
    time.sleep(0.3)
    return number


def rayrec_job(logs: Path, out: Path) -> dict[str, Any]:
    """Starts Ray, its workers and the actors of Ray Data, then prepares.

    Args:
        logs: from synthetic_logs.py.
        out: an empty folder.
    """
    config, run, clock = config_of(logs), Timed(), Clock()
    ray.init(
        address="local",
        num_cpus=THREADS,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
    )
    list(on_ray(at_rest, range(2 * THREADS), "starting"))
    clock.lap("ray")
    described = provenance({"data": config.model_dump(mode="json")})
    made = prepare(config, str(out), seed=SEED, provenance=described, run=run)
    clock.lap("prepare")
    ray.shutdown()
    stages = {**run.seconds, "driver": round(clock.seconds["prepare"] - sum(run.seconds.values()), 3)}
    return {
        "setup_s": clock.seconds["ray"],
        "stages": stages,
        "reasons": made["counts"]["interactions"]["quarantined"],
        "config": config.model_dump(mode="json", exclude={"source"}),
    }


if __name__ == "__main__":
    told = rayrec_job(*map(Path, sys.argv[1:]))
    print(json.dumps({**told, "versions": {name: version(name) for name in ("rayrec", "ray", "pyarrow", "numpy")}}))
