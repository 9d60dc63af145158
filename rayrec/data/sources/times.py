"""Times of any kind as milliseconds."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.sources.values import Column, numbers, scalars

MS_PER_UNIT = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_LARGEST_MS = 2.0**53
_ISO_8601 = (
    r"^\s*(?P<day>\d{4}-\d{2}-\d{2})(?:[T ](?P<clock>\d{2}:\d{2}(?::\d{2})?)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"\s*(?P<zone>Z|UTC|[+-]\d{2}:?\d{2})?\s*$"
)


def milliseconds(column: Column, unit: str) -> pa.Array:
    """Timestamps as int64 ms since 1970, null where the value is missing or tells no time.

    Args:
        column: Arrow timestamps or dates (their own unit counts), numbers, strings of numbers or of ISO 8601 (UTC where
            they name no zone).
        unit: of plain numbers: s, ms, us or ns.
    """
    column = scalars(column)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        unit, column = column.type.unit, column.cast(pa.int64())
    values = numbers(column).to_numpy(zero_copy_only=False) * MS_PER_UNIT[unit]
    missing = np.isnan(values)
    # Adding a hundredth of a ms undoes the rounding of the multiplication without reaching the next ms.
    whole = np.floor(np.clip(np.where(missing, 0, values), -_LARGEST_MS, _LARGEST_MS) + 0.01).astype(np.int64)
    times = pa.array(whole, mask=missing)
    if missing.any() and pa.types.is_string(column.type):
        times = pc.coalesce(times, _iso_milliseconds(column))
    return times


def _iso_milliseconds(column: pa.Array) -> pa.Array:
    parts = pc.extract_regex(column, _ISO_8601)
    day, clock, fraction, zone = (pc.struct_field(parts, name) for name in ("day", "clock", "fraction", "zone"))
    clock = pc.utf8_slice_codeunits(pc.binary_join_element_wise(clock, ":00:00", ""), 0, 8)
    clock = pc.if_else(pc.starts_with(clock, ":"), "00:00:00", clock)
    moment = pc.strptime(
        pc.binary_join_element_wise(day, clock, " "), format="%Y-%m-%d %H:%M:%S", unit="ms", error_is_null=True
    )
    # 30 February is read as the first or second of March.
    moment = pc.if_else(pc.equal(pc.day(moment), pc.utf8_slice_codeunits(day, 8, 10).cast(pa.int64())), moment, None)
    thousandths = pc.utf8_slice_codeunits(pc.utf8_rpad(fraction, 3, "0"), 0, 3).cast(pa.int64())
    named = pc.match_substring_regex(zone, r"\d")
    digits = pc.if_else(named, pc.replace_substring(zone, ":", ""), "+0000")
    minutes = pc.add(
        pc.multiply(pc.utf8_slice_codeunits(digits, 1, 3).cast(pa.int64()), 60),
        pc.utf8_slice_codeunits(digits, 3, 5).cast(pa.int64()),
    )
    sign = pc.if_else(pc.starts_with(digits, "-"), -60_000, 60_000)
    return pc.subtract(pc.add(moment.cast(pa.int64()), thousandths), pc.multiply(minutes, sign))
