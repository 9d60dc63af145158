"""What one worker does, with or without Ray around it: every stage in turn, each from the last, each published."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
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
from rayrec.storage import fingerprint, is_published, join, publish, upload_directory
from rayrec.tracking import MetricsLog, Progress
from rayrec.train.checkpoint import Trust, resume, run_of, save_checkpoint
from rayrec.train.collate import Collate, pooled_profiles
from rayrec.train.config import Control, StageConfig, TrainConfig, zero_shot_of
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
        states: by whether the language model is pretrained, a local directory of encode_catalogue().
        model, loader, config, seed: as in the run's config.
        about: provenance, stored with every stage.
        checkpoint_key: by which checkpoints are signed; it travels in here, for workers lack the driver's environment.
    """

    dataset: str
    uri: str
    states: Mapping[bool, str]
    model: ModelConfig
    loader: LoaderConfig
    config: TrainConfig
    seed: int
    about: Mapping[str, Any]
    checkpoint_key: bytes | None = field(default=None, repr=False)


def model_of(model: ModelConfig, control: Control | None) -> ModelConfig:
    """What a control trains."""
    return model.model_copy(update={"pretrained": False}) if control == "random_weights" else model


@dataclass(frozen=True)
class Texts:
    """What an untrained language model makes of the texts, under one control.

    Attributes:
        model: names the language model.
        catalogue: states of the items' texts.
        profiles: profiles to states.
        anchor_NH: vectors of the items.
        some_profiles_PH: vectors of some of training's profiles, whose mean centres all.
    """

    model: ModelConfig
    catalogue: CatalogueStates
    profiles: TextCache
    anchor_NH: Tensor
    some_profiles_PH: Tensor


class CheckpointStore(Protocol):
    """Where checkpoints go; Ray Train in production, a directory in tests."""

    def newest_first(self) -> list[str]:
        """URIs of what may be checkpoints; none of them has been looked into. Rank 0 alone asks."""
        ...

    def put(self, directory: str, metrics: Mapping[str, float]) -> None:
        """Takes over what every rank has written into its own directory."""
        ...


