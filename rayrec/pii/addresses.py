"""E-mail addresses, IP addresses, and URLs that carry a secret."""

import contextlib
import ipaddress
import re
from collections.abc import Iterator

from rayrec.pii.near import Span, announced, around, by_words, outermost

_AT = re.compile("@")
_LONGEST_NAME, _LONGEST_HOST = 80, 260
_LABEL = r"\w+(?:-+\w+)*"
_EMAIL = rf"\b(?!\.)[\w.!#$%&'*+/=?^`{{|}}~-]++(?<!\.)@{_LABEL}(?:\.{_LABEL})+"
_ANY_HOST = re.compile(r"\.[^\W\d_]{2}")  # internal and reserved ones too

_HIDDEN_LIKE = re.compile(r"(?i)[(\[{<]\s*(?:at|@)\s*[)\]}>]|\sat\s[^@]{1,60}\sdot\s")
_HIDDEN_EMAIL = re.compile(
    r"""(?ix) [\w.+-]{1,64} (?:
        \s*[(\[{<]\s*(?:at|@)\s*[)\]}>]\s* [\w-]{1,63}
            (?: (?: \s*[(\[{<]\s*(?:dot|\.)\s*[)\]}>]\s* | \. | \s+dot\s+ ) [\w-]{1,63} ){1,4}
      | \s+at\s+ [\w-]{1,63} (?:\s+dot\s+[\w-]{1,63}){0,3}
            \s+dot\s+ (?:com|org|net|edu|gov|info|biz|[a-z]{2}) (?!\w) )"""
)


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses, also as "name [at] host [dot] org" and "name at host dot org"."""
    for offset, piece in around(text, _AT, _LONGEST_NAME, _LONGEST_HOST):
        for match in by_words(_EMAIL).finditer(piece):
            name, _, host = match.group().rpartition("@")
            if _ANY_HOST.search(host):
                foreign = max(name.rfind(char) for char in "/=?&") + 1  # the URL or the assignment that it stands in
                yield offset + match.start() + foreign, offset + match.end(), "email"
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
_MAY_HOLD_SECRET = re.compile(r"""(?<![^\s<>"])[^\s<>"=@]*+[=@][^\s<>"]*+""")


def urls(text: str) -> Iterator[Span]:
    """URLs with a password before the host, or a token, key, signature, session, address or the like as a parameter."""
    if "=" not in text and "@" not in text:
        return
    for token in _MAY_HOLD_SECRET.finditer(text):
        for match in _URL.finditer(token.group()):
            if _SECRET.search(match.group()):
                yield token.start() + match.start(), token.start() + match.end(), "url"


_IPV4_LIKE = re.compile(r"[0-9]\.\d{1,3}\.\d{1,3}\.\d")
_IPV6_LIKE = re.compile(r"(?i):[0-9a-f]{0,4}:[0-9a-f]")
_IPV4_BEFORE, _IPV4_AFTER = 4, 6  # what the pattern above leaves of its first and last number, a mask, a neighbour
_MOST_GROUPS = 8
_OCTET = r"(?:25[0-5]|2[0-4]\d|[01]?\d{1,2})"
_DOTTED = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_PREFIX = r"(?:/(?:12[0-8]|1[01]\d|[1-9]?\d))?"
_IPV4 = rf"\b{_DOTTED}(?:/(?:[0-2]?\d|3[0-2]))?\b"
_IPV6 = (
    rf"(?<![\w:])[0-9a-f:]{{2,}}(?:%[0-9a-z]+)?{_PREFIX}(?![\w:]|\.\d)",
    rf"(?<![\w:])(?:[0-9a-f]{{1,4}}:[0-9a-f:]*|::(?:ffff:(?:0{{1,4}}:)?)?)(?<=:){_DOTTED}{_PREFIX}\b",
)
_WORD_BEFORE = re.compile(r"(?i)\b([a-z]{0,20}[g-z][a-z]{0,20}|ipv6):")  # "see:2001:db8::1" is not all address
_ip_announced = announced(r"ip(?:v4|v6)?|host|server|address|adresse|client|gateway")
_is_version = announced(
    "ver|version|firmware|software|drivers?|release|build|update|patch|section|chapter|rev", r"[\s.:]{0,3}"
)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(shape: str, text: str, offset: int) -> dict[tuple[int, int], _Address]:
    found = {}
    for match in by_words(shape).finditer(text):
        with contextlib.suppress(ValueError):  # it only looks like one
            found[offset + match.start(), offset + match.end()] = ipaddress.ip_interface(match.group()).ip
    return found


def ips(text: str) -> Iterator[Span]:
    """IPv4 and IPv6 addresses of one host, private networks included; versions and masks are let be."""
    found = {}
    for offset, piece in around(text, _IPV4_LIKE, _IPV4_BEFORE, _IPV4_AFTER):
        found.update(_addresses(_IPV4, piece, offset))
    long_enough = "::" in text or text.count(":") >= _MOST_GROUPS - 2
    if long_enough and (_IPV6_LIKE.search(text) or _IPV4_LIKE.search(text)):
        bare = _WORD_BEFORE.sub(r"\1 ", text)
        for shape in _IPV6:
            found.update(_addresses(shape, bare, 0))
    for start, end in outermost(found):
        address = getattr(found[start, end], "ipv4_mapped", None) or found[start, end]
        nobody = address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved
        longer = re.search(r"\d\.$", text[max(0, start - 2) : start]) or re.match(r"\.\d", text[end : end + 2])
        if nobody or longer or _is_version(text, start):
            continue
        if end - start > len("1.2.3.4") or _ip_announced(text, start):
            yield start, end, "ip"
