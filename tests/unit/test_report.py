"""The report from what was measured: figures, intervals, wins, the terminal's table."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.measure import Measured, Slice
from rayrec.evaluate.report import build, forgetting, means, table_text
from rayrec.metrics import auc, calibration_error, log_losses
from rayrec.schema import DISLIKED, LIKED, UNKNOWN
from rayrec.statistics import Sampled

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
        listed={"all": np.array([9, 0, 0, 0, 0, 0]), "warm": np.array([2, 2, 2, 2, 2, 7]), "cold": np.arange(ITEMS)},
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
    expected = calibration_error(one.label_E[known_E], one.like_E[known_E])
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-6)
    for figure in (found["ndcg"], found["auc"], found["gauc"]):
        assert figure["low"] < figure["mean"] < figure["high"]


def test_lists_are_counted_over_the_candidates_of_the_slice() -> None:
    by_slice = made()["systems"]["tuned"]
    assert (by_slice["all"]["coverage"], by_slice["all"]["gini"]) == pytest.approx((1 / 6, 5 / 6), abs=1e-6)
    assert (by_slice["warm"]["coverage"], by_slice["warm"]["gini"]) == (1, 0)
    uncounted = made(tuned=replace(measured(0.4), listed={}))["systems"]["tuned"]["all"]
    assert not {"coverage", "gini"} & set(uncounted)


def test_log_loss_and_calibration_only_where_the_opinion_is_a_log_odds() -> None:
    frozen, tuned = (made()["systems"][system]["all"] for system in ("frozen", "tuned"))
    for figure in ("log_loss", "calibration_error"):
        assert frozen[figure] is None
        assert tuned[figure] > 0


def test_a_win_needs_a_corrected_interval_above_zero() -> None:
    found = {(one["system"], one["less"], one["slice"], one["metric"]): one for one in made()["differences"]}
    gain, loss = found["tuned", "frozen", "all", "ndcg"], found["frozen", "tuned", "all", "ndcg"]
    assert gain["win"]
    assert gain["mean"] == pytest.approx(0.3, abs=1e-6)
    assert not loss["win"]
    assert 0 < gain["corrected_low"] <= gain["low"] <= gain["mean"] <= gain["high"] <= gain["corrected_high"]
    same = {"frozen": measured(0.1), "tuned": measured(0.1)}
    assert not any(one["win"] for one in made(**same)["differences"])


def test_a_gain_that_would_do_alone_is_no_win_among_many_comparisons() -> None:
    """Thirty systems without any gain are looked at beside one whose own interval lies just above 0."""
    generator = np.random.default_rng(9)
    noise = {f"s{number}": 0.1 * generator.standard_normal(USERS) for number in range(30)}
    lucky = max(noise, key=lambda name: noise[name].mean())
    base = measured(0.1)
    systems = {"base": base}
    for name, noise_U in noise.items():
        noisy = {"all": {"ndcg": base.metrics["all"]["ndcg"] + noise_U}}
        systems[name] = replace(base, metrics=base.metrics | noisy)
    many = CONFIG.model_copy(update={"comparisons": tuple((name, "base") for name in noise)})
    one = CONFIG.model_copy(update={"comparisons": ((lucky, "base"),)})

    def of_lucky(config: EvaluateConfig) -> dict[str, Any]:
        report = build(systems, slices(), log_odds=(), config=config, seed=0, about={})
        return next(found for found in report["differences"] if found["system"] == lucky)

    assert of_lucky(many)["low"] > 0
    assert of_lucky(one)["win"]
    assert not of_lucky(many)["win"]
    assert of_lucky(many)["low"] == of_lucky(one)["low"]


def test_a_handful_of_users_is_no_win() -> None:
    few_U = np.where(np.arange(USERS) < 5, 1.0, np.nan)
    none = {name: {"ndcg": 0 * few_U} for name in slices()}
    some = {name: {"ndcg": few_U} for name in slices()}
    base = measured(0.1, labelled=False)
    report = made(frozen=replace(base, metrics=none), tuned=replace(base, metrics=some))
    found = report["differences"][0]
    assert (found["low"], found["corrected_low"], found["win"]) == (1, None, False)


def test_what_was_not_measured_is_null_and_has_no_difference() -> None:
    report = made(labelled=False)
    system = report["systems"]["tuned"]
    assert [system["all"][name] for name in ("auc", "gauc", "log_loss", "calibration_error")] == [None] * 4
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


def test_table_has_a_line_a_system_and_a_line_a_difference_of_the_main_ones() -> None:
    report = made()
    report["differences"].append({**report["differences"][0], "slice": "head"})
    lines = table_text(report).splitlines()
    assert "NDCG@10 all (n=40)" in lines[0]
    assert [line.split()[0] for line in lines[1:3]] == ["frozen", "tuned"]
    mean = report["systems"]["tuned"]["all"]["ndcg"]["mean"]
    assert f"{mean:.3f} [" in lines[2]
    assert {tuple(line.split()[3:5]) for line in lines[5:]} == {
        (name, metric) for name in ("all", "warm") for metric in ("ndcg", "auc")
    }
    wins = [line for line in lines if line.endswith("win")]
    assert wins
    assert all(line.startswith("tuned - frozen") for line in wins)


def test_forgetting_is_told_as_a_change_from_the_untrained_model() -> None:
    samples_S = np.random.default_rng(0).normal(0.5, 0.02, 200)
    before, after = Sampled(0.5, samples_S, 50), Sampled(0.4, samples_S - 0.1, 50)
    told = forgetting({"zero_shot": before, "frozen": before, "tuned": after})
    assert told["frozen"]["change"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert told["tuned"]["change"] == pytest.approx({"mean": -0.1, "low": -0.1, "high": -0.1})
    assert told["tuned"]["low"] < 0.4 < told["tuned"]["high"]
    shown = table_text({**made(), "order": ["frozen", "tuned"], "general_text": told})
    assert "general text  Spearman" in shown
    assert "-0.100 [-0.100, -0.100]" in shown
