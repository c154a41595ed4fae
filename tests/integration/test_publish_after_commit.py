"""A message is published after the commit that it is about: then, and only then, can it be claimed.

Every place that publishes is watched by a publisher that looks, at that moment and on a connection
of its own, at what another process would see of each message's chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import structlog
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from textmill.core import broker
from textmill.core.broker import Publisher
from textmill.core.messages import ChunkMessage
from textmill.core.settings import Settings, load_settings
from textmill.core.tasks import TASKS
from textmill.db.clock import now
from textmill.db.jobs import fail_job, pause_job
from textmill.db.models import chunks, results
from textmill.db.schema import upgrade
from textmill.db.session import Database
from textmill.db.sweep import sweep_and_publish
from textmill.producer import api, job
from textmill.producer.cli import jobs as commands
from textmill.producer.cli.sweep import sweep
from textmill.producer.submit import dispatch_job, submit_job
from textmill.workers import supervisor
from textmill.workers.process import WorkerOptions, WorkerProcess
from textmill.workers.supervisor import Supervisor
from textmill.workers.tasks import process_chunk

from ..builders import (
    claim_all,
    count,
    dispatch,
    empty,
    make_job,
    open_database,
    put,
    spec,
    statuses,
)
from ..servers import PostgresServer
from ..submissions import chunk_records, reader_of

PLUGINS = Path(__file__).parents[1] / "plugins"


class Onlooker(Publisher):
    """Publishes, after a look at what another connection sees of each message's chunk."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.url = settings.effective_database_url
        self.published: list[ChunkMessage] = []
        self.too_early: list[ChunkMessage] = []

    def publish(self, messages: Iterable[ChunkMessage]) -> int:
        new = list(messages)
        self.published += new
        with open_database(self.url) as other, other.read() as connection:
            for message in new:
                of_chunk = select(chunks.c.status, chunks.c.attempt)
                seen = connection.execute(of_chunk.where(chunks.c.id == message.chunk_id)).all()
                if seen != [("dispatched", message.attempt)]:
                    self.too_early.append(message)
        return super().publish(new)


