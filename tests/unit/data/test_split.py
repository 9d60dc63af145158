from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.data.config import CleanConfig, DataConfig, SplitConfig
from rayrec.data.split import (
    HELD_OUT_TEST,
    HELD_OUT_VALID,
    HOUR_MS,
    KEPT,
    catalogue,
    cut_offs,
    few_shot_threshold,
    held_out,
    held_out_codes,
    held_out_users,
    interaction_draw,
    item_order,
    split_cut_offs,
    split_warnings,
    user_draw,
)
from rayrec.item_stats import DAY_MS
from rayrec.schema import CATALOGUE, ITEMS

SHARES = SplitConfig(held_out_valid=0.05, held_out_test=0.15)


def items(count: int) -> pa.Table:
    rows = [{"item_id": str(number), "title": f"title {number}"} for number in range(count)]
    return pa.Table.from_pylist(rows, ITEMS)


def ids(count: int) -> pa.Array:
    return pa.array([f"user {number}" for number in range(count)])


def config(kind: Literal["temporal", "leave_last_out"], **clean: int) -> DataConfig:
    return DataConfig(split=SplitConfig(kind=kind), clean=CleanConfig(**clean))


def test_cut_offs_leave_the_wanted_shares_behind() -> None:
    hours = np.array([7, 3, 9, 4, 5, 6, 8, 10, 11, 12])
    found = cut_offs(hours, np.full(10, 100), 0.2, 0.1)
    assert (found.valid, found.test, found.end) == (10 * HOUR_MS, 12 * HOUR_MS, 13 * HOUR_MS)
    settings = DataConfig(split=SplitConfig(valid_fraction=0.2, test_fraction=0.1))
    assert split_cut_offs(settings, False, hours, np.full(10, 100)) == found


def test_a_crowded_last_hour_still_leaves_three_parts() -> None:
    found = cut_offs(np.array([1, 2, 3]), np.array([1, 1, 1000]), 0.1, 0.1)
    assert (found.valid, found.test, found.end) == (2 * HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS)


def test_too_few_hours_are_refused() -> None:
    with pytest.raises(ValueError, match="2 distinct hour"):
        cut_offs(np.array([1, 2]), np.array([5, 5]), 0.1, 0.1)


@pytest.mark.parametrize(("last_hour", "days"), [(0, 1), (23, 1), (24, 2), (1000, 42)])
def test_leave_last_out_cuts_at_the_day_borders_after_all_events(last_hour: int, days: int) -> None:
    found = split_cut_offs(config("leave_last_out"), False, np.array([last_hour, 0]), np.array([1, 1]))
    assert (found.valid, found.test, found.end) == (days * DAY_MS, (days + 1) * DAY_MS, (days + 2) * DAY_MS)


def test_without_time_the_cut_offs_follow_from_the_longest_history_there_may_be() -> None:
    found = split_cut_offs(config("leave_last_out", max_events=7), True, np.array([10**6]), np.array([1]))
    assert (found.valid, found.test, found.end) == (7 * DAY_MS, 8 * DAY_MS, 9 * DAY_MS)


def test_warnings_say_what_a_split_cannot_show() -> None:
    assert split_warnings(config("temporal"), False) == []
    (timed,) = split_warnings(config("leave_last_out"), False)
    assert "not comparable" in timed
    first, second = split_warnings(config("leave_last_out"), True)
    assert first == timed
    assert "positions" in second
    (core,) = split_warnings(config("temporal", min_item_events=5), False)
    assert "k-core" in core
    assert split_warnings(config("temporal", min_user_events=2), False) == [core]


def test_a_temporal_split_of_logs_without_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"movielens.*set data\.split\.kind=leave_last_out"):
        split_warnings(config("temporal"), True)


def test_the_catalogue_does_not_depend_on_the_order_of_items() -> None:
    table = items(300)
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(300)))
    first, second = catalogue(table, SHARES, 0), catalogue(shuffled, SHARES, 0)
    assert first.schema == CATALOGUE
    assert first.equals(second)
    assert not first.equals(catalogue(table, SHARES, 1))


def test_the_catalogue_is_ordered_by_hash_and_keeps_terms() -> None:
    terms = pa.array([[f"word {number}"] for number in range(50)])
    table = catalogue(items(50).append_column("terms", terms), SHARES, 3)
    order = item_order(table["item_id"].combine_chunks(), 3)
    assert (np.diff(order.astype(object)) > 0).all()
    assert [row["terms"] for row in table.to_pylist()] == [[f"word {row['item_id']}"] for row in table.to_pylist()]
    assert table["held_out"].combine_chunks() == held_out(table["item_id"].combine_chunks(), SHARES, 3)


