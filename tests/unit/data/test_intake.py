from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rayrec.data.config import CleanConfig
from rayrec.data.door import Door, Tally, _in_unicode, tidy
from rayrec.data.files import UNPARSEABLE, Block
from rayrec.data.hashing import hash_strings
from rayrec.data.intake import Known, take_impressions, take_interactions, take_items, take_triples, take_users
from rayrec.data.split import HOUR_MS, item_order
from rayrec.data.work import Work
from rayrec.privacy import Privacy
from rayrec.schema import RAW_IMPRESSIONS, RAW_INTERACTIONS, RAW_ITEMS, RAW_USERS, TRIPLES
from rayrec.terms import terms_of

DAY_MS = 24 * HOUR_MS
KEYED = Privacy(b"k" * 32, False, ())


def door(privacy: Privacy = KEYED, **clean: Any) -> Door:
    return Door(Work("/nowhere", "_work/x"), CleanConfig(**clean), privacy, 0, False)


def known(*ids: str) -> Known:
    """A catalogue of these items, and no words."""
    order = item_order(pa.array(ids), 0)
    table = pa.table({"categories": pa.nulls(len(ids), pa.list_(pa.string()))})
    return Known(np.sort(order), np.argsort(order).astype(np.int32), 0, terms_of(table))


def rows(schema: pa.Schema, *values: dict[str, Any]) -> pa.Table:
    table = pa.Table.from_pylist(list(values), schema)
    return table.append_column("row", pa.array(range(len(table)), pa.int64()))


def shown(item_ids: list[str] | None, clicked: list[bool] | None, **changes: Any) -> dict[str, Any]:
    good = {"impression_id": "1", "user_id": "u", "timestamp": 400 * DAY_MS}
    return {**good, "item_ids": item_ids, "clicked": clicked, **changes}


def test_a_catalogue_finds_its_items_and_no_others() -> None:
    ids = [f"item {number}" for number in range(500)]
    found = known(*ids).dense(pa.array([*ids, "item 500", ""]))
    assert found[:500].tolist() == list(range(500))
    assert found[500:].tolist() == [-1, -1]


def test_items_are_dealt_by_the_top_bits_of_their_order() -> None:
    items = rows(RAW_ITEMS, *({"item_id": f"i{number}", "title": "t"} for number in range(200)))
    for bits in (0, 3):
        taken = take_items(door(), bits, items, Tally())
        assert len(taken.buckets) == 1 << bits
        hashes = [np.sort(table["hash"].to_numpy()) for table in taken.buckets]
        assert (np.diff(np.concatenate(hashes).astype(float)) >= 0).all()
        assert sum(len(table) for table in taken.buckets) == 200


def test_impressions_lose_unknown_items_with_their_clicks() -> None:
    catalogue = known("a", "b", "c")
    index = dict(zip("abc", catalogue.dense(pa.array(["a", "b", "c"])).tolist(), strict=True))
    table = rows(
        RAW_IMPRESSIONS,
        shown(["a", "never", "c"], [False, True, True]),
        shown(["never"], [True]),
        shown(["a", "b"], [True]),
        shown(None, None),
        shown(["a"], [True], user_id=None),
        shown(["b", "a"], [None, True], user_id="v", impression_id=None),
        shown(["a", "b"], None),
    )
    taken = take_impressions(door(Privacy(None, False, ())), catalogue, 1, table, Tally())
    assert Counter(taken.verdict.texts().to_pylist()) == {
        "nothing shown is among the items": 2,
        "item_ids and clicked differ in length": 2,
        "no user_id": 1,
    }
    assert taken.buckets[0].to_pylist() == [
        {
            "impression_id": "1",
            "user_id": "u",
            "timestamp": 400 * DAY_MS,
            "items": [index["a"], index["c"]],
            "clicked": [False, True],
        },
        {
            "impression_id": None,
            "user_id": "v",
            "timestamp": 400 * DAY_MS,
            "items": [index["b"], index["a"]],
            "clicked": [False, True],
        },
    ]


def test_users_of_triples_get_their_pseudonyms() -> None:
    table = rows(
        TRIPLES,
        {"head": "user:7", "relation": "friend", "tail": "user:8"},
        {"head": "item:user:7", "relation": "tagged", "tail": "name:user:7"},
        {"head": "user:8", "relation": None, "tail": "user:7"},
    )
    taken = take_triples(door(), table, Tally())
    assert taken.buckets[0].to_pylist() == [
        {"head": f"user:{KEYED.pseudonym('7')}", "relation": "friend", "tail": f"user:{KEYED.pseudonym('8')}"},
        {"head": "item:user:7", "relation": "tagged", "tail": "name:user:7"},
    ]
    assert Counter(taken.verdict.texts().to_pylist()) == {"no relation": 1}


