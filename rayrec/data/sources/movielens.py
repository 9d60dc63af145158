"""MovieLens in its four layouts: 100K of GroupLens and of RecBole, 1M (.dat), latest (.csv); the same tables from each.

RecBole's 100K has a knowledge graph beside, which becomes triples.

F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.

Tags (tags.csv) are left out. As text of an item they would tell of what users thought of it later than a row's moment;
as interactions they would repeat films, for most of them tag a film that the same user has rated.
"""

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.files import Delimited
from rayrec.data.sources.config import MovieLensSource
from rayrec.data.sources.logs import Logs, LogTable, canonical, canonical_interactions
from rayrec.data.sources.recbole import graph
from rayrec.data.sources.texts import joined, readable_titles
from rayrec.data.sources.values import Column, flagged, renamed, string_lists, strings, without
from rayrec.schema import RAW_ITEMS, RAW_USERS
from rayrec.storage import exists, join

GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
NO_GENRES = ("unknown", "(no genres listed)")
INTERACTION_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
USER_COLUMNS = ("user_id", "age", "gender", "occupation", "zip_code")

_SPANS = ("under-18", "18-24", "25-34", "35-44", "45-49", "50-55", "over-55")
GENDERS = {"M": "male", "F": "female"}
AGES_1M = dict(zip(("1", "18", "25", "35", "45", "50", "56"), _SPANS, strict=True))
OCCUPATIONS_1M = (
    *("other", "academic or educator", "artist", "clerical or administrative worker", "college or graduate student"),
    *("customer service worker", "doctor or health care worker", "executive or manager", "farmer", "homemaker"),
    *("school student", "lawyer", "programmer", "retired", "sales or marketing worker", "scientist", "self-employed"),
    *("technician or engineer", "tradesman or craftsman", "unemployed", "writer"),
)
NO_OCCUPATION = ("other", "none")


def read_movielens(source: MovieLensSource) -> Logs:
    """Reads the layout that is there.

    Raises:
        ValueError: none of them is.
    """
    layouts = {"ml-100k.inter": _recbole, "u.data": _100k, "ratings.dat": _1m, "ratings.csv": _latest}
    for mark, layout in layouts.items():
        if exists(join(source.uri, mark)):
            return layout(source.uri)
    raise ValueError(
        f"no MovieLens at {source.uri!r}; expected one of {', '.join(layouts)}: point source.uri at the folder that "
        "holds it and the files beside it"
    )


def _recbole(uri: str) -> Logs:
    form = Delimited("\t", quoted=False)
    return Logs(
        interactions=_interactions(join(uri, "ml-100k.inter"), form),
        items=(LogTable((join(uri, "ml-100k.item"),), form, _items_of_recbole),),
        users=(LogTable((join(uri, "ml-100k.user"),), form, _users_of_100k),),
        triples=graph(join(uri, "ml-100k")),
    )


def _100k(uri: str) -> Logs:
    items = ("item_id", "title", "released", "video_released", "imdb", *GENRES)
    return Logs(
        interactions=_interactions(join(uri, "u.data"), Delimited("\t", INTERACTION_COLUMNS, quoted=False)),
        items=(
            LogTable((join(uri, "u.item"),), Delimited("|", items, quoted=False, encoding="latin-1"), _items_of_100k),
        ),
        users=(LogTable((join(uri, "u.user"),), Delimited("|", USER_COLUMNS, quoted=False), _users_of_100k),),
    )


def _1m(uri: str) -> Logs:
    items = Delimited("::", ("item_id", "title", "genres"), quoted=False, encoding="latin-1")
    users = Delimited("::", ("user_id", "gender", "age", "occupation", "zip_code"), quoted=False)
    return Logs(
        interactions=_interactions(join(uri, "ratings.dat"), Delimited("::", INTERACTION_COLUMNS, quoted=False)),
        items=(LogTable((join(uri, "movies.dat"),), items, partial(_items_of_genres, item_id="item_id")),),
        users=(LogTable((join(uri, "users.dat"),), users, _users_of_1m),),
    )


def _latest(uri: str) -> Logs:
    return Logs(
        interactions=_interactions(join(uri, "ratings.csv"), Delimited(), user_id="userId", item_id="movieId"),
        items=(LogTable((join(uri, "movies.csv"),), Delimited(), partial(_items_of_genres, item_id="movieId")),),
    )


def _interactions(uri: str, form: Delimited, **renames: str) -> tuple[LogTable]:
    columns = {**{name: name for name in INTERACTION_COLUMNS}, **renames}
    return (LogTable((uri,), form, partial(canonical_interactions, columns=columns, unit="s")),)


def _items(block: pa.Table, item_id: str, titles: Column, genres: pa.Array) -> pa.Table:
    columns = {"item_id": strings(block[item_id]), "title": readable_titles(titles)}
    return canonical(RAW_ITEMS, block["row"], {**columns, "categories": without(genres, NO_GENRES)})


def _items_of_recbole(block: pa.Table) -> pa.Table:
    title, year = (strings(block[name]) for name in ("movie_title", "release_year"))
    dated = pc.match_substring_regex(year, r"^\d+$").fill_null(False)
    titles = pc.if_else(dated, pc.binary_join_element_wise(title, " (", year, ")", ""), title)
    return _items(block, "item_id", titles, string_lists(block["class"], " "))


def _items_of_100k(block: pa.Table) -> pa.Table:
    return _items(block, "item_id", block["title"], flagged(block, list(GENRES)))


def _items_of_genres(block: pa.Table, item_id: str) -> pa.Table:
    return _items(block, item_id, block["title"], string_lists(block["genres"], "|"))


def _users(block: pa.Table, ages: pa.Array, occupations: pa.Array) -> pa.Table:
    trade = pc.if_else(pc.is_in(occupations, pa.array(NO_OCCUPATION)), None, occupations)
    years = pc.binary_join_element_wise(ages, "-year-old", "")
    text = joined(years, renamed(block["gender"], GENDERS), trade, separator=" ")
    return canonical(RAW_USERS, block["row"], {"user_id": strings(block["user_id"]), "text": text})


def _users_of_100k(block: pa.Table) -> pa.Table:
    age = strings(block["age"])
    return _users(block, pc.if_else(pc.match_substring_regex(age, r"^\d+$"), age, None), strings(block["occupation"]))


def _users_of_1m(block: pa.Table) -> pa.Table:
    trades = {str(code): trade for code, trade in enumerate(OCCUPATIONS_1M)}
    return _users(block, renamed(block["age"], AGES_1M), renamed(block["occupation"], trades))
