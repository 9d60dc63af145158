"""Plain Parquet, CSV or JSON lines files with a map of columns."""

import difflib
from collections.abc import Mapping
from functools import partial

import fsspec
import pyarrow as pa
import pyarrow.dataset
import ray.data
from pyarrow import csv

from rayrec.data.config import ColumnsSource
from rayrec.data.sources.logs import Logs, canonical_interactions, string_lists, strings
from rayrec.schema import INTERACTIONS, ITEMS, USERS
from rayrec.storage import absolute

FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
COMPRESSIONS = (".gz", ".bz2", ".zst")


def read_columns(source: ColumnsSource) -> Logs:
    """Reads interactions, items and (where given) users.

    Raises:
        ValueError: no file, files of several formats, or a missing column (named with the nearest one found).
    """
    columns = source.columns.model_dump()
    items_map = {"item_id": "item_id", "title": "title", "text": "text", "categories": "categories"}
    items_map["attributes"] = "attributes"
    items = _table(source.items, {field: columns[name] for field, name in items_map.items()})
    for name in ("categories", "attributes"):
        lists = string_lists(items[name], source.category_separator)
        items = items.set_column(items.column_names.index(name), name, lists)
    users = pa.table({"user_id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    if source.users is not None:
        users = _table(source.users, {"user_id": columns["user_id"], "text": columns["user_text"]})
    return Logs(
        interactions=_interactions(source, {field.name: columns[field.name] for field in INTERACTIONS}),
        items=items.select(ITEMS.names),
        users=users.select(USERS.names),
    )


def find_files(uri: str) -> tuple[list[str], str]:
    """The sorted data files of a file, folder or glob, and their format: parquet, csv or json.

    Raises:
        ValueError: none, or of several formats.
    """
    filesystem, path = fsspec.core.url_to_fs(absolute(uri))
    if "*" in path:
        found = filesystem.glob(path)
    else:
        found = filesystem.find(path) if filesystem.isdir(path) else [path] if filesystem.exists(path) else []
    formats = {name: _format(name) for name in sorted(found)}
    files = [name for name, kind in formats.items() if kind is not None]
    kinds = {kind for kind in formats.values() if kind is not None}
    if len(kinds) != 1:
        seen = f"files of the formats {', '.join(sorted(kinds))}" if kinds else f"{len(found)} file(s), none readable"
        raise ValueError(
            f"{uri!r} has {seen}; expected files of one format, ending in {', '.join(FORMATS)} "
            f"(also compressed: {', '.join(COMPRESSIONS)})"
        )
    local = "file" in filesystem.protocol
    return [name if local else filesystem.unstrip_protocol(name) for name in files], kinds.pop()


def _format(path: str) -> str | None:
    for compression in COMPRESSIONS:
        path = path.removesuffix(compression)
    return next((kind for ending, kind in FORMATS.items() if path.endswith(ending)), None)


def _open(files: list[str], kind: str, names: list[str] | None = None) -> pyarrow.dataset.Dataset:
    filesystem, _ = fsspec.core.url_to_fs(files[0])
    paths = [fsspec.core.url_to_fs(file)[1] for file in files]
    form = pyarrow.dataset.CsvFileFormat(convert_options=_as_strings(names)) if kind == "csv" and names else kind
    return pyarrow.dataset.dataset(paths, format=form, filesystem=filesystem)


def _as_strings(names: list[str]) -> csv.ConvertOptions:
    """CSV columns as text: one bad value must not fail a file, nor "007" become 7."""
    types = dict.fromkeys(names, pa.string())
    return csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])


def _require(uri: str, wanted: list[str], found: list[str]) -> None:
    for name in wanted:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{uri!r} has no column {name!r}; found {', '.join(found)}. {hint}"
                "Name the right one under source.columns (null where there is none)"
            )


def _table(uri: str, columns: Mapping[str, str | None]) -> pa.Table:
    """Reads the mapped columns of a small table; ids and texts as strings, a column that is not mapped as nulls."""
    files, kind = find_files(uri)
    wanted = [name for name in columns.values() if name is not None]
    _require(uri, wanted, _open(files[:1], kind).schema.names)
    table = _open(files, kind, wanted).to_table(columns=wanted)
    arrays = {
        field: pa.nulls(len(table), pa.string()) if name is None else table[name] for field, name in columns.items()
    }
    return pa.table(
        {field: column if pa.types.is_nested(column.type) else strings(column) for field, column in arrays.items()}
    )


def _interactions(source: ColumnsSource, columns: dict[str, str | None]) -> ray.data.Dataset:
    files, kind = find_files(source.interactions)
    wanted = [name for name in columns.values() if name is not None]
    _require(source.interactions, wanted, _open(files[:1], kind).schema.names)
    if kind == "parquet":
        raw = ray.data.read_parquet(files).select_columns(wanted)
    elif kind == "csv":
        raw = ray.data.read_csv(files, convert_options=_as_strings(wanted))
    else:
        raw = ray.data.read_json(files)
    convert = partial(canonical_interactions, columns=columns, unit=source.time_unit)
    return raw.map_batches(convert, batch_format="pyarrow", batch_size=None)
