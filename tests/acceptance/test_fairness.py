"""Dispatch by window, as users see it: a small job waits for a few chunks, not for a whole big job.

What had happened by a moment is read from SQL (``dispatched_at``), so no test measures time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Row, func, select

from textmill.core.broker import kombu_url, redis_url
from textmill.core.jobs import Priority
from textmill.core.messages import queue_name
from textmill.core.settings import load_settings
from textmill.db.dispatch import window_size
from textmill.db.jobs import get_job
from textmill.db.models import chunks, payloads, results
from textmill.db.session import Database

from ..servers import wait_until
from .conftest import Shell

SINGLE = ["--task", "fake_single", "--model", "m"]  # a record is a chunk
CHUNKS = 10_000
LISTS = [queue_name("default", priority) for priority in Priority]


class Eyes:
    """What SQL and Redis say, asked over connections that stay open."""

    def __init__(self, shell: Shell, database: Database, broker: redis.Redis) -> None:
        self.shell = shell
        self.database = database
        self.broker = broker
        self.most_messages = 0

    def messages(self) -> int:
        """How many messages Redis holds: those that wait, and those a worker has not taken up."""
        pipeline = self.broker.pipeline(transaction=True)
        for name in LISTS:
            pipeline.llen(name)
        pipeline.hlen("unacked")
        found = sum(pipeline.execute())
        self.most_messages = max(self.most_messages, found)
        return found

    def window(self) -> int:
        with self.database.read() as connection:
            return window_size(connection, "default")

    def job(self, job_id: str) -> Row[Any]:
        """The job's row. Each look at it counts the messages too."""
        self.messages()
        with self.database.read() as connection:
            return get_job(connection, job_id)

    def wait_for_end(self, job_id: str) -> Row[Any]:
        wait_until(lambda: self.job(job_id).finished_at, 60, what=f"{job_id} finished")
        return self.job(job_id)

    def count(self, job_id: str, *where: Any) -> int:
        with self.database.read() as connection:
            own = select(func.count()).where(chunks.c.job_id == job_id, *where)
            return connection.scalar(own) or 0

    def dispatched_by(self, job_id: str, moment: float) -> int:
        """How many of the job's chunks had ever got a message by then."""
        return self.count(job_id, chunks.c.dispatched_at <= moment)


@contextmanager
def _open_eyes(shell: Shell) -> Iterator[Eyes]:
    database = shell.database()
    settings = load_settings(home=shell.env["TEXTMILL_HOME"])
    url = redis_url(kombu_url(settings.effective_broker_url))
    with redis.Redis.from_url(url) as broker:
        yield Eyes(shell, database, broker)
    database.close()


@pytest.fixture
def eyes(shell: Shell, request: pytest.FixtureRequest) -> Iterator[Eyes]:
    """Looks at a shell with one worker of so many slots as the test's mark says."""
    shell.start_worker("--slots", str(request.param))
    with _open_eyes(shell) as given:
        yield given


def _hold_worker(eyes: Eyes) -> Path:
    """Keep the worker busy until the file is there that this returns."""
    gate = eyes.shell.folder / "gate"
    blocker = eyes.shell.write("gate.txt", f"wait {gate}\n")
    job_id = eyes.shell.submit(blocker, *SINGLE, "--priority", "high")
    wait_until(lambda: eyes.count(job_id, chunks.c.status == "running"), 60, what="running")
    return gate


def _submit(eyes: Eyes, records: int, *options: str, first: Sequence[str] = ()) -> str:
    """A job of so many records, beginning with the texts that ``first`` gives."""
    lines = [*first, *(f"text {at}" for at in range(len(first), records))]
    texts = eyes.shell.write("texts.txt", "".join(f"{line}\n" for line in lines))
    return eyes.shell.submit(texts, *SINGLE, *options)


@pytest.mark.parametrize("eyes", [3], indirect=True)
def test_a_small_job_does_not_wait_for_a_big_one_and_redis_holds_one_window_of_each(
    eyes: Eyes,
) -> None:
    window = eyes.window()
    assert window == 6
    gate = _hold_worker(eyes)
    # As long as a model takes: texts that take nothing keep the slots racing for the database's
    # lock, and one of them can lose that race thirty times on a busy machine.
    as_of_a_model = [f"slow 0.1 {at}" for at in range(5 * window)]
    big = _submit(eyes, CHUNKS, first=as_of_a_model)
    assert eyes.count(big) == CHUNKS
    assert eyes.messages() <= window
    small = _submit(eyes, 1)
    sent = chunks.c.dispatched_at.is_not(None)
    wait_until(lambda: eyes.count(small, sent) == 1, 60, what="with a message of the small job's")
    gate.touch()

    ended = eyes.wait_for_end(small)
    assert ended.status == "completed"
    assert eyes.dispatched_by(big, ended.finished_at) <= 5 * window
    wait_until(lambda: eyes.job(big).done_records >= 300, 60, what="going on")
    assert eyes.most_messages <= window + 1

    assert eyes.shell.run("cancel", big).returncode == 0
    job = eyes.job(big)
    assert job.status == "cancelled"
    assert job.done_records < CHUNKS / 2
    assert eyes.count(big, chunks.c.status.in_(["pending", "dispatched", "running"])) == 0
    wait_until(lambda: eyes.messages() == 0, 60, what="without messages")
    with eyes.database.read() as connection:
        rows = select(func.count()).where(results.c.job_id == big)
        assert connection.scalar(rows) == job.done_records == eyes.job(big).done_records
        assert connection.scalar(select(func.count()).select_from(payloads)) == 0


@pytest.mark.parametrize("eyes", [1], indirect=True)
def test_priorities_are_consumed_in_their_order(eyes: Eyes) -> None:
    """A lower one gets no second window before the end of a higher one."""
    window, ahead = eyes.window(), 2  # a worker of one slot takes a message or two ahead
    gate = _hold_worker(eyes)
    low, normal, high = (
        _submit(eyes, 30, "--priority", priority) for priority in ("low", "normal", "high")
    )
    gate.touch()
    first, second, third = (eyes.wait_for_end(job_id) for job_id in (high, normal, low))
    assert first.finished_at < second.finished_at < third.finished_at
    assert eyes.dispatched_by(normal, first.finished_at) <= window + ahead
    assert eyes.dispatched_by(low, second.finished_at) <= window + ahead
    assert eyes.most_messages <= 3 * window
