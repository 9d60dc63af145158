"""Delimited text against a reader that goes byte by byte, over any mixture of good and bad lines and any block size."""

import hashlib
import io
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data.delimited import FIELDS, MISPLACED, RESERVED, read_delimited
from rayrec.data.lines import BOM, NOT_UTF8, TOO_LONG, Unparseable

Rows = list[tuple[int | str | None, ...]]

PIECES = (
    *(b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"a", b"bc", b" ", b"\0", "é".encode(), b"\xff", b"\x1f", b"::"),
    *(b"x,y\n", b'"q","r"\n', b'"a\nb",c\n', b'5" s,t\n', b'"o,5\n', b"1,2\n1,2\n", b"long enough", b"1::2\n"),
)
TEXT = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60),
    st.lists(st.sampled_from([b'"q","r"\n', b"x,y\n", b'"a\nb",""\n', b"1\n"]), max_size=60),
).map(b"".join)


def read(
    data: bytes,
    names: Iterable[str] = ("a", "b"),
    *,
    delimiter: str = ",",
    quoted: bool = True,
    encoding: str = "utf-8",
    block_bytes: int = 1 << 20,
    max_record: int = 1000,
) -> tuple[Rows, list[Unparseable]]:
    rows: Rows = []
    refused: list[Unparseable] = []
    stream = io.BytesIO(data)
    for table, found in read_delimited(stream, delimiter, tuple(names), quoted, encoding, block_bytes, max_record):
        columns = [table[name].to_pylist() for name in ("row", *(name for name in table.column_names if name != "row"))]
        rows += zip(*columns, strict=True)
        refused += found
    return rows, refused


def unparseable(data: bytes, row: int, record: bytes, reason: str) -> Unparseable:
    assert data.count(record) == 1
    return Unparseable(row, data.index(record), len(record), hashlib.sha256(record).hexdigest(), reason)


def parse(text: bytes, start: int, delimiter: bytes) -> tuple[int, list[bytes]] | None:
    """The newline that ends a quoted record, and its fields; None if it is malformed."""
    fields, field, state, place = [], b"", "start", start
    while place < len(text):
        byte, following = text[place : place + 1], text[place + 1 : place + 2]
        if state == "quoted":
            if byte == b'"' and following == b'"':
                place += 1
            if byte == b'"' and following != b'"':
                state = "closed"
            else:
                field += byte
        elif byte == b"\n":
            return place, [*fields, field]
        elif byte == b"\r" and following == b"\n":
            pass
        elif byte == b"\r" or (state == "closed" and byte != delimiter):
            return None
        elif byte == delimiter:
            fields, field, state = [*fields, field], b"", "start"
        elif byte == b'"' and state == "start":
            state = "quoted"
        else:
            field, state = field + byte, "plain"
        place += 1
    return None


def expected(
    data: bytes, delimiter: bytes, quoted: bool, encoding: str, width: int, limit: int
) -> tuple[Rows, list[Unparseable]]:
    place, text = len(BOM) if data.startswith(BOM) else 0, data if data.endswith(b"\n") else data + b"\n"
    rows: Rows = []
    refused: list[Unparseable] = []
    while place < len(data):
        line = text.index(b"\n", place)
        reason, found = None, parse(text, place, delimiter) if quoted else None
        if not quoted and b"\r" not in text[place:line].removesuffix(b"\r"):
            found = line, text[place:line].removesuffix(b"\r").split(delimiter)
        if line - place > limit:
            reason, found = TOO_LONG, None
        end, fields = found if found and found[0] - place <= limit else (line, [])
        record = text[place:end]
        if record not in (b"", b"\r"):
            if not reason and (not found or found[0] - place > limit):
                reason = MISPLACED
            if len(delimiter) > 1 and b"\x1f" in record and reason != TOO_LONG:
                reason = RESERVED
            if encoding == "utf-8" and reason != TOO_LONG and record.decode(errors="replace").encode() != record:
                reason = NOT_UTF8
            reason = reason or (FIELDS if len(fields) != width else None)
            row = len(rows) + len(refused)
            if reason:
                refused.append(Unparseable(row, place, len(record), hashlib.sha256(record).hexdigest(), reason))
            else:
                rows.append((row, *(field.decode(encoding) or None for field in fields)))
        place = end + 1
    return rows, refused


@settings(max_examples=300, deadline=None)
@given(
    data=TEXT,
    mark=st.sampled_from([b"", BOM]),
    layout=st.sampled_from([(",", True), (",", True), (",", False), ("::", False)]),
    encoding=st.sampled_from(["utf-8", "utf-8", "latin-1"]),
    width=st.integers(1, 3),
    block_bytes=st.sampled_from([1, 2, 3, 7, 16, 64, 4096]),
    max_record=st.sampled_from([3, 5, 8, 12, 20, 1000]),
)
def test_good_records_become_rows_and_the_others_are_told_exactly(
    data: bytes, mark: bytes, layout: tuple[str, bool], encoding: str, width: int, block_bytes: int, max_record: int
) -> None:
    delimiter, quoted = layout
    found = read(
        mark + data,
        [f"c{place}" for place in range(width)],
        delimiter=delimiter,
        quoted=quoted,
        encoding=encoding,
        block_bytes=block_bytes,
        max_record=max_record,
    )
    assert found == expected(mark + data, delimiter.encode(), quoted, encoding, width, max_record)


