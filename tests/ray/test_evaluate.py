"""Evaluation on Ray Data: the report of one process, from workers that see one block of users at a time."""

import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayrec import storage
from rayrec.data.config import DataConfig
from rayrec.data.dataset import Dataset
from rayrec.data.prepare import on_ray
from rayrec.data.work import in_process
from rayrec.evaluate import evaluator
from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.evaluator import counts_before_test, evaluate
from rayrec.evaluate.measure import Measured, group_slices, measure, report_slices
from rayrec.models.behaviour import BASELINES
from rayrec.schema import Batch, Scorer
from tests import synthetic, tiny

pytestmark = pytest.mark.usefixtures("ray_cluster")

SYSTEMS = ("popularity", "like_rates", "item_knn", "ease", "tfidf")
CONFIG = EvaluateConfig(k=5, bootstrap=50, users_per_block=7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    logs = synthetic.generate(num_users=120, num_items=80, num_interactions=4000)
    return synthetic.published(logs, tmp_path_factory.mktemp("dataset"), DataConfig(history_length=12))


def moved_ranker(data: Dataset) -> Scorer:
    return tiny.moved_ranker(data.catalogue(), data.stats(), data.cutoffs.valid)


def measured(data: Dataset, scorer: Scorer, run: Any, users_per_block: int = 7) -> Measured:
    rows, catalogue, counts_N = data.rows("test"), data.catalogue(), counts_before_test(data)
    slices = report_slices(rows, catalogue) | group_slices(rows, catalogue, counts_N)
    how = {"k": 5, "users_per_block": users_per_block, "counts_N": counts_N, "run": run}
    return measure(scorer, rows, slices, **how)


def test_a_language_model_measures_the_same_on_ray(data: Dataset) -> None:
    scorer = moved_ranker(data)
    alone, spread = (measured(data, scorer, run) for run in (in_process, on_ray))
    assert len(data.rows("test")) > 3 * 7
    for name, metrics in alone.metrics.items():
        for metric, values_U in metrics.items():
            np.testing.assert_allclose(spread.metrics[name][metric], values_U, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(spread.listed[name], alone.listed[name])
    np.testing.assert_allclose(spread.like_E, alone.like_E, rtol=0, atol=1e-6)
    for column in ("row_E", "item_E", "label_E"):
        np.testing.assert_array_equal(getattr(spread, column), getattr(alone, column))


class Watching(Scorer):
    """Notes where it is asked, and for how many users at once; weighs 4 MB."""

    def __init__(self, folder: Path, num_items: int) -> None:
        self.folder, self.num_items = folder, num_items
        self.weights_N = np.ones(1_000_000, np.float32)

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The same for all."""
        (self.folder / f"{os.getpid()}-{len(batch.row_ids)}-{batch.row_ids[0]}").touch()
        scores_BN = np.repeat(self.weights_N[None, : self.num_items], len(batch.row_ids), axis=0)
        return scores_BN, scores_BN


def test_workers_hold_one_block_and_the_driver_none(data: Dataset, tmp_path: Path) -> None:
    users = len(data.rows("test"))
    measured(data, Watching(tmp_path, data.num_items), on_ray)
    seen = [path.name.split("-", 2) for path in tmp_path.iterdir()]
    assert str(os.getpid()) not in {process for process, _, _ in seen}
    assert sorted(int(size) for _, size, _ in seen) == sorted([7] * (users // 7) + [users % 7] * (users % 7 > 0))


def test_a_task_holds_its_own_rows_and_no_scorer(data: Dataset, tmp_path: Path) -> None:
    """What all tasks share, `on_ray` puts into the object store once."""
    sizes: dict[int, list[int]] = {}

    def weighing(function: Any, tasks: Any, title: str) -> Any:
        sizes[len(tasks)] = [len(pickle.dumps(task)) for task in tasks]
        return in_process(function, tasks, title)

    users = len(data.rows("test"))
    for users_per_block in (1, users):
        measured(data, Watching(tmp_path, data.num_items), weighing, users_per_block)
    assert max(sizes[users]) < sizes[1][0] / 3
    assert sizes[1][0] < 1_000_000


def test_the_report_is_the_same_on_ray(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = str(tmp_path / "weights")
    storage.publish(storage.join(weights, "tuned"), "weights", {})
    storage.publish(weights, "training", {}, stages=["tuned"])
    monkeypatch.setattr(evaluator, "_load_stage", lambda weights, stage, stats, states: moved_ranker(data))
    monkeypatch.setattr(evaluator, "BASELINES", {name: BASELINES[name] for name in SYSTEMS})
    asked: list[str] = []
    monkeypatch.setattr(evaluator, "on_ray", lambda *task: asked.append(task[2]) or on_ray(*task))
    made = partial(evaluate, data.uri, weights, seed=1, provenance={"code": "x"})
    alone = made(str(tmp_path / "alone"), config=CONFIG)
    assert not asked
    spread = made(str(tmp_path / "spread"), config=CONFIG.model_copy(update={"on_ray": True}))
    assert len(asked) > len(alone["order"]) == len(SYSTEMS) + 1
    assert spread["baselines"] == alone["baselines"]
    assert spread["inputs"] == alone["inputs"], "how it was run is no part of what was measured"
    assert near(spread["systems"], alone["systems"])
    assert near(spread["differences"], alone["differences"])
    assert near({"a": [1.0]}, {"a": [1.0 + 1e-7]})
    assert not near({"a": [1.0]}, {"a": [1.1]})


def near(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal up to 2e-6: the millionth asked for, and that of rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(one, float):
        return abs(one - other) <= 2e-6
    return bool(one == other)
