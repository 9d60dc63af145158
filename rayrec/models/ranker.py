"""A trained recommender that answers: what evaluation scores with is what serving answers with."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from rayrec.item_stats import FEATURES, ItemStats
from rayrec.models.config import ModelConfig
from rayrec.models.encoder import LowerLayers, TextCache, load_encoder
from rayrec.models.heads import like_share
from rayrec.models.recommender import Recommender, known_or_guess, load_trained_state, trained_state
from rayrec.schema import Batch
from rayrec.storage import join, read_bytes, read_json, verify

NEW_ITEM = np.array([[0.0, 0.0, 1.0, 0.0]], np.float32)
"""FEATURES of an item that nobody has met."""
OF_ITEMS = ("fusion.ids.weight", "fusion.known_N")
"""Tensors of the catalogue's items."""


class Ranker:
    """Scores the catalogue, some of it, or items it has never seen, for rows of a Batch; implements schema.Scorer."""

    def __init__(self, model: Recommender, states: TextCache, catalogue: "CatalogueVectors", stats: ItemStats) -> None:
        """Args:
        model: in evaluation mode, and unchanged, from here on.
        states: LowerLayers.states, cached: turns profiles and new items' texts into states.
        catalogue: its items, encoded.
        stats: item statistics of the same catalogue.
        """
        self.model = model.eval()
        self.states = states
        self.catalogue = catalogue
        self.stats = stats
        self.pooled = TextCache(lambda texts: list(model.top.pool(states(texts))))

    def score(self, batch: Batch, items: np.ndarray | None = None, new_texts: Sequence[str] = ()) -> np.ndarray:
        """Ranking scores, float32 [B, C + len(new_texts)], from each row's context alone.

        Args:
            batch: rows; targets are not looked at.
            items: C dense indices, or None for the whole catalogue.
            new_texts: texts (text.item_texts) of items the catalogue lacks.
        """
        return self.score_and_like(batch, items, new_texts)[0]

    def like(self, batch: Batch, items: np.ndarray | None = None, new_texts: Sequence[str] = ()) -> np.ndarray:
        """Log-odds of a like, float32 [B, C + len(new_texts)]; arguments as for score()."""
        return self.score_and_like(batch, items, new_texts)[1]

    @torch.inference_mode()
    def score_and_like(
        self, batch: Batch, items: np.ndarray | None = None, new_texts: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both answers of one forward pass; arguments as for score()."""
        batch = batch.context_only()
        users_BD, share_B = self._users(batch)
        indices_C = np.arange(self.stats.num_items) if items is None else np.asarray(items, np.int64)
        picked_C = torch.from_numpy(indices_C)
        items_CD, guess_CF = self.catalogue.items_ND[picked_C], self.catalogue.guess_NF[picked_C]
        if new_texts:
            fresh = self.encode_texts(new_texts)
            items_CD, guess_CF = torch.cat([items_CD, fresh.items_ND]), torch.cat([guess_CF, fresh.guess_NF])
        match_BC = users_BD @ items_CD.T
        moments_M, moment_B = np.unique(batch.as_of_B, return_inverse=True)
        known_MCF = self.stats.features(indices_C[None, :], moments_M[:, None])
        new_MCF = np.broadcast_to(NEW_ITEM, (len(moments_M), len(new_texts), len(FEATURES)))
        features_MCF = torch.from_numpy(np.concatenate([known_MCF, new_MCF], 1))
        if self.model.use_text:
            features_MCF = known_or_guess(features_MCF, guess_CF)
        scores_BC, likes_BC = torch.empty_like(match_BC), torch.empty_like(match_BC)
        known_B = torch.from_numpy(batch.lengths_B)
        for moment in range(len(moments_M)):
            rows = torch.from_numpy(moment_B.reshape(-1) == moment)
            scores_BC[rows], likes_BC[rows] = self.model.heads(
                match_BC[rows], features_MCF[moment], known_B[rows, None], share_B[rows, None]
            )
        return scores_BC.numpy(), likes_BC.numpy()

    def _users(self, batch: Batch) -> tuple[Tensor, Tensor]:
        items_BL, likes_BL = torch.from_numpy(batch.items_BL), torch.from_numpy(batch.likes_BL)
        has_profile_B = torch.tensor([bool(profile) for profile in batch.profiles])
        pooled_BH = torch.stack(self.pooled(batch.profiles))
        users_BQD, _ = self.model.encode_users(self.catalogue.items_ND[items_BL], likes_BL, pooled_BH, has_profile_B)
        rows_B, last_B = torch.arange(len(items_BL)), torch.from_numpy(batch.lengths_B)
        return users_BQD[rows_B, last_B], like_share(likes_BL)[rows_B, last_B]

    def encode_texts(self, texts: Sequence[str]) -> "CatalogueVectors":
        """Encodes items that the catalogue lacks."""
        return catalogue_vectors(self.model, torch.stack(self.pooled(texts)), torch.full((len(texts),), -1))


@dataclass(frozen=True)
class CatalogueVectors:
    """Items encoded once.

    Attributes:
        items_ND: item vectors.
        guess_NF: FEATURES guessed from the text.
    """

    items_ND: Tensor
    guess_NF: Tensor


@torch.inference_mode()
def catalogue_vectors(model: Recommender, pooled_NH: Tensor, items_N: Tensor | None = None) -> CatalogueVectors:
    """Encodes items without dropout.

    Args:
        model: put into evaluation mode for the call.
        pooled_NH: the language model's vectors.
        items_N: dense indices, -1 outside the catalogue; None for the whole catalogue in order.
    """
    training = model.training
    model.eval()
    items_N = torch.arange(len(pooled_NH)) if items_N is None else items_N
    items_ND, _, guess_NF = model.encode_items(pooled_NH, items_N)
    model.train(training)
    return CatalogueVectors(items_ND.clone(), guess_NF.clone())


def save_weights(directory: str, model: Recommender, catalogue: CatalogueVectors, about: dict[str, Any]) -> None:
    """Writes model.safetensors, items.safetensors and config.json into a local directory.

    Args:
        directory: made where it is missing.
        model: only what differs from the pretrained language model is written.
        catalogue: its items, encoded.
        about: further JSON values, such as the stage's name and its validation metrics.
    """
    os.makedirs(directory, exist_ok=True)
    save_file(trained_state(model), os.path.join(directory, "model.safetensors"))
    vectors = {"items": catalogue.items_ND.contiguous(), "guess": catalogue.guess_NF.contiguous()}
    save_file(vectors, os.path.join(directory, "items.safetensors"))
    config = {
        "model": model.config.model_dump(mode="json"),
        "use_text": model.use_text,
        "num_items": len(catalogue.items_ND),
    }
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump({**about, **config}, file, indent=1, sort_keys=True)


def load_weights(directory: str, model: Recommender) -> None:
    """Fills a model with the tensors of a directory of save_weights(), on any storage.

    Raises:
        ValueError: the directory is not published, was altered, or does not fit the model.
    """
    verify(directory, "weights")
    load_trained_state(model, load(read_bytes(join(directory, "model.safetensors"))))


def load_other_weights(directory: str, model: Recommender) -> None:
    """Fills a text model with what was learnt on another catalogue: everything but its items' own vectors.

    Raises:
        ValueError: the directory is not published, was altered, is an ID-only control, or does not fit the model.
    """
    verify(directory, "weights")
    about = read_json(join(directory, "config.json"))
    for name, wanted, seen in (
        ("use_text", True, about["use_text"]),
        ("model.language_model", model.config.language_model, about["model"]["language_model"]),
        ("model.pretrained", model.config.pretrained, about["model"]["pretrained"]),
    ):
        if seen != wanted:
            raise ValueError(
                f"train.start_from={directory} was trained with {name}={seen}; expected {wanted}: name a text stage of "
                "the same language model"
            )
    state = load(read_bytes(join(directory, "model.safetensors")))
    own = {name: value for name, value in model.state_dict().items() if name in OF_ITEMS}
    load_trained_state(model, {**state, **own})


def load_ranker(
    weights: str, stats: ItemStats, language_model: str | None = None, shared: dict[str, TextCache] | None = None
) -> Ranker:
    """Reads a local, verified directory of save_weights().

    Args:
        weights: the directory.
        stats: item statistics of the catalogue the weights were trained on.
        language_model: a folder whose language model already holds what was trained in it (a bundle's), or None for
            the pretrained one named in the config.
        shared: states of texts by frozen layers, filled here and used again by rankers that have the same ones.

    Raises:
        ValueError: another catalogue size, or tensors that do not fit.
    """
    with open(os.path.join(weights, "config.json")) as file:
        about = json.load(file)
    if about["num_items"] != stats.num_items:
        raise ValueError(
            f"{weights} was trained on {about['num_items']} items, the data set has {stats.num_items}; "
            "use the data set it was trained on"
        )
    config = ModelConfig(**about["model"])
    lower, top = load_encoder(config, language_model)
    model = Recommender(config, top, num_items=stats.num_items, use_text=about["use_text"])
    state = load_file(os.path.join(weights, "model.safetensors"))
    if language_model is not None:
        state = {name: value for name, value in state.items() if not name.startswith("top.")}
    load_trained_state(model, state, language_model=language_model is None)
    vectors = load_file(os.path.join(weights, "items.safetensors"))
    states = TextCache(lower.states)
    if shared is not None:
        below = {"language_model", "pretrained", "trainable_layers", "max_tokens"}
        states = shared.setdefault(config.model_dump_json(include=below), states)
    return Ranker(model, states, CatalogueVectors(vectors["items"], vectors["guess"]), stats)


def new_model(config: ModelConfig, *, num_items: int, use_text: bool, seed: int) -> tuple[LowerLayers, Recommender]:
    """A recommender at step 0 with its frozen lower layers; equal seeds give equal parameters."""
    lower, top = load_encoder(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Recommender(config, top, num_items=num_items, use_text=use_text)
    return lower, model
