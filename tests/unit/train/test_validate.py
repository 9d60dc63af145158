import math
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from rayrec.data.dataset import Dataset
from rayrec.evaluate.measure import Slice, measure
from rayrec.models.user import UserTower
from rayrec.schema import DISLIKED, Batch, Scorer
from rayrec.train.validate import CALIBRATION_DECAYS, Validation, calibrate

pytestmark = pytest.mark.usefixtures("alone")


class Random(Scorer):
    """A scorer by row and item, whatever the rest of the batch."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def score_and_like(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The same twice, float32 [B, N]."""
        rows = [np.random.default_rng(zlib.crc32(row.encode())).random(self.num_items) for row in batch.row_ids]
        return np.array(rows, np.float32), np.array(rows, np.float32)


def held_out(data: Dataset) -> np.ndarray:
    return np.array(data.catalogue()["held_out"].to_pylist()) == "valid"


@pytest.mark.parametrize("k", [5, 100])
def test_validation_measures_what_evaluation_measures(data: Dataset, k: int) -> None:
    rows, scorer, cold_N = data.rows("valid"), Random(data.num_items), held_out(data)
    found = Validation(rows, cold_N, k)(scorer)  # type: ignore[arg-type]
    every_N, everyone_U = np.ones(data.num_items, bool), np.ones(len(rows), bool)
    slices = {"all": Slice(every_N, every_N, everyone_U), "cold": Slice(cold_N, cold_N, everyone_U)}
    metrics = measure(scorer, rows, slices, k=k, users_per_block=7).metrics
    assert found["ndcg"] == pytest.approx(np.nanmean(metrics["all"]["ndcg"]))
    assert found["cold_ndcg"] == pytest.approx(np.nanmean(metrics["cold"]["ndcg"]))
    assert found["value"] == pytest.approx((found["ndcg"] + found["cold_ndcg"]) / 2)
    assert 0 < found["value"] < 1


def test_without_held_out_items_all_items_alone_choose(data: Dataset) -> None:
    found = Validation(data.rows("valid"), np.zeros(data.num_items, bool), 10)(Random(data.num_items))  # type: ignore[arg-type]
    assert math.isnan(found["cold_ndcg"])
    assert found["value"] == found["ndcg"]


def test_weights_that_have_diverged_have_the_lowest_value(data: Dataset) -> None:
    class Diverged(Random):
        def score(self, *args: Any, **kwargs: Any) -> np.ndarray:
            scores_BN = super().score(*args, **kwargs)
            scores_BN[-1, 0] = np.nan
            return scores_BN

    found = Validation(data.rows("valid"), held_out(data), 10)(Diverged(data.num_items))  # type: ignore[arg-type]
    assert found["value"] == -math.inf
    assert math.isnan(found["ndcg"])


def test_without_a_liked_target_it_is_refused_with_the_remedy(data: Dataset) -> None:
    rows = data.rows("valid")
    disliked = [[DISLIKED] * len(likes) for likes in rows["likes"].to_pylist()]
    place = rows.column_names.index("likes")
    rows = rows.set_column(place, "likes", pa.array(disliked, rows.schema.field("likes").type))
    with pytest.raises(ValueError, match=r"no validation user has a liked target; lower data\.like_threshold"):
        Validation(rows, held_out(data), 10)(Random(data.num_items))  # type: ignore[arg-type]


def planted(decay: float, dislike: float, profile: float) -> tuple[UserTower, dict[str, float]]:
    """What calibrate chooses where the value is highest at the planted numbers."""
    user = UserTower(4, layers=1, heads=1, max_positions=4, dropout=0.0)

    def validation(ranker: Any) -> dict[str, float]:
        tower: UserTower = ranker.model.user
        numbers = (tower.log_decay.exp(), tower.dislike_weight, tower.profile_weight_2.mean())
        seen = tuple(float(number.detach()) for number in numbers)
        distance = sum(abs(a - b) for a, b in zip(seen, (decay, dislike, profile), strict=True))
        return {"value": -distance}

    best = calibrate(SimpleNamespace(model=SimpleNamespace(user=user)), validation)  # type: ignore[arg-type]
    return user, best


def test_calibration_finds_the_planted_numbers() -> None:
    user, best = planted(CALIBRATION_DECAYS[2], -0.3, 0.3)
    assert float(user.log_decay.detach().exp()) == pytest.approx(CALIBRATION_DECAYS[2])
    assert float(user.dislike_weight.detach()) == pytest.approx(-0.3)
    assert user.profile_weight_2.tolist() == pytest.approx([0.3, 0.3])
    assert best["value"] == pytest.approx(0, abs=1e-6)


def test_calibration_keeps_what_cannot_be_improved() -> None:
    before = UserTower(4, layers=1, heads=1, max_positions=4, dropout=0.0)
    user, best = planted(0.05, 0.0, 0.1)
    for name in ("log_decay", "dislike_weight", "profile_weight_2"):
        assert torch.equal(getattr(user, name), getattr(before, name))
    assert best["value"] == pytest.approx(0, abs=1e-6)
