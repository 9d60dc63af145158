"""Each filter drops what it names, in the order of the names, and nothing vanishes uncounted."""

from itertools import groupby

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data.config import CleanConfig
from rayrec.data.filters import clean_past, core_past, narrow
from rayrec.item_stats import DAY_MS
from rayrec.profiles import Histories, LikeRule
from tests.events import Event, log

S = 1000


def events_of(past: Histories) -> dict[str, list[tuple[int, int]]]:
    """Item and time of each user's events, users without any left out."""
    spans = zip(past.user_ids, past.offsets_U1[:-1], past.offsets_U1[1:], strict=True)
    pairs = list(zip(past.items_E.tolist(), past.times_E.tolist(), strict=True))
    return {user: pairs[begin:end] for user, begin, end in spans if end > begin}


def cleaned(events: pa.Table, **settings: float) -> tuple[dict[str, list[tuple[int, int]]], dict[str, int]]:
    past, filtered = clean_past(events, LikeRule(), CleanConfig.model_validate(settings))
    assert len(past.items_E) + sum(filtered.values()) == len(events)
    return events_of(past), filtered


def test_without_settings_only_exact_repeats_go() -> None:
    kept, filtered = cleaned(log(("a", 1, 5, None), ("a", 1, 5, 3.0), ("a", 1, 6, None), ("b", 1, 5, None)))
    assert kept == {"a": [(1, 5), (1, 6)], "b": [(1, 5)]}
    assert filtered == {"exact repeat": 1, "beyond the user's last 10000 events": 0}


def test_a_run_of_quick_repeats_counts_once() -> None:
    times = [0, 9, 18, 28, 29]
    kept, filtered = cleaned(log(*(("a", 1, time * S, None) for time in times)), repeat_window_s=9)
    assert kept == {"a": [(1, 0), (1, 28 * S)]}
    assert filtered["repeat within 9 s"] == 3


def test_quick_repeats_are_of_one_user_item_and_name() -> None:
    events = [("a", 1, 0, None), ("a", 2, 1, None), ("b", 1, 2, None), ("a", 1, 3, None), ("a", 1, 4, None)]
    kept, filtered = cleaned(log(*events, names=["view", "view", "view", "buy", None]), repeat_window_s=60)
    assert filtered["repeat within 60 s"] == 0
    assert kept == {"a": [(1, 0), (2, 1), (1, 3), (1, 4)], "b": [(1, 2)]}
    _, filtered = cleaned(log(*events, names=["view", "view", "view", "view", None]), repeat_window_s=60)
    assert filtered["repeat within 60 s"] == 1
    _, filtered = cleaned(log(*events), repeat_window_s=60)
    assert filtered["repeat within 60 s"] == 2


def test_exact_repeats_keep_their_own_name_and_share_the_fate_of_the_first() -> None:
    kept, filtered = cleaned(log(("a", 1, 0, None), ("a", 1, 0, 2.0)), repeat_window_s=5)
    assert (kept, filtered["exact repeat"], filtered["repeat within 5 s"]) == ({"a": [(1, 0)]}, 1, 0)
    kept, filtered = cleaned(log(("a", 1, 4 * S, None), ("a", 1, 0, None), ("a", 1, 4 * S, 2.0)), repeat_window_s=5)
    assert (kept, filtered["exact repeat"], filtered["repeat within 5 s"]) == ({"a": [(1, 0)]}, 0, 2)


def test_a_bot_goes_with_all_its_events() -> None:
    busy: list[Event] = [("bot", item, DAY_MS + item, None) for item in range(4)]
    calm: list[Event] = [("calm", item, DAY_MS - 2 + item, None) for item in range(4)]
    kept, filtered = cleaned(log(*busy, ("bot", 9, 5 * DAY_MS, None), *calm), bot_events_per_day=3)
    assert kept == {"calm": [(item, DAY_MS - 2 + item) for item in range(4)]}
    assert filtered["bot: over 3 events a day"] == 5
    assert cleaned(log(*busy), bot_events_per_day=4)[1]["bot: over 4 events a day"] == 0


