"""The as-of contract: what predicts a row's targets does not change when everything from its `as_of` on is replaced."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.data.config import DataConfig
from rayrec.data.sequence import Plan, build
from rayrec.item_stats import ItemStats
from rayrec.profiles import profile_texts
from rayrec.schema import DISLIKED, LIKED
from tests.synthetic import generate, judged

Rows = dict[str, pa.Table]
Builder = Callable[[pa.Table, Plan], tuple[Rows, ItemStats]]


def built(events: pa.Table, plan: Plan) -> tuple[Rows, ItemStats]:
    """What prepare makes."""
    found = build(events, plan)
    rows = {name.removeprefix("rows/"): table for name, table in found.tables.items() if name.startswith("rows/")}
    return rows, ItemStats(found.stats, len(plan.held_out_N))


def replace_from(events: pa.Table, moment: int, plan: Plan) -> pa.Table:
    """The log with other items and opposite ratings from `moment` on; times and held-out parts stay."""
    later = pc.greater_equal(events["timestamp"], moment).to_numpy()
    items = events["item"].to_numpy().copy()
    swap = np.arange(len(plan.held_out_N))
    for code in np.unique(plan.held_out_N):
        members = np.flatnonzero(plan.held_out_N == code)
        swap[members] = np.roll(members, 1)
    items[later] = swap[items[later]]
    ratings = events["rating"].to_numpy().copy()
    ratings[later] = 6 - ratings[later]
    for name, values in (("item", items), ("rating", ratings)):
        events = events.set_column(events.column_names.index(name), name, pa.array(values, events.field(name).type))
    return events


def known(rows: pa.Table, stats: ItemStats, moment: int) -> dict[tuple[str, int, int], bytes]:
    """As bytes, all that may predict the targets of each row as of `moment` or earlier, by user, as_of and order."""
    found: dict[tuple[str, int, int], bytes] = {}
    features = stats.features(np.arange(stats.num_items), np.int64(moment)).tobytes()
    for row in rows.filter(pc.less_equal(rows["as_of"], moment)).to_pylist():
        first = row["first_target"]
        key = (row["user_id"], row["as_of"], sum(user == row["user_id"] for user, _, _ in found))
        told = (row["items"][:first], row["likes"][:first], first, row["profile"], row["seen"])
        found[key] = repr(told).encode() + features
    return found


def leaks(builder: Builder, events: pa.Table, plan: Plan, moments: list[int]) -> list[str]:
    """Rows that know something of what happens at or after their as_of.

    For each moment, everything from then on is replaced, and what the rows as of that moment or earlier know must be
    the same bytes as before.
    """
    rows, stats = builder(events, plan)
    found = []
    for moment in moments:
        other_rows, other_stats = builder(replace_from(events, moment, plan), plan)
        for split, table in rows.items():
            before, after = (known(*pair, moment) for pair in ((table, stats), (other_rows[split], other_stats)))
            common = before.keys() & after.keys()
            assert split != "train" or common == before.keys(), "replacing the future changed which rows there are"
            found += [f"{split} {key} knows of {moment} or later" for key in common if before[key] != after[key]]
    return found


@pytest.fixture(scope="module")
def case() -> tuple[pa.Table, Plan, list[int]]:
    config = DataConfig(history_length=8)
    logs = generate(num_users=40, num_items=60, num_interactions=1600)
    # Whole half days: of events at equal times none may tell of another.
    times = pc.multiply(pc.divide(logs.interactions["timestamp"], 43_200), 43_200)
    coarse = replace(logs, interactions=logs.interactions.set_column(2, "timestamp", times))
    events, _, plan = judged(coarse, config)
    train = build(events, plan).tables["rows/train"]
    moments = np.unique(train["as_of"].to_numpy())
    picked = [int(moment) for moment in moments[:: max(1, len(moments) // 12)]]
    return events, plan, [*picked, plan.cutoffs.valid, plan.cutoffs.test]


def test_no_row_knows_its_future(case: tuple[pa.Table, Plan, list[int]]) -> None:
    events, plan, moments = case
    assert leaks(built, events, plan, moments) == []


def test_the_check_compares_something(case: tuple[pa.Table, Plan, list[int]]) -> None:
    events, plan, moments = case
    rows, stats = built(events, plan)
    assert len(known(rows["train"], stats, moments[-3])) > 50
    assert len(known(rows["valid"], stats, plan.cutoffs.valid)) > 5
    replaced, _ = built(replace_from(events, moments[0], plan), plan)
    assert replaced["train"] != rows["train"]


def change(rows: Rows, name: str, values: pa.Array) -> Rows:
    """The train rows with another column."""
    train = rows["train"]
    return {**rows, "train": train.set_column(train.column_names.index(name), name, values)}


def profile_of_the_whole_row(events: pa.Table, plan: Plan) -> tuple[Rows, ItemStats]:
    """Planted leak: a profile told from the targets as well."""
    rows, stats = built(events, plan)
    items, likes = (rows["train"][name].combine_chunks() for name in ("items", "likes"))
    flat = items.flatten().to_numpy(), likes.flatten().to_numpy(), items.offsets.to_numpy()
    return change(rows, "profile", pa.array(profile_texts(*flat, [""] * len(items), plan.categories))), stats


def first_target_as_context(events: pa.Table, plan: Plan) -> tuple[Rows, ItemStats]:
    """Planted leak: an event at as_of counted as context."""
    rows, stats = built(events, plan)
    return change(rows, "first_target", pc.add(rows["train"]["first_target"], 1)), stats


def statistics_of_the_running_day(events: pa.Table, plan: Plan) -> tuple[Rows, ItemStats]:
    """Planted leak: item counts that include the day of as_of."""
    rows, stats = built(events, plan)
    stats.first_day -= 1
    return rows, stats


def label_in_the_profile(events: pa.Table, plan: Plan) -> tuple[Rows, ItemStats]:
    """Planted leak: the rating of the first target in the text that predicts it."""
    rows, stats = built(events, plan)
    said = {LIKED: "in a good mood", DISLIKED: "in a bad mood"}
    likes = [row["likes"][row["first_target"]] for row in rows["train"].to_pylist()]
    return change(rows, "profile", pa.array([said[like] for like in likes])), stats


@pytest.mark.parametrize(
    "leaking",
    [profile_of_the_whole_row, first_target_as_context, statistics_of_the_running_day, label_in_the_profile],
)
def test_the_check_finds_a_planted_leak(leaking: Builder, case: tuple[pa.Table, Plan, list[int]]) -> None:
    events, plan, moments = case
    assert leaks(leaking, events, plan, moments)
