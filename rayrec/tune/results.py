"""What a search leaves: a record a trial, the best config, a table, a page that needs nothing else to be read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from rayrec.storage import MANIFEST, exists, folder_names, join, located, read_json, remove, write_json
from rayrec.tune.config import Choices
from rayrec.tune.space import Space, changed

TRIALS, VALUES, RECORD = "trials", "values.json", "record.json"


@dataclass(frozen=True)
class Record:
    """A trial that has ended.

    Attributes:
        name: name_of() its values.
        values: by key.
        value: the best validation value that it reached; 0 where it diverged or its values do not go together.
        curve: (steps of the stage, best value until then) at each validation since it was last begun.
        state: finished, stopped by the scheduler, or refused.
        seconds: how long it ran since it was last begun.
        why: it was refused.
    """

    name: str
    values: Mapping[str, Any]
    value: float
    curve: Sequence[tuple[int, float]]
    state: str
    seconds: float
    why: str = ""

    @property
    def steps(self) -> int:
        """How far it came."""
        return self.curve[-1][0] if self.curve else 0


def store(record: Record, uri: str) -> None:
    """Writes a record into its trial's folder, whole or not at all."""
    write_json(join(uri, TRIALS, record.name, RECORD), asdict(record))


def begin(name: str, values: Mapping[str, Any], uri: str) -> None:
    """Notes that a trial has begun."""
    write_json(join(uri, TRIALS, name, VALUES), dict(values))


def records_of(uri: str) -> tuple[list[Record], list[dict[str, Any]]]:
    """The trials of a search that have ended, best first, and the values of those that have not."""
    ended, begun = [], []
    for name in folder_names(join(uri, TRIALS)):
        place = join(uri, TRIALS, name)
        if exists(join(place, RECORD)):
            ended.append(Record(**read_json(join(place, RECORD))))
        elif exists(join(place, VALUES)):
            begun.append(read_json(join(place, VALUES)))
    return sorted(ended, key=lambda record: (-record.value, record.name)), begun


def keep_logs(name: str, uri: str) -> None:
    """Removes what a trial has trained, but for its logs and its record."""
    place = join(uri, TRIALS, name)
    filesystem, path = located(join(place, MANIFEST))
    if filesystem.exists(path):
        filesystem.rm_file(path)
    for folder in folder_names(place):
        if folder not in ("logs", "ended"):  # ended: the rows at which it diverged
            remove(join(place, folder))


def best_yaml(config: Mapping[str, Any], best: Record, searched: int) -> str:
    """A config file for `rayrec train` with the best trial's values.

    Args:
        config: of the search's run, as JSON values.
        best: the best trial.
        searched: number of trials.
    """
    about = f"# The best of {searched} trials, {best.name}: validation value {best.value:.4f}, at:\n"
    about += "".join(f"#   {key}: {short(value)}\n" for key, value in best.values.items())
    about += "# `run` is that of the search: `rayrec train` refuses it where weights of another config lie there.\n"
    return about + yaml.safe_dump(changed(config, best.values), sort_keys=False)


def short(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(records: Iterable[Record]) -> str:
    """Trials as lines of text, in the order given."""
    rows = [["trial", "value", "steps", "s", "state", "values"]]
    for record in records:
        values = ", ".join(
            f"{key.removeprefix('train.stages.')}={short(value)}" for key, value in record.values.items()
        )
        numbers = [f"{record.value:.4f}", str(record.steps), f"{record.seconds:.0f}"]
        rows.append([record.name, *numbers, record.state, values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def distributions(space: Space) -> dict[str, Any]:
    """The space as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, Any] = {}
    for key, drawn in space.items():
        if isinstance(drawn, Choices):
            made[key] = CategoricalDistribution(drawn.choices)
        elif isinstance(drawn.low, int) and isinstance(drawn.high, int):
            made[key] = IntDistribution(drawn.low, drawn.high, log=drawn.log)
        else:
            made[key] = FloatDistribution(drawn.low, drawn.high, log=drawn.log)
    return made


def page(records: Sequence[Record], space: Space, title: str) -> str:
    """A page of HTML that loads nothing: parallel coordinates, importance of the keys, curves, the table.

    The value of a trial that was stopped is the best that it reached until then. Importance is that of Watanabe et al.,
    2023 ("PED-ANOVA").

    Args:
        records: best first, at least one.
        space: what was searched.
        title: of the page.
    """
    from html import escape

    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.visualization import plot_intermediate_values, plot_parallel_coordinate, plot_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    drawn = distributions(space)
    for record in records:
        study.add_trial(
            optuna.create_trial(
                value=record.value,
                params=dict(record.values),
                distributions=drawn,
                intermediate_values={steps: value for steps, value in record.curve},
            )
        )
    figures = [plot_parallel_coordinate(study, target_name="validation value"), plot_intermediate_values(study)]
    if len({record.value for record in records}) > 1:
        figures.insert(1, plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0, config={"displaylogo": False})
        for number, figure in enumerate(figures)
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        "<meta name=viewport content='width=device-width'><style>body{font:16px system-ui;margin:2rem auto;"
        "max-width:75rem;padding:0 1rem}pre{overflow-x:auto}</style>"
        f"<h1>{escape(title)}</h1><pre>{escape(table(records))}</pre>{''.join(parts)}</html>\n"
    )
