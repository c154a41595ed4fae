"""Masking: what it finds, what it leaves, and that it says so itself when it is asked again."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textmill.core.errors import InvalidJobError
from textmill.core.masking import KINDS, Masker

from ..masking_texts import ABSENT, BEYOND, PRESENT, parts_of

MESSAGES = Path(__file__).parents[2] / "examples" / "sms_spam" / "sms_spam.tsv"
PLACEHOLDER = re.compile(r"\[(EMAIL|PHONE|CARD|IBAN)\]")
REGIONS = (None, "GB", "US", "DE", "FR", "IN")
# Of 91 look-alikes: what counts as a phone number there by that country's plan of numbers.
TAKEN = {
    "DE": {"ISBN 0-306-40615-2"},
    "FR": {"ISBN 0-306-40615-2"},
    "IN": {"part no. 45-1200-7788-X", "1764297010", "1764297010.123456"},
}


def found_in(text: str, region: str | None = None, kinds: Any = KINDS) -> str:
    """The masked text, after a look at what must be so of any."""
    masker = Masker(kinds, region)
    masked, counts = masker.mask(text)
    assert masker.mask(masked) == (masked, Counter())
    before, after = (Counter(PLACEHOLDER.findall(one)) for one in (text, masked))
    # A placeholder that was there may have been taken as a part of nothing: it stays.
    assert {kind.lower(): n for kind, n in (after - before).items()} == dict(counts)
    return masked


@pytest.mark.parametrize(("region", "marked"), PRESENT, ids=[marked for _, marked in PRESENT])
def test_personal_data_is_masked_and_nothing_beside_it(region: str | None, marked: str) -> None:
    text, masked, values = parts_of(marked)
    assert found_in(text, region) == masked
    assert Masker(region=region).mask(text)[1] == Counter(kind.lower() for kind, _ in values)


def test_recall_by_kind_on_the_labelled_texts() -> None:
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for region, marked in PRESENT:
        text, _, values = parts_of(marked)
        counts = Counter(kind.lower() for kind, _ in values)
        there += counts
        found += counts & Masker(region=region).mask(text)[1]
    assert there == {"email": 20, "phone": 72, "card": 18, "iban": 19}
    assert found == there


@pytest.mark.parametrize("region", REGIONS)
def test_look_alikes_stay_as_they_are(region: str | None) -> None:
    changed = {text for text in ABSENT if found_in(text, region) != text}
    assert len(ABSENT) == 91
    assert changed == TAKEN.get(str(region), set())


@pytest.mark.parametrize("mark", ["\u00ad", "\u200b", "\u200e", "\u2060", "\ufeff", "\u200b\u200d"])
def test_marks_that_show_nothing_hide_nothing(mark: str) -> None:
    for plain, kind in (
        ("4111 1111 1111 1111", "CARD"),
        ("4111111111111111", "CARD"),
        ("anna.berg@example.org", "EMAIL"),
        ("DE89370400440532013000", "IBAN"),
        ("+49 30 901820", "PHONE"),
    ):
        for at in range(1, len(plain)):
            hidden = plain[:at] + mark + plain[at:]
            assert found_in(f"to {hidden}, please{mark}") == f"to [{kind}], please{mark}"
    cards = f"4111111111111111{mark}5500005555555559"  # a mark may also be all that is between two
    assert found_in(cards) == f"[CARD]{mark}[CARD]"
    assert found_in(f"no num{mark}ber: 1{mark}2") == f"no num{mark}ber: 1{mark}2"


@pytest.mark.parametrize(("region", "text"), BEYOND, ids=[text for _, text in BEYOND])
def test_what_it_does_not_find_is_known(region: str | None, text: str) -> None:
    assert found_in(text, region) == text


def test_real_messages() -> None:
    texts = [line.split("\t")[-1] for line in MESSAGES.read_text("utf-8").splitlines()[1:]]
    masker = Masker(region="GB")
    masked, counts = zip(*map(masker.mask, texts), strict=True)
    total = sum(counts, Counter())
    assert total["email"] == 7
    assert total["phone"] >= 431
    assert total.keys() == {"email", "phone"}
    for value in ("09061701461", "0800 169 6031", "07742676969", "yijue@hotmail.com"):
        assert any(value in text for text in texts)
        assert not any(value in text for text in masked)
    # Numbers of as many digits as a British one that are left, each once.
    left = {one for text in masked for one in re.findall(r"(?<!\d)0\d{10}(?!\d)", text)}
    assert len(left) <= 4, left


def test_only_the_kinds_that_were_asked_for() -> None:
    text = "a@example.com, +44 20 7946 0958, 4111 1111 1111 1111, DE89370400440532013000"
    assert found_in(text, kinds=["email"]) == text.replace("a@example.com", "[EMAIL]")
    assert found_in(text, kinds={"card", "iban"}) == (
        "a@example.com, +44 20 7946 0958, [CARD], [IBAN]"
    )
    assert found_in(text, kinds=[]) == text
    assert found_in(text) == "[EMAIL], [PHONE], [CARD], [IBAN]"


@pytest.mark.parametrize(
    ("kinds", "region", "message"),
    [
        (["mail"], None, r"kind 'mail' is unknown; expected email, .*mean 'email'"),
        (KINDS, "UK", r"region 'UK' is unknown; expected the two letters .* GB"),
        (KINDS, "", "region ''"),
        (KINDS, "Germany", "region 'Germany'"),
    ],
)
def test_an_unknown_kind_or_region_is_named(kinds: Any, region: str, message: str) -> None:
    with pytest.raises(InvalidJobError, match=message):
        Masker(kinds, region)


def test_a_region_may_be_written_small() -> None:
    assert found_in("020 7946 0958", " gb ") == "[PHONE]"


def test_json_is_masked_inside_and_the_given_value_stays() -> None:
    value = {
        "jane@example.com": ["+44 20 7946 0958", None, True, 1.5, 4111111111111111, 4711],
        "deep": {"er": [[{"x": "to jane@example.com"}]]},
        "card": 4111111111111111.0,
    }
    before = orjson.dumps(value)
    masked, counts = Masker().mask_json(value)
    assert masked == {
        "jane@example.com": ["[PHONE]", None, True, 1.5, "[CARD]", 4711],
        "deep": {"er": [[{"x": "to [EMAIL]"}]]},
        "card": "[CARD]",
    }
    assert counts == {"phone": 1, "card": 2, "email": 1}
    assert orjson.dumps(value) == before
    assert Masker().mask_json(masked) == (masked, Counter())
    for plain in (None, True, 0, 1.5, float("inf"), "", [], {}):
        assert Masker().mask_json(plain) == (plain, Counter())
    assert Masker().mask_json("a@example.com") == ("[EMAIL]", {"email": 1})


def test_json_that_is_deeper_than_the_stack() -> None:
    value: Any = "a@example.com"
    for _ in range(100_000):
        value = [value]
    masked, counts = Masker().mask_json(value)
    assert counts == {"email": 1}
    while isinstance(masked, list):
        (masked,), value = masked, value[0]  # the old one is taken apart too: so is no stack needed
    assert masked == "[EMAIL]"


HOSTILE = {
    "digits": "1" * 1_000_000,
    "at signs": "@" * 1_000_000,
    "addresses without an end": "a@" * 500_000,
    "a domain without an end": "a@" + "a." * 500_000 + "1",
    "a name without an end": "a" * 1_000_000 + "@b",
    "symbols": "!" * 1_000_000 + "@",
    "spaces between digits": ("1" + " " * 1000) * 1000,
    "starts of IBANs": "DE12 " * 20_000,
    "groups of cards": "4111 " * 4_000,
    "groups of numbers": "0123 456 " * 2_000,
    "NUL": "\0" * 1_000_000,
    "halves of characters": "\ud800" * 1_000_000 + "1234567",
    "brackets": "(" * 1_000_000 + "+1",
    "pluses": "+" * 100_000 + "1",
    "dates": "1/" * 2_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_takes_time_in_proportion(name: str) -> None:
    text = HOSTILE[name]  # a time that grows with the square would not end within a test
    assert found_in(text, "GB") == text


def test_a_large_text_is_masked_to_its_end() -> None:
    # After 65,535 candidates that are no numbers the library gives up, unless it is told not to.
    text = "12345678; " * 70_000 + "07946 123456"
    assert Masker(region="GB").mask(text)[0].endswith("; [PHONE]")


PIECES = st.sampled_from(
    [
        *(
            "0",
            "07946",
            "123456",
            "+",
            "44",
            "+44 20 7946 0958",
            "00",
            "(",
            ")",
            "-",
            " ",
            ".",
            "/",
        ),
        *("a", "@", "b.co", "a@b.co", "DE89", "3704 0044 0532 0130 00", "4111", "1111", "\n", "x"),
        *("[PHONE]", "[EMAIL]", "[", "]", "212", "555", "٠", "é", "\u00a0", ",", ";", "ext"),
    ]
)


@given(st.lists(PIECES, max_size=25).map("".join) | st.text(), st.sampled_from(REGIONS))
def test_masking_twice_is_masking_once(text: str, region: str | None) -> None:
    found_in(text, region)


@given(st.text(alphabet="0123456789 -+()./", min_size=20), st.sampled_from(REGIONS))
def test_masking_twice_is_masking_once_among_digits(text: str, region: str | None) -> None:
    found_in(text, region)


def test_what_columns_of_numbers_lose() -> None:
    """Of floats nothing; of codes of 16 digits as many as have a card's form by chance."""
    draw = random.Random(5)
    floats = [repr(draw.uniform(0, 10**n)) for n in range(7) for _ in range(1_000)]
    codes = [str(draw.randrange(10**15, 10**16)) for _ in range(5_000)]
    for region in REGIONS:
        assert [one for one in floats if Masker(region=region).mask(one)[1]] == []
    share = sum(Masker(region="GB").mask(one)[1].total() for one in codes) / len(codes)
    assert 0.02 < share < 0.08


def test_the_libraries_are_imported_when_something_may_be_found() -> None:
    code = (
        "import sys; from textmill.core.masking import Masker\n"
        "Masker().mask('nothing here, 12.5')\n"
        "assert not {'phonenumbers', 'stdnum'} & sys.modules.keys()\n"
        "assert Masker().mask('+44 20 7946 0958')[0] == '[PHONE]'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
