"""Texts of items and users: joined, and freed from the marks of how they were stored."""

import ast
import html
import re

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.sources.values import Column, filled, is_list, plain, string_lists, strings

_ENTITY = r"&(#\d+|#[xX][0-9a-fA-F]+|\w+);"
_ARTICLES = "The|An|A|Les|Le|La|Il|El|Los|Las|Der|Die|Das"


def joined(*columns: Column, separator: str) -> pa.Array:
    """The strings of a row in one, those that are null left out; null where all are."""
    # The empty text in front keeps the rows of which all is null: Arrow would leave them out of its answer.
    text = pc.binary_join_element_wise("", *columns, separator, null_handling="skip")
    return filled(pc.utf8_slice_codeunits(text, len(separator)))


def texts(column: Column) -> pa.Array:
    """A text, or a list of texts in one."""
    column = plain(column)
    return filled(pc.binary_join(string_lists(column, "\n"), " ") if is_list(column.type) else column)


def unprinted(column: Column, separator: str) -> Column:
    """Texts of items with those that are a printed Python list (`['a', 'b']`) as its parts, joined by a separator."""
    column = plain(column)
    if not pa.types.is_string(column.type):
        return column
    found = pc.match_substring_regex(column, r"(?s)^\s*\[.*\]\s*$").fill_null(False)
    parts = [_unprinted(text, separator) for text in column.filter(found).to_pylist()]
    return pc.replace_with_mask(column, found, pa.array(parts, pa.string()))


def _unprinted(text: str, separator: str) -> str:
    try:
        return separator.join(str(part) for part in ast.literal_eval(text.strip()))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text  # brackets, and no list between them


def unescaped(column: Column) -> pa.Array:
    """Texts of items with their HTML entities (`&amp;`) as the characters they stand for; it leaves `AT&T` alone."""
    column = strings(column)
    found = pc.match_substring_regex(column, _ENTITY).fill_null(False)
    mended = [
        re.sub(_ENTITY, lambda entity: html.unescape(entity[0]), text) for text in column.filter(found).to_pylist()
    ]
    return pc.replace_with_mask(column, found, pa.array(mended, pa.string()))


def readable_titles(column: Column) -> pa.Array:
    """`Godfather, The (1972)` with its article first, `The Godfather (1972)`; titles in parentheses likewise."""
    titles = pc.utf8_trim_whitespace(strings(column))
    titles = pc.replace_substring_regex(titles, rf"^([^(]*), ({_ARTICLES})( \(.*)?$", r"\2 \1\3")
    return pc.replace_substring_regex(titles, rf"\(([^()]*), ({_ARTICLES})\)", r"(\2 \1)")
