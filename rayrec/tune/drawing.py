"""What draws the next trial and what stops one: Optuna's samplers and Ray Tune's schedulers, told of earlier trials."""

import math
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from rayrec.tune.config import TuneConfig
from rayrec.tune.results import Record, distributions
from rayrec.tune.space import Space

STEPS, VALUE = "steps", "value"
"""What trials report: optimiser steps over all stages, and the best validation value until then."""


def scheduler_of(config: TuneConfig, steps: int, ended: list[Record]) -> TrialScheduler:
    """The scheduler, told of the trials that have ended."""
    grace = max(math.ceil(config.grace * steps), 1)
    if config.scheduler == "none":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    if config.scheduler == "median":
        return MedianStoppingRule(time_attr=STEPS, grace_period=grace, min_samples_required=3)
    scheduler = ASHAScheduler(
        time_attr=STEPS,
        max_t=steps + 1,
        grace_period=grace,
        reduction_factor=config.reduction,
        stop_last_trials=False,
    )
    bracket: Any = scheduler._brackets[0]
    for record in ended:
        for done, value in record.curve:
            bracket.on_result(_Named(record.name), done, value)
    return scheduler


@dataclass(frozen=True)
class _Named:
    trial_id: str


def sampler_of(
    config: TuneConfig, space: Space, seed: int, ended: list[Record], points: list[dict[str, Any]]
) -> OptunaSearch:
    """The sampler, told of the trials that have ended.

    Args:
        config: how to search.
        space: what is drawn.
        seed: of the run; with the number of trials that have ended it seeds the draws, so that none comes again.
        ended: earlier trials.
        points: values to try first.
    """
    from optuna.samplers import RandomSampler, TPESampler

    seed = seed * 1_000_003 + len(ended)
    sampler = OptunaSearch(
        space=distributions(space),
        metric=VALUE,
        mode="max",
        points_to_evaluate=points or None,
        sampler=RandomSampler(seed) if config.search == "random" else TPESampler(seed=seed, multivariate=True),
    )
    for record in ended:
        sampler.add_evaluated_point(dict(record.values), record.value)
    return sampler
