"""The search: what is drawn, what a trial trains, what is kept of it, and who is told of earlier trials."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from rayrec.config import load_config
from rayrec.stages import RunConfig
from rayrec.storage import publish
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.tune import space
from rayrec.tune.config import Choices, Range, TuneConfig
from rayrec.tune.drawing import sampler_of, scheduler_of
from rayrec.tune.results import Record, begin, best_yaml, keep_logs, page, records_of, store, table
from rayrec.tune.search import room_for
from rayrec.tune.space import (
    changed,
    check,
    default_space,
    determining,
    name_of,
    own_values,
    plan_of,
    settings_of,
    way_to,
)
from rayrec.tune.trials import Recorder

CONFIG: dict[str, Any] = RunConfig().model_dump(mode="json")
RATE = "train.stages.tuned.learning_rates.language_model"
SPACE = {RATE: Range(low=1e-4, high=1e-2, log=True), "model.lora.rank": Choices(choices=(2, 4))}


def record(name: str, value: float, rate: float = 1e-3, steps: int = 100, state: str = "finished") -> Record:
    values = {RATE: rate, "model.lora.rank": 4}
    return Record(name, values, value, [(0, value / 2), (12, value), (steps, value)], state, 12.5)


def test_a_trial_trains_the_stage_and_those_it_starts_from() -> None:
    way = way_to(TrainConfig(controls=("random_weights",)), "tuned")
    assert [stage.name for stage in way.all_stages()] == ["scales", "frozen", "tuned"]
    assert [stage.name for stage in way_to(TrainConfig(), "id_only").stages] == ["id_only"]


def test_a_stage_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("export_stage='zero_shot' trains nothing here")):
        settings_of(CONFIG, {}, "zero_shot")
    with pytest.raises(ValueError, match="which has none"):
        way_to(TrainConfig(stages=()), "zero_shot")


def test_values_reach_their_keys_and_nothing_else() -> None:
    made = settings_of(CONFIG, {RATE: 5e-4, "model.lora.rank": 2, "loader.num_negatives": 7}, "tuned")
    assert made.train.stages[-1].learning_rates["language_model"] == 5e-4
    assert (made.model.lora.rank, made.loader.num_negatives) == (2, 7)
    plain = settings_of(CONFIG, {}, "tuned")
    assert made.train.stages[:-1] == plain.train.stages[:-1]
    assert made.model.model_copy(update={"lora": plain.model.lora}) == plain.model
    assert RunConfig().model_dump(mode="json") == CONFIG


@pytest.mark.parametrize(
    ("key", "drawn", "message"),
    [
        ("data.seed", Range(low=0, high=1), "tune.space has 'data.seed'; expected a key of model, loader, train"),
        ("train.stages.tunde.steps", Range(low=1, high=9), "'tunde' is no key of the config; known there: scales"),
        ("model.dropuot", Range(low=0.0, high=0.1), "'dropuot' is no key of the config; known there: language_model"),
        ("model.dropout.x", Range(low=0.0, high=0.1), "'x' is no key of the config; known there: nothing below 0.1"),
        ("model.dropout", Range(low=0.0, high=1.5), "config key 'model.dropout'.*less than 1, seen 1.5"),
        ("model.tuning", Choices(choices=("lora", "all")), "config key 'model.tuning'.*seen 'all'"),
        ("train.clip", Range(low=-1, high=1), "config key 'train.clip'.*greater than 0, seen -1"),
    ],
)
def test_a_space_that_the_config_does_not_take_is_refused_before_anything_runs(
    key: str, drawn: Range | Choices, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(CONFIG, {key: drawn}, "tuned")


@pytest.mark.parametrize(
    "bounds", [{"low": 1, "high": 1}, {"low": 2, "high": 1}, {"low": 0.0, "high": 1.0, "log": True}]
)
def test_a_range_that_is_none_is_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is no range"):
        Range.model_validate(bounds)


@pytest.mark.parametrize("stage", ["frozen", "tuned", "text_id"])
def test_the_default_space_is_taken_by_the_config_and_holds_its_own_values(stage: str) -> None:
    drawn = default_space(settings_of(CONFIG, {}, stage))
    check(CONFIG, drawn, stage)
    own = own_values(CONFIG, drawn)
    assert all(one.holds(own[key]) for key, one in drawn.items())
    assert {key.split(".")[2] for key in drawn if "learning_rates" in key} == {stage}
    assert ("model.lora.rank" in drawn) == (stage != "frozen")


def test_a_name_follows_the_values_alone() -> None:
    assert name_of({"a": 1, "b": 0.5}) == name_of({"b": 0.5, "a": 1}) != name_of({"a": 1, "b": 0.6})


def test_records_come_back_best_first_and_what_has_not_ended_apart(tmp_path: Path) -> None:
    uri = str(tmp_path)
    assert records_of(uri) == ([], [])
    for name, value in (("a", 0.1), ("b", 0.3), ("c", 0.2)):
        begin(name, {RATE: value}, uri)
    store(record("a", 0.1), uri)
    store(record("b", 0.3), uri)
    ended, begun = records_of(uri)
    assert [(one.name, one.value, one.steps) for one in ended] == [("b", 0.3, 100), ("a", 0.1, 100)]
    assert begun == [{RATE: 0.2}]


def test_best_yaml_is_the_config_with_the_best_values(tmp_path: Path) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(best_yaml(CONFIG, record("a", 0.3, rate=3e-3), 7))
    found = load_config(RunConfig, str(path))
    assert found == RunConfig.model_validate(changed(CONFIG, {RATE: 3e-3, "model.lora.rank": 4}))
    assert "# The best of 7 trials, a: validation value 0.3000" in path.read_text()


def test_the_page_shows_every_trial_and_loads_nothing() -> None:
    records = [record("best0", 0.3), record("other", 0.2, rate=5e-3, steps=30, state="stopped"), record("third", 0.1)]
    made = page(records, SPACE, "3 trials <for> tuned")
    assert "<h1>3 trials &lt;for&gt; tuned</h1>" in made
    assert all(line in made for line in table(records).splitlines())
    assert '"parcoords"' in made
    assert "Hyperparameter Importances" in made
    assert "Intermediate Values" in made
    outside = re.sub(r"<script[^>]*>.*?</script>", "", made, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=", outside)
    assert table(records).splitlines()[2].split() == [
        *("other", "0.2000", "30", "12", "stopped", "tuned.learning_rates.language_model=0.005,", "model.lora.rank=4")
    ]


def test_a_page_of_trials_that_are_all_alike_has_no_importances() -> None:
    assert "Hyperparameter Importances" not in page([record("a", 0.3), record("b", 0.3)], SPACE, "2")


def test_the_sampler_is_told_of_earlier_trials_and_draws_others() -> None:
    how = TuneConfig()
    ended = [record("a", 0.3), record("b", 0.1, rate=9e-3)]
    sampler = sampler_of(how, SPACE, 0, ended, [{RATE: 2e-3, "model.lora.rank": 2}])
    study = sampler._ot_study
    assert [trial.value for trial in study.get_trials(states=[TrialState.COMPLETE])] == [0.3, 0.1]
    assert sampler.suggest("1") == {RATE: 2e-3, "model.lora.rank": 2}
    again = sampler_of(how, SPACE, 0, [], [])
    first, other = again.suggest("1"), sampler.suggest("2")
    assert first != other
    assert first == sampler_of(how, SPACE, 0, [], []).suggest("1")
    assert SPACE[RATE].holds(other[RATE])


def test_asha_is_told_of_earlier_trials() -> None:
    how = TuneConfig(grace=0.1, reduction=3)
    ended = [record(str(number), 0.2 + number / 100) for number in range(9)]

    def decision(ended: list[Record], value: float) -> str:
        scheduler = scheduler_of(how, 100, ended)
        scheduler.set_search_properties("value", "max")
        trial: Any = SimpleNamespace(trial_id="new")
        controller: Any = None
        scheduler.on_trial_add(controller, trial)
        return scheduler.on_trial_result(controller, trial, {"steps": 10, "value": value})

    assert decision(ended, 0.01) == TrialScheduler.STOP
    assert decision(ended, 0.9) == TrialScheduler.CONTINUE
    assert decision([], 0.01) == TrialScheduler.CONTINUE


def test_no_values_are_drawn_twice_and_a_small_space_ends() -> None:
    three, values = {"model.lora.rank": Choices(choices=(2, 4, 8))}, {"model.lora.rank": 4}
    sampler = sampler_of(TuneConfig(), three, 0, [Record(name_of(values), values, 0.1, [], "finished", 1.0)], [])
    drawn = [sampler.suggest(str(number)) for number in range(3)]
    assert sorted(one["model.lora.rank"] for one in drawn[:2]) == [2, 8]
    assert drawn[2] == Searcher.FINISHED


def test_a_command_after_a_crash_draws_other_values_than_the_crashed_one() -> None:
    own = {RATE: 2e-3, "model.lora.rank": 2}
    first = sampler_of(TuneConfig(), SPACE, 0, [], [own])
    crashed = [first.suggest("0"), first.suggest("1")]
    again = sampler_of(TuneConfig(), SPACE, 0, [], crashed)
    assert [again.suggest("0"), again.suggest("1")] == crashed
    assert again.suggest("2") not in crashed


def test_trials_at_once_are_bounded_by_the_nodes() -> None:
    two = TrainConfig(num_workers=2)
    assert room_for(two, [{"CPU": 9.0}]) == 4
    assert room_for(TrainConfig(cpus_per_worker=8), [{"CPU": 12.0}] * 4) == 2
    assert room_for(TrainConfig(num_workers=4, min_workers=1, cpus_per_worker=2), [{"CPU": 9.0}]) == 4
    assert room_for(two.model_copy(update={"use_gpu": True}), [{"CPU": 64.0, "GPU": 6.0}, {"CPU": 64.0}]) == 3
    wanted = "a trial needs 2 workers of 1 CPU each, and the cluster's 1 nodes (1 CPU) have room for 1"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        room_for(two, [{"CPU": 1.0}])
    with pytest.raises(ValueError, match=re.escape("of 1 CPU and 1 GPU each")):
        room_for(two.model_copy(update={"use_gpu": True}), [{"CPU": 8.0}])


def ended_trial(values: dict[str, Any], **result: Any) -> Any:
    return SimpleNamespace(trial_id="t", config=values, last_result={"time_total_s": 3.5, **result})


def recorded(recorder: Recorder, trial: Any, *curve: tuple[int, float]) -> Record:
    """The record of a trial that reported some points and was then done."""
    for steps, value in curve:
        recorder.on_trial_result(0, [], trial, {"steps": steps, "value": value})
    recorder.on_trial_complete(0, [], trial)
    return next(one for one in records_of(recorder.uri)[0] if one.name == name_of(trial.config))


def test_what_became_of_a_trial_is_recorded(tmp_path: Path) -> None:
    uri = str(tmp_path)
    stopped = recorded(Recorder(uri, "tuned"), ended_trial({"a": 1}), (0, 0.1), (5, 0.2))
    assert (stopped.state, stopped.value, stopped.steps, stopped.seconds) == ("stopped", 0.2, 5, 3.5)
    values, validation = {"a": 2}, {"tuned": {"steps": 7, "value": 0.4}}
    publish(f"{uri}/trials/{name_of(values)}", "training", {}, validation=validation)
    finished = recorded(Recorder(uri, "tuned"), ended_trial(values), (0, 0.1), (5, 0.2))
    assert (finished.state, finished.value, finished.steps) == ("finished", 0.4, 7)
    refused = recorded(Recorder(uri, "tuned"), ended_trial({"a": 3}, refused="it diverged"), (0, 0.9))
    assert (refused.state, refused.value, refused.why) == ("refused", 0.0, "it diverged")


def test_of_a_trial_that_was_not_the_best_logs_and_record_are_kept(tmp_path: Path) -> None:
    place = tmp_path / "trials" / "a"
    for name in ("logs", "ended", "checkpoints", "tuned"):
        (place / name).mkdir(parents=True)
    publish(str(place), "training", {})
    store(record("a", 0.1), str(tmp_path))
    keep_logs("a", str(tmp_path))
    assert sorted(path.name for path in place.iterdir()) == ["ended", "logs", "record.json"]


def test_what_may_change_while_a_search_goes_on() -> None:
    about = determining(CONFIG, TuneConfig(), "tuned")
    machines = changed(CONFIG, {"train.num_workers": 7, "train.checkpoint_every": 3})
    assert determining(machines, TuneConfig(trials=99, hours=2, concurrent=3), "tuned") == about
    assert determining(changed(CONFIG, {"train.clip": 2.0}), TuneConfig(), "tuned") != about
    assert determining(CONFIG, TuneConfig(search="random"), "tuned") != about


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("package optuna, which is not there: pip install 'rayrec[tune]'")):
        plan_of(CONFIG, TuneConfig(), "tuned")


def test_stages_of_a_file_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    stage = StageConfig(name="tuned", learning_rates={"scales": 0.1}).model_dump(mode="json")
    path.write_text(f"export_stage: tuned\ntrain: {{stages: [{stage}]}}".replace("None", "null"))
    found = load_config(RunConfig, str(path), ["train.stages.tuned.steps=7", "train.stages.0.patience=2"])
    assert (found.train.stages[0].steps, found.train.stages[0].patience) == (7, 2)
    with pytest.raises(ValueError, match="'tunde' is no place in a list of 1; count from 0, or give a name"):
        load_config(RunConfig, str(path), ["train.stages.tunde.steps=7"])
