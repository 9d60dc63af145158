"""What one worker does, with or without Ray around it: every stage in turn, each from the last, each published."""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader
from rayrec.models.config import ModelConfig
from rayrec.models.ranker import Ranker, catalogue_vectors, load_other_weights, load_weights, save_weights
from rayrec.models.recommender import LOSSES, Recommender
from rayrec.storage import exists, fetch_file, fingerprint, is_published, join, publish, upload_directory
from rayrec.tracking import METRICS, MetricsLog, Progress, WandbRun
from rayrec.train.checkpoint import Checkpoints, of_first_rank
from rayrec.train.collate import Collate, pooled_profiles
from rayrec.train.config import ZERO_SHOT, Control, StageConfig, TrainConfig, zero_shot_of
from rayrec.train.engine import Engine
from rayrec.train.initial import Initial, Texts, pool
from rayrec.train.loop import run_stage, seed_of
from rayrec.train.meter import Meter
from rayrec.train.saving import StageSaving, keep_rows
from rayrec.train.surroundings import Callbacks, Feed, LoopState, Stopped
from rayrec.train.trace import trace
from rayrec.train.trust import Trust, run_of
from rayrec.train.validate import Validation, calibrate
from rayrec.train.watchdog import Watchdog

CHECKPOINTS, ENDED = "checkpoints", "ended"
"""Folders of the run: of its checkpoints, and of the rows of a step that ended it."""


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
        began: when these were made, Unix seconds; goodput counts from there.
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
    began: float = field(default_factory=time.time)


