"""Searches by Ray Tune: every trial is a whole Ray Train run of its own, whose validations tell Tune how it does.

What has ended lies in the search's folder, a record a trial, and the next command does not run it again: the sampler
and asha are told of it. A trial that a crash has cut off goes on from its own checkpoints. Nothing that Ray Tune stores
by itself is read back, for it is pickled.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from types import FrameType
from typing import Any

import ray
from ray import tune

from rayrec.catalogue import encode_catalogue
from rayrec.data.dataset import Dataset
from rayrec.storage import (
    absolute,
    exists,
    fingerprint,
    folder_names,
    join,
    provenance,
    publish,
    read_json,
    remove,
    write_bytes,
    write_json,
)
from rayrec.text import item_texts
from rayrec.train.config import TrainConfig
from rayrec.train.notices import SIGNALS, InterruptedTraining
from rayrec.train.trust import checkpoint_key
from rayrec.tune.config import TuneConfig
from rayrec.tune.drawing import VALUE, sampler_of, scheduler_of
from rayrec.tune.results import Record, best_yaml, keep_logs, page, records_of, table
from rayrec.tune.space import Settings, Space, determining, name_of, own_values, plan_of
from rayrec.tune.trials import STATES, Recorder, Search, run_trial

RAYS, RESULT, ABOUT = "ray", "result", "about.json"
"""In the search's folder: Ray Tune's own notes while it runs, what is published, what may not change."""
SLIVER = {"node:__internal_head__": 0.001}
"""What the process of a trial takes, which only waits: had it a share of a processor, two workers would not fit two."""


class _Ears(tune.Stopper):
    """Ends the search at a first SIGINT or SIGTERM, and the process at a second, where the main thread searches."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Of one trial: never."""
        return False

    def stop_all(self) -> bool:
        """Of all trials."""
        return bool(self.heard)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard:
            raise InterruptedTraining(number, "ended at once")
        self.heard.append(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears signals for the block, in the place of Tune, which hears SIGINT alone and says not whether it did."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with ExitStack() as restored:
            for number in SIGNALS:
                restored.callback(signal.signal, number, signal.signal(number, self._hear))
            os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
            restored.callback(os.environ.pop, "TUNE_DISABLE_SIGINT_HANDLER")
            yield


def room_for(config: TrainConfig, nodes: Iterable[Mapping[str, float]]) -> int:
    """How many trials run at once on a cluster.

    Args:
        config: of a trial.
        nodes: what each has, as Ray counts it.

    Raises:
        ValueError: not even one.
    """
    needed = {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if config.use_gpu else {})}
    nodes = list(nodes)
    workers = sum(int(min(node.get(kind, 0) // amount for kind, amount in needed.items())) for node in nodes)
    if workers < config.fewest_workers:
        wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in needed.items())
        found = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}" for kind in needed)
        raise ValueError(
            f"a trial needs {config.fewest_workers} workers of {wanted} each, and the cluster's {len(nodes)} nodes "
            f"({found}) have room for {workers}; lower train.num_workers, or add nodes (tune.concurrent=1 waits)"
        )
    return workers // config.fewest_workers


def search(dataset: str, uri: str, *, config: Mapping[str, Any], how: TuneConfig, stage: str) -> dict[str, Any]:
    """Searches until the budget is used up, and publishes what was found; the same command again goes on.

    Args:
        dataset: URI of a prepared data set.
        uri: folder of the search.
        config: of the run, as JSON values: what is tuned, and what best.yaml is made from.
        how: space, budget, sampler, scheduler.
        stage: whose validation value is searched for.

    Returns:
        `best`, the best trial's name, value and values; `trials` and `failed`, how many ended and how many failed.

    Raises:
        ValueError: keys, values or resources that cannot be; no trial ended in time, or all were refused.
        RuntimeError: every trial failed.
        InterruptedTraining: SIGINT or SIGTERM came.
    """
    settings, space = plan_of(config, how, stage)
    about = {"dataset": fingerprint(dataset, "dataset"), **determining(config, how, stage)}
    job = Search(absolute(dataset), absolute(uri), config, stage, json.loads(json.dumps(about)), checkpoint_key())
    ended, begun = records_of(job.uri)
    if exists(join(job.uri, ABOUT)):
        _check_same(job)
    failed: list[str] = []
    if len(ended) < how.trials:
        failed = _run(job, settings, how, space, ended, begun)
        ended, _ = records_of(job.uri)
    if not ended and failed:
        raise RuntimeError(f"no trial came to an end; {failed[0]}")
    if not ended:
        raise ValueError(f"no trial came to its end within tune.hours={how.hours}; the same command goes on with them")
    if all(record.state == "refused" for record in ended):
        raise ValueError(f"all {len(ended)} trials were refused, the first one so: {ended[0].why}")
    _publish(job, ended, space)
    best = {"trial": ended[0].name, "value": ended[0].value, "values": dict(ended[0].values)}
    return {"best": best, "trials": len(ended), "failed": len(failed)}


def _check_same(job: Search) -> None:
    """Refuses a folder in which something else was searched."""
    found = read_json(join(job.uri, ABOUT))
    other = [key for key, value in job.about.items() if found.get(key) != value]
    if other:
        raise ValueError(
            f"{job.uri} holds a search that had another {', '.join(other)}; use another run folder, or what it had"
        )


def _run(
    job: Search,
    settings: Settings,
    how: TuneConfig,
    space: Space,
    ended: list[Record],
    begun: list[dict[str, Any]],
) -> list[str]:
    """Runs the trials that are missing, those that have begun first; returns what failed."""
    config = settings.train
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    concurrent = how.concurrent or room_for(config, nodes)
    write_json(join(job.uri, ABOUT), job.about)
    texts = item_texts(Dataset(job.dataset).catalogue())
    workers = config.fewest_workers, config.num_workers
    encode_catalogue(texts, settings.model, join(job.uri, STATES), workers=workers)
    missing, known, own = how.trials - len(ended), {record.name for record in ended}, own_values(job.config, space)
    outside = [key for key, drawn in space.items() if not drawn.holds(own[key])]
    if outside:
        print(f"the config's own values are not tried: {', '.join(outside)} lie outside tune.space", file=sys.stderr)
    points = {name_of(values): values for values in [*begun, *([] if outside else [own])]}
    first = [values for name, values in points.items() if name not in known][:missing]
    recorder, ears = Recorder(job.uri, job.stage), _Ears()
    with ears.listening():
        tune.Tuner(
            tune.with_resources(partial(run_trial, job=job), tune.PlacementGroupFactory([SLIVER])),
            tune_config=tune.TuneConfig(
                metric=VALUE,
                mode="max",
                search_alg=sampler_of(how, space, job.about["seed"], ended, first),
                scheduler=scheduler_of(how, job.steps, ended),
                num_samples=missing,
                max_concurrent_trials=concurrent,
                time_budget_s=None if how.hours is None else how.hours * 3600,
                trial_name_creator=lambda trial: name_of(trial.config),
                trial_dirname_creator=lambda trial: name_of(trial.config),
            ),
            run_config=tune.RunConfig(name=RAYS, storage_path=job.uri, callbacks=[recorder], stop=ears, verbose=0),
        ).fit()
    if RAYS in folder_names(job.uri):
        remove(join(job.uri, RAYS))
    if ears.heard:
        raise InterruptedTraining(ears.heard[0], "stopped, with the trials that had ended,")
    return recorder.failed


def _publish(job: Search, ended: list[Record], space: Space) -> None:
    """Writes what the search found, and keeps the weights of the best trial alone.

    Args:
        job: all trials'.
        ended: best first.
        space: what was searched.
    """
    for record in ended[1:]:
        keep_logs(record.name, job.uri)
    texts = {
        "best.yaml": best_yaml(job.config, ended[0], len(ended)),
        "trials.json": json.dumps([asdict(record) for record in ended], indent=1) + "\n",
        "search.html": page(ended, space, f"{len(ended)} trials for {job.stage}"),
    }
    files = {name: write_bytes(join(job.uri, RESULT, name), text.encode()) for name, text in texts.items()}
    publish(join(job.uri, RESULT), "search", files, **provenance(job.config))
    print(table(ended), file=sys.stderr)
