"""One trial of a search, in a process of its own, and the record that is written when Tune is done with it."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import PlacementGroupID, tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

from rayrec.storage import is_published, join, manifest, provenance
from rayrec.train.entry import GROUP
from rayrec.train.surroundings import DivergedError
from rayrec.train.trainer import Trial, train
from rayrec.tune.drawing import STEPS, VALUE
from rayrec.tune.results import TRIALS, Record, begin, store
from rayrec.tune.space import name_of, settings_of

STATES, REFUSED = "states", "refused"
"""The folder of the states that trials share; what a trial reports why it was refused."""
_QUEUE_S = 5.0


@dataclass(frozen=True)
class Search:
    """What all trials share.

    Attributes:
        dataset: URI of the prepared data set.
        uri: of the search's folder.
        config: of the run, as JSON values.
        stage: whose validation value is searched for.
        about: what may not change while the search goes on, as JSON values.
        key: by which trials' checkpoints are signed.
    """

    dataset: str
    uri: str
    config: Mapping[str, Any]
    stage: str
    about: Mapping[str, Any]
    key: bytes | None = field(default=None, repr=False)

    @property
    def steps(self) -> int:
        """Of the stage."""
        return next(int(stage["steps"]) for stage in self.config["train"]["stages"] if stage["name"] == self.stage)


def run_trial(values: dict[str, Any], job: Search) -> None:
    """One trial, in a process of its own; what diverges, or what no config takes, is told as the worst there is."""
    name = name_of(values)
    place = join(job.uri, TRIALS, name)
    if is_published(place):  # trained by a command that was killed before it noted so
        tune.report(_outcome(place, job.stage))
        return
    begin(name, values, job.uri)
    told: Any = TuneReportCallback()  # type: ignore[no-untyped-call]
    try:
        settings = settings_of(job.config, values, job.stage)
    except ValueError as error:
        tune.report({STEPS: 0, VALUE: 0.0, REFUSED: str(error)})
        return
    try:
        train(
            job.dataset,
            place,
            model=settings.model,
            loader=settings.loader,
            config=settings.train,
            seed=job.about["seed"],
            provenance=provenance({**job.about, "values": values}),
            trial=Trial(join(job.uri, STATES), told, job.key),
        )
    except DivergedError as error:
        time.sleep(_QUEUE_S)  # Tune would wait for ever if its own queue were full while it empties that of the workers
        tune.report({STEPS: 0, VALUE: 0.0, REFUSED: str(error)})


def _outcome(place: str, stage: str) -> dict[str, float]:
    """What a trial that was trained to its end would report last."""
    reached = manifest(place, "training")["validation"][stage]
    return {STEPS: reached["steps"], VALUE: reached["value"]}


class Recorder(tune.Callback):
    """Writes each trial's record as soon as Tune is done with it."""

    def __init__(self, uri: str, stage: str) -> None:
        """Args:
        uri: of the search's folder.
        stage: whose validation value is searched for.
        """
        self.uri, self.stage = uri, stage
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.groups: dict[str, str] = {}
        self.failed: list[str] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keeps a point of the trial's curve, and where its workers are."""
        if GROUP in result:
            self.groups[trial.trial_id] = result[GROUP]
        if REFUSED not in result:
            self.curves.setdefault(trial.trial_id, []).append((result[STEPS], result[VALUE]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Records the trial."""
        name, curve = name_of(trial.config), self.curves.get(trial.trial_id, [])
        place, why = join(self.uri, TRIALS, name), trial.last_result.get(REFUSED, "")
        if is_published(place):  # Tune may have missed its last report
            reached = _outcome(place, self.stage)
            last = int(reached[STEPS]), reached[VALUE]
            curve, state = [*(point for point in curve if point[0] < last[0]), last], "finished"
        else:
            state = "refused" if why else "stopped"
            self._free(trial)
        value = 0.0 if why or not curve else curve[-1][1]
        seconds = trial.last_result.get("time_total_s", 0.0)
        store(Record(name, trial.config, value, curve, state, seconds, why), self.uri)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tells of a trial that failed, which the next command tries again."""
        self._free(trial)
        error = Path(trial.error_file)
        said = error.read_text().strip().splitlines()[-1] if error.exists() else "it does not say why"
        self.failed.append(f"trial {name_of(trial.config)} failed: {said}")
        print(self.failed[-1], file=sys.stderr)

    def _free(self, trial: Any) -> None:
        """Ends the workers of a trial that Tune has stopped; Ray Train does where there is a dashboard to ask."""
        group = self.groups.pop(trial.trial_id, None)
        if group is not None:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
