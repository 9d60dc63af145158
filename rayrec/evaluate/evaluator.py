"""Before and after: baselines, the training-free scorer and every trained stage, on one test split, into one report."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec import storage
from rayrec.data.dataset import Dataset
from rayrec.data.prepare import on_ray
from rayrec.data.work import in_process
from rayrec.evaluate import report
from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.forgetting import agreement, general_vectors, read_pairs
from rayrec.evaluate.measure import Measured, Slice, group_slices, measure, report_slices, tuning_slices
from rayrec.item_stats import ItemStats
from rayrec.metrics import log_losses
from rayrec.models.behaviour import BASELINES, Baseline
from rayrec.models.encoder import TextCache, load_encoder
from rayrec.models.past import Past, past
from rayrec.models.ranker import Ranker, load_ranker
from rayrec.schema import UNKNOWN, Scorer
from rayrec.tracking import Progress

REPORT = "report.json"


def evaluate(
    dataset: str, weights: str, uri: str, *, config: EvaluateConfig, seed: int, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Measures all baselines and all stages of a training, and publishes the report; one already made is returned.

    Args:
        dataset: URI of a published data set.
        weights: URI of a published training.
        uri: where the report goes.
        config: what to measure.
        seed: of the bootstrap.
        provenance: stored in the report.

    Returns:
        The report.

    Raises:
        ValueError: an input is missing or altered, the test split is empty, or another report is published at `uri`.
    """
    stages: list[str] = storage.manifest(weights, "training")["stages"]
    if taken := BASELINES.keys() & set(stages):
        raise ValueError(f"training stages {sorted(taken)} have names of baselines; rename them in train.stages")
    inputs = {
        "dataset": storage.fingerprint(dataset, "dataset"),
        "weights": {stage: storage.fingerprint(storage.join(weights, stage), "weights") for stage in stages},
        "evaluate": config.model_dump(mode="json", exclude={"on_ray"}),
        "seed": seed,
    }
    if storage.is_published(uri):
        return _published(uri, inputs)
    data = Dataset(dataset)
    catalogue, stats, rows = data.catalogue(), data.stats(), data.rows("test")
    if not len(rows):
        raise ValueError(f"the test split of {dataset} has no rows; prepare it with a larger data.split.test_fraction")
    if config.max_users is not None and len(rows) > config.max_users:
        rows = rows.take(np.sort(np.random.default_rng(seed).permutation(len(rows))[: config.max_users]))
    counts_N = counts_before_test(data)
    slices = report_slices(rows, catalogue) | group_slices(rows, catalogue, counts_N)
    pairs = None if config.general_text is None else read_pairs(config.general_text)
    general: dict[str, np.ndarray] = {}
    states: dict[str, TextCache] = {}
    with Progress("evaluate", len(BASELINES) + len(stages), "system") as progress:
        measured, chosen, left_out = measure_baselines(data, rows, slices, config, progress)
        for stage in stages:
            ranker = _load_stage(weights, stage, stats, states)
            measured[stage] = _measure(ranker, rows, slices, config, counts_N)
            if pairs is not None and ranker.model.use_text:
                general[stage] = general_vectors(load_encoder(ranker.model.config)[0], ranker.model.top, pairs.texts)
            progress.update()
    log_odds = [*stages, *(name for name, baseline in BASELINES.items() if baseline.log_odds)]
    about = {
        "cutoffs": asdict(data.cutoffs),
        "counts": {"items": len(catalogue), "users": len(rows), "targets": len(next(iter(measured.values())).row_E)},
        "baselines": chosen,
        "left_out": left_out,
        "general_text": None if pairs is None else report.forgetting(agreement(pairs, general, config.bootstrap, seed)),
        "inputs": inputs,
        "seed": seed,
        "provenance": dict(provenance),
    }
    made = report.build(measured, slices, log_odds=log_odds, config=config, seed=seed, about=about)
    files = {REPORT: storage.write_json(storage.join(uri, REPORT), made)}
    storage.publish(uri, "report", files, inputs=inputs, **provenance)
    return made


