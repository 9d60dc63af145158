"""What one worker does, with or without Ray around it: every stage in turn, each from the last, each published."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rayrec.catalogue import CatalogueStates, load_states
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader
from rayrec.item_stats import ItemStats
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import TextCache
from rayrec.models.ranker import (
    Ranker,
    catalogue_vectors,
    load_other_weights,
    load_weights,
    new_model,
    save_weights,
)
from rayrec.models.recommender import LOSSES, Recommender
from rayrec.storage import is_published, join, publish, upload_directory
from rayrec.tracking import MetricsLog, Progress
from rayrec.train.checkpoint import checkpoint_stage, load_checkpoint, save_checkpoint
from rayrec.train.collate import Collate, pooled_profiles
from rayrec.train.config import ZERO_SHOT, StageConfig, TrainConfig
from rayrec.train.engine import Engine
from rayrec.train.loop import Callbacks, Feed, LoopState, run_stage, seed_of
from rayrec.train.validate import Validation, calibrate

WHITENED_PROFILES = 256
"""Training profiles whose mean centres all profiles."""


@dataclass(frozen=True)
class WorkerSettings:
    """All a worker needs, picklable.

    Attributes:
        dataset: URI of the prepared data set.
        uri: where stages are published.
        states: local directory of encode_catalogue().
        model, loader, config, seed: as in the run's config.
        about: provenance, stored with every stage.
    """

    dataset: str
    uri: str
    states: str
    model: ModelConfig
    loader: LoaderConfig
    config: TrainConfig
    seed: int
    about: Mapping[str, Any]


class CheckpointStore(Protocol):
    """Where checkpoints go; Ray Train in production, a directory in tests."""

    def latest(self) -> str | None:
        """A local directory of the newest checkpoint, or None."""
        ...

    def put(self, directory: str, metrics: Mapping[str, float]) -> None:
        """Takes over what every rank has written into its own directory."""
        ...


class Worker:
    """Holds what the stages share: data, statistics, catalogue states, the pretrained vectors."""

    def __init__(self, settings: WorkerSettings, store: CheckpointStore, device: torch.device) -> None:
        self.settings = settings
        self.store = store
        self.device = device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.data = Dataset(settings.dataset)
        self.stats: ItemStats = self.data.stats()
        self.catalogue: CatalogueStates = load_states(settings.states)
        self.loader = Loader(self.data, settings.loader, seed=settings.seed, rank=self.rank, world_size=self.world)
        held_out_N = np.array(self.data.catalogue()["held_out"].to_pylist()) == "valid"
        valid = self.data.rows("valid").slice(0, settings.config.validation_users)
        self.validation = Validation(valid, held_out_N, settings.config.validation_k)
        self.lower, pretrained = new_model(settings.model, num_items=len(held_out_N), use_text=True, seed=0)
        self.profile_states = TextCache(self.lower.states)
        self.anchor_NH = self._pool(pretrained)
        self.profiles_PH = pretrained.top.pool(self.profile_states(self.loader.some_profiles(WHITENED_PROFILES)))
        self.logs = settings.uri if "://" not in settings.uri else tempfile.mkdtemp()
        self.log = MetricsLog(os.path.join(self.logs, "logs")) if self.rank == 0 else None

    def _pool(self, model: Recommender) -> Tensor:
        """The catalogue's vectors by a model's language model, each rank computing a share, on every rank."""
        pooled_NH = torch.zeros(len(self.catalogue), model.top.hidden_size)
        share = list(range(self.rank, len(self.catalogue), self.world))
        pooled_NH[share] = model.top.pool([self.catalogue[index] for index in share])
        dist.all_reduce(pooled_NH)
        return pooled_NH

    def fresh(self, stage_index: int, use_text: bool) -> Recommender:
        """A model at step 0: whitened on the items that training may see, which alone may use ID vectors."""
        seed = seed_of(self.settings.seed, stage_index)
        _, model = new_model(self.settings.model, num_items=len(self.catalogue), use_text=use_text, seed=seed)
        trained = torch.from_numpy(self.loader.items)
        model.fusion.known_N[trained] = True
        model.whitening.fit(self.anchor_NH[trained], self.profiles_PH, self.settings.model.whitening_shrinkage)
        features_NF = self.stats.features(self.loader.items, np.array(self.data.cutoffs.valid))
        model.fusion.fit_guess(model.whitening(self.anchor_NH[trained]), torch.from_numpy(features_NF))
        return model

    def ranker(self, model: Recommender, pooled_NH: Tensor) -> Ranker:
        """A Ranker over a plain model."""
        return Ranker(model, self.profile_states, catalogue_vectors(model, pooled_NH), self.stats)

    def run(self) -> None:
        """Every stage that is not published yet."""
        uri = self.settings.uri
        if not is_published(join(uri, ZERO_SHOT)):
            self.publish(ZERO_SHOT, *self.zero_shot(), kept=True)
        for index, stage in enumerate(self.settings.config.stages):
            if not is_published(join(uri, stage.name)):
                self.run_stage(index, stage)
        if self.log is not None:
            self.log.close()

    def zero_shot(self) -> tuple[Recommender, Tensor, dict[str, float]]:
        """The model before any training here, its catalogue's pooled vectors, its validation metrics."""
        model = self.fresh(0, use_text=True)
        if self.settings.config.start_from is None:
            return model, self.anchor_NH, calibrate(self.ranker(model, self.anchor_NH), self.validation)
        load_other_weights(self.settings.config.start_from, model)
        pooled_NH = self._pool(model)
        return model, pooled_NH, self.validation(self.ranker(model, pooled_NH))

    def start(self, index: int, stage: StageConfig) -> Recommender:
        """The model a stage starts from."""
        model = self.fresh(index, stage.use_text)
        start = stage.start or (ZERO_SHOT if stage.use_text else None)
        if start is not None:
            load_weights(join(self.settings.uri, start), model)
        return model

    def run_stage(self, index: int, stage: StageConfig) -> None:
        """Trains one stage and publishes its best weights."""
        settings, config = self.settings, self.settings.config
        shadow, model = self.start(index, stage), self.start(index, stage)
        tunes_text = "language_model" in stage.learning_rates
        pooled_NH = self._pool(shadow)
        profiles = self.profile_states if tunes_text else pooled_profiles(shadow.top.pool, self.profile_states)
        collate = Collate(
            self.stats,
            self.anchor_NH,
            profiles,
            pooled_NH=None if tunes_text else pooled_NH,
            catalogue=self.catalogue,
        )
        engine = Engine(model.to(self.device).train(), stage, config, settings.loader.streams // self.world)
        last: dict[str, float] = {}

        def validate(weights: Mapping[str, Tensor], step: int) -> float:
            shadow.load_state_dict(dict(weights), strict=False)
            metrics = self.validation(self.ranker(shadow, self._pool(shadow) if tunes_text else pooled_NH))
            last.update(metrics)
            self._log(f"{stage.name}/valid", step, metrics)
            return metrics["value"]

        def checkpoint(engine: Engine, state: LoopState) -> None:
            with tempfile.TemporaryDirectory() as directory:
                save_checkpoint(directory, engine, state, self.loader.state_dict(), stage.name, config)
                self.store.put(directory, last)

        shown = Progress(f"train {stage.name}", stage.steps, unit="step") if self.rank == 0 else nullcontext()
        with shown as progress:

            def after_step(state: LoopState, losses: Tensor, counts: Tensor) -> None:
                figures = {name: float(loss) for name, loss in zip(LOSSES, losses, strict=True)}
                loss = sum(figures.values())
                self._log(stage.name, state.step, {**figures, "loss": loss, "targets": float(counts[0])})
                if progress is not None:
                    progress.update(loss=loss, best=state.best_value)

            state = LoopState()
            latest = self.store.latest()
            if latest is not None and checkpoint_stage(latest) == stage.name:
                state, reader = load_checkpoint(latest, engine, config)
                self.loader.load_state_dict(reader)
                if progress is not None:
                    progress.update(state.step, best=state.best_value)
            final = run_stage(
                engine,
                Feed(
                    steps=self.loader.epoch,
                    prepare=lambda batch: collate(batch).to(self.device),
                    seeds=lambda epoch, step: [
                        seed_of(settings.seed, index, epoch, step, v) for v in self.loader.streams
                    ],
                ),
                Callbacks(validate, checkpoint, after_step),
                stage=stage,
                checkpoint_every=config.checkpoint_every,
                state=state,
            )
        engine.destroy()
        shadow.load_state_dict(dict(final.best), strict=False)
        if tunes_text:
            pooled_NH = self._pool(shadow)
        metrics = self.validation(self.ranker(shadow, pooled_NH))
        about = {"steps": final.step, "best_step": final.best_step}
        self.publish(stage.name, shadow, pooled_NH, {**metrics, **about}, kept=final.best_step > 0)

    def publish(
        self, name: str, model: Recommender, pooled_NH: Tensor, metrics: Mapping[str, float], kept: bool
    ) -> None:
        """Rank 0 publishes a stage's weights; all ranks return when they are there."""
        if self.rank == 0:
            with tempfile.TemporaryDirectory() as directory:
                about = {"stage": name, "validation": dict(metrics), "kept": kept}
                save_weights(directory, model, catalogue_vectors(model, pooled_NH), about)
                files = upload_directory(directory, join(self.settings.uri, name))
            publish(join(self.settings.uri, name), "weights", files, **about, **self.settings.about)
            if self.logs != self.settings.uri:
                upload_directory(self.logs, self.settings.uri)
        dist.barrier()

    def _log(self, prefix: str, step: int, values: Mapping[str, float]) -> None:
        if self.log is not None:
            self.log.log(step, **{f"{prefix}/{name}": value for name, value in values.items()})
