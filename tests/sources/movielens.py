"""MovieLens in four layouts: one content, but for what is known of users."""

from pathlib import Path

from rayrec.data.sources.config import MovieLensSource
from rayrec.data.sources.movielens import GENRES
from tests.sources.cases import NAN, Case, Rows, put

RATINGS = [
    ("7", "1", "5", "881250949"),
    ("7", "2", "3", "yesterday"),
    ("08", "2", "many", "891717742"),
    ("08", "", "1", "891717743"),
]
FILMS = [
    ("1", "Misérables, Les", "1995", ["Drama", "Musical"]),
    ("2", 'The "Net"', "1994", ["Sci-Fi", "Thriller"]),
    ("3", "Good Morning", "1971", []),
]
PEOPLE = [("7", "24", "M", "technician"), ("08", "?", "F", "other"), ("9", "", "", "")]
RATED: Rows = [
    {"user_id": "7", "item_id": "1", "rating": 5.0, "timestamp": 881250949000, "row": 0},
    {"user_id": "7", "item_id": "2", "rating": 3.0, "row": 1},
    {"user_id": "08", "item_id": "2", "rating": NAN, "timestamp": 891717742000, "row": 2},
    {"user_id": "08", "rating": 1.0, "timestamp": 891717743000, "row": 3},
]
READABLE: Rows = [
    {"item_id": "1", "title": "Les Misérables (1995)", "categories": ["Drama", "Musical"], "row": 0},
    {"item_id": "2", "title": 'The "Net" (1994)', "categories": ["Sci-Fi", "Thriller"], "row": 1},
    {"item_id": "3", "title": "Good Morning (1971)", "categories": [], "row": 2},
]
KNOWN: Rows = [
    {"user_id": "7", "text": "24-year-old male technician", "row": 0},
    {"user_id": "08", "text": "female", "row": 1},
    {"user_id": "9", "row": 2},
]


def movielens_recbole(folder: Path) -> MovieLensSource:
    put(folder / "ml-100k.inter", [("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *RATINGS])
    header = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    rows = [(item, title, year, " ".join(genres) or "unknown") for item, title, year, genres in FILMS]
    put(folder / "ml-100k.item", [header, *rows])
    header = ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")
    put(folder / "ml-100k.user", [header, *((*person, "85711") for person in PEOPLE)])
    put(folder / "ml-100k.kg", [("head_id:token", "relation_id:token", "tail_id:token"), ("m.1", "film.actor", "m.2")])
    put(folder / "ml-100k.link", [("item_id:token", "entity_id:token"), ("3", "m.1")])
    return MovieLensSource(uri=str(folder))


def movielens_100k(folder: Path) -> MovieLensSource:
    put(folder / "u.data", RATINGS)
    flags = {item: ["01"[genre in (genres or ["unknown"])] for genre in GENRES] for item, _, _, genres in FILMS}
    rows = [(item, f"{title} ({year})", "01-Jan-1995", "", "http://x", *flags[item]) for item, title, year, _ in FILMS]
    put(folder / "u.item", rows, "|", "latin-1")
    put(folder / "u.user", [(*person, "85711") for person in PEOPLE], "|")
    return MovieLensSource(uri=str(folder))


def movielens_1m(folder: Path) -> MovieLensSource:
    put(folder / "ratings.dat", RATINGS, "::")
    rows = [(item, f"{title} ({year})", "|".join(genres)) for item, title, year, genres in FILMS]
    put(folder / "movies.dat", rows, "::", "latin-1")
    put(
        folder / "users.dat",
        [("7", "F", "1", "10", "48067"), ("08", "M", "56", "0", ""), ("9", "", "3", "21", "")],
        "::",
    )
    return MovieLensSource(uri=str(folder))


def movielens_latest(folder: Path) -> MovieLensSource:
    put(folder / "ratings.csv", [("userId", "movieId", "rating", "timestamp"), *RATINGS], ",")
    titles = {item: f"{title} ({year})".replace('"', '""') for item, title, year, _ in FILMS}
    rows = [(item, f'"{titles[item]}"', "|".join(genres) or "(no genres listed)") for item, _, _, genres in FILMS]
    put(folder / "movies.csv", [("movieId", "title", "genres"), *rows], ",")
    put(folder / "tags.csv", [("userId", "movieId", "tag", "timestamp"), ("7", "1", "sad", "881250950")], ",")
    return MovieLensSource(uri=str(folder))


FILM_TABLES = {"interactions": RATED, "items": READABLE}
GRAPH: Rows = [
    {"head": "name:m.1", "relation": "film.actor", "tail": "name:m.2", "row": 0},
    {"head": "item:3", "relation": "is", "tail": "name:m.1", "row": 0},
]


PEOPLE_1M: Rows = [
    {"user_id": "7", "text": "under-18-year-old female school student", "row": 0},
    {"user_id": "08", "text": "over-55-year-old male", "row": 1},
    {"user_id": "9", "row": 2},
]


CASES = {
    "movielens 100K, RecBole": Case(movielens_recbole, {**FILM_TABLES, "users": KNOWN, "triples": GRAPH}),
    "movielens 100K": Case(movielens_100k, {**FILM_TABLES, "users": KNOWN}),
    "movielens 1M": Case(movielens_1m, {**FILM_TABLES, "users": PEOPLE_1M}),
    "movielens latest": Case(movielens_latest, FILM_TABLES),
}
