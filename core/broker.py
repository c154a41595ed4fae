"""The way to Redis: the Celery application's settings, publishing, and asking the broker how it is.

Holds no job logic: what is published, and again after a failure, is decided in ``textmill.db``.
Nothing here is read by producers' ``--help``: importing Celery takes a third of a second.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import redis
from celery import Celery
from kombu.exceptions import KombuError
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from textmill.core.errors import ConfigurationError, ServiceUnavailableError
from textmill.core.jobs import Priority
from textmill.core.messages import TASK_NAME, ChunkMessage, queue_name
from textmill.core.settings import BROKER_SCHEMES, Settings

DEFAULT_QUEUE = "default"
VISIBILITY_TIMEOUT_SECONDS = 12 * 3600  # above any task: a message in hand is not given out twice
PUBLISH_TIMEOUT_SECONDS = 2.0
PUBLISH_CONNECT_SECONDS = 1.0
SILENCE_SECONDS = 5  # of a host that is cut off without a word, until a connection is given up
PIPELINE_MESSAGES = 100  # one round trip per this many messages

_BROKER_ERRORS = (KombuError, redis_errors.RedisError, OSError)


def make_celery(settings: Settings, *, for_worker: bool) -> Celery:
    """The Celery application of a worker, or one that only publishes (short timeouts, no retry).

    A message is acknowledged at its start: from the claim on, the lease in SQL is responsible.
    Raises ConfigurationError for a URL that no transport understands.
    """
    url = kombu_url(settings.effective_broker_url)
    app = Celery("textmill", broker=url, set_as_current=for_worker)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        task_create_missing_queues=True,
        task_publish_retry=False,
        task_inherit_parent_priority=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=True,  # its socket is what notices a lost broker
        worker_hijack_root_logger=False,
        # Cancels tasks acknowledged late, of which there are none; unset, it warns at each loss.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # the default gives up after 100
        broker_transport_options=_transport_options(
            settings.effective_broker_url, for_worker=for_worker
        ),
    )
    return app


def _transport_options(url: str, *, for_worker: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "queue_order_strategy": "priority",
        "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "socket_keepalive_options": _keepalive_options(),
        "retry_on_timeout": False,  # True doubled the time a producer waits
    }
    if for_worker:
        options |= {
            "socket_timeout": 5.0,
            "socket_connect_timeout": 3.0,
            "health_check_interval": 5,
        }
    else:
        options |= {
            "socket_timeout": PUBLISH_TIMEOUT_SECONDS,
            "socket_connect_timeout": PUBLISH_CONNECT_SECONDS,
            "max_retries": 0,  # else kombu tries for four seconds to connect
        }
    if url.startswith("sentinel:"):
        options["master_name"] = _master_name(url)
    return options


def _keepalive_options() -> dict[int, int]:
    """Have the kernel find a silent broker; by its defaults it takes from 15 minutes to 2 hours.

    Celery's own health check takes 20 seconds. Not every system knows all of these options.
    """
    wanted = {
        "TCP_KEEPIDLE": SILENCE_SECONDS,
        "TCP_KEEPINTVL": SILENCE_SECONDS,
        "TCP_KEEPCNT": 2,
        "TCP_USER_TIMEOUT": SILENCE_SECONDS * 1000,  # for what was sent and is not acknowledged
    }
    return {getattr(socket, name): n for name, n in wanted.items() if hasattr(socket, name)}


class Publisher:
    """Sends messages on connections of its own; may be shared by the threads of one process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._app: Celery | None = None

    def publish(self, messages: Iterable[ChunkMessage]) -> int:
        """Send every message and return how many were sent.

        Raises ServiceUnavailableError at the first failure and leaves the rest unsent: sweep
        publishes again what SQL says is dispatched. Some of what failed may have arrived.
        """
        waiting = list(messages)
        if not waiting:
            return 0
        app = self._application()
        with (
            _broker_errors(self._settings, _KEPT),
            app.producer_pool.acquire(block=True) as producer,
            producer.batch(max_size=PIPELINE_MESSAGES),
        ):
            for message in waiting:
                _send(app, producer, message)
        return len(waiting)

    def close(self) -> None:
        """Close every connection; the next publish opens new ones."""
        with self._lock:
            app, self._app = self._app, None
        if app is not None:
            app.close()

    def _application(self) -> Celery:
        with self._lock:
            if self._app is None:
                self._app = make_celery(self._settings, for_worker=False)
            return self._app


