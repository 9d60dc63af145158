"""A version of a dataset without one user, and the proof that nothing of that user is left in it.

Files that do not hold the user are copied undecoded; the others are written anew without the user's rows, and with the
user's events, as far as histories/ holds them, subtracted from item_stats/ (events beyond `data.max_history` have no
name in a dataset any more, so their counts stay). In the manifest, counts of users and rows are those of the new
version; counts of what was read, kept and filtered go on telling of the logs as they were. Neither the user's id nor
its pseudonym is written or printed anywhere.

Nothing else is changed. What goes on holding the user, and is to be removed by hand: the old dataset and the versions
before it (datasets_before), weights and bundles trained on them (trained_on), and what is NOT_LOOKED_AT.
"""

import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from rayrec.data.door import USER_PREFIX
from rayrec.data.hashing import hash_strings
from rayrec.data.job import remove_strays
from rayrec.data.phases import sum_counts
from rayrec.data.previous import Previous, published
from rayrec.data.scan import USER_COLUMNS, Who, in_bytes, scan
from rayrec.data.shards import SPLITS, count_rows, rows_per_group
from rayrec.data.work import WORK, Record, Run, Work, open_work, phase, remove, retried, write_table
from rayrec.item_stats import DAY_MS
from rayrec.privacy import Privacy
from rayrec.schema import HISTORIES, ITEM_STATS, LIKED
from rayrec.storage import absolute, is_published, join, manifest, publish

NOT_LOOKED_AT = (
    "the logs",
    "unfinished trainings, reports",
    "what loaders of each machine keep in loader.cache_folder",
    "copies of any of these elsewhere",
)
"""What may hold a forgotten user besides datasets, weights and bundles."""


def forget(source: str, uri: str, user_id: str, *, privacy: Privacy, run: Run) -> Record:
    """Publishes a version of a dataset without one user; nothing is left of that user, or nothing is published.

    Killed and called again it goes on; where that version is published already, it is only searched again. What goes
    on holding the user: see the top of this file.

    Args:
        source: URI of the dataset.
        uri: where to write.
        user_id: as in the logs.
        privacy: with the dataset's key.
        run: how tasks are run, each of one file.

    Returns:
        removed (rows by folder), rewritten (files), and what scan() returns.

    Raises:
        ValueError: the dataset does not know the user, was made with another key, or something else is published at
            `uri`, a version without another user among it; or something of the user was left.
    """
    return retried(partial(_forget, source, uri, user_id, privacy, run))


def _forget(source: str, uri: str, user_id: str, privacy: Privacy, run: Run) -> Record:
    old, about = published(source), manifest(source, "dataset")
    who = Who(user_id, privacy.pseudonym(user_id))
    if about["privacy"]["key_fingerprint"] != privacy.key_fingerprint:
        raise ValueError(
            f"the user ids of {old.uri} were made with another key (fingerprint "
            f"{about['privacy']['key_fingerprint']!r}, this one has {privacy.key_fingerprint!r}); expected the same: "
            "put that key into the variable that data.privacy.key_env names"
        )
    there = manifest(uri, "dataset") if is_published(uri) else None
    if there is not None and (there["ancestors"] != list(old.ancestors) or "forgotten_rows" not in there):
        raise ValueError(f"{absolute(uri)} holds another dataset; expected none: choose another run folder")
    work = open_work(uri, [old.fingerprint, who.name])
    looked = phase(work, "forget-looking", partial(look, old, who), _numbered(old.files), run)
    holding = {record["path"] for record in looked if record["held"]}
    if not holding:
        remove(uri, WORK)
        raise ValueError(
            f"{old.uri} holds nothing of this user; expected the id as it stands in the logs: check its spelling"
        )
    if there is not None:
        remove(uri, WORK)
        _check_same_user(published(uri), who, holding, run)
        return {**there["forgotten_rows"], **_proved(uri, who, run)}
    write = partial(write_without, work, old, who, counts_of(old, who), holding)
    removed, counts, files = dict[str, int](), dict[str, Any](), Record()
    for record in phase(work, "forget", write, _numbered(old.files), run):
        removed = sum_counts(removed, record["removed"])
        counts = sum_counts(counts, record["counts"])
        files |= record["files"]
    remove_strays(uri, files)
    about |= {
        "ancestors": list(old.ancestors),
        "forgotten": about.get("forgotten", 0) + 1,
        "forgotten_rows": {"removed": dict(sorted(removed.items())), "rewritten": len(holding)},
        "counts": corrected(about["counts"], counts, any(path.startswith(("histories/", "rows/")) for path in holding)),
    }
    for name in ("kind", "files", "logs"):  # no logs give this version
        about.pop(name, None)
    if in_bytes(json.dumps(about, ensure_ascii=False).encode(), who):
        raise ValueError(
            f"the manifest of {old.uri} names the user, and so would the new one; expected names of files and settings "
            "that tell of nobody: rename the logs and prepare them anew"
        )
    proof = _proved(uri, who, run)
    publish(uri, "dataset", files, **about)
    remove(uri, WORK)
    return {**about["forgotten_rows"], **proof, "files": proof["files"] + 1}


