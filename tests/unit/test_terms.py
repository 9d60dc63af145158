"""Telling words of items and reviews, by hand."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.schema import ITEMS
from rayrec.terms import (
    ITEM_WORDS,
    MAX_CHARACTERS,
    REVIEW_WORDS,
    WORD_BUCKETS,
    Terms,
    document_frequencies,
    review_terms,
    strongest,
    telling_terms,
    terms_of,
    words_of,
)


def items_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([{"item_id": str(place), "title": "", **row} for place, row in enumerate(rows)], ITEMS)


def with_terms(items: pa.Table) -> pa.Table:
    terms, weights = telling_terms(items, document_frequencies(items), len(items))
    return items.append_column("terms", terms).append_column("term_weights", weights)


def told(items: pa.Table) -> list[list[str]]:
    found: list[list[str]] = with_terms(items)["terms"].to_pylist()
    return found


def frequency(items: pa.Table, word: str) -> int:
    """How many items hold the word: read from the bucket of an item that says nothing else."""
    (bucket,) = np.flatnonzero(document_frequencies(items_of({"title": word})))
    return int(document_frequencies(items)[bucket])


TOOLS = items_of(
    {"title": "Relay kit", "text": "A relay for the compressor. Relay!"},
    {"title": "Compressor relay"},
    {"title": "Brass kit", "text": "Brass, steel and a gasket"},
    {"title": "Steel pipe", "text": "pipe of STEEL"},
)


def test_words_are_lower_case_with_a_letter_and_no_stop_words_in_any_script() -> None:
    texts = pa.array(["The Café—CRÈME, don't! 500 5mm x", None, "", "ﬁne Cafe\u0301 हिन्दी", "日本語"])
    text_W, words = words_of(texts)
    assert text_W.tolist() == [0, 0, 0, 3, 3, 3, 4]
    assert words.to_pylist() == ["café", "crème", "5mm", "fine", "café", "हिन्दी", "日本語"]


def test_words_of_a_slice_are_those_of_the_slice() -> None:
    text_W, words = words_of(pa.array(["alpha", "beta gamma", "delta"]).slice(1, 2))
    assert (text_W.tolist(), words.to_pylist()) == ([0, 0, 1], ["beta", "gamma", "delta"])


def test_of_a_gigantic_text_the_beginning_is_read_and_a_gigantic_word_is_none() -> None:
    text_W, words = words_of(pa.array(["kit " * MAX_CHARACTERS, "a" * 41 + " " + "b" * 40]))
    assert np.count_nonzero(text_W == 0) == MAX_CHARACTERS / len("kit ")
    assert words[-1].as_py() == "b" * 40
    assert np.count_nonzero(text_W == 1) == 1


def test_the_strongest_come_first_and_of_equal_ones_the_earlier() -> None:
    groups, weights = np.array([1, 0, 1, 1, 0]), np.array([2.0, 1.0, 3.0, 3.0, 1.0])
    assert strongest(groups, weights, 2).tolist() == [1, 4, 2, 3]
    assert strongest(groups, weights, np.array([1, 1, 3, 1, 1])).tolist() == [1, 2]
    assert strongest(groups[:0], weights[:0], 2).tolist() == []


def test_an_item_counts_a_word_once_however_often_it_says_it() -> None:
    frequencies = document_frequencies(TOOLS)
    assert (frequencies.dtype, frequencies.shape) == (np.int32, (WORD_BUCKETS,))
    assert [frequency(TOOLS, word) for word in ("relay", "kit", "steel", "pipe", "valve")] == [2, 2, 2, 1, 0]
    assert frequencies.sum() == 3 + 2 + 4 + 2
    assert np.flatnonzero(document_frequencies(items_of({"title": "café"}))).tolist() == [869045], "for every version"


def test_telling_terms_have_the_weights_of_the_formula_strongest_first_and_no_word_of_one_item() -> None:
    terms, weights = telling_terms(TOOLS, document_frequencies(TOOLS), 4)
    assert (terms.type, weights.type) == (pa.list_(pa.string()), pa.list_(pa.float32()))
    assert terms.to_pylist() == [["relay", "compressor", "kit"], ["compressor", "relay"], ["kit", "steel"], ["steel"]]
    rarity = math.log(5 / 3)
    expected = [[(1 + math.log(3)) * rarity, rarity, rarity], [rarity] * 2, [rarity] * 2, [(1 + math.log(2)) * rarity]]
    for found, wanted in zip(weights.to_pylist(), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


def test_a_word_of_every_item_tells_nothing_and_there_are_at_most_eight() -> None:
    words = " ".join(f"word{letter}" for letter in "jihgfedcba")
    (first, second, third) = told(items_of({"title": f"all {words}"}, {"title": f"everywhere {words}"}, {"title": "x"}))
    assert first == second == [f"word{letter}" for letter in "abcdefgh"]
    assert (len(first), third) == (ITEM_WORDS, [])
    assert told(items_of({"title": "kit"}, {"title": "kit"})) == [[], []]
    many = items_of(*[{"title": "relay kit"}] * 2, *[{"title": "relay"}] * 8)
    terms, weights = telling_terms(many, document_frequencies(many), 10)
    assert (terms[0].as_py(), terms[5].as_py(), weights[5].as_py()) == (["kit"], [], [])


def test_a_title_speaks_beside_a_description_or_where_nothing_else_does() -> None:
    named = {"title": "kit", "categories": ["Tools"]}
    bare, described = {**named, "categories": None}, {**named, "text": "relay"}
    assert told(items_of(named, named, {})) == [[], [], []]
    assert told(items_of(described, described, {})) == [["kit", "relay"], ["kit", "relay"], []]
    assert told(items_of(bare, {**named, "categories": []}, {})) == [["kit"], ["kit"], []]
    mixed = items_of({**named, "text": "  "}, described, {"title": "kit relay", "attributes": ["Stanley"]}, {})
    assert told(mixed) == [[], ["kit", "relay"], ["kit", "relay"], []]


WORDS = st.sampled_from(["relay", "kit", "brass", "steel", "pipe", "the", "Gasket", "gasket"])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "title": st.lists(WORDS, max_size=4).map(" ".join),
            "text": st.none() | st.lists(WORDS, max_size=9).map(" ".join),
            "categories": st.none() | st.lists(st.sampled_from(["Tools", "Parts"]), max_size=2),
        }
    ),
    min_size=1,
    max_size=8,
)


@given(ROWS, st.data())
@settings(max_examples=15, deadline=None)
def test_pieces_in_any_order_give_what_the_whole_gives(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    whole = items_of(*rows)
    cut = data.draw(st.integers(0, len(rows)))
    order = data.draw(st.permutations(range(len(rows))))
    mixed = whole.take(pa.array(order))
    pieces = [mixed.slice(0, cut), mixed.slice(cut)]
    frequencies = sum(document_frequencies(piece) for piece in pieces)
    np.testing.assert_array_equal(frequencies, document_frequencies(whole))
    found: list[Any] = [None] * len(rows)
    told_in_pieces = [telling_terms(piece, frequencies, len(rows)) for piece in pieces]
    columns = [pa.chunked_array(column).to_pylist() for column in zip(*told_in_pieces, strict=True)]
    for place, pair in zip(order, zip(*columns, strict=True), strict=True):
        found[place] = pair
    terms, weights = telling_terms(whole, frequencies, len(rows))
    assert found == list(zip(terms.to_pylist(), weights.to_pylist(), strict=True))


def catalogue_terms() -> Terms:
    """Of six items; `brass` is rarer than `relay`, and `pipe` as rare as `brass`."""
    rows = [
        {"categories": ["Tools", "Parts"], "attributes": ["Stanley", "only here"], "text": "relay pipe"},
        {"categories": ["Parts"], "attributes": ["Stanley", "Tools"], "text": "relay relay brass parts"},
        {"categories": None, "attributes": None, "text": "relay brass parts pipe"},
        *({"categories": ["Tools"], "attributes": ["Tools"]} for _ in range(3)),
    ]
    return terms_of(with_terms(items_of(*rows)))


def test_terms_are_labels_in_order_of_appearance_then_words_the_rarest_first() -> None:
    terms = catalogue_terms()
    assert terms.names.to_pylist() == ["Tools", "Parts", "Stanley", "brass", "pipe", "relay"]
    assert terms.num_labels == 3
    np.testing.assert_allclose(
        terms.rarity_V, [0, 0, 0, 1, 1, math.log(7 / 4) / math.log(7 / 3)], rtol=1e-3, err_msg="log(7/4): 3 of 6 items"
    )
    np.testing.assert_array_equal(
        terms.matrix.toarray()[:4],
        [[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 1], [0, 0, 0, 1, 1, 1], [2, 0, 0, 0, 0, 0]],
    )


def test_a_catalogue_may_have_categories_alone_or_nothing() -> None:
    found = terms_of(pa.table({"categories": pa.array([["a"], None, ["b", "a"]])}))
    assert (found.names.to_pylist(), found.num_labels) == (["a", "b"], 2)
    np.testing.assert_array_equal(found.matrix.toarray(), [[1, 0], [0, 0], [1, 1]])
    empty = terms_of(with_terms(items_of({}, {})))
    assert (len(empty.names), empty.matrix.shape[0], empty.matrix.nnz) == (0, 2, 0)
    assert review_terms(pa.array(["relay", None]), empty).to_pylist() == [[], None]


def test_a_review_tells_the_words_that_items_tell_of_the_rarest_first_and_each_once() -> None:
    reviews = pa.array(["A great RELAY, and pipe. Pipe & brass!", None, "", "parts of tools", "relay"])
    terms = catalogue_terms()
    found = review_terms(reviews, terms)
    assert found.type == pa.list_(pa.int32())
    assert found.to_pylist() == [[3, 4, 5], None, [], [], [5]]
    assert (
        review_terms(pa.chunked_array([reviews.slice(0, 2), reviews.slice(2)]), terms).to_pylist() == found.to_pylist()
    )
    assert review_terms(reviews.slice(3), terms).to_pylist() == [[], [5]]


def test_of_a_long_review_the_rarest_words_stay() -> None:
    words = [f"word{letter}" for letter in "abcdefghijklmnopqrst"]
    common = [{"title": words[0]}] * 3
    items = items_of(*({"title": word} for word in words for _ in range(2)), *common)
    terms = terms_of(with_terms(items))
    (found,) = review_terms(pa.array([" ".join(words)]), terms).to_pylist()
    assert [terms.names[index].as_py() for index in found] == words[1 : 1 + REVIEW_WORDS]
