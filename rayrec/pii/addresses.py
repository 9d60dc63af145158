"""E-mail addresses, IP addresses, and URLs that carry a secret."""

import functools
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from rayrec.pii.near import Span, announced, around

_AT = re.compile("@")
_LONGEST_NAME, _LONGEST_HOST = 80, 260

_HIDDEN_LIKE = re.compile(r"(?i)[(\[{<]\s*(?:at|@)\s*[)\]}>]|\sat\s[^@]{1,60}\sdot\s")
_HIDDEN_EMAIL = re.compile(
    r"""(?ix) [\w.+-]{1,64} (?:
        \s*[(\[{<]\s*(?:at|@)\s*[)\]}>]\s* [\w-]{1,63}
            (?: (?: \s*[(\[{<]\s*(?:dot|\.)\s*[)\]}>]\s* | \. | \s+dot\s+ ) [\w-]{1,63} ){1,4}
      | \s+at\s+ [\w-]{1,63} (?:\s+dot\s+[\w-]{1,63}){0,3}
            \s+dot\s+ (?:com|org|net|edu|gov|info|biz|[a-z]{2}) (?!\w) )"""
)


@functools.cache
def _email_recogniser() -> Any:
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    class AnyHost(EmailRecognizer):
        """Takes internal and reserved domains too; the original asks the network which suffixes are public."""

        def validate_result(self, pattern_text: str) -> bool:
            return re.search(r"\.[^\W\d_]{2}", pattern_text.rpartition("@")[2]) is not None

    return AnyHost()


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses, also as "name [at] host [dot] org" and "name at host dot org"."""
    for offset, piece in around(text, _AT, _LONGEST_NAME, _LONGEST_HOST):
        for found in _email_recogniser().analyze(piece, [], None):
            name = piece[found.start : found.end].rpartition("@")[0]
            foreign = max(name.rfind(char) for char in "/=?&") + 1  # the URL or the assignment that it stands in
            yield offset + found.start + foreign, offset + found.end, "email"
    for offset, piece in around(text, _HIDDEN_LIKE, _LONGEST_NAME, _LONGEST_HOST):
        for match in _HIDDEN_EMAIL.finditer(piece):
            yield offset + match.start(), offset + match.end(), "email"


_URL = re.compile(
    r"""(?ix) (?: [a-z][a-z0-9+.-]{0,20}:// | \bwww\. | \b(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}/ )
        [^\s<>"]* [^\s<>"'.,;:!?)\]}]"""
)
_SECRET = re.compile(
    r"""(?ix) ^[a-z][a-z0-9+.-]*://[^/\s@]*:[^/\s@]*@
      | [?&\#;/] (?: [\w.-]{0,40}
                     (?:token|passw|pwd|secret|signature|credential|session|api.?key|[_-]key|auth(?!or)|jwt|e-?mail)
                     [\w.-]{0,40}
                   | key|sig|sid|pass|pin|otp|phone|mobile ) = [^&\s]"""
)


def urls(text: str) -> Iterator[Span]:
    """URLs with a password before the host, or a token, key, signature, session, address or the like as a parameter."""
    if "=" in text or "@" in text:
        for match in _URL.finditer(text):
            if _SECRET.search(match.group()):
                yield *match.span(), "url"


_IP_LIKE = re.compile(r"(?i)\d\.\d{1,3}\.\d{1,3}\.\d|[0-9a-f]{0,4}:[0-9a-f]{0,4}:[0-9a-f]")
_LABEL = re.compile(r"(?i)\b([a-z]{0,20}[g-z][a-z]{0,20}|ipv6):")  # "see:2001:db8::1" would look like a longer address
_ip_announced = announced(r"ip(?:v4|v6)?|host|server|address|adresse|client|gateway")
_is_version = announced(
    "ver|version|firmware|software|drivers?|release|build|update|patch|section|chapter|rev", r"[\s.:]{0,3}"
)


@functools.cache
def _ip_recogniser() -> Any:
    from presidio_analyzer.predefined_recognizers import IpRecognizer

    return IpRecognizer()


def ips(text: str) -> Iterator[Span]:
    """IPv4 and IPv6 addresses of one host, private networks included; versions and masks are let be."""
    if _IP_LIKE.search(text) is None:
        return
    for found in _ip_recogniser().analyze(_LABEL.sub(r"\1 ", text), [], None):
        start, end = found.start, found.end
        address = ipaddress.ip_interface(text[start:end]).ip
        nobody = address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved
        longer = re.search(r"\d\.$", text[max(0, start - 2) : start]) or re.match(r"\.\d", text[end : end + 2])
        if nobody or longer or _is_version(text, start):
            continue
        if end - start > len("1.2.3.4") or _ip_announced(text, start):
            yield start, end, "ip"
