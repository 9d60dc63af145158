"""Files are found, cut and read the same whatever their format, compression and storage; damaged ones are named."""

import bz2
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from rayrec.data import files
from rayrec.data.files import (
    UNPARSEABLE,
    Delimited,
    Format,
    JsonLines,
    Parquet,
    Part,
    column_names,
    guess_format,
    parts_of,
    read_blocks,
)

USERS, TITLES = ["u1", "007", "u3"] * 40, ["Amélie", "a,b", None] * 40
SAME: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: bytes(pa.compress(data, "zstd", asbytes=True)),
}


def delimited(mark: str, encoding: str = "utf-8", quote: str = "") -> bytes:
    rows = [("user:token", "title"), *zip(USERS, TITLES, strict=True)]
    lines = [mark.join(f"{quote}{value}{quote}" if value else "" for value in row) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode(encoding)


def json_lines() -> bytes:
    return "".join(json.dumps({"user": u, "title": t}) + "\n" for u, t in zip(USERS, TITLES, strict=True)).encode()


def json_array() -> bytes:
    return json.dumps(
        [{"user": u, "title": t} for u, t in zip(USERS, TITLES, strict=True)], ensure_ascii=False
    ).encode()


TEXTS: dict[str, tuple[Format, bytes]] = {
    "a.csv": (Delimited(), delimited(",", quote='"')),
    "a.tsv": (Delimited("\t", quoted=False), delimited("\t")),
    "a.dat": (Delimited("::", quoted=False, encoding="latin-1"), delimited("::", "latin-1")),
    "a.txt": (Delimited("|", ("user", "title"), quoted=False), delimited("|").partition(b"\n")[2]),
    "a.jsonl": (JsonLines(("user", "title")), json_lines()),
    "a.json": (JsonLines(("user", "title"), array=True), json_array()),
}


def rows_of(parts: list[Part], block_bytes: int = 1 << 20) -> list[dict[str, Any]]:
    blocks = [block for part in parts for block in read_blocks(part, block_bytes)]
    assert all(block.refused.schema == UNPARSEABLE and not len(block.refused) for block in blocks)
    return [row for block in blocks for row in block.rows.to_pylist()]


def write_parquet(path: Path, rows: int, group: int) -> Path:
    table = pa.table({"user": [f"u{place}" for place in range(rows)], "n": list(range(rows)), "row": [7] * rows})
    parquet.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("compression", SAME)
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_text_of_any_format_and_compression_gives_the_same_rows(
    name: str, compression: str, block_bytes: int, tmp_path: Path
) -> None:
    form, data = TEXTS[name]
    path = tmp_path / (name + compression)
    path.write_bytes(SAME[compression](data))
    (part,) = parts_of([str(path)], form, 1)
    assert part == Part(str(path), form, None, 0, path.stat().st_size, part.version)
    told = [{"user": u, "title": t, "row": row} for row, (u, t) in enumerate(zip(USERS, TITLES, strict=True))]
    assert rows_of([part], block_bytes) == told
    assert column_names([str(path)], form) == ["user", "title"]


def test_compressed_pieces_may_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a\n1\n2") + gzip.compress(b"3\n4\n"))
    assert [row["a"] for row in rows_of(parts_of([str(tmp_path)], Delimited(), 1))] == ["1", "23", "4"]


@pytest.mark.parametrize("part_bytes", [1, 600, 1 << 20])
@pytest.mark.parametrize("block_bytes", [1, 300, 1 << 20])
def test_the_parts_of_a_parquet_file_cover_it_once(part_bytes: int, block_bytes: int, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", 95, 10)
    parts = parts_of([str(path)], Parquet(("n", "user")), part_bytes)
    assert len(parts) == {1: 10, 600: 5, 1 << 20: 1}[part_bytes]
    rows = rows_of(parts, block_bytes)
    assert rows == [{"n": place, "user": f"u{place}", "row": place} for place in range(95)]
    footer = parquet.read_metadata(path)
    columns = [footer.row_group(group).column(place) for group in range(10) for place in (0, 1)]
    size = sum(column.total_compressed_size for column in columns)
    assert sum(part.size for part in parts) == size < sum(part.size for part in parts_of([str(path)], Parquet(), 1))


def test_blocks_of_parquet_are_as_large_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pa.table({"title": [f"the same long title {place % 3}" * 20 for place in range(100_000)]}), path
    )
    (part,) = parts_of([str(path)], Parquet(), 1 << 30)
    sizes = [block.rows.nbytes for block in read_blocks(part, 2 << 20)]
    assert len(sizes) > 5
    assert max(sizes) < 10 << 20


def test_parquet_columns_that_a_file_lacks_are_null_and_its_own_row_gives_way(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", 2, 2)
    assert rows_of(parts_of([str(path)], Parquet(("rating", "n")), 1)) == [
        {"n": 0, "rating": None, "row": 0},
        {"n": 1, "rating": None, "row": 1},
    ]
    assert rows_of(parts_of([str(path)], Parquet(), 1))[1] == {"user": "u1", "n": 1, "row": 1}
    with pytest.raises(ValueError, match=r"a\.parquet' has none of the columns stars; found user, n, row"):
        rows_of(parts_of([str(path)], Parquet(("stars",)), 1))


def test_a_parquet_file_without_rows_gives_one_empty_block(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", 0, 1)
    (block,) = [block for part in parts_of([str(path)], Parquet(), 1) for block in read_blocks(part)]
    assert (len(block.rows), block.rows.column_names) == (0, ["user", "n", "row"])


@pytest.mark.parametrize(
    ("write", "form"),
    [
        (lambda path: path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 9999)[:-9]), Delimited()),
        (lambda path: path.write_bytes(gzip.compress(json_lines())[:60]), JsonLines(("user",))),
        (lambda path: path.write_bytes(b"a,b\n"), Delimited()),
        (lambda path: path.write_bytes(b"PAR1, and no more"), Parquet()),
        (lambda path: path.write_bytes(gzip.compress(b'[{"a": 1}')), JsonLines(("a",), array=True)),
        (lambda path: path.write_bytes(gzip.compress(b"a,a\n1,2\n")), Delimited()),
    ],
    ids=["cut gzip", "cut gzip of JSON", "no gzip", "no Parquet", "cut array", "header"],
)
def test_a_damaged_file_is_named(write: Callable[[Path], int], form: Format, tmp_path: Path) -> None:
    write(tmp_path / "a.gz")
    with pytest.raises(ValueError, match=rf"^'{re.escape(str(tmp_path / 'a.gz'))}' (is|begins|has)"):
        rows_of(parts_of([str(tmp_path / "a.gz")], form, 1))


def test_damage_within_parquet_is_told_from_trouble_with_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path / "a.parquet", 5000, 5000)
    (part,) = parts_of([str(path)], Parquet(), 1)
    path.write_bytes(path.read_bytes().replace(b"u4", b"\0\0").replace(b"\x15\x04", b"\xff\xff", 1))
    with pytest.raises(ValueError, match="is damaged, or no Parquet file"):
        rows_of([part])

    def unplugged(*_: object) -> None:
        raise ConnectionResetError(104, "reset by peer")

    monkeypatch.setattr(files, "read_parquet", unplugged)
    with pytest.raises(ConnectionResetError):
        rows_of([part])


