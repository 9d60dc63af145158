import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from rayrec.config import load_config
from rayrec.data.files import Delimited, JsonLines, Parquet
from rayrec.data.sources.config import AmazonSource, Columns, ColumnsSource, MovieLensSource, RecBoleSource
from rayrec.data.sources.listing import SOURCES
from rayrec.data.sources.logs import canonical_interactions
from rayrec.data.sources.texts import joined, readable_titles, texts, unescaped, unprinted
from rayrec.data.sources.times import milliseconds
from rayrec.data.sources.values import distinct, flagged, flat, lists_of, numbers, places, string_lists, strings
from rayrec.stages import RunConfig

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"


def column(values: list[object], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    kind = pa.array(values).type if kind is None else kind
    return pa.chunked_array([pa.array(values[:1], kind), pa.array(values[1:], kind)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7, None], ["7", None]),
        ([7.0, 0.5], ["7", "0.5"]),
        ([float("nan"), 2.0**52], [None, "4503599627370496"]),
        ([1e300, float("inf")], ["1e+300", "inf"]),
        (["007", ""], ["007", ""]),
        ([True, None], ["true", None]),
        ([b"caf\xc3\xa9", b"\xff"], ["café", None]),
        ([["u1"], ["u2"]], ["u1", "u2"]),
        ([[["u1"]], [["a", "b"]]], ["u1", None]),
        ([[], None], [None, None]),
        ([{"id": 1}, None], [None, None]),
    ],
)
def test_ids_become_strings(values: list[object], expected: list[str | None]) -> None:
    kind = pa.array(values).type
    assert strings(column(values, kind)).to_pylist() == expected
    assert [strings(column([value], kind)).to_pylist()[0] for value in values] == expected


def test_strings_that_are_not_utf8_are_null() -> None:
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"], pa.binary()).buffers())
    assert strings(broken).to_pylist() == ["ok", None]
    assert strings(pa.chunked_array([pa.array(["a", "b"]).dictionary_encode()])).to_pylist() == ["a", "b"]


def test_numbers_in_text_are_read_and_words_become_nan() -> None:
    found = numbers(column(["4", " 3.5 ", "-1e2", "four stars", "", None])).to_pylist()
    assert found[:3] == [4.0, 3.5, -100.0]
    assert found[3] != found[3]
    assert found[4] != found[4]
    assert found[5] is None


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (881250949, "s", 881250949000),
        (881250949.123, "s", 881250949123),
        (1.001, "s", 1001),
        ("881250949", "s", 881250949000),
        (1700000000123, "ms", 1700000000123),
        (1700000000123456, "us", 1700000000123),
        (1700000000123900000, "ns", 1700000000123),
        (1700000000124000000, "ns", 1700000000124),
        (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "s", 1704067200000),
        (dt.date(2024, 1, 1), "s", 1704067200000),
        ("yesterday", "s", None),
        (None, "s", None),
        (-5, "s", -5000),
        ("2024-01-01", "s", 1704067200000),
        (" 2024-01-01T00:00:07Z ", "s", 1704067207000),
        ("2024-01-01 00:01", "ms", 1704067260000),
        ("2024-01-01 01:30:00.250999+01:30", "s", 1704067200250),
        ("2023-12-31T22:59:59,5-0100", "s", 1704067199500),
        ("2024-02-30 00:00:00", "s", None),
        ("2024-01-01 at noon", "s", None),
    ],
)
def test_timestamps_become_milliseconds(value: object, unit: str, expected: int | None) -> None:
    kind = pa.string() if value is None else None
    assert milliseconds(pa.array([value], kind), unit).to_pylist() == [expected]


def test_absurd_timestamps_stay_absurd() -> None:
    assert milliseconds(column([1e300, 1.0]), "s").to_pylist()[0] >= 2**52


