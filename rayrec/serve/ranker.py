"""Requests answered by a bundle's ranker: the same history, profile and scorer that evaluation used. Knows no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.export.bundle import Bundle
from rayrec.profiles import histories, profile_texts
from rayrec.schema import EVENTS, ITEMS, Batch, batch_of_rows
from rayrec.serve.requests import (
    Candidate,
    ModelInfo,
    RankedCandidate,
    Ranking,
    RankRequest,
    Recommendation,
    RecommendedItem,
    RecommendRequest,
    User,
)
from rayrec.terms import review_terms
from rayrec.text import item_texts

TOLD = EVENTS.append(pa.field("review", pa.string()))
"""What requests tell of events."""


class BadRequestError(ValueError):
    """A request that parsed well but that this bundle cannot answer.

    Attributes:
        location: path of the field at fault.
    """

    def __init__(self, location: tuple[str | int, ...], message: str) -> None:
        """Args:
        location: path of the field at fault.
        message: what was seen and what to do.
        """
        super().__init__(message)
        self.location = location


@dataclass(frozen=True)
class Contexts:
    """Users as the model sees them.

    Attributes:
        batch: one row a user, context only.
        seen: dense indices that each user met before the moment, also those beyond the model's history length.
        unknown: ids of each user's history that the bundle does not know.
    """

    batch: Batch
    seen: list[np.ndarray]
    unknown: list[list[str]]


def top_k(scores_N: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k highest scores, best first, equal scores by index; -inf never appears."""
    k = min(k, int(np.count_nonzero(scores_N > -np.inf)))
    if k == 0:
        return np.zeros(0, np.int64)
    least = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
    best = np.flatnonzero(scores_N >= least)
    return best[np.argsort(-scores_N[best], kind="stable")][:k]


def _probability(log_odds: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * log_odds.astype(np.float64))))