def _check_same_user(there: Previous, who: Who, holding: set[str], run: Run) -> None:
    """Refuses a published version that still has rows about the user, in one of the files that had them."""
    looked = run(partial(look, there, who), sorted(holding & there.files.keys()), "forget: looking")
    if any(record["held"] for record in looked):
        raise ValueError(
            f"{there.uri} holds a version without another user than this one; expected none: choose another run folder "
            "(to forget both, forget this one from that version)"
        )


def _numbered(files: Mapping[str, Any]) -> dict[str, str]:
    return {f"{number:06d}": path for number, path in enumerate(sorted(files))}


def corrected(counts: Record, removed: Record, had_events: bool) -> Record:
    """The counts of a manifest for what is left.

    Args:
        counts: as they were.
        removed: rows and targets by split.
        had_events: whether the user was one of those counted.
    """
    rows = {
        split: {key: count - removed.get(split, {}).get(key, 0) for key, count in counts["rows"][split].items()}
        for split in SPLITS
    }
    return {**counts, "rows": rows, "users": counts["users"] - had_events}


def counts_of(old: Previous, who: Who) -> pa.Table:
    """The user's events that item statistics may count, of the ITEM_STATS schema, negative."""
    bucket = int(hash_strings(pa.array([who.name]))[0] % np.uint64(old.buckets))
    histories = old.table(f"histories/part-{bucket:05d}.parquet", HISTORIES)
    events = histories.filter(pc.equal(histories["user_id"], who.name))
    items, times, likes = (events[name].combine_chunks().flatten().to_numpy() for name in ("items", "times", "likes"))
    columns = {
        "item": items,
        "day": times // DAY_MS,
        "count": np.full(len(items), -1),
        "likes": -(likes == LIKED).astype(int),
    }
    return pa.table({name: pa.array(values.astype(np.int32)) for name, values in columns.items()}, schema=ITEM_STATS)


def of_user(table: pa.Table, who: Who) -> np.ndarray:
    """bool: the rows that are about the user.

    Args:
        table: with some of USER_COLUMNS.
        who: the user.
    """
    mask = np.zeros(len(table), bool)
    for name in table.column_names:
        column = table[name].combine_chunks()
        if name == "record":
            found = [pc.match_substring(column, text) for text in who.in_json]
        else:
            found = [pc.equal(column, who.name if name == "user_id" else f"{USER_PREFIX}{who.name}")]
        for each in found:
            mask |= each.fill_null(False).to_numpy(zero_copy_only=False)
    return mask


def _user_columns(file: parquet.ParquetFile) -> pa.Table:
    return file.read(columns=[name for name in file.schema_arrow.names if name in USER_COLUMNS])


def look(old: Previous, who: Who, path: str) -> Record:
    """How many rows of a file are about the user; only what says whose they are is decoded."""
    table = _user_columns(parquet.ParquetFile(io.BytesIO(old.read_bytes(path))))
    return {"rows": len(table), "held": int(of_user(table, who).sum()), "path": path, "files": {}}


