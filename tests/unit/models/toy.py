"""A whole recommender on the toy language model, its catalogue and a few rows, small enough to check by hand."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayrec.item_stats import DAY_MS, ItemStats
from rayrec.models.encoder import LowerLayers, TextCache
from rayrec.models.ranker import Ranker, catalogue_vectors, new_model
from rayrec.models.recommender import ModelInput, Recommender
from rayrec.schema import DISLIKED, ITEM_STATS, LIKED, ROWS, UNKNOWN, Batch, batch_of_rows
from rayrec.train.collate import Collate
from tests import tiny
from tests.synthetic import TOPICS
from tests.tiny import states_in_process

TEXTS = [f"{first}. {second}" for phrases in TOPICS.values() for first, second in pairwise(phrases)]
NUM_ITEMS, NUM_KNOWN = len(TEXTS), len(TEXTS) - 4
AS_OF = 40 * DAY_MS
PROFILES = ["likes zero gravity", "", "interested in desserts", ""]
CONTEXTS = [
    [(3, LIKED), (10, DISLIKED), (7, UNKNOWN), (30, LIKED)],
    [(1, UNKNOWN)],
    [],
    [(5, LIKED), (6, LIKED), (8, DISLIKED), (9, LIKED), (11, LIKED), (12, LIKED)],
]
TARGETS = [(20, LIKED), (2, DISLIKED), (25, UNKNOWN)]
NEGATIVES = np.array([4, 20, 33, 4])


@dataclass(frozen=True)
class Toy:
    """Everything of one recommender.

    Attributes:
        lower, model: as new_model() makes them, whitened on the known items.
        stats: the last four items were never met.
        states: of TEXTS.
        pooled_NH: of TEXTS by the language model as it was made.
    """

    lower: LowerLayers
    model: Recommender
    stats: ItemStats
    states: list[Tensor]
    pooled_NH: Tensor

    def ranker(self) -> Ranker:
        """Of the model as it is now."""
        vectors = catalogue_vectors(self.model, self.model.top.pool(self.states))
        return Ranker(self.model, TextCache(self.lower.states), vectors, self.stats)

    def inputs(self, batch: Batch, tuned: bool = False) -> ModelInput:
        """The batch as tensors, for a frozen language model or for one in training."""
        states = TextCache(self.lower.states)
        pooled = TextCache(lambda texts: list(self.model.top.pool(states(texts))))
        return Collate(
            self.stats,
            self.pooled_NH,
            states if tuned else pooled,
            pooled_NH=None if tuned else self.pooled_NH,
            catalogue=states_in_process(TEXTS, self.lower),
        )(batch)

    def disturb(self, scale: float = 0.1) -> "Toy":
        """Moves every parameter, the pretrained ones aside, so that nothing is zero; returns itself."""
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if not name.startswith("top.") or "lora_" in name:
                    parameter += scale * torch.randn(parameter.shape, generator=generator)
        return self


def build(language_model: str, use_text: bool = True, **config: object) -> Toy:
    """At step 0."""
    lower, model = new_model(
        tiny.model_config(language_model, **config), num_items=NUM_ITEMS, use_text=use_text, seed=0
    )
    states = lower.states(TEXTS)
    pooled_NH = model.top.pool(states)
    profiles_PH = model.top.pool(lower.states([*PROFILES, "likes a derby between two towns"]))
    model.whitening.fit(pooled_NH[:NUM_KNOWN], profiles_PH, 0.1)
    model.fusion.known_N[:NUM_KNOWN] = True
    daily = [
        {"item": item, "day": day, "count": 1 + (item + day) % 5, "likes": (item + day) % 2}
        for item in range(NUM_KNOWN)
        for day in (10, 30 + item % 9)
    ]
    stats = ItemStats(pa.Table.from_pylist(daily, ITEM_STATS), NUM_ITEMS)
    model.fusion.fit_guess(
        model.whitening(pooled_NH[:NUM_KNOWN]), torch.from_numpy(stats.features(np.arange(NUM_KNOWN), np.array(AS_OF)))
    )
    return Toy(lower, model.eval(), stats, states, pooled_NH)


def rows(contexts: list[list[tuple[int, int]]], profiles: list[str], targets: list[tuple[int, int]]) -> Batch:
    """Rows with equal targets, a day apart."""
    table = [
        {
            "user_id": str(row),
            "as_of": AS_OF - row * DAY_MS,
            "items": [item for item, _ in context + targets],
            "likes": [like for _, like in context + targets],
            "first_target": len(context),
            "profile": profile,
        }
        for row, (context, profile) in enumerate(zip(contexts, profiles, strict=True))
    ]
    return batch_of_rows(pa.Table.from_pylist(table, ROWS), NEGATIVES)


def batch() -> Batch:
    """All the rows above."""
    return rows(CONTEXTS, PROFILES, TARGETS)


def single(row: int) -> Batch:
    """One of them, at its own moment."""
    whole = rows(CONTEXTS[: row + 1], PROFILES[: row + 1], TARGETS)
    length = int(whole.lengths_B[row])
    return Batch(
        whole.items_BL[row:, :length],
        whole.likes_BL[row:, :length],
        whole.lengths_B[row:],
        whole.first_target_B[row:],
        whole.as_of_B[row:],
        whole.profiles[row:],
        whole.row_ids[row:],
        whole.negatives_K,
    )


def nothing() -> Batch:
    """A micro-batch of a stream that has ended."""
    empty = rows([[]], [""], [])
    return Batch(
        np.zeros((1, 1), np.int64),
        np.full((1, 1), UNKNOWN, np.int8),
        empty.lengths_B,
        empty.first_target_B,
        empty.as_of_B,
        empty.profiles,
        empty.row_ids,
        empty.negatives_K,
    )
