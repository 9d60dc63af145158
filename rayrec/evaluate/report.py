"""The report: every system by slice with intervals over users, paired differences, and a table for the terminal."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.figures import Figures, figures
from rayrec.evaluate.measure import Measured, Slice
from rayrec.statistics import Estimate, Sampled, difference, estimate, simultaneous

PROTOCOL = (
    "One ranking a test user, at one global cut-off in time, from the events before it. Relevant: test items that were "
    "not disliked and not seen before. Ranked: the whole catalogue, or the slice's candidates, less the items seen; "
    "ties count against the scorer. AUC: each test item with an explicit opinion, by the scorer's like; GAUC: its mean "
    "within users that have both opinions. Calibration error: over ten bins of equally many opinions. Coverage and "
    "Gini: of the candidates, by how many users' top k they stand in. Popularity: the mean percentile of the top k by "
    "interactions before the cut-off; popularity bias: that less the same of what the user then met. Intervals (low, "
    "high): 95 % percentile bootstrap over users, paired for differences. Many differences are looked at, so beside "
    "its own interval each has a corrected one (corrected_low, corrected_high): all of the report's hold together with "
    "95 % (max-T over the same bootstrap samples). A win is a difference whose corrected interval lies above 0. "
    "Baselines' settings were chosen on the validation split."
)
DIFFERENCES = ("ndcg", "auc", "gauc")
LEAST_SEEDS = 3
_SAME_FOR_ALL_SEEDS = ("protocol", "k", "bootstrap", "order")
_SHOWN_SLICES = ("all", "warm", "cold")
_SHOWN_DIFFERENCES = ("ndcg", "auc")


def build(
    measured: Mapping[str, Measured],
    slices: Mapping[str, Slice],
    *,
    log_odds: Collection[str],
    config: EvaluateConfig,
    seed: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        measured: by system, in the order of the table; all on the same rows.
        slices: by name.
        log_odds: systems whose like is a log-odds.
        config: k, bootstrap, comparisons.
        seed: of the bootstrap.
        about: further JSON values: cut-offs, counts, baselines' settings, provenance.
    """
    found = figures(measured, slices, log_odds=log_odds, config=config, seed=seed)
    return {
        **about,
        "protocol": PROTOCOL,
        "k": config.k,
        "bootstrap": config.bootstrap,
        "order": list(measured),
        "systems": {
            system: {name: _values(one) for name, one in by_slice.items()} for system, by_slice in found.items()
        },
        "differences": _differences(found, slices, config.comparisons),
    }


def forgetting(agreements: Mapping[str, Sampled]) -> dict[str, Any]:
    """Agreement with people on general text by system, and its change from that of the first, which is untrained.

    Args:
        agreements: by system, all of the same samples.
    """
    before = next(iter(agreements.values()))
    return {
        system: {**(_json(estimate(one)) or {}), "change": _json(estimate(difference(one, before)))}
        for system, one in agreements.items()
    }


def _values(one: Figures) -> dict[str, Any]:
    return {
        "users": one.users,
        **{metric: _json(estimate(sampled)) for metric, sampled in one.sampled.items()},
        **{metric: _rounded(value) for metric, value in one.numbers.items()},
    }


def _differences(
    found: Mapping[str, Mapping[str, Figures]], slices: Collection[str], comparisons: Iterable[tuple[str, str]]
) -> list[dict[str, Any]]:
    family = {
        (a, b, name, metric): difference(found[a][name].sampled[metric], found[b][name].sampled[metric])
        for a, b in comparisons
        if a in found and b in found
        for name in slices
        for metric in DIFFERENCES
    }
    family = {key: one for key, one in family.items() if not np.isnan(one.mean)}
    corrected = simultaneous(list(family.values()))
    return [
        {
            **dict(zip(("system", "less", "slice", "metric"), key, strict=True)),
            **(_json(estimate(one)) or {}),
            "corrected_low": _rounded(wide.low),
            "corrected_high": _rounded(wide.high),
            "win": wide.low > 0,
        }
        for (key, one), wide in zip(family.items(), corrected, strict=True)
    ]


def _json(estimate: Estimate) -> dict[str, float | None] | None:
    if np.isnan(estimate.mean):
        return None
    return {name: _rounded(getattr(estimate, name)) for name in ("mean", "low", "high")}


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6)


