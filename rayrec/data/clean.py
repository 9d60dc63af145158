"""Which rows of the logs are taken, and why the others are not."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.hashing import hash_strings
from rayrec.schema import ITEMS

LATEST_MS = 4_102_444_800_000
"""2100-01-01: a later timestamp is a wrong unit or a broken clock."""


def _blank(column: pa.Array) -> pa.Array:
    return pc.equal(pc.utf8_trim_whitespace(column.fill_null("")), "")


def _first_reason(checks: list[tuple[str, pa.Array]]) -> pa.Array:
    conditions = pc.make_struct(*(condition for _, condition in checks))
    return pc.case_when(conditions, *(pa.scalar(reason) for reason, _ in checks))


def judge_interactions(events: pa.Table, item_ids: pa.Array, buckets: int) -> pa.Table:
    """Adds the dense `item`, the `reason` why a row is not taken (null where it is taken) and the user's `bucket`.

    Args:
        events: a table of RAW_INTERACTIONS.
        item_ids: the catalogue's ids in dense-index order.
        buckets: into how many the users are dealt by a hash.
    """
    user_id, item_id, time, rating = (
        events[name].combine_chunks() for name in ("user_id", "item_id", "timestamp", "rating")
    )
    item = pc.index_in(item_id, value_set=item_ids)
    reason = _first_reason(
        [
            ("no user_id", _blank(user_id)),
            ("no item_id", _blank(item_id)),
            ("timestamp missing or not a number", pc.is_null(time)),
            ("timestamp before 1970", pc.less(time, 0)),
            ("timestamp after 2099, is time_unit right?", pc.greater_equal(time, LATEST_MS)),
            ("rating is not a finite number", pc.invert(pc.is_finite(rating))),
            ("item_id is not among the items", pc.is_null(item)),
        ]
    )
    bucket = pa.array((hash_strings(user_id) % np.uint64(buckets)).astype(np.int32))
    return events.append_column("item", item).append_column("reason", reason).append_column("bucket", bucket)


def clean_items(items: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Splits items into those taken and those not, the latter with a `reason`; of items with one id the first is taken.

    Args:
        items: a table of the ITEMS columns, nulls allowed.
    """
    items = items.combine_chunks()
    item_id = items["item_id"].combine_chunks()
    row = pa.array(range(len(items)), pa.int64())
    first = pa.table({"id": item_id, "row": row}).group_by("id").aggregate([("row", "min")])["row_min"]
    reason = _first_reason(
        [
            ("no item_id", _blank(item_id)),
            ("no title", _blank(items["title"].combine_chunks())),
            ("item_id seen before", pc.invert(pc.is_in(row, first.combine_chunks()))),
        ]
    )
    refused = items.append_column("reason", reason).filter(pc.is_valid(reason))
    return items.filter(pc.is_null(reason)).cast(ITEMS), refused


def check_quarantine(counts: dict[str, int], total: int, limit: float, what: str) -> None:
    """Refuses logs of which too much was quarantined.

    Args:
        counts: quarantined rows by reason.
        total: rows read.
        limit: the share that is tolerated.
        what: what the rows are, for the message.

    Raises:
        ValueError: there is no row, or the share is above the limit.
    """
    if total == 0:
        raise ValueError(f"the logs hold no {what}; expected at least one row: check source.* in the config")
    bad = sum(counts.values())
    if bad > limit * total:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]))
        raise ValueError(
            f"{bad} of {total} {what} ({bad / total:.1%}) cannot be used ({reasons}); quarantine_limit allows "
            f"{limit:.1%}: mend the logs or the column map, or raise quarantine_limit"
        )