def test_indices_mean_nothing_and_shares_are_met() -> None:
    table = catalogue(items(3000), SHARES, 0)
    numbers = np.array(table["item_id"].to_pylist(), int)
    assert abs(np.corrcoef(numbers, np.arange(3000))[0, 1]) < 0.06
    codes = held_out_codes(table["held_out"])
    assert (codes == HELD_OUT_TEST).mean() == pytest.approx(0.15, abs=0.03)
    assert (codes == HELD_OUT_VALID).mean() == pytest.approx(0.05, abs=0.02)
    assert abs(np.corrcoef(codes == HELD_OUT_TEST, np.arange(3000))[0, 1]) < 0.06


def test_held_out_names_have_codes() -> None:
    assert held_out_codes(pa.chunked_array([["", "test"], ["valid"]])).tolist() == [KEPT, HELD_OUT_TEST, HELD_OUT_VALID]


def test_an_item_keeps_its_part_when_others_join() -> None:
    few, many = (catalogue(items(count), SHARES, 0) for count in (100, 300))
    parts = dict(zip(many["item_id"].to_pylist(), many["held_out"].to_pylist(), strict=True))
    assert all(parts[row["item_id"]] == row["held_out"] for row in few.to_pylist())


def test_all_items_held_out_is_refused() -> None:
    with pytest.raises(ValueError, match="all 2 items are held out"):
        catalogue(items(2), SplitConfig(held_out_valid=0.49, held_out_test=0.499999), 0)


def test_cold_users_are_a_seeded_share() -> None:
    split = SplitConfig(held_out_users=0.3)
    first, second = (held_out_users(ids(2000), split, seed) for seed in (0, 1))
    assert first.mean() == pytest.approx(0.3, abs=0.04)
    assert (first != second).mean() == pytest.approx(0.42, abs=0.06)
    assert (held_out_users(ids(100), split, 0) == first[:100]).all()
    assert not held_out_users(ids(100), SplitConfig(), 0).any()


def test_draws_of_one_seed_tell_nothing_of_each_other() -> None:
    users = ids(2000)
    interactions = interaction_draw(users, np.zeros(2000, int), np.zeros(2000, int), 0)
    draws = [
        item_order(users, 0),
        user_draw(users, 0),
        interactions,
        held_out_users(users, SplitConfig(held_out_users=0.5), 0),
    ]
    correlations = np.corrcoef(np.array(draws, float)) - np.eye(4)
    assert np.abs(correlations).max() < 0.08


def test_an_interaction_is_named_by_user_item_and_time() -> None:
    users = pa.array(["a", "a", "a", "b", "a1"])
    draws = interaction_draw(users, np.array([1, 1, 11, 1, 1]), np.array([11, 12, 1, 11, 11]), 0)
    assert len(set(draws.tolist())) == 5


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=8), max_size=5), st.integers(1, 12))
def test_the_threshold_is_the_nth_smallest_of_all_buckets(buckets: list[list[int]], n: int) -> None:
    draws = [np.sort(np.array(bucket, np.uint64))[:n] for bucket in buckets]
    every = sorted(draw for bucket in buckets for draw in bucket)
    assert few_shot_threshold(draws, n) == (every[n - 1] if len(every) >= n else None)


@pytest.mark.parametrize("key", ["bot_events_per_day", "repeat_window_s"])
def test_filters_that_need_times_are_refused_where_there_are_none(key: str) -> None:
    config = DataConfig(split=SplitConfig(kind="leave_last_out"), clean=CleanConfig(**{key: 5}))
    assert split_warnings(config, order_only=False)
    with pytest.raises(ValueError, match=f"data.clean.{key} is 5.*leave it out"):
        split_warnings(config, order_only=True)


def test_a_clock_that_runs_far_ahead_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    hours, counts = np.arange(480_000, 480_100), np.full(100, 50)
    split_cut_offs(DataConfig(), False, hours, counts)
    assert capsys.readouterr().err == ""
    split_cut_offs(DataConfig(), False, np.append(hours, 1_080_000), np.append(counts, 1))
    assert "before 2024-10-08, the last on 2093-03-16" in capsys.readouterr().err
