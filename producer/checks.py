"""What ``textmill doctor`` looks at: each check says what it found and, if bad, what to do."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import select

from textmill.core.broker import ping, redacted_url
from textmill.core.embedded import hangs, is_running
from textmill.core.errors import TextmillError
from textmill.core.folders import folder_problem, unusable_home
from textmill.core.jobs import ENDED
from textmill.core.settings import Settings, unknown_variables
from textmill.core.tasks import nearest
from textmill.db.models import jobs
from textmill.db.schema import HEAD, current_revision
from textmill.db.session import Database
from textmill.db.workers import live_workers
from textmill.producer.summary import database_place

MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    ok: bool
    subject: str
    found: str


def run_checks(settings: Settings) -> Iterator[Finding]:
    """Every check in turn; a service that is away makes one bad finding, not an exception."""
    yield _versions()
    yield from _variables()
    yield from _models()
    yield _home(settings)
    yield _guarded("broker", lambda: _broker(settings))
    yield from _in_database(settings)


def _in_database(settings: Settings) -> Iterator[Finding]:
    """What only the database can tell; without it one finding says why."""
    try:
        database = Database.open(settings)
    except TextmillError as error:
        yield Finding(False, "database", str(error))
        return
    try:
        reached = _guarded("database", lambda: _schema(database, settings))
        yield reached
        if reached.ok:
            yield _guarded("workers", lambda: _workers(database))
            yield _guarded("jobs", lambda: _unserved(database))
    finally:
        database.close()


def _guarded(subject: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except TextmillError as error:
        return Finding(False, subject, str(error))


def _versions() -> Finding:
    names = ("textmill", "celery", "sqlalchemy", "redis")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return Finding(True, "versions", f"python {platform.python_version()}, {versions}")


def _variables() -> Iterator[Finding]:
    known = [f"TEXTMILL_{name.upper()}" for name in Settings.model_fields]
    for name in unknown_variables():
        yield Finding(False, "settings", f"{name} is no setting{nearest(name, known)}")


def _models() -> Iterator[Finding]:
    for name in ("torch", "transformers"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(True, name, "not installed: this machine can submit and query only")
        else:
            yield Finding(True, name, version)


def _home(settings: Settings) -> Finding:
    """The data folder: the database's and the broker's by default, and that of logs."""
    problem = folder_problem(settings.home)
    if problem is not None:
        return Finding(False, "home", unusable_home(settings.home, problem))
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free at {settings.home}"
    return Finding(free >= MIN_FREE_BYTES, "home", text)


def _broker(settings: Settings) -> Finding:
    if settings.embedded_broker and hangs(settings):
        text = (
            f"bundled Valkey takes connections on {settings.socket_path} and does not answer: it "
            "hangs; a `textmill up`, `run` or `worker` replaces it within a minute"
        )
        return Finding(False, "broker", text)
    if settings.embedded_broker and not is_running(settings):
        text = "bundled Valkey, not running now: `textmill run`, `worker` and `up` start it"
        return Finding(True, "broker", text)
    try:
        server = ping(settings)
    except TextmillError as error:
        return Finding(False, "broker", str(error))
    return Finding(True, "broker", f"{server} at {redacted_url(settings.effective_broker_url)}")


def _schema(database: Database, settings: Settings) -> Finding:
    revision = current_revision(database)
    kind = f"SQLite {sqlite3.sqlite_version}" if database.is_sqlite else "PostgreSQL"
    where = f"{kind} at {database_place(settings)}"
    if revision == HEAD:
        return Finding(True, "database", f"{where}, schema {HEAD}")
    if settings.database_url is None and revision is None:
        return Finding(True, "database", f"{where}, empty: the first job makes its tables")
    found = revision or "no tables"
    return Finding(False, "database", f"{where}: {found}; run `textmill db upgrade`")


def _workers(database: Database) -> Finding:
    if current_revision(database) is None:
        return Finding(True, "workers", "none yet")
    with database.read() as connection:
        live = live_workers(connection)
    if not live:
        return Finding(True, "workers", "none live; start one with `textmill worker`")
    lines = [
        f"{worker.host} pid {worker.pid}: {worker.device}, {worker.slots} slots, "
        f"queues {','.join(worker.queues)}, models {', '.join(worker.models) or 'none loaded'}, "
        f"seen {worker.age:.0f} s ago"
        for worker in live
    ]
    return Finding(True, "workers", "\n".join(lines))


def _unserved(database: Database) -> Finding:
    """Jobs that wait for a queue nobody serves."""
    if current_revision(database) is None:
        return Finding(True, "jobs", "none yet")
    ended = [status.value for status in ENDED]
    with database.read() as connection:
        open_jobs = connection.execute(
            select(jobs.c.id, jobs.c.queue).where(jobs.c.status.not_in(ended))
        ).all()
        served = {queue for worker in live_workers(connection) for queue in worker.queues}
    waiting = [f"{job.id} (queue {job.queue})" for job in open_jobs if job.queue not in served]
    if waiting:
        text = f"wait for a worker that serves their queue: {', '.join(waiting[:5])}"
        return Finding(False, "jobs", text)
    return Finding(True, "jobs", f"{len(open_jobs)} unfinished")
