"""ZeRO stages and world sizes compute the same; a checkpoint resumes to the bit; one that does not fit is refused.

Everything trains, with dropout, and one step has a micro-batch without a target.
"""

import shutil
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
ZERO_STAGES, RESUMED = (0, 1, 2, 3), (2, 3)
ALL = StageConfig(
    name="all",
    learning_rates={"scales": 2e-2, "adapters": 3e-3, "id": 3e-3, "language_model": 1e-3},
    steps=STEPS,
    validate_every=2,
)


@dataclass(frozen=True)
class Outcome:
    """What ran: undisturbed and resumed by ZeRO stage, one process alone; and the messages of what was refused."""

    undisturbed: dict[int, Run]
    resumed: dict[int, Run]
    alone: Run
    other_zero_stage: str | None
    other_world_size: str | None


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("zero")
    model = tiny.model_config(tiny.language_model(folder / "language_model"), dropout=0.2)
    data = published(generate(num_users=60, num_items=60, num_interactions=1800), folder / "dataset")

    def run(zero_stage: int, name: str) -> Run:
        config = TrainConfig(zero_stage=zero_stage, checkpoint_every=CHECKPOINT_AT, warmup_steps=2, stages=(ALL,))
        chosen = settings(data, folder, model, config, streams=4, slots_per_batch=200, num_negatives=16)
        return Run(chosen, str(folder / name))

    def interrupted(zero_stage: int, name: str) -> Run:
        """A run of which only the first checkpoint of the undisturbed one is there."""
        shutil.copytree(folder / f"whole-{zero_stage}" / "000", folder / name / "000")
        return run(zero_stage, name)

    undisturbed = {zero: run(zero, f"whole-{zero}") for zero in ZERO_STAGES}
    assert work(list(undisturbed.values()), 2) == [None] * len(ZERO_STAGES)
    resumed = {zero: interrupted(zero, f"resumed-{zero}") for zero in RESUMED}
    other_zero = Run(run(1, "other").settings, undisturbed[2].checkpoints)
    *fine, other_zero_message = work([*resumed.values(), other_zero], 2)
    assert fine == [None] * len(RESUMED)
    alone = run(2, "alone")
    fine_alone, other_world_message = work([alone, interrupted(2, "other-world")], 1)
    assert fine_alone is None
    return Outcome(undisturbed, resumed, alone, other_zero_message, other_world_message)


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


def test_a_checkpoint_of_another_shape_is_refused_with_the_key(outcome: Outcome) -> None:
    assert outcome.other_zero_stage is not None
    assert "train.zero_stage=2" in outcome.other_zero_stage
    assert outcome.other_world_size is not None
    assert "set train.num_workers=2 to go on" in outcome.other_world_size
