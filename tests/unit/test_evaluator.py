"""The evaluator on a small published data set whose answers are known."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rayrec import storage
from rayrec.data.dataset import Dataset
from rayrec.evaluate import evaluator
from rayrec.evaluate.config import EvaluateConfig
from rayrec.evaluate.evaluator import evaluate, tune
from rayrec.evaluate.measure import Measured, measure, report_slices
from rayrec.item_stats import DAY_MS
from rayrec.models.behaviour import BASELINES, Baseline
from rayrec.models.past import past
from rayrec.schema import CATALOGUE, DISLIKED, HISTORIES, ITEM_STATS, LIKED, ROWS, Batch, Scorer

ITEMS, USERS = 20, 30
COLD = (18, 19)
VALID, TEST = 50 * DAY_MS, 60 * DAY_MS
CONFIG = EvaluateConfig(k=3, bootstrap=50, users_per_block=7)


class Parity(Scorer):
    """Knows the taste: likes items of the user's parity, as far as `sharpness` goes, which may be negative."""

    def __init__(self, sharpness: float) -> None:
        self.sharpness = sharpness

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        assert not batch.targets_BL.any(), "evaluation showed a target to the scorer"
        user_B = np.array([int(row.split("@")[0]) for row in batch.row_ids])
        fits_BN = np.where((user_B[:, None] - np.arange(ITEMS)) % 2, -1.0, 1.0)
        answer_BN = np.asarray(self.sharpness * fits_BN - 1e-3 * np.arange(ITEMS), np.float32)
        return answer_BN, answer_BN


def tables() -> dict[str, pa.Table]:
    """Users like items of their own parity; three are seen before validation, others come after."""
    words = ["harbour", "mountain"]
    items = [
        {"item_id": str(item), "title": words[item % 2], "held_out": "test" if item in COLD else ""}
        for item in range(ITEMS)
    ]
    histories, valid, test, counts = [], [], [], []
    for user in range(USERS):
        own = [item for item in range(user % 2, ITEMS, 2)]
        likes = [LIKED, LIKED, LIKED, DISLIKED]
        early = [own[0], own[1], own[2], (user + 1) % 2]
        histories.append(
            {
                "user_id": str(user),
                "items": early,
                "times": [(20 + place) * DAY_MS for place in range(4)],
                "likes": likes,
                "ratings": [5.0, 5.0, 5.0, 1.0],
            }
        )
        counts += [{"item": item, "day": 20 + p, "count": 1, "likes": likes[p]} for p, item in enumerate(early)]
        base = {"user_id": str(user), "first_target": 4, "profile": "", "seen": early}
        valid.append(base | {"as_of": VALID, "items": [*early, own[4]], "likes": [*likes, LIKED]})
        targets = [own[5], own[-1], (user + 1) % 2 + 8, own[0]]
        test.append(base | {"as_of": TEST, "items": early + targets, "likes": [*likes, LIKED, LIKED, DISLIKED, LIKED]})
    return {
        "items": pa.Table.from_pylist(items, CATALOGUE),
        "histories": pa.Table.from_pylist(histories, HISTORIES),
        "item_stats": pa.Table.from_pylist(counts, ITEM_STATS)
        .group_by(["item", "day"])
        .aggregate([("count", "sum"), ("likes", "sum")])
        .rename_columns(ITEM_STATS.names)
        .cast(ITEM_STATS),
        "rows/valid": pa.Table.from_pylist(valid, ROWS),
        "rows/test": pa.Table.from_pylist(test, ROWS),
    }


