"""A small catalogue and a ranker by shared words, whose answers can be worked out by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.privacy import Privacy
from rayrec.profiles import LikeRule
from rayrec.schema import DISLIKED, ITEMS, Batch
from rayrec.terms import Terms, terms_of
from rayrec.text import item_texts

END_OF_LOGS = 1_000_000
FILMS = [
    ("space1", "Rocket Dawn", ["space", "adventure"]),
    ("space2", "Moon Station", ["space"]),
    ("space3", "Rocket Fall", ["space", "drama"]),
    ("love1", "Paris Letters", ["romance"]),
    ("love2", "Summer Wedding", ["romance", "comedy"]),
    ("crime1", "Harbour Murder", ["crime", "drama"]),
]


def _words(text: str) -> list[str]:
    return text.lower().replace(".", " ").replace(",", " ").split()


class WordRanker:
    """Scores an item by the words it shares with the profile and, weighted by recency and opinion, with the history."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.calls = 0
        self.encoded: list[str] = []

    def score_and_like(
        self, batch: Batch, items: np.ndarray | None = None, new_texts: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores, and the scores less one as log-odds."""
        self.calls += 1
        self.encoded = list(new_texts)
        chosen = self.texts if items is None else [self.texts[item] for item in items]
        scores_BC = np.zeros((len(batch.profiles), len(chosen) + len(new_texts)), np.float32)
        for row, profile in enumerate(batch.profiles):
            taste = dict.fromkeys(_words(profile), 1.0)
            length = int(batch.lengths_B[row])
            for place in range(length):
                opinion = -1.0 if batch.likes_BL[row, place] == DISLIKED else 1.0
                for word in _words(self.texts[batch.items_BL[row, place]]):
                    taste[word] = taste.get(word, 0.0) + opinion * 0.5 ** (length - place)
            for column, text in enumerate([*chosen, *new_texts]):
                scores_BC[row, column] = sum(taste.get(word, 0.0) for word in _words(text))
        return scores_BC, scores_BC - 1


@dataclass(frozen=True)
class FilmBundle:
    """A rayrec.export.bundle.Bundle with a WordRanker."""

    ranker: WordRanker
    items: pa.Table
    terms: Terms
    rule: LikeRule
    history_length: int
    as_of: int
    privacy: Privacy
    manifest: Mapping[str, Any]


def film_bundle(history_length: int = 3, redact: bool = False) -> FilmBundle:
    """The six films, of logs that were redacted or not."""
    rows = [{"item_id": name, "title": title, "categories": labels} for name, title, labels in FILMS]
    items = pa.Table.from_pylist(rows, schema=ITEMS)
    return FilmBundle(
        ranker=WordRanker(item_texts(items)),
        items=items,
        terms=terms_of(items),
        rule=LikeRule(),
        history_length=history_length,
        as_of=END_OF_LOGS,
        privacy=Privacy(None, redact, ("US",)),
        manifest={"fingerprint": "ab12", "stage": "tuned"},
    )
