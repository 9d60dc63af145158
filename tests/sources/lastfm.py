"""Last.fm of hetrec2011, with the tags."""

from pathlib import Path

from rayrec.data.sources.config import LastfmSource
from tests.sources.cases import NAN, Case, Rows, event, put


def lastfm(folder: Path) -> LastfmSource:
    put(folder / "user_artists.dat", [("userID", "artistID", "weight"), ("2", "51", "13883"), ("2", "52", "lots")])
    artists = [
        ("id", "name", "url", "pictureURL"),
        ("51", "Duran Duran", "u", "p"),
        ("52", '"Weird Al" Yankovic', "", ""),
    ]
    put(folder / "artists.dat", artists)
    put(folder / "user_friends.dat", [("userID", "friendID"), ("2", "275")])
    header = ("userID", "artistID", "tagID", "day", "month", "year")
    put(folder / "user_taggedartists.dat", [header, ("2", "52", "13", "1", "4", "2009")])
    put(folder / "tags.dat", [("tagID", "tagValue"), ("13", "chillout")])
    return LastfmSource(kind="lastfm", uri=str(folder))


PLAYED: dict[str, Rows] = {
    "interactions": [
        event("2", "51", 0, timestamp=133206226360, rating=13883.0, event="play"),
        event("2", "52", 1, timestamp=817860173997, rating=NAN, event="play"),
    ],
    "items": [
        {"item_id": "51", "title": "Duran Duran", "row": 0},
        {"item_id": "52", "title": '"Weird Al" Yankovic', "row": 1},
    ],
    "triples": [
        {"head": "user:2", "relation": "friend", "tail": "user:275", "row": 0},
        {"head": "item:52", "relation": "tagged", "tail": "name:tag 13", "row": 0},
        {"head": "name:tag 13", "relation": "says", "tail": "name:chillout", "row": 0},
    ],
}


CASES = {
    "lastfm": Case(lastfm, PLAYED, order_only=True),
}
