"""Which column is taken for the text, and what is said when that is not certain."""

from __future__ import annotations

from pathlib import Path

import pytest

from textmill.core.errors import InputError
from textmill.producer.readers import ReadOptions, RecordReader, open_records


def opened(folder: Path, content: str, **options: object) -> RecordReader:
    path = folder / "in.csv"
    path.write_text(content, encoding="utf-8")
    with open_records([path], ["text"], ReadOptions(**options)) as reader:  # type: ignore[arg-type]
        return reader


def chosen(folder: Path, content: str, **options: object) -> str:
    return opened(folder, content, **options).fields["text"]


@pytest.mark.parametrize("name", ["text", "Text", "TEXT"])
def test_a_column_named_text_wins(tmp_path: Path, name: str) -> None:
    assert chosen(tmp_path, f"title,{name}\nsome words,other words\n") == name


def test_the_exact_name_wins_over_another_case(tmp_path: Path) -> None:
    assert chosen(tmp_path, "TEXT,text\na b,c d\n") == "text"


def test_two_other_cases_are_not_certain(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'TEXT', 'Text' could be the text; pass --text-column"):
        chosen(tmp_path, "TEXT,Text\na b,c d\n")


@pytest.mark.parametrize(
    "other",
    [
        "5",
        "-1.5e3",
        "1,000",
        "nan",
        "true",
        "No",
        "2024-01-31",
        "2024-01-31T10:00:00Z",
        "2024-01-31 10:00:00.123+02:00",
        "31.01.2024",
        "1/31/24 5:07 PM",
        "10:30",
        "",
        "  ",
    ],
)
def test_the_only_column_of_words_is_the_text(tmp_path: Path, other: str) -> None:
    assert chosen(tmp_path, f'x,body\n"{other}",see you at five\n') == "body"


def test_the_id_column_is_never_the_text(tmp_path: Path) -> None:
    content = "key,body\nk1,see you\n"
    assert chosen(tmp_path, content, id_column="key") == "body"
    assert chosen(tmp_path, "ID,body\nk1,see you\n") == "body"


def test_some_words_among_numbers_are_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a', 'b' could be the text"):
        chosen(tmp_path, "a,b\n1,see you\nnot 2,hello there\n")


def test_two_columns_of_words_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        chosen(tmp_path, "title,body,n\nsome words,other words,1\n")
    message = str(caught.value)
    assert "in.csv: 'title', 'body' could be the text; pass --text-column" in message
    assert "columns are: title, body, n" in message


def test_no_column_of_words_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column is named 'text'; pass --text-column"):
        chosen(tmp_path, "a,b\n1,2\n")


def test_a_named_column_is_taken_as_it_is(tmp_path: Path) -> None:
    assert chosen(tmp_path, "text,n\nsome words,1\n", columns={"text": "n"}) == "n"


def test_an_unknown_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        chosen(tmp_path, "message,n\nsome words,1\n", columns={"text": "mesage"})
    assert "no column 'mesage' (did you mean 'message'?); columns are: message, n" in str(
        caught.value
    )


def test_an_unknown_id_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'key'; columns are: text"):
        chosen(tmp_path, "text\nsome words\n", id_column="key")


def test_a_column_for_a_field_the_task_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="named for 'context', but the task reads: text"):
        chosen(tmp_path, "text\nsome words\n", columns={"context": "text"})


def test_one_column_cannot_be_both_text_and_id(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="column 'text' is used twice"):
        chosen(tmp_path, "text\na b\n", columns={"text": "text"}, id_column="text")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "jsnl"}, r"unknown format 'jsnl'; .*\(did you mean 'jsonl'\?\)"),
        ({"limit": 0}, "limit is 0; expected 1 or more"),
        ({"delimiter": "ab"}, "delimiter is 'ab'; expected one character"),
        ({"delimiter": ""}, "delimiter is ''; expected one character"),
        ({"delimiter": "\n"}, "expected one character"),
        ({"quoting": "some"}, "quoting is 'some'; expected 'minimal' or 'none'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReadOptions(**options)  # type: ignore[arg-type]
