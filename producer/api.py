"""The Python face of Textmill: ``submit`` a job, hold it as a ``Job``, read its ``results``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from textmill.core.errors import InvalidJobError
from textmill.core.jobs import JobSpec
from textmill.core.settings import load_settings
from textmill.core.stored_texts import StoreText, parse_store_text
from textmill.core.tasks import get_task, take_own_columns
from textmill.db.sql import TIMEOUT_SECONDS, Answer, ask
from textmill.producer.job import Job, open_session
from textmill.producer.openai_batch import (
    BatchReader,
    open_batch,
    open_batch_objects,
    plan_batch,
    refuse_aliases,
)
from textmill.producer.readers import (
    ReadOptions,
    RecordRules,
    Records,
    open_records,
    records_from_objects,
)
from textmill.producer.results_api import Results, Wanted
from textmill.producer.submit import (
    name_after,
    parse_priority,
    submit_job,
    validate_spec,
)

__all__ = ["Job", "results", "sql", "submit"]

COLUMN = "_column"
DEFAULT_TASK = "classification"

Inputs = str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]]


def submit(
    inputs: Inputs,
    *,
    task: str | None = None,
    model: str | Path | None = None,
    model_alias: Mapping[str, str | Path] | None = None,
    id_column: str | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    input_format: str | None = None,
    name: str | None = None,
    key: str | None = None,
    queue: str = "default",
    priority: str = "normal",
    revision: str | None = None,
    dtype: str = "auto",
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    max_error_rate: float | None = None,
    store_text: str = "full",
    full_text: bool = True,
    index_columns: Sequence[str] = (),
    reuse: bool = False,
    **params: Any,
) -> Job:
    """Put a job into the queue and return it; ``params`` are the task's own options.

    ``FIELD_column`` among them names the column of a field that the task reads, such as
    ``text_column="body"``; by default it is guessed where it is certain. ``OPTION_column`` names
    the column of each record's own value of an option, where the task takes such.
    ``inputs`` is a file, a list of files, or an iterable of mappings with columns. An OpenAI batch
    is recognised by its first line: its task and model come from it, and ``model_alias`` says which
    model a name in it means. Raises InvalidJobError for anything wrong with the job or its input,
    and then leaves nothing behind; ServiceUnavailableError if the database is away. A broker that
    is away is no error: the job is in SQL, and is dispatched when the broker is back.
    """
    session = open_session()
    named = {name: params.pop(name) for name in list(params) if name.endswith(COLUMN)}
    columns = {
        name.removesuffix(COLUMN): column for name, column in named.items() if column is not None
    }
    job_name = name or name_after(_files_of(inputs))
    reading = ReadOptions(
        columns=columns,
        id_column=id_column,
        format=input_format,
        limit=limit,
        skip_bad=skip_bad,
    )
    batch, inputs = _find_batch(inputs, reading)
    with batch or nullcontext():
        store = parse_store_text(store_text)
        task, model, params = _plan(
            batch, task, model, model_alias, params, columns, id_column, store
        )
        spec = JobSpec(
            task=task,
            model=model,
            params=params,
            revision=revision,
            dtype=dtype,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
            name=job_name,
            queue=queue,
            priority=parse_priority(priority),
            key=key,
            max_error_rate=max_error_rate,
            store_text=store,
            full_text=full_text,
            index_columns=_names("index_columns", index_columns),
            reuse=reuse,
        )
        spec, rules = validate_spec(spec, session.settings)
        with batch or _open(inputs, rules, replace(reading, columns=columns)) as reader:
            submitted = submit_job(
                session.database,
                session.publisher,
                spec,
                reader,
                lease_seconds=session.settings.lease_seconds,
                hash_key=session.settings.hash_key_bytes,
            )
    job = Job(submitted.job_id)
    job.existing = submitted.existing
    return job


def _find_batch(inputs: Inputs, reading: ReadOptions) -> tuple[BatchReader | None, Inputs]:
    """The OpenAI batch that the inputs are, if they are one; else the inputs, untouched."""
    if files := _files_of(inputs):
        return open_batch(files, reading), inputs
    if isinstance(inputs, Mapping) or hasattr(inputs, "to_dict"):
        return None, inputs
    return open_batch_objects(inputs, reading)  # type: ignore[arg-type]


def _plan(
    batch: BatchReader | None,
    task: str | None,
    model: str | Path | None,
    aliases: Mapping[str, str | Path] | None,
    params: dict[str, Any],
    columns: dict[str, str],
    id_column: str | None,
    store_text: StoreText,
) -> tuple[str, str, dict[str, Any]]:
    """The job's task, model and parameters; those of ``columns`` that are for options are taken."""
    if batch is not None:
        plan = plan_batch(
            batch,
            task=task,
            model=str(model or ""),
            aliases={name: str(folder) for name, folder in (aliases or {}).items()},
            params=params,
            columns=columns,
            id_column=id_column,
            store_text=store_text,
        )
        return plan.task, plan.model, plan.params
    if aliases:
        raise refuse_aliases("the input")
    if model is None:
        raise InvalidJobError("no model is given; expected a folder, a GGUF file or a hub name")
    task = task or DEFAULT_TASK
    return task, str(model), params | take_own_columns(get_task(task), columns)


def _names(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise InvalidJobError(f"{argument} is {names!r}; expected a list, such as [{names!r}]")
    return tuple(dict.fromkeys(names))


def _open(inputs: Inputs, rules: RecordRules, reading: ReadOptions) -> Records:
    fields, files = rules.params.fields(), _files_of(inputs)
    if files:
        return open_records(files, fields, reading, rules)
    if isinstance(inputs, Mapping) or hasattr(inputs, "to_dict"):
        # A dict and a data frame iterate over column names, which would be taken for the texts.
        raise InvalidJobError(
            f"the input is a {type(inputs).__name__}; expected files or an iterable of mappings, "
            'such as [{"text": "…"}], or of a data frame its to_dict("records")'
        )
    return records_from_objects(inputs, fields, reading, rules)  # type: ignore[arg-type]


def _files_of(inputs: Inputs) -> list[str | Path]:
    """The input's files; none if it holds records."""
    if isinstance(inputs, str | Path):
        return [inputs]
    if isinstance(inputs, list | tuple) and all(isinstance(item, str | Path) for item in inputs):
        return list(inputs)
    return []


def results(job: str, **wanted: Unpack[Wanted]) -> Results:
    """The rows of a job by its id; see ``Job.results``."""
    return Job(job).results(**wanted)


def sql(statement: str, /, *, timeout: float = TIMEOUT_SECONDS, **params: Any) -> Answer:
    """The rows of one query as dictionaries, read as they are asked for; ``:name`` is a parameter.

    ``sql("SELECT record_id FROM results WHERE score > :min", min=0.9)``. The connection can only
    read. ``timeout`` is how many seconds the next rows may take, 0: any time. Raises
    InvalidJobError if the statement is wrong or would write, ServiceUnavailableError if the
    database is away.
    """
    return ask(load_settings(), statement, params, timeout_seconds=timeout)