def write_without(work: Work, old: Previous, who: Who, counts: pa.Table, holding: set[str], path: str) -> Record:
    """Writes one file of the new version.

    Args:
        work: where.
        old: the dataset.
        who: the user.
        counts: from counts_of().
        holding: files with rows about the user.
        path: which file.

    Returns:
        A record: rows, removed (rows by folder), counts (rows and targets removed, by split).
    """
    data, folder = old.read_bytes(path), path.rpartition("/")[0]
    record: Record = {"rows": 0, "removed": {}, "counts": {}}
    if path not in holding and folder != "item_stats":
        return {**record, "files": work.write(path, data)}
    table = parquet.read_table(io.BytesIO(data))
    if folder == "item_stats":
        left = subtracted(table, counts)
        if left == table:
            return {**record, "files": work.write(path, data)}
    else:
        mask = of_user(table.select([name for name in table.column_names if name in USER_COLUMNS]), who)
        left, gone = table.filter(pa.array(~mask)), table.filter(pa.array(mask))
        record["removed"] = {folder: len(gone)}
        if folder.startswith("rows/"):
            record["counts"] = {folder.removeprefix("rows/"): count_rows(gone)}
    size = rows_per_group(len(left)) if folder.startswith("rows/") else None
    return {**record, "rows": len(table), "files": write_table(work.uri, path, left, size) if len(left) else {}}


def subtracted(stats: pa.Table, counts: pa.Table) -> pa.Table:
    """Item statistics after negative counts of some events were added; what they do not have is left out."""
    both = pa.concat_tables([stats.cast(ITEM_STATS), counts])
    sums = both.group_by(["item", "day"], use_threads=False).aggregate([("count", "sum"), ("likes", "sum")])
    sums = sums.rename_columns({"count_sum": "count", "likes_sum": "likes"}).filter(pc.field("count") > 0)
    return sums.sort_by([("item", "ascending"), ("day", "ascending")]).select(ITEM_STATS.names).cast(ITEM_STATS)


def _proved(uri: str, who: Who, run: Run) -> Record:
    """What scan() returns.

    Raises:
        ValueError: it found something.
    """
    found = scan(uri, who, run)
    if found["found"]:
        places = ", ".join(f"{path} ({count})" for path, count in found["where"].items())
        raise ValueError(
            f"the user to forget is still named in {absolute(uri)}: {places}; expected nowhere: a text of another user "
            "or an item may name the user; correct it in the logs and prepare them anew"
        )
    return found


def datasets_before(uri: str) -> list[str]:
    """A dataset and those that it goes on from by data.previous, as far as they are published: URIs, the newest first.

    From what a version without another user was made is not known.
    """
    found: list[str] = []
    older: str | None = uri
    while older is not None and absolute(older) not in found and is_published(older):
        found.append(absolute(older))
        older = manifest(older, "dataset")["data"].get("previous")
    return found


def trained_on(run: str, folder: str, datasets: Sequence[str], fingerprints: Sequence[str]) -> dict[str, list[str]]:
    """What a run and the runs in a folder have trained on some datasets.

    Args:
        run: URI of a run.
        folder: URI; nothing need be there. Of each run just below it, `weights` and `bundle` are looked at.
        datasets: their URIs, which weights name.
        fingerprints: theirs, which bundles name.

    Returns:
        URIs under `weights`, `bundles` and `bundles_that_do_not_say`.
    """
    filesystem, root = fsspec.core.url_to_fs(absolute(folder))
    filesystem.invalidate_cache()
    listed = filesystem.ls(root, detail=False) if filesystem.exists(root) else []
    names = [path.rstrip("/").rpartition("/")[2] for path in listed]
    found: dict[str, list[str]] = {"weights": [], "bundles": [], "bundles_that_do_not_say": []}
    for each in sorted({absolute(run).rstrip("/"), *(join(absolute(folder), name) for name in names)}):
        weights, bundle = join(each, "weights"), join(each, "bundle")
        if is_published(weights) and manifest(weights).get("dataset") in datasets:
            found["weights"].append(weights)
        if is_published(bundle):
            dataset = manifest(bundle).get("dataset")
            if dataset is None:
                found["bundles_that_do_not_say"].append(bundle)
            elif dataset in fingerprints:
                found["bundles"].append(bundle)
    return found
