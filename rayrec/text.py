"""The only place that turns an item, a profile or a history into text for a language model."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.terms import MAX_CHARACTERS, words_of

ITEM_TEXT_WORDS = 32
"""Words of an item's text: about as many as the 48 tokens that a model reads by default."""

_ITEMS_AT_ONCE = 1024
_NOTHING = pa.scalar(None, pa.string())
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")


def item_texts(items: pa.Table, max_words: int = ITEM_TEXT_WORDS) -> list[str]:
    """One text an item: title, categories, attributes, description, in that order so that truncation keeps the title.

    The title is whole. Categories and attributes take at most half of the words that it leaves, the first ones first.
    A description that is too long for the rest keeps the sentences that hold most of the weight of the item's `terms`,
    in their order; without terms, its first sentences.

    Args:
        items: columns of the ITEMS schema; `terms` and `term_weights` of CATALOGUE where there are any.
        max_words: of a text, but for a longer title.
    """
    wanted = ["title", "categories", "attributes", "text", "terms", "term_weights"]
    columns = items.select([name for name in wanted if name in items.column_names])
    texts: list[str] = []
    for batch in columns.to_batches(max_chunksize=_ITEMS_AT_ONCE):
        rows = batch.to_pylist()
        parts = [_title_and_labels(row, max_words) for row in rows]
        left = [max(max_words - _count(known), 0) for known in parts]
        for known, description in zip(parts, _descriptions(rows, left), strict=True):
            texts.append(". ".join(part for part in (*known, description) if part))
    return texts


def _title_and_labels(row: Mapping[str, Any], max_words: int) -> tuple[str, str, str]:
    title = " ".join(row["title"].split())
    most = (max_words - _count([title])) // 2
    categories = _first(row["categories"] or (), most)
    attributes = _first(row["attributes"] or (), most - _count(categories))
    return title, ", ".join(categories).lower(), ", ".join(attributes)


def _count(texts: Iterable[str]) -> int:
    return sum(len(text.split()) for text in texts)


def _first(names: Iterable[str], max_words: int) -> list[str]:
    """The first names that hold no more words than that."""
    chosen: list[str] = []
    for name in names:
        max_words -= _count([name])
        if max_words < 0:
            break
        chosen.append(name)
    return chosen


def _descriptions(rows: Sequence[Mapping[str, Any]], left: Sequence[int]) -> list[str]:
    """Of each row's description what fits in its number of words."""
    pieces = [_pieces(row["text"] or "", most) for row, most in zip(rows, left, strict=True)]
    weights = [[0.0] * len(those) for those in pieces]
    places = [(row, place) for row, those in enumerate(pieces) if len(those) > 1 for place in range(len(those))]
    piece_W, words_W = words_of(pa.array([pieces[row][place] for row, place in places], pa.string()))
    told = [dict(zip(row.get("terms") or (), row.get("term_weights") or (), strict=True)) for row in rows]
    for piece, word in dict.fromkeys(zip(piece_W.tolist(), words_W.to_pylist(), strict=True)):
        row, place = places[piece]
        weights[row][place] += told[row].get(word, 0.0)
    return [_heaviest(*chosen) for chosen in zip(pieces, weights, left, strict=True)]


def _pieces(description: str, max_words: int) -> list[str]:
    """The whole description if it fits, else its sentences, those that are too long alone in pieces that are not."""
    description = " ".join(description[:MAX_CHARACTERS].split())
    if _count([description]) <= max_words:
        return [description]
    if max_words == 0:
        return []
    sentences = [sentence.split() for sentence in _SENTENCE_END.split(description)]
    return [" ".join(words[at : at + max_words]) for words in sentences for at in range(0, len(words), max_words)]


def _heaviest(pieces: Sequence[str], weights: Sequence[float], max_words: int) -> str:
    """The heaviest pieces that fit, the first of equal ones first, in their order."""
    chosen = []
    for place in sorted(range(len(pieces)), key=lambda place: -weights[place]):
        if _count([pieces[place]]) <= max_words:
            chosen.append(place)
            max_words -= _count([pieces[place]])
    return " ".join(pieces[place] for place in sorted(chosen))


def profile_sentences(user_texts: pa.Array, liked: pa.ListArray, disliked: pa.ListArray) -> pa.Array:
    """Users in one sentence or two each; "" where nothing is known.

    Args:
        user_texts: what a user says or the log knows of them, free text, "" where there is nothing.
        liked: lists of interest terms, strongest first.
        disliked: lists of terms of what the user turned down, strongest first.
    """
    likes, dislikes = (_said(*said) for said in (("likes ", liked), ("dislikes ", disliked)))
    silent = pc.and_(pc.equal(user_texts, ""), pc.or_(likes.is_valid(), dislikes.is_valid()))
    said = pc.if_else(silent, _NOTHING, user_texts)
    return pc.utf8_lower(pc.binary_join_element_wise(likes, dislikes, said, ". ", null_handling="skip"))


def _said(verb: str, names: pa.ListArray) -> pa.Array:
    """The verb and the names of each list; null where there are none."""
    some = pc.greater(pc.list_value_length(names), 0)
    sentence = pc.binary_join_element_wise(verb, pc.binary_join(names, ", "), "")
    return pc.if_else(some, sentence, _NOTHING)
