import pyarrow as pa

from rayrec.schema import ITEMS
from rayrec.text import item_texts, profile_text


def test_an_items_text_keeps_the_title_first_and_leaves_out_what_is_missing() -> None:
    items = pa.Table.from_pylist(
        [
            {
                "item_id": "1",
                "title": " Heat ",
                "text": "Two men. ",
                "categories": ["Crime", "Drama"],
                "attributes": ["1995", "Mann"],
            },
            {"item_id": "2", "title": "Alone", "text": None, "categories": None, "attributes": None},
            {"item_id": "3", "title": "Empty", "text": "  ", "categories": [], "attributes": []},
        ],
        ITEMS,
    )
    assert item_texts(items) == ["Heat. crime, drama. 1995, Mann. Two men.", "Alone", "Empty"]


def test_other_columns_do_not_enter_the_text() -> None:
    row = {"item_id": "42", "title": "Heat"}
    items = pa.Table.from_pylist([row], ITEMS)
    assert item_texts(items.append_column("held_out", pa.array(["test"]))) == item_texts(items) == ["Heat"]


def test_a_profile_tells_likes_then_dislikes_then_what_the_user_says() -> None:
    assert profile_text("A Nurse from Leeds", ["Crime", "Drama"], ["War"]) == (
        "likes crime, drama. dislikes war. a nurse from leeds"
    )
    assert profile_text("", [], ["War"]) == "dislikes war"
    assert profile_text("", [], []) == ""
