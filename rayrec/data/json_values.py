"""JSON objects as columns.

A field becomes a string, int64, float64, bool, or a list of these (of lists too), whatever its values in a block agree
on. Where they do not, numbers become float64 if that loses nothing, other scalars their JSON text; a scalar among lists
becomes a list of one. An object becomes its JSON text.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.lines import NOT_UTF8

NOT_JSON = "not JSON"
NO_OBJECT = "JSON but no object"
TOO_DEEP = "JSON nested too deeply"
DEEPEST, DEEPEST_LIST = 200, 4
"""Levels of brackets in a record; levels of lists in a column, below which there is JSON text."""
EXACT = 2.0**53
"""Whole numbers are exact in float64 below it."""


class OtherTypesError(Exception):
    """A field's values do not fit the type it had before."""


def loads(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """An object, or why there is none."""
    if line.count(b"[") + line.count(b"{") > DEEPEST and _depth(line) > DEEPEST:
        return None, TOO_DEEP
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        return None, NOT_UTF8
    except ValueError:
        return None, NOT_JSON
    return (value, "") if isinstance(value, dict) else (None, NO_OBJECT)


def _depth(line: bytes) -> int:
    """How deeply brackets are nested."""
    places = np.frombuffer(line, np.uint8)
    opened = np.isin(places, (ord("["), ord("{"))).astype(np.int64)
    return int(np.cumsum(opened - np.isin(places, (ord("]"), ord("}")))).max())


def columns(objects: Sequence[dict[str, Any]], fields: Sequence[str]) -> pa.Table:
    """Fields as columns of the types that their values agree on."""
    return pa.table({name: _fitted([value.get(name) for value in objects], 0) for name in fields})


def fitting(objects: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Fields as columns of given types.

    Raises:
        OtherTypesError: the values ask for other ones.
    """
    table = columns(objects, schema.names)
    for field in schema:
        column = table[field.name]
        widened = column.type == pa.int64() and field.type == pa.float64()
        if column.type == field.type:
            continue
        inexact = widened and pc.any(pc.greater_equal(pc.abs(column.cast(pa.float64(), safe=False)), EXACT)).as_py()
        if column.null_count < len(column) and (inexact or not widened):
            raise OtherTypesError
        place = schema.get_field_index(field.name)
        table = table.set_column(
            place, field, column.cast(field.type) if widened else pa.nulls(len(column), field.type)
        )
    return table


def _fitted(values: list[Any], depth: int) -> pa.Array:
    """Values of one field as an array."""
    kinds = {type(value) for value in values} - {type(None)}
    if list in kinds and depth < DEEPEST_LIST:
        lists = [value if value is None or isinstance(value, list) else [value] for value in values]
        offsets = np.cumsum([0, *(len(value or ()) for value in lists)])
        inner = _fitted([element for value in lists for element in value or ()], depth + 1)
        missing = pa.array([value is None for value in lists], pa.bool_())
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner, mask=missing)
    integers = [value for value in values if type(value) is int]
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in integers):
        return pa.array(values, pa.int64())
    if kinds in ({float}, {int, float}) and all(abs(value) < EXACT for value in integers):
        return pa.array(values, pa.float64())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    texts = [_text(value) for value in values]
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if text is None else _mended(text) for text in texts], pa.string())


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mended(text: str) -> str:
    """A text with half a surrogate pair (of an emoji that was cut in two) replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
