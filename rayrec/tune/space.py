"""From a run's config to the settings of one trial: which stages it trains, which keys are drawn from what."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from rayrec.config import load_values, put
from rayrec.data.config import LoaderConfig
from rayrec.models.config import ModelConfig
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.train.trust import OF_THE_MACHINES
from rayrec.tune.config import Choices, Range, TuneConfig, Value

Space = Mapping[str, Range | Choices]
SECTIONS: Mapping[str, Any] = {"model": ModelConfig, "loader": LoaderConfig, "train": TrainConfig}
AROUND = 10.0
"""How far below and above the config's own a learning rate is searched by default."""


@dataclass(frozen=True)
class Settings:
    """What a trial trains with."""

    model: ModelConfig
    loader: LoaderConfig
    train: TrainConfig


def way_to(train: TrainConfig, stage: str) -> TrainConfig:
    """The same training, of one stage and those that it starts from, without controls.

    Raises:
        ValueError: that stage trains nothing.
    """
    by_name = {one.name: one for one in train.stages}
    if stage not in by_name:
        raise ValueError(
            f"export_stage={stage!r} trains nothing here, so there is nothing to search; set it to one of "
            f"{', '.join(by_name) or 'the stages of train.stages, which has none'}"
        )
    way: list[StageConfig] = []
    name: str | None = stage
    while name is not None:
        way.insert(0, by_name[name])
        name = by_name[name].start
    return train.model_copy(update={"stages": tuple(way), "controls": ()})


def changed(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A config as JSON values, with others for some of its keys.

    Raises:
        ValueError: no such key.
    """
    made = deepcopy(dict(config))
    for key, value in values.items():
        put(made, key, value, f"tune.space key {key!r}")
    return made


def settings_of(config: Mapping[str, Any], values: Mapping[str, Any], stage: str) -> Settings:
    """What a trial with these values trains with.

    Args:
        config: of the run, as JSON values.
        values: by key.
        stage: whose validation value is searched for.

    Raises:
        ValueError: a key that is none, or a value that the config does not take.
    """
    made = changed(config, values)
    parts = {name: load_values(kind, made[name], f"{name}.") for name, kind in SECTIONS.items()}
    return Settings(parts["model"], parts["loader"], way_to(parts["train"], stage))


def default_space(settings: Settings) -> dict[str, Range | Choices]:
    """What is usually worth a search: the last stage's learning rates, regularisation, capacity, negatives.

    The settings' own values are in it, but for a weight decay of 0.
    """
    stage = settings.train.stages[-1]
    space: dict[str, Range | Choices] = {
        f"train.stages.{stage.name}.learning_rates.{group}": Range(low=rate / AROUND, high=rate * AROUND, log=True)
        for group, rate in stage.learning_rates.items()
        if rate > 0
    }
    model, loader = settings.model, settings.loader
    decay, dropout, temperature = settings.train.weight_decay, model.dropout, model.temperature
    space["train.weight_decay"] = Range(low=min(decay or 1e-4, 1e-4), high=max(decay, 0.3), log=True)
    space["model.dropout"] = Range(low=0.0, high=max(dropout, 0.4))
    space["model.new_item_rate"] = Range(low=0.0, high=max(model.new_item_rate, 0.5))
    space["model.temperature"] = Range(low=min(temperature, 0.02), high=max(temperature, 0.3), log=True)
    space["loader.num_negatives"] = _with(loader.num_negatives, 64, 128, 256, 512)
    if model.tuning == "lora" and any("language_model" in one.learning_rates for one in settings.train.stages):
        space["model.lora.rank"] = _with(model.lora.rank, 2, 4, 8, 16)
    return space


def _with(own: int, *others: int) -> Choices:
    return Choices(choices=tuple(sorted({own, *others})))


def own_values(config: Mapping[str, Any], space: Space) -> dict[str, Value]:
    """What the config itself says for the keys that are searched.

    Raises:
        ValueError: a key that is none, or lies outside what a trial may change.
    """
    found: dict[str, Value] = {}
    for key in space:
        if key.partition(".")[0] not in SECTIONS:
            raise ValueError(f"tune.space has {key!r}; expected a key of {', '.join(SECTIONS)}")
        place: Any = config
        for part in key.split("."):
            place = _part(place, part, key)
        found[key] = place
    return found


def _part(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list | tuple):
        named = {str(one.get("name")): one for one in place if isinstance(one, Mapping)}
        place = {**named, **{str(number): one for number, one in enumerate(place)}}
    if not isinstance(place, Mapping) or part not in place:
        known = ", ".join(map(str, place)) if isinstance(place, Mapping) else f"nothing below {place!r}"
        raise ValueError(f"tune.space has {key!r}, and {part!r} is no key of the config; known there: {known}")
    return place[part]


def check(config: Mapping[str, Any], space: Space, stage: str) -> None:
    """Raises:
    ValueError: the config takes not all that may be drawn.
    """
    own_values(config, space)
    for key, drawn in space.items():
        for value in drawn.choices if isinstance(drawn, Choices) else (drawn.low, drawn.high):
            settings_of(config, {key: value}, stage)


def plan_of(config: Mapping[str, Any], how: TuneConfig, stage: str) -> tuple[Settings, dict[str, Range | Choices]]:
    """What a trial trains with before anything is drawn, and what is drawn.

    Args:
        config: of the run, as JSON values.
        how: the search.
        stage: whose validation value is searched for.

    Raises:
        ValueError: the extra is not installed; the config takes not all that may be drawn.
    """
    for package in ("optuna", "plotly"):
        if find_spec(package) is None:
            raise ValueError(f"rayrec tune needs the package {package}, which is not there: pip install 'rayrec[tune]'")
    settings = settings_of(config, {}, stage)
    space = how.space or default_space(settings)
    check(config, space, stage)
    return settings, space


def name_of(values: Mapping[str, Any]) -> str:
    """The name of a trial, the same for the same values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def determining(config: Mapping[str, Any], how: TuneConfig, stage: str) -> dict[str, Any]:
    """What may not change while a search goes on, as JSON values.

    Args:
        config: of the run, as JSON values.
        how: the search.
        stage: whose validation value is searched for.
    """
    train = {key: value for key, value in config["train"].items() if key not in OF_THE_MACHINES}
    searched = how.model_dump(mode="json", exclude={"trials", "hours", "concurrent"})
    sections = {name: config[name] for name in SECTIONS}
    return {**sections, "train": train, "seed": config["seed"], "export_stage": stage, "tune": searched}
