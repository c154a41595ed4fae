"""A chunk's records survive their way through SQL, whatever their texts hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textmill.core.jobs import Record
from textmill.db.payloads import compress, decode_payload, encode_payload, encode_record

HOSTILE = [
    "",
    "a\nb\r\nc\rd",
    '"quotes" and \'more\' and \\ and \\" and \\n',
    "],[ , {} null",
    "\u2028 and \u2029 and \x85 and \x0b and \x0c and \x1e",
    "🏳️‍🌈 👩‍👩‍👧 é ﷽ مرحبا",
    "\x00\x01\x7f\ufeff",
    "x" * 100_000,
]

texts = st.text(st.characters(exclude_categories=["Cs"]))  # a lone surrogate is no text
values = st.one_of(texts, st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.lists(texts))
rows = st.dictionaries(texts, values, max_size=3)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_text_comes_back_as_it_was_between_its_neighbours(text: str) -> None:
    records = [
        Record(0, "first", {"text": "before"}),
        Record(7, text, {"text": text}, {text: text}, {"column": text}),
        Record(8, "last", {"text": "after"}),
    ]
    assert decode_payload(encode_payload(records)) == records


def test_an_empty_extra_and_no_extra_stay_apart() -> None:
    records = [Record(0, "0", {"text": "a"}, {}, {}), Record(1, "1", {"text": "a"}, None, None)]
    assert decode_payload(encode_payload(records)) == records


def test_a_payload_of_no_records_has_none() -> None:
    assert decode_payload(encode_payload([])) == []


def test_encoding_line_by_line_gives_the_same_payload() -> None:
    records = [Record(n, str(n), {"text": text}) for n, text in enumerate(HOSTILE)]
    assert compress([encode_record(one) for one in records]) == encode_payload(records)


def test_a_record_is_one_line_so_that_its_hash_does_not_depend_on_its_chunk() -> None:
    for text in HOSTILE:
        assert b"\n" not in encode_record(Record(0, text, {"text": text}))


@given(st.lists(st.builds(Record, st.integers(0, 2**53), texts, rows, rows, rows), max_size=5))
def test_any_records_come_back_equal_and_in_order(records: list[Record]) -> None:
    assert decode_payload(encode_payload(records)) == records
