"""Systems' figures by slice, with their bootstrap samples: what was measured of users and targets, reduced."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.measure import Measured, Slice
from rayrec.metrics import calibration_error, coverage, gini, group_aucs, log_losses
from rayrec.schema import UNKNOWN
from rayrec.statistics import Sampled, Statistic, auc_over, bootstrap, mean_over


@dataclass(frozen=True)
class Figures:
    """The figures of one system in one slice, before rounding.

    Attributes:
        users: how many have something relevant.
        sampled: by metric, with bootstrap samples: users' means, `auc` over labelled targets, `gauc` within users.
        numbers: by metric, without an interval: `log_loss` in nats and `calibration_error`, nan where the system's
            like is no log-odds; `coverage` and `gini` where lists were counted.
    """

    users: int
    sampled: Mapping[str, Sampled]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class _Reduced:
    """Of one system in one slice: what the bootstrap takes, the names of its figures, and the figures without it."""

    users: int
    statistics: tuple[Statistic, ...]
    names: tuple[str, ...]
    numbers: dict[str, float]


def figures(
    measured: Mapping[str, Measured],
    slices: Mapping[str, Slice],
    *,
    log_odds: Collection[str],
    config: EvaluateConfig,
    seed: int,
) -> dict[str, dict[str, Figures]]:
    """Reduces what was measured to figures, by system and slice; all from the same bootstrap samples of users.

    Args:
        measured: by system; all on the same rows.
        slices: by name; a slice's AUC is over its relevant items and its users.
        log_odds: systems whose like is a log-odds, so that a log loss means something.
        config: size of the bootstrap.
        seed: of the bootstrap.
    """
    reduced = {
        (system, name): _reduce(one, name, part, system in log_odds)
        for system, one in measured.items()
        for name, part in slices.items()
    }
    statistics = [statistic for each in reduced.values() for statistic in each.statistics]
    users = len(next(iter(slices.values())).users_U)
    drawn = iter(bootstrap(statistics, users, config.bootstrap, seed))
    found: dict[str, dict[str, Figures]] = {}
    for (system, name), each in reduced.items():
        sampled = [one for _ in each.statistics for one in next(drawn)]
        by_metric = dict(zip(each.names, sampled, strict=True))
        found.setdefault(system, {})[name] = Figures(each.users, by_metric, each.numbers)
    return found


def _reduce(measured: Measured, name: str, part: Slice, log_odds: bool) -> _Reduced:
    keep_E = (measured.label_E != UNKNOWN) & part.relevant_N[measured.item_E] & part.users_U[measured.row_E]
    label_E, like_E, row_E = measured.label_E[keep_E], measured.like_E[keep_E], measured.row_E[keep_E]
    metrics = dict(measured.metrics[name])
    users = int((~np.isnan(metrics["ndcg"])).sum())
    metrics["gauc"] = group_aucs(label_E, like_E, row_E, len(part.users_U))
    told = log_odds and len(label_E) > 0
    numbers = {
        "log_loss": float(log_losses(label_E, like_E).mean()) if told else np.nan,
        "calibration_error": calibration_error(label_E, like_E) if told else np.nan,
    }
    if name in measured.listed:
        listed_N = measured.listed[name][part.candidates_N]
        numbers |= {"coverage": coverage(listed_N), "gini": gini(listed_N)}
    statistics = mean_over(np.stack(list(metrics.values()), axis=1)), auc_over(label_E, like_E, row_E)
    return _Reduced(users, statistics, (*metrics, "auc"), numbers)
