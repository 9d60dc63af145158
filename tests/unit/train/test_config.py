import pytest
from pydantic import ValidationError

from rayrec.train.config import StageConfig, TrainConfig


def stage(name: str, **changes: object) -> StageConfig:
    return StageConfig.model_validate({"name": name, "learning_rates": {"scales": 1e-2}, **changes})


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage("a"), stage("a")], "two stages are called 'a'"),
        ([stage("zero_shot")], "zero_shot is taken"),
        ([stage("a", start="b"), stage("b")], "'a' starts from 'b', which is no earlier stage"),
        ([stage("a", use_text=False), stage("b", start="a")], "'b' and its start 'a' differ in use_text"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_refused(stages: list[StageConfig], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig(stages=tuple(stages))


def test_an_unknown_parameter_group_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rates"):
        stage("a", learning_rates={"everything": 1e-3})
    with pytest.raises(ValidationError, match="learning_rates"):
        stage("a", learning_rates={})


@pytest.mark.parametrize("name", ["../up", "A", "a/b", "1a", ""])
def test_a_name_must_do_as_a_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        stage(name)
