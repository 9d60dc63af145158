"""A bundle: all that serving needs in one published directory. safetensors, Parquet and JSON; no pickle anywhere."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.data.dataset import Dataset
from rayrec.item_stats import ItemStats
from rayrec.models.encoder import merged_language_model
from rayrec.models.ranker import Ranker, load_ranker
from rayrec.privacy import Privacy, redaction_of
from rayrec.profiles import LikeRule
from rayrec.storage import (
    absolute,
    download_directory,
    fingerprint,
    is_published,
    join,
    manifest,
    publish,
    read_json,
    upload_directory,
    verify,
)
from rayrec.terms import Terms, terms_of


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle.

    Attributes:
        ranker: the scorer that evaluation measured.
        items: CATALOGUE columns in dense-index order.
        terms: of the items, for profiles.
        rule: what counts as a like.
        history_length: events that the ranker looks back.
        as_of: ms; the moment of a request that names none: the end of the logs.
        privacy: redacts the texts of requests as those of the logs were.
        manifest: fingerprints, metrics, provenance.
    """

    ranker: Ranker
    items: pa.Table
    terms: Terms
    rule: LikeRule
    history_length: int
    as_of: int
    privacy: Privacy
    manifest: dict[str, Any]


def export(
    dataset: str, weights: str, uri: str, *, stage: str, report: str | None, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Publishes one trained stage with the data serving needs: catalogue, item statistics, merged language model.

    Args:
        dataset: URI of the data set the stage was trained on.
        weights: URI of a published training.
        uri: where the bundle goes.
        stage: which system to serve.
        report: URI of a published report whose figures go with the bundle, or None.
        provenance: stored in the manifest.

    Returns:
        The manifest.

    Raises:
        ValueError: no such stage, or another bundle is published at `uri`.
    """
    stages = manifest(weights, "training")["stages"]
    if stage not in stages:
        raise ValueError(
            f"the training at {absolute(weights)} has no stage {stage!r}; expected one of {', '.join(stages)}"
        )
    data = Dataset(dataset)
    source = manifest(join(weights, stage), "weights")
    digest = hashlib.sha256(json.dumps([source["files"], data.manifest["files"]], sort_keys=True).encode()).hexdigest()
    about = {
        "stage": stage,
        "fingerprint": digest,
        "dataset": fingerprint(dataset, "dataset"),
        "validation": source["validation"],
        "metrics": _figures(report, weights, stage) if report is not None else None,
        "like_rule": asdict(data.rule),
        "history_length": data.history_length,
        "as_of": data.cutoffs.end,
        "privacy": data.manifest["privacy"],
    }
    if is_published(uri):
        found = manifest(uri, "bundle")
        if found["fingerprint"] != digest:
            raise ValueError(f"{absolute(uri)} holds a bundle of other weights; delete it or use another run folder")
        if about["metrics"] not in (
            None,
            found["metrics"],
        ):  # a report that came later: the same files, with its figures
            publish(uri, "bundle", found["files"], **about, **provenance)
        return manifest(uri, "bundle")
    with tempfile.TemporaryDirectory() as directory:
        local = download_directory(join(weights, stage), os.path.join(directory, "weights"))
        ranker = load_ranker(local, data.stats())
        language_model, tokenizer = merged_language_model(ranker.model.config, ranker.model.top)
        target = os.path.join(directory, "bundle")
        language_model.save_pretrained(os.path.join(target, "language_model"))
        tokenizer.save_pretrained(os.path.join(target, "language_model"))
        for name in ("model.safetensors", "items.safetensors", "config.json"):
            shutil.copyfile(os.path.join(local, name), os.path.join(target, name))
        pq.write_table(data.catalogue(), os.path.join(target, "items.parquet"))
        pq.write_table(data.item_stats(), os.path.join(target, "item_stats.parquet"))
        files = upload_directory(target, uri)
    publish(uri, "bundle", files, **about, **provenance)
    return manifest(uri)


def _figures(report: str, weights: str, stage: str) -> Any:
    """A stage's figures from a report of the same weights.

    Raises:
        ValueError: the report was altered or measured other weights.
    """
    measured = verify(report, "report")["inputs"]["weights"].get(stage)
    if measured != fingerprint(join(weights, stage), "weights"):
        raise ValueError(
            f"the report at {absolute(report)} measured other weights than {absolute(weights)}/{stage}; "
            "delete it, or evaluate these weights into another run folder"
        )
    return read_json(join(report, "report.json"))["systems"].get(stage)


def load_bundle(uri: str) -> Bundle:
    """Verifies a bundle against its manifest and loads it.

    Raises:
        ValueError: nothing published there, a file missing or altered, tensors that do not fit, or the logs were
            redacted and what does it is not installed here.
    """
    with tempfile.TemporaryDirectory() as directory:
        local = download_directory(uri, directory)
        about = manifest(uri, "bundle")
        items = pq.read_table(os.path.join(local, "items.parquet"))
        stats = ItemStats(pq.read_table(os.path.join(local, "item_stats.parquet")), len(items))
        ranker = load_ranker(local, stats, os.path.join(local, "language_model"))
    rule = about["like_rule"]
    return Bundle(
        ranker=ranker,
        items=items,
        terms=terms_of(items),
        rule=LikeRule(rule["like_threshold"], tuple(rule["liked_events"]), tuple(rule["disliked_events"])),
        history_length=about["history_length"],
        as_of=about["as_of"],
        privacy=redaction_of(about["privacy"]),
        manifest=about,
    )
