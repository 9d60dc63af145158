"""DKN's news lines: user, title, 1 (clicked) or 0 (shown, not clicked), entities of the title.

H. Wang et al., "DKN: Deep Knowledge-Aware Network for News Recommendation", WWW 2018. An item is its title (lower-cased
and without stop words, as published); there is no time, so the order is that of the lines.
"""

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.files import Delimited
from rayrec.data.sources.config import DknSource
from rayrec.data.sources.logs import Logs, LogTable, canonical
from rayrec.data.sources.values import renamed, string_lists, strings
from rayrec.schema import RAW_INTERACTIONS, RAW_ITEMS

LINES = Delimited("\t", ("user", "title", "clicked", "entities"), quoted=False)
EVENTS = {"1": "click", "0": "skip"}
FILE_STEP = 10**10
"""So far apart lie the positions of one file's lines and the next one's."""


def read_dkn(source: DknSource) -> Logs:
    """Reads files, the earlier first."""
    return Logs(
        interactions=tuple(
            LogTable((uri,), LINES, partial(_clicks, first=number * FILE_STEP))
            for number, uri in enumerate(source.uris)
        ),
        items=(LogTable(source.uris, LINES, _news),),
        order_only=True,
    )


def _clicks(block: pa.Table, first: int) -> pa.Table:
    columns = {
        "user_id": strings(block["user"]),
        "item_id": strings(block["title"]),
        "timestamp": pc.add(block["row"], first),
        "event": renamed(block["clicked"], EVENTS),
    }
    return canonical(RAW_INTERACTIONS, block["row"], columns)


def _news(block: pa.Table) -> pa.Table:
    title = strings(block["title"])
    names = pc.replace_substring_regex(strings(block["entities"]), r"(^|;)\d+:", r"\1")
    return canonical(
        RAW_ITEMS, block["row"], {"item_id": title, "title": title, "attributes": string_lists(names, ";")}
    )