class RequestRanker:
    """Answers requests, several in one pass of the model."""

    def __init__(self, bundle: Bundle) -> None:
        """Args:
        bundle: what export published.
        """
        self.bundle = bundle
        self.item_ids: list[str] = bundle.items["item_id"].to_pylist()
        self.titles: list[str] = bundle.items["title"].to_pylist()
        self.index = {item_id: index for index, item_id in enumerate(self.item_ids)}
        self.model = ModelInfo(fingerprint=bundle.manifest["fingerprint"], stage=bundle.manifest["stage"])

    def contexts(self, users: Sequence[User], moments: Sequence[int | None]) -> Contexts:
        """Turns B users into one batch.

        Args:
            users: B histories (any order where they have timestamps) and profile sentences.
            moments: B moments in ms; None stands for the later of the end of the logs and just after the last event.
        """
        as_of = np.array([self._moment(user, moment) for user, moment in zip(users, moments, strict=True)], np.int64)
        events, unknown = self._events(users, as_of)
        past = histories(events, self.bundle.rule)
        bounds = np.zeros((len(users), 2), np.int64)
        bounds[[int(name) for name in past.user_ids]] = np.stack([past.offsets_U1[:-1], past.offsets_U1[1:]], axis=1)
        seen = [np.unique(past.items_E[start:end]) for start, end in bounds]
        starts = np.maximum(bounds[:, 0], bounds[:, 1] - self.bundle.history_length)
        lengths = bounds[:, 1] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        kept = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        items, likes = past.items_E[kept], past.likes_E[kept]
        sentences, _ = self.bundle.privacy.redacted(pa.array([user.profile for user in users], pa.string()))
        lists = pa.array(offsets, pa.int32())
        rows = pa.table(
            {
                "user_id": [f"request-{row}" for row in range(len(users))],
                "as_of": as_of,
                "items": pa.ListArray.from_arrays(lists, pa.array(items)),
                "likes": pa.ListArray.from_arrays(lists, pa.array(likes)),
                "first_target": pa.array(lengths, pa.int32()),
                "profile": profile_texts(
                    items,
                    likes,
                    offsets,
                    sentences,
                    self.bundle.terms,
                    None if past.terms is None else past.terms.take(pa.array(kept)),
                ),
            }
        )
        return Contexts(batch_of_rows(rows), seen, unknown)

    def _moment(self, user: User, moment: int | None) -> int:
        if moment is not None:
            return moment
        return max([self.bundle.as_of, *(event.timestamp + 1 for event in user.history if event.timestamp is not None)])

    def _events(self, users: Sequence[User], as_of: np.ndarray) -> tuple[pa.Table, list[list[str]]]:
        """Events of known items strictly before each user's moment, users named by their row."""
        columns: dict[str, list[Any]] = {name: [] for name in TOLD.names}
        unknown: list[list[str]] = []
        for row, user in enumerate(users):
            unknown.append([event.item_id for event in user.history if event.item_id not in self.index])
            for place, event in enumerate(user.history):
                in_order = int(as_of[row]) - len(user.history) + place
                timestamp = in_order if event.timestamp is None else event.timestamp
                if event.item_id in self.index and timestamp < as_of[row]:
                    values = (
                        str(row),
                        self.index[event.item_id],
                        timestamp,
                        event.rating,
                        event.event,
                        event.review,
                    )
                    for column, value in zip(columns.values(), values, strict=True):
                        column.append(value)
        events = pa.table(columns, schema=TOLD)
        if events["review"].null_count < len(events):
            reviews, _ = self.bundle.privacy.redacted(events["review"].combine_chunks())
            events = events.append_column("terms", review_terms(reviews, self.bundle.terms))
        return events, unknown

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Recommendation]:
        """The k best items of the catalogue for each request, without those seen before the moment or excluded."""
        contexts = self.contexts(requests, [request.as_of for request in requests])
        scores_BN, likes_BN = self.bundle.ranker.score_and_like(contexts.batch)
        answers = []
        for row, request in enumerate(requests):
            unknown = contexts.unknown[row] + [item_id for item_id in request.exclude if item_id not in self.index]
            open_N = np.array(scores_BN[row])
            open_N[contexts.seen[row]] = -np.inf
            open_N[[self.index[item_id] for item_id in request.exclude if item_id in self.index]] = -np.inf
            best = top_k(open_N, request.k)
            probabilities = _probability(likes_BN[row, best])
            items = [
                RecommendedItem(
                    item_id=self.item_ids[item],
                    title=self.titles[item],
                    score=float(scores_BN[row, item]),
                    like_probability=float(probability),
                )
                for item, probability in zip(best, probabilities, strict=True)
            ]
            answers.append(Recommendation(items=items, unknown_items=list(dict.fromkeys(unknown)), model=self.model))
        return answers

    def rank(self, request: RankRequest) -> Ranking:
        """The candidates of one request, best first.

        Raises:
            BadRequestError: a candidate has an id that the bundle does not know, and no title.
        """
        contexts = self.contexts([request.user], [request.as_of])
        known = [place for place, given in enumerate(request.candidates) if given.item_id in self.index]
        new = [place for place, given in enumerate(request.candidates) if given.item_id not in self.index]
        items = np.array([self.index[request.candidates[place].item_id or ""] for place in known], np.int64)
        new_items = self._new_items({place: request.candidates[place] for place in new})
        scores_BC, likes_BC = self.bundle.ranker.score_and_like(contexts.batch, items, item_texts(new_items))
        scores_C, likes_C = scores_BC[0], _probability(likes_BC[0])
        places = np.array(known + new)
        titles = [*(self.titles[item] for item in items), *new_items["title"].to_pylist()]
        answers = []
        for column in np.lexsort((places, -scores_C)):
            given = request.candidates[places[column]]
            answers.append(
                RankedCandidate(
                    candidate=int(places[column]),
                    item_id=given.item_id,
                    title=titles[column],
                    score=float(scores_C[column]),
                    like_probability=float(likes_C[column]),
                )
            )
        return Ranking(items=answers, unknown_items=list(dict.fromkeys(contexts.unknown[0])), model=self.model)

    def _new_items(self, candidates: Mapping[int, Candidate]) -> pa.Table:
        """Rows of ITEMS of what the bundle does not know, redacted as its catalogue was."""
        for place, candidate in candidates.items():
            if candidate.title is None:
                raise BadRequestError(
                    ("candidates", place, "item_id"),
                    "this bundle has no item of that id; give its title (and text, categories, attributes) to have it "
                    "encoded on the fly",
                )
        rows = [{**candidate.model_dump(), "item_id": ""} for candidate in candidates.values()]
        items = pa.Table.from_pylist(rows, schema=ITEMS)
        for name in ("title", "text", "categories", "attributes"):
            texts, _ = self.bundle.privacy.redacted(items[name])
            items = items.set_column(items.column_names.index(name), ITEMS.field(name), texts)
        return items
