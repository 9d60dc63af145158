"""Scorers without a language model: baselines of evaluation, and features or stacked parts of a served model.

A scorer is fitted on what happened before a moment and scores rows as of that moment or later, from each row's context
alone. This file lists them with the settings to choose from; how they score lies in counts.py, neighbours.py and
regression.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from rayrec.models.counts import fit_decayed_popularity, fit_like_rates, fit_popularity, fit_recent_popularity
from rayrec.models.neighbours import fit_bm25, fit_item_knn, fit_markov, fit_tfidf
from rayrec.models.regression import EASE_MAX_ITEMS, fit_ease, fit_ials
from rayrec.schema import Scorer


def _grid(**values: tuple[Any, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))


@dataclass(frozen=True)
class Baseline:
    """How to fit a scorer, and the settings to choose from on validation: six, or one where there is no choice.

    The first setting is what is taken where validation tells none apart.
    """

    fit: Callable[..., Scorer]
    grid: tuple[Mapping[str, Any], ...] = ({},)
    log_odds: bool = False
    max_items: int | None = None


BASELINES = {
    "popularity": Baseline(fit_popularity),
    "recent_popularity": Baseline(fit_recent_popularity),
    "decayed_popularity": Baseline(fit_decayed_popularity, _grid(half_life=(14.0, 3.0, 7.0, 30.0, 90.0, 365.0))),
    "like_share": Baseline(fit_like_rates, _grid(user_prior=(5.0, 1.0, 2.0, 10.0, 20.0, 50.0)), log_odds=True),
    "item_like_rate": Baseline(fit_like_rates, _grid(item_prior=(20.0, 5.0, 10.0, 50.0, 100.0, 200.0)), log_odds=True),
    "like_rates": Baseline(fit_like_rates, _grid(user_prior=(5.0, 20.0), item_prior=(20.0, 5.0, 100.0)), log_odds=True),
    "item_knn": Baseline(
        fit_item_knn,
        _grid(half_life=(3.0, 30.0), nearest_to=("context",), neighbours=(50,), shrinkage=(30.0,))
        + _grid(half_life=(3.0, 30.0), nearest_to=("candidate",), neighbours=(50, 200), shrinkage=(30.0,)),
    ),
    "ease": Baseline(
        fit_ease, _grid(half_life=(3.0, 30.0), regularisation=(500.0, 100.0, 2000.0)), max_items=EASE_MAX_ITEMS
    ),
    "ials": Baseline(
        fit_ials, _grid(half_life=(15.0,), factors=(64,), regularisation=(10.0, 1.0, 50.0), confidence=(4.0, 10.0))
    ),
    "markov": Baseline(fit_markov, _grid(half_life=(3.0, 15.0, 100.0), window=(10,), days=(10_000.0, 30.0))),
    "tfidf": Baseline(fit_tfidf, _grid(half_life=(3.0, 1.0, 2.0, 5.0, 15.0, 1000.0))),
    "bm25": Baseline(fit_bm25, _grid(half_life=(3.0, 15.0), b=(0.75, 0.25, 1.0))),
}
