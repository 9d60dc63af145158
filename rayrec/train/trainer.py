"""Launches the worker under Ray Train: encodes the catalogue, runs every stage in one fit, publishes the outcome.

Signals reach the workers by an actor: rank 0 asks it about once a second.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayrec.catalogue import encode_catalogue
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.models.config import ModelConfig
from rayrec.storage import absolute, is_published, join, manifest, publish
from rayrec.text import item_texts
from rayrec.tracking import require_wandb
from rayrec.train import entry
from rayrec.train.config import TrainConfig
from rayrec.train.entry import ANSWER_S, DivergedWorkerError, StopRequest, UserMistakeError, orders
from rayrec.train.initial import model_of
from rayrec.train.notices import listening
from rayrec.train.surroundings import DivergedError
from rayrec.train.trust import OF_THE_MACHINES, checkpoint_key
from rayrec.train.worker import WorkerSettings

FIT = "fit"
"""Folder of Ray Train's own notes, below what is published; checkpoints are ours."""
FEW_WORKERS = 16


@dataclass(frozen=True)
class Trial:
    """Of a training that is one trial of a search.

    Attributes:
        states: URI of the folder where trials share the states of the catalogue.
        report: a ray.train.UserCallback, told of each validation of the last stage: `steps`, the best `value` so far.
        key: checkpoint_key() of the driver, whose environment a trial lacks.
    """

    states: str
    report: Any
    key: bytes | None = field(default=None, repr=False)


def _until_stopped(work: Callable[[Any], str]) -> None:
    """Does work that is given a StopRequest's handle, until it ends or a signal stops it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(StopRequest)
    request = actor.options(num_cpus=0, scheduling_strategy=here).remote()

    def stop() -> bool:
        try:
            heeded: bool = ray.get(request.ask.remote(), timeout=ANSWER_S)
        except (RayActorError, GetTimeoutError):
            return False
        return heeded

    try:
        listening(lambda: work(request), stop)
    finally:
        ray.kill(request)


def _fit(settings: WorkerSettings, request: Any, trial: Trial | None) -> str:
    """Runs the workers; returns what work() does. A user's mistake among them comes out as a ValueError."""
    config = settings.config
    if config.num_workers <= FEW_WORKERS:  # Ray Train looks every two seconds, and a report waits for the next look
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    work: Callable[[dict[str, Any]], Any] = entry.work
    workers: Any = config.num_workers if config.min_workers is None else (config.min_workers, config.num_workers)
    trainer: Any = TorchTrainer(
        work,
        train_loop_config=orders(settings, request, told=trial is not None),
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if config.use_gpu else "gloo",
            timeout_s=ceil(2 * config.hang_seconds + ANSWER_S),  # the watchdog, which names the rank, comes first
        ),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=FIT,
            storage_path=absolute(settings.uri),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=None if trial is None else [trial.report],
        ),
    )
    try:
        return trainer.fit().return_value or ""
    except WorkerGroupError as error:
        refused = [failure for failure in error.worker_failures.values() if isinstance(failure, UserMistakeError)]
        if refused:
            kind = DivergedError if isinstance(refused[0], DivergedWorkerError) else ValueError
            raise kind(str(refused[0])) from error
        raise


def _determining(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without what may change while it goes on."""
    return {
        **config,
        "train": {key: value for key, value in config.get("train", {}).items() if key not in OF_THE_MACHINES},
    }


def _check_stages(uris: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Refuses stages that are there with another config."""
    for uri in filter(is_published, uris):
        if _determining(manifest(uri, "weights")["config"]) != _determining(provenance["config"]):
            raise ValueError(f"{uri} was trained with another config; use another run folder, or the config it had")


def train(
    dataset: str,
    uri: str,
    *,
    model: ModelConfig,
    loader: LoaderConfig,
    config: TrainConfig,
    seed: int,
    provenance: Mapping[str, Any],
    trial: Trial | None = None,
) -> dict[str, Any]:
    """Trains every stage under Ray Train and DeepSpeed; running it again goes on where it stopped.

    In the main thread, a first SIGINT or SIGTERM asks for a checkpoint and the end, a second one ends at once.

    Args:
        dataset: URI of a prepared data set.
        uri: directory to publish to; stages lie in folders of their names.
        model: shape of the recommender.
        loader: order of the rows.
        config: workers, DeepSpeed, stages.
        seed: of parameters, order, dropout and negatives.
        provenance: stored with everything published.
        trial: where it is one of a search.

    Returns:
        The manifest: `stages`, and `validation` by stage.

    Raises:
        ValueError: settings that contradict each other or what is published there already, or no checkpoint is left
            that may be trusted.
        InterruptedTraining: a signal came.
    """
    if loader.streams < config.num_workers:
        raise ValueError(
            f"loader.streams={loader.streams} is below train.num_workers={config.num_workers}; each worker reads at "
            "least one stream: lower train.num_workers, or raise loader.streams in a new run"
        )
    if config.wandb_project is not None:
        require_wandb()
    if is_published(uri):
        if _determining(manifest(uri, "training")["config"]) != _determining(provenance["config"]):
            raise ValueError(f"{absolute(uri)} was trained with another config; use another run folder")
        return manifest(uri, "training")
    names = config.systems()
    _check_stages([join(absolute(uri), name) for name in names], provenance)
    key = checkpoint_key() if trial is None else trial.key
    data = Dataset(dataset)
    if data.history_length + 2 > model.max_positions:
        raise ValueError(
            f"model.max_positions={model.max_positions} is too small for data.history_length={data.history_length}; "
            f"set it to at least {data.history_length + 2}"
        )
    texts = item_texts(data.catalogue())
    shapes = [model, *(model_of(model, stage.control) for stage in config.all_stages())]

    workers = config.fewest_workers, config.num_workers
    folder = join(absolute(uri), "states") if trial is None else trial.states

    def work(request: Any) -> str:
        states = {
            shape.pretrained: encode_catalogue(texts, shape, folder, workers=workers)
            for shape in {shape.pretrained: shape for shape in shapes}.values()
        }
        about = WorkerSettings(absolute(dataset), absolute(uri), states, model, loader, config, seed, provenance, key)
        return _fit(about, request, trial)

    _until_stopped(work)
    trained = {name: manifest(join(uri, name), "weights") for name in names}
    told = {key: {name: one[key] for name, one in trained.items()} for key in ("validation", "kept")}
    publish(uri, "training", {}, stages=list(names), dataset=absolute(dataset), **told, **provenance)
    return manifest(uri, "training")
