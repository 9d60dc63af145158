"""MIND, Microsoft's news clicks: behaviors.tsv with whole impressions, news.tsv.

F. Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020.

A click of an impression is an interaction at the impression's time (taken as UTC; the files name no zone). The history
column is left out: its clicks come from before the log and have no time, and a made-up one would enter the popularity
and recency of the news as if it were known.
"""

from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.files import Delimited
from rayrec.data.sources.config import MindSource
from rayrec.data.sources.logs import Logs, LogTable, canonical
from rayrec.data.sources.texts import joined, unescaped
from rayrec.data.sources.values import flat, lists_of, prefixed, repeated, string_lists, strings
from rayrec.schema import RAW_IMPRESSIONS, RAW_INTERACTIONS, RAW_ITEMS
from rayrec.storage import join

BEHAVIORS = Delimited("\t", ("impression", "user", "time", "history", "shown"), quoted=False)
NEWS = Delimited(
    "\t",
    ("news", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"),
    quoted=False,
)
TIME = "%m/%d/%Y %I:%M:%S %p"


def read_mind(source: MindSource) -> Logs:
    """Reads some folders; an impression's id is its number in the file after the folder's name."""
    return Logs(
        interactions=tuple(LogTable((join(uri, "behaviors.tsv"),), BEHAVIORS, _clicks) for uri in source.uris),
        items=tuple(LogTable((join(uri, "news.tsv"),), NEWS, _news) for uri in source.uris),
        impressions=tuple(
            LogTable((join(uri, "behaviors.tsv"),), BEHAVIORS, partial(_impressions, folder=PurePosixPath(uri).name))
            for uri in source.uris
        ),
    )


def _times(block: pa.Table) -> pa.Array:
    return pc.strptime(strings(block["time"]), format=TIME, unit="ms", error_is_null=True).cast(pa.int64())


def _shown(block: pa.Table) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """What was shown, whether it was clicked, and the row of each; null and null where the file does not say."""
    shown, rows = flat(string_lists(block["shown"], " "))
    parts = pc.extract_regex(shown, r"^(?P<item>.*)-(?P<label>[01])$")
    return pc.struct_field(parts, "item"), pc.equal(pc.struct_field(parts, "label"), "1"), rows


def _clicks(block: pa.Table) -> pa.Table:
    items, clicked, rows = _shown(block)
    taken = clicked.fill_null(False)
    rows = pa.array(rows).filter(taken)
    columns = {"user_id": strings(block["user"]).take(rows), "timestamp": _times(block).take(rows)}
    columns |= {"item_id": items.filter(taken), "event": repeated("click", rows)}
    return canonical(RAW_INTERACTIONS, block["row"].take(rows), columns)


def _impressions(block: pa.Table, folder: str) -> pa.Table:
    """Those of which the file says what was clicked (the test set's does not)."""
    items, clicked, rows = _shown(block)
    labels = np.bincount(rows[clicked.is_valid().to_numpy(zero_copy_only=False)], minlength=len(block))
    told = pa.array((labels > 0) | (np.bincount(rows, minlength=len(block)) == 0))
    valid = block["shown"].is_valid().to_numpy()
    columns = {
        "impression_id": prefixed(f"{folder}/", block["impression"]),
        "user_id": strings(block["user"]),
        "timestamp": _times(block),
        "item_ids": lists_of(items, rows, valid),
        "clicked": lists_of(clicked, rows, valid),
    }
    return canonical(RAW_IMPRESSIONS, block["row"], columns).filter(told)


def _news(block: pa.Table) -> pa.Table:
    category, subcategory = (strings(block[name]) for name in ("category", "subcategory"))
    columns = {
        "item_id": strings(block["news"]),
        "title": unescaped(block["title"]),
        "text": unescaped(block["abstract"]),
        "categories": string_lists(joined(category, subcategory, separator="\t"), "\t"),
    }
    return canonical(RAW_ITEMS, block["row"], columns)
