"""The job from logs to a dataset, phase by phase: an external hash shuffle that goes on where it was killed.

The driver holds counts, names of files and what is as large as the catalogue; interactions pass through tasks only,
each of which holds one block of the logs or one bucket of users. How tasks are run is somebody else's (prepare.py).
"""

import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import fsspec
import numpy as np

from rayrec.data import shards
from rayrec.data.config import DataConfig
from rayrec.data.door import Door, PartTask
from rayrec.data.files import Parquet, Part
from rayrec.data.inputs import Inputs, list_inputs
from rayrec.data.intake import takers
from rayrec.data.items import catalogue
from rayrec.data.phases import Job, TakenIn, balance, sum_counts, take_all
from rayrec.data.plan import Plan, plan_of
from rayrec.data.previous import carry, open_previous
from rayrec.data.rounds import seen_whole
from rayrec.data.shards import SPLITS
from rayrec.data.sources.listing import read_logs
from rayrec.data.sources.logs import Logs
from rayrec.data.split import HOUR_MS, split_cut_offs, split_warnings
from rayrec.data.work import WORK, Record, Run, open_work, remove, retried
from rayrec.privacy import Privacy, privacy_of
from rayrec.storage import absolute, is_published, manifest, publish

FOLDERS = ("items", "item_stats", "histories", "users", "rows", "impressions", "triples", "quarantine")
BUCKET_ROWS = 1_000_000
MOST_BUCKETS = 4096
BUCKETS_PER_RANGE = 4
PARQUET_ROW_BYTES, TEXT_ROW_BYTES, COMPRESSED_ROW_BYTES = 12, 64, 16


def prepare(
    config: DataConfig, uri: str, *, seed: int, provenance: Mapping[str, Any], run: Run, logs: Logs | None = None
) -> Record:
    """Makes and publishes a dataset; returns at once where the same one, of the same logs, is published already.

    A job that was killed goes on where it stopped, if neither the config nor the logs have changed.

    Args:
        config: source, cleaning, privacy, split, lengths.
        uri: where to write.
        seed: of the order of the catalogue and of what is held out.
        provenance: from storage.provenance, stored in the manifest.
        run: how tasks are run: prepare.on_ray, or work.in_process.
        logs: instead of the config's source.

    Returns:
        The manifest.

    Raises:
        ValueError: the logs cannot be used, the previous dataset does not go with this config, or another dataset is
            published at `uri`.
    """
    # Where the driver's own reading or writing fails for a moment, what is done is not done again.
    return retried(partial(_prepare, config, uri, seed, provenance, run, logs))


def _prepare(
    config: DataConfig, uri: str, seed: int, provenance: Mapping[str, Any], run: Run, logs: Logs | None
) -> Record:
    described = {**config.model_dump(mode="json"), "seed": seed}
    names = config.privacy
    privacy = privacy_of(names.user_ids, names.key_env, names.redact, names.phone_regions)
    if is_published(uri):
        found = _published(uri, described, privacy)
        if "logs" in found:  # else a user was removed, and it is what no logs give
            logs = logs or read_logs(config.source, config.allowed_schemes)
            _check_logs(uri, found["logs"], list_inputs(logs, config))
        return found
    previous = None if config.previous is None else open_previous(config, seed, privacy)
    logs = logs or read_logs(config.source, config.allowed_schemes)
    warnings = split_warnings(config, logs.order_only)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    inputs = list_inputs(logs, config)
    ancestors = [] if previous is None else list(previous.ancestors)
    determined_by = [described, provenance.get("code"), privacy.key_fingerprint, inputs.described(), ancestors]
    work = open_work(uri, determined_by)
    job = Job(config, seed, inputs, Door(work, config.clean, privacy, seed, inputs.order_only), run, previous)
    about = {**provenance, "seed": seed, "data": described, "warnings": warnings, "ancestors": ancestors}
    about["logs"] = inputs.digest()
    return make_dataset(job, about)


def make_dataset(job: Job, about: Record) -> Record:
    """All phases of a job; `about` are further keys of the manifest, which is returned."""
    config, inputs, previous = job.config, job.inputs, job.previous
    known, held_out_N, item_counts = catalogue(job)
    if previous is None:
        version, buckets, since = 1, config.buckets or user_buckets(inputs.parts["interactions"]), None
    else:
        version, buckets, since = previous.version + 1, previous.buckets, previous.cutoffs
    taken = {
        table: take_all(job, table, take)
        for table, take in takers(job.door, known, buckets).items()
        if table == "interactions" or inputs.parts[table]
    }
    nothing = TakenIn({}, {}, [], {})
    events, users = taken["interactions"], taken.get("users", nothing)
    # Of a new version the days after those of the previous one are split; what is late trains.
    hours = np.array(sorted(hour for hour in events.hours if since is None or hour * HOUR_MS >= since.end), np.int64)
    counts = np.array([events.hours[hour] for hour in hours.tolist()], np.int64)
    cutoffs = split_cut_offs(config, inputs.order_only, hours, counts)
    plan = plan_of(config, job.seed, inputs.order_only, cutoffs, held_out_N, known.terms)
    plan = plan if since is None else replace(plan, train_from=since.valid)
    plan = seen_whole(plan, job.work, events.paths, buckets, job.run)

    reduced = write_users(job, plan, {"interactions": events.paths, "users": users.paths}, buckets)
    all_counts = {
        "users": reduced["users"],
        "rows": reduced["counts"],
        "interactions": balance(events, reduced["kept"], reduced["filtered"], reduced["carried"]),
        "items": item_counts,
    }
    if previous is not None:
        all_counts["interactions"] |= {key: reduced[key] for key in ("carried", "new", "late")}
        all_counts["rows"] = {**reduced["counts"], "train": sum_counts(reduced["counts"]["train"], previous.train)}
        job.total("carried", partial(carry, job.work, previous), range(len(previous.carried())))
    if "users" in taken:
        told_again = users.good - reduced["distinct_users"]
        all_counts["user_records"] = balance(users, reduced["distinct_users"], {"user told again": told_again})
    all_counts |= write_side_tables(job, taken, buckets)
    check_splits(all_counts)
    about = {**about, "version": version, "buckets": buckets}
    return publish_dataset(job, plan, {**about, "counts": {**all_counts, "texts": job.texts}})


