"""What the phases of a job share: their tasks are carried out, their counts summed, their files noted."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rayrec.data.clean import check_quarantine, stop_early
from rayrec.data.config import DataConfig
from rayrec.data.door import Door, Take, slices_path, take_in
from rayrec.data.inputs import Inputs
from rayrec.data.previous import Previous
from rayrec.data.work import WORK, Record, Run, Work, phase


@dataclass
class Job:
    """A job under way.

    Attributes:
        config: of the dataset.
        seed: of its draws.
        inputs: parts of every table of the logs.
        door: what rows pass.
        run: how tasks are run.
        previous: the dataset that this one goes on from, if any.
        files: manifest entries of the dataset's files, so far.
        texts: values cut and redacted, by table.
    """

    config: DataConfig
    seed: int
    inputs: Inputs
    door: Door
    run: Run
    previous: Previous | None = None
    files: Record = field(default_factory=dict)
    texts: dict[str, dict[str, int]] = field(default_factory=lambda: {"cut": {}, "redacted": {}})

    @property
    def work(self) -> Work:
        """Where."""
        return self.door.work

    def each(self, name: str, function: Callable[[Any], Record], tasks: Mapping[str, Any]) -> Iterable[Record]:
        """Every task's record, its files noted."""
        for record in phase(self.work, name, function, tasks, self.run):
            made = record.pop("files")
            self.files |= {path: entry for path, entry in made.items() if not path.startswith(WORK)}
            yield record

    def total(self, name: str, function: Callable[[Any], Record], tasks: Iterable[Any]) -> Record:
        """The sum of the records of numbered tasks."""
        total: Record = {}
        for record in self.each(name, function, {f"{task:06d}": task for task in tasks}):
            total = sum_counts(total, record)
        return total


@dataclass(frozen=True)
class TakenIn:
    """A table of the logs after the door.

    Attributes:
        refused: rows by reason.
        hours: interactions by hour.
        paths: files of slices, in the order of the logs.
        parts: how many of them each part has.
        good: rows taken.
    """

    refused: dict[str, int]
    hours: Counter[int] | dict[int, int]
    paths: list[str]
    parts: dict[int, int]
    good: int = 0

    @property
    def read(self) -> int:
        """Rows in all."""
        return self.good + sum(self.refused.values())


def take_all(job: Job, table: str, take: Take) -> TakenIn:
    """Takes in every part of a table.

    Raises:
        ValueError: too much of it is refused, or nothing can be made without its rows and there are none.
    """
    parts = job.inputs.parts[table]
    limit, whole = job.config.clean.quarantine_limit, sum(task.part.size for task in parts)
    refused, hours, blocks, rows, seen = Counter[str](), Counter[int](), dict[int, int](), 0, 0
    tasks = {f"{task.number:06d}": task for task in parts}
    for record in job.each(table, partial(take_in, job.door, table, take), tasks):
        refused.update(record["refused"])
        hours.update(dict(record["hours"]))
        blocks[record["part"]] = record["blocks"]
        rows, seen = rows + record["rows"], seen + parts[record["part"]].part.size
        for name, counts in job.texts.items():
            if record[name]:
                counts[table] = counts.get(table, 0) + record[name]
        if stop_early(sum(refused.values()), rows, limit, seen / max(whole, 1)):
            break
    needed = table == "interactions" or (table == "items" and job.previous is None)
    check_quarantine(refused, rows, limit, table, needed)
    paths = [slices_path(job.work, table, part, block) for part in sorted(blocks) for block in range(blocks[part])]
    return TakenIn(dict(sorted(refused.items())), hours, paths, blocks, rows - sum(refused.values()))


def balance(taken: TakenIn, kept: int, filtered: dict[str, int], carried: int = 0) -> Record:
    """What became of the rows of a table, and of `carried` more that a previous dataset held."""
    assert taken.good + carried == kept + sum(filtered.values()), (taken.good, carried, kept, filtered)
    return {"read": taken.read, "kept": kept, "filtered": filtered, "quarantined": taken.refused}


def sum_counts(counts: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The sum of two nests of counts, key by key."""
    return {
        key: sum_counts(counts.get(key, {}), more.get(key, {}))
        if isinstance(counts.get(key, more.get(key)), dict)
        else counts.get(key, 0) + more.get(key, 0)
        for key in counts | more
    }
