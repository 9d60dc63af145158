"""rayrec.config: every way a config can be wrong is refused in one line that helps."""

from pathlib import Path

import pytest

from rayrec.config import load_config
from rayrec.stages import RunConfig


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_defaults_and_file_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "run: runs/a\ndata:\n  history_length: 7\n")
    config = load_config(RunConfig, path, ["data.history_length=9", "train.zero_stage=1", "seed=3"])
    assert (config.run, config.data.history_length, config.train.zero_stage, config.seed) == ("runs/a", 9, 1, 3)
    assert config.data.buckets == RunConfig().data.buckets


def test_an_override_reaches_into_a_list_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "train:\n  stages:\n  - {name: text_id, learning_rates: {scales: 0.1}, steps: 3}\n")
    config = load_config(RunConfig, path, ["train.stages.0.steps=1", "train.stages.0.learning_rates.scales=1e-3"])
    assert config.train.stages[0].steps == 1
    assert config.train.stages[0].learning_rates == {"scales": 1e-3}


def test_a_config_is_frozen_and_round_trips() -> None:
    config = RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("sede: 1\n", [], r"unknown config key 'sede'; did you mean 'seed'\?"),
        ("data:\n  histroy_length: 1\n", [], r"'data\.histroy_length'; did you mean 'data\.history_length'\?"),
        ("zzz: 1\n", [], r"unknown config key 'zzz'; known: .*seed"),
        ("", ["data.source.kind=columns", "data.source.itmes=x"], r"did you mean 'data\.source\.items'\?"),
        ("train:\n  stages: [{name: a, step: 1}]\n", [], r"'train\.stages\.0\.step'; did you mean .*steps'\?"),
        ("seed: many\n", [], r"'seed': .*integer.*seen 'many'"),
        ("data: {split: {valid_fraction: 0.9}}\n", [], r"'data\.split\.valid_fraction': .*less than 0\.5, seen 0\.9"),
        ("export_stage: best\n", [], r"config: export_stage is 'best'; expected one of zero_shot, scales, frozen"),
        ("- 1\n", [], "holds a list; expected a mapping"),
        ("a: [\n", [], "is not YAML"),
        ("", ["seed"], "has no '='; expected key=value"),
        ("", ["seed=[1"], "is not YAML"),
        ("seed: 1\n", ["seed.a=1"], "'seed' is 1, not a section"),
        ("train: {stages: []}\n", ["train.stages.0.epochs=1"], "'0' is no place in a list of 0"),
        ("train: {stages: [{}]}\n", ["train.stages.first.epochs=1"], "'first' is no place in a list of 1"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    path = write(tmp_path, text) if text else None
    with pytest.raises(ValueError, match=message) as raised:
        load_config(RunConfig, path, overrides)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ValueError, match=r"no config file at 'nowhere\.yaml'"):
        load_config(RunConfig, "nowhere.yaml")
