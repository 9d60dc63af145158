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
        ([stage("a", control="id_only"), stage("b", start="a")], "'b' and its start 'a' differ in control"),
    ],
)
def test_stages_that_cannot_follow_each_other_are_refused(stages: list[StageConfig], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig(stages=tuple(stages))


def test_controls_repeat_the_stages_of_the_text_with_the_same_budget() -> None:
    stages = (
        stage("frozen", learning_rates={"adapters": 1e-3}, steps=7),
        stage("tuned", start="frozen", learning_rates={"language_model": 1e-3}),
        stage("text_id", start="tuned", learning_rates={"id": 1e-3}),
        stage("id_only", control="id_only", learning_rates={"id": 1e-3}),
    )
    config = TrainConfig(stages=stages, controls=("shuffled_texts", "random_weights"))
    assert config.all_stages()[:4] == stages
    repeated = {made.name: made for made in config.all_stages()[4:]}
    assert list(repeated) == [
        "frozen_shuffled_texts",
        "tuned_shuffled_texts",
        "frozen_random_weights",
        "tuned_random_weights",
    ]
    for made in repeated.values():
        name, _, control = made.name.partition("_")
        original = next(one for one in stages if one.name == name)
        start = original.start and f"{original.start}_{control}"
        assert made == original.model_copy(update={"name": made.name, "start": start, "control": control})
    starts = ["zero_shot", "zero_shot_shuffled_texts", "zero_shot_random_weights"]
    assert sorted(config.systems()) == sorted([*starts, *(made.name for made in config.all_stages())])
    assert TrainConfig(stages=stages).systems() == ("zero_shot", "frozen", "tuned", "text_id", "id_only")


def test_controls_have_the_start_of_what_they_control() -> None:
    with pytest.raises(ValidationError, match="set one of the two"):
        TrainConfig(controls=("random_weights",), start_from="runs/other/weights/tuned")


def test_workers_are_a_number_or_a_range() -> None:
    assert TrainConfig(num_workers=3).fewest_workers == 3
    assert TrainConfig(num_workers=3, min_workers=2).fewest_workers == 2
    with pytest.raises(ValidationError, match=r"train\.min_workers=4 is above train\.num_workers=3"):
        TrainConfig(num_workers=3, min_workers=4)


def test_an_unknown_parameter_group_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rates"):
        stage("a", learning_rates={"everything": 1e-3})
    with pytest.raises(ValidationError, match="learning_rates"):
        stage("a", learning_rates={})


@pytest.mark.parametrize("name", ["../up", "A", "a/b", "1a", ""])
def test_a_name_must_do_as_a_folder(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        stage(name)
