"""Which rows of the logs are taken, and why the others are not. Letters: R rows, D distinct ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LATEST_MS = 4_102_444_800_000
"""2100-01-01: a later timestamp is a wrong unit or a broken clock."""
PLAUSIBLE_MS = 946_684_800_000
"""2000-01-01: what lies between this and LATEST_MS once multiplied or divided by 1000 is taken for another unit."""
LONGEST_ID = 512
EARLY_STOP_ROWS = 10_000
"""Rows after which a phase that is refused far too often stops before its end."""


@dataclass(frozen=True)
class Ids:
    """A column of ids, each distinct one looked at once.

    Attributes:
        values: D strings without null, those that are too long anyway cut short.
        code_R: int32 [R], the place of each row's id among the values; -1: there is none.
    """

    values: pa.Array
    code_R: np.ndarray

    def spread(self, by_value_D: np.ndarray, missing: int | bool) -> np.ndarray:
        """What is known of each distinct id, by row."""
        spread_R: np.ndarray = np.append(by_value_D, np.array([missing], by_value_D.dtype))[self.code_R]
        return spread_R


def ids_of(column: pa.ChunkedArray) -> Ids:
    """The distinct ids of a column of strings."""
    encoded = column.combine_chunks().dictionary_encode()
    code_R = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Ids(pc.utf8_slice_codeunits(encoded.dictionary.cast(pa.string()), 0, LONGEST_ID + 1), code_R)


@dataclass(frozen=True)
class Verdict:
    """Why rows are not taken.

    Attributes:
        reasons: texts.
        code_R: int8 [R]: 0 where a row is taken, else 1 + the place of its reason.
    """

    reasons: tuple[str, ...]
    code_R: np.ndarray

    @property
    def taken_R(self) -> np.ndarray:
        """bool [R]."""
        taken_R: np.ndarray = self.code_R == 0
        return taken_R

    def texts(self) -> pa.Array:
        """The reasons of the refused rows, in the order of the rows."""
        return pa.array(self.reasons, pa.string()).take(pa.array(self.code_R[self.code_R > 0] - 1))


Faults = list[tuple[str, np.ndarray]]
"""Reasons and the rows (bool [R]) they hold for; the first that holds is told."""


def verdict(faults: Faults, rows: int) -> Verdict:
    """The first fault of each row."""
    code_R = np.zeros(rows, np.int8)
    for number, (_, holds_R) in reversed(list(enumerate(faults, 1))):
        code_R[holds_R] = number
    return Verdict(tuple(reason for reason, _ in faults), code_R)


def id_faults(ids: Ids, name: str) -> Faults:
    """Faults of a column of ids.

    Args:
        ids: of the rows.
        name: of the column.
    """
    checks_D = {
        f"no {name}": pc.equal(pc.utf8_trim_whitespace(ids.values), ""),
        f"{name} longer than {LONGEST_ID} characters": pc.greater(pc.utf8_length(ids.values), LONGEST_ID),
        f"{name} with control characters": pc.match_substring_regex(ids.values, r"[\x00-\x1f\x7f]"),
    }
    return [
        (reason, ids.spread(check_D.to_numpy(zero_copy_only=False), missing=reason == f"no {name}"))
        for reason, check_D in checks_D.items()
    ]


def time_faults(time: pa.Array, now: datetime | None, order_only: bool) -> Faults:
    """Faults of timestamps; a unit unlike the others' shows in years that no log tells of.

    Args:
        time: int64 ms.
        now: what lies after it is refused; one without a zone is UTC.
        order_only: timestamps are positions times a day, so small ones are right.
    """
    missing_R = pc.is_null(time).to_numpy(zero_copy_only=False)
    time_R = time.fill_null(0).to_numpy()
    finer_R = (time_R >= PLAUSIBLE_MS * 1000) & (time_R < LATEST_MS * 1000)
    coarser_R = (time_R >= PLAUSIBLE_MS // 1000) & (time_R < LATEST_MS // 1000) & (not order_only)
    faults = [
        ("timestamp missing or not a number", missing_R),
        ("timestamp before 1970", time_R < 0),
        ("timestamp 1000 times too large, in a finer unit than time_unit?", finer_R),
        ("timestamp 1000 times too small, in a coarser unit than time_unit?", coarser_R),
        ("timestamp after 2099, is time_unit right?", time_R >= LATEST_MS),
    ]
    if now is not None:
        moment = now if now.tzinfo is not None else now.replace(tzinfo=UTC)
        faults.append(("timestamp after clean.now", time_R > int(moment.timestamp() * 1000)))
    return faults


def blank(column: pa.Array) -> np.ndarray:
    """bool [R]: null, or nothing but white space."""
    found: np.ndarray = pc.equal(pc.utf8_trim_whitespace(column.fill_null("")), "").to_numpy(zero_copy_only=False)
    return found


def infinite(ratings: pa.Array) -> np.ndarray:
    """bool [R]: a rating is there and no finite number."""
    found: np.ndarray = pc.invert(pc.is_finite(ratings)).fill_null(False).to_numpy(zero_copy_only=False)
    return found


def check_quarantine(counts: Mapping[str, int], total: int, limit: float, what: str, needed: bool = True) -> None:
    """Refuses logs of which too much was quarantined.

    Args:
        counts: quarantined rows by reason.
        total: rows read.
        limit: the share that is tolerated.
        what: what the rows are, for the message.
        needed: whether there must be rows.

    Raises:
        ValueError: there is no row though one is needed, or the share is above the limit.
    """
    if total == 0 and needed:
        raise ValueError(f"the logs hold no {what}; expected at least one row: check source.* in the config")
    bad = sum(counts.values())
    if bad > limit * total:
        reasons = "; ".join(
            f"{reason}: {count}" for reason, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        )
        raise ValueError(
            f"{bad} of {total} {what} ({bad / total:.1%}) cannot be used ({reasons}); clean.quarantine_limit allows "
            f"{limit:.1%}: mend the logs or the column map, or raise clean.quarantine_limit"
        )


def stop_early(bad: int, rows: int, limit: float, share: float) -> bool:
    """Whether so much is refused already that the whole would be above the limit, all the rest being good.

    Args:
        bad: rows refused so far.
        rows: read so far.
        limit: the share that is tolerated.
        share: of the bytes, what was read so far.
    """
    return rows >= EARLY_STOP_ROWS and bad * share > limit * rows
