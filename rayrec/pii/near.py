"""What stands around a finding: the word that announces it, and the piece of text that is worth a closer look."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Span = tuple[int, int, str]
"""Start, end and kind of a finding."""

WORDS_BEFORE = 40
"""Characters before a number in which a word may announce it."""


def announced(words: str, gap: str = r"\D{0,20}") -> Callable[[str, int], bool]:
    """A check whether one of some words stands shortly before a place in a text, in any case.

    Args:
        words: a pattern of whole words.
        gap: a pattern of what may stand between.
    """
    pattern = re.compile(rf"(?i)(?<![a-z])(?:{words})(?![a-z]){gap}$")
    return lambda text, place: pattern.search(text[max(0, place - WORDS_BEFORE) : place]) is not None


def around(text: str, pattern: re.Pattern[str], before: int, after: int) -> Iterator[tuple[int, str]]:
    """Offsets and pieces of a text around a pattern's matches, so that a long text costs what its matches cost.

    Args:
        text: any.
        pattern: cheap to search for.
        before: characters wanted before a match.
        after: characters wanted after it; pieces that meet become one.
    """
    start = end = 0
    for match in pattern.finditer(text):
        if match.start() - before > end:
            if end:
                yield start, text[start:end]
            start = match.start() - before
        end = match.end() + after
    if end:
        yield start, text[start:end]


def outermost(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans that lie within no other one, in the order of their starts."""
    last = -1
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if end > last:
            last = end
            yield start, end


@functools.cache
def by_words(pattern: str) -> Any:
    r"""A compiled pattern, in any case, whose \w and \b count the accents of decomposed and Indic letters as letters.

    The standard library's would cut a name at its accents.
    """
    import regex  # type: ignore[import-untyped]

    return regex.compile(pattern, regex.IGNORECASE)
