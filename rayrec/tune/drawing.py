"""What draws the next trial and what stops one: Optuna's samplers and Ray Tune's schedulers.

The sampler and asha are told of the trials that have ended in earlier commands.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from rayrec.tune.config import TuneConfig
from rayrec.tune.results import Record, distributions
from rayrec.tune.space import Space, name_of

STEPS, VALUE = "steps", "value"
"""What trials report at each validation of the stage: its optimiser steps, and the best value until then."""
_DRAWS = 100
_NEVER_S = 10**12


def scheduler_of(config: TuneConfig, steps: int, ended: Iterable[Record]) -> TrialScheduler:
    """The scheduler.

    Args:
        config: how to search.
        steps: of the stage.
        ended: trials that asha compares new ones with.
    """
    grace = max(math.ceil(config.grace * steps), 1)
    if config.scheduler == "none":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    if config.scheduler == "median":
        # Left to itself it pauses a trial to wait for others, which ends its workers and begins them again.
        return MedianStoppingRule(time_attr=STEPS, grace_period=grace, min_samples_required=3, min_time_slice=_NEVER_S)
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


class _Distinct(OptunaSearch):
    """Draws no values twice; ends where a hundred draws bring nothing new."""

    known: set[str]

    def suggest(self, trial_id: str) -> Any:
        """The next values."""
        for _ in range(_DRAWS):
            values = super().suggest(trial_id)
            if not isinstance(values, dict):
                return values
            if name_of(values) not in self.known:
                self.known.add(name_of(values))
                return values
            study: Any = self._ot_study
            study.tell(self._ot_trials.pop(trial_id), state=TrialState.FAIL)
        return Searcher.FINISHED


def sampler_of(
    config: TuneConfig, space: Space, seed: int, ended: list[Record], points: list[dict[str, Any]]
) -> OptunaSearch:
    """The sampler, which draws no values twice, those of earlier trials included.

    Args:
        config: how to search.
        space: what is drawn.
        seed: of the run.
        ended: earlier trials.
        points: values to try first.
    """
    seed = seed * 1_000_003 + len(ended) + len(points)  # else each command would begin with the first one's draws
    sampler = _Distinct(
        space=distributions(space),
        metric=VALUE,
        mode="max",
        points_to_evaluate=points or None,
        sampler=RandomSampler(seed) if config.search == "random" else TPESampler(seed=seed, multivariate=True),
    )
    sampler.known = {record.name for record in ended}
    for record in ended:
        sampler.add_evaluated_point(dict(record.values), record.value)
    return sampler
