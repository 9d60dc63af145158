"""A search whose driver is killed, and then interrupted, repeats no trial that had ended, and ends with a config."""

import json
from pathlib import Path

import pytest

from rayrec.config import load_config
from rayrec.data.config import LoaderConfig
from rayrec.stages import RunConfig
from rayrec.storage import verify
from rayrec.train.config import StageConfig, TrainConfig
from rayrec.tune.config import Range, TuneConfig
from rayrec.tune.results import Record, records_of
from tests import tiny
from tests.driver import running
from tests.synthetic import generate, published

pytestmark = pytest.mark.timeout(900)

TRIALS, STEPS = 5, 12
RATE = "train.stages.tuned.learning_rates.scales"


def searching(folder: Path, trials: int) -> RunConfig:
    published(generate(num_users=60, num_items=60, num_interactions=1800), folder / "run" / "dataset")
    stage = StageConfig(name="tuned", learning_rates={"scales": 1e-2}, steps=STEPS, validate_every=4)
    return RunConfig(
        run=str(folder / "run"),
        model=tiny.model_config(tiny.language_model(folder / "language_model")),
        loader=LoaderConfig(streams=1, slots_per_batch=200, num_negatives=16),
        train=TrainConfig(num_workers=1, precision="fp32", stages=(stage,)),
        export_stage="tuned",
        tune=TuneConfig(space={RATE: Range(low=1e-4, high=1e-1, log=True)}, trials=trials),
    )


def ended(run: RunConfig) -> list[Record]:
    return records_of(run.search)[0]


def told(run: RunConfig) -> dict[str, tuple[str, str]]:
    """What the trials that have ended wrote of their steps and of their end."""
    return {
        one.name: (
            Path(run.search, "trials", one.name, "logs", "metrics.jsonl").read_text(),
            Path(run.search, "trials", one.name, "record.json").read_text(),
        )
        for one in ended(run)
    }


def test_a_search_that_is_killed_and_interrupted_repeats_no_trial_that_had_ended(tmp_path: Path) -> None:
    run = searching(tmp_path, TRIALS - 1)
    with running("tune", run, tmp_path) as driver:
        driver.wait_for(lambda: ended(run))
        driver.kill()
    killed = told(run)
    assert 0 < len(killed) < TRIALS
    with running("tune", run, tmp_path) as driver:
        driver.wait_for(lambda: len(ended(run)) > len(killed))
        driver.interrupt()
        code, printed = driver.finish()
    assert code == 130, printed
    assert "rayrec tune: stopped, with the trials that had ended, on SIGINT; to go on: rayrec tune --config " in printed
    interrupted = told(run)
    assert len(killed) < len(interrupted) < TRIALS
    run = run.model_copy(update={"tune": run.tune.model_copy(update={"trials": TRIALS})})
    with running("tune", run, tmp_path) as driver:
        code, printed = driver.finish()
    assert code == 0, printed
    assert killed.items() <= interrupted.items() <= told(run).items()
    trials = ended(run)
    assert len(trials) == TRIALS
    assert {one.values[RATE] for one in trials} >= {1e-2}  # the config's own value was tried
    assert trials[0].state == "finished"
    assert {one.state for one in trials} <= {"finished", "stopped"}
    assert all(one.steps == STEPS for one in trials if one.state == "finished")
    best = load_config(RunConfig, f"{run.search}/result/best.yaml")
    assert best.train.stages[0].learning_rates["scales"] == trials[0].values[RATE]
    assert trials[0].value == max(one.value for one in trials)
    assert verify(f"{run.search}/result", "search")["kind"] == "search"
    for one in trials:
        steps = [json.loads(line) for line in told(run)[one.name][0].splitlines()]
        assert max(line["step"] for line in steps) >= one.steps
