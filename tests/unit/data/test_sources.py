import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from rayrec.data.config import Columns, ColumnsSource, MovieLensSource
from rayrec.data.sources.columns import find_files, read_columns
from rayrec.data.sources.logs import canonical_interactions, milliseconds, numbers, string_lists, strings
from rayrec.data.sources.movielens import read_movielens, readable_title


def column(values: list[object], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


def test_ids_become_strings() -> None:
    assert strings(column([7, None])).to_pylist() == ["7", None]
    assert strings(column([7.0, None])).to_pylist() == ["7", None]
    assert strings(column(["007"])).to_pylist() == ["007"]


def test_numbers_in_text_are_read_and_words_become_nan() -> None:
    found = numbers(column(["4", " 3.5 ", "-1e2", "four stars", None])).to_pylist()
    assert found[:3] == [4.0, 3.5, -100.0]
    assert found[3] != found[3]
    assert found[4] is None


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (881250949, "s", 881250949000),
        (881250949.123, "s", 881250949123),
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
    ],
)
def test_timestamps_become_milliseconds(value: object, unit: str, expected: int | None) -> None:
    kind = pa.string() if value is None else None
    assert milliseconds(column([value], kind), unit).to_pylist() == [expected]


def test_absurd_timestamps_stay_absurd() -> None:
    assert milliseconds(column([1e300]), "s").to_pylist()[0] >= 2**52


def test_lists_are_split_or_taken() -> None:
    assert string_lists(column(["a| b|", "", None]), "|").to_pylist() == [["a", "b"], [], None]
    assert string_lists(column([["a"], None]), "|").to_pylist() == [["a"], None]


def test_columns_that_are_not_there_are_null() -> None:
    block = pa.table({"who": [1], "what": [2], "when": [3]})
    columns = {"user_id": "who", "item_id": "what", "timestamp": "when", "rating": None, "event": None}
    assert canonical_interactions(block, columns, "s").to_pylist() == [
        {"user_id": "1", "item_id": "2", "timestamp": 3000, "rating": None, "event": None}
    ]


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Godfather, The (1972)", "The Godfather (1972)"),
        ("Godfather, The", "The Godfather"),
        ("Misérables, Les (1995)", "Les Misérables (1995)"),
        ("Double vie, La (Double Life, The)", "La Double vie (The Double Life)"),
        ("I, Worst of All", "I, Worst of All"),
        ("Toy Story (1995)", "Toy Story (1995)"),
    ],
)
def test_titles_read_naturally(title: str, expected: str) -> None:
    assert readable_title(title) == expected


def test_a_folder_without_movielens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no MovieLens-100K at"):
        read_movielens(MovieLensSource(uri=str(tmp_path)))


def test_files_are_found_by_file_folder_and_glob(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv.gz", "notes.txt"):
        (tmp_path / name).write_text("x")
    expected = [str(tmp_path / "a.csv.gz"), str(tmp_path / "b.csv")]
    assert find_files(str(tmp_path)) == (expected, "csv")
    assert find_files(f"{tmp_path}/*.csv*") == (expected, "csv")
    assert find_files(expected[1]) == (expected[1:], "csv")
    with pytest.raises(ValueError, match="none readable"):
        find_files(str(tmp_path / "absent.csv"))
    (tmp_path / "c.parquet").write_text("x")
    with pytest.raises(ValueError, match="formats csv, parquet"):
        find_files(str(tmp_path))


def test_a_missing_column_names_what_is_there_and_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,titel\n1,x\n")
    source = ColumnsSource(kind="columns", interactions="unread.csv", items=str(tmp_path / "items.csv"))
    with pytest.raises(ValueError, match=r"no column 'title'; found item_id, titel. did you mean 'titel'\?"):
        read_columns(source)
    with pytest.raises(ValueError, match="no column 'name'"):
        read_columns(source.model_copy(update={"columns": Columns(title="name")}))
