"""Personal data at the door: keyed pseudonyms of user ids, and texts without it. Prepare and serve call the same.

A user id is what a `user_id` column or a "user:" end of a triple holds. Redacted are an item's title, text, categories
and attributes, a review, what is said of a user. What is found in a text, and what is not, says pii/text.py.
"""

import functools
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.pii.text import MAYBE, redact_text

PSEUDONYM_BITS = 128
SHORTEST_KEY = 16
_FINGERPRINTED = b"rayrec pseudonym key"


def pseudonym(user_id: str, key: bytes) -> str:
    """HMAC-SHA256 of an id (UTF-8), its first 128 bits as hex: without the key it leads neither back nor forth."""
    return hmac.digest(key, user_id.encode(), "sha256").hex()[: PSEUDONYM_BITS // 4]


def key_fingerprint(key: bytes) -> str:
    """8 hex digits by which a later run notices another key; they say nothing of a random key."""
    return hmac.digest(key, _FINGERPRINTED, "sha256").hex()[:8]


@dataclass(frozen=True)
class Privacy:
    """What is done to personal data. Picklable; the key travels inside, for workers lack the driver's environment.

    Attributes:
        key: of the pseudonyms, or None where user ids stay as they are; not in the repr.
        redact: whether texts are searched.
        phone_regions: ISO 3166 codes of countries whose national phone numbers are found.
    """

    key: bytes | None = field(repr=False)
    redact: bool
    phone_regions: tuple[str, ...]

    @property
    def key_fingerprint(self) -> str:
        """Of the key, or "" where there is none."""
        return "" if self.key is None else key_fingerprint(self.key)

    def load(self) -> None:
        """Loads now what the first text with a finding would wait for."""
        self.redacted(pa.array(["a@b.example 4111 1111 1111 1111 10.20.30.40 AB 12 34 56 C +1 212-555-0100"]))

    def about(self) -> dict[str, Any]:
        """For a dataset's manifest: how its ids and texts were treated."""
        return {
            "user_ids": "plain" if self.key is None else "pseudonym",
            "key_fingerprint": self.key_fingerprint,
            "redact": self.redact,
            "phone_regions": list(self.phone_regions),
        }

    def pseudonym(self, user_id: str) -> str:
        """The name of one user in the artifacts."""
        return user_id if self.key is None else pseudonym(user_id, self.key)

    def pseudonyms(self, user_ids: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """The names of users in the artifacts, computed once for each distinct id.

        Args:
            user_ids: N strings or nulls.

        Returns:
            N strings of the same type, null where there was none; the very array where ids stay as they are.
        """
        if self.key is None:
            return user_ids
        if isinstance(user_ids, pa.ChunkedArray):
            return pa.chunked_array([self.pseudonyms(chunk) for chunk in user_ids.chunks], user_ids.type)
        encoded = user_ids.dictionary_encode()
        names = [pseudonym(user_id, self.key) for user_id in encoded.dictionary.to_pylist()]
        return pa.array(names, user_ids.type).take(encoded.indices)

    def redacted(self, texts: pa.Array | pa.ChunkedArray) -> tuple[pa.Array | pa.ChunkedArray, int]:
        """Texts with placeholders for personal data; redacting them again changes nothing.

        Args:
            texts: N strings or lists of strings, or nulls.

        Returns:
            The same with placeholders, and how many strings changed.

        Raises:
            ValueError: the libraries for it are not installed here.
        """
        if not self.redact:
            return texts, 0
        _require_libraries()
        if isinstance(texts, pa.ChunkedArray):
            parts = [self.redacted(chunk) for chunk in texts.chunks]
            return pa.chunked_array([part for part, _ in parts], texts.type), sum(changed for _, changed in parts)
        if pa.types.is_list(texts.type) or pa.types.is_large_list(texts.type):
            values, changed = self.redacted(texts.flatten())
            return lists_like(texts, values) if changed else texts, changed
        maybe = pc.match_substring_regex(texts, MAYBE, ignore_case=True)
        suspects = texts.filter(maybe).dictionary_encode()
        clean = [redact_text(text, self.phone_regions) for text in suspects.dictionary.to_pylist()]
        altered = pa.array(clean, texts.type).take(suspects.indices)
        changed = pc.sum(pc.not_equal(altered, suspects.dictionary.take(suspects.indices))).as_py() or 0
        return pc.replace_with_mask(texts, maybe, altered) if changed else texts, changed


def lists_like(lists: pa.Array, values: pa.Array) -> pa.Array:
    """The same lists of other values, as many as `lists.flatten()` has."""
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    wide = pa.types.is_large_list(lists.type)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64() if wide else pa.int32())
    kind = pa.LargeListArray if wide else pa.ListArray
    return kind.from_arrays(offsets, values, type=lists.type, mask=lists.is_null())


def privacy_of(user_ids: str, key_env: str, redact: bool, phone_regions: Sequence[str]) -> Privacy:
    """What a config asks for, with the key from the environment.

    Args:
        user_ids: "pseudonym", or "plain": as they are.
        key_env: name of the environment variable that holds the key.
        redact: whether texts are searched for personal data.
        phone_regions: ISO 3166 codes.

    Raises:
        ValueError: no key or a short one, a region that does not exist, or the libraries are not installed.
    """
    key = None
    if user_ids == "pseudonym":
        key = os.environb.get(key_env.encode(), b"").strip()
        if len(key) < SHORTEST_KEY:
            seen = f"holds a key of {len(key)} bytes" if key else "is not set"
            raise ValueError(
                f"{key_env} {seen}; pseudonyms of user ids need a key of at least {SHORTEST_KEY} bytes: set {key_env} "
                "to what `openssl rand -hex 32` prints and keep it, or say data.privacy.user_ids=plain"
            )
    if redact:
        _require_libraries()
        _check_regions(phone_regions)
    return Privacy(key, redact, tuple(phone_regions))


def redaction_of(about: Mapping[str, Any]) -> Privacy:
    """How to treat the texts of requests so that they are like a dataset's; ids of users are none of its business.

    Args:
        about: Privacy.about() of that dataset.

    Raises:
        ValueError: it was redacted, and the libraries for that are not installed.
    """
    return privacy_of("plain", "", about["redact"], about["phone_regions"])


@functools.cache
def _require_libraries() -> None:
    missing = [name for name in ("phonenumbers", "regex", "stdnum") if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"redacting texts needs {', '.join(missing)}; pip install 'rayrec[privacy]', "
            "or, to keep the texts as they are, say data.privacy.redact=false"
        )


def _check_regions(regions: Sequence[str]) -> None:
    from phonenumbers import SUPPORTED_REGIONS

    unknown = sorted(set(regions) - set(SUPPORTED_REGIONS))
    if unknown:
        raise ValueError(
            f"data.privacy.phone_regions names {', '.join(unknown)}; expected two-letter codes of countries in "
            "capitals, such as US or GB"
        )
