"""From the slices of items to the catalogue's files, a piece at a time.

Buckets are ranges of the order of hashes, so a catalogue is its buckets one after the other, and an item's dense index
needs no pass of its own. A new version has the files of the previous catalogue first, told again where they were, and
then its buckets without what is there already: an item keeps its index for good, and the terms of all are found anew.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from rayrec.data.config import SplitConfig
from rayrec.data.intake import Known, take_items
from rayrec.data.phases import Job, balance, sum_counts, take_all
from rayrec.data.previous import Previous
from rayrec.data.split import check_held_out, held_out, held_out_codes, item_order
from rayrec.data.work import Record, Work, read_slices, slices_bytes, write_table
from rayrec.schema import CATALOGUE, ITEMS
from rayrec.storage import join
from rayrec.terms import document_frequencies, telling_terms, terms_of

ITEM_BUCKET_BYTES = 16 << 20
ROWS, HASHES, FREQUENCIES = range(3)
"""The slices of a piece's scratch file."""
AGAIN, AGAIN_OTHERWISE = "item told again", "item told again with another text"


def catalogue(job: Job) -> tuple[Known, np.ndarray, Record]:
    """Writes items/.

    Returns:
        The catalogue as interactions see it, int8 codes [N] of what is held out, and counts of items.

    Raises:
        ValueError: the items cannot be used.
    """
    size = sum(task.part.size for task in job.inputs.parts["items"])
    bits = max(0, (size // ITEM_BUCKET_BYTES).bit_length())
    buckets = 1 << bits
    taken = take_all(job, "items", partial(take_items, job.door, bits))
    gathered = job.total("catalogue", partial(gather_items, job.work, taken.paths), range(buckets))
    pieces, again = [bucket_path(job.work, bucket) for bucket in range(buckets)], dict[str, int]()
    if job.previous is not None:
        pieces, again = appended(job, job.previous, pieces)
    frequencies = summed_frequencies(job.work, pieces)
    hash_N = order_hashes(job.work, pieces)
    write = partial(write_items, job.work, job.config.split, job.seed, frequencies, len(hash_N), pieces)
    written = job.total("items-written", write, range(len(pieces)))
    check_held_out(written["kept"], len(hash_N))
    columns = ["categories", "attributes", "terms", "term_weights", "held_out"]
    tables = [read_columns(job.work, path, columns) for path in sorted(job.files) if path.startswith("items/")]
    table = pa.concat_tables(tables)
    assert len(table) == len(hash_N)
    counts = balance(taken, gathered["items"] - sum(again.values()), sum_counts(gathered["filtered"], again))
    index_N = np.argsort(hash_N).astype(np.int32)
    return Known(hash_N[index_N], index_N, job.seed, terms_of(table)), held_out_codes(table["held_out"]), counts


def appended(job: Job, previous: Previous, told: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The pieces of a new version's catalogue.

    Args:
        job: under way.
        previous: the dataset it goes on from.
        told: scratch files of buckets, from gather_items().

    Returns:
        Scratch files in the order of the catalogue, and items told again by reason.

    Raises:
        ValueError: two ids have one hash.
    """
    old = previous.paths("items")
    kept = job.total("catalogue-kept", partial(retell_items, job.work, previous, job.seed, told), range(len(old)))
    pieces = [piece_path(job.work, number) for number in range(len(old) + len(told))]
    hash_N = order_hashes(job.work, pieces[: len(old)])
    job.total("catalogue-new", partial(append_items, job.work, told, hash_N, len(old)), range(len(told)))
    return pieces, kept["filtered"]


def read_columns(work: Work, path: str, columns: list[str]) -> pa.Table:
    """Some columns of a part of items/."""
    filesystem, full = fsspec.core.url_to_fs(join(work.uri, path))
    with filesystem.open(full, "rb") as file:
        return parquet.read_table(file, columns=columns)


def piece_path(work: Work, number: int) -> str:
    """The scratch file of a piece of a new version's catalogue."""
    return work.scratch("catalogue-kept", f"{number:05d}.slices")


def bucket_path(work: Work, bucket: int) -> str:
    """The scratch file of a bucket's distinct items."""
    return work.scratch("catalogue", f"{bucket:05d}.slices")


def gather_items(work: Work, paths: Sequence[str], bucket: int) -> Record:
    """The distinct items of a bucket in order, each as it was told last, and their words' document frequencies.

    Args:
        work: where.
        paths: files of slices, in the order in which later rows win.
        bucket: which.

    Returns:
        A record: items, filtered (by reason).

    Raises:
        ValueError: two ids have one hash.
    """
    schema = pa.schema([*ITEMS, pa.field("hash", pa.uint64())])
    told = pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in read_slices(work, paths, bucket))])
    told = told.take(pa.array(np.argsort(told["hash"].to_numpy(), kind="stable")))
    again = np.diff(told["hash"].to_numpy()) == 0
    told_again = told.slice(0, len(again)).filter(pa.array(again)), told.slice(1).filter(pa.array(again))
    _refuse_collisions(*(table["item_id"] for table in told_again))
    items = told.filter(pa.array(np.append(~again, True)[: len(told)])).combine_chunks()
    return {
        "rows": len(told),
        "items": len(items),
        "filtered": _told_again(*told_again),
        "files": work.write(bucket_path(work, bucket), _piece(items)),
    }