def measure_baselines(
    data: Dataset, rows: pa.Table, slices: Mapping[str, Slice], config: EvaluateConfig, progress: Progress
) -> tuple[dict[str, Measured], dict[str, Any], dict[str, str]]:
    """Chooses each baseline's setting on the validation split, fits it again up to the test cut-off, measures it.

    Args:
        data: the data set.
        rows: its test rows.
        slices: of the test.
        config: k and block size.
        progress: told of every baseline.

    Returns:
        What was measured, the setting chosen with every trial, and why a baseline was left out; each by baseline.
    """
    catalogue, stats, histories = data.catalogue(), data.stats(), data.histories()
    valid_rows = data.rows("valid").slice(0, config.validation_users)
    before_valid = past(histories, stats, catalogue, data.cutoffs.valid)
    before_test = past(histories, stats, catalogue, data.cutoffs.test)
    measured, chosen, left_out, counts_N = {}, {}, {}, counts_before_test(data)
    for name, baseline in BASELINES.items():
        progress.update()
        if baseline.max_items is not None and len(catalogue) > baseline.max_items:
            left_out[name] = f"the catalogue has {len(catalogue)} items, the limit is {baseline.max_items}"
            continue
        setting, trials = tune(baseline, before_valid, valid_rows, config)
        chosen[name] = {"setting": setting, "trials": trials}
        scorer = baseline.fit(before_test, **setting)
        measured[name] = _measure(scorer, rows, slices, config, counts_N)
    return measured, chosen, left_out


def tune(
    baseline: Baseline, before: Past, rows: pa.Table, config: EvaluateConfig
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """The setting that validates best, the first of equals, and every trial.

    What counts is NDCG; of a scorer whose like is a log-odds, which is there to tell likes, the log loss where
    there are opinions.

    Args:
        baseline: with its grid.
        before: the events before the validation cut-off.
        rows: of the validation split; where there is none, or nothing to choose, the grid's first setting is taken.
        config: k and block size.
    """
    if len(baseline.grid) == 1 or not len(rows):
        return baseline.grid[0], []
    slices = tuning_slices(rows, before.catalogue)
    trials: list[dict[str, Any]] = []
    for setting in baseline.grid:
        scorer = baseline.fit(before, **setting)
        found = _measure(scorer, rows, slices, config)
        ndcg_U = found.metrics["all"]["ndcg"]
        ndcg = float(np.nansum(ndcg_U)) / max(int((~np.isnan(ndcg_U)).sum()), 1)
        trials.append({"setting": dict(setting), "ndcg": round(ndcg, 6)})
        told_E = found.label_E != UNKNOWN
        if baseline.log_odds and told_E.any():
            losses_E = log_losses(found.label_E[told_E], found.like_E[told_E])
            trials[-1]["log_loss"] = round(float(losses_E.mean()), 6)
    values = [-trial["log_loss"] if "log_loss" in trial else trial["ndcg"] for trial in trials]
    return baseline.grid[int(np.argmax(values))], trials


def counts_before_test(data: Dataset) -> np.ndarray:
    """int64 [N]: interactions with each item on the days that had ended before the test cut-off."""
    every_N = np.arange(data.num_items)
    return data.stats().counts_between(every_N, np.zeros(1, np.int64), np.array([data.cutoffs.test]))


def _measure(
    scorer: Scorer,
    rows: pa.Table,
    slices: Mapping[str, Slice],
    config: EvaluateConfig,
    counts_N: np.ndarray | None = None,
) -> Measured:
    return measure(
        scorer,
        rows,
        slices,
        k=config.k,
        users_per_block=config.users_per_block,
        counts_N=counts_N,
        run=on_ray if config.on_ray else in_process,
    )


def _load_stage(weights: str, stage: str, stats: ItemStats, states: dict[str, TextCache]) -> Ranker:
    with tempfile.TemporaryDirectory() as folder:
        local = storage.download_directory(storage.join(weights, stage), os.path.join(folder, stage))
        return load_ranker(local, stats, shared=states)


def _published(uri: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    earlier = storage.verify(uri, "report")["inputs"]
    differing = sorted(key for key in inputs if inputs[key] != earlier.get(key))
    if differing:
        raise ValueError(
            f"{storage.absolute(uri)} holds a report made with another {', '.join(differing)}; "
            "delete that folder or choose another run folder"
        )
    found: dict[str, Any] = storage.read_json(storage.join(uri, REPORT))
    return found