@dataclass
class Scene:
    """What a place that publishes is given."""

    database: Database
    settings: Settings
    onlooker: Onlooker
    worker: WorkerProcess


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def migrated_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A database with its schema, on SQLite and again on PostgreSQL, for all tests here."""
    url = f"sqlite:///{tmp_path_factory.mktemp('publish') / 'textmill.db'}"
    postgres: PostgresServer | None = None
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        url = postgres.create_database()
    with open_database(url) as database:
        upgrade(database)
    yield url
    if postgres is not None:
        postgres.drop_database(url)


@pytest.fixture
def scene(
    migrated_url: str, home: Path, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    """An empty database, an empty broker, and one worker whose messages the test handles."""
    monkeypatch.setenv("TEXTMILL_DATABASE_URL", migrated_url)
    monkeypatch.setenv("TEXTMILL_BROKER_URL", broker_url)
    monkeypatch.syspath_prepend(PLUGINS)
    fake = replace(
        TASKS["classification"], name="fake", runner="fake_tasks:FakeRunner", architecture=None
    )
    monkeypatch.setitem(TASKS, "fake", fake)
    settings = load_settings(sweep_seconds=3600)  # nobody sweeps but the test
    onlooker = Onlooker(settings)
    for module in (broker, supervisor, job):
        monkeypatch.setattr(module, "Publisher", lambda _: onlooker)
    # Else each log of an error would be drawn in colours, with all variables.
    with open_database(migrated_url) as database, structlog.testing.capture_logs():
        empty(database)
        worker = WorkerProcess(settings, WorkerOptions("w1", "cpu", ("default",), 1))
        worker.start()
        worker.publisher = onlooker
        yield Scene(database, settings, onlooker, worker)
        worker.stop()
    if job.open_session.cache_info().currsize:
        job.open_session().database.close()
        job.open_session.cache_clear()


# Each place makes its job and returns the act that publishes for it.


def a_submission(scene: Scene) -> Callable[[], object]:
    rows = [{"text": f"text {n}"} for n in range(5)]
    return lambda: submit_job(scene.database, scene.onlooker, spec(), reader_of(rows))


def a_dispatch(scene: Scene) -> Callable[[], object]:
    job_id = make_job(scene.database, [1] * 5)
    return lambda: dispatch_job(scene.database, scene.onlooker, job_id, "default")


def paused(scene: Scene) -> str:
    job_id = make_job(scene.database, [1] * 5)
    scene.database.transact(pause_job, job_id)
    return job_id


def failed(scene: Scene) -> str:
    job_id = make_job(scene.database, [1] * 5)
    scene.database.transact(fail_job, job_id, "no model")
    return job_id


def the_resume_command(scene: Scene) -> Callable[[], object]:
    job_id = paused(scene)
    return lambda: commands.resume(job_id)


def the_retry_command(scene: Scene) -> Callable[[], object]:
    job_id = failed(scene)
    return lambda: commands.retry(job_id)


def resume_in_python(scene: Scene) -> Callable[[], object]:
    return api.Job(paused(scene)).resume


def retry_in_python(scene: Scene) -> Callable[[], object]:
    return api.Job(failed(scene)).retry


def a_completed_chunk(scene: Scene) -> Callable[[], object]:
    first = dispatch(scene.database, make_job(scene.database, [1] * 3, task="fake"), window=1)[0]
    return lambda: process_chunk(scene.worker, first.chunk_id, first.attempt)


def a_split_chunk(scene: Scene) -> Callable[[], object]:
    (first,) = dispatch(scene.database, make_job(scene.database, [2], task="fake"))
    put(scene.database, chunks, chunks.c.id == first.chunk_id, crashes=2)
    return lambda: process_chunk(scene.worker, first.chunk_id, first.attempt)


def a_condemned_record(scene: Scene) -> Callable[[], object]:
    first = dispatch(scene.database, make_job(scene.database, [1] * 3, task="fake"), window=1)[0]
    put(scene.database, chunks, chunks.c.id == first.chunk_id, crashes=3)
    return lambda: process_chunk(scene.worker, first.chunk_id, first.attempt)


def a_sweep(scene: Scene) -> Callable[[], object]:
    """Of a lost message, a stalled chunk, and an empty window."""
    dispatch(scene.database, make_job(scene.database))
    put(scene.database, chunks, chunks.c.status == "dispatched", dispatched_at=now() - 1e6)
    claim_all(scene.database, make_job(scene.database), lease=-1)
    make_job(scene.database)
    return lambda: sweep_and_publish(scene.database, scene.settings, scene.onlooker)


def the_sweep_command(scene: Scene) -> Callable[[], object]:
    make_job(scene.database)
    return sweep


def a_supervisor_that_finds_a_dead_worker(scene: Scene) -> Callable[[], object]:
    claim_all(scene.database, make_job(scene.database, [1] * 3), worker="dead")
    supervising = Supervisor(scene.settings, ["cpu"], ["default"], ensure_services=lambda: None)
    (child,) = supervising.children
    child.id = "dead"
    return lambda: supervising._release(child, child.id, True)


Place = Callable[[Scene], Callable[[], object]]
PLACES: list[Place] = [
    a_submission,
    a_dispatch,
    the_resume_command,
    the_retry_command,
    resume_in_python,
    retry_in_python,
    a_completed_chunk,
    a_split_chunk,
    a_condemned_record,
    a_sweep,
    the_sweep_command,
    a_supervisor_that_finds_a_dead_worker,
]
at_each_place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)


@at_each_place
def test_what_is_published_can_be_claimed_at_that_moment(
    scene: Scene, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk_records(monkeypatch, 2)
    act = place(scene)
    act()
    assert scene.onlooker.too_early == []
    dispatched = count(scene.database, chunks, chunks.c.status == "dispatched")
    assert len(scene.onlooker.published) == dispatched > 0


@contextmanager
def refusing_dispatch(database: Database) -> Iterator[None]:
    """The database refuses every chunk that becomes or stays dispatched."""
    refuse = (
        "CREATE TRIGGER refuse BEFORE UPDATE ON chunks WHEN NEW.status = 'dispatched' "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        if database.is_sqlite
        else "ALTER TABLE chunks ADD CONSTRAINT refuse CHECK (status <> 'dispatched') NOT VALID"
    )
    allow = (
        "DROP TRIGGER refuse" if database.is_sqlite else "ALTER TABLE chunks DROP CONSTRAINT refuse"
    )
    with database.write() as connection:
        connection.execute(text(refuse))
    try:
        yield
    finally:
        with database.write() as connection:
            connection.execute(text(allow))


@at_each_place
def test_a_transaction_that_fails_publishes_nothing(scene: Scene, place: Place) -> None:
    act = place(scene)
    with refusing_dispatch(scene.database), suppress(IntegrityError):
        act()
    assert scene.onlooker.published == []


def test_a_worker_whose_row_is_there_already_publishes_nothing(scene: Scene) -> None:
    job_id = make_job(scene.database, [1] * 3, task="fake")
    (first,) = dispatch(scene.database, job_id, window=1)
    with scene.database.write() as connection:
        connection.execute(insert(results).values(job_id=job_id, record_index=0, record_id="id0"))
    process_chunk(scene.worker, first.chunk_id, first.attempt)
    assert scene.onlooker.published == []
    assert statuses(scene.database, job_id) == ["pending"] * 3
    assert count(scene.database, results) == 1
