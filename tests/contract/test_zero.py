"""ZeRO stages and world sizes compute the same; a checkpoint resumes to the bit, and at any of them.

Everything trains, with dropout, and one step has a micro-batch without a target.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rayrec.storage import manifest, verify
from rayrec.train.config import StageConfig, TrainConfig
from tests import tiny
from tests.synthetic import generate, published
from tests.workers import Run, settings, work

STEPS, CHECKPOINT_AT = 7, 1
FIRST = "checkpoint_000000_00000001"
ZERO_STAGES, RESUMED = (0, 1, 2, 3), (2, 3)
RESHAPED = ((2, 2, 1), (3, 3, 1), (2, 3, 4), (3, 2, 4), (0, 0, 4))
"""Of two ranks' checkpoints: ZeRO stage saved at, ZeRO stage and ranks resumed at."""
ALL = StageConfig(
    name="all",
    learning_rates={"scales": 2e-2, "adapters": 3e-3, "id": 3e-3, "language_model": 1e-3},
    steps=STEPS,
    validate_every=2,
)


@dataclass(frozen=True)
class Outcome:
    """What ran: undisturbed and resumed by ZeRO stage, one process alone; and the message of what was refused."""

    undisturbed: dict[int, Run]
    resumed: dict[int, Run]
    alone: Run
    refused: str | None
    interrupted: Callable[[int, int], Run]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("zero")
    model = tiny.model_config(tiny.language_model(folder / "language_model"), dropout=0.2)
    data = published(generate(num_users=60, num_items=60, num_interactions=1800), folder / "dataset")

    def run(zero_stage: int) -> Run:
        every = {"checkpoint_every": CHECKPOINT_AT, "checkpoints_kept": STEPS}
        config = TrainConfig(zero_stage=zero_stage, warmup_steps=2, stages=(ALL,), **every)
        return Run(settings(data, folder, model, config, streams=4, slots_per_batch=200, num_negatives=16))

    def interrupted(saved: int, zero_stage: int) -> Run:
        """A run of which only the first checkpoint of an undisturbed one is there."""
        made = run(zero_stage)
        shutil.copytree(undisturbed[saved].checkpoints / FIRST, made.checkpoints / FIRST)
        return made

    undisturbed = {zero: run(zero) for zero in ZERO_STAGES}
    assert work(list(undisturbed.values()), 2) == [None] * len(ZERO_STAGES)
    resumed = {zero: interrupted(zero, zero) for zero in RESUMED}
    *fine, refused = work([*resumed.values(), interrupted(0, 2)], 2)
    assert fine == [None] * len(RESUMED)
    alone = run(2)
    assert work([alone], 1) == [None]
    return Outcome(undisturbed, resumed, alone, refused, interrupted)


@pytest.fixture(scope="module")
def reshaped(outcome: Outcome) -> dict[tuple[int, int, int], Run]:
    """The runs of RESHAPED."""
    runs = {shape: outcome.interrupted(*shape[:2]) for shape in RESHAPED}
    for world_size in (1, 4):
        assert set(work([run for shape, run in runs.items() if shape[2] == world_size], world_size)) == {None}
    return runs


def weights_of(run: Run) -> dict[str, np.ndarray]:
    verify(f"{run.settings.uri}/all", "weights")
    return dict(load_file(Path(run.settings.uri) / "all" / "model.safetensors"))


@pytest.mark.parametrize("zero_stage", ZERO_STAGES[1:])
def test_zero_stages_give_the_same_losses_and_weights(outcome: Outcome, zero_stage: int) -> None:
    plain, sharded = outcome.undisturbed[0], outcome.undisturbed[zero_stage]
    losses = plain.losses("all")
    assert len(losses) == STEPS
    np.testing.assert_allclose(sharded.losses("all"), losses, rtol=1e-4)
    expected = weights_of(plain)
    for name, value in weights_of(sharded).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-3, err_msg=name)


def test_every_group_has_moved(outcome: Outcome) -> None:
    start = load_file(Path(outcome.undisturbed[0].settings.uri) / "zero_shot" / "model.safetensors")
    end = weights_of(outcome.undisturbed[0])
    moved = {name for name in end if not np.array_equal(end[name], start[name])}
    assert {"heads.log_scale", "user.log_decay", "fusion.ids.weight", "fusion.adapter.2.weight", "user.out.weight"} <= (
        moved
    )
    assert any(name.endswith("lora_B.default.weight") for name in moved)


def test_world_sizes_differ_by_the_order_of_additions_alone(outcome: Outcome) -> None:
    one, two = outcome.alone.losses("all"), outcome.undisturbed[2].losses("all")
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    np.testing.assert_allclose(one, two, rtol=1e-3)
    alone, shared = (
        manifest(f"{run.settings.uri}/zero_shot", "weights")["validation"]
        for run in (outcome.alone, outcome.undisturbed[2])
    )
    assert alone == pytest.approx(shared, rel=1e-6)


@pytest.mark.parametrize("zero_stage", RESUMED)
def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(outcome: Outcome, zero_stage: int) -> None:
    undisturbed, resumed = outcome.undisturbed[zero_stage], outcome.resumed[zero_stage]
    assert resumed.losses("all") == undisturbed.losses("all")[CHECKPOINT_AT:]
    expected, found = weights_of(undisturbed), weights_of(resumed)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    about = manifest(f"{resumed.settings.uri}/all", "weights")["validation"]
    assert about == manifest(f"{undisturbed.settings.uri}/all", "weights")["validation"]
    assert about["best_step"] > CHECKPOINT_AT


@pytest.mark.parametrize("shape", RESHAPED)
def test_another_world_size_or_zero_stage_goes_on_with_the_same_losses(
    outcome: Outcome, reshaped: dict[tuple[int, int, int], Run], shape: tuple[int, int, int]
) -> None:
    expected = outcome.undisturbed[shape[0]].losses("all")[CHECKPOINT_AT:]
    found = reshaped[shape].losses("all")
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert reshaped[shape].warnings() == ""


def test_what_zero_0_saved_is_refused_at_another_stage_with_the_key(outcome: Outcome) -> None:
    assert outcome.refused is not None
    assert "set train.zero_stage=0 to go on" in outcome.refused
