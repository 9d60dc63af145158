import pyarrow as pa
import pytest

from rayrec.data.clean import LATEST_MS, check_quarantine, clean_items, judge_interactions
from rayrec.data.sources.logs import RAW_INTERACTIONS
from rayrec.schema import ITEMS

GOOD = {"user_id": "u", "item_id": "b", "timestamp": 5, "rating": 3.0, "event": None}
IDS = pa.array(["a", "b"])


def judge(**changes: object) -> dict[str, object]:
    (row,) = judge_interactions(pa.Table.from_pylist([GOOD | changes], RAW_INTERACTIONS), IDS, 8).to_pylist()
    return dict(row)


def test_a_good_row_gets_its_dense_item() -> None:
    row = judge()
    assert (row["item"], row["reason"]) == (1, None)
    assert judge(rating=None)["reason"] is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_id": None}, "no user_id"),
        ({"user_id": " "}, "no user_id"),
        ({"item_id": None}, "no item_id"),
        ({"timestamp": None}, "timestamp missing"),
        ({"timestamp": -1}, "before 1970"),
        ({"timestamp": LATEST_MS}, "after 2099"),
        ({"rating": float("nan")}, "finite"),
        ({"rating": float("inf")}, "finite"),
        ({"item_id": "c"}, "not among the items"),
        ({"user_id": None, "item_id": "c"}, "no user_id"),
    ],
)
def test_a_bad_row_is_told_why(changes: dict[str, object], reason: str) -> None:
    assert reason in str(judge(**changes)["reason"])


def test_a_user_is_always_in_the_same_bucket() -> None:
    rows = [GOOD | {"user_id": f"u{number % 50}"} for number in range(200)]
    table = judge_interactions(pa.Table.from_pylist(rows, RAW_INTERACTIONS), IDS, 8)
    pairs = set(zip(table["user_id"].to_pylist(), table["bucket"].to_pylist(), strict=True))
    assert len(pairs) == 50
    assert {bucket for _, bucket in pairs} == set(range(8))


def test_items_without_id_or_title_and_later_duplicates_are_refused() -> None:
    rows = [("a", "first"), ("b", None), (None, "x"), ("a", "second"), ("c", "  "), ("d", "fourth")]
    schema = pa.schema([field.with_nullable(True) for field in ITEMS])
    items = pa.Table.from_pylist([{"item_id": item, "title": title} for item, title in rows], schema)
    kept, refused = clean_items(items)
    assert kept.schema == ITEMS
    assert kept["title"].to_pylist() == ["first", "fourth"]
    assert refused["reason"].to_pylist() == ["no title", "no item_id", "item_id seen before", "no title"]


def test_the_quarantine_limit_names_counts_and_remedy() -> None:
    check_quarantine({"no user_id": 5}, 100, 0.05, "interactions")
    with pytest.raises(ValueError, match=r"6 of 100 interactions \(6.0%\).*no user_id: 6.*raise quarantine_limit"):
        check_quarantine({"no user_id": 6}, 100, 0.05, "interactions")
    with pytest.raises(ValueError, match="hold no interactions"):
        check_quarantine({}, 0, 0.05, "interactions")
