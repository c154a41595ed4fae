"""From a batch that was recognised, and what the person asked for, to a job's task and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textmill.core.errors import InputError, InvalidJobError
from textmill.core.stored_texts import StoreText
from textmill.producer.openai_batch.options import JobOptions
from textmill.producer.openai_batch.reader import BatchReader
from textmill.producer.readers.options import OPENAI_BATCH

FROM_THE_FILE = ("messages", "template", "chat")
"""Options that a file's lines stand for, beside columns."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a job of the batch is made of."""

    task: str
    model: str
    params: dict[str, Any]


def plan_batch(
    reader: BatchReader,
    *,
    task: str | None,
    model: str,
    aliases: Mapping[str, str],
    params: Mapping[str, Any],
    columns: Mapping[str, str],
    id_column: str | None,
    store_text: StoreText,
) -> BatchPlan:
    """The job of a batch; tells the reader how to read it, and what to keep of a line.

    ``params`` count where a line says nothing. Raises InvalidJobError for what contradicts the
    file; InputError that lists all names, after reading all lines, if the first has no model.
    """
    endpoint = reader.endpoint
    if task is not None and task != endpoint.task:
        raise InvalidJobError(
            f"{reader.name} is an OpenAI batch file for {endpoint.url}, which is the task "
            f"{endpoint.task!r}, not {task!r}; leave out --task, or pass --format jsonl to read it "
            "as rows of ordinary columns"
        )
    named = [*columns, *params.get("own_columns", ()), *(["id"] if id_column else [])]
    _check_given(reader, [name for name in params if name in FROM_THE_FILE])
    _check_given(reader, [f"{name}_column" for name in named])
    job = JobOptions(endpoint, params, reader.samples, store_text)
    reader.use(job)
    chosen = _choose_model(reader, model, aliases)
    return BatchPlan(endpoint.task, chosen, job.params)


def _check_given(reader: BatchReader, names: list[str]) -> None:
    if names:
        option = f"--{names[0].replace('_', '-')}"
        raise InvalidJobError(
            f"{reader.name} is an OpenAI batch file, whose lines say what {option} would; leave it "
            "out, or pass --format jsonl to read the file as rows of ordinary columns"
        )


def _choose_model(reader: BatchReader, model: str, aliases: Mapping[str, str]) -> str:
    if model and aliases:
        raise InvalidJobError(
            f"--model {model} serves every name in {reader.name}, and --model-alias one; give one "
            "of the two"
        )
    names = [name for body in reader.samples if isinstance(name := body.get("model"), str) and name]
    folders = set(aliases.values())
    only = folders.pop() if len(folders) == 1 else ""
    chosen = model or (aliases.get(names[0], "") if names else only)
    reader.census.serve(chosen, aliases)
    if chosen:
        return chosen
    for _ in reader:
        continue  # every name is needed for the message
    raise InputError(f"{reader.name}: no line names a model; pass --model FOLDER")


def parse_aliases(given: list[str]) -> dict[str, str]:
    """``NAME=FOLDER`` of the command line; raises InvalidJobError."""
    aliases: dict[str, str] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals or not name or not folder:
            raise InvalidJobError(
                f"--model-alias is {one!r}; expected NAME=FOLDER, such as gpt-4o-mini=./model"
            )
        if aliases.setdefault(name, folder) != folder:
            raise InvalidJobError(
                f"--model-alias names {aliases[name]} and {folder} for {name!r}; expected one"
            )
    return aliases


def refuse_aliases(name: str) -> InvalidJobError:
    """The error of aliases for an input that is no batch."""
    return InvalidJobError(
        f"--model-alias is for OpenAI batch files, and {name} is none (its first line would be an "
        f"object with custom_id, method, url and body); pass --model, or --format {OPENAI_BATCH} "
        "for a batch from stdin"
    )
