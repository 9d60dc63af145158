"""Kinds of dirt, one a line of a table: what is planted, the reason or filter it is counted under, its rows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa

from rayrec.data.config import CleanConfig
from tests.synthetic import START_S, generate

LOGS = generate(num_users=30, num_items=30, num_interactions=600)
ITEM = LOGS.items["item_id"][0].as_py()
NOW = datetime.fromtimestamp(START_S + 100 * 86_400, UTC)
DAY = 86_400
GOOD = {"user_id": "user-00000", "item_id": ITEM, "timestamp": START_S + DAY, "rating": 4.0, "review": None}
CLEAN = CleanConfig(
    quarantine_limit=0.3, now=NOW, max_text=2_000, repeat_window_s=60, bot_events_per_day=20, max_events=25
)

Row = dict[str, Any]


class Dirt(NamedTuple):
    """A kind of dirt: what is planted, under which name it is counted, and how many rows of it are (None: all)."""

    what: str
    name: str
    rows: list[Row]
    count: int | None = None


def meeting(user: str, times: Sequence[int]) -> list[Row]:
    """A user's events with one item after the other."""
    ids = LOGS.items["item_id"].to_pylist()
    return [GOOD | {"user_id": user, "item_id": ids[place % 30], "timestamp": time} for place, time in enumerate(times)]


