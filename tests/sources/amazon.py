"""Amazon Reviews: one content in the layouts of three years."""

from collections.abc import Callable
from pathlib import Path

from rayrec.data.sources.config import AmazonSource
from tests.sources.cases import NAN, Case, Rows, put_json


def amazon(reviews: Callable[[Rows], Rows], metadata: Rows) -> Callable[[Path], AmazonSource]:
    def write(folder: Path) -> AmazonSource:
        told: Rows = [
            {
                "user": "U",
                "item": "B1",
                "stars": 5.0,
                "s": 1370000000,
                "head": "Great",
                "body": "It&#34;s<br />good &amp; < 3",
            },
            {"user": "U", "item": ["B2"], "stars": "five", "s": None, "head": None, "body": None},
        ]
        put_json(folder / "reviews.jsonl", reviews(told))
        put_json(folder / "meta.jsonl", metadata)
        files = {"reviews": str(folder / "reviews.jsonl"), "metadata": str(folder / "meta.jsonl")}
        return AmazonSource(kind="amazon", **files)

    return write


def reviews_until_2018(told: Rows) -> Rows:
    names = {"user": "reviewerID", "item": "asin", "stars": "overall", "s": "unixReviewTime", "head": "summary"}
    names["body"] = "reviewText"
    return [{names[key]: value for key, value in row.items()} | {"reviewerName": "Ann Bee"} for row in told]


def reviews_of_2023(told: Rows) -> Rows:
    names = {"user": "user_id", "item": "parent_asin", "stars": "rating", "head": "title", "body": "text"}
    rows = [{names[key]: value for key, value in row.items() if key != "s"} for row in told]
    return [
        row | {"asin": "OTHER", "timestamp": before["s"] and before["s"] * 1000}
        for row, before in zip(rows, told, strict=True)
    ]


META_2014: Rows = [
    {"asin": "B1", "title": "A &amp; B", "description": "<b>Big.</b> Red.", "brand": "Acme"}
    | {"categories": [["Games", "PC"], ["Games", "RPG"]]},
    {"asin": "B2"},
]
META_2018: Rows = [
    {"asin": "B1", "title": "A &amp; B", "description": ["<b>Big.</b>"], "feature": ["Red."], "brand": "Acme"}
    | {"category": ["Games", "PC", "RPG"]},
    {"asin": "B2", "description": [], "feature": [], "category": None, "brand": ""},
]
META_2023: Rows = [
    {"parent_asin": "B1", "title": "A &amp; B", "description": ["<b>Big.</b>"], "features": ["Red."], "store": "Acme"}
    | {"categories": ["Games", "PC", "RPG"], "details": {"Brand": "Acme"}},
    {"parent_asin": "B2", "title": None, "details": {}},
]


REVIEWED: dict[str, Rows] = {
    "interactions": [
        {"user_id": "U", "item_id": "B1", "timestamp": 1370000000000, "rating": 5.0, "row": 0}
        | {"review": 'Great\nIt"s good & < 3'},
        {"user_id": "U", "item_id": "B2", "rating": NAN, "row": 1},
    ],
    "items": [
        {"item_id": "B1", "title": "A & B", "text": "Big. Red.", "categories": ["Games", "PC", "RPG"]}
        | {"attributes": ["Acme"], "row": 0},
        {"item_id": "B2", "row": 1},
    ],
}


CASES = {
    "amazon 2014": Case(amazon(reviews_until_2018, META_2014), REVIEWED),
    "amazon 2018": Case(amazon(reviews_until_2018, META_2018), REVIEWED),
    "amazon 2023": Case(amazon(reviews_of_2023, META_2023), REVIEWED),
}
