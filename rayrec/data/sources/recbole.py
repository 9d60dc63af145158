"""RecBole's atomic files: NAME.inter, .item, .user and, for a knowledge graph, .kg and .link.

W. X. Zhao et al., "RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation Algorithms",
CIKM 2021; the columns are those of https://recbole.io/atomic_files.html. A log of sequences has one row a user: the
items so far (`item_id_list`) and the last (`item_id`), which here become one interaction each.
"""

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.files import Delimited, column_names
from rayrec.data.sources.config import RecBoleSource
from rayrec.data.sources.logs import Logs, LogTable, canonical, canonical_interactions
from rayrec.data.sources.texts import joined, readable_titles, unescaped
from rayrec.data.sources.values import filled, flat, places, prefixed, repeated, string_lists, strings
from rayrec.schema import RAW_INTERACTIONS, RAW_ITEMS, RAW_USERS, TRIPLES
from rayrec.storage import exists, join

ATOMIC = Delimited("\t", quoted=False)
TITLES = ("title", "movie_title", "book_title", "item_name", "name", "app_name")
CATEGORIES = ("class", "categories", "category", "genre", "genres")
MAKERS = ("brand", "author", "book_author", "developer", "publisher")
NOT_TOLD = ("user_id", "zip_code", "row")
SEQUENCE_STEP = 1000


def read_recbole(source: RecBoleSource) -> Logs:
    """Reads the files that are there; without a `timestamp`, the order of the rows is all the time there is.

    Raises:
        ValueError: the items have no title.
    """
    stem = join(source.uri, source.name)
    files = {ending: f"{stem}.{ending}" for ending in ("inter", "item", "user")}
    columns = column_names((files["inter"],), ATOMIC)
    timed = "timestamp" in columns
    convert = partial(_interactions, timed=timed, rated="rating" in columns)
    title = _title(files["item"])
    return Logs(
        interactions=(LogTable((files["inter"],), ATOMIC, _sequences if "item_id_list" in columns else convert),),
        items=(LogTable((files["item"],), ATOMIC, partial(_items, title=title)),),
        users=(LogTable((files["user"],), ATOMIC, _users),) if exists(files["user"]) else (),
        triples=graph(stem),
        order_only=not timed,
    )


def graph(stem: str) -> tuple[LogTable, ...]:
    """The knowledge graph, of its two files those that are there: relations of entities, and which items are which.

    Args:
        stem: URI of the files less `.kg` and `.link`.
    """
    tables = ((f"{stem}.kg", _relations), (f"{stem}.link", _links))
    return tuple(LogTable((uri,), ATOMIC, convert) for uri, convert in tables if exists(uri))


def _title(uri: str) -> str:
    columns = column_names((uri,), ATOMIC)
    found = [name for name in TITLES if name in columns]
    if not found:
        raise ValueError(
            f"{uri!r} has no title; expected one of the columns {', '.join(TITLES)}, found none of them among "
            f"{len(columns)}: rename the one that names the item in the first line"
        )
    return found[0]


def _interactions(block: pa.Table, timed: bool, rated: bool) -> pa.Table:
    columns = {"user_id": "user_id", "item_id": "item_id", "rating": "rating" if rated else None}
    if timed:
        return canonical_interactions(block, {**columns, "timestamp": "timestamp"}, "s")
    return canonical_interactions(block, {**columns, "timestamp": "row"}, "ms")


def _sequences(block: pa.Table) -> pa.Table:
    sequence = joined(strings(block["item_id_list"]), strings(block["item_id"]), separator=" ")
    items, rows = flat(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(sequence.fill_null(""))))
    row = block["row"].to_numpy()[rows]
    columns = {
        "user_id": strings(block["user_id"]).take(pa.array(rows)),
        "item_id": filled(items),
        "timestamp": pa.array(row * SEQUENCE_STEP + places(rows)),
    }
    return canonical(RAW_INTERACTIONS, pa.array(row), columns)


def _items(block: pa.Table, title: str) -> pa.Table:
    columns = {"item_id": strings(block["item_id"]), "title": readable_titles(unescaped(block[title]))}
    for field, names, separator in (("categories", CATEGORIES, " "), ("attributes", MAKERS, "\t")):
        found = [name for name in names if name in block.column_names]
        if found:
            columns[field] = string_lists(unescaped(block[found[0]]), separator)
    return canonical(RAW_ITEMS, block["row"], columns)


def _users(block: pa.Table) -> pa.Table:
    said = [
        pc.binary_join_element_wise(f"{name} ", strings(block[name]), "")
        for name in block.column_names
        if name not in NOT_TOLD
    ]
    columns = {"user_id": strings(block["user_id"])}
    if said:
        columns["text"] = joined(*said, separator=", ")
    return canonical(RAW_USERS, block["row"], columns)


def _relations(block: pa.Table) -> pa.Table:
    head, tail = (prefixed("name:", block[name]) for name in ("head_id", "tail_id"))
    return canonical(TRIPLES, block["row"], {"head": head, "relation": strings(block["relation_id"]), "tail": tail})


def _links(block: pa.Table) -> pa.Table:
    head, tail = prefixed("item:", block["item_id"]), prefixed("name:", block["entity_id"])
    return canonical(TRIPLES, block["row"], {"head": head, "relation": repeated("is", block), "tail": tail})
