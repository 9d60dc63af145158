"""IBANs, numbers of payment cards, and national ids."""

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rayrec.pii.near import WORDS_BEFORE, Span, announced, around


@functools.cache
def _is_valid(module: str) -> Callable[..., bool]:
    """The check of a module of python-stdnum."""
    check: Callable[..., bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return check


_SHORTEST_IBAN = 15
_IBAN = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}\d\d(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?))")


def ibans(text: str) -> Iterator[Span]:
    """IBANs by the structure of their country and their check digits, in one piece or in groups of four."""
    for match in _IBAN.finditer(text):
        run, start = match.group(1), match.start()
        for length in range(len(run), _SHORTEST_IBAN - 1, -1):  # the words that follow may look like a part of it
            inside = run[length - 1].isalnum() and not text[start + length : start + length + 1].isalnum()
            if inside and _is_valid("iban")(run[:length], check_country=False):
                yield start, start + length, "iban"
                break


_CARD_LIKE = re.compile(r"\d(?:[ .-]?\d){12}")
_ANY_CARD = "any"
_card_announced = announced("cards?|visa|master ?card|maestro|amex|kreditkarte|kartennummer|carte|tarjeta|carta")


@functools.cache
def _card_recogniser() -> Any:
    """Presidio's, which checks the last digit, with shapes that tell a card from a bar code."""
    from presidio_analyzer import Pattern
    from presidio_analyzer.predefined_recognizers import CreditCardRecognizer

    before, after = r"(?<![\d-])(?<!\d[.,])", r"(?![\d-])(?![.,]\d)"
    shapes = {
        "4-4-4-4": r"(?:4\d|5[0-8]|6\d|2[2-7]|35)\d\d([ .-]?)\d{4}\1\d{4}\1\d{4}",
        "4-6-5": r"3[47]\d\d([ .-]?)\d{6}\1\d{5}",
        "4-6-4": r"3[0689]\d\d([ .-])\d{6}\1\d{4}",
        _ANY_CARD: r"(?:\d[ -]?){12,18}\d",
    }
    patterns = [Pattern(name, f"{before}{shape}{after}", 0.5) for name, shape in shapes.items()]
    return CreditCardRecognizer(patterns=patterns, replacement_pairs=[(" ", ""), (".", ""), ("-", "")])


def cards(text: str) -> Iterator[Span]:
    """Numbers of payment cards; those of unusual length or grouping only after a word such as "card"."""
    if _CARD_LIKE.search(text):
        for found in _card_recogniser().analyze(text, [], None):
            if found.analysis_explanation.pattern_name != _ANY_CARD or _card_announced(text, found.start):
                yield found.start, found.end, "card"


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
    _Id(_FISCAL_CODE, "it.codicefiscale"),
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
_ID_LIKE = re.compile(rf"\d(?:[ .+-]?\d){{5,}}|{_FISCAL_CODE}")
_NINO_LIKE = re.compile(r"(?i)\b[^\W\ddfiquv_][a-z] ?\d\d ?\d\d ?\d\d ?[a-d]\b")


@functools.cache
def _id_checks() -> list[tuple[re.Pattern[str], str, Callable[[str, int], bool] | None]]:
    checks = [announced(kind.words) if kind.words else None for kind in _IDS]
    shapes = [re.compile(rf"(?<![\w-])(?:{kind.shape})(?![\w-])") for kind in _IDS]
    return [(shape, kind.module, check) for shape, kind, check in zip(shapes, _IDS, checks, strict=True)]


@functools.cache
def _nino_recogniser() -> Any:
    from presidio_analyzer.predefined_recognizers import UkNinoRecognizer

    return UkNinoRecognizer()


def national_ids(text: str) -> Iterator[Span]:
    """Social security, tax and identity numbers of the countries above, and the National Insurance number."""
    for offset, piece in around(text, _ID_LIKE, WORDS_BEFORE + 5, _LONGEST_END):
        for shape, module, check in _id_checks():
            for match in shape.finditer(piece):
                if (check is None or check(piece, match.start())) and (not module or _is_valid(module)(match.group())):
                    yield offset + match.start(), offset + match.end(), "id"
        if _NINO_LIKE.search(piece):
            for found in _nino_recogniser().analyze(piece, [], None):
                yield offset + found.start, offset + found.end, "id"
