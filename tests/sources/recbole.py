"""RecBole's atomic files, and a log of sequences."""

from pathlib import Path

from rayrec.data.sources.config import RecBoleSource
from tests.sources.cases import NAN, Case, Rows, event, put


def atomic(folder: Path) -> RecBoleSource:
    ratings = [
        ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ("u", "a", "4", "1.5"),
        ("u", "", "x", ""),
    ]
    put(folder / "shop.inter", ratings)
    header = ("item_id:token", "title:token_seq", "categories:token_seq", "brand:token")
    put(folder / "shop.item", [header, ("a", "Cat &amp; Mouse, The", "toys pets", "Acme Inc"), ("b", "", "", "")])
    put(folder / "shop.user", [("user_id:token", "age:token", "zip_code:token"), ("u", "24", "85711"), ("v", "", "1")])
    put(folder / "shop.kg", [("head_id:token", "relation_id:token", "tail_id:token"), ("m.1", "made.by", "m.2")])
    put(folder / "shop.link", [("item_id:token", "entity_id:token"), ("a", "m.1")])
    return RecBoleSource(kind="recbole", uri=str(folder), name="shop")


def sequences(folder: Path) -> RecBoleSource:
    header = ("user_id:token", "item_id_list:token_seq", "item_id:token")
    put(folder / "games.inter", [header, ("u", "a b  a", "c"), ("v", "", "b"), ("w", "", "")])
    put(folder / "games.item", [("item_id:token", "title:token_seq"), ("a", "A")])
    return RecBoleSource(kind="recbole", uri=str(folder), name="games")


ATOMIC: dict[str, Rows] = {
    "interactions": [
        event("u", "a", 0, rating=4.0, timestamp=1500),
        {"user_id": "u", "rating": NAN, "row": 1},
    ],
    "items": [
        {
            "item_id": "a",
            "title": "The Cat & Mouse",
            "categories": ["toys", "pets"],
            "attributes": ["Acme Inc"],
            "row": 0,
        },
        {"item_id": "b", "row": 1},
    ],
    "users": [{"user_id": "u", "text": "age 24", "row": 0}, {"user_id": "v", "row": 1}],
    "triples": [
        {"head": "name:m.1", "relation": "made.by", "tail": "name:m.2", "row": 0},
        {"head": "item:a", "relation": "is", "tail": "name:m.1", "row": 0},
    ],
}


SEQUENCES: dict[str, Rows] = {
    "interactions": [
        *(event("u", item, 0, timestamp=place) for place, item in enumerate("abac")),
        event("v", "b", 1, timestamp=1000),
        {"user_id": "w", "timestamp": 2000, "row": 2},
    ],
    "items": [{"item_id": "a", "title": "A", "row": 0}],
}


CASES = {
    "recbole": Case(atomic, ATOMIC),
    "recbole sequences": Case(sequences, SEQUENCES, order_only=True),
}
