"""Rated ads with context: ratings from 1 (worst) to 7 with a free comment, texts read off the ads, topics, raters.

An ad's topics are its categories, and triples too: so the file that tells them is among the logs like any other.

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
from rayrec.data.sources.values import filled, flagged, flat, prefixed, renamed, repeated, strings
from rayrec.schema import RAW_ITEMS, RAW_USERS, TRIPLES
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
    """Reads the four files of a folder; an ad's title is where its text begins.

    Raises:
        ValueError: the topics cannot be read.
    """
    topics = LogTable((join(source.uri, "content_labels.csv"),), Delimited(), _topics)
    # An item's row must be whole, for of two rows the later wins; so the small table is looked up here, once.
    (part,) = parts_of(topics.uris, topics.format, 1)
    blocks = [block.rows for block in read_blocks(part)]
    if not blocks:
        raise ValueError(f"{part.uri} is empty; expected its header: ad_id and a column a topic")
    labels = pa.concat_tables(blocks)
    texts, ads = JsonLines(("ad_id", "text")), partial(_ads, labels=labels)
    ratings = partial(canonical_interactions, columns=RATINGS, unit="ms")
    return Logs(
        interactions=(LogTable((join(source.uri, "overall_ad_ratings.csv"),), Delimited(), ratings),),
        items=(LogTable((join(source.uri, "ad_texts.jsonl"),), texts, ads),),
        users=(LogTable((join(source.uri, "participant_context.csv"),), Delimited(), _raters),),
        triples=(topics,),
        order_only=True,
    )


def _flags(labels: pa.Table) -> pa.Array:
    """The topics of each row."""
    return flagged(labels, [name for name in labels.column_names if name not in ("ad_id", "row")])


def _topics(block: pa.Table) -> pa.Table:
    topics, rows = flat(_flags(block))
    taken = pa.array(rows)
    head, tail = prefixed("item:", strings(block["ad_id"]).take(taken)), prefixed("name:", topics)
    columns = {"head": head, "relation": repeated("about", topics), "tail": tail}
    return canonical(TRIPLES, block["row"].take(taken), columns)


def _ads(block: pa.Table, labels: pa.Table) -> pa.Table:
    ad = strings(block["ad_id"])
    parts = pc.extract_regex(strings(block["text"]), _TITLE_THEN_TEXT)
    text = pc.struct_field(parts, "text")
    columns = {
        "item_id": ad,
        "title": pc.utf8_trim_whitespace(pc.struct_field(parts, "title")),
        "text": filled(text),
        "categories": _flags(labels).take(pc.index_in(ad, strings(labels["ad_id"]))),
    }
    return canonical(RAW_ITEMS, block["row"], columns)


def _raters(block: pa.Table) -> pa.Table:
    attitude = strings(block["ad_attitude"])
    attitude = pc.if_else(pc.match_substring_regex(attitude, "^[1-7]$"), attitude, None)
    likes = pc.binary_join_element_wise("likes ads ", attitude, " of 7", "")
    blocks, party = renamed(block["adblocker"], BLOCKERS), renamed(block["political_affiliation"], PARTIES)
    text = joined(likes, blocks, party, separator=", ")
    return canonical(RAW_USERS, block["row"], {"user_id": strings(block["pid"]), "text": text})
