"""Rated ads."""

from pathlib import Path

from rayrec.data.sources.config import RatedAdsSource
from tests.sources.cases import NAN, Case, Rows, event, put, put_json


def rated_ads(folder: Path) -> RatedAdsSource:
    rows = [
        ("pid", "ad_id", "overall_rating", "free_response"),
        ("24", "1", "2", '"Stock, again."'),
        ("24", "2", "-", ""),
    ]
    put(folder / "overall_ad_ratings.csv", rows, ",")
    put(
        folder / "content_labels.csv",
        [("ad_id", "Cars", "Food and Drink"), ("2", "1.0", "0.0"), ("1", "1.0", "1.0")],
        ",",
    )
    long = "word " * 15 + "LastWordOfTheTitle and the rest"
    put_json(
        folder / "ad_texts.jsonl",
        [{"ad_id": ad, "size": [1, 2], "text": text} for ad, text in (("1", long), ("3", ""))],
    )
    context = [("39", "4", "NotSure", "democrat"), ("40", "9", "?", "prefernot")]
    put(
        folder / "participant_context.csv",
        [("pid", "ad_attitude", "adblocker", "political_affiliation"), *context],
        ",",
    )
    return RatedAdsSource(kind="rated_ads", uri=str(folder))


ADS: dict[str, Rows] = {
    "interactions": [
        event("24", "1", 0, timestamp=0, rating=2.0, review="Stock, again."),
        event("24", "2", 1, timestamp=1, rating=NAN),
    ],
    "items": [
        {"item_id": "1", "title": "word " * 15 + "LastWordOfTheTitle", "text": "and the rest"}
        | {"categories": ["Cars", "Food and Drink"], "row": 0},
        {"item_id": "3", "row": 1},
    ],
    "users": [
        {"user_id": "39", "text": "likes ads 4 of 7, may use an ad blocker, democrat", "row": 0},
        {"user_id": "40", "row": 1},
    ],
    "triples": [
        {"head": "item:2", "relation": "about", "tail": "name:Cars", "row": 0},
        {"head": "item:1", "relation": "about", "tail": "name:Cars", "row": 1},
        {"head": "item:1", "relation": "about", "tail": "name:Food and Drink", "row": 1},
    ],
}


CASES = {
    "rated ads": Case(rated_ads, ADS, order_only=True),
}