def join_seeds(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Joins reports that differ in their seed alone.

    Args:
        reports: as build() makes them, of other seeds of the whole run: split, training and bootstrap.

    Returns:
        JSON values: `seeds`; `systems`, by slice and metric the `mean` and `sd` over seeds (with n - 1; null where a
        seed has no figure); `differences`, the same with `wins`, in how many seeds it is one, and `win`, whether that
        is all of at least LEAST_SEEDS.

    Raises:
        ValueError: fewer than two reports, a seed twice, or reports of different things.
    """
    seeds = [report["seed"] for report in reports]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"reports of the seeds {seeds}; expected at least two, each of another seed")
    first = reports[0]
    for report in reports[1:]:
        differing = [name for name in _SAME_FOR_ALL_SEEDS if report[name] != first[name]]
        if differing or _names(report) != _names(first):
            raise ValueError(
                f"the report of seed {report['seed']} has another {', '.join(differing) or 'set of slices or metrics'} "
                f"than that of seed {first['seed']}; join only reports that one config made"
            )
    return {
        **{name: first[name] for name in _SAME_FOR_ALL_SEEDS},
        "seeds": seeds,
        "systems": {
            system: {
                name: {
                    metric: _spread([report["systems"][system][name][metric] for report in reports])
                    for metric in by_metric
                }
                for name, by_metric in by_slice.items()
            }
            for system, by_slice in first["systems"].items()
        },
        "differences": _joined_differences(reports),
    }


def _names(report: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    return {
        system: {name: list(by_metric) for name, by_metric in by_slice.items()}
        for system, by_slice in report["systems"].items()
    }


def _joined_differences(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    keys = ("system", "less", "slice", "metric")
    by_key: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for report in reports:
        for one in report["differences"]:
            by_key.setdefault(tuple(one[key] for key in keys), []).append(one)
    joined = []
    for key, found in by_key.items():
        if len(found) == len(reports):
            wins = sum(one["win"] for one in found)
            claimed = {"wins": wins, "win": wins == len(reports) >= LEAST_SEEDS}
            joined.append({**dict(zip(keys, key, strict=True)), **_spread(found), **claimed})
    return joined


def _spread(figures: Sequence[Any]) -> dict[str, float | None]:
    """Of estimates, by their mean, or of plain numbers."""
    values = [figure["mean"] if isinstance(figure, Mapping) else figure for figure in figures]
    if None in values:
        return {"mean": None, "sd": None}
    return {"mean": round(float(np.mean(values)), 6), "sd": round(float(np.std(values, ddof=1)), 6)}


def means(report: Mapping[str, Any], slice_name: str, metric: str) -> dict[str, float | None]:
    """One figure of every system; null where there was nothing to measure."""
    return {
        system: value["mean"] if (value := by_slice[slice_name][metric]) else None
        for system, by_slice in report["systems"].items()
    }


def table_text(report: Mapping[str, Any]) -> str:
    """The report for a terminal: one line a system, then one line a difference."""
    metric = f"NDCG@{report['k']}"
    first = report["systems"][report["order"][0]]
    head = [
        "system",
        *(f"{metric} {name} (n={first[name]['users']})" for name in _SHOWN_SLICES),
        "AUC",
        "GAUC",
        "log loss",
    ]
    lines = [
        [
            system,
            *(_cell(report["systems"][system][name]["ndcg"]) for name in _SHOWN_SLICES),
            _cell(report["systems"][system]["all"]["auc"]),
            _cell(report["systems"][system]["all"]["gauc"]),
            _number(report["systems"][system]["all"]["log_loss"]),
        ]
        for system in report["order"]
    ]
    differences = [
        [f"{one['system']} - {one['less']}", one["slice"], one["metric"], _cell(one), "win" if one["win"] else ""]
        for one in report["differences"]
        if one["slice"] in _SHOWN_SLICES and one["metric"] in _SHOWN_DIFFERENCES
    ]
    parts = [_columns([head, *lines])]
    if report.get("general_text"):
        general = {name: report["general_text"][name] for name in report["order"] if name in report["general_text"]}
        forgotten = [[system, _cell(one), _cell(one["change"])] for system, one in general.items()]
        parts.append(_columns([["general text", "Spearman [95 %]", "change [95 %]"], *forgotten]))
    if differences:
        parts.append(_columns([["difference", "slice", "metric", "mean [95 %]", ""], *differences]))
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(value: Mapping[str, Any] | None) -> str:
    return "-" if value is None else f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _columns(lines: Iterable[list[str]]) -> str:
    table = list(lines)
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )
