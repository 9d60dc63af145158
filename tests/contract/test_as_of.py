"""The as-of contract: what predicts a row's targets does not change when everything from its `as_of` on is replaced."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.data.config import DataConfig, SplitConfig
from rayrec.data.plan import Plan
from rayrec.data.sequence import build
from rayrec.data.split import split_cut_offs
from rayrec.item_stats import DAY_MS, ItemStats
from rayrec.profiles import profile_texts
from rayrec.schema import DISLIKED, LIKED
from rayrec.terms import review_terms
from tests.synthetic import generate, judged

Rows = dict[str, pa.Table]


@dataclass(frozen=True)
class Case:
    """A log, what prepare knows beside it, and moments to look from."""

    events: pa.Table
    users: pa.Table
    plan: Plan
    moments: list[int]


Builder = Callable[[Case], tuple[Rows, ItemStats]]


def built(case: Case) -> tuple[Rows, ItemStats]:
    """What prepare makes."""
    said = review_terms(case.events["review"], case.plan.terms)
    found = build(case.events.append_column("terms", said), case.plan, case.users)
    rows = {name.removeprefix("rows/"): table for name, table in found.tables.items() if name.startswith("rows/")}
    return rows, ItemStats(found.stats, len(case.plan.held_out_N))


def split_times(events: pa.Table, plan: Plan) -> np.ndarray:
    """When each event happens by the rules of the split: its own time, or its place before its user's end."""
    times = events["timestamp"].to_numpy().copy()
    if plan.split.kind == "temporal":
        return times
    users = np.array(events["user_id"].to_pylist())
    for user in np.unique(users):
        own = np.flatnonzero(users == user)
        own = own[np.argsort(times[own])]
        assert len(own) >= 3
        assert (np.diff(times[own]) > 0).all(), "equal times have no order to leave the last out by"
        if plan.order_only:
            times[own[:-2]] = plan.cutoffs.valid - DAY_MS * np.arange(len(own) - 2, 0, -1)
        times[own[-2:]] = plan.cutoffs.valid, plan.cutoffs.test
    return times


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with another column of the same type."""
    return table.set_column(table.column_names.index(name), name, values.cast(table.field(name).type))


def replace_from(case: Case, moment: int) -> Case:
    """The log with other items, opposite ratings and other reviews from `moment` on; times and held-out parts stay."""
    events, held_out_N = case.events, case.plan.held_out_N
    later = split_times(events, case.plan) >= moment
    items = events["item"].to_numpy().copy()
    swap = np.arange(len(held_out_N))
    for code in np.unique(held_out_N):
        members = np.flatnonzero(held_out_N == code)
        swap[members] = np.roll(members, 1)
    items[later] = swap[items[later]]
    ratings = events["rating"].to_numpy().copy()
    ratings[later] = 6 - ratings[later]
    reviews = np.array(events["review"].to_pylist(), object)
    reviews[later] = np.roll(reviews[later], 1)
    for name, values in (("item", items), ("rating", ratings), ("review", reviews)):
        events = with_column(events, name, pa.array(values))
    return replace(case, events=events)


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


def leaks(builder: Builder, case: Case) -> list[str]:
    """Rows that know something of what happens at or after their as_of.

    For each moment, everything from then on is replaced, and what the rows as of that moment or earlier know must be
    the same bytes as before.
    """
    rows, stats = builder(case)
    found = []
    for moment in case.moments:
        other_rows, other_stats = builder(replace_from(case, moment))
        for split, table in rows.items():
            before, after = (known(*pair, moment) for pair in ((table, stats), (other_rows[split], other_stats)))
            common = before.keys() & after.keys()
            # Which interactions a few-shot split draws depends on their items, so there a row at `moment` may go.
            drawn = case.plan.few_shot_event_limit is not None
            assert split != "train" or drawn or common == before.keys(), "the future changed which rows there are"
            found += [f"{split} {key} knows of {moment} or later" for key in common if before[key] != after[key]]
    return found


SPLITS = {
    "temporal": SplitConfig(),
    "leave-last-out": SplitConfig(kind="leave_last_out"),
    "order only": SplitConfig(kind="leave_last_out"),
    "cold users": SplitConfig(held_out_users=0.3),
    "few-shot": SplitConfig(few_shot_users=30, few_shot_interactions=700),
}


def case_of(name: str) -> Case:
    """Logs of one kind of split, with reviews that tell of other items than the one they belong to."""
    config = DataConfig(history_length=8, split=SPLITS[name])
    logs = generate(num_users=40, num_items=60, num_interactions=1600)
    if name in ("temporal", "cold users"):
        # Whole half days: of events at equal times none may tell of another.
        times = pc.multiply(pc.divide(logs.interactions["timestamp"], 43_200), 43_200)
        logs = replace(logs, interactions=logs.interactions.set_column(2, "timestamp", times))
    events, users, plan = judged(logs, config)
    if name == "order only":
        plan = replace(plan, order_only=True, cutoffs=split_cut_offs(config, True, np.zeros(0, int), np.zeros(0, int)))
    if name == "few-shot":
        plan = replace(plan, few_shot_user_limit=3 << 62, few_shot_event_limit=1 << 63)
    words = plan.terms.names.slice(plan.terms.num_labels).to_pylist()
    assert len(words) > 50
    picked = np.random.default_rng(0).choice(words, (len(events), 2))
    reviews = [f"It has {first} and {second}." if first < second else None for first, second in picked]
    events = events.select(["user_id", "item", "timestamp", "rating", "event"])
    events = events.append_column("review", pa.array(reviews, pa.string()))
    moments = np.unique(build(events, plan, users).tables["rows/train"]["as_of"].to_numpy())
    step = max(1, len(moments) // 12)
    return Case(events, users, plan, [*moments[::step].tolist(), plan.cutoffs.valid, plan.cutoffs.test])


@pytest.fixture(scope="module", params=list(SPLITS))
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


def test_no_row_knows_its_future(case: Case) -> None:
    assert leaks(built, case) == []


def test_the_check_compares_something(case: Case) -> None:
    rows, stats = built(case)
    few = case.plan.few_shot_event_limit is not None
    assert len(known(rows["train"], stats, case.moments[-3])) > (20 if few else 50)
    assert len(known(rows["valid"], stats, case.plan.cutoffs.valid)) > 5
    replaced, _ = built(replace_from(case, case.moments[0]))
    assert replaced["train"] != rows["train"]
    silent = replace(case, events=with_column(case.events, "review", pa.nulls(len(case.events))))
    assert built(silent)[0]["valid"]["profile"] != rows["valid"]["profile"], "reviews tell something"


def change(rows: Rows, name: str, values: pa.Array) -> Rows:
    """The train rows with another column."""
    train = rows["train"]
    return {**rows, "train": train.set_column(train.column_names.index(name), name, values)}


def profile_of_the_whole_row(case: Case) -> tuple[Rows, ItemStats]:
    """Planted leak: a profile told from the targets as well."""
    rows, stats = built(case)
    items, likes = (rows["train"][name].combine_chunks() for name in ("items", "likes"))
    flat = items.flatten().to_numpy(), likes.flatten().to_numpy(), items.offsets.to_numpy()
    return change(rows, "profile", pa.array(profile_texts(*flat, [""] * len(items), case.plan.terms))), stats


def first_target_as_context(case: Case) -> tuple[Rows, ItemStats]:
    """Planted leak: an event at as_of counted as context."""
    rows, stats = built(case)
    return change(rows, "first_target", pc.add(rows["train"]["first_target"], 1)), stats


def statistics_of_the_running_day(case: Case) -> tuple[Rows, ItemStats]:
    """Planted leak: item counts that include the day of as_of."""
    rows, stats = built(case)
    stats.first_day -= 1
    return rows, stats


def label_in_the_profile(case: Case) -> tuple[Rows, ItemStats]:
    """Planted leak: the rating of the first target in the text that predicts it."""
    rows, stats = built(case)
    said = {LIKED: "in a good mood", DISLIKED: "in a bad mood"}
    likes = [row["likes"][row["first_target"]] for row in rows["train"].to_pylist()]
    return change(rows, "profile", pa.array([said[like] for like in likes])), stats


def review_before_its_interaction(case: Case) -> tuple[Rows, ItemStats]:
    """Planted leak: each review told with the event before the one it belongs to."""
    events = case.events.take(pa.array(np.lexsort((split_times(case.events, case.plan), case.events["user_id"]))))
    early = pa.concat_arrays([events["review"].combine_chunks().slice(1), pa.nulls(1, pa.string())])
    return built(replace(case, events=with_column(events, "review", early)))


def statistics_at_real_times(case: Case) -> tuple[Rows, ItemStats]:
    """Planted leak: targets of leave-last-out counted on the day they happened."""
    temporal = replace(case.plan, split=SPLITS["temporal"])
    return built(case)[0], built(replace(case, plan=temporal))[1]


PLANTED = {
    profile_of_the_whole_row: list(SPLITS),
    first_target_as_context: list(SPLITS),
    statistics_of_the_running_day: list(SPLITS),
    label_in_the_profile: list(SPLITS),
    review_before_its_interaction: list(SPLITS),
    statistics_at_real_times: ["leave-last-out"],
}


@pytest.mark.parametrize(("leaking", "name"), [(leaking, name) for leaking, names in PLANTED.items() for name in names])
def test_the_check_finds_a_planted_leak(leaking: Builder, name: str) -> None:
    assert leaks(leaking, case_of(name))
