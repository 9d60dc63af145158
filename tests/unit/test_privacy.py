import hashlib
import hmac
import pickle
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest

from rayrec import privacy
from rayrec.privacy import Privacy, privacy_of, pseudonym, redaction_of

KEY_ENV = "RAYREC_TEST_KEY"
KEY = b"0123456789abcdef0123456789abcdef"
REGIONS = ("US", "GB")


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> Privacy:
    monkeypatch.setenv(KEY_ENV, KEY.decode())
    return privacy_of("pseudonym", KEY_ENV, True, REGIONS)


def test_a_pseudonym_is_the_first_half_of_an_hmac() -> None:
    # RFC 4231, test case 2: key "Jefe", data "what do ya want for nothing?"
    assert pseudonym("what do ya want for nothing?", b"Jefe") == "5bdcc146bf60754e6a042426089575c7"
    assert pseudonym("Zoë", KEY) == hmac.new(KEY, "Zoë".encode(), hashlib.sha256).hexdigest()[:32]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_ids_become_pseudonyms_row_by_row_and_nulls_stay(keyed: Privacy, kind: pa.DataType) -> None:
    ids = pa.array(["ann", None, "bob", "ann", ""], kind)
    expected = [None if name is None else pseudonym(name, KEY) for name in ids.to_pylist()]
    assert keyed.pseudonyms(ids).to_pylist() == expected
    assert keyed.pseudonyms(ids).type == kind
    assert keyed.pseudonyms(ids.slice(2)).to_pylist() == expected[2:]
    chunks = pa.chunked_array([ids, ids[:2]])
    assert keyed.pseudonyms(chunks).to_pylist() == expected + expected[:2]
    assert keyed.pseudonyms(pa.chunked_array([], kind)).type == kind
    assert keyed.pseudonym("bob") == expected[2]


def test_each_distinct_id_is_computed_once(keyed: Privacy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(privacy, "pseudonym", lambda user_id, key: asked.append(user_id) or f"p{user_id}")
    assert keyed.pseudonyms(pa.array(["a", "b"] * 50)).to_pylist() == ["pa", "pb"] * 50
    assert asked == ["a", "b"]


def test_another_key_gives_other_names_and_another_fingerprint(keyed: Privacy) -> None:
    other = Privacy(KEY[::-1], True, REGIONS)
    assert other.pseudonym("ann") != keyed.pseudonym("ann")
    assert other.key_fingerprint != keyed.key_fingerprint
    assert keyed.key_fingerprint == "423d0574"  # as in the manifests that are there
    assert Privacy(KEY, False, ()).key_fingerprint == keyed.key_fingerprint


def test_the_key_travels_in_a_pickle_and_shows_nowhere_else(keyed: Privacy) -> None:
    assert pickle.loads(pickle.dumps(keyed)) == keyed
    for shown in (repr(keyed), str(keyed.about()), f"{keyed}"):
        assert KEY.decode() not in shown
        assert KEY.hex() not in shown
    assert keyed.about() == {
        "user_ids": "pseudonym",
        "key_fingerprint": keyed.key_fingerprint,
        "redact": True,
        "phone_regions": ["US", "GB"],
    }


@pytest.mark.parametrize(
    ("value", "seen"), [(None, "is not set"), ("", "is not set"), (" tooshort16bytes ", "of 15 byt")]
)
def test_no_key_or_a_short_one_is_refused_with_the_remedy(
    value: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY_ENV, value)
    with pytest.raises(ValueError, match=f"^{KEY_ENV} .*{seen}.*`openssl rand -hex 32`.*user_ids=plain$") as error:
        privacy_of("pseudonym", KEY_ENV, False, ())
    assert "tooshort" not in str(error.value)


def test_plain_ids_need_no_key_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)
    plain = privacy_of("plain", KEY_ENV, False, ())
    ids = pa.array(["ann", None])
    assert plain.pseudonyms(ids) is ids
    assert (plain.pseudonym("ann"), plain.key_fingerprint, plain.about()["user_ids"]) == ("ann", "", "plain")


def test_texts_and_lists_of_texts_are_redacted_and_the_changes_counted(keyed: Privacy) -> None:
    texts = pa.array(["write a@example.com", None, "a film (1999)", "write a@example.com", "call +44 20 7946 0958"])
    expected = ["write [email]", None, "a film (1999)", "write [email]", "call [phone]"]
    assert keyed.redacted(texts) == (pa.array(expected), 3)
    assert keyed.redacted(texts.slice(3)) == (pa.array(expected[3:]), 2)
    chunks, changed = keyed.redacted(pa.chunked_array([texts, texts[:3]]))
    assert (chunks.to_pylist(), changed) == (expected + expected[:3], 4)
    lists = pa.array([["x", "a@example.com"], None, [], ["10.0.0.99", None]])
    for kind in (pa.list_(pa.string()), pa.large_list(pa.large_string())):
        clean, changed = keyed.redacted(lists.cast(kind))
        assert (clean.to_pylist(), changed, clean.type) == ([["x", "[email]"], None, [], ["[ip]", None]], 2, kind)
        assert keyed.redacted(lists.cast(kind)[1:])[0].to_pylist() == [None, [], ["[ip]", None]]


def test_nothing_to_redact_gives_the_very_array(keyed: Privacy) -> None:
    for texts in (pa.array(["2001: A Space Odyssey", None]), pa.array([["Sci-Fi"], None]), pa.nulls(2, pa.string())):
        same, changed = keyed.redacted(texts)
        assert same is texts
        assert changed == 0
    dirty = pa.array(["a@example.com"])
    assert Privacy(None, False, ()).redacted(dirty) == (dirty, 0)


def test_serving_redacts_as_the_dataset_says_without_its_key(keyed: Privacy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV)
    assert redaction_of(keyed.about()) == Privacy(None, True, REGIONS)
    assert redaction_of(Privacy(None, False, ()).about()) == Privacy(None, False, ())


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    privacy._require_libraries.cache_clear()
    monkeypatch.setattr(privacy, "find_spec", lambda name: None if name == "stdnum" else object())
    asks: list[Any] = [
        lambda: privacy_of("plain", "", True, REGIONS),
        lambda: Privacy(None, True, REGIONS).redacted(pa.array(["x"])),
    ]
    for ask in asks:
        with pytest.raises(ValueError, match=r"needs stdnum; pip install 'rayrec\[privacy\]'"):
            ask()
    assert privacy_of("plain", "", False, ()).redacted(pa.array(["x"]))[1] == 0


def test_an_unknown_region_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="phone_regions names UK, us; expected two-letter codes"):
        privacy_of("plain", "", True, ("DE", "us", "UK"))


def test_importing_it_loads_no_recogniser() -> None:
    heavy = {"phonenumbers", "regex", "stdnum", "torch"}
    code = f"import sys, rayrec.privacy; print(*({heavy!r} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == ""
