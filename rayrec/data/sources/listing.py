"""Every source by the `kind` of its config; a new one is a file, its config and a line here."""

from collections.abc import Callable
from typing import Any

from rayrec.data.sources.columns import read_columns
from rayrec.data.sources.logs import Logs
from rayrec.data.sources.movielens import read_movielens

SOURCES: dict[str, Callable[[Any], Logs]] = {"movielens": read_movielens, "columns": read_columns}
