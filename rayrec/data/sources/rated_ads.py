"""Rated ads with context: ratings from 1 (worst) to 7 with a free comment, texts read off the ads, topics, raters.

E. Zeng et al., "What Makes a 'Bad' Ad? User Perceptions of Problematic Online Advertising", CHI 2021. There is no time,
so the order is that of the ratings' rows.
"""

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.files import Delimited, JsonLines, parts_of, read_blocks
from rayrec.data.sources.config import RatedAdsSource
from rayrec.data.sources.logs import Logs, LogTable, canonical, canonical_interactions
from rayrec.data.sources.texts import joined
from rayrec.data.sources.values import filled, flagged, renamed, strings
from rayrec.schema import RAW_ITEMS, RAW_USERS
from rayrec.storage import join

RATINGS = {
    "user_id": "pid",
    "item_id": "ad_id",
    "timestamp": "row",
    "rating": "overall_rating",
    "review": "free_response",
}
BLOCKERS = {"Yes": "uses an ad blocker", "No": "uses no ad blocker", "NotSure": "may use an ad blocker"}
PARTIES = {name: name for name in ("democrat", "republican", "independent")}
_TITLE_THEN_TEXT = r"(?s)^\s*(?P<title>.{1,80}\S*)\s*(?P<text>.*)$"


def read_rated_ads(source: RatedAdsSource) -> Logs:
    """Reads the four files of a folder; an ad's title is where its text begins."""
    ads = partial(_ads, labels=join(source.uri, "content_labels.csv"))
    texts = JsonLines(("ad_id", "text"))
    ratings = partial(canonical_interactions, columns=RATINGS, unit="ms")
    return Logs(
        interactions=(LogTable((join(source.uri, "overall_ad_ratings.csv"),), Delimited(), ratings),),
        items=(LogTable((join(source.uri, "ad_texts.jsonl"),), texts, ads),),
        users=(LogTable((join(source.uri, "participant_context.csv"),), Delimited(), _raters),),
        order_only=True,
    )


def _ads(block: pa.Table, labels: str) -> pa.Table:
    """Looks the topics up in a small file beside: an item's row must be whole, for of two rows the later wins."""
    (part,) = parts_of((labels,), Delimited(), 1)
    table = pa.concat_tables(seen.rows for seen in read_blocks(part))
    topics = flagged(table, [name for name in table.column_names if name not in ("ad_id", "row")])
    ad = strings(block["ad_id"])
    parts = pc.extract_regex(strings(block["text"]), _TITLE_THEN_TEXT)
    text = pc.struct_field(parts, "text")
    columns = {
        "item_id": ad,
        "title": pc.utf8_trim_whitespace(pc.struct_field(parts, "title")),
        "text": filled(text),
        "categories": topics.take(pc.index_in(ad, strings(table["ad_id"]))),
    }
    return canonical(RAW_ITEMS, block["row"], columns)


def _raters(block: pa.Table) -> pa.Table:
    attitude = strings(block["ad_attitude"])
    attitude = pc.if_else(pc.match_substring_regex(attitude, "^[1-7]$"), attitude, None)
    likes = pc.binary_join_element_wise("likes ads ", attitude, " of 7", "")
    blocks, party = renamed(block["adblocker"], BLOCKERS), renamed(block["political_affiliation"], PARTIES)
    text = joined(likes, blocks, party, separator=", ")
    return canonical(RAW_USERS, block["row"], {"user_id": strings(block["pid"]), "text": text})