def retell_items(work: Work, previous: Previous, seed: int, told: Sequence[str], number: int) -> Record:
    """A part of the previous catalogue in its order, each item as it was told last.

    Args:
        work: where.
        previous: the dataset whose part it is.
        seed: of the catalogue's order.
        told: scratch files of 2**bits buckets, from gather_items().
        number: of the part.

    Returns:
        A record: filtered (by reason).

    Raises:
        ValueError: two ids have one hash.
    """
    items = previous.table(previous.paths("items")[number], ITEMS)
    hash_N = item_order(items["item_id"].combine_chunks(), seed)
    bits = len(told).bit_length() - 1
    buckets = np.unique(hash_N >> np.uint64(64 - bits)).tolist() if bits else [0]
    rows, hashes = (read_slices(work, [told[bucket] for bucket in buckets], which) for which in (ROWS, HASHES))
    again = pa.concat_tables([ITEMS.empty_table(), *(table.cast(ITEMS) for table in rows)])
    hash_T = np.concatenate([np.zeros(0, np.uint64), *(table["hash"].to_numpy() for table in hashes)])
    place_N = np.searchsorted(hash_T, hash_N)
    found_N = np.isin(hash_N, hash_T)
    before, after = items.filter(pa.array(found_N)), again.take(pa.array(place_N[found_N]))
    _refuse_collisions(before["item_id"], after["item_id"])
    newest_N = np.where(found_N, len(items) + place_N, np.arange(len(items)))
    items = pa.concat_tables([items, again]).take(pa.array(newest_N)).combine_chunks()
    return {
        "rows": len(items),
        "filtered": _told_again(before, after),
        "files": work.write(piece_path(work, number), _piece(items.append_column("hash", pa.array(hash_N)))),
    }


def append_items(work: Work, told: Sequence[str], old_N: np.ndarray, first: int, bucket: int) -> Record:
    """The items of a bucket that the previous catalogue has not.

    Args:
        work: where.
        told: scratch files of buckets, from gather_items().
        old_N: uint64, item_order() of the previous catalogue.
        first: number of the first bucket's piece.
        bucket: which.
    """
    schema = pa.schema([*ITEMS, pa.field("hash", pa.uint64())])
    items = schema.empty_table()
    for rows, hashes in zip(*(read_slices(work, [told[bucket]], which) for which in (ROWS, HASHES)), strict=True):
        items = rows.append_column("hash", hashes["hash"]).cast(schema)
    items = items.filter(pa.array(~np.isin(items["hash"].to_numpy(), old_N))).combine_chunks()
    return {"rows": len(items), "files": work.write(piece_path(work, first + bucket), _piece(items))}


def _piece(items: pa.Table) -> bytes:
    """The file of slices of ITEMS with their `hash`."""
    frequencies = document_frequencies(items)
    places = np.flatnonzero(frequencies)
    sparse = pa.table({"place": places, "count": frequencies[places]})
    return slices_bytes([items.drop_columns("hash"), items.select(["hash"]), sparse])


def _told_again(first: pa.Table, second: pa.Table) -> dict[str, int]:
    """How many items were told again, by what changed; row by row the same item."""
    before, after = (table.select(ITEMS.names).to_pylist() for table in (first, second))
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    return {AGAIN: len(before) - changed, AGAIN_OTHERWISE: changed}


def _refuse_collisions(first: pa.ChunkedArray, second: pa.ChunkedArray) -> None:
    different = pc.not_equal(first, second)
    if pc.any(different).as_py():
        pair = [column.filter(different)[0].as_py() for column in (first, second)]
        raise ValueError(
            f"the items {pair[0]!r} and {pair[1]!r} have the same 64-bit hash, which orders the catalogue; expected "
            "distinct hashes: rename one of them"
        )


def write_items(
    work: Work,
    split: SplitConfig,
    seed: int,
    frequencies: np.ndarray,
    num_items: int,
    pieces: Sequence[str],
    number: int,
) -> Record:
    """Writes a piece of the catalogue as a part of items/.

    Args:
        work: where.
        split: which items are held out.
        seed: of that draw.
        frequencies: document_frequencies() of the whole catalogue.
        num_items: of the whole catalogue.
        pieces: scratch files in the order of the catalogue.
        number: which.

    Returns:
        A record: kept (items not held out).
    """
    items = ITEMS.empty_table()
    for table in read_slices(work, [pieces[number]], ROWS):
        items = table
    if not len(items):
        return {"rows": 0, "kept": 0, "files": {}}
    terms, weights = telling_terms(items, frequencies, num_items)
    names = held_out(items["item_id"].combine_chunks(), split, seed)
    for field, column in (("terms", terms), ("term_weights", weights), ("held_out", names)):
        items = items.append_column(field, column)
    kept = pc.sum(pc.equal(names, "")).as_py()
    files = write_table(work.uri, f"items/part-{number:05d}.parquet", items.cast(CATALOGUE))
    return {"rows": len(items), "kept": kept, "files": files}


def summed_frequencies(work: Work, pieces: Sequence[str]) -> np.ndarray:
    """document_frequencies() of the whole catalogue."""
    total = document_frequencies(ITEMS.empty_table())
    for piece in _slices(work, pieces, FREQUENCIES):
        np.add.at(total, piece["place"].to_numpy(), piece["count"].to_numpy())
    return total


def order_hashes(work: Work, pieces: Sequence[str]) -> np.ndarray:
    """uint64 [N]: item_order() of the catalogue; ascending within a piece."""
    hashes = [piece["hash"].to_numpy() for piece in _slices(work, pieces, HASHES)]
    return np.concatenate([np.zeros(0, np.uint64), *hashes])


def _slices(work: Work, pieces: Sequence[str], which: int) -> Iterable[pa.Table]:
    for piece in pieces:
        yield from read_slices(work, [piece], which)
