"""An OpenAI batch file among a command's inputs: it says the task that the options are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from textmill.core.errors import InvalidJobError
from textmill.producer.cli.task_options import TaskOptions, split_arguments

if TYPE_CHECKING:
    from textmill.producer.openai_batch import BatchReader

DEFAULT_TASK = "classification"
BATCH_TASKS = ("generation", "embeddings")


def find_batch(
    given: Mapping[str, Any], known: Sequence[str]
) -> tuple[TaskOptions, BatchReader | None]:
    """The arguments parted, and the batch that the inputs are, opened, if they are one.

    Which words are inputs depends on the task, and the task on the inputs: so the options are
    tried as those of each task that a batch can have. Raises InvalidJobError.
    """
    words = given["arguments"] or []
    try:
        options = split_arguments(words, given["task"] or DEFAULT_TASK, known)
    except InvalidJobError:
        batch = None if given["task"] else _open_as_any(given, words, known)
        if batch is None:
            raise
    else:
        batch = _open(given, options)
        if batch is None or given["task"]:
            return options, batch  # that a batch is of another task is said with its name
    try:
        return split_arguments(words, batch.endpoint.task, known), batch
    except InvalidJobError:
        batch.close()
        raise


def _open_as_any(
    given: Mapping[str, Any], words: Sequence[str], known: Sequence[str]
) -> BatchReader | None:
    for task in BATCH_TASKS:
        try:
            options = split_arguments(words, task, known)
        except InvalidJobError:
            continue
        if batch := _open(given, options):
            return batch
    return None


def _open(given: Mapping[str, Any], options: TaskOptions) -> BatchReader | None:
    from textmill.producer.cli.submit import read_options
    from textmill.producer.openai_batch import open_batch

    return open_batch(options.inputs, read_options(given, {}))


def choose_task(
    given: Mapping[str, Any], options: TaskOptions, batch: BatchReader | None
) -> tuple[str, str, dict[str, Any]]:
    """Task, model and parameters of the job; raises InvalidJobError."""
    from textmill.core.stored_texts import parse_store_text
    from textmill.producer.openai_batch import parse_aliases, plan_batch, refuse_aliases
    from textmill.producer.readers.options import OPENAI_BATCH
    from textmill.producer.readers.streams import STDIN

    aliases = parse_aliases(given["model_alias"] or [])
    if batch is not None:
        plan = plan_batch(
            batch,
            task=given["task"],
            model=given["model"],
            aliases=aliases,
            params=options.params,
            columns=options.columns,
            id_column=given["id_column"],
            store_text=parse_store_text(given["store_text"]),
        )
        return plan.task, plan.model, plan.params
    if aliases:
        raise refuse_aliases(options.inputs[0])
    if not given["model"]:
        expected = "expected a folder, a GGUF file or a hub name"
        if STDIN in options.inputs:
            expected += f"; an OpenAI batch from stdin takes --format {OPENAI_BATCH}"
        raise typer.BadParameter(expected, param_hint="--model")
    return given["task"] or DEFAULT_TASK, given["model"], options.params
