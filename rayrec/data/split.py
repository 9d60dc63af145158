"""Global temporal cut-offs, held-out (cold) items, and the order of the catalogue."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec.data.hashing import hash_fractions, hash_strings
from rayrec.schema import CATALOGUE

HOUR_MS = 3_600_000
_ORDER_SEED, _HELD_OUT_SEED = 0, 1


@dataclass(frozen=True)
class CutOffs:
    """Moments in ms: training ends at `valid`, validation at `test`, the logs at `end`, the hour after the last."""

    valid: int
    test: int
    end: int


def cut_offs(hours: np.ndarray, counts: np.ndarray, valid_fraction: float, test_fraction: float) -> CutOffs:
    """The hours at which about the wanted shares of interactions lie behind.

    Args:
        hours: distinct hours since 1970 in which something happened.
        counts: interactions in each.
        valid_fraction: share of interactions wanted between the two cut-offs.
        test_fraction: share wanted after the second.

    Raises:
        ValueError: the interactions lie in too few hours to be split in three.
    """
    order = np.argsort(hours)
    hours, counts = hours[order], counts[order]
    if len(hours) < 3:
        raise ValueError(
            f"the interactions lie in {len(hours)} distinct hour(s); a temporal split needs at least 3: "
            "check the timestamps and source.time_unit"
        )
    after = np.cumsum(counts[::-1])[::-1]
    test = 2 + int(np.argmin(np.abs(after[2:] - test_fraction * after[0])))
    valid = 1 + int(np.argmin(np.abs(after[1:test] - (valid_fraction + test_fraction) * after[0])))
    return CutOffs(*(int(hour) * HOUR_MS for hour in (hours[valid], hours[test], hours[-1] + 1)))


def catalogue(items: pa.Table, held_out_valid: float, held_out_test: float, seed: int) -> pa.Table:
    """Items in dense-index order with the split that holds them out.

    Both follow from seeded hashes of the id alone, so a low index means nothing and an item added later changes no
    other item's part.

    Args:
        items: a table of the ITEMS schema with distinct ids.
        held_out_valid: share of items held out for validation.
        held_out_test: share of other items held out for the test.
        seed: of the hashes.

    Raises:
        ValueError: every item would be held out.
    """
    ids = items["item_id"].combine_chunks()
    order = np.lexsort((np.asarray(ids.to_pylist(), str), hash_strings(ids, 2 * seed + _ORDER_SEED)))
    items = items.take(pa.array(order))
    draw = hash_fractions(items["item_id"].combine_chunks(), 2 * seed + _HELD_OUT_SEED)
    held_out = np.where(draw < held_out_test, "test", np.where(draw < held_out_test + held_out_valid, "valid", ""))
    if (held_out != "").all():
        raise ValueError(
            f"all {len(items)} items are held out and none is left to train on; expected more items, or lower "
            "held_out_valid and held_out_test"
        )
    return items.append_column(CATALOGUE.field("held_out"), pa.array(held_out.tolist(), pa.string())).cast(CATALOGUE)
