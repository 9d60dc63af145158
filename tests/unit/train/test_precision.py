from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rayrec.train import precision
from rayrec.train.precision import LossScale, Precision, agreed, choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def has(text: str) -> None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {text}\nmodel name : amx_bf16\n")
        monkeypatch.setattr(precision, "_CPU_INFO", str(tmp_path / "cpuinfo"))

    return has


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> Any:
    def has(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")

    return has


@pytest.mark.parametrize(
    ("found", "name"), [("avx2", "fp32"), ("avx512_bf16_not", "fp32"), ("avx512_bf16", "bf16"), ("amx_bf16", "bf16")]
)
def test_a_cpu_takes_bf16_where_it_has_instructions_for_it(flags: Any, found: str, name: str) -> None:
    flags(found)
    chosen = choose_precision("auto", CPU)
    assert chosen.name == name
    assert (found if name == "bf16" else "none of amx_bf16, avx512_bf16") in chosen.reason


def test_a_machine_without_the_file_takes_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_CPU_INFO", "/nowhere/cpuinfo")
    assert choose_precision("auto", CPU).name == "fp32"


@pytest.mark.parametrize(("major", "minor", "name"), [(6, 1, "fp32"), (7, 5, "fp16"), (8, 0, "bf16"), (9, 0, "bf16")])
def test_a_gpu_takes_what_its_tensor_cores_do(capability: Any, major: int, minor: int, name: str) -> None:
    capability(major, minor)
    chosen = choose_precision("auto", GPU)
    assert chosen.name == name
    assert f"a card has compute capability {major}.{minor}" in chosen.reason


def test_what_was_asked_for_is_taken_and_the_reason_tells_what_auto_would_take(flags: Any, capability: Any) -> None:
    flags("avx2")
    capability(8, 6)
    assert choose_precision("bf16", CPU).name == "bf16"
    assert "auto would take fp32: this CPU has none of" in choose_precision("bf16", CPU).reason
    assert [choose_precision(name, GPU).name for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


def test_what_the_hardware_lacks_is_refused(flags: Any, capability: Any) -> None:
    flags("avx2")
    with pytest.raises(ValueError, match=r"train\.precision=fp16, but this CPU .*; set train\.precision=fp32 or auto"):
        choose_precision("fp16", CPU)
    capability(7, 0)
    with pytest.raises(ValueError, match=r"train\.precision=bf16, but a card .*; set train\.precision=fp16 or auto"):
        choose_precision("bf16", GPU)


def test_ranks_that_differ_take_fp32() -> None:
    own = Precision("bf16", "a reason")
    assert agreed(own, ["bf16", "bf16"]) == own
    assert agreed(own, ["bf16", "fp16"]).name == "fp32"
    assert "bf16 or fp16" in agreed(own, ["fp16", "bf16", "fp16"]).reason


def test_gradients_do_not_know_the_scale() -> None:
    weight = nn.Parameter(torch.tensor([2.0, 3.0]))
    scale = LossScale([weight])
    (weight.square().sum() * scale.value).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0, 6.0]


def test_the_scale_falls_at_once_and_rises_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossScale, "GROWTH_STEPS", 3)
    scale, seen = LossScale([]), []
    for applied in (False, True, True, False, True, True, True, True):
        scale.update(applied)
        seen.append(scale.value / 2**12)
    assert seen == [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.5, 0.5]
    other = LossScale([])
    other.load_state_dict(scale.state_dict())
    assert (other.value, other.good_steps) == (2.0**11, 4)
    for _ in range(40):
        scale.update(False)
    assert scale.value == 1.0
