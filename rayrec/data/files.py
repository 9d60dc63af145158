"""Log files on any storage: found by file, folder or glob, cut into parts, read block by block with row numbers.

A record that cannot be parsed is not lost: it comes out beside the block as where it lies, how long it is, its hash.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from rayrec.data.delimited import header, read_delimited
from rayrec.data.json_lines import array_keys, keys, read_json_array, read_json_lines
from rayrec.data.lines import Unparseable, UnreadableError
from rayrec.data.listing import Found, ending, files_at, opened
from rayrec.data.parquet import cut, names, read_parquet
from rayrec.storage import ALLOWED_SCHEMES

MAX_RECORD = 1 << 20
"""Bytes of the longest record of a text file."""
_READERS_OF_FOOTERS = 16


@dataclass(frozen=True)
class Parquet:
    """Parquet files; `columns` are read, all where empty. One that a file lacks is null."""

    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delimited:
    """Text in columns, each read as a string; an empty field is null.

    Attributes:
        delimiter: between fields, one character or several.
        names: of the columns; empty: the first line of each file holds them (`name:type` loses its type).
        quoted: whether fields may stand in double quotes, with delimiters and newlines in them (RFC 4180).
        encoding: utf-8 or latin-1.

    Raises:
        ValueError: another encoding, or a delimiter that cannot be told from the text.
    """

    delimiter: str = ","
    names: tuple[str, ...] = ()
    quoted: bool = True
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        single = len(self.delimiter) == 1 and self.delimiter.isascii()
        if not self.delimiter or set(self.delimiter) & set('"\r\n') or (self.quoted and not single):
            raise ValueError(
                f"the delimiter {self.delimiter!r} with quoted={self.quoted}; expected one ASCII character, or several "
                "characters with quoted=False, and neither quotes nor newlines"
            )
        if self.encoding not in ("utf-8", "latin-1"):
            raise ValueError(f"the encoding {self.encoding!r}; expected utf-8 or latin-1")


@dataclass(frozen=True)
class JsonLines:
    """One JSON object a line, or (`array`) one array of objects a file; `fields` become columns, absent ones null.

    An array is read as a whole: its file must be small enough for memory.
    """

    fields: tuple[str, ...]
    array: bool = False


Format = Parquet | Delimited | JsonLines

KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}


@dataclass(frozen=True)
class Part:
    """What one task reads: a file, or some row groups of a Parquet file.

    Attributes:
        uri: of the file.
        format: how to read it.
        groups: row groups from and to (exclusive); None for a whole file of text.
        first_row: the number of the first row within the file.
        size: bytes, as stored.
        version: of the file, from listing.Found.
    """

    uri: str
    format: Format
    groups: tuple[int, int] | None
    first_row: int
    size: int
    version: str = ""


UNPARSEABLE = pa.schema(
    [
        ("row", pa.int64()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("sha256", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Block:
    """Some rows of a part.

    Attributes:
        rows: raw columns and `row`, int64, the number of the row within the file, counting from 0, header not counted.
        refused: a table of UNPARSEABLE; offsets count in the decompressed file, lengths up to the newline.
    """

    rows: pa.Table
    refused: pa.Table


def parts_of(
    uris: Sequence[str], form: Format, part_bytes: int, allowed: Sequence[str] = ALLOWED_SCHEMES
) -> list[Part]:
    """Every file of some URIs, cut into parts of about `part_bytes` where it is Parquet; a text file is one part.

    Args:
        uris: files, folders (searched below; what begins with a dot or an underscore is left out) or globs.
        form: how to read all of them.
        part_bytes: as stored.
        allowed: schemes; a local path has `file`.

    Returns:
        Parts in the order of the URIs, within one by name, within a file by row.

    Raises:
        ValueError: a scheme is not allowed, a URI matches nothing, a folder has files of several endings, or a file is
            not what it was said to be.
    """
    files = [file for uri in uris for file in files_at(uri, allowed)]
    if not isinstance(form, Parquet):
        return [Part(file.uri, form, None, 0, file.size, file.version) for file in files]
    with ThreadPoolExecutor(_READERS_OF_FOOTERS) as pool:
        parts = pool.map(partial(_parts_of_file, form=form, part_bytes=part_bytes), files)
        return list(itertools.chain.from_iterable(parts))


def _parts_of_file(found: Found, form: Parquet, part_bytes: int) -> list[Part]:
    with _blaming(found.uri, form), opened(found.uri, seekable=True) as file:
        cuts = cut(file, form.columns, part_bytes)
    return [Part(found.uri, form, groups, first_row, size, found.version) for groups, first_row, size in cuts]


def guess_format(uris: Sequence[str], fields: Sequence[str], allowed: Sequence[str] = ALLOWED_SCHEMES) -> Format:
    """The format of some files by their endings (and for JSON by its first character), fields to read among it.

    Raises:
        ValueError: the ending tells nothing, or there are several.
    """
    files = [file.uri for place in uris for file in files_at(place, allowed)]
    found = sorted({ending(uri) for uri in files})
    kinds = {KINDS.get(name) for name in found}
    if len(kinds) > 1 or None in kinds:
        raise ValueError(
            f"{', '.join(map(repr, uris))} has files that end in {', '.join(map(repr, found))}; "
            f"expected one of {', '.join(KINDS)}, compressed or not: narrow it by a glob, or rename the files"
        )
    match kinds.pop():
        case "parquet":
            return Parquet(tuple(fields))
        case "json":
            with opened(files[0]) as stream:
                array = stream.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
            return JsonLines(tuple(fields), array)
        case kind:
            return Delimited("\t" if kind == "tsv" else ",")


def column_names(uris: Sequence[str], form: Format, allowed: Sequence[str] = ALLOWED_SCHEMES) -> list[str]:
    """The names in the first file that has any; of JSON, the keys of its first records."""
    for place in uris:
        for file in files_at(place, allowed):
            if found := _names_in(file.uri, form):
                return found
    return []


def _names_in(uri: str, form: Format) -> list[str]:
    with _blaming(uri, form), opened(uri, seekable=isinstance(form, Parquet)) as file:
        if isinstance(form, Parquet):
            return names(file)
        if isinstance(form, Delimited):
            return list(form.names) or header(file, form.delimiter, form.quoted, form.encoding, MAX_RECORD)
        return array_keys(_whole(file)) if form.array else keys(file, MAX_RECORD)


def read_blocks(part: Part, block_bytes: int = 16 << 20) -> Iterator[Block]:
    """The rows of a part, a block at a time, so that memory does not grow with the file; one block at least, but none
    of text that is empty and would have named its columns in its first line.

    Lines that are empty do not count. A column of the file's own that is called `row` is left out.

    Raises:
        ValueError: the file is damaged, or not of this format at all.
    """
    form = part.format
    with _blaming(part.uri, form), opened(part.uri, seekable=isinstance(form, Parquet)) as file:
        if isinstance(form, Parquet):
            assert part.groups is not None
            for table in read_parquet(file, part.groups, part.first_row, form.columns, block_bytes):
                yield Block(table, UNPARSEABLE.empty_table())
            return
        for table, refused in _read_text(file, form, block_bytes):
            yield Block(table, _unparseable(refused))


def _read_text(
    stream: Any, form: Delimited | JsonLines, block_bytes: int
) -> Iterator[tuple[pa.Table, list[Unparseable]]]:
    if isinstance(form, Delimited):
        return read_delimited(
            stream, form.delimiter, form.names, form.quoted, form.encoding, block_bytes, max_record=MAX_RECORD
        )
    if form.array:
        return read_json_array(_whole(stream), form.fields, block_bytes)
    return read_json_lines(stream, form.fields, block_bytes, MAX_RECORD)


def _whole(stream: Any) -> bytes:
    return b"".join(iter(partial(stream.read, 1 << 20), b""))


def _unparseable(refused: list[Unparseable]) -> pa.Table:
    columns = zip(*refused, strict=True) if refused else ((),) * len(UNPARSEABLE)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, UNPARSEABLE, strict=True)], UNPARSEABLE
    )


@contextlib.contextmanager
def _blaming(uri: str, form: Format) -> Iterator[None]:
    """Names the file in what is raised when it cannot be read because of what it holds."""
    try:
        yield
    except UnreadableError as error:
        raise ValueError(f"{uri!r} {error}") from error
    except (OSError, pa.ArrowInvalid) as error:
        # What storage raises has an errno or a class of its own; pyarrow's OSError for damaged bytes has neither.
        damaged = type(error) is OSError and error.errno is None
        if not damaged and not (isinstance(form, Parquet) and isinstance(error, pa.ArrowInvalid)):
            raise
        raise ValueError(
            f"{uri!r} is damaged, or no {type(form).__name__} file ({str(error).splitlines()[0]}); "
            "write or copy it again, or leave it out"
        ) from error
