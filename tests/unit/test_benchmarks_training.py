"""The benchmarks of training: what collectives send, the cost model's formulas, rates, tables."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
NAMES = ("collectives", "cost_model", "scaling", "table")
collectives, cost_model, scaling, table = map(importlib.import_module, NAMES)

ABOUT = {
    "commit": "0123456789",
    "changed_since_commit": False,
    "machine": {"cores": 2, "memory_gib": 24, "processor": "a processor"},
    "versions": {"python": "3.11.7"},
}
LARGE, SMALL = 250_000, 50_000


def test_a_ring_sends_what_it_should() -> None:
    assert collectives.sent("all_reduce", 100, 4) == 150
    assert collectives.sent("all_gather_into_tensor", 100, 4) == collectives.sent("reduce_scatter_tensor", 100, 4) == 75
    assert collectives.sent("all_reduce", 100, 1) == 0


def test_calls_and_bytes_are_counted_and_waits_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Work:
        def wait(self) -> str:
            return "done"

    def all_reduce(tensor: torch.Tensor, op: str = "sum", async_op: bool = False) -> Work | None:
        return Work() if async_op else None

    def all_gather(tensor_list: list[torch.Tensor], tensor: torch.Tensor) -> None:
        return None

    for kind in collectives.PAYLOAD:
        monkeypatch.setattr(collectives.dist, kind, {"all_gather": all_gather}.get(kind, all_reduce))
    monkeypatch.setattr(collectives, "PAYLOAD", {"all_reduce": "tensor", "all_gather": "tensor_list"})
    clock = iter(range(100))
    monkeypatch.setattr(collectives.time, "perf_counter", lambda: float(next(clock)))
    counted = collectives.Collectives().install()
    collectives.dist.all_reduce(torch.zeros(5))
    assert collectives.dist.all_reduce(tensor=torch.zeros(3, dtype=torch.float64), async_op=True).wait() == "done"
    collectives.dist.all_gather([torch.zeros(2), torch.zeros(2)], torch.zeros(2))
    assert counted.told() == {"all_gather": {"calls": 1, "bytes": 16}, "all_reduce": {"calls": 2, "bytes": 44}}
    assert counted.sent(2) == 44 + 8
    assert counted.seconds == 4


def test_loopback_bytes_are_those_sent() -> None:
    numbers = "10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0"
    assert collectives.loopback_bytes(f"Inter-| x\n face |bytes\n  eth0: {numbers}\n    lo: {numbers}\n") == 20


@pytest.mark.parametrize(
    ("stage", "micro", "expected"),
    [
        (0, 1, 2 * LARGE),
        (0, 3, 2 * LARGE),
        (1, 3, 3 * LARGE),
        (2, 1, 3 * LARGE),
        (2, 3, 7 * LARGE),
        (3, 1, LARGE + LARGE + LARGE + SMALL),
        (3, 3, 3 * (LARGE + LARGE + LARGE) + SMALL),
    ],
)
def test_bytes_by_zero_stage(stage: int, micro: int, expected: int) -> None:
    """One trained parameter, a large and a small frozen one, four GPUs, four bytes an element."""
    assert cost_model.sent([LARGE], [LARGE, SMALL], 4, stage, size=4, micro=micro) == expected * 4 * 3 / 4


def test_parameters_that_do_not_stay_are_gathered_twice() -> None:
    big = cost_model.KEPT + 1
    assert cost_model.sent([LARGE], [big], 2, 3, size=2) == LARGE + 2 * (LARGE + big)


def test_memory_by_zero_stage() -> None:
    held = [cost_model.memory(1000, 500, 10, stage) for stage in cost_model.ZERO_STAGES]
    assert held == [
        2 * 1500 + 2 * 1000 + 12 * 1000,
        2 * 1500 + 2 * 1000 + 12 * 100,
        2 * 1500 + 2 * 100 + 12 * 100,
        2 * 150 + 2 * 100 + 12 * 100,
    ]


def test_deepspeed_agrees_on_memory_but_for_its_buffers() -> None:
    one = cost_model.SHAPES[-1]
    for gpus, stage in ((8, 2), (64, 3)):
        ours = cost_model.memory(sum(one.trained), 0, gpus, stage)
        assert 1 <= cost_model.deepspeed_memory(one, gpus, stage, 8) / ours < 1.3
    assert cost_model.deepspeed_memory(one, 8, 0, 8) is None


def test_bandwidth_and_latency_inside_and_between_nodes() -> None:
    hardware = cost_model.Hardware(
        nvlink=100.0, card=5.0, gpus_a_node=4, ring_us=(1.0, 10.0, 100.0), tree_us=(2.0, 20.0, 200.0)
    )
    assert [hardware.bandwidth(gpus) for gpus in (4, 8)] == [100.0, 20.0]
    assert [hardware.latency("all_gather", gpus) * 1e6 for gpus in (4, 8)] == pytest.approx([31, 1 + 5 * 10 + 2 * 100])
    assert [hardware.latency("all_reduce", gpus) * 1e6 for gpus in (4, 8)] == pytest.approx([122, 2 + 2 * (60 + 200)])


def test_compute_counts_what_is_trained_passed_and_run() -> None:
    one = cost_model.Shape("x", [cost_model.HEADS, 7], [20, 5], through=20, below=5)
    assert cost_model.flop(one, 10) == 10 * (6 * 7 + 4 * 20 + 2 * 5)
    lora = cost_model.shape("x", [100, 100], 3, lora_hidden=10, rank=2)
    assert (sum(lora.trained), sum(lora.frozen), lora.through) == (cost_model.HEADS + 3 * 4 * 20, 600, 600)
    layers = [sum(layer) for layer in (cost_model.MINILM, cost_model.BERT, cost_model.DECODER)]
    assert layers == [1_774_464, 7_087_872, 202_383_360]


def test_a_row_of_the_model() -> None:
    hardware = cost_model.Hardware(compute_share=1.0, bandwidth_share=1.0)
    row = cost_model.prediction(cost_model.SHAPES[-1], 8, 0, hardware)
    assert row["communication_s"] == pytest.approx(row["sent_bytes"] / 450e9 + row["latency_s"])
    assert row["efficiency"] == row["compute_s"] / (row["compute_s"] + row["communication_s"])
    assert row["compute_s"] == pytest.approx(6 * 32 * 202_383_360 * cost_model.TOKENS / 989e12)
    assert not row["fits"]
    assert cost_model.prediction(cost_model.SHAPES[-1], 8, 1, hardware)["fits"]


def test_measured_bytes_are_compared() -> None:
    row: dict[str, Any] = {"kind": "x", "ranks": 2, "zero_stage": 0, "trained": [100], "frozen": [50], "calls": {}}
    (one,) = cost_model.compared_bytes([{**row, "sent_bytes": 400, "loopback_bytes": 500}])
    assert one["predicted_bytes"] == 400
    assert (one["error_of_calls"], one["error_of_loopback"]) == (0, pytest.approx(-0.2))
    (alone,) = cost_model.compared_bytes([{**row, "ranks": 1, "sent_bytes": 0, "loopback_bytes": 10}])
    assert alone["error_of_loopback"] is None


def answer(began: float, ended: float, targets: int, waited: float = 0.0) -> dict[str, Any]:
    return {"began": began, "ended": ended, "targets": targets, "communication_s": waited}


def test_scaling_is_the_rate_of_two_over_twice_that_of_one() -> None:
    turn = {
        "alone": [answer(0, 10, 100)],
        "pair": [answer(0, 12, 100, 3), answer(1, 12.5, 100, 1)],
        "beside": [answer(0, 11, 100), answer(0, 10, 100)],
    }
    slow = {**turn, "alone": [answer(0, 20, 100)]}
    found = scaling.figures([turn, turn, slow])
    assert found["examples_per_s_1"] == 10
    assert found["examples_per_s_2"] == 200 / 12.5
    assert found["efficiency"] == pytest.approx(0.8)
    assert found["efficiency_range"] == pytest.approx([0.8, 1.6])
    assert found["machine"] == pytest.approx(200 / 11 / 20)
    assert found["of_the_machine"] == pytest.approx(0.8 / (200 / 11 / 20))
    assert found["communication"] == 0.25


def test_tables_of_scaling_and_of_the_cost_model(tmp_path: Path) -> None:
    taken = {"alone": [answer(0, 10, 100)], "pair": [answer(0, 10, 100)] * 2, "beside": [answer(0, 10, 100)] * 2}
    scaled = {**ABOUT, "results": [{"zero_stage": 2, **scaling.figures([taken])}]}
    (tmp_path / "scaling.json").write_text(json.dumps(scaled))
    lines = table.BLOCKS["scaling"](tmp_path)
    assert lines[2] == "| 2 | 10 | 20 | 1.00 (1.00 to 1.00) | 1.00 | 1.00 | 0.0% |"
    row = {"kind": "lora", "ranks": 2, "zero_stage": 2, "trained": [100], "frozen": [], "calls": {}}
    measured = cost_model.compared_bytes([{**row, "sent_bytes": 600, "loopback_bytes": 750}])
    hardware = cost_model.Hardware()
    costs = {
        **ABOUT,
        "bytes": measured,
        "bytes_skipped": "",
        "compute": [
            dict(kind="lora", gflop_per_s=60.0, predicted_s=1.0, measured_s=2.0, share=0.5, share_range=[0.4, 0.6])
        ],
        "predictions": [cost_model.prediction(cost_model.SHAPES[-1], 8, stage, hardware) for stage in range(4)],
    }
    (tmp_path / "cost-model.json").write_text(json.dumps(costs))
    lines = table.BLOCKS["cost_model"](tmp_path)
    assert lines[2].startswith("| decoder, all 32 layers | 8 | 22,")
    assert "(too much) / " in lines[2]
    assert "| lora | 2 | 2 | 0.00 | 0.00 | 0.00 | 0.0% | -20.0% |" in lines
    assert "| lora | 60 | 1.00 | 2.00 | 0.50 (0.40 to 0.60) |" in lines
    (tmp_path / "cost-model.json").write_text(json.dumps({**costs, "bytes": [], "bytes_skipped": "not permitted"}))
    assert "Bytes were not measured: not permitted." in table.BLOCKS["cost_model"](tmp_path)
