"""Which moments, items, users and interactions training may not see, and the order of the catalogue.

Every draw is a seeded hash of an id, so it depends neither on the order of the logs nor on what joins later.
Letters: N items.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.config import DataConfig, SplitConfig
from rayrec.data.hashing import hash_fractions, hash_strings
from rayrec.item_stats import DAY_MS
from rayrec.schema import CATALOGUE

HOUR_MS = 3_600_000
BULK, FAR_HOURS = 0.999, 366 * 24
"""What lies so many hours behind so large a share of the interactions has probably a wrong clock's time."""
KEPT, HELD_OUT_VALID, HELD_OUT_TEST = 0, 1, 2
_HELD_OUT_NAMES = ("", "valid", "test")

# Added to twice the seed; far apart, so that no two draws of any two seeds are one.
_ORDER, _HELD_OUT_ITEMS, _HELD_OUT_USERS, _FEW_USERS, _FEW_INTERACTIONS = 0, 1, 1 << 40, 2 << 40, 3 << 40


@dataclass(frozen=True)
class CutOffs:
    """Moments in ms: training ends at `valid`, validation at `test`, the logs at `end`."""

    valid: int
    test: int
    end: int


def split_warnings(config: DataConfig, order_only: bool) -> list[str]:
    """What a reader of the dataset's figures must know of its split.

    Args:
        config: the split among others.
        order_only: the logs tell the order of a user's interactions and no time.

    Raises:
        ValueError: a temporal split of logs without time.
    """
    if order_only and config.split.kind == "temporal":
        raise ValueError(
            f"source.kind {config.source.kind!r} tells the order of a user's interactions and no time, and "
            "data.split.kind is 'temporal'; expected 'leave_last_out': set data.split.kind=leave_last_out"
        )
    warnings = []
    if config.split.kind == "leave_last_out":
        warnings.append(
            "leave-last-out: a target may precede other users' training events in time, so figures are not comparable "
            "with those of a temporal split"
        )
    if order_only:
        for key in ("bot_events_per_day", "repeat_window_s"):
            if getattr(config.clean, key):
                raise ValueError(
                    f"data.clean.{key} is {getattr(config.clean, key)}, but these logs tell no times; leave it out"
                )
        warnings.append(
            "order only: days are positions counted back from each user's last interaction, so popularity as of a day "
            "is an approximation"
        )
    if config.clean.min_user_events > 1 or config.clean.min_item_events > 1:
        warnings.append(
            "k-core: users and items are chosen by all they ever did, so rows may depend on later events through which "
            "users and items are there"
        )
    return warnings


def split_cut_offs(config: DataConfig, order_only: bool, hours: np.ndarray, counts: np.ndarray) -> CutOffs:
    """The cut-offs of either kind of split.

    For leave-last-out they are day borders after everything else, to which plan.py moves the targets.

    Args:
        config: split and clean.max_events.
        order_only: the logs tell the order of a user's interactions and no time; then `hours` do not matter.
        hours: distinct hours since 1970 in which something happened.
        counts: interactions in each.

    Raises:
        ValueError: the interactions lie in too few hours to be split in three.
    """
    if config.split.kind == "temporal":
        _warn_of_the_future(hours, counts)
        return cut_offs(hours, counts, config.split.valid_fraction, config.split.test_fraction)
    # Positions count back from the border, so one that no user's history outgrows needs no pass over all users.
    days = config.clean.max_events if order_only else int(hours.max(initial=0)) * HOUR_MS // DAY_MS + 1
    return CutOffs(days * DAY_MS, (days + 1) * DAY_MS, (days + 2) * DAY_MS)


def _warn_of_the_future(hours: np.ndarray, counts: np.ndarray) -> None:
    """Says so where the last interactions are so far from the mass that their clocks were probably wrong."""
    order = np.argsort(hours)
    share = np.cumsum(counts[order]) / max(counts.sum(), 1)
    bulk = hours[order][np.searchsorted(share, BULK)] if len(hours) else 0
    last = int(hours.max(initial=0))
    if last - bulk > FAR_HOURS:
        moments = [str(np.datetime64(int(hour), "h").astype("datetime64[D]")) for hour in (bulk, last)]
        print(
            f"warning: {BULK:.1%} of the interactions lie before {moments[0]}, the last on {moments[1]}: the logs "
            "end there, and new days must lie behind it; data.clean.now refuses what lies in the future",
            file=sys.stderr,
        )


