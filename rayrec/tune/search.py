"""Searches by Ray Tune: every trial is a whole Ray Train run of its own, whose validations tell Tune how it does.

What has ended lies in the search's folder, a record a trial, and the next command does not run it again: the sampler
and asha are told of it. A trial that a crash has cut off goes on from its own checkpoints. Nothing that Ray Tune stores
by itself is read back, for it is pickled.
"""

import json
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from rayrec.catalogue import encode_catalogue
from rayrec.config import is_refusal
from rayrec.data.dataset import Dataset
from rayrec.storage import (
    absolute,
    exists,
    fingerprint,
    is_published,
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
from rayrec.train.notices import InterruptedTraining
from rayrec.train.trainer import Trial, train
from rayrec.tune.config import TuneConfig
from rayrec.tune.drawing import STEPS, VALUE, sampler_of, scheduler_of
from rayrec.tune.results import TRIALS, Record, begin, best_yaml, keep_logs, page, records_of, store, table
from rayrec.tune.space import (
    SECTIONS,
    Settings,
    Space,
    check,
    default_space,
    determining,
    name_of,
    own_values,
    settings_of,
    steps_of,
)

REFUSED = "refused"
STATES, RAYS, RESULT = "states", "ray", "result"
"""Folders of a search: states that trials share, Ray Tune's own notes while it runs, what is published."""
ABOUT = "about.json"
SLIVER = {"node:__internal_head__": 0.001}
"""What the process of a trial takes, which only waits: had it a share of a processor, two workers would not fit two."""


@dataclass(frozen=True)
class Search:
    """What all trials share.

    Attributes:
        dataset: URI of the prepared data set.
        uri: of the search's folder.
        config: of the run, as JSON values.
        stage: whose validation value is searched for.
        seed: of the run.
    """

    dataset: str
    uri: str
    config: Mapping[str, Any]
    stage: str
    seed: int


def _trial(values: dict[str, Any], job: Search) -> None:
    """One trial, in a process of its own; a setting that training refuses is told as the worst there is."""
    name = name_of(values)
    begin(name, values, job.uri)
    settings = settings_of(job.config, values, job.stage)
    steps = steps_of(settings.train)
    told: Any = TuneReportCallback()  # type: ignore[no-untyped-call]
    try:
        made = train(
            job.dataset,
            join(job.uri, TRIALS, name),
            model=settings.model,
            loader=settings.loader,
            config=settings.train,
            seed=job.seed,
            provenance=provenance({**job.config, "values": values}),
            trial=Trial(join(job.uri, STATES), told),
        )
    except ValueError as error:
        if not is_refusal(error):
            raise
        tune.report({STEPS: steps, VALUE: 0.0, REFUSED: str(error)})
    else:
        tune.report({STEPS: steps, VALUE: made["validation"][job.stage]["value"]})


class _Recorder(tune.Callback):
    """Writes each trial's record as soon as Tune is done with it."""

    def __init__(self, uri: str) -> None:
        """Args:
        uri: of the search's folder.
        """
        self.uri = uri
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.failed: list[str] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keeps a point of the trial's curve."""
        self.curves.setdefault(trial.trial_id, []).append((result[STEPS], result[VALUE]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Records the trial."""
        name, curve = name_of(trial.config), self.curves.get(trial.trial_id, [])
        why = trial.last_result.get(REFUSED, "")
        if why:
            state = "refused"
        elif is_published(join(self.uri, TRIALS, name)):
            state = "finished"
        else:
            state = "stopped"
        if curve:
            seconds = trial.last_result["time_total_s"]
            store(Record(name, trial.config, curve[-1][1], curve, state, seconds, why), self.uri)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes a trial that failed, which the next command tries again."""
        self.failed.append(f"trial {name_of(trial.config)}: {trial.get_error()}")


def room_for(config: TrainConfig, resources: Mapping[str, float]) -> int:
    """How many trials run at once on a cluster.

    Args:
        config: of a trial.
        resources: of the cluster, as Ray counts them.

    Raises:
        ValueError: not even one.
    """
    needed = {"CPU": config.fewest_workers * config.cpus_per_worker}
    if config.use_gpu:
        needed["GPU"] = config.fewest_workers
    for kind, amount in needed.items():
        if resources.get(kind, 0) < amount:
            raise ValueError(
                f"a trial needs {amount:g} {kind} ({config.fewest_workers} workers), and the cluster has "
                f"{resources.get(kind, 0):g}; lower train.num_workers or add nodes (tune.concurrent=1 waits for them)"
            )
    return int(min(resources[kind] // amount for kind, amount in needed.items()))


def _check_same(job: Search, about: Mapping[str, Any]) -> None:
    """Refuses a folder in which something else was searched."""
    about = json.loads(json.dumps(about))
    if not exists(join(job.uri, ABOUT)):
        write_json(join(job.uri, ABOUT), about)
    for key, value in read_json(join(job.uri, ABOUT)).items():
        if about[key] != value:
            raise ValueError(f"{job.uri} holds a search of another {key}; use another run folder, or the one it had")


def search(
    dataset: str, uri: str, *, config: Mapping[str, Any], how: TuneConfig, stage: str, seed: int
) -> dict[str, Any]:
    """Searches until the budget is used up, and publishes what was found; the same command again goes on.

    Args:
        dataset: URI of a prepared data set.
        uri: folder of the search.
        config: of the run, as JSON values: what is tuned, and what best.yaml is made from.
        how: space, budget, sampler, scheduler.
        stage: whose validation value is searched for.
        seed: of the run.

    Returns:
        `best`, the best trial's name, value and values; `trials` and `failed`, how many ended and how many did not.

    Raises:
        ValueError: keys, values or resources that cannot be; training refused every trial.
        RuntimeError: every trial failed.
        InterruptedTraining: SIGINT came.
    """
    for package in ("optuna", "plotly"):
        if find_spec(package) is None:
            raise ValueError(f"rayrec tune needs the package {package}, which is not there: pip install 'rayrec[tune]'")
    settings = settings_of(config, {}, stage)
    space = how.space or default_space(settings)
    check(config, space, stage)
    job = Search(absolute(dataset), absolute(uri), config, stage, seed)
    drawn = {key: one.model_dump(mode="json") for key, one in space.items()}
    way = {"stage": stage, **{name: config[name] for name in SECTIONS}, "seed": seed}
    _check_same(
        job, {"dataset": fingerprint(dataset, "dataset"), "config": way, "search": {**determining(how), "space": drawn}}
    )
    ended, begun = records_of(job.uri)
    failed: list[str] = []
    if len(ended) < how.trials:
        failed = _run(job, settings, how, space, ended, begun)
        ended, _ = records_of(job.uri)
    if not ended:
        raise RuntimeError(f"no trial came to an end: {failed[0] if failed else 'the search ended before'}")
    if all(record.state == "refused" for record in ended):
        raise ValueError(f"training refused all {len(ended)} trials, the first one so: {ended[0].why}")
    _publish(job, ended, space)
    best = {"trial": ended[0].name, "value": ended[0].value, "values": dict(ended[0].values)}
    return {"best": best, "trials": len(ended), "failed": len(failed)}


def _run(
    job: Search,
    settings: Settings,
    how: TuneConfig,
    space: Space,
    ended: list[Record],
    begun: list[dict[str, Any]],
) -> list[str]:
    """Runs the trials that are missing, those that have begun first; returns what failed."""
    train_config = settings.train
    concurrent = how.concurrent or room_for(train_config, ray.cluster_resources())  # type: ignore[no-untyped-call]
    workers = train_config.fewest_workers, train_config.num_workers
    texts = item_texts(Dataset(job.dataset).catalogue())
    encode_catalogue(texts, settings.model, join(job.uri, STATES), workers=workers)
    missing, steps = how.trials - len(ended), steps_of(train_config)
    known, own = {record.name for record in ended}, own_values(job.config, space)
    first = [own] if all(drawn.holds(own[key]) for key, drawn in space.items()) else []
    points = {name_of(values): values for values in [*begun, *first] if name_of(values) not in known}
    recorder, began = _Recorder(job.uri), time.monotonic()
    try:
        tune.Tuner(
            tune.with_resources(partial(_trial, job=job), tune.PlacementGroupFactory([SLIVER])),
            tune_config=tune.TuneConfig(
                metric=VALUE,
                mode="max",
                search_alg=sampler_of(how, space, job.seed, ended, list(points.values())[:missing]),
                scheduler=scheduler_of(how, steps, ended),
                num_samples=missing,
                max_concurrent_trials=concurrent,
                time_budget_s=None if how.hours is None else how.hours * 3600,
                trial_name_creator=lambda trial: name_of(trial.config),
                trial_dirname_creator=lambda trial: name_of(trial.config),
            ),
            run_config=tune.RunConfig(name=RAYS, storage_path=job.uri, callbacks=[recorder], verbose=0),
        ).fit()
    finally:
        remove(join(job.uri, RAYS))
    over = how.hours is not None and time.monotonic() - began >= how.hours * 3600
    if records_of(job.uri)[1] and not recorder.failed and not over:
        raise InterruptedTraining(signal.SIGINT, "stopped, with the trials that had ended,")
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
