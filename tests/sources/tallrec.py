"""TALLRec: a whole record, one without likes or an answer, one that reads otherwise."""

import json
from pathlib import Path
from typing import Any

from rayrec.data.sources.config import TallrecSource
from tests.sources.cases import Case, Rows

MANY = [f"{number} (2000)" for number in range(40)]


def tallrec(folder: Path) -> TallrecSource:
    def said(liked: str, disliked: str, target: str, output: str) -> dict[str, str]:
        text = f"User Preference: {liked}\nUser Unpreference: {disliked}\nWhether the user will like the target movie "
        return {"instruction": "Answer.", "input": f'{text}"{target}"?', "output": output}

    records = [
        said('"A, The (1990)", "B"', '"C"', "D", "Yes."),
        said("", '"B"', "A, The (1990)", "Perhaps."),
        {"instruction": "Answer.", "input": "What?", "output": "No."},
        said(", ".join(f'"{title}"' for title in MANY), "", "B", "No."),
    ]
    (folder / "valid.json").write_text(json.dumps(records, indent=4))
    return TallrecSource(kind="tallrec", uri=str(folder))


def like(user: str, item: str | None, place: int, event: str | None, row: int) -> dict[str, Any]:
    found = {"user_id": user, "item_id": item, "timestamp": row * 1000 + place, "event": event, "row": row}
    return {name: value for name, value in found.items() if value is not None}


def named(item: str, row: int) -> dict[str, Any]:
    return {"item_id": item, "title": "The A (1990)" if item == "A, The (1990)" else item, "row": row}


JUDGED: dict[str, Rows] = {
    "interactions": [
        like("valid-0", "A, The (1990)", 0, "like", 0),
        like("valid-0", "B", 1, "like", 0),
        like("valid-0", "C", 2, "dislike", 0),
        like("valid-0", "D", 3, "like", 0),
        like("valid-1", "B", 0, "dislike", 1),
        like("valid-1", "A, The (1990)", 1, None, 1),
        like("valid-2", None, 0, "dislike", 2),
        *(like("valid-3", title, place, "like", 3) for place, title in enumerate(MANY)),
        like("valid-3", "B", len(MANY), "dislike", 3),
    ],
    "items": [
        *(named(title, 0) for title in ("A, The (1990)", "B", "C", "D")),
        *(named(title, 1) for title in ("B", "A, The (1990)")),
        *(named(title, 3) for title in (*MANY, "B")),
    ],
}


CASES = {
    "tallrec": Case(tallrec, JUDGED, order_only=True),
}
