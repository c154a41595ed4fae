"""Options of a task on the command line: what they become, and what is said of wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from textmill.core.errors import InvalidJobError
from textmill.core.params import TaskParams
from textmill.core.tasks import TASKS, Task, validate_params
from textmill.producer.cli.task_options import TaskOptions, split_arguments

OWN = ["--limit", "--id-column", "--skip-bad"]


class GivenParams(TaskParams):
    """Every kind of option."""

    question: str | None = Field(default=None, description="a text")
    max_new_tokens: int = Field(default=16, description="a number")
    multi_label: bool | None = Field(default=None, description="a switch that has a default")
    stop: tuple[str, ...] = Field(default=(), description="several")
    context: str | None = Field(
        default=None, description="a text or a file", json_schema_extra={"file": True}
    )
    form: str | None = Field(default=None, description="a file", json_schema_extra={"file": "path"})


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    given = Task("given", "for tests", GivenParams, "nowhere:Runner")
    monkeypatch.setitem(TASKS, "given", given)
    yield given


def split(*words: str) -> TaskOptions:
    return split_arguments(words, "given", OWN)


@pytest.mark.parametrize(
    ("words", "params"),
    [
        (["--question", "who? --not-me"], {"question": "who? --not-me"}),
        (["--question=a=b"], {"question": "a=b"}),
        (["--question=--stop"], {"question": "--stop"}),
        (["--question", "---"], {"question": "---"}),
        (["--question", "a", "--question", "b"], {"question": "b"}),
        (["--max-new-tokens", "3"], {"max_new_tokens": "3"}),
        (["--multi-label"], {"multi_label": True}),
        (["--no-multi-label"], {"multi_label": False}),
        (["--stop", "a", "--stop", "b"], {"stop": ["a", "b"]}),
    ],
)
def test_an_option_becomes_what_the_task_takes(
    task: Task, words: list[str], params: dict[str, Any]
) -> None:
    found = split("one.csv", *words, "-", "two//x.csv")
    assert found == TaskOptions(["one.csv", "-", "two//x.csv"], {}, params)
    validate_params(task, found.params)


def test_a_column_is_named_for_any_field() -> None:
    found = split("--question-column", "frage", "in.csv", "--text-column=body")
    assert found == TaskOptions(["in.csv"], {"question": "frage", "text": "body"}, {})


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--max-new-token", "3"], "did you mean '--max-new-tokens'"),
        (["--limt", "3"], "did you mean '--limit'"),
        (["--text-colum", "a"], "did you mean '--text-column'"),
        (["--max-new-tokens-col=a"], "did you mean '--max-new-tokens-column'"),
        (
            ["--no-question"],
            "--question, --max-new-tokens, --multi-label, --stop, --context, --form",
        ),
        (["-q"], "no option -q"),
        (["--question"], "--question has no value"),
        (["--text-column"], "--text-column has no value"),
        (["--question", "--stop", "a"], "--question has no value, --stop follows; .*=--stop"),
        (["--text-column", "--form=a"], "--text-column has no value, --form follows"),
    ],
)
def test_a_wrong_option_is_named_with_the_nearest_right_one(words: list[str], advice: str) -> None:
    with pytest.raises(InvalidJobError, match=advice):
        split("in.csv", *words)


def test_an_option_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé\r\n @x ".encode())
    assert split("in.csv", "--context", f"@{path}").params == {"context": "é\r\n @x "}
    assert split("in.csv", "--context=@@home").params == {"context": "@home"}
    assert split("in.csv", "--question", "@home").params == {"question": "@home"}


def test_an_option_may_always_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "@a.json"
    path.write_bytes("\ufeff{}\n".encode())
    assert split("in.csv", "--form", str(path)).params == {"form": "{}\n"}
    for missing in ("nowhere.json", "@nowhere.json"):
        with pytest.raises(InvalidJobError, match=f"--form {missing}: No such file"):
            split("in.csv", f"--form={missing}")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidJobError, match=r"--context @nowhere\.txt: No such file"):
        split("in.csv", "--context", "@nowhere.txt")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    with pytest.raises(InvalidJobError, match=r"latin\.txt: not UTF-8 at byte 3"):
        split("in.csv", "--context", f"@{latin}")


def test_a_switch_has_no_value_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidJobError, match=r"--multi-label takes no value.*--no-multi-label"):
        split("--multi-label", "false", "in.csv")
    assert split("--multi-label", "in.csv").inputs == ["in.csv"]
    assert split("--multi-label", "in.csv", "false").inputs == ["in.csv", "false"]
    (tmp_path / "false").touch()
    assert split("--multi-label", "false").inputs == ["false"]


@pytest.mark.parametrize("option", ["max_new_tokens", "question", "stop"])
def test_from_python_true_is_no_number_and_no_text(task: Task, option: str) -> None:
    with pytest.raises(InvalidJobError, match=f"'{option}'.* is True: expected a number or a text"):
        validate_params(task, {option: True})
    assert validate_params(task, {"multi_label": True}).model_dump()["multi_label"] is True


def test_an_option_of_a_persons_own_task_may_be_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    class FreeParams(TaskParams):
        """Options that true and false are among the values of."""

        free: Any = Field(default=None, description="anything")
        way: Literal[False, "auto"] = Field(default="auto", description="off, or found out")

    free = Task("free", "for tests", FreeParams, "nowhere:Runner")
    monkeypatch.setitem(TASKS, "free", free)
    found = validate_params(free, {"free": True, "way": False}).model_dump()
    assert (found["free"], found["way"]) == (True, False)
    with pytest.raises(InvalidJobError, match="'way' of task 'free' is True: expected a number"):
        validate_params(free, {"way": True})