def _send(app: Celery, producer: Any, message: ChunkMessage) -> None:
    app.send_task(
        TASK_NAME,
        args=[message.chunk_id, message.attempt],
        queue=message.routing_queue,
        # Nothing is declared: a direct message goes to the list of that name, bound or not.
        declare=[],
        # Celery sends the id three times and an address for replies: 144 bytes by default.
        task_id=f"{message.chunk_id}.{message.attempt}",
        reply_to="-",
        ignore_result=True,
        add_to_parent=False,
        retry=False,
        producer=producer,
    )


def served_queues(queues: Sequence[str]) -> tuple[str, ...]:
    """The named queues, then ``default``: every worker takes work that is meant for any."""
    return tuple(dict.fromkeys([*queues, DEFAULT_QUEUE]))


def worker_queues(queues: Sequence[str]) -> list[str]:
    """The Celery queues of a worker in the order it empties them.

    All of them at high priority, then at normal, then at low.
    """
    names = served_queues(queues)
    return [queue_name(name, priority) for priority in Priority for name in names]


def queue_lengths(settings: Settings, names: Sequence[str]) -> dict[str, int]:
    """How many messages wait in each of these Celery queues (see ``core.messages.queue_name``)."""
    with _broker_errors(settings), _client(settings) as client:
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.llen(name)
        return dict(zip(names, (int(length) for length in pipeline.execute()), strict=True))


def ping(settings: Settings) -> str:
    """Name and version of the broker's server, such as ``valkey 9.1.0``.

    Raises ServiceUnavailableError that tells a server that does not answer from a wrong password
    and from something that is no Redis server.
    """
    with _broker_errors(settings), _client(settings) as client:
        client.ping()
        info = client.info("server")
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info.get('redis_version', '(unknown version)')}"


_KEPT = "; the work is kept in the database and is sent once the broker answers"


