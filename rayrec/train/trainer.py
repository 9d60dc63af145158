"""Launches the worker under Ray Train: encodes the catalogue, runs every stage in one fit, publishes the outcome."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from rayrec.catalogue import encode_catalogue
from rayrec.config import is_refusal
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.models.config import ModelConfig
from rayrec.storage import absolute, download_directory, folder_names, is_published, join, manifest, publish
from rayrec.text import item_texts
from rayrec.train.checkpoint import checkpoint_key
from rayrec.train.config import TrainConfig
from rayrec.train.worker import Worker, WorkerSettings, model_of

CHECKPOINTS, FIT = "checkpoints", "fit"
"""Folder and name of the fit, below what is published."""


class RayCheckpoints:
    """Checkpoints by ray.train.report, which merges the ranks' files into the run's storage."""

    def __init__(self, uri: str) -> None:
        """Args:
        uri: the folder they lie in.
        """
        self.uri = uri

    def newest_first(self) -> list[str]:
        """What Ray took over last, then all others by name, which is a time of day: clocks of nodes may differ."""
        found = ray.train.get_checkpoint()
        newest = "" if found is None else os.path.basename(found.path.rstrip("/"))
        names = [name for name in folder_names(self.uri) if name.startswith("checkpoint_")]
        return [join(self.uri, name) for name in sorted(names, key=lambda name: (name == newest, name), reverse=True)]

    def put(self, directory: str, metrics: Mapping[str, float]) -> None:
        """A barrier: every rank reports at the same step."""
        ray.train.report(dict(metrics), checkpoint=Checkpoint.from_directory(directory))


class UserMistakeError(Exception):
    """A ValueError of a worker, told apart from failures of the machine."""


def _work(settings: dict[str, Any]) -> None:
    local: WorkerSettings = settings["worker"]
    with tempfile.TemporaryDirectory() as directory:
        states = {
            pretrained: download_directory(uri, os.path.join(directory, f"states_{pretrained}"))
            for pretrained, uri in local.states.items()
        }
        checkpoints = RayCheckpoints(join(local.uri, CHECKPOINTS, FIT))
        try:
            Worker(replace(local, states=states), checkpoints, ray.train.torch.get_device()).run()
        except ValueError as error:
            if not is_refusal(error):
                raise
            raise UserMistakeError(str(error)) from error


def _fit(settings: WorkerSettings) -> None:
    """Runs the workers; a user's mistake among them comes out as the ValueError it was."""
    config = settings.config
    trainer = TorchTrainer(
        _work,
        train_loop_config={"worker": settings},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=FIT,
            storage_path=join(settings.uri, CHECKPOINTS),
            checkpoint_config=CheckpointConfig(num_to_keep=config.checkpoints_kept),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        refused = [failure for failure in error.worker_failures.values() if isinstance(failure, UserMistakeError)]
        if refused:
            raise ValueError(str(refused[0])) from error
        raise


def train(
    dataset: str,
    uri: str,
    *,
    model: ModelConfig,
    loader: LoaderConfig,
    config: TrainConfig,
    seed: int,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Trains every stage under Ray Train and DeepSpeed; running it again goes on where it stopped.

    Args:
        dataset: URI of a prepared data set.
        uri: directory to publish to; stages lie in folders of their names.
        model: shape of the recommender.
        loader: order of the rows.
        config: workers, DeepSpeed, stages.
        seed: of parameters, order, dropout and negatives.
        provenance: stored with everything published.

    Returns:
        The manifest: `stages`, and `validation` by stage.

    Raises:
        ValueError: settings that contradict each other or what is published there already, or no checkpoint is left
            that may be trusted.
    """
    if loader.streams < config.num_workers:
        raise ValueError(
            f"loader.streams={loader.streams} is below train.num_workers={config.num_workers}; each worker reads at "
            "least one stream: lower train.num_workers, or raise loader.streams in a new run"
        )
    if is_published(uri):
        found = manifest(uri, "training")
        if found["config"] != provenance["config"]:
            raise ValueError(f"{absolute(uri)} was trained with another config; use another run folder")
        return found
    names = config.systems()
    for name in names:
        part = join(absolute(uri), name)
        if is_published(part) and manifest(part, "weights")["config"] != provenance["config"]:
            raise ValueError(f"{part} was trained with another config; use another run folder, or the config it had")
    key = checkpoint_key()
    data = Dataset(dataset)
    if data.history_length + 2 > model.max_positions:
        raise ValueError(
            f"model.max_positions={model.max_positions} is too small for data.history_length={data.history_length}; "
            f"set it to at least {data.history_length + 2}"
        )
    texts = item_texts(data.catalogue())
    shapes = [model, *(model_of(model, stage.control) for stage in config.all_stages())]
    states = {
        shape.pretrained: encode_catalogue(texts, shape, join(absolute(uri), "states"), workers=config.num_workers)
        for shape in {shape.pretrained: shape for shape in shapes}.values()
    }
    settings = WorkerSettings(absolute(dataset), absolute(uri), states, model, loader, config, seed, provenance, key)
    _fit(settings)
    validation = {name: manifest(join(uri, name), "weights")["validation"] for name in names}
    kept = {name: manifest(join(uri, name), "weights")["kept"] for name in names}
    publish(
        uri,
        "training",
        {},
        stages=list(names),
        validation=validation,
        kept=kept,
        dataset=absolute(dataset),
        **provenance,
    )
    return manifest(uri, "training")