# Numbers are written as they are, so that text formats can hold any.
REFUSED = [
    Dirt("null or blank user", "no user_id", [GOOD | {"user_id": None}, GOOD | {"user_id": "  "}]),
    Dirt("endless user id", "user_id longer than 512 characters", [GOOD | {"user_id": "u" * 513}]),
    Dirt("bell in a user id", "user_id with control characters", [GOOD | {"user_id": "user\u0007"}]),
    Dirt("null or blank item", "no item_id", [GOOD | {"item_id": None}, GOOD | {"item_id": " "}]),
    Dirt("endless item id", "item_id longer than 512 characters", [GOOD | {"item_id": "i" * 10_000}]),
    Dirt("control character in an item id", "item_id with control characters", [GOOD | {"item_id": "item\u0001"}]),
    Dirt(
        "unknown item",
        "item_id is not among the items",
        [GOOD | {"item_id": name} for name in ("never listed", "item-", "ITEM-0001")],
    ),
    Dirt("null time", "timestamp missing or not a number", [GOOD | {"timestamp": None}]),
    Dirt("negative time", "timestamp before 1970", [GOOD | {"timestamp": -5}]),
    Dirt("time in a far century", "timestamp after 2099, is time_unit right?", [GOOD | {"timestamp": 1 << 33}]),
    Dirt(
        "milliseconds among seconds",
        "timestamp 1000 times too large, in a finer unit than time_unit?",
        [GOOD | {"timestamp": START_S * 1000 + 7}],
    ),
    Dirt(
        "kiloseconds among seconds",
        "timestamp 1000 times too small, in a coarser unit than time_unit?",
        [GOOD | {"timestamp": START_S // 1000}],
    ),
    Dirt("time still to come", "timestamp after clean.now", [GOOD | {"timestamp": START_S + 101 * DAY}]),
    Dirt(
        "infinite rating, rating that is no number",
        "rating is not a finite number",
        [GOOD | {"rating": float("inf")}, GOOD | {"rating": float("nan")}],
    ),
]
FILTERED = [
    Dirt("the same row again", "exact repeat", LOGS.interactions.slice(0, 4).to_pylist()),
    Dirt(
        "the same but half a minute later",
        "repeat within 60 s",
        [row | {"timestamp": row["timestamp"] + 30} for row in LOGS.interactions.slice(100, 3).to_pylist()],
    ),
    Dirt(
        "a bot",
        "bot: over 20 events a day",
        meeting("bot", [START_S + 40 * DAY + 600 * place for place in range(22)]),
    ),
    Dirt(
        "a user without end",
        "beyond the user's last 25 events",
        meeting("endless", [START_S + DAY * place for place in range(29)]),
        count=4,
    ),
]
STRANGE = [
    Dirt("late, out of order", "", [GOOD | {"user_id": "user-00003", "timestamp": START_S + 3}]),
    Dirt("a user whom nobody describes", "", [GOOD | {"user_id": "ünïcode 用户", "timestamp": START_S + 5}]),
    Dirt("no rating", "", [GOOD | {"user_id": "user-00001", "rating": None, "timestamp": START_S + 7}]),
    Dirt("gigantic review", "", [GOOD | {"user_id": "user-00002", "review": "so " * 10_000, "timestamp": START_S + 9}]),
]
PLAIN_ITEM: Row = {"item_id": "new", "title": "New", "text": None, "format": None}
ITEMS_REFUSED = [
    Dirt("item without id", "no item_id", [PLAIN_ITEM | {"item_id": None}]),
    Dirt("null or blank title", "no title", [PLAIN_ITEM | {"title": None}, PLAIN_ITEM | {"title": " \t"}]),
    Dirt("null byte in an item", "item_id with control characters", [PLAIN_ITEM | {"item_id": "a\u0000b"}]),
]
ITEMS_FILTERED = [
    Dirt("item told again, the same", "item told again", LOGS.items.slice(3, 1).to_pylist()),
    Dirt(
        "item told again, otherwise",
        "item told again with another text",
        [LOGS.items.to_pylist()[4] | {"title": "Another title"}],
    ),
]
ITEMS_STRANGE = [Dirt("gigantic text", "", [PLAIN_ITEM | {"item_id": "gigantic", "text": "word " * 10_000}])]
USERS_REFUSED = [
    Dirt("nobody", "no user_id", [{"user_id": None, "about": "x"}]),
    Dirt("tab in a user id", "user_id with control characters", [{"user_id": "a\tb", "about": "x"}]),
]
USERS_FILTERED = [Dirt("user told again", "user told again", [{"user_id": "user-00000", "about": "later"}])]
# Lines of the text formats, without the newline.
CSV_LINES = [
    (b"\xff\xfe,,,", "not UTF-8"),
    (b"few", "wrong number of fields"),
    (b"one,two,three,four,five,six,seven", "wrong number of fields"),
    (b'"lost,its,closing,quote', "a quote or carriage return out of place"),
    (b"", None),
    (b"\r", None),
]
JSON_LINES = [
    (b'{"user_id": "\xff\xfe"}', "not UTF-8"),
    (b'{"user_id": "user-00000", "item', "not JSON"),
    (b'["user-00000", 1]', "JSON but no object"),
    (b"17", "JSON but no object"),
    (b"", None),
]


def counts_of(kinds: Sequence[Dirt]) -> dict[str, int]:
    return {dirt.name: len(dirt.rows) if dirt.count is None else dirt.count for dirt in kinds}


def planted(kinds: Sequence[Dirt]) -> list[Row]:
    return [row for dirt in kinds for row in dirt.rows]


def dirty() -> dict[str, pa.Table]:
    """Interactions, items and users with all of the dirt among the good rows."""
    schema = LOGS.interactions.schema.append(pa.field("review", pa.string()))
    good = LOGS.interactions.append_column("review", pa.nulls(600, pa.string()))
    bad = pa.Table.from_pylist(planted(REFUSED), schema)
    more = pa.Table.from_pylist(planted([*FILTERED, *STRANGE]), schema)
    half = len(bad) // 2
    events = [bad.slice(0, half), good.slice(0, 300), bad.slice(half), good.slice(300), more]
    items = planted([*ITEMS_REFUSED, *ITEMS_STRANGE, *ITEMS_FILTERED])
    users = planted([*USERS_REFUSED, *USERS_FILTERED])
    return {
        "interactions": pa.concat_tables(events),
        "items": pa.concat_tables([LOGS.items, pa.Table.from_pylist(items, LOGS.items.schema)]),
        "users": pa.concat_tables([LOGS.users, pa.Table.from_pylist(users, LOGS.users.schema)]),
    }