def test_interactions_and_users_meet_in_one_bucket() -> None:
    ids = [f"u{number % 50}" for number in range(200)]
    events = rows(RAW_INTERACTIONS, *({"user_id": user, "item_id": "a", "timestamp": 400 * DAY_MS + 1} for user in ids))
    people = rows(RAW_USERS, *({"user_id": user, "text": None} for user in ids[:50]))
    met = take_interactions(door(), known("a"), 8, events, Tally())
    described = take_users(door(), 8, people, Tally())
    of_events, of_people = (
        [set(table["user_id"].to_pylist()) for table in taken.buckets] for taken in (met, described)
    )
    assert of_events == of_people
    assert all(of_events)
    assert set.union(*of_events) == {KEYED.pseudonym(user) for user in ids}
    for bucket, users in enumerate(of_events):
        assert set(hash_strings(pa.array(sorted(users))) % np.uint64(8)) == {bucket}
    assert met.hours.tolist() == [400 * 24] * 200


def test_a_review_is_stored_as_terms_only() -> None:
    catalogue = known("a")
    event = {"user_id": "u", "item_id": "a", "timestamp": 400 * DAY_MS, "review": "lovely"}
    (table,) = take_interactions(door(), catalogue, 1, rows(RAW_INTERACTIONS, event), Tally()).buckets
    assert table["terms"].to_pylist() == [[]]
    assert "review" not in table.column_names
    (table,) = take_interactions(
        door(), catalogue, 1, rows(RAW_INTERACTIONS, event | {"review": None}), Tally()
    ).buckets
    assert "terms" not in table.column_names


@pytest.mark.parametrize("texts", [["x" * 30, None, "short"], [None, None]])
def test_long_texts_are_cut_and_counted(texts: list[str | None]) -> None:
    tally = Tally()
    cut = tidy(door(max_text=10), pa.chunked_array([pa.array(texts, pa.string())]), tally)
    assert cut.to_pylist() == [None if text is None else text[:10] for text in texts]
    assert (tally.cut, tally.redacted) == (1 if texts[0] else 0, 0)


class Eraser(Privacy):
    """Takes every word with an @ for an address."""

    def redacted(self, texts: Any) -> tuple[Any, int]:
        found = pc.replace_substring_regex(texts, r"\S+@\S+", "<address>")
        return found, pc.sum(pc.not_equal(found, texts)).as_py()


def test_no_half_address_is_left_at_the_cut() -> None:
    tally = Tally()
    text = "mail me at jane.doe@example.com today"
    (left,) = tidy(door(Eraser(None, True, ()), max_text=20), pa.array([text]), tally).to_pylist()
    assert left == "mail me at <address>"
    assert (tally.cut, tally.redacted) == (1, 1)


def test_findings_that_shrink_a_gigantic_text_leave_no_half_address_at_its_end() -> None:
    text = " ".join(["jane.doe@" + "subdomain." * 4 + "example.com"] * 400)
    for limit in range(1000, 1062):
        (left,) = tidy(door(Eraser(None, True, ()), max_text=limit), pa.array([text]), Tally()).to_pylist()
        assert set(left.split()[:-1]) == {"<address>"}
        assert "<address>".startswith(left.split()[-1])


def test_strings_of_lists_are_cut_too() -> None:
    tally = Tally()
    lists = pa.array([["x" * 50, "short"], None, []])
    assert tidy(door(Eraser(None, False, ()), max_text=20), lists, tally).to_pylist() == [["x" * 20, "short"], None, []]
    assert tally.cut == 1


def test_rows_with_bytes_that_are_no_text_are_found_however_deep() -> None:
    bad = pa.array([b"ok", b"\xff", None, b"ok"]).view(pa.string())
    numbers = pa.array([1, 2, 3, 4])
    deep = pa.StructArray.from_arrays([numbers, bad], ["n", "text"])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 3, 4], pa.int32()), deep)
    block = _in_unicode(Block(pa.table({"row": pa.array([7, 8, 9]), "deep": lists}), UNPARSEABLE.empty_table()))
    assert block.rows["row"].to_pylist() == [7, 9]
    assert block.refused.to_pylist()[0]["row"] == 8