class Worker:
    """Holds what the stages share: data, statistics, texts, checkpoints."""

    def __init__(
        self,
        settings: WorkerSettings,
        notice: Callable[[], int],
        device: torch.device,
        told: Callable[[dict[str, float]], None] = lambda figures: None,
    ) -> None:
        """Args:
        settings: what to do.
        notice: notices.NOTHING, SAVE or STOP, as this worker was asked; cheap.
        device: to train on.
        told: called by every rank after each validation of the last stage: its `steps`, the best `value` so far.
        """
        self.step = 0
        self.told, self.best = told, 0.0
        self.watchdog = Watchdog(settings.config.hang_seconds)
        self.meter = Meter(ZERO_SHOT, settings.began, entered=lambda phase: self.watchdog.beat(self.step, phase))
        self.settings = settings
        self.notice = notice
        self.device = device
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.data = Dataset(settings.dataset)
        self.loader = Loader(self.data, settings.loader, seed=settings.seed, rank=self.rank, world_size=self.world)
        self.initial = Initial(self.data, self.loader, settings.model, settings.states, settings.seed)
        self.stats = self.initial.stats
        held_out_N = np.array(self.data.catalogue()["held_out"].to_pylist()) == "valid"
        valid = self.data.rows("valid").slice(0, settings.config.validation_users)
        self.validation = Validation(valid, held_out_N, settings.config.validation_k, self._beat)
        data = fingerprint(settings.dataset, "dataset")
        run = run_of(data, settings.seed, model=settings.model, loader=settings.loader, config=settings.config)
        self.trust = Trust(run, settings.checkpoint_key)
        kept = settings.config.checkpoints_kept
        self.checkpoints = Checkpoints(join(settings.uri, CHECKPOINTS), self.trust, keep=kept)
        self.logs = settings.uri if "://" not in settings.uri else tempfile.mkdtemp()
        self.summary = join(settings.uri, "logs", "summary.json")
        self.log = self._first_log() if self.rank == 0 else None

    def _beat(self) -> None:
        """What is being done goes on."""
        self.meter.entered(self.meter.phases[-1])

    def _first_log(self) -> MetricsLog:
        self.meter.restore(self.summary)
        logged = join(self.settings.uri, "logs", METRICS)
        if self.logs != self.settings.uri and exists(logged):
            fetch_file(logged, os.path.join(self.logs, "logs", METRICS))
        directory, config, uri = os.path.join(self.logs, "logs"), self.settings.config, self.settings.uri
        project, mode = config.wandb_project, config.wandb_mode
        wandb = WandbRun(directory, project=project, mode=mode, run=self.trust.run, uri=uri) if project else None
        return MetricsLog(directory, wandb)

    def ranker(self, model: Recommender, pooled_NH: Tensor, texts: Texts) -> Ranker:
        """A Ranker over a plain model."""
        return Ranker(model, texts.profiles, catalogue_vectors(model, pooled_NH), self.stats)

    def run(self) -> None:
        """Every stage that is not published yet.

        Raises:
            Stopped: a notice asked for it.
        """
        stopped: Stopped | None = None
        with self.watchdog, closing(self.checkpoints):
            with self.log or nullcontext():
                try:
                    self._stages()
                except Stopped as error:
                    stopped = error
            self._tell()
        if stopped is not None:
            raise stopped

    def _stages(self) -> None:
        self.zero_shot(None)
        for index, stage in enumerate(self.settings.config.all_stages()):
            if not self._is_published(stage.name):
                self.zero_shot(stage.control)
                self.run_stage(index, stage)

    def _is_published(self, name: str) -> bool:
        """As rank 0 sees it: what another node sees may be older."""
        return of_first_rank(lambda: is_published(join(self.settings.uri, name)))

    def _tell(self) -> None:
        """Where the time went; of the other ranks a trace, if anything."""
        if self.logs != self.settings.uri:
            upload_directory(self.logs, self.settings.uri)
        if self.rank == 0:
            self.meter.store(self.summary)
            sys.stderr.write("\n".join([*self.meter.lines(), ""]))

    def zero_shot(self, control: Control | None) -> None:
        """Publishes the model before any training here, unless it is there or the control has no text."""
        name = zero_shot_of(control)
        if name is None or self._is_published(name):
            return
        self.meter.begin(name)
        model, texts = self.initial.fresh(0, control), self.initial.texts(control)
        if control is None and self.settings.config.start_from is not None:
            load_other_weights(self.settings.config.start_from, model)
            pooled_NH = pool(model, texts.catalogue)
            with self.meter.during("validate"):
                metrics = self.validation(self.ranker(model, pooled_NH, texts))
        else:
            pooled_NH = texts.anchor_NH
            with self.meter.during("validate"):
                metrics = calibrate(self.ranker(model, pooled_NH, texts), self.validation)
        self.publish(name, model, pooled_NH, metrics, kept=True)

    def start(self, index: int, stage: StageConfig) -> Recommender:
        """The model a stage starts from."""
        model = self.initial.fresh(index, stage.control)
        start = stage.start or zero_shot_of(stage.control)
        if start is not None:
            load_weights(join(self.settings.uri, start), model)
        return model

    def run_stage(self, index: int, stage: StageConfig) -> None:
        """Trains one stage and publishes its best weights."""
        self.step = 0
        self.meter.begin(stage.name)
        settings, config = self.settings, self.settings.config
        shadow, model, texts = self.start(index, stage), self.start(index, stage), self.initial.texts(stage.control)
        tunes_text = "language_model" in stage.learning_rates
        pooled_NH = pool(shadow, texts.catalogue)
        collate = Collate(
            self.stats,
            texts.anchor_NH,
            texts.profiles if tunes_text else pooled_profiles(shadow.top.pool, texts.profiles),
            pooled_NH=None if tunes_text else pooled_NH,
            catalogue=texts.catalogue,
        )
        engine = Engine(model.to(self.device).train(), stage, config, self.loader.micro_batches)
        if self.rank == 0:
            sys.stderr.write(f"stage {stage.name}: {engine.precision.name}, for {engine.precision.reason}\n")

        def validate(weights: Mapping[str, Tensor], step: int) -> float:
            shadow.load_state_dict(dict(weights), strict=False)
            vectors_NH = pool(shadow, texts.catalogue) if tunes_text else pooled_NH
            metrics = self.validation(self.ranker(shadow, vectors_NH, texts))
            return self._validated(index, step, metrics)

        saving = StageSaving(self.checkpoints, engine, self.loader, stage.name, config.checkpoint_minutes, self._beat)
        shown = Progress(f"train {stage.name}", stage.steps, unit="step") if self.rank == 0 else nullcontext()
        traces = os.path.join(self.logs, "logs", stage.name)
        with shown as progress, trace(config.trace_steps, traces, self.rank) as traced:

            def after_step(state: LoopState, losses: Tensor, counts: Tensor) -> None:
                self.step = state.step
                figures = {name: float(loss) for name, loss in zip(LOSSES, losses, strict=True)}
                loss = sum(figures.values())
                rates = self.meter.rates()
                self._log(stage.name, state.step, {**figures, "loss": loss, "targets": float(counts[0]), **rates})
                if progress is not None:
                    progress.update(1, **{"loss": loss, "best": state.best_value, **rates})
                traced.stepped()

            resumed = saving.resume()
            state = resumed or LoopState()
            if resumed is not None:
                self.step, self.best = state.step, max(self.best, state.best_value)
                self.meter.resume(state.useful_seconds, state.began)
                if progress is not None:
                    progress.resume(state.step)
            final = run_stage(
                engine,
                Feed(
                    steps=self.loader.epoch,
                    prepare=lambda batch: collate(batch).to(self.device),
                    seeds=lambda epoch, step: [
                        seed_of(settings.seed, index, epoch, step, v) for v in self.loader.stream_numbers
                    ],
                ),
                Callbacks(
                    validate,
                    after_step,
                    self.notice,
                    keep=lambda step: keep_rows(step, join(settings.uri, ENDED, stage.name)),
                ),
                saving,
                stage=stage,
                config=config,
                state=state,
                meter=self.meter,
            )
        with self.meter.during("checkpoint"):
            saving.drain()
        engine.destroy()
        shadow.load_state_dict(dict(final.best), strict=False)
        if tunes_text:
            pooled_NH = pool(shadow, texts.catalogue)
        with self.meter.during("validate"):
            metrics = self.validation(self.ranker(shadow, pooled_NH, texts))
        about = {"steps": final.step, "best_step": final.best_step}
        self.publish(stage.name, shadow, pooled_NH, {**metrics, **about}, kept=final.best_step > 0)

    def _validated(self, index: int, step: int, metrics: Mapping[str, float]) -> float:
        """Logs and tells a validation of one of all_stages(); returns its value."""
        stages = self.settings.config.all_stages()
        self._log(f"{stages[index].name}/valid", step, metrics)
        self.best = max(self.best, metrics["value"])
        if index == len(stages) - 1:
            self.told({"steps": step, "value": self.best})
        return metrics["value"]

    def publish(
        self, name: str, model: Recommender, pooled_NH: Tensor, metrics: Mapping[str, float], kept: bool
    ) -> None:
        """Rank 0 publishes a stage's weights; all ranks return when they are there."""
        with self.meter.during("publish"):
            if self.rank == 0:
                self.meter.store(self.summary)  # a published stage's steps have counted, whatever comes
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
            # JSON has no NaN.
            figures = {f"{prefix}/{name}": value if math.isfinite(value) else None for name, value in values.items()}
            self.log.log(step, **figures)