def publish(uri: Path, content: dict[str, pa.Table]) -> str:
    files = {}
    for folder, table in content.items():
        path = uri / folder / "part-0.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(table, path)
        files[f"{folder}/part-0.parquet"] = {"size": 0, "sha256": ""}
    return storage.publish(
        str(uri),
        "dataset",
        files,
        cutoffs={"valid": VALID, "test": TEST, "end": 70 * DAY_MS},
        num_items=ITEMS,
        history_length=50,
        like_rule={"like_threshold": 4.0, "liked_events": [], "disliked_events": []},
    )


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    return publish(tmp_path / "dataset", tables())


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A training whose stages are planted scorers: the taste turned round before, the taste itself after."""
    uri = str(tmp_path / "weights")
    planted = {"zero_shot": Parity(-1.0), "tuned": Parity(1.0)}
    for stage in planted:
        storage.publish(storage.join(uri, stage), "weights", {})
    storage.publish(uri, "training", {}, stages=list(planted))
    monkeypatch.setattr(evaluator, "_load_stage", lambda weights, stage, stats, states: planted[stage])
    return uri


def run(dataset: str, weights: str, uri: Path, config: EvaluateConfig = CONFIG) -> dict[str, Any]:
    return evaluate(dataset, weights, str(uri), config=config, seed=1, provenance={"code": "x"})


def measured(dataset: str, scorer: Scorer, users_per_block: int = 7) -> Measured:
    data = Dataset(dataset)
    rows = data.rows("test")
    return measure(scorer, rows, report_slices(rows, data.catalogue()), k=3, users_per_block=users_per_block)


def test_report_is_published_with_all_systems_and_the_planted_gain(dataset: str, weights: str, tmp_path: Path) -> None:
    report = run(dataset, weights, tmp_path / "report")
    assert report["order"] == [*BASELINES, "zero_shot", "tuned"]
    assert report == storage.read_json(str(tmp_path / "report" / "report.json"))
    assert storage.verify(str(tmp_path / "report"), "report")["code"] == "x"
    by_system = report["systems"]
    assert by_system["tuned"]["cold"]["ndcg"]["mean"] == 1.0
    assert by_system["tuned"]["all"]["auc"]["mean"] == 1.0
    assert by_system["zero_shot"]["all"]["ndcg"]["mean"] == 0.0
    assert by_system["tuned"]["all"]["log_loss"] < by_system["zero_shot"]["all"]["log_loss"]
    wins = {(one["less"], one["slice"]) for one in report["differences"] if one["win"] and one["system"] == "tuned"}
    assert ("zero_shot", "cold") in wins
    assert report["counts"] == {"items": ITEMS, "users": USERS, "targets": 4 * USERS}
    assert set(report["baselines"]) == set(BASELINES)
    assert {"head", "tail", "short_history", "long_history", "no_history"} < set(by_system["tuned"])
    assert all(one["coverage"] > 0 and one["popularity_bias"] for one in (by_system[s]["all"] for s in by_system))
    assert len(report["baselines"]["ease"]["trials"]) == 6


def test_text_finds_cold_items_and_behaviour_alone_does_not(dataset: str, weights: str, tmp_path: Path) -> None:
    by_system = run(dataset, weights, tmp_path / "report")["systems"]
    assert by_system["tfidf"]["cold"]["ndcg"]["mean"] == 1.0
    for name in ("popularity", "item_knn", "ease", "markov"):
        assert by_system[name]["cold"]["ndcg"]["mean"] < 0.7


def test_popularity_recommends_the_popular_and_taste_covers_more(dataset: str, weights: str, tmp_path: Path) -> None:
    by_system = run(dataset, weights, tmp_path / "report")["systems"]
    popularity, tuned = by_system["popularity"]["all"], by_system["tuned"]["all"]
    assert popularity["popularity_bias"]["mean"] > tuned["popularity_bias"]["mean"]
    assert popularity["coverage"] < tuned["coverage"] == 6 / ITEMS
    assert popularity["gini"] > tuned["gini"]


def test_the_same_run_again_returns_the_report_without_work(
    dataset: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(dataset, weights, tmp_path / "report")
    monkeypatch.setattr(evaluator, "measure", None)
    assert run(dataset, weights, tmp_path / "report") == first
    with pytest.raises(ValueError, match="made with another evaluate; delete that folder"):
        run(dataset, weights, tmp_path / "report", CONFIG.model_copy(update={"k": 5}))


def test_two_runs_write_the_same_bytes(dataset: str, weights: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(dataset, weights, tmp_path / name)
    assert (tmp_path / "a" / "report.json").read_bytes() == (tmp_path / "b" / "report.json").read_bytes()


def test_mistakes_are_named(dataset: str, weights: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is published"):
        run(str(tmp_path / "nowhere"), weights, tmp_path / "report")
    with pytest.raises(ValueError, match="expected a training"):
        run(dataset, dataset, tmp_path / "report")
    storage.publish(weights, "training", {}, stages=["ease"])
    with pytest.raises(ValueError, match=r"\['ease'\] have names of baselines"):
        run(dataset, weights, tmp_path / "report")


def test_fewer_users_are_drawn_by_the_seed(
    dataset: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(evaluator, "tune", lambda baseline, before, rows, config: (baseline.grid[0], []))
    monkeypatch.setattr(
        evaluator,
        "measure",
        lambda scorer, rows, *rest, **kw: (
            asked.append(rows["user_id"].to_pylist()) or measure(scorer, rows, *rest, **kw)
        ),
    )
    few = CONFIG.model_copy(update={"max_users": 8})
    report = run(dataset, weights, tmp_path / "few", few)
    assert report["counts"]["users"] == 8
    assert len({tuple(users) for users in asked}) == 1
    everyone = Dataset(dataset).rows("test")["user_id"].to_pylist()
    assert [user for user in everyone if user in asked[0]] == asked[0] != everyone[:8]


def test_baselines_are_tuned_on_as_many_validation_users_as_asked(
    dataset: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        evaluator, "tune", lambda baseline, before, rows, config: asked.append(len(rows)) or (baseline.grid[0], [])
    )
    run(dataset, weights, tmp_path / "few", CONFIG.model_copy(update={"validation_users": 5}))
    assert set(asked) == {5}


def test_an_empty_test_split_is_refused(weights: str, tmp_path: Path) -> None:
    empty = publish(tmp_path / "empty", tables() | {"rows/test": ROWS.empty_table()})
    with pytest.raises(ValueError, match=r"test split of .* has no rows"):
        run(empty, weights, tmp_path / "report")


def test_a_baseline_too_dear_for_the_catalogue_is_left_out_and_said_so(
    dataset: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BASELINES, "ease", replace(BASELINES["ease"], max_items=ITEMS - 1))
    report = run(dataset, weights, tmp_path / "report")
    assert "ease" not in report["systems"]
    assert report["left_out"] == {"ease": "the catalogue has 20 items, the limit is 19"}


def test_blocks_change_nothing(dataset: str) -> None:
    whole, blocks = (measured(dataset, Parity(1.0), size) for size in (USERS, 4))
    for name, metrics in whole.metrics.items():
        for metric, values_U in metrics.items():
            np.testing.assert_array_equal(blocks.metrics[name][metric], values_U)
    np.testing.assert_array_equal(blocks.row_E, whole.row_E)
    np.testing.assert_array_equal(blocks.like_E, whole.like_E)


def test_seen_items_are_neither_ranked_nor_relevant(dataset: str) -> None:
    """Own parity's items come in index order: the three seen would lead, and the target met before would be a hit."""
    found = measured(dataset, Parity(1.0)).metrics["all"]
    np.testing.assert_array_equal(found["recall"], 0.5)
    np.testing.assert_array_equal(found["mrr"], 1 / 3)


