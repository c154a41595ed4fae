"""Python objects as an input."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Iterator
from typing import Any

import pytest

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.db.payloads import decode_payload, encode_payload
from textmill.producer.readers import ReadOptions, records_from_objects
from textmill.producer.readers.jsonable import MAX_DEPTH

SKIP = ReadOptions(skip_bad=True)


def test_strings_are_texts() -> None:
    reader = records_from_objects(["a", "b\0"], ["text"], ReadOptions())
    assert list(reader) == [Record(0, "0", {"text": "a"}), Record(1, "1", {"text": "b�"})]


def test_mappings_have_columns() -> None:
    rows = [{"id": 7, "body": "some words", "n": 1.5}]
    reader = records_from_objects(rows, ["text"], ReadOptions(id_column="id"))
    assert reader.extra_columns == ("n",)
    assert list(reader) == [Record(0, "7", {"text": "some words"}, None, {"n": 1.5})]


def test_a_mapping_given_stays_as_it_was() -> None:
    row = {"id": 7, "text": "some words"}
    list(records_from_objects([row], ["text"], ReadOptions(id_column="id")))
    assert row == {"id": 7, "text": "some words"}


def test_a_generator_is_read_as_a_stream() -> None:
    taken: list[int] = []

    def rows() -> Iterator[str]:
        for number in range(10_000):
            taken.append(number)
            yield f"text {number}"

    reader = records_from_objects(rows(), ["text"], ReadOptions(limit=500))
    assert len(list(reader)) == 500
    assert len(taken) <= 501


def test_extra_values_are_made_fit_for_json() -> None:
    row = {
        "text": "a",
        "day": dt.date(2024, 1, 31),
        "price": decimal.Decimal("1.50"),
        "raw": b"\x00\xff",
        "nan": float("nan"),
        "wide": 2**64,
        "fits": [2**64 - 1, -(2**63)],
        "deep": [{"inf": (float("inf"), "x\0")}],
    }
    (record,) = records_from_objects([row], ["text"], ReadOptions())
    assert record.extra == {
        "day": "2024-01-31",
        "price": "1.50",
        "raw": "AP8=",
        "nan": None,
        "wide": "18446744073709551616",
        "fits": [2**64 - 1, -(2**63)],
        "deep": [{"inf": [None, "x�"]}],
    }


def test_a_number_that_python_does_not_write_is_kept_all_the_same() -> None:
    (record,) = records_from_objects([{"text": "a", "n": 10**5000 + 7}], ["text"], ReadOptions())
    assert record.extra == {"n": "1" + 4999 * "0" + "7"}


def test_what_is_nested_too_deep_to_be_stored_is_refused_or_skipped() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return {"text": "a", "n": value}

    (record,) = records_from_objects([nested(MAX_DEPTH - 1)], ["text"], ReadOptions())
    assert list(decode_payload(encode_payload([record]))) == [record]
    given = [nested(MAX_DEPTH), nested(100_000), "b"]
    with pytest.raises(InputError, match="input, record 0: it is nested over 200 levels deep"):
        list(records_from_objects(given, ["text"], ReadOptions()))
    found = list(records_from_objects(given, ["text"], ReadOptions(skip_bad=True)))
    assert [getattr(one, "code", "ok") for one in found] == ["bad_row", "bad_row", "ok"]


def test_an_object_of_another_kind_is_refused_or_skipped() -> None:
    with pytest.raises(
        InputError, match="input, record 1: it is of type int; expected a string or a"
    ):
        list(records_from_objects(["a", 5], ["text"], ReadOptions()))  # type: ignore[list-item]
    records = list(records_from_objects(["a", 5, "b"], ["text"], SKIP))  # type: ignore[list-item]
    assert [type(r) for r in records] == [Record, BadRecord, Record]
    assert [r.index for r in records] == [0, 1, 2]


def test_a_text_that_is_no_string_is_refused() -> None:
    with pytest.raises(InputError, match=r"record 1: column 'text' is a number \(3\)"):
        list(records_from_objects([{"text": "a"}, {"text": 3}], ["text"], ReadOptions()))


def test_a_bare_string_cannot_serve_two_fields() -> None:
    with pytest.raises(InputError, match="input, record 0: it is of type str; expected a mapping"):
        records_from_objects(["a"], ["question", "context"], ReadOptions())


@pytest.mark.parametrize("row", ["\ud800", {"text": "a", "x": ["\ud800"]}])
def test_a_lone_surrogate_is_refused_or_skipped(row: str | dict[str, object]) -> None:
    with pytest.raises(InputError, match="half of a surrogate pair"):
        list(records_from_objects([row], ["text"], ReadOptions()))
    (bad,) = records_from_objects([row], ["text"], SKIP)
    assert isinstance(bad, BadRecord)
    assert bad.code == "bad_encoding"


def test_no_object_is_refused() -> None:
    with pytest.raises(InputError, match="input: is empty"):
        records_from_objects([], ["text"], ReadOptions())
