"""Templates and chats: what they become, and what is said of wrong ones, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from textmill.core.errors import InputError, InvalidJobError, RecordError
from textmill.core.jobs import BadRecord, Record
from textmill.core.prompts import Template, read_chat, write_chat
from textmill.core.tasks import get_task, take_own_columns, validate_params
from textmill.producer.readers import ReadOptions, RecordReader, RecordRules, open_records

USER = {"role": "user", "content": "Hi"}
TEXTS = "text,country,n\nhello,France,1\nbye,Japan,2\n"


# -- templates -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("Translate {text} for {country}.", "Translate hello {x} for France."),
        ("{ text }", "hello {x}"),
        ('{{"a": "{country}"}}', '{"a": "France"}'),
        ("{{{country}}}", "{France}"),
        ("{{text}} {n}", "{text} 1.5"),
        ("{a.b} {a[0]} {a!r} {a:>9}", "1 2 3 4"),
        ("{text}\n{text}", "hello {x}\nhello {x}"),
    ],
)
def test_a_template_takes_columns_and_nothing_else(source: str, prompt: str) -> None:
    """Names with dots, brackets and colons are names of columns: no value is looked into."""
    row = {"text": "hello {x}", "country": "France", "n": 1.5}
    row |= {"a.b": "1", "a[0]": "2", "a!r": "3", "a:>9": "4"}
    assert Template.parse(source).render(row) == prompt


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("Translate {text", "the brace '{' at character 11 has no counterpart"),
        ("a } b {text}", "the brace '}' at character 3 has no counterpart"),
        ("{text} {}", "the braces at character 8 name no column"),
        ("{{text}}", "names no column, so every record would get the same prompt"),
        ("no columns", "such as {text}"),
    ],
)
def test_a_wrong_template_is_an_error_of_the_job(source: str, problem: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        validate_params(get_task("generation"), {"template": source})
    assert problem in str(caught.value)
    assert "'template'" in str(caught.value)


@pytest.mark.parametrize("value", [True, ["a"], {"a": 1}])
def test_a_template_takes_texts_and_numbers(value: Any) -> None:
    with pytest.raises(RecordError, match="the template takes a text or a number"):
        Template.parse("{text}").render({"text": value})


# -- chats -----------------------------------------------------------------------------------


def test_a_chat_of_several_turns() -> None:
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "ü", "refusal": None},
        USER,
    ]
    read = read_chat(chat)
    assert [message["role"] for message in read] == ["system", "user", "assistant", "user"]
    assert [message["content"] for message in read] == ["Be short.", "a\nb", "ü", "Hi"]
    assert read_chat(write_chat(read)) == read


@pytest.mark.parametrize(
    ("chat", "problem"),
    [
        ([], "the messages are an empty list; expected a list with one object for each message"),
        ({"role": "user"}, "the messages are {'role': 'user'}; expected a list"),
        (7, "the messages are 7; expected a list"),
        ("Hi", "a text that is no JSON ('Hi'); expected a list such as [{"),
        (["Hi"], "message 1 is 'Hi'; expected an object with role and content"),
        ([USER, {"content": "a"}], "message 2 has no role"),
        ([USER, {"role": "user"}], "message 2 has no content"),
        ([{"role": "user", "content": None}], "message 1 has no content"),
        ([{**USER, "name": "Eve"}], "message 1 has the key 'name'; expected role and content"),
        ([{"role": "human", "content": "a"}], "message 1 has the role 'human'; expected one of: s"),
        ([{"role": ["user"], "content": "a"}], "message 1 has the role ['user']; expected one"),
        ([USER, {"role": "user", "content": " "}], "message 2 has an empty content"),
        ([{"role": "user", "content": 5}], "the content of message 1 is 5; expected a text, or"),
        ([{"role": "user", "content": ["a"]}], "part 1 of message 1 is 'a'; expected {"),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
            "part 1 of message 1 is {'type': 'image', 'url': 'x'}; expected {",
        ),
        (
            [USER, {"role": "assistant", "content": "a"}],
            "message 2, the last one, is of the assistant; expected one that asks for an answer",
        ),
    ],
)
def test_a_wrong_chat_says_which_message(chat: Any, problem: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_chat(chat)
    assert caught.value.code == "invalid_messages"
    assert problem in caught.value.message


# -- from rows to records --------------------------------------------------------------------


def opened(
    folder: Path,
    content: str,
    name: str = "in.csv",
    *,
    columns: dict[str, str] | None = None,
    reading: dict[str, Any] | None = None,
    **params: Any,
) -> RecordReader:
    """The file as a generation job reads it, with the columns of options named as by a person."""
    path = folder / name
    path.write_text(content)
    task, named = get_task("generation"), dict(columns or {})
    rules = RecordRules(task, validate_params(task, params | take_own_columns(task, named)))
    options = ReadOptions(columns=named, **(reading or {}))
    return open_records([path], rules.params.fields(), options, rules)


def refusal(folder: Path, content: str, name: str = "in.csv", **given: Any) -> str:
    with pytest.raises(InputError) as caught, opened(folder, content, name, **given) as reader:
        list(reader)
    return str(caught.value)


def test_a_record_of_a_template_has_the_prompt_and_keeps_its_columns(tmp_path: Path) -> None:
    reader = opened(tmp_path, TEXTS, template="Say {text} in {country}")
    assert reader.extra_columns == ("text", "country", "n")
    first, second = reader
    extra = {"text": "hello", "country": "France", "n": "1"}
    assert first == Record(0, "0", {"text": "Say hello in France"}, None, extra)
    assert second.extra == {"text": "bye", "country": "Japan", "n": "2"}


def test_a_column_that_the_template_names_is_the_persons_own(tmp_path: Path) -> None:
    message = refusal(tmp_path, TEXTS, template="Say {text} in {countri}")
    assert "no column 'countri' (did you mean 'country'?)" in message
    assert "columns are: text, country, n" in message
    body = "body\nhello\n"
    assert "no column 'text'" in refusal(tmp_path, body, template="{text}"), "no guess here"
    (record,) = opened(tmp_path, body, template="Say {text}", columns={"text": "body"})
    assert isinstance(record, Record)
    assert record.inputs == {"text": "Say hello"}


def test_a_template_may_name_the_id(tmp_path: Path) -> None:
    reader = opened(
        tmp_path, "id,text\na7,dog\n", template="{id}: {text}", reading={"id_column": "id"}
    )
    (record,) = reader
    assert isinstance(record, Record)
    assert (record.record_id, record.inputs) == ("a7", {"text": "a7: dog"})
    assert record.extra == {"text": "dog"}
    assert reader.extra_columns == ("text",)


def test_an_empty_cell_of_a_template_is_an_error_row(tmp_path: Path) -> None:
    content = "text,country\nhello,\n"
    (record,) = opened(tmp_path, content, template="{text} in {country}")
    assert isinstance(record, BadRecord)
    assert record.code == "empty_text"
    assert "column 'country' is empty" in record.message


def test_numbers_of_json_fill_a_template(tmp_path: Path) -> None:
    line = '{"text": "a", "n": 1.5, "tags": ["x"]}\n'
    (record,) = opened(tmp_path, line, "in.jsonl", template="{text} {n}")
    assert isinstance(record, Record)
    assert record.inputs == {"text": "a 1.5"}
    message = refusal(tmp_path, line, "in.jsonl", template="{tags}")
    assert "in.jsonl, line 1: column 'tags' is ['x']" in message


def test_messages_come_from_json_lines_and_csv(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}]
    line = json.dumps({"id": 7, "messages": chat, "n": 1})
    (record,) = opened(tmp_path, line, "in.jsonl", messages=True, reading={"id_column": "id"})
    assert record == Record(0, "7", {"text": write_chat(read_chat(chat))}, None, {"n": 1})
    table = 'dialog\n"[{""role"": ""user"", ""content"": ""Hi""}]"\n'
    (again,) = opened(tmp_path, table, messages=True, columns={"messages": "dialog"})
    assert isinstance(again, Record)
    assert again.inputs == record.inputs


def test_messages_come_from_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]
    table = pa.table({"messages": [chat[:1], chat]})
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    task = get_task("generation")
    rules = RecordRules(task, validate_params(task, {"messages": True}))
    options = ReadOptions(skip_bad=True)
    with open_records([tmp_path / "in.parquet"], ("messages",), options, rules) as reader:
        good, bad = reader
    assert isinstance(good, Record)
    assert good.inputs == {"text": '[{"role": "user", "content": "Hi"}]'}
    assert isinstance(bad, BadRecord)
    assert (bad.code, bad.message.partition(": ")[2]) == (
        "invalid_messages",
        "message 2 has no content",
    )


def test_a_wrong_chat_names_its_line(tmp_path: Path) -> None:
    lines = '{"messages": [{"role": "user", "content": "a"}]}\n{"messages": [{"role": "user"}]}\n'
    message = refusal(tmp_path, lines, "in.jsonl", messages=True)
    assert "in.jsonl, line 2: message 1 has no content" in message
    assert "--skip-bad" in message


@pytest.mark.parametrize("cell", ["null", '""'])
def test_a_row_without_a_chat_says_what_is_expected(tmp_path: Path, cell: str) -> None:
    line = f'{{"messages": {cell}}}\n'
    (bad,) = opened(tmp_path, line, "in.jsonl", messages=True, reading={"skip_bad": True})
    assert isinstance(bad, BadRecord)
    assert bad.message.endswith("; expected a list of messages")


def test_a_file_of_chats_without_the_option_gets_advice(tmp_path: Path) -> None:
    line = '{"messages": [{"role": "user", "content": "a"}]}\n'
    assert refusal(tmp_path, line, "in.jsonl").endswith("pass --messages")
    named = refusal(tmp_path, line, "in.jsonl", columns={"messages": "messages"})
    assert named.endswith("pass --messages")


# -- a record's own options ------------------------------------------------------------------

OWN = "text,limit,heat,id\na,5,0.5,x\nb,,,y\nc,7,0,z\n"


def test_a_records_own_options_come_from_columns_and_stay_in_extra(tmp_path: Path) -> None:
    columns = {"max_new_tokens": "limit", "temperature": "heat"}
    reader = opened(tmp_path, OWN, columns=columns, top_p=0.9, reading={"id_column": "id"})
    assert reader.extra_columns == ("limit", "heat")
    records = list(reader)
    assert [record.params for record in records if isinstance(record, Record)] == [
        {"max_new_tokens": 5, "temperature": 0.5},
        None,
        {"max_new_tokens": 7, "temperature": 0.0},
    ]
    assert records[0].extra == {"limit": "5", "heat": "0.5"}


def test_lists_and_numbers_of_json_are_options(tmp_path: Path) -> None:
    line = '{"text": "a", "ends": ["x", "y"], "s": 3}\n{"text": "b", "ends": "z", "s": null}\n'
    reader = opened(tmp_path, line, "in.jsonl", columns={"stop": "ends", "seed": "s"})
    assert [record.params for record in reader if isinstance(record, Record)] == [
        {"stop": ["x", "y"], "seed": 3},
        {"stop": ["z"]},
    ]


@pytest.mark.parametrize(
    ("content", "columns", "problem"),
    [
        (OWN.replace("7", "many"), {"max_new_tokens": "limit"}, "in.csv, line 4: column 'limit': "),
        (OWN.replace("7", "many"), {"max_new_tokens": "limit"}, "'max_new_tokens'"),
        (OWN.replace("7", "many"), {"max_new_tokens": "limit"}, "'many'"),
        (OWN.replace("7", "-1"), {"max_new_tokens": "limit"}, "greater than or equal to 1"),
        (OWN, {"max_new_tokens": "limits"}, "no column 'limits' (did you mean 'limit'?)"),
        (OWN, {"seed": "text"}, "the column 'text' is used twice"),
        (OWN, {"max_length": "limit"}, "a column is named for 'max_length', but the task reads"),
        (OWN, {"temperatur": "t"}, "for 'temperatur' (did you mean 'temperature'?), but"),
        (OWN, {"txt": "body"}, "for 'txt' (did you mean 'text'?), but the task reads"),
    ],
)
def test_a_wrong_own_option_is_named(
    tmp_path: Path, content: str, columns: dict[str, str], problem: str
) -> None:
    assert problem in refusal(tmp_path, content, columns=columns)


def test_a_wrong_own_option_can_be_skipped(tmp_path: Path) -> None:
    reader = opened(
        tmp_path,
        OWN.replace("7", "many"),
        columns={"max_new_tokens": "limit"},
        reading={"skip_bad": True, "id_column": "id"},
    )
    codes = [record.code if isinstance(record, BadRecord) else "ok" for record in reader]
    assert codes == ["ok", "ok", "invalid_params"]


# -- options of the job ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"temperature": -1}, "greater than or equal to 0"),
        ({"temperature": "nan"}, "finite number"),
        ({"top_p": 0, "temperature": 1}, "greater than 0"),
        ({"top_p": 0.9}, "top_p counts only for drawn tokens, and temperature is 0"),
        ({"top_k": 5}, "top_k counts only for drawn tokens"),
        ({"stop": ["a", ""]}, "expected texts that are not empty"),
        ({"seed": -1}, "'seed'"),
        ({"system": " "}, "expected a text that is not empty"),
        ({"chat": "maybe"}, "'auto', 'on' or 'off'"),
        ({"on_long": "truncate"}, "'error' or 'truncate-left'"),
        ({"messages": True, "template": "{a}"}, "there is no template to fill"),
        ({"messages": True, "chat": "off"}, "messages need a chat, and chat is off"),
        ({"system": "Be short.", "chat": "off"}, "a system message needs a chat"),
        ({"max_length": 100}, "max_new_tokens is 256, which leaves no room for a prompt"),
        ({"max_tokens": 5}, "did you mean 'max_new_tokens'?"),
        ({"own_columns": {"template": "t"}}, "no column can be named for 'template'"),
    ],
)
def test_wrong_options_are_refused(params: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        validate_params(get_task("generation"), params)
    assert problem in str(caught.value)


def test_options_that_count_only_with_a_columns_temperature_are_no_error() -> None:
    own = {"top_p": 0.9, "own_columns": {"temperature": "heat"}}
    validate_params(get_task("generation"), own)
