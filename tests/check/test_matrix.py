"""Every ZeRO stage at world sizes 1, 2 and 4, killed at every point: it ends to the bit where an undisturbed run ends.

Everything trains, with dropout. A rank dies by SIGKILL, the others with it; the run is started again, at the same world
size and, from the checkpoints of one point, at another.
"""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rayrec.storage import manifest
from rayrec.train.config import StageConfig, TrainConfig
from tests import tiny
from tests.synthetic import generate, published
from tests.workers import Kill, Run, kill, settings, work

STEPS, EVERY = 9, 2
ZERO_STAGES = (0, 1, 2, 3)
OTHER_WORLD = {1: 2, 2: 4, 4: 1}
KILLS = {
    "step": Kill("step", 7),
    "after_step": Kill("step", 7, after=True),
    "validation": Kill("validation", 3),
    "snapshot": Kill("snapshot", 3),
    "upload": Kill("upload", 4, after=True),
    "manifest": Kill("manifest", 3),
}
MOVED = "after_step"
"""The point from whose checkpoints another world size goes on."""
pytestmark = pytest.mark.timeout(1200)  # the fixture runs whole trainings
ALL = StageConfig(
    name="all",
    learning_rates={"scales": 2e-2, "adapters": 3e-3, "id": 3e-3, "language_model": 1e-3},
    steps=STEPS,
    validate_every=3,
)


@dataclass(frozen=True)
class Outcome:
    """What ran: undisturbed by ZeRO stage; killed and resumed by ZeRO stage and point; gone on with at another size."""

    undisturbed: dict[int, Run]
    resumed: dict[tuple[int, str], Run]
    moved: dict[int, Run]


@pytest.fixture(scope="module", params=OTHER_WORLD)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    world = int(request.param)
    folder = tmp_path_factory.mktemp(f"world-{world}")
    model = tiny.model_config(tiny.language_model(folder / "language_model"), dropout=0.2)
    data = published(generate(num_users=60, num_items=60, num_interactions=1800), folder / "dataset")

    def run(zero_stage: int) -> Run:
        config = TrainConfig(
            num_workers=world, zero_stage=zero_stage, checkpoint_every=EVERY, warmup_steps=2, stages=(ALL,)
        )
        return Run(settings(data, folder, model, config, streams=4, slots_per_batch=200, num_negatives=16))

    undisturbed = {zero: run(zero) for zero in ZERO_STAGES}
    assert work(list(undisturbed.values()), world) == [None] * len(undisturbed)
    resumed = {(zero, point): run(zero) for zero in ZERO_STAGES for point in KILLS}
    moved = {zero: run(zero) for zero in ZERO_STAGES}
    for (zero, point), killed in resumed.items():
        kill(killed, world, KILLS[point])
        if point == MOVED:
            shutil.copytree(killed.settings.uri, moved[zero].settings.uri, dirs_exist_ok=True)
    assert work(list(resumed.values()), world) == [None] * len(resumed)
    assert work(list(moved.values()), OTHER_WORLD[world]) == [None] * len(moved)
    return Outcome(undisturbed, resumed, moved)


def weights_of(run: Run) -> dict[str, np.ndarray]:
    return dict(load_file(Path(run.settings.uri) / "all" / "model.safetensors"))


@pytest.mark.parametrize("point", KILLS)
@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_a_killed_run_ends_to_the_bit_where_an_undisturbed_one_ends(
    outcome: Outcome, zero_stage: int, point: str
) -> None:
    undisturbed, resumed = outcome.undisturbed[zero_stage], outcome.resumed[zero_stage, point]
    assert len(undisturbed.losses("all")) == STEPS
    assert resumed.losses("all") == undisturbed.losses("all")
    files = [manifest(f"{run.settings.uri}/all", "weights")["files"] for run in (undisturbed, resumed)]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]


@pytest.mark.parametrize("point", KILLS)
@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_a_killed_run_repeats_no_more_than_a_checkpoint_interval(outcome: Outcome, zero_stage: int, point: str) -> None:
    times = Counter(outcome.resumed[zero_stage, point].logged_steps("all"))
    assert sorted(times) == list(range(1, STEPS + 1))
    # What the last interval's checkpoint was still being stored for is repeated too.
    assert sum(times.values()) - STEPS <= 2 * EVERY


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_another_world_size_goes_on_with_the_same_rows_and_losses(outcome: Outcome, zero_stage: int) -> None:
    undisturbed, moved = outcome.undisturbed[zero_stage], outcome.moved[zero_stage]
    first = moved.resumed_at("all")
    assert 0 < first < STEPS
    expected, found = undisturbed.losses("all"), moved.losses("all")
    assert found[: first - 1] == expected[: first - 1]
    np.testing.assert_allclose(found[first - 1], expected[first - 1], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert moved.figures("all", "targets") == undisturbed.figures("all", "targets")
    weights = weights_of(moved)
    for name, value in weights_of(undisturbed).items():
        np.testing.assert_allclose(weights[name], value, rtol=0, atol=1e-3, err_msg=name)
