"""A Batch of the loader to a ModelInput: distinct items once, their texts, their features as of each row's moment."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rayrec.catalogue import CatalogueStates
from rayrec.item_stats import ItemStats
from rayrec.models.encoder import TextCache, pad_states
from rayrec.models.recommender import ModelInput
from rayrec.schema import Batch


class Collate:
    """Turns Batches into ModelInputs for one stage."""

    def __init__(
        self,
        stats: ItemStats,
        anchor_NH: Tensor,
        profiles: TextCache,
        *,
        pooled_NH: Tensor | None,
        catalogue: CatalogueStates,
    ) -> None:
        """Args:
        stats: of the data set.
        anchor_NH: the catalogue's vectors by the pretrained language model.
        profiles: states of profile texts where the language model is trained, else their pooled vectors.
        pooled_NH: the catalogue's vectors where the language model is frozen, else None.
        catalogue: states of the catalogue, used where pooled_NH is None.
        """
        self.stats = stats
        self.anchor_NH = anchor_NH
        self.profiles = profiles
        self.pooled_NH = pooled_NH
        self.catalogue = catalogue

    def __call__(self, batch: Batch) -> ModelInput:
        """One micro-batch."""
        rows, length = batch.items_BL.shape
        members = np.concatenate([batch.items_BL.reshape(-1), batch.negatives_K])
        items_U, inverse = np.unique(members, return_inverse=True)
        slots = torch.from_numpy(inverse.reshape(-1))
        profiles = self.profiles(batch.profiles)
        pooled_XH = states_X = None
        if self.pooled_NH is not None:
            pooled_XH = torch.cat([self.pooled_NH[torch.from_numpy(items_U)], torch.stack(profiles)])
        else:
            states_X = pad_states([*(self.catalogue[int(item)] for item in items_U), *profiles])
        return ModelInput(
            items_U=torch.from_numpy(items_U),
            slots_BL=slots[: rows * length].reshape(rows, length),
            likes_BL=torch.from_numpy(batch.likes_BL),
            targets_BL=torch.from_numpy(batch.targets_BL),
            negatives_K=slots[rows * length :],
            features_BLF=torch.from_numpy(self.stats.features(batch.items_BL, batch.as_of_B[:, None])),
            features_BKF=torch.from_numpy(self.stats.features(batch.negatives_K[None], batch.as_of_B[:, None])),
            has_profile_B=torch.tensor([bool(profile) for profile in batch.profiles]),
            pooled_XH=pooled_XH,
            states_X=states_X,
            anchor_UH=self.anchor_NH[torch.from_numpy(items_U)],
        )


def pooled_profiles(pool: Callable[[Sequence[Tensor]], Tensor], states: TextCache) -> TextCache:
    """Pooled vectors of profiles, computed once each, for stages whose language model is frozen."""
    return TextCache(lambda texts: list(pool(states(texts))))
