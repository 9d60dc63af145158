"""JSON lines against Python's json line by line, over any mixture of good and bad lines and any block size."""

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data import json_lines
from rayrec.data.json_lines import read_json_array, read_json_lines
from rayrec.data.json_values import NO_OBJECT, NOT_JSON, TOO_DEEP
from rayrec.data.lines import BOM, NOT_UTF8, TOO_LONG, Unparseable

PLAIN = ("1", "2", "2.5", '"x"', '"é"', "null", "true", '["a"]', "[]")
ODD = (
    *(
        '"\\ud83d"',
        '"\\ud83d\\ude00"',
        "[1]",
        '["a", null]',
        '[["a"], []]',
        "{}",
        '{"q": 1}',
        "NaN",
        "-NaN",
        "Infinity",
    ),
    *("Inf", "9007199254740993", "99999999999999999999", "1e400", '"2020-01-01"', "007", "1.", '[1, "a"]', '"\\u0000"'),
)
LINES = (
    *(
        "{",
        "}",
        "null",
        "[]",
        "1",
        "{} {}",
        "{}null{}",
        '{"f": 1',
        '"f": 1}',
        '{"f": {}',
        '{"f": 1,}',
        "words",
        "{}null",
    ),
    *(
        ' {"f": 1}',
        '{"f": 1} ',
        "  ",
        "",
        '{"f": "\x01"}',
        '{"f": 1, "f": "z"}',
        '{"z": 1, "z": 2}',
        "\0",
        '[{"f": 1}]',
    ),
)


def objects(values: tuple[str, ...]) -> st.SearchStrategy[str]:
    fields = st.dictionaries(st.sampled_from("fgz"), st.sampled_from(values), max_size=3)
    return fields.map(lambda found: "{" + ", ".join(f'"{name}": {value}' for name, value in found.items()) + "}")


