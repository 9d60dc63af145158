"""What an engine promises at every ZeRO stage, offload and precision: two ranks, everything trains, dropout is on."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

import rayrec.train.engine as engine_module
from rayrec.train.config import TrainConfig
from rayrec.train.engine import Engine
from rayrec.train.precision import Precision
from tests import tiny
from tests.engines import engine, in_world, inputs_of, train

pytestmark = pytest.mark.timeout(900)
STEPS = 4
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"zero {zero}": {"zero_stage": zero} for zero in range(4)},
    **{f"zero {zero}, optimiser on cpu": {"zero_stage": zero, "offload_optimizer": "cpu"} for zero in (1, 2)},
    "zero 3, all on cpu": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
    **{f"zero {zero}, bf16": {"zero_stage": zero, "precision": "bf16"} for zero in (0, 2, 3)},
    **{f"zero {zero}, checkpointing": {"zero_stage": zero, "activation_checkpointing": True} for zero in (0, 3)},
}
PLAIN = "zero 0"


def config(variant: str) -> TrainConfig:
    return TrainConfig.model_validate({"precision": "fp32", "warmup_steps": 0, **VARIANTS[variant]})


def poisoned(made: Engine, step: int) -> list[float]:
    """A step whose losses are finite, and whose last gradient on the last rank has one number that is not."""
    parameter = made.engine.module.user.out.bias
    last = dist.get_rank() == dist.get_world_size() - 1
    seen = []

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(True)
        if last and len(seen) == made.engine.gradient_accumulation_steps():
            gradient = gradient.clone()
            gradient[3] = float("nan")
        return gradient

    handle = parameter.register_hook(poison)
    inputs, seeds, counts = inputs_of(step)
    losses = made.step(inputs, seeds, counts, step)
    handle.remove()
    return losses.tolist()


def ran(folder: str) -> dict[str, dict[str, Any]]:
    """Of every variant: an undisturbed run, and the same with a poisoned step in the middle."""
    found: dict[str, dict[str, Any]] = {}
    for variant in VARIANTS:
        made = engine(f"{folder}/language_model", config(variant))
        losses = train(made, range(STEPS))
        found[variant] = {"losses": losses, "weights": made.gathered_state(), "applied": [made.applied]}
        made.destroy()
        made = engine(f"{folder}/language_model", config(variant))
        train(made, range(2))
        before = made.gathered_state()
        bad = poisoned(made, 7)
        found[variant] |= {"bad": bad, "before": before, "after": made.gathered_state()}
        found[variant]["applied"].append(made.applied)
        found[variant]["losses after"] = train(made, range(2, STEPS))
        found[variant]["applied"].append(made.applied)
        found[variant]["weights after"] = made.gathered_state()
        made.destroy()
    return found


def resumed(folder: str) -> dict[str, Any]:
    """Whether a run goes on without the offload that it was saved with; and fp16, which only a test may have on CPU."""
    made = engine(f"{folder}/language_model", config("zero 2, optimiser on cpu"))
    train(made, range(2))
    made.save(f"{folder}/saved")
    made.destroy()
    made = engine(f"{folder}/language_model", config("zero 2"))
    made.load(f"{folder}/saved")
    train(made, range(2, STEPS))
    weights = made.gathered_state()
    made.destroy()

    engine_module.choose_precision = lambda *_: Precision("fp16", "a test wants it")
    made = engine(f"{folder}/language_model", config("zero 2"))
    losses = train(made, range(2))
    assert made.loss_scale is not None
    start = made.loss_scale.value
    made.loss_scale.value = 2.0**100
    train(made, [7])
    overflow = made.applied, made.loss_scale.value
    made.save(f"{folder}/half")
    made.loss_scale.value = start
    losses += train(made, range(2, STEPS))
    found = {"weights": weights, "losses": losses, "overflow": overflow, "fp16": made.gathered_state()}
    made.destroy()
    made = engine(f"{folder}/language_model", config("zero 2"))
    made.load(f"{folder}/half")
    assert made.loss_scale is not None
    return {**found, "loaded": made.loss_scale.state_dict()}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("engine")
    tiny.language_model(folder / "language_model")
    runs: list[dict[str, dict[str, Any]]] = in_world(2, both, str(folder))
    return runs


def both(folder: str) -> dict[str, dict[str, Any]]:
    return {**ran(folder), "resumed": resumed(folder)}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_with_a_bad_gradient_on_one_rank_never_was(outcome: Any, variant: str) -> None:
    for rank in outcome:
        found = rank[variant]
        assert torch.tensor(found["bad"]).isfinite().all()
        assert found["applied"] == [True, False, True]
        assert_equal(found["after"], found["before"])
        assert found["losses after"] == found["losses"][2:]
        assert_equal(found["weights after"], found["weights"])
        assert not torch.equal(found["weights"]["user.out.bias"], found["before"]["user.out.bias"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_stages_and_offload_change_nothing_and_bf16_little(outcome: Any, variant: str) -> None:
    found, plain = outcome[0][variant], outcome[0][PLAIN]
    bf16 = VARIANTS[variant].get("precision") == "bf16"
    assert found["losses"] == pytest.approx(plain["losses"], rel=1e-2 if bf16 else 1e-4)
    lora = next(name for name in plain["weights"] if "lora_B" in name)
    error = (found["weights"][lora] - plain["weights"][lora]).abs().max()
    assert error < (2e-3 if bf16 else 2e-4)
    assert (error > 1e-6) or not bf16


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if "checkpointing" in variant])
def test_recomputed_layers_drop_what_they_dropped(outcome: Any, variant: str) -> None:
    expected = outcome[0][variant.replace(", checkpointing", "")]["weights"]
    for name, value in outcome[0][variant]["weights"].items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4, msg=name)


def test_a_run_goes_on_without_the_offload_it_was_saved_with(outcome: Any) -> None:
    expected = outcome[0]["zero 2"]["weights"]
    for name, value in outcome[0]["resumed"]["weights"].items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-4, msg=name)


def test_fp16_scales_its_loss(outcome: Any) -> None:
    found, plain = outcome[0]["resumed"], outcome[0][PLAIN]
    assert found["overflow"] == (False, 2.0**99)
    assert found["loaded"] == {"value": 2.0**99, "good_steps": 0}
    assert found["losses"] == pytest.approx(plain["losses"], rel=5e-3)
    for name, value in found["fp16"].items():
        torch.testing.assert_close(value, plain["weights"][name], rtol=0, atol=5e-3, msg=name)


def test_nvme_without_libaio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = type(engine_module.deepspeed.accelerator.get_accelerator().create_op_builder("AsyncIOBuilder"))
    monkeypatch.setattr(builder, "is_compatible", lambda *_: False)
    chosen = TrainConfig.model_validate({"zero_stage": 3, "offload_optimizer": "nvme", "offload_folder": "/fast"})
    with pytest.raises(ValueError, match=r"train\.offload_optimizer=nvme needs .* install libaio-dev .*, or set cpu"):
        engine_module.check_offload(chosen)
