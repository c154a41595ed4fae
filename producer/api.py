"""The Python face of Textmill: ``submit`` a job, hold it as a ``Job``, read its ``results``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from textmill.core.broker import Publisher
from textmill.core.errors import InvalidJobError, ServiceUnavailableError
from textmill.core.jobs import ENDED, JobSpec, JobStatus
from textmill.core.patience import keep_trying
from textmill.core.settings import load_settings
from textmill.core.stored_texts import parse_store_text
from textmill.core.tasks import get_task, load_plugins, take_own_columns
from textmill.db import jobs as jobs_db
from textmill.db.queries import count_labels
from textmill.db.rerun import rerun_job
from textmill.db.retry import retry_job
from textmill.db.schema import ensure_schema
from textmill.db.session import Database
from textmill.db.sql import TIMEOUT_SECONDS, Answer, ask
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
from textmill.producer.results_api import Results, Wanted, make_filter
from textmill.producer.submit import (
    dispatch_job,
    name_after,
    parse_priority,
    submit_job,
    validate_spec,
)
from textmill.producer.summary import EXIT_CODES
from textmill.producer.vectors import Vector, read_matrix, read_vectors

if TYPE_CHECKING:
    import numpy as np

POLL_SECONDS = 0.2
COLUMN = "_column"
DEFAULT_TASK = "classification"
DEFAULT_TASK = "classification"

Inputs = str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]]


class _Session:
    """This process's database and publisher, as the environment says."""

    def __init__(self) -> None:
        self.settings = load_settings()
        load_plugins(self.settings.plugins)
        self.database = Database.open(self.settings)
        ensure_schema(self.database, self.settings)
        self.publisher = Publisher(self.settings)


@cache
def _session() -> _Session:
    return _Session()


class Job:
    """A job that exists. ``Job("06h0…")`` finds it by id, the start of its id, or its key.

    Raises JobNotFoundError if there is none. ``existing`` is True if ``submit`` found that its key
    had been submitted before.
    """

    existing = False

    def __init__(self, reference: str) -> None:
        with _session().database.read() as connection:
            self.id: str = jobs_db.find_job(connection, reference).id

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def _row(self) -> Any:
        with _session().database.read() as connection:
            return jobs_db.get_job(connection, self.id)

    @property
    def status(self) -> JobStatus:
        """Where it stands now."""
        return JobStatus(self._row().status)

    @property
    def ended(self) -> bool:
        """True if nothing more happens by itself."""
        return self.status in ENDED

    @property
    def error(self) -> str | None:
        """Why it failed, if it did."""
        return self._row().error  # type: ignore[no-any-return]

    def counts(self) -> dict[str, int]:
        """Records in all, done and in error."""
        row = self._row()
        return {"total": row.total_records, "done": row.done_records, "errors": row.error_records}

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Return the job's status once it has ended; waits for a database that is away, silently.

        Raises TimeoutError after ``timeout`` seconds; the job goes on. (A server that takes a
        question and never answers is waited for until the connection is given up.)
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout

        def pause(seconds: float) -> bool:
            left = deadline - time.monotonic()
            time.sleep(max(0.0, min(seconds, left)))
            return left <= 0

        while True:
            try:
                status = keep_trying(lambda: self.status, pause=pause)
            except ServiceUnavailableError as error:
                raise TimeoutError(
                    f"what became of job {self.id} is not known after {timeout} s: {error}"
                ) from error
            if status in ENDED:
                return status
            if pause(POLL_SECONDS):
                raise TimeoutError(f"job {self.id} is {status} after {timeout} s")

    def results(self, **wanted: Unpack[Wanted]) -> Results:
        """Its rows in input order, to iterate over; the arguments are those of ``ResultFilter``.

        ``job.results(label="spam", min_score=0.9, order="score", limit=10)``. Raises
        InvalidJobError for what cannot be meant, such as a column that there is not.
        """
        return Results(_session().database, self.id, make_filter(wanted))

    def vectors(self) -> Iterator[Vector]:
        """Index, id and vector of each record that has one, in input order, read page by page."""
        return read_vectors(_session().database, self._row())

    def matrix(self) -> np.ndarray:
        """All its vectors as float32 of (records, dimensions); row i is the record of index i.

        A record without a vector has a row of NaN. Raises InvalidJobError if there is none at all.
        """
        return read_matrix(_session().database, self._row())

    def labels(self) -> dict[str, int]:
        """How many records have each label so far, the most frequent first."""
        with _session().database.read() as connection:
            return {count.label: count.records for count in count_labels(connection, self.id)}

    @property
    def exit_code(self) -> int:
        """What the command line would exit with: 0 done or going on, 1 failed, 3 with errors."""
        return EXIT_CODES.get(self.status, 0)

    def pause(self) -> None:
        """Hold it back; what is running finishes. Raises JobConflictError if it has ended."""
        _session().database.transact(jobs_db.pause_job, self.id)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        _session().database.transact(jobs_db.resume_job, self.id)
        self._dispatch()

    def _dispatch(self) -> None:
        dispatch_job(_session().database, _session().publisher, self.id, self._row().queue)

    def cancel(self) -> None:
        """End it now; raises JobConflictError if it has ended."""
        _session().database.transact(jobs_db.cancel_job, self.id)

    def retry(self, *, all: bool = False) -> int:  # noqa: A002 - as the command's option is named
        """Run its error records again; returns how many. Raises JobConflictError if none can.

        With ``all`` every record runs again, and the results it has are deleted at once.
        """
        records = _session().database.transact(rerun_job if all else retry_job, self.id)
        self._dispatch()
        return records


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
    session = _session()
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
        task, model, params = _plan(batch, task, model, model_alias, params, columns, id_column)
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
            store_text=parse_store_text(store_text),
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
