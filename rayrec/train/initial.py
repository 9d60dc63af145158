"""What there is before a stage trains: the texts under each control, the language model's vectors of them, step 0."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rayrec.catalogue import CatalogueStates, load_states
from rayrec.data.dataset import Dataset
from rayrec.data.loader import Loader
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import TextCache
from rayrec.models.ranker import new_model
from rayrec.models.recommender import Recommender
from rayrec.train.config import Control
from rayrec.train.loop import seed_of

WHITENED_PROFILES = 256
"""Training profiles whose mean centres all profiles."""


def model_of(model: ModelConfig, control: Control | None) -> ModelConfig:
    """What a control trains."""
    return model.model_copy(update={"pretrained": False}) if control == "random_weights" else model


@dataclass(frozen=True)
class Texts:
    """What an untrained language model makes of the texts, under one control.

    Attributes:
        model: names the language model.
        catalogue: states of the items' texts.
        profiles: profiles to states.
        anchor_NH: vectors of the items.
        some_profiles_PH: vectors of some of training's profiles, whose mean centres all.
    """

    model: ModelConfig
    catalogue: CatalogueStates
    profiles: TextCache
    anchor_NH: Tensor
    some_profiles_PH: Tensor


def pool(model: Recommender, catalogue: CatalogueStates) -> Tensor:
    """The catalogue's vectors by a model's language model, [N, H], each rank computing a share, on every rank."""
    pooled_NH = torch.zeros(len(catalogue), model.top.hidden_size)
    share = list(range(dist.get_rank(), len(catalogue), dist.get_world_size()))
    pooled_NH[share] = model.top.pool([catalogue[index] for index in share])
    dist.all_reduce(pooled_NH)
    return pooled_NH


class Initial:
    """Texts and models at step 0, by control; the texts of each are made once."""

    def __init__(
        self, data: Dataset, loader: Loader, model: ModelConfig, states: Mapping[bool, str], seed: int
    ) -> None:
        """Args:
        data: the prepared data set.
        loader: knows the items and profiles of training.
        model: shape of the recommender.
        states: by whether the language model is pretrained, a local directory of encode_catalogue().
        seed: of the run.
        """
        self.loader, self.model, self.states, self.seed = loader, model, states, seed
        self.stats = data.stats()
        self.valid_ms = np.array(data.cutoffs.valid)
        self._texts: dict[Control | None, Texts] = {}

    def texts(self, control: Control | None) -> Texts:
        """The texts under a control, made once; every rank asks at the same time."""
        control = None if control == "id_only" else control  # whose texts are made and not looked at
        if control not in self._texts:
            config = model_of(self.model, control)
            catalogue = load_states(self.states[config.pretrained])
            if control == "shuffled_texts":
                catalogue = catalogue.shuffled(self.seed)
            lower, model = new_model(config, num_items=len(catalogue), use_text=True, seed=0)
            profiles = TextCache(lower.states)
            some_PH = model.top.pool(profiles(self.loader.some_profiles(WHITENED_PROFILES)))
            self._texts[control] = Texts(config, catalogue, profiles, pool(model, catalogue), some_PH)
        return self._texts[control]

    def fresh(self, stage_index: int, control: Control | None) -> Recommender:
        """A model at step 0: whitened on the items that training may see, which alone may use ID vectors."""
        seed, texts = seed_of(self.seed, stage_index), self.texts(control)
        use_text = control != "id_only"
        _, model = new_model(texts.model, num_items=len(texts.catalogue), use_text=use_text, seed=seed)
        trained = torch.from_numpy(self.loader.items)
        model.fusion.known_N[trained] = True
        model.whitening.fit(texts.anchor_NH[trained], texts.some_profiles_PH, texts.model.whitening_shrinkage)
        features_NF = self.stats.features(self.loader.items, self.valid_ms)
        model.fusion.fit_guess(model.whitening(texts.anchor_NH[trained]), torch.from_numpy(features_NF))
        return model
