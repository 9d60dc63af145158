"""Finds personal data in one text and puts a placeholder such as "[email]" in its place; no language model.

Found are e-mail addresses (also "name (at) host dot org"), phone numbers, numbers of payment cards, IBANs, IP
addresses, URLs that carry a secret, and national ids. A number counts by its shape and check digits where these tell it
from model numbers and bar codes, else only after a word that announces it ("BSN 111222333"). Full-width letters,
Arabic and Devanagari digits, invisible characters and fancy dashes are seen through.

Not found: names, postal addresses, dates of birth; phone numbers without area code, national ones of regions that are
not asked for, and bare runs of digits that no word announces; IPv4 addresses of four single digits that no word
announces, for they look like versions; secrets in the path of a URL; anything written as HTML entities, as %40, in
words, or broken over lines.

The patterns are our own, the check digits those of python-stdnum, the plans of phone numbers those of phonenumbers. A
library of recognisers did the same for e-mail, cards, IP and one id, but took 4 s and 424 MB to import in every worker.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence

from rayrec.pii.addresses import emails, ips, urls
from rayrec.pii.near import Span
from rayrec.pii.numbers import cards, ibans, national_ids
from rayrec.pii.phones import phones

KINDS = ("url", "email", "iban", "card", "ip", "id", "phone")
"""Placeholders; findings that overlap become one, named by the earlier kind."""

MAYBE = "|".join(
    (
        r"[@\x{FE6B}]|[(\[{<][\s\p{Z}]*at[\s\p{Z}]*[)\]}>]|[\s\p{Z}]at[\s\p{Z}][^@]{1,60}[\s\p{Z}]dot[\s\p{Z}]",
        r"=\S",
        r"[0-9](?:[ ()./+\-\x{80}-\x{10FFFF}]{0,3}[0-9]){6}",
        r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        r"[0-9a-f]{0,4}:[0-9a-f]{0,4}:[0-9a-f]",
        r"\b[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]{4}){2}[ -]?[a-z0-9]{3}",
        r"[a-z]{6}[0-9lmnp-v]{2}[a-z][0-9lmnp-v]{2}[a-z][0-9lmnp-v]{3}[a-z]",
        r"\b[a-z]{2}\p{Zs}?[0-9]{2}\p{Zs}?[0-9]{2}\p{Zs}?[0-9]{2}\p{Zs}?[a-d]|[0-9]{6}[a-f][0-9]{3}",
        r"\p{Cf}|[\x{FF10}-\x{FF19}\x{FF1D}\x{FF20}-\x{FF3A}\x{FF41}-\x{FF5A}\x{660}-\x{669}\x{6F0}-\x{6F9}\x{966}-\x{96F}]",
    )
)
"""An RE2 pattern for Arrow, in any case and one pass: a text that it does not match is not worth a call."""

_FINDERS: tuple[Callable[[str], Iterator[Span]], ...] = (urls, emails, ibans, cards, ips, national_ids)


class _Plain(dict[int, str]):
    """For str.translate: plain digits, dashes, spaces, letters; "" for what is invisible; filled as it is asked."""

    def __missing__(self, code: int) -> str:
        self[code] = _plain(chr(code))
        return self[code]


def _plain(char: str) -> str:
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    if unicodedata.category(char) == "Cf":
        return ""
    if unicodedata.category(char) == "Pd" or char == "\N{MINUS SIGN}":
        return "-"
    folded = unicodedata.normalize("NFKC", char)
    return folded if len(folded) == 1 and not folded.isdigit() else char  # the exponent of a square metre is no digit


_PLAIN = _Plain()


def redact_text(text: str, phone_regions: Sequence[str]) -> str:
    """The text with a placeholder for each finding; a second call changes nothing.

    Args:
        text: of any language.
        phone_regions: ISO 3166 codes of countries whose national phone numbers are found; those with "+" always are.
    """
    while True:  # every round takes away digits, "@", "=" or an "at", so it ends
        spans = _merged(_found(text, phone_regions))
        if not spans:
            return text
        pieces, done = [], 0
        for start, end, kind in spans:
            pieces += [text[done:start], f"[{kind}]"]
            done = end
        text = "".join(pieces) + text[done:]


def _found(text: str, phone_regions: Sequence[str]) -> list[Span]:
    places: Sequence[int] = range(len(text))
    view = text if text.isascii() else text.translate(_PLAIN)
    if len(view) < len(text):
        places = [place for place, char in enumerate(text) if char.translate(_PLAIN)]
    spans = [span for find in _FINDERS for span in find(view)]
    spans += phones(view, phone_regions, _merged(spans))
    return [(places[start], places[end - 1] + 1, kind) for start, end, kind in spans]


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end, kind in sorted(spans):
        if merged and start < merged[-1][1]:
            first, last, other = merged[-1]
            merged[-1] = (first, max(last, end), min(kind, other, key=KINDS.index))
        else:
            merged.append((start, end, kind))
    return merged