def _published(uri: str, described: dict[str, Any], privacy: Privacy) -> dict[str, Any]:
    found = manifest(uri, "dataset")
    for key in sorted(described.keys() | found["data"].keys()):
        wanted, there = described.get(key), found["data"].get(key)
        if wanted != there:
            raise ValueError(
                f"{absolute(uri)} holds a dataset made with {key} = {there!r}; this config says {wanted!r}: "
                "choose another run folder, or remove that one"
            )
    if found["privacy"]["key_fingerprint"] != privacy.key_fingerprint:
        raise ValueError(
            f"{absolute(uri)} holds a dataset whose user ids were made with another key (fingerprint "
            f"{found['privacy']['key_fingerprint']}, this one has {privacy.key_fingerprint}): use that key, or choose "
            "another run folder"
        )
    remove(uri, WORK)  # left where a job was killed after its manifest
    return found


def _check_logs(uri: str, digest: str, inputs: Inputs) -> None:
    """Refuses a dataset whose logs had another digest than those of the config have now."""
    if digest != inputs.digest():
        raise ValueError(
            f"{absolute(uri)} holds a dataset made of other logs: their files had other names or sizes; expected those "
            "it was made of: choose another run folder, with data.previous naming this dataset where the logs are new "
            "days, or remove it"
        )


def user_buckets(parts: list[PartTask]) -> int:
    """How many buckets of users the interactions are dealt to: a function of the logs alone."""
    return min(MOST_BUCKETS, 1 + sum(rows_guess(task.part) for task in parts) // BUCKET_ROWS)


def rows_guess(part: Part) -> int:
    """About how many rows a part has, from its size alone."""
    if isinstance(part.format, Parquet):
        return part.size // PARQUET_ROW_BYTES
    compressed = part.uri.endswith((".gz", ".bz2", ".zst"))
    return part.size // (COMPRESSED_ROW_BYTES if compressed else TEXT_ROW_BYTES)


def write_users(job: Job, plan: Plan, paths: dict[str, list[str]], buckets: int) -> Record:
    """Writes histories/, users/, rows/ and item_stats/; returns the sum of the buckets' records."""
    ranges = -(-buckets // BUCKETS_PER_RANGE)
    write = partial(shards.write_bucket, job.work, plan, ranges, paths, job.previous)
    reduced = job.total("users-written", write, range(buckets))
    parts = 0
    if job.previous is not None:
        parts = len(job.previous.paths("item_stats"))
        deal = partial(shards.deal_old_stats, job.work, job.previous, len(plan.held_out_N), ranges)
        job.total("item-stats-dealt", deal, range(parts))
    stats = shards.stats_paths(job.work, buckets, parts)
    job.total("item-stats", partial(shards.write_item_stats, job.work, stats), range(ranges))
    return reduced


def write_side_tables(job: Job, taken: dict[str, TakenIn], buckets: int) -> Record:
    """Writes impressions/ and triples/ where the logs have them; returns their counts."""
    counts = {}
    if "impressions" in taken:
        write = partial(shards.write_impressions, job.work, taken["impressions"].paths)
        written = job.total("impressions-written", write, range(buckets))
        counts["impressions"] = balance(taken["impressions"], written["rows"], {})
    if "triples" in taken:
        write = partial(shards.write_triples, job.work, taken["triples"].parts)
        written = job.total("triples-written", write, sorted(taken["triples"].parts))
        counts["triples"] = balance(taken["triples"], written["rows"], {})
    return counts


def check_splits(counts: Record) -> None:
    """Refuses a dataset that nothing could be learnt from or measured on."""
    if counts["users"] < 2:
        filtered = {name: count for name, count in counts["interactions"]["filtered"].items() if count}
        raise ValueError(
            f"the logs hold {counts['users']} user; expected at least 2, and in practice hundreds (interactions "
            f"filtered: {filtered or 'none'})"
        )
    for split in SPLITS:
        if not counts["rows"][split]["rows"]:
            raise ValueError(
                f"the {split} split holds no target; expected users who met items they had not met before in each "
                "window of time: use more logs, or change split.valid_fraction, split.test_fraction and the "
                "held-out shares"
            )


def remove_strays(uri: str, files: Collection[str]) -> None:
    """Removes files from a dataset's folders that are none of its own."""
    filesystem, root = fsspec.core.url_to_fs(uri)
    filesystem.invalidate_cache()
    for folder in FOLDERS:
        for path in retried(partial(filesystem.find, f"{root}/{folder}")):
            if path[len(root.rstrip("/")) + 1 :] not in files:
                retried(partial(filesystem.rm, path))


def publish_dataset(job: Job, plan: Plan, about: Record) -> Record:
    """Removes what a job of another config left, writes the manifest, removes the work folder."""
    known = {
        "cutoffs": asdict(plan.cutoffs),
        "num_items": len(plan.held_out_N),
        "history_length": plan.history_length,
        "like_rule": asdict(plan.rule),
        "order_only": plan.order_only,
        "privacy": job.door.privacy.about(),
    }
    remove_strays(job.work.uri, job.files)
    publish(job.work.uri, "dataset", job.files, **{**about, **known})
    remove(job.work.uri, WORK)
    return manifest(job.work.uri)