def texts(*kinds: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    lines = st.lists(st.one_of(*kinds).map(str.encode) | st.just(b'{"f": "\xff"}'), max_size=40)
    return st.tuples(lines, st.sampled_from([b"\n", b"\r\n"]), st.sampled_from([b"", b"\n"])).map(
        lambda found: found[1].join(found[0]) + found[2]
    )


def read(
    data: bytes, fields: tuple[str, ...] = ("f",), block_bytes: int = 1 << 20, max_record: int = 1000
) -> tuple[list[tuple[Any, ...]], list[Unparseable]]:
    rows: list[tuple[Any, ...]] = []
    refused: list[Unparseable] = []
    for table, found in read_json_lines(io.BytesIO(data), fields, block_bytes, max_record):
        rows += zip(*(table[name].to_pylist() for name in ("row", *fields)), strict=True)
        refused += found
    return rows, refused


def column(*values: str) -> pa.ChunkedArray:
    data = "".join(f'{{"f": {value}}}\n' for value in values).encode()
    ((table, refused),) = read_json_lines(io.BytesIO(data), ("f",), 1 << 20, 1000)
    assert not refused
    return table["f"]


def expected(data: bytes, limit: int) -> tuple[list[tuple[int, dict[str, Any]]], list[Unparseable]]:
    place = len(BOM) if data.startswith(BOM) else 0
    rows: list[tuple[int, dict[str, Any]]] = []
    refused: list[Unparseable] = []
    for line in data[place:].removesuffix(b"\n").split(b"\n"):
        row, reason = len(rows) + len(refused), None
        try:
            value = json.loads(line.decode())
        except UnicodeDecodeError:
            reason = NOT_UTF8
        except ValueError:
            reason = NOT_JSON
        else:
            reason = None if isinstance(value, dict) else NO_OBJECT
        reason = TOO_LONG if len(line) > limit else reason
        if reason and (line.strip(b" \r") or reason == TOO_LONG):
            refused.append(Unparseable(row, place, len(line), hashlib.sha256(line).hexdigest(), reason))
        elif not reason:
            rows.append((row, value))
        place += len(line) + 1
    return rows, refused


def says(found: Any, value: Any) -> bool:
    """Whether a value of a column tells what the JSON did, in its own type, as its text or as a list of one."""
    if isinstance(found, list):
        values = value if isinstance(value, list) else [value]
        return len(found) == len(values) and all(says(*pair) for pair in zip(found, values, strict=True))
    if isinstance(value, str):
        return bool(found == value.replace("\ud83d", "\ufffd"))
    if isinstance(found, str):
        return found == json.dumps(value, ensure_ascii=False)
    same_kind = isinstance(found, bool) == isinstance(value, bool)
    return same_kind and (found == value or (found != found and value != value))


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few lines are enough to be cut in two and to be guessed wrongly."""
    monkeypatch.setattr(json_lines, "LEAF", 2)
    monkeypatch.setattr(json_lines, "SAMPLE", 2)


@settings(max_examples=300, deadline=None)
@given(
    data=texts(objects(PLAIN)) | texts(objects(PLAIN), st.sampled_from(LINES)) | texts(objects(PLAIN + ODD)),
    mark=st.sampled_from([b"", BOM]),
    block_bytes=st.sampled_from([1, 5, 32, 100, 4096]),
    max_record=st.sampled_from([12, 20, 1000]),
)
def test_good_lines_become_rows_and_the_others_are_told_exactly(
    data: bytes, mark: bytes, block_bytes: int, max_record: int
) -> None:
    rows, refused = read(mark + data, ("f", "g"), block_bytes, max_record)
    good, bad = expected(mark + data, max_record)
    assert refused == bad
    assert [row[0] for row in rows] == [row for row, _ in good]
    for (_, *values), (_, value) in zip(rows, good, strict=True):
        assert all(says(found, value.get(name)) for found, name in zip(values, "fg", strict=True)), (values, value)


@pytest.mark.parametrize(
    ("values", "kind", "told"),
    [
        (["1", "null", "2"], pa.int64(), [1, None, 2]),
        (["1", "2.5", "3"], pa.float64(), [1.0, 2.5, 3.0]),
        (["1", "2.5", "9007199254740993"], pa.string(), ["1", "2.5", "9007199254740993"]),
        (["1.5", "2", "9007199254740993", "1"], pa.string(), ["1.5", "2", "9007199254740993", "1"]),
        (["1", "2", "18446744073709551615"], pa.string(), ["1", "2", "18446744073709551615"]),
        (["1", "1", '"007"', "true"], pa.string(), ["1", "1", "007", "true"]),
        (["true", "false", "null"], pa.bool_(), [True, False, None]),
        (['"2020-01-01"', '"x"', "null"], pa.string(), ["2020-01-01", "x", None]),
        (['["a"]', "[]", '["b", null]'], pa.list_(pa.string()), [["a"], [], ["b", None]]),
        (["[]", '"b"', '["a"]', "null"], pa.list_(pa.string()), [[], ["b"], ["a"], None]),
        (['[["a"], ["b"]]', "[]", "null"], pa.list_(pa.list_(pa.string())), [[["a"], ["b"]], [], None]),
        (['{"é": [1]}', "null", "3"], pa.string(), ['{"é": [1]}', None, "3"]),
        (["null", "null", "null", "4"], pa.int64(), [None, None, None, 4]),
    ],
)
def test_a_field_takes_the_type_that_keeps_every_value(values: list[str], kind: pa.DataType, told: list[Any]) -> None:
    found = column(*values)
    assert (found.type, found.to_pylist()) == (kind, told)


@pytest.mark.parametrize("line", ["-NaN", "Inf"])
def test_numbers_that_only_pyarrow_knows_are_refused(line: str) -> None:
    rows, refused = read(f'{{"f": 1.5}}\n{{"f": {line}}}\n{{"f": 2.5}}\n'.encode())
    assert rows == [(0, 1.5), (2, 2.5)]
    assert [(record.row, record.reason) for record in refused] == [(1, NOT_JSON)]


def test_objects_that_share_a_line_or_fill_several_are_refused() -> None:
    rows, refused = read(b'{"f": 1} {"f": 2}\n{"f": 3\n}\n')
    assert rows == []
    assert [(record.row, record.offset, record.length) for record in refused] == [(0, 0, 17), (1, 18, 7), (2, 26, 1)]


def test_types_may_differ_between_blocks() -> None:
    data = b'{"f": 1}\n{"f": 2}\n{"f": "x"}\n{"f": 2.5}\n'
    tables = [table for table, _ in read_json_lines(io.BytesIO(data), ("f",), 18, 1000)]
    assert [table["f"].to_pylist() for table in tables] == [[1, 2], ["x"], [2.5]]


def test_an_absent_field_is_null_and_one_called_row_gives_way() -> None:
    ((table, _),) = read_json_lines(io.BytesIO(b'{"a": 1, "row": 9}\n'), ("b", "row", "a"), 1 << 20, 1000)
    assert table.to_pylist() == [{"b": None, "a": 1, "row": 0}]


def test_a_record_nested_too_deeply_is_refused() -> None:
    deep = b'{"f": ' + b"[" * 400 + b"]" * 400 + b"}"
    rows, refused = read(b'{"f": 1}\n' + deep + b'\n{"f": 2}\n')
    assert rows == [(0, 1), (2, 2)]
    assert refused == [Unparseable(1, 9, len(deep), hashlib.sha256(deep).hexdigest(), TOO_DEEP)]


@pytest.mark.parametrize("block_bytes", [1, 20, 1 << 20])
def test_an_array_of_objects_is_read_like_lines(block_bytes: int) -> None:
    data = BOM + ' [ {"f": "é"},\n3, {"g": 1}\n, {"f": "y"} ] '.encode()
    found = list(read_json_array(data, ("f",), block_bytes))
    assert len(found) == {1: 4, 20: 2, 1 << 20: 1}[block_bytes]
    rows = [row for table, _ in found for row in table.to_pylist()]
    assert rows == [{"f": "é", "row": 0}, {"f": None, "row": 2}, {"f": "y", "row": 3}]
    place = data.index(b"3")
    three = Unparseable(1, place, 1, hashlib.sha256(b"3").hexdigest(), NO_OBJECT)
    assert [record for _, refused in found for record in refused] == [three]


@pytest.mark.parametrize("data", [b'[{"f": 1}', b'{"f": 1}\n{"f": 2}\n', b"[{}{}]", b"[1] x", b"", b'["\xff"]'])
def test_what_is_no_array_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="one JSON array of objects"):
        list(read_json_array(data, ("f",), 1 << 20))


@pytest.mark.parametrize("data", [b"[]", b" [\n] "])
def test_an_empty_array_gives_one_empty_block(data: bytes) -> None:
    ((table, refused),) = read_json_array(data, ("f",), 1 << 20)
    assert (table.to_pydict(), refused) == ({"f": [], "row": []}, [])
