"""Phone numbers, told from model numbers, bar codes and measures."""

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from rayrec.pii.near import Span, announced

FEWEST_DIGITS = 9
"""Of a number that no word announces."""

_DIGITS = re.compile(r"[0-9](?:[ ().\-/]{0,3}[0-9]){6,}")
_EDGE = 2
"""Characters on either side of a run of digits by which the library judges it."""
_GOES_ON = re.compile(r"[0-9+(\[#]|[^\x00-\x7F]")
"""Beside a run of digits: what may make a number of it that is longer than the run."""
_NORTH_AMERICAN_ABROAD = "011"
_NORTH_AMERICAN = re.compile(
    r"""(?x) (?<!\d) (?<![\dA-Za-z][.-]) (?:\+?1[ .-]?)?
        (?: \([2-9]\d\d\)[ .-]? | (?<![A-Za-z])[2-9]\d\d[ .-] ) \d{3}[ .-]\d{4} (?![\w-]) (?!\.\d)"""
)
_FILLER = (
    r"(?:is|no|nr|num(?:ber|mer|ero)?|me|us|at|on|my|or|to|under|unter|au|al|est|today|now|work|home|office|privat\w*)"
    "(?![a-z])"
)
_phone_announced = announced(
    r"(?:mobil|handy|portable)(?=\s?(?:nr|nummer)?\.?:)|(?:cell|mobile)? ?(?:tele)?phone|cell|mobile|m[oó]vil|celular"
    r"|tel|t[eé]l[eé]\w*|\w*rufnummer|fax|calls?|calling|dial|sms|text|whats ?app|contact|reach|my number|hotline"
    r"|toll.free",
    rf"(?:(?:\W+{_FILLER})*\W{{0,4}}|\D{{0,20}}\b(?:at|on|is|unter|au|al)\W{{1,3}})",
)
_is_code = announced("isbn|issn|ean|upc|gtin|sku|part|model|serial", r"(?:\W{0,2}(?:no|number))?\W{0,3}")


def phones(text: str, regions: Sequence[str], others: Sequence[Span]) -> Iterator[Span]:
    """Phone numbers with "+", those grouped like a national number of a region, and valid ones that a word announces.

    North American numbers count by their grouping alone, so that invented ones (555) are found too.

    Args:
        text: any.
        regions: ISO 3166 codes.
        others: findings of other kinds, in order and apart; digits that lie in one can say nothing new.
    """
    for digits in _DIGITS.finditer(text):
        start, end = digits.span()
        before = text[max(0, start - _EDGE) : start]
        start -= len(before) - len(before.rstrip("+("))
        alone = _GOES_ON.search(text[max(0, start - _EDGE) : start] + text[end : end + _EDGE]) is None
        last = bisect_right(others, start, key=lambda span: span[0]) - 1
        if alone and last >= 0 and end <= others[last][1]:
            continue
        for span in _phones_at(text, start, end, regions):
            yield span
            if alone and span[0] <= start and end <= span[1]:
                break


def _phones_at(text: str, start: int, end: int, regions: Sequence[str]) -> Iterator[Span]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    if _north_american(tuple(regions)):
        for match in _NORTH_AMERICAN.finditer(text, start, end + _EDGE):
            yield *match.span(), "phone"
    offset = max(0, start - _EDGE)
    piece = text[offset : end + _EDGE]
    if "+" in piece:
        for found in PhoneNumberMatcher(piece, "ZZ", leniency=Leniency.POSSIBLE):
            if _digits(found.raw_string) >= FEWEST_DIGITS:
                yield _span(found, offset)
    told = _phone_announced(text, start)
    whole = _grouped(text[start:end]) and not _is_code(text, start)
    abroad = "+" in piece or _NORTH_AMERICAN_ABROAD in re.sub(r"\D", "", piece)
    for region in regions if told or whole else ():
        if not told and not abroad and _north_american((region,)):
            continue  # what it finds is let be below
        for found in PhoneNumberMatcher(piece, region, leniency=Leniency.VALID):
            if told or (found.number.country_code != 1 and _grouped(found.raw_string)):
                yield _span(found, offset)


@functools.cache
def _north_american(regions: tuple[str, ...]) -> bool:
    import phonenumbers

    return any(phonenumbers.country_code_for_region(region) == 1 for region in regions)


def _digits(number: str) -> int:
    return sum(char.isdigit() for char in number)


def _grouped(number: str) -> bool:
    """Whether it has the length and the gaps of a whole national number; one or two dots are decimals."""
    return FEWEST_DIGITS <= _digits(number) < len(number) and number.count(".") not in (1, 2)


def _span(found: Any, offset: int) -> Span:
    """Without a bracket that opens before the number and closes after it."""
    number = found.raw_string
    outer = number.startswith("(") and number.count("(") > number.count(")")
    return offset + found.start + outer, offset + found.end, "phone"
