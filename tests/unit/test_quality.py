"""The parts of benchmarks/quality.py: what is kept of reports, and its tables."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rayrec.config import load_config
from rayrec.evaluate.report import PROTOCOL
from rayrec.stages import RunConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
quality, table_quality, datasets = map(importlib.import_module, ("quality", "table_quality", "datasets"))


def estimate(mean: float | None) -> dict[str, float] | None:
    return None if mean is None else {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def report(seed: int, gain: float) -> dict[str, Any]:
    """Two systems, as evaluate writes it, and more slices and metrics than the table shows."""
    figures = {"frozen": 0.2, "tuned": 0.2 + gain}
    general = {"zero_shot": 0.5, "tuned": 0.45, "zero_shot_random_weights": 0.01}
    return {
        "seed": seed,
        "protocol": PROTOCOL,
        "k": 10,
        "bootstrap": 10,
        "order": list(figures),
        "kept": {"zero_shot": True, "tuned": seed == 0},
        "seconds": {"prepare": 2.0, "train": 100.0, "evaluate": 18.0},
        "counts": {"items": 5, "users": 7, "targets": 9},
        "cutoffs": {},
        "left_out": {"ease": "the catalogue is large"},
        "baselines": {"ease": {"setting": {"half_life": 3.0}, "trials": [1, 2]}},
        "general_text": {
            name: {**(estimate(value) or {}), "change": estimate(round(value - 0.5, 3))}
            for name, value in general.items()
        },
        "systems": {
            system: {
                name: {
                    "users": 7,
                    **{metric: estimate(value) for metric in ("ndcg", "recall", "mrr", "gauc", "popularity_bias")},
                    "auc": None,
                    **{metric: 0.5 for metric in ("log_loss", "calibration_error", "coverage", "gini")},
                }
                for name in (*quality.SLICES, "head")
            }
            for system, value in figures.items()
        },
        "differences": [
            {
                "system": "tuned",
                "less": "frozen",
                "slice": name,
                "metric": "ndcg",
                **(estimate(gain) or {}),
                "corrected_low": gain - 0.2,
                "corrected_high": gain + 0.2,
                "win": gain > 0.2,
            }
            for name in ("all", "cold", "head")
        ],
    }


def result(*reports: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": "films",
        "commit": "0123456789",
        "changed_since_commit": False,
        "machine": {"cores": 2, "processor": "some", "memory_gib": 24},
        "versions": {"python": "3.11"},
        "k": 10,
        "order": reports[0]["order"],
        "by_seed": [quality.short(one) for one in reports],
        "over_seeds": quality.over_seeds(list(reports)) if len(reports) > 1 else None,
    }


def lines(tmp_path: Path, *reports: dict[str, Any]) -> list[str]:
    (tmp_path / "quality-films.json").write_text(json.dumps(result(*reports)))
    found: list[str] = table_quality.quality_tables(tmp_path)
    return found


def test_one_seed_is_shown_with_intervals_over_users_and_wins_in_bold(tmp_path: Path) -> None:
    shown = lines(tmp_path, report(0, 0.3))
    assert "| frozen | 0.200 [0.100, 0.300] |" in "\n".join(shown)
    assert "| tuned - frozen | **+0.300 [+0.100, +0.500]** |  | **+0.300 [+0.100, +0.500]** |  |  |" in shown
    assert "- Left out: ease, the catalogue is large" in shown
    assert "- Seeds 0; minutes a seed: 2." in shown
    (general,) = (line for line in shown if line.startswith("- General text"))
    assert "pretrained 0.500 [0.400, 0.600]; tuned 0.450 [0.350, 0.550], change -0.050 [-0.150, +0.050]" in general


def test_an_unkept_stage_is_marked(tmp_path: Path) -> None:
    assert "| tuned (not kept) | " in "\n".join(lines(tmp_path, report(1, 0.3)))
    assert "| tuned | " in "\n".join(lines(tmp_path, report(0, 0.3)))


def test_being_ahead_of_a_constant_is_no_win(tmp_path: Path) -> None:
    flat = report(0, 0.3)
    flat["systems"]["frozen"]["cold"]["ndcg"] = {"mean": 0.0, "low": 0.0, "high": 0.0}
    shown = lines(tmp_path, flat)
    assert "| tuned - frozen | **+0.300 [+0.100, +0.500]** |  | +0.300 [+0.100, +0.500] |  |  |" in shown


def test_a_difference_whose_corrected_interval_holds_zero_is_no_win(tmp_path: Path) -> None:
    assert "| tuned - frozen | +0.150 [-0.050, +0.350] |" in "\n".join(lines(tmp_path, report(0, 0.15)))


@pytest.mark.parametrize(("gains", "mark"), [((0.3, 0.4, 0.5), "**"), ((0.3, 0.4, 0.1), ""), ((0.3, 0.4), "")])
def test_seeds_are_shown_as_mean_and_deviation_and_a_win_is_one_on_three(
    tmp_path: Path, gains: tuple[float, ...], mark: str
) -> None:
    shown = "\n".join(lines(tmp_path, *(report(seed, gain) for seed, gain in enumerate(gains))))
    mean = sum(gains) / len(gains)
    assert "| frozen | 0.200 ± 0.000 |" in shown
    assert f"| tuned - frozen | {mark}{mean:+.3f} ± " in shown


def test_every_config_takes_the_budget() -> None:
    for path in datasets.CONFIGS.glob("*.yaml"):
        config = load_config(RunConfig, str(path), [*quality.BUDGET, "run=x", "seed=1"])
        assert config.train.controls == ("random_weights", "shuffled_texts")
        assert {"tuned_random_weights", "frozen_shuffled_texts", "id_only"} < set(config.train.systems())
