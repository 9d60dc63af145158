"""MIND: impressions that are labelled, unlabelled and broken."""

from pathlib import Path

from rayrec.data.sources.config import MindSource
from tests.sources.cases import Case, Rows, event, put


def mind(folder: Path) -> MindSource:
    rows = [
        ("1", "U1", "11/15/2019 9:55:12 AM", "N9 N8", "N1-0 N-2-1 N3-1"),
        ("2", "U2", "13/40/2019 9:55:12 AM", "", "N1-1"),
        ("3", "U2", "11/15/2019 2:00:00 PM", "", "N1-0"),
        ("4", "", "", "", ""),
        ("5", "U3", "11/15/2019 12:00:01 AM", "", "N1 N3"),
    ]
    put(folder / "train" / "behaviors.tsv", rows)
    news = ("N1", "sports", "golf", 'Who "won"?', "A &lt;short&gt; text", "https://x", "[]", "[]")
    put(folder / "train" / "news.tsv", [news, ("N3", "", "", "", "", "", "", "")])
    return MindSource(kind="mind", uris=(str(folder / "train"),))


AFTERNOON, MORNING = 1573826400000, 1573811712000


CLICKED: dict[str, Rows] = {
    "interactions": [
        event("U1", "N-2", 0, timestamp=MORNING, event="click"),
        event("U1", "N3", 0, timestamp=MORNING, event="click"),
        event("U2", "N1", 1, event="click"),
    ],
    "items": [
        {"item_id": "N1", "title": 'Who "won"?', "text": "A <short> text", "categories": ["sports", "golf"], "row": 0},
        {"item_id": "N3", "row": 1},
    ],
    "impressions": [
        {"impression_id": "train/1", "user_id": "U1", "timestamp": MORNING, "item_ids": ["N1", "N-2", "N3"]}
        | {"clicked": [False, True, True], "row": 0},
        {"impression_id": "train/2", "user_id": "U2", "item_ids": ["N1"], "clicked": [True], "row": 1},
        {
            "impression_id": "train/3",
            "user_id": "U2",
            "timestamp": AFTERNOON,
            "item_ids": ["N1"],
            "clicked": [False],
            "row": 2,
        },
        {"impression_id": "train/4", "row": 3},
    ],
}


CASES = {
    "mind": Case(mind, CLICKED),
}
