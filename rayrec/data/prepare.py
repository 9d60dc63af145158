"""The Ray Data job from logs to a dataset: clean, split, group by user once, write rows; the manifest last."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from rayrec.data.clean import check_quarantine, clean_items, judge_interactions
from rayrec.data.config import DataConfig
from rayrec.data.sequence import plan_of
from rayrec.data.shards import WRITTEN, Job, publish_dataset, tally, write_buckets
from rayrec.data.sources.listing import SOURCES
from rayrec.data.split import HOUR_MS, catalogue, cut_offs
from rayrec.schema import USERS
from rayrec.storage import absolute, is_published, manifest

HOURS = pa.schema([("reason", pa.string()), ("hour", pa.int64()), ("count", pa.int64())])
"""Interactions by reason of quarantine (null: none) and hour since 1970 (null for those in quarantine)."""


def prepare(config: DataConfig, uri: str, *, seed: int, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Makes and publishes a dataset; returns at once where the same one is published already.

    Args:
        config: source, split, lengths.
        uri: where to write.
        seed: of the order of the catalogue and of the held-out items.
        provenance: from storage.provenance, stored in the manifest.

    Returns:
        The manifest.

    Raises:
        ValueError: the logs cannot be used, or another dataset is published at `uri`.
    """
    described = {**config.model_dump(mode="json"), "seed": seed}
    if is_published(uri):
        return _published(uri, described)
    logs = SOURCES[config.source.kind](config.source)
    items, refused = clean_items(logs.items)
    check_quarantine(tally(refused["reason"]), len(logs.items), config.quarantine_limit, "items")
    items = catalogue(items, config.held_out_valid, config.held_out_test, seed)

    judge = partial(_judge, ids_ref=ray.put(items["item_id"].combine_chunks()), buckets=config.buckets)
    judged = logs.interactions.map_batches(judge, batch_format="pyarrow", batch_size=None)
    judged = judged.repartition(config.buckets, keys=["bucket"], shuffle=True).materialize()
    hours, per_hour, reasons = _histogram(judged)
    check_quarantine(reasons, int(per_hour.sum()) + sum(reasons.values()), config.quarantine_limit, "interactions")

    users = logs.users.filter(pc.is_valid(logs.users["user_id"])).cast(USERS)
    cutoffs = cut_offs(hours, per_hour, config.valid_fraction, config.test_fraction)
    job = Job(absolute(uri), plan_of(config, items, users, cutoffs), config.rows_per_group)
    write = partial(_write, job_ref=ray.put(job))
    written = _collect(judged.map_batches(write, batch_format="pyarrow", batch_size=None), WRITTEN)
    publish_dataset(job, written, items, refused, reasons, {**provenance, "seed": seed, "data": described})
    return manifest(uri)


def _published(uri: str, described: dict[str, Any]) -> dict[str, Any]:
    found = manifest(uri, "dataset")
    for key in sorted(described.keys() | found["data"].keys()):
        wanted, there = described.get(key), found["data"].get(key)
        if wanted != there:
            raise ValueError(
                f"{absolute(uri)} holds a dataset made with {key} = {there!r}; this config says {wanted!r}: "
                "choose another run folder, or remove that one"
            )
    return found


def _collect(dataset: ray.data.Dataset, schema: pa.Schema) -> pa.Table:
    """All rows; blocks without rows are passed over, for Ray Data gives them no columns."""
    tables = [table for table in ray.get(dataset.to_arrow_refs()) if len(table)]
    return pa.concat_tables([schema.empty_table(), *tables])


def _judge(block: pa.Table, ids_ref: ray.ObjectRef[pa.Array], buckets: int) -> pa.Table:
    return judge_interactions(block, ray.get(ids_ref), buckets)


def _write(block: pa.Table, job_ref: ray.ObjectRef[Job]) -> pa.Table:
    return write_buckets(block, ray.get(job_ref))


def _count_hours(block: pa.Table) -> pa.Table:
    hour = pc.if_else(pc.is_null(block["reason"]), pc.divide(block["timestamp"], HOUR_MS), None)
    table = pa.table({"reason": block["reason"], "hour": hour})
    return table.group_by(["reason", "hour"]).aggregate([([], "count_all")]).rename_columns(HOURS.names)


def _histogram(judged: ray.data.Dataset) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Hours, interactions kept in each, and quarantined interactions by reason."""
    parts = _collect(judged.map_batches(_count_hours, batch_format="pyarrow", batch_size=None), HOURS)
    sums = parts.group_by(["reason", "hour"]).aggregate([("count", "sum")])
    kept = sums.filter(pc.is_null(sums["reason"]))
    refused = sums.filter(pc.is_valid(sums["reason"])).sort_by("reason")
    reasons = dict(zip(refused["reason"].to_pylist(), refused["count_sum"].to_pylist(), strict=True))
    return kept["hour"].to_numpy(), kept["count_sum"].to_numpy(), reasons
