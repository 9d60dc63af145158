"""From the slices of items to the catalogue's files, a bucket at a time; buckets are ranges of the catalogue's order.

So the catalogue is the buckets one after the other, and an item's dense index needs no pass of its own.
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
from rayrec.data.phases import Job, balance, take_all
from rayrec.data.split import check_held_out, held_out, held_out_codes
from rayrec.data.work import Record, Work, read_slices, slices_bytes, write_table
from rayrec.schema import CATALOGUE, ITEMS
from rayrec.storage import join
from rayrec.terms import document_frequencies, telling_terms, terms_of

ITEM_BUCKET_BYTES = 16 << 20
ROWS, HASHES, FREQUENCIES = range(3)
"""The slices of a bucket's scratch file."""
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
    frequencies = summed_frequencies(job.work, buckets)
    hash_N = order_hashes(job.work, buckets)
    write = partial(write_items, job.work, job.config.split, job.seed, frequencies, len(hash_N))
    written = job.total("items-written", write, range(buckets))
    check_held_out(written["kept"], len(hash_N))
    columns = ["categories", "attributes", "terms", "term_weights", "held_out"]
    tables = [read_columns(job.work, path, columns) for path in sorted(job.files) if path.startswith("items/")]
    table = pa.concat_tables(tables)
    assert len(table) == len(hash_N) == gathered["items"]
    counts = balance(taken, gathered["items"], gathered["filtered"])
    return Known(hash_N, job.seed, terms_of(table)), held_out_codes(table["held_out"]), counts


def read_columns(work: Work, path: str, columns: list[str]) -> pa.Table:
    """Some columns of a part of items/."""
    filesystem, full = fsspec.core.url_to_fs(join(work.uri, path))
    with filesystem.open(full, "rb") as file:
        return parquet.read_table(file, columns=columns)


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
    before, after = (table.select(ITEMS.names).to_pylist() for table in told_again)
    changed = sum(first != second for first, second in zip(before, after, strict=True))
    items = told.filter(pa.array(np.append(~again, True)[: len(told)])).combine_chunks()

    frequencies = document_frequencies(items)
    places = np.flatnonzero(frequencies)
    sparse = pa.table({"place": places, "count": frequencies[places]})
    data = slices_bytes([items.drop_columns("hash"), items.select(["hash"]), sparse])
    return {
        "rows": len(told),
        "items": len(items),
        "filtered": {AGAIN: len(before) - changed, AGAIN_OTHERWISE: changed},
        "files": work.write(bucket_path(work, bucket), data),
    }


def _refuse_collisions(first: pa.ChunkedArray, second: pa.ChunkedArray) -> None:
    different = pc.not_equal(first, second)
    if pc.any(different).as_py():
        pair = [column.filter(different)[0].as_py() for column in (first, second)]
        raise ValueError(
            f"the items {pair[0]!r} and {pair[1]!r} have the same 64-bit hash, which orders the catalogue; expected "
            "distinct hashes: choose another seed"
        )


def write_items(
    work: Work, split: SplitConfig, seed: int, frequencies: np.ndarray, num_items: int, bucket: int
) -> Record:
    """Writes a bucket's part of items/.

    Args:
        work: where.
        split: which items are held out.
        seed: of that draw.
        frequencies: document_frequencies() of the whole catalogue.
        num_items: of the whole catalogue.
        bucket: which.

    Returns:
        A record: kept (items not held out).
    """
    items = ITEMS.empty_table()
    for table in read_slices(work, [bucket_path(work, bucket)], ROWS):
        items = table
    if not len(items):
        return {"rows": 0, "kept": 0, "files": {}}
    terms, weights = telling_terms(items, frequencies, num_items)
    names = held_out(items["item_id"].combine_chunks(), split, seed)
    for field, column in (("terms", terms), ("term_weights", weights), ("held_out", names)):
        items = items.append_column(field, column)
    kept = pc.sum(pc.equal(names, "")).as_py()
    files = write_table(work.uri, f"items/part-{bucket:05d}.parquet", items.cast(CATALOGUE))
    return {"rows": len(items), "kept": kept, "files": files}


def summed_frequencies(work: Work, buckets: int) -> np.ndarray:
    """document_frequencies() of the whole catalogue."""
    total = document_frequencies(ITEMS.empty_table())
    for piece in _pieces(work, buckets, FREQUENCIES):
        np.add.at(total, piece["place"].to_numpy(), piece["count"].to_numpy())
    return total


def order_hashes(work: Work, buckets: int) -> np.ndarray:
    """uint64 [N], ascending: item_order() of the catalogue."""
    pieces = [piece["hash"].to_numpy() for piece in _pieces(work, buckets, HASHES)]
    return np.concatenate([np.zeros(0, np.uint64), *pieces])


def _pieces(work: Work, buckets: int, which: int) -> Iterable[pa.Table]:
    for bucket in range(buckets):
        yield from read_slices(work, [bucket_path(work, bucket)], which)