def _client(settings: Settings) -> redis.Redis:
    """A client for one question: short timeouts, no retry."""
    url = settings.effective_broker_url
    options: dict[str, Any] = {
        "socket_timeout": PUBLISH_TIMEOUT_SECONDS,
        "socket_connect_timeout": PUBLISH_CONNECT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    if url.startswith("sentinel:"):
        return _sentinel_client(url, options)
    return redis.Redis.from_url(redis_url(kombu_url(url)), **options)


def _sentinel_client(url: str, options: dict[str, Any]) -> redis.Redis:
    parts = [urlsplit(part) for part in url.split(";")]
    hosts = [(part.hostname or "127.0.0.1", part.port or 26379) for part in parts]
    first = parts[0]
    login = {
        "username": unquote(first.username) if first.username else None,
        "password": unquote(first.password) if first.password else None,
        "db": int(first.path.strip("/") or 0),
    }
    master: redis.Redis = Sentinel(hosts, **options).master_for(_master_name(url), **login)
    return master


def _master_name(url: str) -> str:
    """Of ``sentinel://host:26379?master_name=mymaster``, where kombu reads only an option."""
    for part in url.split(";"):
        name = dict(parse_qsl(urlsplit(part).query)).get("master_name")
        if name:
            return name
    raise ConfigurationError(
        f"TEXTMILL_BROKER_URL={redacted_url(url)!r} names no master; expected "
        "sentinel://host:26379?master_name=NAME"
    )


def kombu_url(url: str) -> str:
    """The URL as kombu understands it: ``unix://`` becomes ``redis+socket://``.

    ``rediss://`` verifies certificates unless the URL says otherwise; kombu's own default does not.
    Raises ConfigurationError for any other scheme.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme not in BROKER_SCHEMES:
        raise ConfigurationError(
            f"TEXTMILL_BROKER_URL={redacted_url(url)!r} has the scheme {parts.scheme!r}; "
            f"expected one of: {', '.join(scheme + '://' for scheme in BROKER_SCHEMES)}"
        )
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in query:
        query["ssl_cert_reqs"] = "required"
    elif parts.scheme == "sentinel":
        return ";".join(part.partition("?")[0] for part in url.split(";"))
    elif parts.scheme == "unix":
        netloc = parts.netloc
        if "password" in query:
            user = quote(query.pop("username", ""), safe="")
            netloc = f"{user}:{quote(query.pop('password'), safe='')}@"
        query = {"virtual_host": query.pop("db", "0"), **query}
        parts = parts._replace(scheme="redis+socket", netloc=netloc)
    else:
        return url
    return _unsplit(parts, urlencode(query))


def redis_url(url: str) -> str:
    """A URL of kombu's as redis-py understands it."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "redis+socket":
        query["db"] = query.pop("virtual_host", "0").strip("/") or "0"
        parts = parts._replace(scheme="unix")
    if "ssl_cert_reqs" in query:
        query["ssl_cert_reqs"] = query["ssl_cert_reqs"].lower().removeprefix("cert_")
    return _unsplit(parts, urlencode(query))


def redacted_url(url: str) -> str:
    """The URL without its password, for messages and logs."""
    return ";".join(_redact(part) for part in url.split(";"))


def _redact(url: str) -> str:
    # Before it is parsed: a password with "#", "/" or "?" in it ends the host too early.
    url = re.sub(r"(://[^:@/]*:).*@", r"\1***@", url)
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    query = [(key, "***" if key == "password" else value) for key, value in parse_qsl(parts.query)]
    hidden = parts._replace(netloc=f"{user}{colon}{'***' if colon else ''}{at}{host}")
    return _unsplit(hidden, urlencode(query, safe="*/"))


def _unsplit(parts: SplitResult, query: str) -> str:
    """As ``urlunsplit``, which drops the slashes before a socket's path."""
    return f"{parts.scheme}://{parts.netloc}{parts.path}{'?' if query else ''}{query}"


@contextmanager
def _broker_errors(settings: Settings, then: str = "") -> Iterator[None]:
    """Turn what redis-py and kombu raise into one ServiceUnavailableError for a person."""
    try:
        yield
    except _BROKER_ERRORS as error:
        bundled = "bundled " if settings.embedded_broker else ""
        where = redacted_url(settings.effective_broker_url)
        problem = _explain(error, settings)
        raise ServiceUnavailableError(f"the {bundled}broker {where} {problem}{then}") from error


def _explain(error: BaseException, settings: Settings) -> str:
    """What the broker did wrong and what to do, in words.

    redis-py's error lies below kombu's wrappers, as their cause.
    """
    cause = error
    while isinstance(cause, KombuError) and cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).rstrip(".")
    if isinstance(cause, redis_errors.AuthenticationError) or text.startswith("NOAUTH"):
        return f"refuses the login ({text}): check the password in TEXTMILL_BROKER_URL"
    if isinstance(cause, redis_errors.OutOfMemoryError) or text.startswith("OOM"):
        return f"is full ({text}): raise its maxmemory, or wait until workers have emptied it"
    if isinstance(cause, redis_errors.InvalidResponse):
        return f"is not a Redis server (it answered {text[:80]!r}): check TEXTMILL_BROKER_URL"
    if isinstance(cause, redis_errors.ResponseError):
        return f"refuses the command: {text}"
    start = "start it with `textmill up`" if settings.embedded_broker else "start it"
    other = "or set TEXTMILL_BROKER_URL to another"
    if isinstance(cause, redis_errors.TimeoutError | TimeoutError):
        silent = f"does not answer within {PUBLISH_TIMEOUT_SECONDS:g} s"
        # redis-py has one class for both; this is its message about a connection that is open.
        if text.startswith("Timeout reading"):
            return f"{silent}, though it takes connections: it hangs; restart it, {other}"
        return f"{silent}: {start}, {other}"
    return f"cannot be reached ({text}): {start}, {other}"
