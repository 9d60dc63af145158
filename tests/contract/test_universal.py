"""A checkpoint of two ranks goes on at one and at four, and at another ZeRO stage, with LoRA and a frozen base."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rayrec.train.config import TrainConfig
from rayrec.train.universal import to_universal
from tests import tiny
from tests.engines import engine, in_world, train

pytestmark = pytest.mark.timeout(900)
SAVED_AT, ZERO_STAGES = 3, (0, 1, 2, 3)


def saved(folder: str) -> dict[int, Any]:
    """By ZeRO stage: the weights that were saved, and the losses of the steps after that."""
    found = {}
    for zero_stage in ZERO_STAGES:
        made = engine(f"{folder}/language_model", TrainConfig(zero_stage=zero_stage, precision="fp32"))
        train(made, range(SAVED_AT))
        made.save(f"{folder}/{zero_stage}")
        found[zero_stage] = made.gathered_state(), train(made, range(SAVED_AT, SAVED_AT + 3)), made.gathered_state()
        made.destroy()
    return found


def loaded(folder: str, moves: list[tuple[int, int]]) -> dict[tuple[int, int], Any]:
    """By (ZeRO stage saved, ZeRO stage loaded): the same."""
    found = {}
    for before, after in moves:
        made = engine(f"{folder}/language_model", TrainConfig(zero_stage=after, precision="fp32"))
        made.load(f"{folder}/{before}", universal=before != 0)
        found[before, after] = made.gathered_state(), train(made, range(SAVED_AT, SAVED_AT + 3)), made.gathered_state()
        made.destroy()
    return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, Any], dict[int, dict[tuple[int, int], Any]]]:
    folder = tmp_path_factory.mktemp("universal")
    tiny.language_model(folder / "language_model")
    before = in_world(2, saved, str(folder))[0]
    for zero_stage in ZERO_STAGES[1:]:
        to_universal(f"{folder}/{zero_stage}")
    moves = [(zero, zero) for zero in ZERO_STAGES]
    return before, {
        1: in_world(1, loaded, str(folder), moves)[0],
        4: in_world(4, loaded, str(folder), [*moves, (2, 3), (3, 1)])[0],
    }


@pytest.mark.parametrize("world", [1, 4])
def test_another_world_size_goes_on(outcome: Any, world: int) -> None:
    before, after = outcome
    for (zero_stage, _), (weights, losses, end) in after[world].items():
        expected, expected_losses, expected_end = before[zero_stage]
        assert weights.keys() == expected.keys()
        assert any("lora_" in name for name in weights)
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
        assert losses[0] == pytest.approx(expected_losses[0], rel=1e-5)
        assert losses == pytest.approx(expected_losses, rel=1e-4)
        for name, value in end.items():
            torch.testing.assert_close(value, expected_end[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_failed_conversion_tells_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ds_to_universal ended with exit code 1 for .*/ds: .*"):
        to_universal(str(tmp_path))
