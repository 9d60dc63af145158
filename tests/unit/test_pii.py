"""Planted personal data is replaced and nothing else; the numbers that catalogues are full of survive."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.pii.text import redact_text
from rayrec.privacy import Privacy

REGIONS = ("US", "GB", "DE", "FR")
PRIVACY = Privacy(None, True, REGIONS)


def redacted(text: str) -> str:
    """As prepare and serve do it, through the filter on Arrow arrays."""
    return PRIVACY.redacted(pa.array([text]))[0][0].as_py()


PLANTED = {
    "email": """alice@example.com|bob.smith+tag@mail.example.co.uk|o'brien@example.org|x_y@sub.domain.test
        |müller@bücher.de|al\u200bice@exam\u200bple.com|alice [at] example [dot] com|alice(at)example.com
        |alice at example dot com|bob@intranet.local""",
    "phone": """+1 212-555-0123|(212) 555-0123|212-555-0123|212.555.0123|1-800-555-0199|+1-555-123-4567|(555) 123-4567
        |+44 20 7946 0958|020 7946 0958|07911 123456|+442079460958|+49 30 901820|030 9018 2000|0171/1234567
        |+49 (0)30 901820|0049 30 901820|+33 6 12 34 56 78|06 12 34 56 78|06.12.34.56.78|+91 98765 43210
        |+81-3-1234-5678|+55 11 91234-5678|+86 138 0013 8000|+1 (212) 555\u20110123|212\u2212555\u22120123""",
    "card": """4111 1111 1111 1111|4111111111111111|5500-0000-0000-0004|378282246310005|3782 822463 10005
        |6011 1111 1111 1117|2223 0031 2200 3222|3530 1113 3330 0000|4242.4242.4242.4242""",
    "iban": """DE89 3704 0044 0532 0130 00|DE89370400440532013000|de89370400440532013000|GB82 WEST 1234 5698 7654 32
        |FR14 2004 1010 0505 0001 3M02 606|NL91ABNA0417164300|AT61 1904 3002 3457 3201|NO93 8601 1117 947
        |ES91\u00a02100\u00a00418\u00a04502\u00a00005\u00a01332|RO94AAAA1B3C0D7E9F8G0H0J""",
    "ip": """203.0.113.42|192.168.1.17|10.11.12.13|2001:db8:85a3::8a2e:370:7334|2001:0db8:0:0:0:ff00:42:8329
        |fe80::1ff:fe23:4567:890a""",
    "url": """https://bob:hunter2@example.com/path|https://example.com/reset?token=abc123&x=1
        |http://example.com/#access_token=eyJh|https://api.example.com/v1?api_key=SECRET
        |www.example.com/login?password=hunter2|example.com/a?session_id=991
        |postgres://admin:pw@db.internal:5432/x|https://b.s3.example.com/k?X-Amz-Signature=deadbeef""",
    "id": """123-45-6789|RSSMRA85T10A562S|12345678Z|X1234567L|255081416802538|2 55 08 14 168 025 38|85.07.30-033.28
        |756.9217.0769.85|390.533.447-05|880320-0016|131052-308T|131052A308T|AB 12 34 56 C|AB123456C""",
}

ANNOUNCED = {
    "id": """SSN 078 05 1120|BSN 111222333|BSN-nummer: 1112.22.333|NHS number 943 476 5919|PESEL 44051401359
        |CPF 39053344705|Steuer-ID 36574261809|Steuer-ID: 36 574 261 809|Aadhaar 2341 2341 2346
        |fødselsnummer 15108695088|SIN 123 456 782|PPS number 6433435F|CPR 211062-5629|NISS 85073003328""",
    "phone": """call me at 2025550123|Tel. 07911123456|phone: 2125550123|WhatsApp 07911123456|téléphone 0612345678
        |Telefon 030901820|my number is 2125550123|Handy: 01711234567""",
    "card": """card number 30569309025904|visa 4222222222222|Kreditkarte 4222222222222""",
    "ip": """IP 1.2.3.4|gateway 8.8.8.8""",
}