def test_slices_rank_what_they_say(dataset: str) -> None:
    rows, catalogue = Dataset(dataset).rows("test"), Dataset(dataset).catalogue()
    slices = report_slices(rows, catalogue)
    assert np.flatnonzero(slices["cold"].candidates_N).tolist() == list(COLD)
    assert np.flatnonzero(slices["cold_in_all"].relevant_N).tolist() == list(COLD)
    assert slices["cold_in_all"].candidates_N.all()
    assert not slices["warm"].candidates_N[list(COLD)].any()
    assert not slices["no_history"].users_U.any()
    found = measured(dataset, Parity(1.0)).metrics
    np.testing.assert_array_equal(found["cold"]["ndcg"], 1.0)
    np.testing.assert_array_equal(found["cold_in_all"]["ndcg"], 0.0)
    assert np.isnan(found["no_history"]["ndcg"]).all()


def test_tuning_takes_the_setting_that_validates_best(dataset: str) -> None:
    data = Dataset(dataset)
    before = past(data.histories(), data.stats(), data.catalogue(), data.cutoffs.valid)
    baseline = Baseline(
        lambda past, sharpness: Parity(sharpness), tuple({"sharpness": value} for value in (-1.0, 1.0, 2.0))
    )
    setting, trials = tune(baseline, before, data.rows("valid"), CONFIG)
    assert setting == {"sharpness": 1.0}
    assert [trial["ndcg"] for trial in trials] == [0.0, 0.63093, 0.63093]
    assert tune(baseline, before, ROWS.empty_table(), CONFIG) == ({"sharpness": -1.0}, [])
    setting, trials = tune(replace(baseline, log_odds=True), before, data.rows("valid"), CONFIG)
    assert setting == {"sharpness": 2.0}  # all validation targets are liked: the surer, the better
    assert [round(trial["log_loss"], 1) for trial in trials] == [1.3, 0.3, 0.1]
