"""What fine-tuning made a language model forget: does it still find those general texts alike that people find alike?

The yardstick is a table of pairs of texts with people's judgement of their similarity. The figure is Spearman's rank
correlation of the judgements with the cosines of the language model's own pooled vectors, before and after. Pairs that
share a text are not independent, so the bootstrap draws texts. Letters: T texts, P pairs, H size of a vector, V
language models, S samples, U what the bootstrap draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rayrec.data.files import Block, column_names, guess_format, parts_of, read_blocks
from rayrec.data.sources.values import numbers, strings
from rayrec.models.encoder import LowerLayers, TopLayers
from rayrec.statistics import Sampled, Statistic, bootstrap

COLUMNS = ("text_a", "text_b", "similarity")
_LEAST_PAIRS = 10
_PART_BYTES = 1 << 30
_TEXTS_AT_ONCE = 32
"""The states of one long text take most of a megabyte."""
_DECIMALS = 6
"""Of a cosine: what lies beyond is the rounding of float32, and no order."""
_SMALL_GROUP = 0.05
"""Share of the pairs that a group of connected texts holds at most where groups are what is drawn."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts that people judged.

    Attributes:
        texts: T distinct ones.
        a_P: int, the place of each pair's first text.
        b_P: int, that of its second one, never the same.
        similarity_P: float64, on any scale, higher for more alike.
    """

    texts: tuple[str, ...]
    a_P: np.ndarray
    b_P: np.ndarray
    similarity_P: np.ndarray


def read_pairs(uri: str) -> Pairs:
    """Reads a table of text_a, text_b and similarity; a pair of a text with itself tells nothing and is left out.

    Args:
        uri: Parquet, CSV, TSV or JSON; a file, a folder or a glob on any storage.

    Raises:
        ValueError: nothing is there, a column is missing, a row cannot be parsed or lacks a text, a similarity is no
            finite number, the pairs are too few, or all were judged alike.
    """
    form = guess_format((uri,), COLUMNS)
    found = column_names((uri,), form)
    for name in COLUMNS:
        if name not in found:
            raise ValueError(
                f"{uri!r} has no column {name!r}; found {', '.join(found) or 'none'}, expected {', '.join(COLUMNS)}: "
                "rename its columns"
            )
    parts = parts_of((uri,), form, _PART_BYTES)
    table = pa.concat_tables([_judged(block, part.uri) for part in parts for block in read_blocks(part)])
    table = table.filter(pc.not_equal(table["text_a"], table["text_b"]))
    similarity_P = table["similarity"].to_numpy()
    if len(table) < _LEAST_PAIRS or similarity_P.min() == similarity_P.max():
        raise ValueError(
            f"{uri!r} has {len(table)} pairs of different texts and {len(np.unique(similarity_P))} different "
            f"similarities; expected at least {_LEAST_PAIRS} and 2, better hundreds: name a larger table"
        )
    both = pa.concat_arrays([*table["text_a"].chunks, *table["text_b"].chunks]).dictionary_encode()
    a_P, b_P = both.indices.to_numpy().reshape(2, -1)
    return Pairs(tuple(both.dictionary.to_pylist()), a_P, b_P, similarity_P)


def _judged(block: Block, uri: str) -> pa.Table:
    """The rows of a block as strings and a number, or the reason why one is none."""
    if len(block.refused):
        raise ValueError(
            f"{uri!r}, row {block.refused['row'][0]} counting from 0: {block.refused['reason'][0]}; mend or remove it"
        )
    text_a, text_b = (strings(block.rows[name]) for name in COLUMNS[:2])
    similarity = numbers(block.rows["similarity"]).to_numpy(zero_copy_only=False)
    blank = [pc.equal(pc.utf8_trim_whitespace(text), "").fill_null(True).to_numpy(False) for text in (text_a, text_b)]
    for name, bad in zip(COLUMNS, (*blank, ~np.isfinite(similarity)), strict=True):
        if bad.any():
            row = int(np.argmax(bad))
            shown = f" {block.rows[name][row].as_py()!r}" if name == "similarity" else ""
            raise ValueError(
                f"{uri!r}, row {block.rows['row'][row]} counting from 0: the {name}{shown} is no "
                f"{'finite number' if shown else 'text'}; mend or remove it"
            )
    return pa.table(dict(zip(COLUMNS, (text_a, text_b, similarity), strict=True)))


def general_vectors(lower: LowerLayers, top: TopLayers, texts: Sequence[str]) -> np.ndarray:
    """The language model's own pooled vectors, float32 [T, H], of texts as long as it can take.

    Args:
        lower: its lower layers; their max_tokens, meant for items and profiles, does not count here.
        top: its top layers, as pretrained or trained.
        texts: T of them.
    """
    whole = LowerLayers(lower.model, lower.tokenizer, _most_tokens(lower))
    starts = range(0, len(texts), _TEXTS_AT_ONCE)
    return np.concatenate([top.pool(whole.states(texts[start : start + _TEXTS_AT_ONCE])).numpy() for start in starts])


def _most_tokens(lower: LowerLayers) -> int:
    """What the tokenizer says (an immense number where it says nothing), or as many as there are positions."""
    model: Any = lower.model
    padding = model.embeddings.position_embeddings.padding_idx
    # RoBERTa counts positions from behind the padding's; BERT has none for the padding.
    positions = model.config.max_position_embeddings - (0 if padding is None else padding + 1)
    return int(min(lower.tokenizer.model_max_length, positions))


def agreement(pairs: Pairs, vectors: Mapping[str, np.ndarray], samples: int, seed: int) -> dict[str, Sampled]:
    """Spearman's rank correlation of the language models' cosines with the judgements, all of the same samples.

    What is drawn with replacement are texts: a pair counts as often as its first text times as often as its second.
    Where the pairs fall into many small groups without a text in common, as where no text comes twice, groups are
    drawn, for texts would then give intervals that are too wide; so they do, on the safe side, where a text is in few
    pairs and yet all hang together. `users` of the result counts what was drawn.

    Args:
        pairs: judged.
        vectors: by language model, [T, H].
        samples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        By language model; 0 where all its cosines are equal, nan in a sample whose judgements are.

    Raises:
        ValueError: a vector is not finite.
    """
    cosines = {name: _cosines(pairs, vectors_TH, name) for name, vectors_TH in vectors.items()}
    unit_T, units = _drawn(pairs)
    unit_a_P, unit_b_P = unit_T[pairs.a_P], unit_T[pairs.b_P]
    together = bool((unit_a_P == unit_b_P).all())
    judged_P = _ties(pairs.similarity_P)
    by_model = [_ties(cosine_P) for cosine_P in cosines.values()]

    def correlations(weights_SU: np.ndarray) -> np.ndarray:
        found_SV = np.empty((len(weights_SU), len(by_model)))
        for sample, weight_U in enumerate(weights_SU):
            weight_P = weight_U[unit_a_P] if together else weight_U[unit_a_P] * weight_U[unit_b_P]
            ranks_P = _centred_ranks(judged_P, weight_P)
            found_SV[sample] = [
                _correlation(_centred_ranks(model_P, weight_P), ranks_P, weight_P) for model_P in by_model
            ]
        return found_SV

    statistic = Statistic(np.full(len(by_model), units), correlations)
    return dict(zip(cosines, bootstrap([statistic], units, samples, seed)[0], strict=True))


def _cosines(pairs: Pairs, vectors_TH: np.ndarray, name: str) -> np.ndarray:
    """float64 [P]; 0 where a vector is zero."""
    wide_TH = vectors_TH.astype(np.float64)
    if not np.isfinite(wide_TH).all():
        raise ValueError(
            f"the language model {name!r} gives general texts vectors that are not finite; expected finite ones: its "
            "training diverged, so train with lower learning rates"
        )
    unit_TH = wide_TH / np.maximum(np.linalg.norm(wide_TH, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosine_P: np.ndarray = np.einsum("ph,ph->p", unit_TH[pairs.a_P], unit_TH[pairs.b_P])
    return cosine_P.round(_DECIMALS)


def _drawn(pairs: Pairs) -> tuple[np.ndarray, int]:
    """What is drawn: for each text its unit, and how many units there are."""
    texts = len(pairs.texts)
    joined = coo_array((np.ones(len(pairs.a_P)), (pairs.a_P, pairs.b_P)), shape=(texts, texts))
    groups, group_T = connected_components(joined, directed=False)
    largest = np.bincount(group_T[pairs.a_P]).max()
    return (group_T, int(groups)) if largest <= _SMALL_GROUP * len(pairs.a_P) else (np.arange(texts), texts)


def _ties(values_P: np.ndarray) -> np.ndarray:
    """The rank of each value among the distinct ones, from 0."""
    return np.unique(values_P, return_inverse=True)[1]


def _centred_ranks(tie_P: np.ndarray, weight_P: np.ndarray) -> np.ndarray:
    """Mean ranks of pairs that each come as often as their weight says, less the mean of all."""
    weights = np.bincount(tie_P, weight_P)
    return np.asarray((np.cumsum(weights) - weights / 2)[tie_P] - weights.sum() / 2)


def _correlation(model_P: np.ndarray, judged_P: np.ndarray, weight_P: np.ndarray) -> float:
    """Pearson's correlation of centred ranks."""
    model, judged = weight_P @ model_P**2, weight_P @ judged_P**2
    if not judged:
        return np.nan
    return float(weight_P @ (model_P * judged_P) / np.sqrt(model * judged)) if model else 0.0
