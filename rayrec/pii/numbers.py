"""IBANs, numbers of payment cards, and national ids."""

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rayrec.pii.near import WORDS_BEFORE, Span, announced, around, by_words, outermost


@functools.cache
def _is_valid(module: str) -> Callable[..., bool]:
    """The check of a module of python-stdnum."""
    check: Callable[..., bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return check


_SHORTEST_IBAN = 15
_IBAN = re.compile(  # from its first digits, which are rarer than letters
    r"[0-9][0-9](?<=(?<![A-Za-z0-9])[A-Za-z]{2}..)(?=((?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?))"
)


def ibans(text: str) -> Iterator[Span]:
    """IBANs by the structure of their country and their check digits, in one piece or in groups of four."""
    for match in _IBAN.finditer(text):
        start, run = match.start() - 2, text[match.start() - 2 : match.end(1)]
        for length in range(len(run), _SHORTEST_IBAN - 1, -1):  # the words that follow may look like a part of it
            inside = run[length - 1].isalnum() and not text[start + length : start + length + 1].isalnum()
            if inside and _is_valid("iban")(run[:length], check_country=False):
                yield start, start + length, "iban"
                break


_CARD_LIKE = re.compile(r"[0-9](?:[ .-]?[0-9]){12,}")
_CARD_EDGE = 3
_CARDS = [
    re.compile(rf"(?<![\d-])(?<!\d[.,])(?:{shape})(?![\d-])(?![.,]\d)")
    for shape in (
        r"(?:4\d|5[0-8]|6\d|2[2-7]|35)\d\d([ .-]?)\d{4}\1\d{4}\1\d{4}",
        r"3[47]\d\d([ .-]?)\d{6}\1\d{5}",
        r"3[0689]\d\d([ .-])\d{6}\1\d{4}",
    )
]
_ANY_CARD = re.compile(r"(?<![\d-])(?<!\d[.,])(?:\d[ -]?){12,18}\d(?![\d-])(?![.,]\d)")
_card_announced = announced("cards?|visa|master ?card|maestro|amex|kreditkarte|kartennummer|carte|tarjeta|carta")


def cards(text: str) -> Iterator[Span]:
    """Numbers of payment cards; those of unusual length or grouping only after a word such as "card"."""
    for offset, piece in around(text, _CARD_LIKE, _CARD_EDGE, _CARD_EDGE):
        usual = {match.span() for shape in _CARDS for match in shape.finditer(piece) if _passes_luhn(match.group())}
        unusual = {match.span() for match in _ANY_CARD.finditer(piece) if _passes_luhn(match.group())}
        for start, end in outermost(usual | unusual):
            if (start, end) in usual or _card_announced(text, offset + start):
                yield offset + start, offset + end, "card"


def _passes_luhn(number: str) -> bool:
    return _is_valid("luhn")(re.sub(r"\D", "", number))


@dataclass(frozen=True)
class _Id:
    """One way to write a national id.

    Attributes:
        shape: a pattern.
        module: of python-stdnum, which knows its check digits; "" where it has none.
        words: that announce it; "" where shape and check digits suffice.
    """

    shape: str
    module: str = ""
    words: str = ""


_SSN = r"(?!000|666)\d{3}%s(?!00)\d\d%s(?!0000)\d{4}"
_FISCAL_CODE = r"[A-Za-z]{6}[\dL-Vl-v]{2}[A-Za-z][\dL-Vl-v]{2}[A-Za-z][\dL-Vl-v]{3}[A-Za-z]"
_IDS = (
    _Id(_SSN % ("-", "-")),  # as ITIN
    _Id(_SSN % ("[ .]?", "[ .]?"), words="ssn|itin|social security(?: no| number)?|tax(?:payer)? id"),
    _Id(r"\d{8}-?[A-Za-z]", "es.dni"),
    _Id(r"[XYZxyz]-?\d{7}-?[A-Za-z]", "es.nie"),
    _Id(r"[12] ?\d\d ?\d\d ?(?:\d\d|2[ABab]) ?\d{3} ?\d{3} ?\d\d", "fr.nir"),
    _Id(r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", "be.nn"),
    _Id(r"\d{6}[- ]?\d{3}[. ]?\d\d", "be.nn", r"rijksregister\w*|registre national|niss|insz"),
    _Id(r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d\d", "ch.ssn"),
    _Id(r"\d{3}\.\d{3}\.\d{3}-\d\d", "br.cpf"),
    _Id(r"\d{11}", "br.cpf", "cpf"),
    _Id(r"(?:\d\d)?\d{6}[-+]\d{4}", "se.personnummer"),
    _Id(r"\d{6}[-+A-FYXWVUa-f]\d{3}[0-9A-Ya-y]", "fi.hetu"),
    _Id(r"\d{6}-?\d{4}", "dk.cpr", r"cpr(?:-\w+)?|personnummer"),
    _Id(r"\d{6} ?\d{5}", "no.fodselsnummer", r"f(?:ø|o|oe)dselsnummer|fnr|personnummer"),
    _Id(r"\d\d ?\d{3} ?\d{3} ?\d{3}", "de.idnr", r"steuer\W?id\w*|steuer\w*|idnr|identifikationsnummer|tax id|tin"),
    _Id(r"\d{4}[ .]?\d\d[ .]?\d{3}|\d{3}[ .]?\d{3}[ .]?\d{3}", "nl.bsn", r"bsn(?:-\w+)?|burgerservicenummer|sofi\w*"),
    _Id(r"\d{3}[ -]?\d{3}[ -]?\d{4}", "gb.nhs", "nhs(?: no| number)?"),
    _Id(r"\d{11}", "pl.pesel", "pesel"),
    _Id(r"\d{3} ?\d{3} ?\d{3}", "pt.nif", "nif|contribuinte"),
    _Id(r"\d{7}[A-Wa-w][A-IWa-iw]?", "ie.pps", "ppsn?(?: no| number)?"),
    _Id(r"\d{3}[ -]?\d{3}[ -]?\d{3}", "ca.sin", r"(?-i:SIN)|social insurance(?: no| number)?"),
    _Id(r"\d{4} ?\d{4} ?\d{4}", "in_.aadhaar", "aadhaar|aadhar|uidai"),
)
_LONGEST_END = 6
_ID_LIKE = re.compile(r"[0-9](?:[ .+-]?[0-9]){5,}")
_ITALIAN_ID = re.compile(rf"(?<![\w-]){_FISCAL_CODE}(?![\w-])")
_NINO_LIKE = re.compile(r"(?i)\b[^\W\ddfiquv_][a-z] ?\d\d ?\d\d ?\d\d ?[a-d]\b")
_NINO = r"\b(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?[0-9]{2}){3} ?[A-D]\b"


@functools.cache
def _id_checks() -> list[tuple[re.Pattern[str], str, Callable[[str, int], bool] | None]]:
    checks = [announced(kind.words) if kind.words else None for kind in _IDS]
    shapes = [re.compile(rf"(?<![\w-])(?:{kind.shape})(?![\w-])") for kind in _IDS]
    return [(shape, kind.module, check) for shape, kind, check in zip(shapes, _IDS, checks, strict=True)]


_ANY_ID = re.compile(rf"(?<![\w-])(?:{'|'.join(kind.shape for kind in _IDS)})(?![\w-])")


def national_ids(text: str) -> Iterator[Span]:
    """Social security, tax and identity numbers of the countries above, and the National Insurance number."""
    for match in _ITALIAN_ID.finditer(text):
        if _is_valid("it.codicefiscale")(match.group()):
            yield *match.span(), "id"
    for offset, piece in around(text, _ID_LIKE, WORDS_BEFORE + 5, _LONGEST_END):
        for shape, module, check in _id_checks() if _ANY_ID.search(piece) else ():
            for match in shape.finditer(piece):
                if (check is None or check(piece, match.start())) and (not module or _is_valid(module)(match.group())):
                    yield offset + match.start(), offset + match.end(), "id"
        if _NINO_LIKE.search(piece):
            for found in by_words(_NINO).finditer(piece):
                yield offset + found.start(), offset + found.end(), "id"