class Worker:
    """Holds what the stages share: data, statistics, and by control the texts' states and vectors."""

    def __init__(self, settings: WorkerSettings, store: CheckpointStore, device: torch.device) -> None:
        self.settings = settings
        self.store = store
        self.device = device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.data = Dataset(settings.dataset)
        self.stats: ItemStats = self.data.stats()
        self.loader = Loader(self.data, settings.loader, seed=settings.seed, rank=self.rank, world_size=self.world)
        held_out_N = np.array(self.data.catalogue()["held_out"].to_pylist()) == "valid"
        valid = self.data.rows("valid").slice(0, settings.config.validation_users)
        self.validation = Validation(valid, held_out_N, settings.config.validation_k)
        data = fingerprint(settings.dataset, "dataset")
        run = run_of(data, settings.seed, model=settings.model, loader=settings.loader, config=settings.config)
        self.trust = Trust(run, settings.checkpoint_key)
        self._texts: dict[Control | None, Texts] = {}
        self.logs = settings.uri if "://" not in settings.uri else tempfile.mkdtemp()
        self.log = MetricsLog(os.path.join(self.logs, "logs")) if self.rank == 0 else None

    def texts(self, control: Control | None) -> Texts:
        """The texts under a control, made once; every rank asks at the same time."""
        control = None if control == "id_only" else control  # whose texts are made and not looked at
        if control not in self._texts:
            config = model_of(self.settings.model, control)
            catalogue = load_states(self.settings.states[config.pretrained])
            if control == "shuffled_texts":
                catalogue = catalogue.shuffled(self.settings.seed)
            lower, model = new_model(config, num_items=len(catalogue), use_text=True, seed=0)
            profiles = TextCache(lower.states)
            some_PH = model.top.pool(profiles(self.loader.some_profiles(WHITENED_PROFILES)))
            self._texts[control] = Texts(config, catalogue, profiles, self._pool(model, catalogue), some_PH)
        return self._texts[control]

    def _pool(self, model: Recommender, catalogue: CatalogueStates) -> Tensor:
        """The catalogue's vectors by a model's language model, each rank computing a share, on every rank."""
        pooled_NH = torch.zeros(len(catalogue), model.top.hidden_size)
        share = list(range(self.rank, len(catalogue), self.world))
        pooled_NH[share] = model.top.pool([catalogue[index] for index in share])
        dist.all_reduce(pooled_NH)
        return pooled_NH

    def fresh(self, stage_index: int, control: Control | None) -> Recommender:
        """A model at step 0: whitened on the items that training may see, which alone may use ID vectors."""
        seed, texts = seed_of(self.settings.seed, stage_index), self.texts(control)
        use_text = control != "id_only"
        _, model = new_model(texts.model, num_items=len(texts.catalogue), use_text=use_text, seed=seed)
        trained = torch.from_numpy(self.loader.items)
        model.fusion.known_N[trained] = True
        model.whitening.fit(texts.anchor_NH[trained], texts.some_profiles_PH, texts.model.whitening_shrinkage)
        features_NF = self.stats.features(self.loader.items, np.array(self.data.cutoffs.valid))
        model.fusion.fit_guess(model.whitening(texts.anchor_NH[trained]), torch.from_numpy(features_NF))
        return model

    def ranker(self, model: Recommender, pooled_NH: Tensor, texts: Texts) -> Ranker:
        """A Ranker over a plain model."""
        return Ranker(model, texts.profiles, catalogue_vectors(model, pooled_NH), self.stats)

    def run(self) -> None:
        """Every stage that is not published yet."""
        uri = self.settings.uri
        self.zero_shot(None)
        for index, stage in enumerate(self.settings.config.all_stages()):
            if not is_published(join(uri, stage.name)):
                self.zero_shot(stage.control)
                self.run_stage(index, stage)
        if self.log is not None:
            self.log.close()

    def zero_shot(self, control: Control | None) -> None:
        """Publishes the model before any training here, unless it is there or the control has no text."""
        name = zero_shot_of(control)
        if name is None or is_published(join(self.settings.uri, name)):
            return
        model, texts = self.fresh(0, control), self.texts(control)
        if control is None and self.settings.config.start_from is not None:
            load_other_weights(self.settings.config.start_from, model)
            pooled_NH = self._pool(model, texts.catalogue)
            metrics = self.validation(self.ranker(model, pooled_NH, texts))
        else:
            pooled_NH = texts.anchor_NH
            metrics = calibrate(self.ranker(model, pooled_NH, texts), self.validation)
        self.publish(name, model, pooled_NH, metrics, kept=True)

    def start(self, index: int, stage: StageConfig) -> Recommender:
        """The model a stage starts from."""
        model = self.fresh(index, stage.control)
        start = stage.start or zero_shot_of(stage.control)
        if start is not None:
            load_weights(join(self.settings.uri, start), model)
        return model

    def run_stage(self, index: int, stage: StageConfig) -> None:
        """Trains one stage and publishes its best weights."""
        settings, config = self.settings, self.settings.config
        shadow, model, texts = self.start(index, stage), self.start(index, stage), self.texts(stage.control)
        tunes_text = "language_model" in stage.learning_rates
        pooled_NH = self._pool(shadow, texts.catalogue)
        collate = Collate(
            self.stats,
            texts.anchor_NH,
            texts.profiles if tunes_text else pooled_profiles(shadow.top.pool, texts.profiles),
            pooled_NH=None if tunes_text else pooled_NH,
            catalogue=texts.catalogue,
        )
        engine = Engine(model.to(self.device).train(), stage, config, settings.loader.streams // self.world)
        last: dict[str, float] = {}

        def validate(weights: Mapping[str, Tensor], step: int) -> float:
            shadow.load_state_dict(dict(weights), strict=False)
            vectors_NH = self._pool(shadow, texts.catalogue) if tunes_text else pooled_NH
            metrics = self.validation(self.ranker(shadow, vectors_NH, texts))
            last.update(metrics)
            self._log(f"{stage.name}/valid", step, metrics)
            return metrics["value"]

        def checkpoint(engine: Engine, state: LoopState) -> None:
            with tempfile.TemporaryDirectory() as directory:
                save_checkpoint(directory, engine, state, self.loader.state_dict(), stage.name, self.trust)
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
            resumed = resume(self.store.newest_first, engine, stage.name, self.trust)
            if resumed is not None:
                state, reader = resumed
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
            pooled_NH = self._pool(shadow, texts.catalogue)
        metrics = self.validation(self.ranker(shadow, pooled_NH, texts))
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