def test_lists_are_split_or_taken() -> None:
    assert string_lists(column(["a| b|", "", None]), "|").to_pylist() == [["a", "b"], [], None]
    assert string_lists(column([["a", " ", None], None]), "|").to_pylist() == [["a"], None]
    assert string_lists(column([[["a"], ["b", "c"]], [[]], None]), "|").to_pylist() == [["a", "b", "c"], [], None]
    assert string_lists(column([[1], [2.5]], pa.list_(pa.float64())), "|").to_pylist() == [["1"], ["2.5"]]


def test_lists_lie_flat_and_come_back() -> None:
    lists = pa.array([["skipped"], ["a", "b"], None, [], ["c"]])[1:]
    values, rows = flat(lists)
    assert (values.to_pylist(), rows.tolist(), places(rows).tolist()) == (["a", "b", "c"], [0, 0, 3], [0, 1, 0])
    assert lists_of(values, rows, lists.is_valid().to_numpy(zero_copy_only=False)).equals(lists)


def test_lists_lose_repeats_only() -> None:
    lists = pa.array([["b", "a", "b", "a"], None, [], ["a", "b"]])
    assert distinct(lists).to_pylist() == [["b", "a"], None, [], ["a", "b"]]


def test_columns_of_flags_become_names() -> None:
    block = pa.table({"Cars": ["1.0", "0", None], "Food": ["1", "yes", "0.0"]})
    assert flagged(block, ["Cars", "Food"]).to_pylist() == [["Cars", "Food"], [], []]


def test_texts_of_a_row_are_joined_and_none_is_null() -> None:
    found = joined(pa.array(["a", None, None, ""]), pa.array(["b", "b", None, None]), separator=", ")
    assert found.to_pylist() == ["a, b", "b", None, None]
    assert texts(column([["a", "b"], [], None])).to_pylist() == ["a b", None, None]
    assert texts(column(["a", "", None])).to_pylist() == ["a", None, None]


def test_columns_that_are_not_there_are_null() -> None:
    block = pa.table({"who": [1], "what": [2], "when": [3], "row": [9]})
    columns = {"user_id": "who", "item_id": "what", "timestamp": "when", "rating": None}
    nothing = {"rating": None, "event": None, "review": None}
    assert canonical_interactions(block, columns, "s").to_pylist() == [
        {"user_id": "1", "item_id": "2", "timestamp": 3000, "row": 9, **nothing}
    ]


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Godfather, The (1972)", "The Godfather (1972)"),
        (" Godfather, The", "The Godfather"),
        ("Misérables, Les (1995)", "Les Misérables (1995)"),
        ("Double vie, La (Double Life, The)", "La Double vie (The Double Life)"),
        ("City, The (Cité, La) (1995)", "The City (La Cité) (1995)"),
        ("I, Worst of All", "I, Worst of All"),
        ("Man, Therese", "Man, Therese"),
        ("Toy Story (1995)", "Toy Story (1995)"),
    ],
)
def test_titles_read_naturally(title: str, expected: str) -> None:
    assert readable_titles(pa.array([title])).to_pylist() == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A &amp; B &#39;C&#x27; T&Uuml;RLEN", "A & B 'C' TÜRLEN"),
        ("AT&T; R&D &copy 3", "AT&T; R&D &copy 3"),
        (None, None),
    ],
)
def test_entities_are_read_where_they_are_whole(text: str | None, expected: str | None) -> None:
    assert unescaped(column([text, "plain"], pa.string())).to_pylist() == [expected, "plain"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['a', \"it's\"]", "a it's"),
        ("[]", ""),
        ("[REC]", "[REC]"),
        ("[unclosed, 'a]", "[unclosed, 'a]"),
        (f"[{'-' * 3_000}1]", f"[{'-' * 3_000}1]"),
        (f"[{'-' * 10_000}1]", f"[{'-' * 10_000}1]"),
        ("[{[]: 1}]", "[{[]: 1}]"),
        ("see [1]", "see [1]"),
        (None, None),
    ],
)
def test_printed_lists_are_read(text: str | None, expected: str | None) -> None:
    assert unprinted(pa.array([text], pa.string()), " ").to_pylist() == [expected]


