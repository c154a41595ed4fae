"""The kinds of faults. Each begins, may last a while, and then ends by itself.

``begin`` does the damage and returns how to undo it: None if there is nothing to undo. It raises
``NotNow`` where it makes no sense, such as killing a broker that is down.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import redis

from textmill.core.errors import JobConflictError, TextmillError
from textmill.core.messages import queue_name
from textmill.db.jobs import pause_job, resume_job
from textmill.db.sweep import sweep_and_publish
from textmill.producer.submit import dispatch_job

from .mill import LEASE_SECONDS, Host, Mill, send

Undo = Callable[[], None]
QUEUES = [queue_name("default", priority) for priority in ("high", "normal", "low")]
BOTH = ("sqlite", "postgresql")


class NotNow(Exception):  # noqa: N818 - no error
    """The fault has no target at this moment, or cannot be undone yet."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: how it begins, how long it lasts in seconds, and where it exists."""

    name: str
    begin: Callable[[Mill, Random], Undo | None]
    lasts: tuple[float, float] = (0.0, 0.0)
    databases: tuple[str, ...] = BOTH
    kills_worker: bool = False
    outage: str | None = None  # of which server, as long as it lasts
    by_person: bool = False  # it may have to wait for a database that a fault has locked


def _host(mill: Mill, rng: Random) -> Host:
    hosts = [host for host in mill.hosts if host.worker() is not None]
    if not hosts:
        raise NotNow
    return rng.choice(hosts)


def kill_worker(mill: Mill, rng: Random) -> None:
    """SIGKILL the worker; its supervisor lives and replaces it."""
    worker = _host(mill, rng).worker()
    if worker is None:
        raise NotNow
    send(worker, signal.SIGKILL)


def kill_host(mill: Mill, rng: Random) -> Undo:
    """A machine is gone, with nobody left to report it; it comes back."""
    host = _host(mill, rng)
    for process in host.processes():
        send(process, signal.SIGKILL)
    return host.start


def kill_supervisor(mill: Mill, rng: Random) -> Undo:
    """The worker outlives its supervisor by a drain, beside the one that is started next."""
    host = _host(mill, rng)
    send(host.processes()[0], signal.SIGKILL)
    return host.start


def stop_worker(mill: Mill, rng: Random) -> Undo:
    """SIGSTOP; its supervisor ends it if that lasts longer than a lease."""
    worker = _host(mill, rng).worker()
    if worker is None:
        raise NotNow
    send(worker, signal.SIGSTOP)
    return lambda: send(worker, signal.SIGCONT)


def stop_host(mill: Mill, rng: Random) -> Undo:
    """Supervisor and worker stand still and wake after their leases have ended."""
    processes = _host(mill, rng).processes()
    for process in processes:
        send(process, signal.SIGSTOP)

    def wake() -> None:
        for process in reversed(processes):  # the worker first: it may write before it is noticed
            send(process, signal.SIGCONT)

    return wake


def restart_host(mill: Mill, rng: Random) -> Undo:
    """SIGTERM, as a rolling restart does: drain, then a new one."""
    host = _host(mill, rng)
    old = host.supervisor
    assert old is not None
    old.terminate()

    def start() -> None:
        _require(old.poll() is not None)  # it drains
        host.start()

    return start


def kill_broker(mill: Mill, rng: Random) -> Undo:
    """SIGKILL; all messages are lost, for nothing is on disk."""
    _require(mill.broker.running)
    mill.broker.kill()
    return mill.servers.mend


def hang_broker(mill: Mill, rng: Random) -> Undo:
    """SIGSTOP: connections stay open and nothing answers."""
    _require(mill.broker.running)
    mill.broker.pause()
    return mill.servers.mend


def flush_broker(mill: Mill, rng: Random) -> None:
    """FLUSHALL."""
    _client(mill, lambda client: client.flushall())


