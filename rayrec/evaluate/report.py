"""The report: every system by slice with intervals over users, paired differences, and a table for the terminal."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.measure import Measured, Slice
from rayrec.metrics import (
    Estimate,
    SampledAuc,
    auc_difference,
    auc_interval,
    group_aucs,
    interval,
    log_losses,
    paired_difference,
    sampled_auc,
)
from rayrec.schema import UNKNOWN

PROTOCOL = (
    "One ranking a test user, at one global cut-off in time, from the events before it. Relevant: test items that were "
    "not disliked and not seen before. Ranked: the whole catalogue, or the slice's candidates, less the items seen; "
    "ties count against the scorer. AUC: each test item with an explicit opinion, by the scorer's like; GAUC: its mean "
    "within users that have both opinions. Intervals: 95 % percentile bootstrap over users, paired for differences. "
    "A win is a difference whose interval lies above 0. Baselines' settings were chosen on the validation split."
)
DIFFERENCES = ("ndcg", "auc")
_SHOWN_SLICES = ("all", "warm", "cold")


@dataclass(frozen=True)
class Figures:
    """The figures of one system in one slice, before rounding: users' metrics, AUC with its samples, log loss.

    Attributes:
        users: how many have something relevant.
        metrics: name -> float64 [U].
        auc: over labelled targets.
        gauc: its mean within users.
        log_loss: mean in nats; nan where the system's like is no log-odds.
    """

    users: int
    metrics: Mapping[str, np.ndarray]
    auc: SampledAuc
    gauc: Estimate
    log_loss: float


def figures(
    measured: Measured, name: str, part: Slice, *, log_odds: bool, config: EvaluateConfig, seed: int
) -> Figures:
    """Reduces what was measured to one slice.

    Args:
        measured: one system.
        name: the slice's.
        part: the slice; its AUC is over its relevant items and its users.
        log_odds: whether the system's like is a log-odds, so that a log loss means something.
        config: size of the bootstrap.
        seed: of the bootstrap; equal seeds pair the samples of different systems.
    """
    metrics = measured.metrics[name]
    keep_E = (measured.label_E != UNKNOWN) & part.relevant_N[measured.item_E] & part.users_U[measured.row_E]
    label_E, like_E, row_E = measured.label_E[keep_E], measured.like_E[keep_E], measured.row_E[keep_E]
    losses_E = log_losses(label_E, like_E) if log_odds and len(label_E) else np.array([np.nan])
    return Figures(
        users=int((~np.isnan(metrics["ndcg"])).sum()),
        metrics=metrics,
        auc=sampled_auc(label_E, like_E, row_E, config.bootstrap, seed),
        gauc=interval(group_aucs(label_E, like_E, row_E, len(part.users_U)), config.bootstrap, seed),
        log_loss=float(losses_E.mean()),
    )


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
    found = {
        system: {
            name: figures(one, name, part, log_odds=system in log_odds, config=config, seed=seed)
            for name, part in slices.items()
        }
        for system, one in measured.items()
    }
    return {
        **about,
        "protocol": PROTOCOL,
        "k": config.k,
        "bootstrap": config.bootstrap,
        "order": list(measured),
        "systems": {
            system: {name: _values(one, config.bootstrap, seed) for name, one in by_slice.items()}
            for system, by_slice in found.items()
        },
        "differences": [
            {"system": a, "less": b, "slice": name, "metric": metric, **difference}
            for a, b in config.comparisons
            if a in found and b in found
            for name in slices
            for metric in DIFFERENCES
            if (difference := _difference(found[a][name], found[b][name], metric, config.bootstrap, seed))
        ],
    }


def _values(one: Figures, samples: int, seed: int) -> dict[str, Any]:
    return {
        "users": one.users,
        **{metric: _json(interval(values_U, samples, seed)) for metric, values_U in one.metrics.items()},
        "auc": _json(auc_interval(one.auc)),
        "gauc": _json(one.gauc),
        "log_loss": None if np.isnan(one.log_loss) else round(one.log_loss, 6),
    }


def _difference(a: Figures, b: Figures, metric: str, samples: int, seed: int) -> dict[str, Any] | None:
    if metric == "auc":
        values = _json(auc_difference(a.auc, b.auc))
    else:
        values = _json(paired_difference(a.metrics[metric], b.metrics[metric], samples, seed))
    return {**values, "win": values["low"] > 0} if values else None


def _json(estimate: Estimate) -> dict[str, float] | None:
    if np.isnan(estimate.mean):
        return None
    return {name: round(getattr(estimate, name), 6) for name in ("mean", "low", "high")}


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
        if one["slice"] in _SHOWN_SLICES
    ]
    parts = [_columns([head, *lines])]
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
