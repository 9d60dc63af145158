"""TALLRec's JSON: an array of records with liked titles, disliked titles, a target, and whether it was liked.

K. Bao et al., "TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with Recommendation",
RecSys 2023. Every record is a user of its own, named after its file and row; the order between likes and dislikes is
lost, so likes come first. Mind that the published records are windows that slide over the same people: one record's
target is in the next one's history, so a split by records measures less than it seems to.
"""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.files import JsonLines, parts_of
from rayrec.data.sources.config import TallrecSource
from rayrec.data.sources.logs import Logs, LogTable, canonical
from rayrec.data.sources.texts import readable_titles, unescaped
from rayrec.data.sources.values import flat, places, prefixed, renamed, repeated, strings
from rayrec.schema import RAW_INTERACTIONS, RAW_ITEMS

RECORDS = JsonLines(("instruction", "input", "output"), array=True)
ANSWERS = {"Yes.": "like", "No.": "dislike"}
SEQUENCE_STEP = 1000
_INPUT = (
    r'(?s)^User Preference: *"?(?P<liked>.*?)"?\nUser Unpreference: *"?(?P<disliked>.*?)"?\n'
    r'Whether the user will like the target \w+ "(?P<target>.*)"\?\s*$'
)


def read_tallrec(source: TallrecSource) -> Logs:
    """Reads a file, a folder or a glob; an item is its title."""
    files = [part.uri for part in parts_of((source.uri,), RECORDS, 1)]
    return Logs(
        interactions=tuple(LogTable((uri,), RECORDS, partial(_opinions, file=_stem(uri))) for uri in files),
        items=(LogTable(tuple(files), RECORDS, _titles),),
        order_only=True,
    )


def _stem(uri: str) -> str:
    return uri.rpartition("/")[2].partition(".")[0]


def _told(block: pa.Table) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """Titles with the event of each (null where the output is no answer) and the row each came from, in order.

    A record that does not read like one gives one null title.
    """
    parts = pc.extract_regex(strings(block["input"]), _INPUT)
    liked, liked_rows = _listed(pc.struct_field(parts, "liked"))
    disliked, disliked_rows = _listed(pc.struct_field(parts, "disliked"))
    told = (repeated("like", liked), repeated("dislike", disliked), renamed(block["output"], ANSWERS))
    rows = np.concatenate([liked_rows, disliked_rows, np.arange(len(block))])
    order = np.argsort(rows, kind="stable")
    titles = pa.concat_arrays([liked, disliked, pc.struct_field(parts, "target")])
    return titles.take(pa.array(order)), pa.concat_arrays(told).take(pa.array(order)), rows[order]


def _listed(titles: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The titles between the quotes, and the row of each."""
    values, rows = flat(pc.split_pattern(titles, '", "'))
    there = pc.not_equal(values, "")
    return values.filter(there), rows[there.to_numpy(zero_copy_only=False)]


def _opinions(block: pa.Table, file: str) -> pa.Table:
    titles, events, rows = _told(block)
    row = block["row"].to_numpy()[rows]
    columns = {
        "user_id": prefixed(f"{file}-", pa.array(row)),
        "item_id": titles,
        "timestamp": pa.array(row * SEQUENCE_STEP + places(rows)),
        "event": events,
    }
    return canonical(RAW_INTERACTIONS, pa.array(row), columns)


def _titles(block: pa.Table) -> pa.Table:
    titles, _, rows = _told(block)
    told = titles.is_valid()
    titles, row = titles.filter(told), block["row"].to_numpy()[rows[told.to_numpy(zero_copy_only=False)]]
    return canonical(RAW_ITEMS, pa.array(row), {"item_id": titles, "title": readable_titles(unescaped(titles))})
