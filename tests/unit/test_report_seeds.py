"""Reports of several seeds as one."""

import json
from typing import Any

import pytest

from rayrec.evaluate.report import join_seeds


def report(seed: int, ndcg: float, win: bool = True, **changes: Any) -> dict[str, Any]:
    estimate = {"mean": ndcg, "low": ndcg - 0.1, "high": ndcg + 0.1}
    figures = {"users": 9, "ndcg": estimate, "log_loss": ndcg / 2, "auc": None if seed == 2 else estimate}
    gain = {"system": "a", "less": "b", "slice": "all", "metric": "ndcg", "mean": ndcg, "win": win}
    made = {
        "protocol": "p",
        "k": 10,
        "bootstrap": 100,
        "order": ["a"],
        "seed": seed,
        "systems": {"a": {"all": figures}},
    }
    return {**made, "differences": [gain], **changes}


def test_mean_and_standard_deviation_of_every_figure() -> None:
    joined = join_seeds([report(0, 0.2), report(1, 0.3), report(2, 0.7)])
    figures = joined["systems"]["a"]["all"]
    assert joined["seeds"] == [0, 1, 2]
    assert figures["ndcg"] == {"mean": 0.4, "sd": pytest.approx(0.264575, abs=1e-6)}
    assert figures["log_loss"] == {"mean": 0.2, "sd": pytest.approx(0.132288, abs=1e-6)}
    assert figures["users"] == {"mean": 9, "sd": 0}
    assert figures["auc"] == {"mean": None, "sd": None}
    assert joined["differences"][0]["mean"] == 0.4
    json.dumps(joined, allow_nan=False)


@pytest.mark.parametrize(("wins", "claimed"), [([1, 1, 1], True), ([1, 0, 1], False), ([1, 1], False)])
def test_a_win_is_one_in_each_of_three_seeds(wins: list[int], claimed: bool) -> None:
    found = join_seeds([report(seed, 0.5, bool(win)) for seed, win in enumerate(wins)])["differences"]
    assert [(one["wins"], one["win"]) for one in found] == [(sum(wins), claimed)]


def test_a_difference_that_a_seed_lacks_is_left_out() -> None:
    assert join_seeds([report(0, 0.5), report(1, 0.5, differences=[])])["differences"] == []


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([report(0, 0.5)], r"seeds \[0\]; expected at least two"),
        ([report(0, 0.5), report(0, 0.6)], r"seeds \[0, 0\]; expected at least two, each of another"),
        ([report(0, 0.5), report(1, 0.5, k=5)], "seed 1 has another k than that of seed 0"),
        ([report(0, 0.5), report(1, 0.5, systems={})], "seed 1 has another set of slices or metrics"),
    ],
)
def test_what_cannot_be_joined_is_refused(reports: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        join_seeds(reports)