SURVIVORS = """2001: A Space Odyssey (1968)|Blade Runner 2049|The 39 Steps (1935)|1917 (2019)|Fahrenheit 9/11|Se7en
    |ISBN 978-3-16-148410-0|ISBN 9783161484100|ISBN 0-306-40615-2|UPC 012345678905|EAN 4006381333931
    |UPC: 0 12345 67890 5|$1,234,567.89|1.299.999,00 EUR|10 x 20 x 30 mm|3840 x 2160 @ 60Hz|v1.2.3.4
    |version 10.0.19041.1|firmware 2.10.14.3|1.2.3.4|1.22.333.44.5|255.255.255.0|127.0.0.1
    |3/4-16 x 1-1/2-Inch|Bender 07315001126 LTB-400|Dap 7079812343 Drydex|Shop-Vac 9064900 2-1/2-Inch
    |Milwaukee 0490-22 4-Volt|3M 90128-00001|Shurflo 2088-554-144|Part # 123-4567|B07XJ8C8F5
    |2024-11-24 12:30:45|24.12.2024|1977 1980 1983|4-8-15-16-23-42|100/250/500/1000 mL|0.990 - 1.160
    |-40 to +125 degrees|+10000000 views|00:1A:2B:3C:4D:5E|std::string|600V @ 125 Degree|meet @ noon
    |@username|look at this dot matrix printer|https://example.com/a?page=2&author=Smith
    |https://example.com/item?id=12345678|E=mc2|100 m² 20 m³ 1234567|order 1234567890123456
    |4111 1111 1111 1112|IMEI 490154203237518|RTX 4090 24GB GDDR6X|SN74LS00N|12345678A|AT12 3456 7890 1234
    |DE89 3704 0044 0532 0130 01|phone case 9803630403|Call of Duty 4: 2007 2008|000-12-3456|BSN 111222334
    |123-45-6789-0|11.22.33.44.55|dead::beef|0.8821 1.1950 inches|0.1562 0.5220|212-555-012²
    |mobile phone, 10 colours, 1000 mAh 2000"""


def cases(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(kind, text.strip()) for kind, texts in table.items() for text in texts.split("|")]


@pytest.mark.parametrize(("kind", "text"), cases(PLANTED))
def test_planted_data_is_gone_and_the_sentence_is_whole(kind: str, text: str) -> None:
    around = (
        ("Write to ", " please, thanks."),
        ("", ""),
        ("(", ")"),
        ("see:", ", ok"),
        ("3 items\n", "\nbye"),
        ("my ", " from an account now"),
    )
    for before, after in around:
        assert redacted(before + text + after) == f"{before}[{kind}]{after}"


@pytest.mark.parametrize(("kind", "text"), cases(ANNOUNCED))
def test_a_number_that_a_word_announces_is_gone_and_the_word_stays(kind: str, text: str) -> None:
    word = text[: next(place for place, char in enumerate(text) if char.isdigit())]
    assert redacted(f"Well, {text} thanks") == f"Well, {word}[{kind}] thanks"
    assert f"[{kind}]" not in redacted(text.removeprefix(word))


@pytest.mark.parametrize("text", [text.strip() for text in SURVIVORS.split("|")])
def test_what_only_looks_like_it_survives(text: str) -> None:
    assert redacted(text) == text
    assert redacted(f"New: {text}, boxed") == f"New: {text}, boxed"


@pytest.mark.parametrize(("kind", "text"), cases(PLANTED))
def test_full_width_writing_hides_nothing(kind: str, text: str) -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text)
    assert redacted(f"So {wide} it is") == f"So [{kind}] it is"


@pytest.mark.parametrize("zero", ["\u0660", "\u06f0", "\u0966"])
def test_digits_of_other_scripts_hide_nothing(zero: str) -> None:
    digits = str.maketrans({str(digit): chr(ord(zero) + digit) for digit in range(10)})
    text = "06 12 34 56 78, 4111 1111 1111 1111".translate(digits)
    assert redacted(text) == "[phone], [card]"


def test_findings_far_apart_in_a_long_text_are_found() -> None:
    filler = " many words between them, " * 30
    texts = ("a@example.com", "BSN 111222333", "10.0.0.99", "alice [at] example [dot] com")
    clean = ("[email]", "BSN [id]", "[ip]", "[email]")
    assert redacted(filler + filler.join(texts) + filler) == filler + filler.join(clean) + filler