def test_refused_records_are_told_beside_the_block(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n3\n5,6\n")
    (block,) = [block for part in parts_of([str(tmp_path)], Delimited(), 1) for block in read_blocks(part)]
    assert block.rows.to_pylist() == [{"a": "1", "b": "2", "row": 0}, {"a": "5", "b": "6", "row": 2}]
    assert block.refused.schema == UNPARSEABLE
    sha256 = "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"
    told = {"row": 1, "offset": 8, "length": 1, "sha256": sha256, "reason": "wrong number of fields"}
    assert block.refused.to_pylist() == [told]


@pytest.mark.parametrize("uri", ["s3://bucket/a.csv", "https://host/a.csv", "simplecache::memory://a.csv"])
def test_a_scheme_that_is_not_allowed_is_refused(uri: str) -> None:
    scheme = uri.partition("://")[0]
    with pytest.raises(ValueError, match=f"has the scheme '{scheme}'; data.allowed_schemes has file, memory"):
        parts_of([uri], Delimited(), 1, ("file", "memory"))


def test_a_local_path_needs_the_scheme_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the scheme 'file'"):
        parts_of([str(tmp_path)], Delimited(), 1, ("memory",))


def test_uris_are_taken_in_order_and_files_by_name(memory: fsspec.AbstractFileSystem) -> None:
    for name in ("day=2/b.csv", "day=2/a.csv", "day=1/c.csv.gz", "day=1/_SUCCESS", ".tmp/x.csv", "day=1/.c.csv.crc"):
        memory.pipe_file(f"/logs/{name}", b"a\n1\n")
    memory.pipe_file("/more.csv", b"a\n")
    everything = ["memory://logs/day=1/c.csv.gz", "memory://logs/day=2/a.csv", "memory://logs/day=2/b.csv"]

    def found(*uris: str) -> list[str]:
        return [part.uri for part in parts_of(uris, Delimited(), 1)]

    assert found("memory://more.csv", "memory://logs") == ["memory://more.csv", *everything]
    assert found("memory://logs/day=*") == everything
    assert found("memory://logs/*/*.csv") == everything[1:]
    assert found("memory://*.csv") == ["memory://more.csv"]
    assert found("memory://logs/**/c.csv*") == everything[:1]
    assert found("memory://logs/day=1/_*") == ["memory://logs/day=1/_SUCCESS"]


def test_parquet_is_read_from_any_storage(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    memory.pipe_file("/a.parquet", write_parquet(tmp_path / "a.parquet", 25, 10).read_bytes())
    parts = parts_of(["memory://a.parquet"], Parquet(("n",)), 1)
    assert [part.groups for part in parts] == [(0, 1), (1, 2), (2, 3)]
    assert rows_of(parts) == [{"n": place, "row": place} for place in range(25)]


def test_a_local_folder_glob_and_name_with_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.csv", "a[1].csv"):
        (tmp_path / name).write_bytes(b"a\n")
    for uri in (".", "*.csv", f"file://{tmp_path}"):
        assert [part.uri for part in parts_of([uri], Delimited(), 1)] == [f"{tmp_path}/a[1].csv", f"{tmp_path}/b.csv"]
    assert [part.uri for part in parts_of(["a[1].csv"], Delimited(), 1)] == [f"{tmp_path}/a[1].csv"]


@pytest.mark.parametrize("uri", ["nothing.csv", "*.csv", "empty"])
def test_a_uri_without_files_says_where_it_looked(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "_SUCCESS").write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(f"'{uri}' has no file to read (looked for {tmp_path / uri})")):
        parts_of([uri], Delimited(), 1)


def test_a_folder_with_files_of_several_endings_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv", "readme.txt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"files that end in '\.csv', '\.txt'; expected one kind"):
        parts_of([str(tmp_path)], Delimited(), 1)
    assert len(parts_of([f"{tmp_path}/*.csv*"], Delimited(), 1)) == 2


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.parquet", b"", Parquet(("x",))),
        ("a.csv.gz", b"", Delimited()),
        ("a.tsv", b"", Delimited("\t")),
        ("a.ndjson.zst", SAME[".zst"](b'{"x": 1}\n'), JsonLines(("x",))),
        ("a.json", b'\xef\xbb\xbf\n [{"x": 1}]', JsonLines(("x",), array=True)),
    ],
)
def test_the_ending_tells_the_format(name: str, data: bytes, form: Format, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert guess_format([str(tmp_path)], ["x"]) == form


def test_an_ending_that_tells_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"")
    with pytest.raises(ValueError, match=r"files that end in '\.log'; expected one of \.parquet, \.csv"):
        guess_format([str(tmp_path)], [])


def test_column_names_are_those_of_the_first_file_that_has_any(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")
    (tmp_path / "b.csv").write_bytes(b"user,item\n")
    assert column_names([str(tmp_path)], Delimited()) == ["user", "item"]
    path = write_parquet(tmp_path / "c.parquet", 1, 1)
    assert column_names([str(path)], Parquet(("n",))) == ["user", "n", "row"]


@pytest.mark.parametrize(
    "options",
    [{"delimiter": "::"}, {"delimiter": ""}, {"delimiter": '"'}, {"delimiter": "é"}, {"encoding": "utf-16"}],
)
def test_a_format_that_cannot_be_read_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Delimited(**options)
