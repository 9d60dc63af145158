"""MovieLens-100K in GroupLens' layout (u.data, u.item, u.user) or RecBole's atomic files; the same content from both.

F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

import io
import re
from collections.abc import Iterable
from functools import partial

import pyarrow as pa
import ray.data
from pyarrow import csv

from rayrec.data.config import MovieLensSource
from rayrec.data.sources.logs import Logs, canonical_interactions
from rayrec.schema import ITEMS, USERS
from rayrec.storage import absolute, exists, join, read_bytes

GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
INTERACTION_COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
GENDERS = {"M": "male", "F": "female"}
NO_OCCUPATION = ("other", "none")

_ARTICLE = "The|An|A|Les|Le|La|Il|El|Los|Las|Der|Die|Das"
_MAIN_TITLE = re.compile(rf"^([^(]*), ({_ARTICLE})(?= \(|$)")
_OTHER_TITLE = re.compile(rf"\(([^()]*), ({_ARTICLE})\)")


def read_movielens(source: MovieLensSource) -> Logs:
    """Reads the layout that is there.

    Raises:
        ValueError: neither layout is there.
    """
    if exists(join(source.uri, "ml-100k.inter")):
        return _read_recbole(source.uri)
    if exists(join(source.uri, "u.data")):
        return _read_grouplens(source.uri)
    raise ValueError(
        f"no MovieLens-100K at {source.uri!r}; expected ml-100k.inter, .item, .user (RecBole) or u.data, u.item, "
        "u.user (GroupLens): point source.uri at the folder that holds them"
    )


def _read_recbole(uri: str) -> Logs:
    items = _side_file(join(uri, "ml-100k.item"), "\t")
    users = _side_file(join(uri, "ml-100k.user"), "\t")
    titles = [
        f"{title} ({year})" if (year or "").isdigit() else title
        for title, year in zip(items["movie_title"].to_pylist(), items["release_year"].to_pylist(), strict=True)
    ]
    return Logs(
        interactions=_interactions(join(uri, "ml-100k.inter"), skip_rows=1),
        items=_items(items["item_id"], titles, [(names or "").split() for names in items["class"].to_pylist()]),
        users=_users(*(users[name].to_pylist() for name in ("user_id", "age", "gender", "occupation"))),
    )


def _read_grouplens(uri: str) -> Logs:
    columns = ["item_id", "title", "released", "video_released", "imdb", *GENRES]
    items = _side_file(join(uri, "u.item"), "|", columns)
    users = _side_file(join(uri, "u.user"), "|", ["user_id", "age", "gender", "occupation", "zip_code"])
    flags = zip(*(items[genre].to_pylist() for genre in GENRES), strict=True)
    return Logs(
        interactions=_interactions(join(uri, "u.data"), skip_rows=0),
        items=_items(
            items["item_id"],
            items["title"].to_pylist(),
            [[genre for genre, flag in zip(GENRES, row, strict=True) if flag == "1"] for row in flags],
        ),
        users=_users(*(users[name].to_pylist() for name in ("user_id", "age", "gender", "occupation"))),
    )


def _interactions(uri: str, skip_rows: int) -> ray.data.Dataset:
    raw = ray.data.read_csv(
        absolute(uri),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        read_options=csv.ReadOptions(column_names=INTERACTION_COLUMNS, skip_rows=skip_rows),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(INTERACTION_COLUMNS, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    columns = {name: name for name in INTERACTION_COLUMNS}
    convert = partial(canonical_interactions, columns=columns, unit="s")
    return raw.map_batches(convert, batch_format="pyarrow", batch_size=None)


def _side_file(uri: str, delimiter: str, names: list[str] | None = None) -> pa.Table:
    """A small delimited file as strings, in UTF-8 or else latin-1; a header's `name:type` loses the type."""
    data = read_bytes(uri)
    try:
        data.decode("utf-8")
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    header = [name.partition(":")[0] for name in data.partition(b"\n")[0].decode(encoding).strip().split(delimiter)]
    columns = names or header
    return csv.read_csv(
        io.BytesIO(data),
        read_options=csv.ReadOptions(column_names=columns, skip_rows=0 if names else 1, encoding=encoding),
        parse_options=csv.ParseOptions(delimiter=delimiter, quote_char=False),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )


def readable_title(title: str) -> str:
    """`Godfather, The (1972)` with its article first, `The Godfather (1972)`; other titles in parentheses likewise."""
    return _OTHER_TITLE.sub(r"(\2 \1)", _MAIN_TITLE.sub(r"\2 \1", title))


def _items(item_ids: pa.ChunkedArray, titles: Iterable[str | None], genres: Iterable[list[str]]) -> pa.Table:
    rows = [
        {
            "item_id": item_id,
            "title": None if title is None else readable_title(title.strip()),
            "categories": [name for name in names if name != "unknown"],
        }
        for item_id, title, names in zip(item_ids.to_pylist(), titles, genres, strict=True)
    ]
    return pa.Table.from_pylist(rows, pa.schema([field.with_nullable(True) for field in ITEMS]))


def _users(ids: list[str], ages: list[str], genders: list[str], occupations: list[str]) -> pa.Table:
    texts = [
        " ".join(
            part
            for part in (
                f"{age}-year-old" if age else "",
                GENDERS.get(gender, ""),
                "" if occupation in NO_OCCUPATION else occupation or "",
            )
            if part
        )
        for age, gender, occupation in zip(ages, genders, occupations, strict=True)
    ]
    return pa.table({"user_id": ids, "text": texts}, schema=pa.schema([field.with_nullable(True) for field in USERS]))
