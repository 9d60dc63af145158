"""Plain Parquet, CSV, TSV or JSON files with a map of columns."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial

import pyarrow as pa

from rayrec.data.files import JsonLines, column_names, guess_format
from rayrec.data.sources.config import ColumnsSource
from rayrec.data.sources.logs import Logs, LogTable, canonical, canonical_interactions
from rayrec.data.sources.texts import texts, unescaped, unprinted
from rayrec.data.sources.values import string_lists, strings
from rayrec.schema import RAW_ITEMS, RAW_USERS

NEEDED = ("user_id", "item_id", "timestamp", "title")
_Map = Mapping[str, str | None]


def read_columns(source: ColumnsSource) -> Logs:
    """Reads interactions, items and (where given) users. With a `position` the logs have an order and no time.

    Raises:
        ValueError: no file, files of several formats, a missing column, or neither timestamp nor position.
    """
    columns = source.columns.model_dump()
    order = source.columns.position or source.columns.timestamp
    if order is None:
        raise ValueError(
            "source.columns has timestamp: null and position: null; expected one of them: name the column that "
            "holds the time, or add one that counts a user's interactions"
        )
    events = {name: columns[name] for name in ("user_id", "item_id", "rating", "event", "review")}
    events["timestamp"] = order
    items = {name: columns[name] for name in ("item_id", "title", "text", "categories", "attributes")}
    users = {"user_id": columns["user_id"], "text": columns["user_text"]}
    order_only = source.columns.position is not None
    convert = partial(canonical_interactions, columns=events, unit="ms" if order_only else source.time_unit)
    return Logs(
        interactions=(_table(source.interactions, events, convert),),
        items=(_table(source.items, items, partial(_items, columns=items, separator=source.category_separator)),),
        users=() if source.users is None else (_table(source.users, users, partial(_users, columns=users)),),
        order_only=order_only,
    )


def _table(uri: str, columns: _Map, convert: Callable[[pa.Table], pa.Table]) -> LogTable:
    form = guess_format((uri,), tuple(dict.fromkeys(name for name in columns.values() if name is not None)))
    # Of JSON only the first records' keys are known, and one that is optional may be rare.
    needed = [name for field, name in columns.items() if field in NEEDED or not isinstance(form, JsonLines)]
    _require(uri, needed, column_names((uri,), form))
    return LogTable((uri,), form, convert)


def _require(uri: str, wanted: list[str | None], found: list[str]) -> None:
    names = [name for name in wanted if name is not None]
    if names and not set(names) & set(found):  # what stands there may be data, so it is not shown
        raise ValueError(
            f"{uri!r} has {len(found)} columns, none of them called {', '.join(map(repr, names))}: is its first line a "
            "header? Name its columns under source.columns"
        )
    for name in names:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{uri!r} has no column {name!r}; found {', '.join(found)}. {hint}"
                "Name the right one under source.columns (null where there is none)"
            )


def _items(block: pa.Table, columns: _Map, separator: str) -> pa.Table:
    arrays = {field: block[name] for field, name in columns.items() if name is not None}
    arrays["item_id"] = strings(arrays["item_id"])
    for field in ("title", "text"):
        if field in arrays:
            arrays[field] = unescaped(texts(unprinted(arrays[field], " ")))
    for field in ("categories", "attributes"):
        if field in arrays:
            arrays[field] = string_lists(unprinted(arrays[field], separator), separator)
    return canonical(RAW_ITEMS, block["row"], arrays)


def _users(block: pa.Table, columns: _Map) -> pa.Table:
    arrays = {field: strings(block[name]) for field, name in columns.items() if name is not None}
    return canonical(RAW_USERS, block["row"], arrays)
