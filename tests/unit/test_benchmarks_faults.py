"""The benchmarks of faults and of checkpoints: histories, goals, a slow storage, tables."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rayrec.data.loader import Loader
from rayrec.schema import DISLIKED
from tests.synthetic import generate, published

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
NAMES = ("history", "checkpoints", "faults", "table")
history, checkpoints, faults, table = map(importlib.import_module, NAMES)

ABOUT = {
    "commit": "0123456789",
    "changed_since_commit": False,
    "machine": {"cores": 2, "memory_gib": 24, "processor": "a processor"},
    "versions": {"python": "3.11.7"},
}


def line(step: int, loss: float = 1.0, targets: int = 5) -> str:
    return json.dumps({"step": step, "faults/loss": loss, "faults/targets": float(targets)}) + "\n"


def test_a_growing_log_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(history.time, "monotonic", lambda: float(next(clock)))
    path = tmp_path / "metrics.jsonl"
    seen = history.History(path, "faults")
    seen.look()
    assert (seen.records, seen.last_step()) == ([], 0)
    path.write_text(line(1) + json.dumps({"step": 1, "faults/valid/value": 0.5}) + "\n" + line(2)[:10])
    seen.look()
    assert [record.step for record in seen.records] == [1]
    with path.open("a") as file:
        file.write(line(2)[10:] + '{"step": 3, "fau\n' + line(2, 4.0))
    seen.look()
    assert [record.step for record in seen.records] == [1, 2, 2]
    assert seen.final()[2].loss == 4.0
    assert seen.step_seconds() == [1.0, 0.0]


def told(steps: list[tuple[float, int]], losses: dict[int, float] | None = None) -> Any:
    """A history of (moment, step), whose targets are ten times the step."""
    made = history.History(Path("nowhere"), "faults")
    made.records = [history.Record(at, step, (losses or {}).get(step, 1.0), 10 * step) for at, step in steps]
    return made


UNDISTURBED = told([(float(step), step) for step in range(1, 9)])
ORDER = [10 * step for step in range(1, 9)]
STEPS = [(100.0, 1), (101.0, 2), (102.0, 3), (103.0, 4), (106.0, 3), (107.0, 4), (108.0, 5), (109.0, 6), (110.0, 7)]
FAILURE = history.Failure(at=103.5, step=4, repeated=2, noticed=0.5, recovery=4.5)


def verdict(made: Any, order: list[int], **changes: Any) -> tuple[dict[str, bool], dict[str, Any]]:
    settings = dict(failures=[FAILURE], period=10.0, step_s=1.0, cold_start=4.0, checkpoint_every=2)
    result = history.judged(made, UNDISTURBED, order, **(settings | changes))
    return {name: met for name, (_, _, met) in result["goals"].items()}, result


def test_a_history_without_a_fault_meets_its_goals() -> None:
    met, result = verdict(told(STEPS), ORDER[:7])
    assert met == {
        "steps_whose_rows_are_lost_or_seen_twice": True,
        "losses_beside_the_undisturbed_run": True,
        "steps_repeated_by_a_failure": True,
        "recovery_over_cold_start": True,
        "goodput": False,
    }
    assert result["goals"]["goodput"][:2] == ("70.0%", "45.0% within 5%")
    assert result["failures"] == [{"at_s": 3.5, "step": 4, "repeated": 2, "noticed_s": 0.5, "recovery_s": 4.5}]
    assert verdict(told(STEPS), ORDER[:7], failures=[FAILURE._replace(recovery=2.2)])[0]["goodput"]


@pytest.mark.parametrize(
    ("goal", "made", "order", "changes"),
    [
        ("steps_whose_rows_are_lost_or_seen_twice", told(STEPS), [*ORDER[:6], 1], {}),
        ("steps_whose_rows_are_lost_or_seen_twice", told([*STEPS[:3], *STEPS[6:]]), ORDER[:7], {}),
        ("losses_beside_the_undisturbed_run", told(STEPS, {6: 1.0001}), ORDER[:7], {}),
        ("losses_beside_the_undisturbed_run", told(STEPS), ORDER[:7], {"failures": [FAILURE._replace(step=7)]}),
        ("steps_repeated_by_a_failure", told(STEPS), ORDER[:7], {"checkpoint_every": 1}),
        ("recovery_over_cold_start", told(STEPS), ORDER[:7], {"cold_start": 3.0}),
    ],
    ids=["other rows", "a step is missing", "another loss", "not compared after the failure", "repeated", "slow"],
)
def test_a_goal_that_is_missed(goal: str, made: Any, order: list[int], changes: dict[str, Any]) -> None:
    assert not verdict(made, order, **changes)[0][goal]


def test_what_the_loader_deals_is_counted_over_epochs(tmp_path: Path) -> None:
    data = published(generate(num_users=40, num_items=40, num_interactions=800), tmp_path)
    loader = Loader(data, history.LoaderConfig(streams=2, slots_per_batch=100), seed=0)
    epochs = []
    for epoch in range(2):
        epochs.append(list[int]())
        for step in loader.epoch(epoch):
            targets = [int((b.targets_BL & (b.likes_BL != DISLIKED)).sum()) for b in step.batches]
            if not any(b.targets_BL.any() for b in step.batches):
                break
            epochs[-1].append(sum(targets))
    both = epochs[0] + epochs[1]
    assert history.dealt(data.uri, 2, 100, len(epochs[0]) + 2) == both[: len(epochs[0]) + 2]


def test_the_table_of_faults(tmp_path: Path) -> None:
    config = {"checkpoint_every": 2}
    about = {**ABOUT, "config": config, "health": {"period_ms": 2000}, "skipped": "", "step_s": 1.0, "cold_start_s": 4}
    (tmp_path / "faults.json").write_text(json.dumps(about | verdict(told(STEPS), ORDER[:7])[1]))
    lines = table.BLOCKS["faults"](tmp_path)
    assert "| steps repeated by a failure | 2 at most | 2 | yes |" in lines
    assert "| goodput | 70.0% | 45.0% within 5% | NO |" in lines
    assert "| 1 | 4 | 4 | 2 | 0 | 4.5 |" in lines
    (tmp_path / "faults.json").write_text(json.dumps({**about, "skipped": "not permitted"}))
    assert table.BLOCKS["faults"](tmp_path) == ["Skipped: not permitted."]


def test_where_hosts_cannot_be_made_the_reason_is_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "not_permitted", lambda: "no hosts here")
    faults.main(["--out", str(tmp_path / "faults.json")])
    found = json.loads((tmp_path / "faults.json").read_text())
    assert found["skipped"] == "no hosts here"
    assert found["config"]["minutes_between"] == 5.0
    assert {"commit", "machine", "versions", "health"} <= found.keys()


def test_a_slow_storage_takes_its_time_and_keeps_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(checkpoints.time, "sleep", slept.append)
    monkeypatch.setattr(checkpoints.SlowFileSystem, "bytes_per_s", 1000.0)
    store = checkpoints.SlowFileSystem()
    path = f"slow://{tmp_path}/a/b"
    with store.open(path, "wb") as file:
        file.write(b"x" * 500)
    assert sorted(slept) == [0.2, 0.5]
    assert (tmp_path / "a" / "b").read_bytes() == b"x" * 500
    slept.clear()
    assert store.exists(path)
    assert store.cat_file(path) == b"x" * 500
    assert [Path(name).name for name in store.ls(str(tmp_path / "a"), detail=False)] == ["b"]
    assert len(slept) >= 3
    assert set(slept) == {0.2}
    store.rm(f"{tmp_path}/a", recursive=True)
    assert not (tmp_path / "a").exists()


def test_overhead_is_told_by_pairs_of_blocks(tmp_path: Path) -> None:
    found = checkpoints.figures([(10.0, 11.0), (20.0, 20.0), (10.0, 10.2)], 20)
    assert found["step_s_without"] == 0.5
    assert found["step_s_with"] == pytest.approx(0.55)
    assert found["overhead"] == pytest.approx(0.02)
    assert found["overhead_range"] == pytest.approx([0.0, 0.1])
    counts = {"megabytes": 5.7, "taken": 6, "stored": 6, "replaced": 0}
    store = {"latency_s": 0.2, "bytes_per_s": 5e6}
    row = {"state": "lora", "ranks": 2, "store": store, **found, **counts}
    (tmp_path / "checkpoints.json").write_text(json.dumps({**ABOUT, "results": [row]}))
    lines = table.BLOCKS["checkpoints"](tmp_path)
    assert lines[2] == "| lora | 2 | 200 ms, 5 MB/s | 5.7 | 0.500 | 0.550 | 2.0% (0.0% to 10.0%) | 6 / 6 / 0 |"
