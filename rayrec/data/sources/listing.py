"""Every source by the `kind` of its config; a new one is a file, its config and a line here."""

from collections.abc import Callable
from typing import Any

from rayrec.data.sources.amazon import read_amazon
from rayrec.data.sources.columns import read_columns
from rayrec.data.sources.dkn import read_dkn
from rayrec.data.sources.lastfm import read_lastfm
from rayrec.data.sources.logs import Logs
from rayrec.data.sources.mind import read_mind
from rayrec.data.sources.movielens import read_movielens
from rayrec.data.sources.rated_ads import read_rated_ads
from rayrec.data.sources.recbole import read_recbole
from rayrec.data.sources.tallrec import read_tallrec

SOURCES: dict[str, Callable[[Any], Logs]] = {
    "movielens": read_movielens,
    "recbole": read_recbole,
    "mind": read_mind,
    "amazon": read_amazon,
    "tallrec": read_tallrec,
    "lastfm": read_lastfm,
    "dkn": read_dkn,
    "rated_ads": read_rated_ads,
    "columns": read_columns,
}
