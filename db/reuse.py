"""Earlier results that answer records again: their keys, and how older jobs get theirs.

A job with ``--reuse`` writes the keys of its results. Those of other jobs get theirs when a job
that could use them is submitted, so that nobody else pays for the index. Of results with one key
that of the job that was submitted last has it. It goes with the result that it stands for: with
``retry --all``, where the row comes again and may be of another model, with a purge, and with a
redaction of the row. Then older jobs' rows are read again, of which one may have the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from textmill.core.jobs import ENDED, JobSpec, JobStatus, Record
from textmill.core.reuse import ReuseScope, without_own_columns
from textmill.core.stored_texts import StoreText
from textmill.core.tasks import get_task, read_own_params, validate_params
from textmill.db.audits import may_have_changed_files
from textmill.db.clock import now
from textmill.db.loading import absolute_model
from textmill.db.models import audits, jobs, results, reuse_keys
from textmill.db.pace import Pace
from textmill.db.session import Database

FIRST_ROWS, MOST_ROWS = 50, 1000  # of one transaction
ANSWERS = [
    results.c[name]
    for name in ("label", "score", "output", "vector", "detail", "input_tokens", "output_tokens")
]


def find_answers(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, Row[Any]]:
    """The earlier results of these keys: what they say, and the job that computed it."""
    row = results.c
    query = (
        select(reuse_keys.c.key, row.job_id, row.reused_from, *ANSWERS)
        .join(
            results,
            and_(row.job_id == reuse_keys.c.job_id, row.record_index == reuse_keys.c.record_index),
        )
        .where(reuse_keys.c.key.in_(keys), row.error_code.is_(None))
    )
    return {found.key: found for found in connection.execute(query)}


def keep_answers(connection: Connection, job_id: str, answers: Mapping[bytes, int]) -> None:
    """Write the keys of results of the job, by their record's index; a later job's stay."""
    if not answers:
        return
    sqlite = connection.dialect.name == "sqlite"
    upsert = sqlite_insert(reuse_keys) if sqlite else postgresql_insert(reuse_keys)
    connection.execute(
        upsert.on_conflict_do_update(
            index_elements=["key"],
            set_={"job_id": upsert.excluded.job_id, "record_index": upsert.excluded.record_index},
            where=reuse_keys.c.job_id <= upsert.excluded.job_id,
        ),
        # In one order everywhere, so that two jobs wait for each other and do not deadlock.
        [{"key": key, "job_id": job_id, "record_index": answers[key]} for key in sorted(answers)],
    )


def forget_answers(
    connection: Connection, job: Row[Any], which: ColumnElement[bool] | None = None
) -> None:
    """Delete the keys of the job's results; ``make_reusable`` looks again at older jobs' rows.

    ``which`` is a condition on ``reuse_keys.record_index``. Older jobs are locked after the job
    itself, the latest first: two that do this never wait for each other.
    """
    own = and_(reuse_keys.c.job_id == job.id, *([] if which is None else [which]))
    if connection.execute(select(reuse_keys.c.key).where(own).limit(1)).first() is None:
        return
    older = (
        select(jobs.c.id)
        .where(
            jobs.c.id < job.id,
            jobs.c.reusable_at.is_not(None),
            jobs.c.status.in_([status.value for status in ENDED]),
            jobs.c.store_text == StoreText.FULL.value,
            jobs.c.purged_at.is_(None),
            *(jobs.c[name] == job._mapping[name] for name in ("task", "dtype", "model_version")),
        )
        .order_by(jobs.c.id.desc())
        .with_for_update()
    )
    others = connection.scalars(older).all()
    connection.execute(delete(reuse_keys).where(own))
    connection.execute(update(jobs).where(jobs.c.id.in_(others)).values(reusable_at=None))


def make_reusable(
    database: Database,
    spec: JobSpec,
    *,
    secret: bytes | None,
    progress: Callable[[int], None] = lambda records: None,
) -> int:
    """Give the results of earlier jobs that could answer this one's records their keys.

    Only of tasks whose records hold the one text that a row keeps, and of jobs that keep it.
    Returns how many results were looked at; in short transactions, and again if it was cut off.
    """
    looked_at = 0
    for job in _candidates(database, spec):
        for page in _pages(database, job, secret):
            looked_at += page
            progress(looked_at)
    return looked_at


def _candidates(database: Database, spec: JobSpec) -> list[Row[Any]]:
    same_model = [jobs.c.model == absolute_model(spec.model)]
    if spec.model_version is not None:
        same_model = [jobs.c.model_version == spec.model_version]
    query = select(jobs).where(
        jobs.c.task == spec.task,
        jobs.c.dtype == spec.dtype,
        jobs.c.model_version.is_not(None),
        jobs.c.store_text == StoreText.FULL.value,
        *same_model,
        *_keys_wanted(),
    )
    wanted = without_own_columns(spec.params)
    with database.read() as connection:
        found = connection.execute(query.order_by(jobs.c.id)).all()
    return [job for job in found if without_own_columns(job.params) == wanted and _rebuildable(job)]


def _keys_wanted() -> tuple[ColumnElement[bool], ...]:
    """A job that is over, still has its texts as they were, and has not been through this."""
    ended = [status.value for status in ENDED - {JobStatus.CANCELLED}]
    return (
        jobs.c.status.in_(ended),
        jobs.c.purged_at.is_(None),
        jobs.c.reusable_at.is_(None),
        ~_is_masked(),
    )


def _is_masked() -> ColumnElement[bool]:
    """Whether a redaction may have masked anything of the job since its records ran.

    Such a row has a label that was computed of another text; which rows they are nobody knows any
    more. ``retry --all`` computes all of them from the texts as they are now, and starts the job
    anew. A redaction that came to its end and found nothing is passed over.
    """
    since_it_ran = audits.c.at >= func.coalesce(jobs.c.started_at, 0)
    own = (audits.c.action == "redact", audits.c.job_id == jobs.c.id)
    changed = select(audits.c.id).where(*own, since_it_ran, may_have_changed_files())
    return changed.correlate(jobs).exists()


def _rebuildable(job: Row[Any]) -> bool:
    params = validate_params(get_task(job.task), job.params)
    return params.composition() is not None or params.fields() == (params.text_field(),)


def _pages(database: Database, job: Row[Any], secret: bytes | None) -> Iterator[int]:
    """Page by page, how many results got their keys."""
    key_of = _key_maker(job, secret)
    pace = Pace(FIRST_ROWS, MOST_ROWS)
    last = -1
    while rows := database.transact(_give_keys, job, key_of, last, pace):
        yield len(rows)
        last = rows[-1].record_index


def _key_maker(job: Row[Any], secret: bytes | None) -> Callable[[Row[Any]], bytes]:
    """How the key of a row of the job is made."""
    task = get_task(job.task)
    params = validate_params(task, job.params)
    scope = job_scope(job, job.model_version, secret)
    own = partial(read_own_params, task, params) if params.own_columns else lambda extra: None
    field = params.text_field()

    def key_of(row: Row[Any]) -> bytes:
        inputs = {field: row.text}
        return scope.key(Record(row.record_index, row.record_id, inputs, own(row.extra or {})))

    return key_of


def _give_keys(
    connection: Connection,
    job: Row[Any],
    key_of: Callable[[Row[Any]], bytes],
    last: int,
    pace: Pace,
) -> Sequence[Row[Any]]:
    """Write the keys of the next rows and return these; none if all have theirs, or may not.

    The rows are read under the job's lock too: a purge, a redaction or a new run that came between
    the reading and the writing would leave the key of what it had removed.
    """
    if not _hold_unchanged(connection, job):
        return []
    row = results.c
    columns: list[Any] = [row.record_index, row.record_id, row.text, row.extra]
    page = (
        select(*columns)
        .where(row.job_id == job.id, row.error_code.is_(None), row.text.is_not(None))
        .order_by(row.record_index)
    )
    with pace.piece(pace.size):
        rows = connection.execute(page.where(row.record_index > last).limit(pace.size)).all()
        keep_answers(connection, job.id, {key_of(one): one.record_index for one in rows})
    if not rows:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(reusable_at=now()))
    return rows


def _hold_unchanged(connection: Connection, job: Row[Any]) -> bool:
    """Lock the job; False if it was purged, masked, runs again or has, or has all its keys."""
    connection.execute(select(jobs.c.id).where(jobs.c.id == job.id).with_for_update())
    same_run = jobs.c.finished_at.is_not_distinct_from(job.finished_at)
    unchanged = select(jobs.c.id).where(jobs.c.id == job.id, same_run, *_keys_wanted())
    return connection.scalar(unchanged) is not None


def job_scope(job: Row[Any], version: str | None, secret: bytes | None) -> ReuseScope:
    """The scope of a job's records, its model being this version."""
    return ReuseScope.of(
        task=job.task,
        model=job.model,
        version=version,
        dtype=job.dtype,
        params=validate_params(get_task(job.task), job.params),
        store_text=job.store_text,
        secret=secret,
    )
