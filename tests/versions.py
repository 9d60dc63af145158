"""Logs that arrive in instalments, and the versions of a dataset made of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.data import job
from rayrec.data.config import DataConfig
from rayrec.data.dataset import Dataset
from rayrec.data.split import CutOffs
from rayrec.data.work import Run, in_process
from tests.synthetic import DAYS, PLAIN, START_S, SyntheticLogs, generate, write

DAY_S = 86_400
FIRST_NEW_S = START_S + 46 * DAY_S
LOGS = generate(num_users=50, num_items=60, num_interactions=2000)
LATE_PLACES, TOLD_TWICE = (3, 250, 700), 5
"""Among the events of the first days: those that come only with the new ones; and how many come again."""
RETOLD, NEW_ITEMS = 4, 6


@dataclass(frozen=True)
class Instalments:
    """The same events in two instalments and at once.

    Attributes:
        first: of the first 46 days.
        second: of the 14 days after them, with a few late events, repeats, items and users told anew.
        whole: both, without the repeats.
        late: user and item of each late event.
    """

    first: SyntheticLogs
    second: SyntheticLogs
    whole: SyntheticLogs
    late: set[tuple[str, str]]


def instalments() -> Instalments:
    """LOGS in two instalments: six items are new in the second, four others get another title there."""
    time = LOGS.interactions["timestamp"].to_numpy()
    new_items = LOGS.items["item_id"].slice(0, NEW_ITEMS)
    too_early = (time < FIRST_NEW_S) & pc.is_in(LOGS.interactions["item_id"], new_items.combine_chunks()).to_numpy()
    events = LOGS.interactions.filter(pa.array(~too_early))
    early = events["timestamp"].to_numpy() < FIRST_NEW_S
    late = np.zeros(len(early), bool)
    late[np.flatnonzero(early)[list(LATE_PLACES)]] = True
    first, second = events.filter(pa.array(early & ~late)), events.filter(pa.array(~early | late))
    again = first.slice(100, TOLD_TWICE)
    again = again.set_column(3, "rating", pa.array(6 - again["rating"].to_numpy()))

    retold = LOGS.items.slice(NEW_ITEMS, RETOLD)
    retold = retold.set_column(1, "title", pa.array([f"Another orchard {number}" for number in range(RETOLD)]))
    fresh_items = pa.concat_tables([LOGS.items.slice(0, NEW_ITEMS), retold])
    fresh_users = LOGS.users.slice(0, 3).set_column(1, "about", pa.array(["likes tulips", None, "likes soup"]))
    return Instalments(
        first=replace(LOGS, interactions=first, items=LOGS.items.slice(NEW_ITEMS)),
        second=replace(LOGS, interactions=pa.concat_tables([second, again]), items=fresh_items, users=fresh_users),
        whole=replace(
            LOGS,
            interactions=pa.concat_tables([first, second]),
            items=pa.concat_tables([LOGS.items, retold]),
            users=pa.concat_tables([LOGS.users, fresh_users]),
        ),
        late=set(
            zip(*(events.filter(pa.array(late))[name].to_pylist() for name in ("user_id", "item_id")), strict=True)
        ),
    )


def made(logs: SyntheticLogs, folder: Path, run: Run = in_process, seed: int = 0, **settings: Any) -> Dataset:
    """A dataset of logs, which are removed again."""
    source = write(logs, folder.parent / f"{folder.name}-logs")
    config = DataConfig(source=source, **{"privacy": PLAIN, "buckets": 3, "history_length": 8, **settings})
    job.prepare(config, str(folder), seed=seed, provenance={"code": "test"}, run=run)
    for path in (folder.parent / f"{folder.name}-logs").iterdir():
        path.unlink()
    return Dataset(str(folder))


def made_at_once(logs: SyntheticLogs, folder: Path, cutoffs: CutOffs, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """One job over all logs, split where a version was split."""
    monkeypatch.setattr(job, "split_cut_offs", lambda *_: cutoffs)
    return made(logs, folder)


def half(logs: SyntheticLogs, since_s: int, until_s: int = START_S + DAYS * DAY_S) -> SyntheticLogs:
    """The logs with the events of some days alone."""
    time = logs.interactions["timestamp"].to_numpy()
    return replace(logs, interactions=logs.interactions.filter(pa.array((time >= since_s) & (time < until_s))))
