"""Options that belong to the task: ``--top-k 3``, ``--no-multi-label``, ``--question-column q``.

Which there are says the task's model in ``core.params``; the command line declares none of them.
So a command takes what it does not know as an argument, and here inputs and options part.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textmill.core.errors import InvalidJobError
from textmill.core.params import TaskParams, kinds_of
from textmill.core.tasks import get_task, nearest, options_of, take_own_columns, whose
from textmill.producer.cli.options import option_name
from textmill.producer.terminal import shorten

COLUMN = "-column"
NO = "no-"
MAX_FILE_BYTES = 4 << 20  # of a file that is an option: it goes with the job to every chunk


@dataclass(slots=True)
class TaskOptions:
    """A command's arguments: its inputs, the columns of the task's fields, the task's options."""

    inputs: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)


def split_arguments(arguments: Sequence[str], task: str, known: Iterable[str]) -> TaskOptions:
    """Part inputs from options of the task; ``known`` are the command's own options, for advice.

    Raises InvalidJobError for an option that nobody has, or that lacks its value.
    """
    model = get_task(task).params
    found = TaskOptions()
    waiting = iter(arguments)
    switch: str | None = None  # the last word, if it was one
    for word in waiting:
        if not word.startswith("-") or word == "-":
            _check_input(word, switch)
            switch = None
            found.inputs.append(word)
            continue
        switch = None
        name, equals, value = word.removeprefix("--").partition("=")
        if name.endswith(COLUMN):
            column = value if equals else _value(word, waiting, model)
            found.columns[_python_name(name.removesuffix(COLUMN))] = column
            continue
        option, implied = _resolve(model, name)
        if option is None:
            raise _unknown(word, task, model, known)
        if implied is not None:
            found.params[option] = value if equals else implied
            switch = None if equals else option
        else:
            _add(found.params, option, value if equals else _value(word, waiting, model), model)
    found.params |= take_own_columns(get_task(task), found.columns)
    return found


def _check_input(word: str, switch: str | None) -> None:
    """``--normalize false``: a switch takes no value, and this is hardly a file."""
    if switch is not None and word.casefold() in ("true", "false") and not Path(word).exists():
        name = option_name(switch)
        off = name.replace("--", "--no-", 1)
        raise InvalidJobError(f"{name} takes no value; it is on, and off as {off}")


def _resolve(model: type[TaskParams], name: str) -> tuple[str | None, bool | None]:
    """The option of this name, and for a switch what it means without a value."""
    option = _python_name(name)
    known = options_of(model)
    if option in known:
        return option, True if _is_switch(model, option) else None
    negated = _python_name(name.removeprefix(NO))
    if name.startswith(NO) and negated in known and _is_switch(model, negated):
        return negated, False
    return None, None


def _is_switch(model: type[TaskParams], option: str) -> bool:
    return bool in kinds_of(model, option)


def _is_list(model: type[TaskParams], option: str) -> bool:
    return any(getattr(kind, "__origin__", None) is tuple for kind in kinds_of(model, option))


def _add(params: dict[str, Any], option: str, value: str, model: type[TaskParams]) -> None:
    """The last value counts, as everywhere; an option that takes several collects them."""
    kind = _file_kind(model, option)
    if kind == "path":
        value = _read_text(option, value, value)
    elif kind:
        value = _text_or_file(option, value)
    if _is_list(model, option):
        params[option] = [*params.get(option, []), value]
    else:
        params[option] = value


def _file_kind(model: type[TaskParams], option: str) -> Any:
    """True if a value may be ``@FILE``, "path" if it is always a file's path."""
    extra = model.model_fields[option].json_schema_extra
    return extra.get("file") if isinstance(extra, dict) else None


def _text_or_file(option: str, value: str) -> str:
    """``@FILE`` is what the file holds, unchanged; ``@@…`` is a text that starts with one @."""
    if not value.startswith("@"):
        return value
    return value[1:] if value.startswith("@@") else _read_text(option, value, value[1:])


def _read_text(option: str, value: str, path: str) -> str:
    """Read here and not by the worker, which may be on another machine."""
    given = f"{option_name(option)} {shorten(value, 200)}"
    if not path:
        raise InvalidJobError(f"{given}: expected the name of a file")
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidJobError(f"{given}: {error.strerror}; expected a file to read") from None
    if len(data) > MAX_FILE_BYTES:
        limit = f"{MAX_FILE_BYTES >> 20} MiB"
        raise InvalidJobError(f"{given}: over {limit}, the most that an option may have")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 at byte {error.start}; convert the file"
        raise InvalidJobError(f"{given}: {problem}") from None


def _value(word: str, waiting: Iterable[str], model: type[TaskParams]) -> str:
    value = next(iter(waiting), None)
    if value is None:
        raise InvalidJobError(f"option {word} has no value")
    following = value.partition("=")[0]
    if following.startswith("--") and _resolve(model, following.removeprefix("--"))[0]:
        raise InvalidJobError(
            f"option {word} has no value, {following} follows; where that is meant: {word}={value}"
        )
    return value


def _python_name(name: str) -> str:
    return name.replace("-", "_")


def _unknown(
    word: str, task: str, model: type[TaskParams], known: Iterable[str]
) -> InvalidJobError:
    name = word.partition("=")[0]
    own = [option_name(option) for option in options_of(model)]
    advice = whose(_python_name(name.lstrip("-"))) or nearest(name, [*own, *known])
    if column := _meant_column(name):
        advice = f" (did you mean {column!r}?)"
    return InvalidJobError(
        f"no option {name}{advice}; task {task!r} has: {', '.join(own) or 'none'}"
    )


def _meant_column(name: str) -> str | None:
    """``--text-colum`` as it was meant, whatever the column is for."""
    what, _, ending = name.rpartition("-")
    likely = ending in ("col", "cols") or difflib.get_close_matches(ending, ["column"], cutoff=0.8)
    return what + COLUMN if likely and what.strip("-") else None
