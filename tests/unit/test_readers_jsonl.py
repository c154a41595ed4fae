"""JSON lines and plain text: what is read, and what is said about lines that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from textmill.core.errors import InputError
from textmill.core.jobs import BadRecord, Record
from textmill.db.payloads import decode_payload, encode_payload
from textmill.producer.readers import ReadOptions, open_records
from textmill.producer.readers.jsonable import MAX_DEPTH


def write(folder: Path, content: str | bytes, name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, options: ReadOptions | None = None) -> list[Record | BadRecord]:
    with open_records([path], ["text"], options or ReadOptions()) as reader:
        return list(reader)


def codes(records: list[Record | BadRecord]) -> list[str]:
    return ["ok" if isinstance(r, Record) else r.code for r in records]


SKIP = ReadOptions(skip_bad=True)
GOOD = '{"text": "a"}\n'


def test_an_object_becomes_a_record_and_other_keys_keep_their_types(tmp_path: Path) -> None:
    path = write(tmp_path, '{"id": 7, "text": "a", "n": 1.5, "tags": ["x"], "params": {"k": 1}}')
    assert read(path, ReadOptions(id_column="id")) == [
        Record(0, "7", {"text": "a"}, None, {"n": 1.5, "tags": ["x"], "params": {"k": 1}})
    ]


WIDE = (  # as written, and as kept
    ("18446744073709551616", "18446744073709551616"),
    ("18446744073709551615", 18446744073709551615),
    ("-9223372036854775809", "-9223372036854775809"),
    ("-9223372036854775808", -9223372036854775808),
    ("100000000000000000001", "100000000000000000001"),
    ("9" * 300, "9" * 300),
    ("1e22", 1e22),
    ("100000000000000000000.0", 1e20),
    ('"100000000000000000001"', "100000000000000000001"),
    ('"\\"100000000000000000001"', '"100000000000000000001'),
)


@pytest.mark.parametrize(("written", "kept"), WIDE, ids=range(len(WIDE)))
def test_a_whole_number_of_over_64_bits_is_kept_as_its_digits(
    tmp_path: Path, written: str, kept: int | float | str
) -> None:
    """Numbers beside it stay as they are; as a float it would equal its neighbours."""
    line = f'{{"text": "a", "n": {written}, "deep": [{{"n": {written}}}], "f": 1.5, "k": 20}}\n'
    (record, last) = read(write(tmp_path, line + GOOD))
    assert record.extra == {"n": kept, "deep": [{"n": kept}], "f": 1.5, "k": 20}
    assert type(record.extra["n"]) is type(kept)
    assert last == Record(1, "1", {"text": "a"})


def test_an_id_of_over_64_bits_is_itself(tmp_path: Path) -> None:
    lines = [f'{{"id": {10**20 + n}, "text": "a"}}' for n in range(2)]
    records = read(write(tmp_path, "\n".join(lines)), ReadOptions(id_column="id"))
    assert [record.record_id for record in records] == [str(10**20), str(10**20 + 1)]


def test_digits_in_bad_lines_and_deep_ones_change_nothing(tmp_path: Path) -> None:
    digits = "1" * 30
    deep = f'{{"text": "a", "n": {"[" * 400}{digits}{"]" * 400}}}'
    records = read(write(tmp_path, f'{{"text": {digits}\n{deep}\n{digits}\n{GOOD}'), SKIP)
    assert codes(records) == ["bad_json", "bad_row", "bad_json", "ok"]


def test_what_is_nested_too_deep_to_be_stored_is_a_bad_row(tmp_path: Path) -> None:
    def line(levels: int, opened: str = "[", closed: str = "]") -> str:
        return f'{{"text": "{"[" * 300}", "n": {opened * levels}1{closed * levels}}}'

    lines = [line(MAX_DEPTH - 1), line(MAX_DEPTH), line(MAX_DEPTH, '{"a":', "}"), line(900)]
    path = write(tmp_path, "\n".join(lines))
    with pytest.raises(InputError, match="line 2: it is nested over 200 levels deep"):
        read(path)
    records = read(path, SKIP)
    assert codes(records) == ["ok", "bad_row", "bad_row", "bad_row"]
    assert list(decode_payload(encode_payload(records[:1]))) == records[:1]


def test_empty_lines_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    path = write(tmp_path, f"\n{GOOD}\n  \r\nnope\n")
    with pytest.raises(InputError, match="line 5: the line is not JSON"):
        read(path)
    assert codes(read(path, SKIP)) == ["ok", "bad_json"]


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        ('{"text": "a"', "bad_json", r"the line is not JSON: .*\(column \d+\)"),
        ("[1]", "bad_json", r"the line is a list; expected a JSON object"),
        ('"bare"', "bad_json", r"the line is a string; expected a JSON object"),
        ("null", "bad_json", r"the line is null; expected a JSON object"),
        ('{"other": 1}', "missing_text", r"column 'text' is missing; expected a text"),
        ('{"text": null}', "missing_text", r"column 'text' is missing; expected a text"),
        ('{"text": 5}', "bad_row", r"column 'text' is a number \(5\); expected a string"),
        ('{"text": ["a"]}', "bad_row", r"column 'text' is a list \(\['a'\]\); expected a string"),
        ('{"text": true}', "bad_row", r"column 'text' is a boolean \(True\)"),
        (b'{"text": "caf\xe9"}', "bad_encoding", r"the line is not UTF-8"),
        ('{"text": "\\ud83d"}', "bad_encoding", r".*half of a pair"),
        (b'{"text": "\xed\xa0\x80"}', "bad_encoding", r"the line is not UTF-8"),
    ],
)
def test_a_bad_line_is_refused_or_skipped(
    tmp_path: Path, line: str | bytes, code: str, expected: str
) -> None:
    raw = line.encode() if isinstance(line, str) else line
    path = write(tmp_path, GOOD.encode() * 2 + raw + b"\n" + GOOD.encode())
    with pytest.raises(InputError, match=rf"in\.jsonl, line 3: {expected}.*--skip-bad"):
        read(path)
    records = read(path, SKIP)
    assert codes(records) == ["ok", "ok", code, "ok"]
    assert [r.index for r in records] == [0, 1, 2, 3]


@pytest.mark.parametrize("text", ["", " \\n\\t "])
def test_an_empty_text_is_an_error_row_and_never_aborts(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, f'{{"text": "{text}", "n": 1}}\n{GOOD}')
    bad, _ = read(path)
    assert isinstance(bad, BadRecord)
    assert (bad.code, bad.extra) == ("empty_text", {"n": 1})


@pytest.mark.parametrize("given", ["null", "[1]", '""', "true"])
def test_an_id_that_is_no_string_or_number_is_a_bad_row(tmp_path: Path, given: str) -> None:
    path = write(tmp_path, f'{{"id": {given}, "text": "a", "n": 1}}\n')
    (bad,) = read(path, ReadOptions(id_column="id", skip_bad=True))
    assert isinstance(bad, BadRecord)
    assert (bad.code, bad.record_id, bad.extra) == ("bad_row", "0", {"n": 1})


def test_an_escaped_nul_becomes_the_replacement_character(tmp_path: Path) -> None:
    path = write(tmp_path, r'{"text": "a\u0000\u0000b", "k\u0000": "\\\u0000", "p": "\\u0000"}')
    assert read(path) == [Record(0, "0", {"text": "a��b"}, None, {"k�": "\\�", "p": "\\u0000"})]


def test_a_raw_nul_becomes_the_replacement_character(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "this is a\0b"}')
    assert read(path) == [Record(0, "0", {"text": "this is a�b"})]


def test_a_json_array_is_refused_with_a_way_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one JSON array, convert it: jq -c '\.\[\]'"):
        read(write(tmp_path, '[\n{"text": "a"},\n{"text": "b"}\n]'))


def test_a_file_of_bad_lines_says_what_is_wrong_with_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "nope\nnope\n")
    with pytest.raises(InputError, match="line 1: the line is not JSON"):
        read(path)
    with pytest.raises(InputError, match="first rows are all bad, so pass --text-column"):
        read(path, SKIP)
    named = ReadOptions(skip_bad=True, columns={"text": "text"})
    assert codes(read(path, named)) == ["bad_json", "bad_json"]


def test_columns_are_the_keys_of_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "a"}\n{"text": "b", "n": 1}\n')
    with open_records([path], ["text"], ReadOptions()) as reader:
        assert reader.columns == ("text", "n")


def test_ndjson_is_the_same_format(tmp_path: Path) -> None:
    assert codes(read(write(tmp_path, GOOD, "in.ndjson"))) == ["ok"]


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert codes(read(write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()))) == ["ok"]


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in\.jsonl: is empty"):
        read(write(tmp_path, "\n \n"))


def test_each_line_of_plain_text_is_a_record(tmp_path: Path) -> None:
    path = write(tmp_path, "first, with a comma\r\nsecond \u2028 \x0b still\n\nlast", "in.txt")
    records = read(path)
    assert codes(records) == ["ok", "ok", "empty_text", "ok"]
    assert records[0] == Record(0, "0", {"text": "first, with a comma"})
    assert records[1].inputs == {"text": "second \u2028 \x0b still"}  # type: ignore[union-attr]


def test_a_text_line_that_is_not_utf8_is_refused_or_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, b"a\ncaf\xe9\nb\n", "in.txt")
    with pytest.raises(InputError, match=r"in\.txt, line 2: the line is not UTF-8"):
        read(path)
    assert codes(read(path, SKIP)) == ["ok", "bad_encoding", "ok"]


def test_plain_text_cannot_serve_two_fields(tmp_path: Path) -> None:
    path = write(tmp_path, "a\n", "in.txt")
    with pytest.raises(InputError, match="no column is named 'question'"):
        open_records([path], ["question", "context"], ReadOptions())


def test_an_empty_text_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in\.txt: is empty"):
        read(write(tmp_path, "", "in.txt"))
