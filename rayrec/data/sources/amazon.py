"""Amazon Reviews of 2014, 2018 and 2023: reviews and metadata as JSON lines, told apart by their keys.

J. McAuley et al., SIGIR 2015; J. Ni et al., EMNLP 2019; Y. Hou et al., arXiv 2403.03952. The metadata of 2014 were also
published as Python literals, one a line; those are refused. Names of reviewers are not read, nor is `details` (2023).
"""

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.files import JsonLines, parts_of, read_blocks
from rayrec.data.sources.config import AmazonSource
from rayrec.data.sources.logs import Logs, LogTable, canonical
from rayrec.data.sources.texts import joined, texts, unescaped
from rayrec.data.sources.times import milliseconds
from rayrec.data.sources.values import distinct, filled, numbers, string_lists
from rayrec.schema import RAW_INTERACTIONS, RAW_ITEMS

REVIEWS = JsonLines(
    (
        *("reviewerID", "asin", "overall", "unixReviewTime", "summary", "reviewText"),
        *("user_id", "parent_asin", "rating", "timestamp", "title", "text"),
    )
)
METADATA = JsonLines(
    (
        *("asin", "parent_asin", "title", "description", "feature", "features"),
        *("categories", "category", "brand", "store"),
    )
)
_LOOK_BYTES = 1 << 16
_TAG = r"[ \t]*</?[a-zA-Z][^<>]*>[ \t]*"
_ENTITIES = {
    "&quot;": '"',
    "&#34;": '"',
    "&#39;": "'",
    "&apos;": "'",
    "&nbsp;": " ",
    "&lt;": "<",
    "&gt;": ">",
    "&amp;": "&",
}


def read_amazon(source: AmazonSource) -> Logs:
    """Reads reviews and metadata.

    Raises:
        ValueError: the first lines of either are no JSON.
    """
    for uri, form in ((source.reviews, REVIEWS), (source.metadata, METADATA)):
        seen = next(read_blocks(parts_of((uri,), form, _LOOK_BYTES)[0], _LOOK_BYTES))
        if not len(seen.rows) and len(seen.refused):
            raise ValueError(
                f"{uri!r} does not begin with a line of JSON; expected one object a line. Metadata of 2014 come as "
                "Python literals: write json.dumps(ast.literal_eval(line)) of each line to a file and name that file"
            )
    return Logs(
        interactions=(LogTable((source.reviews,), REVIEWS, _reviews),),
        items=(LogTable((source.metadata,), METADATA, _metadata),),
    )


def _first(block: pa.Table, *names: str) -> pa.Array:
    """Of a row, the first of some columns that is there."""
    return pc.coalesce(*(filled(block[name]) for name in names))


def _untagged(text: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(text, _TAG, " "))


def _reviews(block: pa.Table) -> pa.Table:
    seconds, ms = milliseconds(block["unixReviewTime"], "s"), milliseconds(block["timestamp"], "ms")
    head, body = _first(block, "summary", "title"), _first(block, "reviewText", "text")
    review = joined(head, body, separator="\n")
    marked = pc.match_substring_regex(review, "[<&]").fill_null(False)
    mended = _untagged(review.filter(marked))
    for entity, character in _ENTITIES.items():
        mended = pc.replace_substring(mended, entity, character)
    columns = {
        "user_id": _first(block, "reviewerID", "user_id"),
        "item_id": _first(block, "parent_asin", "asin"),
        "timestamp": pc.coalesce(seconds, ms),
        "rating": pc.coalesce(numbers(block["overall"]), numbers(block["rating"])),
        "review": pc.replace_with_mask(review, marked, mended),
    }
    return canonical(RAW_INTERACTIONS, block["row"], columns)


def _metadata(block: pa.Table) -> pa.Table:
    said = joined(*(texts(block[name]) for name in ("description", "feature", "features")), separator=" ")
    told = pc.coalesce(string_lists(block["categories"], "|"), string_lists(block["category"], "|"))
    columns = {
        "item_id": _first(block, "parent_asin", "asin"),
        "title": unescaped(block["title"]),
        "text": unescaped(_untagged(said)),
        "categories": distinct(told),
        "attributes": string_lists(unescaped(_first(block, "brand", "store")), "\n"),
    }
    return canonical(RAW_ITEMS, block["row"], columns)