def cut_offs(hours: np.ndarray, counts: np.ndarray, valid_fraction: float, test_fraction: float) -> CutOffs:
    """The hours at which about the wanted shares of interactions lie behind; `end` is the hour after the last.

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


def item_order(ids: pa.Array, seed: int) -> np.ndarray:
    """uint64 [N]: items lie in the catalogue by this hash, then by id, so a low index means nothing."""
    return hash_strings(ids, 2 * seed + _ORDER)


def held_out(ids: pa.Array, split: SplitConfig, seed: int) -> pa.Array:
    """The split that holds each item out: "test", "valid" or "".

    Args:
        ids: of items.
        split: the shares.
        seed: of the hash.
    """
    draw = hash_fractions(ids, 2 * seed + _HELD_OUT_ITEMS)
    border = split.held_out_test + split.held_out_valid
    code = np.select([draw < split.held_out_test, draw < border], [HELD_OUT_TEST, HELD_OUT_VALID], KEPT)
    return pa.array(_HELD_OUT_NAMES, pa.string()).take(pa.array(code))


def held_out_codes(names: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """int8 [N]: KEPT, HELD_OUT_VALID or HELD_OUT_TEST for the `held_out` column of a catalogue."""
    codes = pc.index_in(names, value_set=pa.array(_HELD_OUT_NAMES, pa.string()))
    assert codes.null_count == 0
    found: np.ndarray = codes.to_numpy().astype(np.int8)
    return found


def check_held_out(kept: int, total: int) -> None:
    """Refuses a catalogue of which nothing is left to train on.

    Args:
        kept: items not held out.
        total: all items.

    Raises:
        ValueError: none is kept.
    """
    if kept == 0:
        raise ValueError(
            f"all {total} items are held out and none is left to train on; expected more items, or lower "
            "data.split.held_out_valid and data.split.held_out_test"
        )


def catalogue(items: pa.Table, split: SplitConfig, seed: int) -> pa.Table:
    """Items in dense-index order with the split that holds them out, of the CATALOGUE schema.

    Args:
        items: a table of the ITEMS schema with distinct ids; terms and term_weights where they are known.
        split: the shares held out.
        seed: of the hashes.

    Raises:
        ValueError: every item would be held out.
    """
    ids = items["item_id"].combine_chunks()
    items = items.append_column("held_out", held_out(ids, split, seed))
    items = items.append_column("order", pa.array(item_order(ids, seed)))
    items = items.sort_by([("order", "ascending"), ("item_id", "ascending")])
    check_held_out(pc.sum(pc.equal(items["held_out"], "")).as_py() or 0, len(items))
    for field in CATALOGUE:
        if field.name not in items.column_names:
            items = items.append_column(field, pa.nulls(len(items), field.type))
    return items.select(CATALOGUE.names).cast(CATALOGUE)


def held_out_users(ids: pa.Array, split: SplitConfig, seed: int) -> np.ndarray:
    """bool: users of whom training sees nothing (cold users).

    Args:
        ids: of users, as they stand in the rows.
        split: the share.
        seed: of the hash.
    """
    held: np.ndarray = hash_fractions(ids, 2 * seed + _HELD_OUT_USERS) < split.held_out_users
    return held


def user_draw(ids: pa.Array, seed: int) -> np.ndarray:
    """uint64: the users with the smallest are the ones a few-shot split trains on."""
    return hash_strings(ids, 2 * seed + _FEW_USERS)


def interaction_draw(user_ids: pa.Array, items: np.ndarray, times: np.ndarray, seed: int) -> np.ndarray:
    """uint64: the interactions with the smallest are the ones a few-shot split trains on.

    Args:
        user_ids: of each interaction.
        items: dense indices.
        times: ms; user, item and time name one interaction.
        seed: of the hash.
    """
    parts = (user_ids, pa.array(items).cast(pa.string()), pa.array(times).cast(pa.string()))
    return hash_strings(pc.binary_join_element_wise(*parts, "\n"), 2 * seed + _FEW_INTERACTIONS)


def few_shot_threshold(draws: Sequence[np.ndarray], n: int) -> int | None:
    """The largest of the n smallest draws of all buckets; None where there are fewer.

    Args:
        draws: uint64, of each bucket at least its n smallest.
        n: how many users or interactions are wanted.
    """
    every = np.concatenate([np.zeros(0, np.uint64), *draws])
    return int(np.partition(every, n - 1)[n - 1]) if len(every) >= n else None
