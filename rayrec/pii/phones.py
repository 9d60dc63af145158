"""Phone numbers, told from model numbers, bar codes and measures."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rayrec.pii.near import Span, announced

FEWEST_DIGITS = 9
"""Of a number that no word announces."""

_NUMBER = re.compile(r"[+(]{0,2}\d(?:[ ().\-/]{0,3}\d){6,}")
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


def phones(text: str, regions: Sequence[str]) -> Iterator[Span]:
    """Phone numbers with "+", those grouped like a national number of a region, and valid ones that a word announces.

    North American numbers count by their grouping alone, so that invented ones (555) are found too.

    Args:
        text: any.
        regions: ISO 3166 codes.
    """
    import phonenumbers
    from phonenumbers import Leniency, PhoneNumberMatcher

    if any(phonenumbers.country_code_for_region(region) == 1 for region in regions):
        for match in _NORTH_AMERICAN.finditer(text):
            yield *match.span(), "phone"
    for candidate in _NUMBER.finditer(text):
        offset = max(0, candidate.start() - 2)  # the matcher looks at its neighbours
        piece = text[offset : candidate.end() + 2]
        if "+" in piece:
            for found in PhoneNumberMatcher(piece, "ZZ", leniency=Leniency.POSSIBLE):
                if _digits(found.raw_string) >= FEWEST_DIGITS:
                    yield _span(found, offset)
        told = _phone_announced(text, candidate.start())
        whole = _grouped(candidate.group()) and not _is_code(text, candidate.start())
        for region in regions if told or whole else ():
            for found in PhoneNumberMatcher(piece, region, leniency=Leniency.VALID):
                if told or (found.number.country_code != 1 and _grouped(found.raw_string)):
                    yield _span(found, offset)


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
