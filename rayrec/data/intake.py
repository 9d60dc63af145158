"""How the rows of each table of the logs are judged, and dealt to buckets: items by their order, the rest by user.

Letters: R rows, D distinct ids, N items of the catalogue, S items shown in all rows of a block.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.clean import Ids, Verdict, blank, id_faults, ids_of, infinite, time_faults, verdict
from rayrec.data.door import Door, Take, Taken, Tally, hidden, tidy, with_column
from rayrec.data.hashing import hash_strings
from rayrec.data.split import HOUR_MS, item_order
from rayrec.data.work import dealt
from rayrec.schema import IMPRESSIONS, ITEMS, TRIPLES
from rayrec.terms import Terms, review_terms


@dataclass(frozen=True)
class Known:
    """The catalogue as interactions see it.

    Attributes:
        hash_N: uint64 ascending, item_order() of each item.
        index_N: int32, the dense index of each of them.
        seed: of the hash.
        terms: of the catalogue.
    """

    hash_N: np.ndarray
    index_N: np.ndarray
    seed: int
    terms: Terms

    def dense(self, item_ids: pa.Array) -> np.ndarray:
        """int32 [D]: the dense index of each id, -1 where it is not among the items."""
        hash_D = item_order(item_ids, self.seed)
        place_D = np.minimum(np.searchsorted(self.hash_N, hash_D), len(self.hash_N) - 1)
        return np.where(self.hash_N[place_D] == hash_D, self.index_N[place_D], -1).astype(np.int32)


def take_items(door: Door, bits: int, rows: pa.Table, tally: Tally) -> Taken:
    """Items, dealt by the top bits of their place in the catalogue's order.

    Args:
        door: what rows pass.
        bits: there are 2**bits buckets.
        rows: of RAW_ITEMS and `row`.
        tally: counts what is done to texts.
    """
    ids = ids_of(rows["item_id"])
    judged = verdict([*id_faults(ids, "item_id"), ("no title", blank(rows["title"].combine_chunks()))], len(rows))
    taken = pa.array(judged.taken_R)
    hash_R = ids.spread(item_order(ids.values, door.seed), 0)[judged.taken_R]
    good = rows.select(ITEMS.names).filter(taken)
    for name in ("title", "text", "categories", "attributes"):
        good = with_column(good, name, tidy(door, good[name], tally))
    good = good.append_column("hash", pa.array(hash_R))
    bucket_R = (hash_R >> np.uint64(64 - bits)) if bits else np.zeros(len(hash_R), np.uint64)
    return Taken(judged, dealt(good, bucket_R, 1 << bits))


def take_users(door: Door, buckets: int, rows: pa.Table, tally: Tally) -> Taken:
    """What is known of users, dealt like their interactions.

    Args:
        door: what rows pass.
        buckets: of users.
        rows: of RAW_USERS and `row`.
        tally: counts what is done to texts.
    """
    ids = ids_of(rows["user_id"])
    judged = verdict(id_faults(ids, "user_id"), len(rows))
    good = rows.select(["user_id", "text"]).filter(pa.array(judged.taken_R))
    good = with_column(good, "text", tidy(door, good["text"], tally))
    return Taken(judged, _dealt_by_user(door, good, ids, judged, buckets))


def take_interactions(door: Door, known: Known, buckets: int, rows: pa.Table, tally: Tally) -> Taken:
    """Interactions with dense items and, for a review, its terms; dealt by a hash of the user.

    Args:
        door: what rows pass.
        known: the catalogue.
        buckets: of users.
        rows: of RAW_INTERACTIONS and `row`.
        tally: counts what is done to texts.
    """
    users, items = ids_of(rows["user_id"]), ids_of(rows["item_id"])
    item_R = items.spread(known.dense(items.values), -1)
    time, rating = rows["timestamp"].combine_chunks(), rows["rating"].combine_chunks()
    judged = verdict(
        [
            *id_faults(users, "user_id"),
            *id_faults(items, "item_id"),
            *time_faults(time, door.clean.now, door.order_only),
            ("rating is not a finite number", infinite(rating)),
            ("item_id is not among the items", item_R < 0),
        ],
        len(rows),
    )
    taken = pa.array(judged.taken_R)
    good = rows.append_column("item", pa.array(item_R))
    good = good.select(["user_id", "item", "timestamp", "rating", "event", "review"]).filter(taken)
    if good["review"].null_count < len(good):
        terms = review_terms(tidy(door, good["review"], tally), known.terms)
        good = good.append_column("terms", terms)
    events = good["event"].combine_chunks().dictionary_encode()
    events = pa.DictionaryArray.from_arrays(events.indices, tidy(door, events.dictionary, Tally()))
    good = with_column(good.drop_columns("review"), "event", events)
    hours = good["timestamp"].to_numpy() // HOUR_MS
    return Taken(judged, _dealt_by_user(door, good, users, judged, buckets), hours)


def take_impressions(door: Door, known: Known, buckets: int, rows: pa.Table, tally: Tally) -> Taken:
    """Impressions with dense items, unknown ones left out; dealt like interactions.

    Args:
        door: what rows pass.
        known: the catalogue.
        buckets: of users.
        rows: of RAW_IMPRESSIONS and `row`.
        tally: not used: there is no text.
    """
    users = ids_of(rows["user_id"])
    shown, clicked = (rows[name].combine_chunks() for name in ("item_ids", "clicked"))
    lengths_R, clicks_R = (np.nan_to_num(_lengths(column)) for column in (shown, clicked))
    row_S = np.repeat(np.arange(len(rows)), lengths_R.astype(np.int64))
    items = ids_of(pa.chunked_array([shown.flatten()]))
    item_S = items.spread(known.dense(items.values), -1)
    here_S = item_S >= 0
    left_R = np.bincount(row_S[here_S], minlength=len(rows))
    uneven_R = lengths_R != clicks_R
    judged = verdict(
        [
            *id_faults(users, "user_id"),
            *time_faults(rows["timestamp"].combine_chunks(), door.clean.now, door.order_only),
            ("item_ids and clicked differ in length", uneven_R),
            ("nothing shown is among the items", left_R == 0),
        ],
        len(rows),
    )
    taken = judged.taken_R
    here_S &= taken[row_S]
    offsets = pa.array(np.concatenate([[0], np.cumsum(left_R[taken])]).astype(np.int32))
    clicks_S = np.zeros(len(row_S), bool)
    clicks_S[~uneven_R[row_S]] = _flat_clicks(clicked, ~uneven_R)
    good = rows.select(["impression_id", "user_id", "timestamp"]).filter(pa.array(taken))
    for name, values in (("items", item_S[here_S]), ("clicked", clicks_S[here_S])):
        kind = IMPRESSIONS.field(name).type.value_type
        good = good.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(values, kind)))
    return Taken(judged, _dealt_by_user(door, good, users, judged, buckets))


def take_triples(door: Door, rows: pa.Table, tally: Tally) -> Taken:
    """Triples as they are, users in them pseudonymised, names redacted; one bucket.

    Args:
        door: what rows pass.
        rows: of TRIPLES and `row`.
        tally: counts what is done to names.
    """
    judged = verdict([(f"no {name}", blank(rows[name].combine_chunks())) for name in TRIPLES.names], len(rows))
    good = rows.select(TRIPLES.names).filter(pa.array(judged.taken_R))
    for name in ("head", "tail"):
        encoded = good[name].combine_chunks().dictionary_encode()
        values = hidden(door, encoded.dictionary, tally)
        good = with_column(good, name, values.take(encoded.indices))
    return Taken(judged, [good])


def _lengths(lists: pa.Array) -> np.ndarray:
    lengths: np.ndarray = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return lengths


def _flat_clicks(clicked: pa.Array, even_R: np.ndarray) -> np.ndarray:
    flat: np.ndarray = clicked.filter(pa.array(even_R)).flatten().fill_null(False).to_numpy(zero_copy_only=False)
    return flat


def _dealt_by_user(door: Door, good: pa.Table, ids: Ids, judged: Verdict, buckets: int) -> list[pa.Table]:
    """Rows by the bucket of their user, whose pseudonyms stand once in each bucket's dictionary."""
    pseudonyms_D = door.privacy.pseudonyms(ids.values)
    bucket_D = hash_strings(pseudonyms_D) % np.uint64(buckets)
    order_D = np.argsort(bucket_D, kind="stable")
    place_D = np.empty(len(order_D), np.int32)
    place_D[order_D] = np.arange(len(order_D))
    first_B1 = np.searchsorted(bucket_D[order_D], np.arange(buckets + 1))
    code_R = ids.code_R[judged.taken_R]
    tables = dealt(with_column(good, "user_id", pa.array(place_D[code_R])), bucket_D[code_R], buckets)
    pseudonyms_D = pseudonyms_D.take(pa.array(order_D))
    for bucket, table in enumerate(tables):
        start, end = first_B1[bucket], first_B1[bucket + 1]
        codes = pc.subtract(table["user_id"].combine_chunks(), pa.scalar(start, pa.int32()))
        users = pa.DictionaryArray.from_arrays(codes, pseudonyms_D.slice(start, end - start))
        tables[bucket] = with_column(table, "user_id", users)
    return tables


def takers(door: Door, known: Known, buckets: int) -> dict[str, Take]:
    """How the blocks of each table that refers to items or users are taken.

    Args:
        door: what rows pass.
        known: the catalogue.
        buckets: of users.
    """
    return {
        "users": partial(take_users, door, buckets),
        "interactions": partial(take_interactions, door, known, buckets),
        "impressions": partial(take_impressions, door, known, buckets),
        "triples": partial(take_triples, door),
    }
