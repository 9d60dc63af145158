from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.schema import CATALOGUE, ITEMS
from rayrec.terms import MAX_CHARACTERS
from rayrec.text import item_texts, profile_sentences

DESCRIPTION = (
    "A fine thing for all. It holds steel bolts. You will like it! Made of brass and steel; with love. Buy now."
)
PUMP = {"title": "Pump", "text": DESCRIPTION, "terms": ["steel", "brass"], "term_weights": [2.0, 1.5]}


def texts_of(*rows: dict[str, Any], max_words: int | None = None) -> list[str]:
    filled = [{"item_id": str(place), "title": "t", "held_out": "", **row} for place, row in enumerate(rows)]
    table = pa.Table.from_pylist(filled, CATALOGUE)
    return item_texts(table) if max_words is None else item_texts(table, max_words)


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
    assert item_texts(items.slice(0, 0)) == []


def test_other_columns_do_not_enter_the_text() -> None:
    row = {"item_id": "42", "title": "Heat"}
    items = pa.Table.from_pylist([row], ITEMS)
    assert item_texts(items.append_column("held_out", pa.array(["test"]))) == item_texts(items) == ["Heat"]


def test_white_space_is_one_space() -> None:
    row = {"title": "Dry\n dock", "text": "Two\t\tmen.\r\n\u00a0 One sea.\u2003"}
    assert texts_of(row) == ["Dry dock. Two men. One sea."]


def test_a_description_that_fits_stays_whole_whatever_the_terms() -> None:
    assert texts_of(PUMP, max_words=23) == [f"Pump. {DESCRIPTION}"]


def test_of_a_long_description_the_sentences_with_the_telling_words_stay_in_their_order() -> None:
    # Weights: 0, 2, 0, 3.5, 0, 0; words: 5, 4, 4, 5, 2, 2.
    assert texts_of(PUMP, max_words=6) == ["Pump. Made of brass and steel;"]
    assert texts_of(PUMP, max_words=10) == ["Pump. It holds steel bolts. Made of brass and steel;"]
    assert texts_of(PUMP, max_words=13) == ["Pump. It holds steel bolts. Made of brass and steel; with love."]
    assert texts_of(PUMP, max_words=16) == [
        "Pump. A fine thing for all. It holds steel bolts. Made of brass and steel;"
    ]
    heavier = {**PUMP, "text": "Brass only here. Steel only there."}
    assert texts_of(heavier, max_words=4) == ["Pump. Steel only there."]
    told_often = {**PUMP, "text": "Steel, steel, steel. Steel and brass."}
    assert texts_of(told_often, max_words=4) == ["Pump. Steel and brass."], "a word counts once a sentence"


def test_a_sentence_that_is_too_long_alone_is_judged_in_pieces() -> None:
    long = {**PUMP, "text": "one two three four five six brass eight nine ten"}
    assert texts_of(long, max_words=4) == ["Pump. brass eight nine"]


def test_without_terms_the_first_sentences_stay() -> None:
    bare = {"title": "Pump", "text": DESCRIPTION}
    assert texts_of(bare, max_words=11) == ["Pump. A fine thing for all. It holds steel bolts."]
    new = pa.Table.from_pylist([{"item_id": "", **bare}], ITEMS)
    assert item_texts(new, 11) == texts_of(bare, max_words=11)


def test_the_title_is_whole_and_labels_leave_room_for_the_description() -> None:
    title = "one two three four five six"
    assert texts_of({**PUMP, "title": title, "categories": ["A"]}, max_words=5) == [title]
    many = {**PUMP, "categories": ["Deep Well", "Pumps"], "attributes": ["Acme", "blue"], "text": "Good steel. " * 9}
    assert texts_of(many, max_words=9) == ["Pump. deep well, pumps. Acme. Good steel. Good steel."]
    assert texts_of(many, max_words=5) == ["Pump. deep well. Good steel."]
    assert texts_of(many, max_words=4) == ["Pump. Acme. Good steel."], "no name is cut"


def test_items_do_not_touch_each_other() -> None:
    other = {**PUMP, "terms": ["like", "love"]}
    bare = {"title": "Pump", "text": DESCRIPTION}
    alone = [texts_of(row, max_words=8)[0] for row in (PUMP, other, bare)]
    assert alone[1:] == ["Pump. You will like it! with love.", "Pump. A fine thing for all. with love."]
    assert texts_of(*[PUMP, other, bare] * 500, max_words=8) == alone * 500


@pytest.mark.timeout(30)
def test_a_gigantic_text_costs_bounded_time() -> None:
    sentence = "steel and brass. "
    gigantic = {**PUMP, "text": sentence * 6_000}
    (text,) = texts_of(gigantic, max_words=10)
    assert text == "Pump. " + " ".join([sentence.strip()] * 3)
    late = {**PUMP, "text": "x. " * (MAX_CHARACTERS // 3) + "Steel at last."}
    assert "Steel" not in texts_of(late, max_words=10)[0]


WORDS = st.sampled_from(["steel", "brass.", "a", "pump;", "Deep", "well!"])


@given(
    st.lists(WORDS, min_size=1, max_size=12),
    st.lists(WORDS, max_size=40),
    st.lists(WORDS, max_size=4),
    st.integers(0, 20),
)
@settings(max_examples=100, deadline=None)
def test_no_text_is_longer_than_its_title_and_the_limit(
    title: list[str], text: list[str], labels: list[str], limit: int
) -> None:
    row = {**PUMP, "title": " ".join(title), "text": " ".join(text), "categories": labels, "attributes": labels}
    (found,) = texts_of(row, max_words=limit)
    assert found.startswith(" ".join(title))
    assert len(found.split()) <= max(limit, len(title))


def test_a_profile_tells_likes_then_dislikes_then_what_the_user_says() -> None:
    texts = pa.array(["A Nurse from Leeds", "", "", "Just me"])
    liked = pa.array([["Crime", "Drama"], [], [], []], pa.list_(pa.string()))
    disliked = pa.array([["War"], ["War", "Éclair"], [], []], pa.list_(pa.string()))
    assert profile_sentences(texts, liked, disliked).to_pylist() == [
        "likes crime, drama. dislikes war. a nurse from leeds",
        "dislikes war, éclair",
        "",
        "just me",
    ]