@pytest.mark.parametrize(
    "data",
    [
        b'5" s,t\n"two\nlines",2\n5" s,"d ""q"" d"\n',
        b'"x"y"\n",a\nb",c\nu,v\n',
        b'"x"y"\nz",t\nw",t\n"q",r\n',
        b'"half" done,1\nu,v\n',
        b'u,"a\rb"\nu,a\rb\n"a\r\nb",""\r\n',
        b'"one\ntwo\nthree\nfour",5\n6,"seven\n8,9\n',
    ],
)
@pytest.mark.parametrize("max_record", [10, 17, 1000])
def test_quotes_out_of_place_are_told_whatever_the_block(data: bytes, max_record: int) -> None:
    told = expected(data, b",", True, "utf-8", 2, max_record)
    for block_bytes in range(1, len(data) + 2):
        assert read(data, block_bytes=block_bytes, max_record=max_record) == told, block_bytes


def test_a_quote_that_never_closes_does_not_gather_the_file() -> None:
    stream = io.BytesIO(b'u1,"one\n' + b"u2,two\n" * 10_000)
    blocks = read_delimited(stream, ",", ("a", "b"), True, "utf-8", 100, 1000)
    assert next(blocks)[1][0].reason == MISPLACED
    assert stream.tell() < 2000


@pytest.mark.parametrize("block_bytes", range(1, 12))
def test_quoted_delimiters_newlines_and_quotes_cross_the_borders_of_blocks(block_bytes: int) -> None:
    data = b'a,b\r\n"x, ""y""",1\r\n"two\nlines",2\r\n,"3"\r\n'
    assert read(data, (), block_bytes=block_bytes) == ([(0, 'x, "y"', "1"), (1, "two\nlines", "2"), (2, None, "3")], [])


def test_a_quote_that_never_closes_costs_one_line() -> None:
    data = b"u1,one\n" + b'u2,"two\n' + b"u3,three\n" * 300 + b"u4,four\n"
    rows, refused = read(data)
    assert refused == [unparseable(data, 1, b'u2,"two', MISPLACED)]
    assert len(rows) == 302
    assert rows[0] == (0, "u1", "one")
    assert rows[1] == (2, "u3", "three")
    assert rows[-1] == (302, "u4", "four")


def test_a_quote_that_closes_within_text_costs_one_line() -> None:
    data = b'u1,"one\nu2,"two"\nu3,5" disk\nu4,"half" done\n'
    assert read(data) == (
        [(1, "u2", "two"), (2, "u3", '5" disk')],
        [unparseable(data, 0, b'u1,"one', MISPLACED), unparseable(data, 3, b'u4,"half" done', MISPLACED)],
    )


def test_each_kind_of_bad_line_is_refused_alone() -> None:
    long = b"u," + b"x" * 1000
    data = b"\n".join([b"u1,1", b"u2", b"u3,3,3", b"u4,\xff", b"", b"u5,5", long, b"u6,a\rb", b"u7,7"])
    rows, refused = read(data)
    assert rows == [(0, "u1", "1"), (4, "u5", "5"), (7, "u7", "7")]
    assert refused == [
        unparseable(data, 1, b"u2", FIELDS),
        unparseable(data, 2, b"u3,3,3", FIELDS),
        unparseable(data, 3, b"u4,\xff", NOT_UTF8),
        unparseable(data, 5, long, TOO_LONG),
        unparseable(data, 6, b"u6,a\rb", MISPLACED),
    ]


def test_delimiters_of_several_bytes_in_latin_1() -> None:
    data = "1::Am\xe9lie::Com\xe9die\n2::a:b::\n3::\n".encode("latin-1")
    rows, refused = read(data, ("item", "title", "genres"), delimiter="::", quoted=False, encoding="latin-1")
    assert rows == [(0, "1", "Amélie", "Comédie"), (1, "2", "a:b", None)]
    assert refused == [unparseable(data, 2, b"3::", FIELDS)]


def test_a_header_gives_names_without_types_and_a_column_called_row_gives_way() -> None:
    data = BOM + b'\r\n"user:token",row,time:float\r\nu1,9,007\r\n'
    stream = io.BytesIO(data)
    (table, _), *_ = read_delimited(stream, ",", (), True, "utf-8", 1 << 20, 1000)
    assert table.column_names == ["user", "time", "row"]
    assert table.to_pylist() == [{"user": "u1", "time": "007", "row": 0}]


@pytest.mark.parametrize(("data", "names"), [(b"a,b\n", ()), (b"", ("a", "b"))])
def test_a_file_without_rows_gives_one_empty_block(data: bytes, names: tuple[str, ...]) -> None:
    ((table, refused),) = read_delimited(io.BytesIO(data), ",", names, True, "utf-8", 1 << 20, 1000)
    assert (len(table), refused) == (0, [])
    assert table.column_names == ["a", "b", "row"]


@pytest.mark.parametrize("data", [b"", b"\n\r\n", BOM], ids=["nothing", "blank lines", "a mark"])
def test_a_file_that_names_no_columns_and_has_no_rows_gives_no_block(data: bytes) -> None:
    assert list(read_delimited(io.BytesIO(data), ",", (), True, "utf-8", 1 << 20, 1000)) == []


@pytest.mark.parametrize("data", [b"u1,u1\n", b"\xff,b\n", b"x" * 2000 + b"\nu,i\n"], ids=["twice", "bytes", "long"])
def test_a_first_line_that_names_no_columns_is_refused_without_showing_it(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected the name of each column once, in utf-8") as refusal:
        read(data, ())
    assert "u1" not in str(refusal.value)
