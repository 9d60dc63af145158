import numpy as np
import pytest
import torch

from rayrec.catalogue import CatalogueStates
from rayrec.data.config import LoaderConfig
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader
from rayrec.models.encoder import LowerLayers, TextCache, TopLayers, load_encoder
from rayrec.schema import Batch
from rayrec.text import item_texts
from rayrec.train.collate import Collate, pooled_profiles
from tests import tiny
from tests.tiny import states_in_process


@pytest.fixture(scope="module")
def encoder(language_model: str) -> tuple[LowerLayers, TopLayers]:
    return load_encoder(tiny.model_config(language_model))


@pytest.fixture(scope="module")
def states(encoder: tuple[LowerLayers, TopLayers], data: Dataset) -> CatalogueStates:
    return states_in_process(item_texts(data.catalogue()), encoder[0])


@pytest.fixture(scope="module")
def batches(data: Dataset) -> list[Batch]:
    steps = Loader(data, LoaderConfig(slots_per_batch=200, num_negatives=16), seed=0).epoch(0)
    return [batch for step, _ in zip(steps, range(4), strict=False) for batch in step.batches]


def pooled(encoder: tuple[LowerLayers, TopLayers], states: CatalogueStates) -> torch.Tensor:
    return encoder[1].pool([states[index] for index in range(len(states))])


@pytest.mark.parametrize("tuned", [False, True])
def test_every_place_points_at_what_the_batch_holds(
    encoder: tuple[LowerLayers, TopLayers], states: CatalogueStates, data: Dataset, batches: list[Batch], tuned: bool
) -> None:
    lower, top = encoder
    pooled_NH, stats = pooled(encoder, states), data.stats()
    cache = TextCache(lower.states)
    profiles = cache if tuned else pooled_profiles(top.pool, cache)
    collate = Collate(stats, 2 * pooled_NH, profiles, pooled_NH=None if tuned else pooled_NH, catalogue=states)
    assert any(batch.targets_BL.any() for batch in batches)
    assert any(not batch.targets_BL.any() for batch in batches)
    for batch in batches:
        made = collate(batch)
        items_U = made.items_U.numpy()
        assert len(np.unique(items_U)) == len(items_U)
        np.testing.assert_array_equal(items_U[made.slots_BL.numpy()], batch.items_BL)
        np.testing.assert_array_equal(items_U[made.negatives_K.numpy()], batch.negatives_K)
        np.testing.assert_array_equal(made.likes_BL.numpy(), batch.likes_BL)
        np.testing.assert_array_equal(made.targets_BL.numpy(), batch.targets_BL)
        np.testing.assert_array_equal(made.has_profile_B.numpy(), [profile != "" for profile in batch.profiles])
        for row, moment in enumerate(batch.as_of_B):
            np.testing.assert_array_equal(made.features_BLF[row], stats.features(batch.items_BL[row], moment))
            np.testing.assert_array_equal(made.features_BKF[row], stats.features(batch.negatives_K, moment))
        torch.testing.assert_close(made.anchor_UH, 2 * pooled_NH[made.items_U])
        expected_XH = torch.cat([pooled_NH[made.items_U], top.pool(lower.states(batch.profiles))])
        with torch.no_grad():
            found_XH = made.pooled_XH if made.states_X is None else top.eval()(made.states_X)
        assert (made.states_X is not None) == tuned
        torch.testing.assert_close(found_XH, expected_XH, atol=1e-5, rtol=1e-5)
