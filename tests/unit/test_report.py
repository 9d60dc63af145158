"""The report from what was measured: figures, intervals, wins, the terminal's table."""

import json
from typing import Any

import numpy as np
import pytest

from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.measure import Measured, Slice
from rayrec.evaluate.report import build, means, table_text
from rayrec.metrics import auc, log_losses
from rayrec.schema import DISLIKED, LIKED, UNKNOWN

USERS, ITEMS = 40, 6
CONFIG = EvaluateConfig(bootstrap=200, comparisons=(("tuned", "frozen"), ("frozen", "tuned"), ("tuned", "absent")))


def slices() -> dict[str, Slice]:
    every_N, everyone_U = np.full(ITEMS, True), np.full(USERS, True)
    cold_N = np.arange(ITEMS) == 5
    return {
        "all": Slice(every_N, every_N, everyone_U),
        "warm": Slice(~cold_N, ~cold_N, everyone_U),
        "cold": Slice(cold_N, cold_N, everyone_U),
    }


def measured(gain: float, labelled: bool = True) -> Measured:
    generator = np.random.default_rng(0)
    row_E = np.repeat(np.arange(USERS), 4)
    label_E = np.tile(np.array([LIKED, DISLIKED, LIKED, UNKNOWN], np.int8), USERS)
    ndcg_U = generator.random(USERS) / 2 + gain
    like_E = generator.standard_normal(len(row_E)) + gain * (label_E == LIKED)
    nothing_U = np.full(USERS, np.nan)
    return Measured(
        metrics={"all": {"ndcg": ndcg_U}, "warm": {"ndcg": ndcg_U}, "cold": {"ndcg": nothing_U}},
        row_E=row_E,
        item_E=np.tile(np.arange(4), USERS),
        label_E=label_E if labelled else np.full_like(label_E, UNKNOWN),
        like_E=like_E,
    )


def made(labelled: bool = True, **systems: Measured) -> dict[str, Any]:
    systems = systems or {"frozen": measured(0.1, labelled), "tuned": measured(0.4, labelled)}
    return build(systems, slices(), log_odds={"tuned"}, config=CONFIG, seed=3, about={"seed": 3})


def test_figures_are_those_of_the_metrics() -> None:
    one = measured(0.4)
    found = made(tuned=one)["systems"]["tuned"]["all"]
    known_E = one.label_E != UNKNOWN
    assert found["users"] == USERS
    assert found["ndcg"]["mean"] == pytest.approx(one.metrics["all"]["ndcg"].mean(), abs=1e-6)
    assert found["auc"]["mean"] == pytest.approx(auc(one.label_E[known_E], one.like_E[known_E]), abs=1e-6)
    assert found["log_loss"] == pytest.approx(log_losses(one.label_E[known_E], one.like_E[known_E]).mean(), abs=1e-6)
    for figure in (found["ndcg"], found["auc"], found["gauc"]):
        assert figure["low"] < figure["mean"] < figure["high"]


def test_log_loss_only_where_the_opinion_is_a_log_odds() -> None:
    report = made()
    assert report["systems"]["frozen"]["all"]["log_loss"] is None
    assert report["systems"]["tuned"]["all"]["log_loss"] > 0


def test_a_win_needs_an_interval_above_zero() -> None:
    found = {(one["system"], one["less"], one["slice"], one["metric"]): one for one in made()["differences"]}
    gain, loss = found["tuned", "frozen", "all", "ndcg"], found["frozen", "tuned", "all", "ndcg"]
    assert gain["win"]
    assert gain["mean"] == pytest.approx(0.3, abs=1e-6)
    assert not loss["win"]
    same = {"frozen": measured(0.1), "tuned": measured(0.1)}
    assert not any(one["win"] for one in made(**same)["differences"])


def test_what_was_not_measured_is_null_and_has_no_difference() -> None:
    report = made(labelled=False)
    system = report["systems"]["tuned"]
    assert [system["all"][name] for name in ("auc", "gauc", "log_loss")] == [None] * 3
    assert system["cold"]["users"] == 0
    assert system["cold"]["ndcg"] is None
    assert {(one["slice"], one["metric"]) for one in report["differences"]} == {("all", "ndcg"), ("warm", "ndcg")}
    assert means(report, "cold", "ndcg") == {"frozen": None, "tuned": None}
    json.dumps(report, allow_nan=False)


def test_comparisons_with_systems_that_were_not_measured_are_left_out() -> None:
    assert {one["less"] for one in made()["differences"]} == {"frozen", "tuned"}


def test_the_same_input_gives_the_same_report_and_keeps_what_was_given() -> None:
    assert json.dumps(made(), sort_keys=True) == json.dumps(made(), sort_keys=True)
    assert made()["seed"] == 3


def test_table_has_a_line_a_system_and_a_line_a_difference() -> None:
    report = made()
    lines = table_text(report).splitlines()
    assert "NDCG@10 all (n=40)" in lines[0]
    assert [line.split()[0] for line in lines[1:3]] == ["frozen", "tuned"]
    mean = report["systems"]["tuned"]["all"]["ndcg"]["mean"]
    assert f"{mean:.3f} [" in lines[2]
    wins = [line for line in lines if line.endswith("win")]
    assert wins
    assert all(line.startswith("tuned - frozen") for line in wins)