def drop_connections(mill: Mill, rng: Random) -> None:
    """CLIENT KILL of every connection of the broker."""

    def kill(client: redis.Redis) -> None:
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    _client(mill, kill)


def muddle_messages(mill: Mill, rng: Random) -> None:
    """Every message doubled, one in five lost, the rest in another order, and late ones again."""

    def muddle(client: redis.Redis) -> None:
        for queue in QUEUES:
            waiting = list(client.lrange(queue, 0, -1))
            mill.old_messages += waiting
            mixed = [one for one in waiting * 2 if rng.random() > 0.2]
            mixed += rng.sample(mill.old_messages, min(5, len(mill.old_messages)))
            rng.shuffle(mixed)
            client.delete(queue)
            if mixed:
                client.lpush(queue, *mixed)

    _client(mill, muddle)


def crash_postgresql(mill: Mill, rng: Random) -> Undo:
    """Immediate shutdown: no checkpoint, recovery at the next start."""
    assert mill.servers.postgres is not None
    _require(mill.servers.postgres.running)
    mill.servers.postgres.crash()
    return mill.servers.mend


def drop_sessions(mill: Mill, rng: Random) -> None:
    """End every session of the database at once."""
    assert mill.servers.postgres is not None
    _require(mill.servers.postgres.running)
    mill.servers.postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )


def lock_sqlite(mill: Mill, rng: Random) -> Undo:
    """Another program holds the file's write lock."""
    return mill.lock_sqlite()


def pause_the_job(mill: Mill, rng: Random) -> Undo:
    """What a person does: pause the first job, and resume it."""
    _require("main" in mill.jobs)
    job_id = mill.jobs["main"]
    try:
        mill.database.transact(pause_job, job_id)
    except TextmillError:
        raise NotNow from None

    def resume() -> None:
        try:
            mill.database.transact(resume_job, job_id)
        except JobConflictError:  # what ran when it was paused has completed it
            return
        except TextmillError:
            raise NotNow from None
        dispatch_job(mill.database, mill.publisher, job_id, "default")

    return resume


def sweep_too(mill: Mill, rng: Random) -> None:
    """``textmill sweep`` beside the workers' own, with no regard to whose turn it is."""
    try:
        sweep_and_publish(mill.database, mill.settings, mill.publisher)
    except TextmillError:
        raise NotNow from None


def _require(condition: bool) -> None:
    if not condition:
        raise NotNow


def _client(mill: Mill, action: Callable[[redis.Redis], object]) -> None:
    _require(mill.broker.running)
    with mill.broker.client() as client:
        try:
            action(client)
        except redis.RedisError:  # it hangs
            raise NotNow from None


KINDS = (
    Kind("worker killed", kill_worker, kills_worker=True),
    Kind("host killed", kill_host, (0.1, 1.0), kills_worker=True),
    Kind("supervisor killed", kill_supervisor, (0.1, 1.0)),
    Kind("worker stopped", stop_worker, (0.2, 2 * LEASE_SECONDS)),
    Kind("host stopped", stop_host, (0.5 * LEASE_SECONDS, 2 * LEASE_SECONDS)),
    Kind("host restarted", restart_host, (0.1, 0.1)),
    Kind("broker killed", kill_broker, (0.0, 2.0), outage="broker"),
    Kind("broker hung", hang_broker, (0.2, 2.5), outage="broker"),
    Kind("broker flushed", flush_broker),
    Kind("broker connections dropped", drop_connections),
    Kind("messages muddled", muddle_messages),
    Kind("postgresql crashed", crash_postgresql, (0.0, 1.5), ("postgresql",), outage="database"),
    Kind("database sessions dropped", drop_sessions, databases=("postgresql",)),
    Kind("database locked", lock_sqlite, (0.3, 2.0), ("sqlite",), outage="database"),
    Kind("job paused", pause_the_job, (0.1, 1.0), by_person=True),
    Kind("sweep by hand", sweep_too, by_person=True),
)
