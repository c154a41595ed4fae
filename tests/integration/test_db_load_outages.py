"""A producer whose database goes away as it loads: it waits, goes on, and writes nothing twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from textmill.core.errors import ServiceUnavailableError
from textmill.core.settings import load_settings
from textmill.db.models import jobs, results
from textmill.db.session import Database
from textmill.producer.submit import submit_job

from .. import submissions
from ..builders import count, spec, waiting_records, with_tables
from ..servers import PostgresServer, wait_until
from ..submissions import Outbox, nothing_in, reader_of

small_chunks = submissions.small_chunks
pytestmark = pytest.mark.usefixtures("small_chunks")  # 10 records a chunk, 20 a transaction

ROWS = [{"text": f"text {at}"} for at in range(155)]


class LostAnswers(Database):
    """Every other transaction of a load is committed, and its answer is lost."""

    calls = itertools.count()

    def transact(self, change: Any, /, *args: Any, **kwargs: Any) -> Any:
        answer = super().transact(change, *args, **kwargs)
        if change.__name__ in ("<lambda>", "_finish") and next(self.calls) % 2 == 0:
            raise ServiceUnavailableError("the answer was lost")
        return answer


def test_what_was_committed_without_an_answer_is_not_written_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'textmill.db'}"
    for _ in with_tables(url):
        database = LostAnswers.open(load_settings(database_url=url))
        reader = reader_of([*ROWS, {"text": None}, {"text": None}], skip_bad=True)
        submitted = submit_job(database, Outbox(), spec(), reader)
        assert (submitted.records, submitted.error_records) == (157, 2)
        assert waiting_records(database, submitted.job_id) == list(range(155))
        assert count(database, results) == 2
        assert count(database, jobs, jobs.c.status == "queued", jobs.c.total_records == 157) == 1
        database.close()


@pytest.fixture
def crashing(own_postgres: PostgresServer) -> Iterator[Database]:
    """The tables in a server that the test may crash."""
    yield from with_tables(own_postgres.create_database())


def test_a_load_outlasts_a_crash_of_its_database_and_its_lease_goes_on(
    own_postgres: PostgresServer, crashing: Database
) -> None:
    """First while the input has nothing to say, then as it is about to write."""
    database = crashing
    waits: list[str] = []

    def expires_at() -> float:
        with database.read() as connection:
            return connection.scalar(select(jobs.c.load_expires_at)) or 0.0

    def crash_and_see_the_lease_renewed() -> None:
        own_postgres.crash()
        own_postgres.start()
        before = expires_at()
        wait_until(lambda: expires_at() > before, 20, what="renewed after the crash")

    def rows() -> Iterator[dict[str, str]]:
        for at, row in enumerate(ROWS):
            if at == 120:
                crash_and_see_the_lease_renewed()
            if at == 139:
                own_postgres.crash()
            yield row

    def on_wait(reason: str) -> None:
        waits.append(reason)
        own_postgres.start()

    submitted = submit_job(
        database, Outbox(), spec(), reader_of(rows()), lease_seconds=4, on_wait=on_wait
    )
    assert waiting_records(database, submitted.job_id) == list(range(len(ROWS)))
    assert len(waits) == 1
    assert "does not answer" in waits[0]


def test_a_load_whose_database_stays_away_fails_and_leaves_nothing(
    own_postgres: PostgresServer, crashing: Database
) -> None:
    def rows() -> Iterator[dict[str, str]]:
        for at, row in enumerate(ROWS):
            if at == 120:
                own_postgres.crash()
            yield row

    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        submit_job(crashing, Outbox(), spec(), reader_of(rows()), lease_seconds=1)
    own_postgres.start()
    submit_job(crashing, Outbox(), spec(), reader_of(ROWS[:1]))  # removes the dead load
    assert count(crashing, jobs) == 1
    assert not nothing_in(crashing)