def test_exact_repeats_make_no_bot() -> None:
    kept, filtered = cleaned(log(*[("a", 1, 5, None)] * 9), bot_events_per_day=1)
    assert (kept, filtered["exact repeat"]) == ({"a": [(1, 5)]}, 8)


def test_the_latest_events_of_a_user_stay() -> None:
    events: list[Event] = [*(("a", item, 9 - item, None) for item in range(5)), ("b", 1, 1, None)]
    kept, filtered = cleaned(log(*events), max_events=2)
    assert kept == {"a": [(1, 8), (0, 9)], "b": [(1, 1)]}
    assert filtered["beyond the user's last 2 events"] == 3


def test_no_event_is_no_trouble() -> None:
    kept, filtered = cleaned(log(), repeat_window_s=1, bot_events_per_day=1)
    assert kept == {}
    assert set(filtered.values()) == {0}


def test_the_core_drops_items_then_users() -> None:
    past, _ = clean_past(
        log(("a", 1, 1, None), ("a", 2, 2, None), ("b", 2, 1, None), ("b", 3, 2, None)), LikeRule(), CleanConfig()
    )
    keep_item_N = np.array([True, True, True, False])
    assert events_of(core_past(past, CleanConfig(min_user_events=2), keep_item_N)) == {"a": [(1, 1), (2, 2)]}
    assert events_of(core_past(past, CleanConfig(), keep_item_N)) == {"a": [(1, 1), (2, 2)], "b": [(2, 1)]}
    assert core_past(past, CleanConfig(min_user_events=2), None) is past


def test_narrowing_keeps_all_columns_together() -> None:
    events = log(("a", 1, 1, 5.0), ("a", 2, 2, 1.0), ("b", 3, 3, None))
    terms = pa.array([[1], [2, 3], None], pa.list_(pa.int32()))
    past, _ = clean_past(events.append_column("terms", terms), LikeRule(), CleanConfig())
    found = narrow(past, np.array([False, True, True]))
    assert (found.user_ids, found.offsets_U1.tolist()) == (["a", "b"], [0, 1, 2])
    assert (found.items_E.tolist(), found.times_E.tolist(), found.likes_E.tolist()) == ([2, 3], [2, 3], [0, -1])
    assert found.ratings_E.tolist() == pytest.approx([1.0, float("nan")], nan_ok=True)
    assert found.terms is not None
    assert found.terms.to_pylist() == [[2, 3], None]


LOGS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 40).map(lambda half: half * DAY_MS // 10), st.none()
    ),
    max_size=40,
)


def plain_loop(
    events: list[tuple[Event, str]], window_ms: int, per_day: int, most: int
) -> dict[str, list[tuple[int, int]]]:
    """The filters in words: repeats by name, exact repeats, bots, the last events."""
    calm = []
    whole = sorted({(user, item, name, time) for (user, item, time, _), name in events})
    for (user, item, _), group in groupby(whole, lambda event: event[:3]):
        times = [event[3] for event in group]
        gaps = np.diff(times, prepend=times[0] - window_ms - 1)
        calm += [(user, time, item) for time, gap in zip(times, gaps, strict=True) if gap > window_ms or not window_ms]
    found = {}
    for user in "abc":
        own = sorted({(time, item) for name, time, item in calm if name == user})
        days = [time // DAY_MS for time, _ in own]
        if own and max(days.count(day) for day in days) <= per_day:
            found[user] = [(item, time) for time, item in own[-most:]]
    return found


@settings(max_examples=200, deadline=None)
@given(LOGS, st.data(), st.integers(0, 2), st.integers(1, 8), st.integers(1, 6))
def test_filters_agree_with_a_plain_loop(
    events: list[Event], data: st.DataObject, tenths: int, per_day: int, most: int
) -> None:
    names = data.draw(st.lists(st.sampled_from(["view", "buy"]), min_size=len(events), max_size=len(events)))
    window_s = tenths * DAY_MS // 10 / S
    kept, _ = cleaned(
        log(*events, names=list(names)), repeat_window_s=window_s, bot_events_per_day=per_day, max_events=most
    )
    assert kept == plain_loop(list(zip(events, names, strict=True)), round(window_s * S), per_day, most)