def columns_source(folder: Path, **changes: object) -> ColumnsSource:
    (folder / "events.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    (folder / "items.csv").write_text("item_id,titel\na,A\n")
    return ColumnsSource(
        kind="columns", interactions=str(folder / "events.csv"), items=str(folder / "items.csv")
    ).model_copy(update=changes)


def test_a_missing_column_names_what_is_there_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no column 'title'; found item_id, titel. did you mean 'titel'\?"):
        SOURCES["columns"](columns_source(tmp_path))
    with pytest.raises(ValueError, match="no column 'name'"):
        SOURCES["columns"](columns_source(tmp_path, columns=Columns(title="name")))
    with pytest.raises(ValueError, match="no column 'about'"):
        SOURCES["columns"](columns_source(tmp_path, columns=Columns(title="titel", text="about")))


def test_a_key_that_json_never_has_is_missed_only_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "A"}\n')
    source = columns_source(tmp_path, items=str(tmp_path / "items.jsonl"))
    logs = SOURCES["columns"](source.model_copy(update={"columns": Columns(text="about")}))
    assert logs.items[0].format == JsonLines(("item_id", "title", "about"))
    with pytest.raises(ValueError, match="no column 'name'"):
        SOURCES["columns"](source.model_copy(update={"columns": Columns(title="name")}))


def test_the_format_is_told_by_the_ending(tmp_path: Path) -> None:
    (tmp_path / "items.tsv").write_text("item_id\ttitle\na\tA\n")
    (tmp_path / "items.json").write_text('[{"item_id": "a", "title": "A"}]')
    parquet.write_table(pa.table({"item_id": ["a"], "title": ["A"], "x": [1]}), tmp_path / "items.parquet")
    forms = {
        "items.tsv": Delimited("\t"),
        "items.json": JsonLines(("item_id", "title"), array=True),
        "items.parquet": Parquet(("item_id", "title")),
    }
    for name, form in forms.items():
        logs = SOURCES["columns"](columns_source(tmp_path, items=str(tmp_path / name)))
        assert logs.items[0].format == form
    with pytest.raises(ValueError, match="no file"):
        SOURCES["columns"](columns_source(tmp_path, items=str(tmp_path / "absent.csv")))


def test_logs_without_any_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timestamp: null and position: null"):
        SOURCES["columns"](columns_source(tmp_path, columns=Columns(timestamp=None)))


def test_folders_without_a_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no MovieLens at"):
        SOURCES["movielens"](MovieLensSource(uri=str(tmp_path)))
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\nu\ti\n")
    (tmp_path / "a.item").write_text("item_id:token\tprice:float\ni\t1\n")
    with pytest.raises(ValueError, match=r"has no title; expected one of .* found none of them among 2"):
        SOURCES["recbole"](RecBoleSource(kind="recbole", uri=str(tmp_path), name="a"))


def test_metadata_as_python_literals_are_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{'asin': '1', 'title': 'A'}\n{'asin': '2'}\n")
    (tmp_path / "reviews.json").write_text(json.dumps({"reviewerID": "U", "asin": "1"}) + "\n")
    files = {name: str(tmp_path / file) for name, file in (("reviews", "reviews.json"), ("metadata", "meta.json"))}
    with pytest.raises(ValueError, match=r"meta.json' does not begin with a line of JSON.*Python literals"):
        SOURCES["amazon"](AmazonSource(kind="amazon", **files))


def test_every_kind_has_a_config_that_names_no_place_of_one_machine() -> None:
    seen = set()
    for path in sorted(CONFIGS.glob("*.yaml")):
        data = load_config(RunConfig, str(path)).data
        seen.add(data.source.kind)
        where = data.source.model_dump(include={"uri", "uris", "reviews", "metadata", "interactions", "items"})
        for found in where.values():
            for uri in [found] if isinstance(found, str) else found:
                assert uri.startswith(("data/", "package://")), f"{path.name}: {uri}"
        assert (data.privacy.user_ids, data.privacy.redact) == ("plain", False)
        if data.source.kind in ("tallrec", "lastfm", "dkn", "rated_ads"):
            assert data.split.kind == "leave_last_out"
    assert seen == set(SOURCES)
