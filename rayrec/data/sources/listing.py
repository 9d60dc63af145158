"""Every source by the `kind` of its config; a new one is a file, its config and a line here."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rayrec.data.listing import check_scheme
from rayrec.data.sources.amazon import read_amazon
from rayrec.data.sources.columns import read_columns
from rayrec.data.sources.config import Source
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

URI_FIELDS = ("uri", "uris", "reviews", "metadata", "interactions", "items", "users")
"""In which fields of their configs sources are told where files lie."""


def read_logs(source: Source, allowed: Sequence[str]) -> Logs:
    """The logs of a source; none of its files is looked at before all their schemes are found to be allowed.

    Args:
        source: the config.
        allowed: schemes; a local path has `file`.

    Raises:
        ValueError: a scheme is not allowed, or the source cannot read what is there.
    """
    for uri in named_uris(source):
        check_scheme(uri, allowed)
    return SOURCES[source.kind](source)


def named_uris(source: Source) -> Iterator[str]:
    """Every URI that a source's config names."""
    for name in URI_FIELDS:
        value = getattr(source, name, None)
        yield from (value,) if isinstance(value, str) else value or ()