def test_findings_side_by_side_are_told_apart() -> None:
    text = "a@example.com,b@example.com; 4111 1111 1111 1111 123, 10.0.0.99:8080 contact=c@example.com"
    assert redacted(text) == "[email],[email]; [card] 123, [ip]:8080 contact=[email]"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("jose\u0301@example.com or \u0930\u0940\u0924\u0940@example.com", "[email] or [email]"),
        ("a..b@example.com, x.@example.com", "[email], x.@example.com"),
        ("a@b@example.com", "a@[email]"),
        ("a@example.com..b@example.com", "[email]..[email]"),
        ("a@example, a@example.1x", "a@example, a@example.1x"),
        ("2001:db8::203.0.113.42, 2001:db8::203.0.113.256", "[ip], 2001:db8::203.0.113.256"),
        ("10.0.0.99/24 10.0.0.99/33 10.0.0.256 010.10.10.10", "[ip] [ip]/33 10.0.0.256 010.10.10.10"),
        ("fe80::1%eth0 2001:db8::1/64 2001:db8::1/129", "[ip] [ip] [ip]/129"),
        ("1:2:3:4:5:6:7:8:9 2001:db8::1::2 at 12:30:45", "1:2:3:4:5:6:7:8:9 2001:db8::1::2 at 12:30:45"),
        (
            "GB123456A ZZ123456A QQ123456A CE123456E AO123456A",
            "GB123456A ZZ123456A QQ123456A CE123456E AO123456A",
        ),
        ("card 4111 1111 1111 1111 110", "card [card]"),
        ("4111 1111 1111 1111 110", "4111 1111 1111 1111 110"),
        ("1,4111111111111111 or 4111111111111111,50", "1,4111111111111111 or 4111111111111111,50"),
        ("xDE89370400440532013000, 1DE89370400440532013000", "xDE89370400440532013000, 1DE89370400440532013000"),
        ("a@example.com or 212-555-0123 or 212-555-0123A", "[email] or [phone] or 212-555-0123A"),
        ("from here 011 44 20 7946 0958", "from here [phone]"),
        ("4111-1111 1111-1111, 4111 1111 1111 1111.50", "4111-1111 1111-1111, 4111 1111 1111 1111.50"),
    ],
)
def test_the_edges_of_the_patterns(text: str, clean: str) -> None:
    assert redacted(text) == clean


def test_national_numbers_need_their_region() -> None:
    text = "06 12 34 56 78 or 212-555-0123 or +33 6 12 34 56 78"
    assert redact_text(text, ("US",)) == "06 12 34 56 78 or [phone] or [phone]"
    assert redact_text(text, ("FR",)) == "[phone] or 212-555-0123 or [phone]"


FRAGMENTS = st.sampled_from([text for _, text in cases(PLANTED) + cases(ANNOUNCED)] + SURVIVORS.split("|"))
PIECES = st.one_of(FRAGMENTS, st.text(max_size=8), st.text("0123456789 @.-+()/:=?[]at", max_size=12))


@given(st.lists(PIECES, max_size=6).map("".join))
def test_redacting_again_changes_nothing(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once
    assert redact_text(once, REGIONS) == once


ADDRESSES = st.sampled_from([text for _, text in cases(PLANTED) if "@" in text and ":" not in text])


@given(st.text(max_size=30), st.text(max_size=30), ADDRESSES)
def test_no_address_survives_in_any_text(before: str, after: str, address: str) -> None:
    assert address not in redacted(before + address + after)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "unit",
    [
        "a-",
        "a.=@",
        "1 2 3 4 5 6 7 8 9 0 ",
        "g",
        "12:",
        "DE89 ",
        "06.12.34.56.",
        "a at b dot c ",
        "( at ",
        "123 456 789 ",
    ],
)
def test_a_hostile_text_costs_no_more_than_its_length(unit: str) -> None:
    redacted("a@b.example 4111111111111111 10.0.0.99 AB123456C")  # loads the libraries
    assert redact_text(unit * (20_000 // len(unit)) + "@ 10.0.0.99", REGIONS)
