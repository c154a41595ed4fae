"""The broker, real: what is published arrives, and what is wrong with it is said in words."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kombu import Connection, Consumer, Queue

from textmill.core.broker import (
    Publisher,
    kombu_url,
    make_celery,
    ping,
    queue_lengths,
    redacted_url,
    redis_url,
    worker_queues,
)
from textmill.core.errors import ConfigurationError, ServiceUnavailableError
from textmill.core.messages import TASK_NAME, ChunkMessage, queue_name
from textmill.core.settings import Settings

from ..servers import PASSWORD, ValkeyServer, free_port

MakeSettings = Callable[..., Settings]
NORMAL = queue_name("default", "normal")


def messages(count: int, *, priority: str = "normal", queue: str = "default") -> list[ChunkMessage]:
    return [ChunkMessage(chunk_id, 1, queue, priority) for chunk_id in range(count)]


@pytest.fixture
def publisher(settings: MakeSettings, broker_url: str) -> Iterator[Publisher]:
    """A publisher to an empty broker."""
    publisher = Publisher(settings(broker_url=broker_url))
    yield publisher
    publisher.close()


@contextmanager
def listener(answer: bytes | None) -> Iterator[str]:
    """Something that listens, and says ``answer`` to whoever speaks first, or nothing ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer or b"")

        thread = threading.Thread(target=serve) if answer else None
        if thread:
            thread.start()
        yield f"redis://:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}/0"
        if thread:
            thread.join()


def test_each_priority_has_its_own_list(
    publisher: Publisher, settings: MakeSettings, broker_url: str
) -> None:
    # Given messages of two priorities, for queues that no worker has declared
    assert publisher.publish([*messages(3, priority="high"), *messages(2, priority="low")]) == 5
    high, low = queue_name("default", "high"), queue_name("default", "low")
    # I expect them in the lists of those names, and zero for a list that does not exist
    lengths = queue_lengths(settings(broker_url=broker_url), [high, low, "textmill.no.normal"])
    assert lengths == {high: 3, low: 2, "textmill.no.normal": 0}


def test_nothing_is_published_for_nothing(settings: MakeSettings) -> None:
    # If there is nothing to send, I expect no connection
    assert Publisher(settings(broker_url="redis://127.0.0.1:1/0")).publish([]) == 0


def test_message_carries_a_chunk_and_an_attempt_and_little_else(
    publisher: Publisher, valkey: ValkeyServer, broker_url: str
) -> None:
    publisher.publish([ChunkMessage(chunk_id=123456789, attempt=3, queue="gpu", priority="low")])
    with valkey.client() as client:
        (key,) = client.keys()  # no bindings, nothing but the list
        assert len(client.lindex(key, 0)) < 900
    with Connection(broker_url) as connection, connection.SimpleQueue(key.decode()) as queue:
        message = queue.get(timeout=5)
        message.ack()
    assert message.payload[0] == [123456789, 3]
    assert message.headers["task"] == TASK_NAME
    assert message.headers["ignore_result"] is True


def test_worker_empties_its_queues_in_order(
    publisher: Publisher, settings: MakeSettings, broker_url: str
) -> None:
    # Given one message of each priority for two queues, sent in the wrong order
    for priority in ("low", "normal", "high"):
        for queue in ("default", "gpu"):
            publisher.publish(messages(1, priority=priority, queue=queue))
    app = make_celery(settings(broker_url=broker_url), for_worker=True)
    names = worker_queues(["gpu"])
    arrived: list[str] = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        channel.basic_qos(0, 1, False)

        def on_message(message: object) -> None:
            arrived.append(message.delivery_info["routing_key"])  # type: ignore[attr-defined]
            message.ack()  # type: ignore[attr-defined]

        queues = [Queue(name, exchange="", routing_key=name) for name in names]
        with Consumer(channel, queues, on_message=on_message, auto_declare=False):
            while len(arrived) < 6:
                connection.drain_events(timeout=5)
    app.close()
    assert arrived == names
    assert names[:3] == ["textmill.gpu.high", "textmill.default.high", "textmill.gpu.normal"]


@pytest.mark.parametrize(
    ("named", "order"),
    [
        ([], ["default"]),
        (["gpu", "cpu"], ["gpu", "cpu", "default"]),
        (["default", "gpu", "gpu"], ["default", "gpu"]),
    ],
)
def test_default_comes_last_unless_it_is_named(named: list[str], order: list[str]) -> None:
    expected = [f"textmill.{name}.{level}" for level in ("high", "normal", "low") for name in order]
    assert worker_queues(named) == expected


def test_threads_may_share_a_publisher(
    publisher: Publisher, settings: MakeSettings, broker_url: str
) -> None:
    threads = [threading.Thread(target=publisher.publish, args=[messages(50)]) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue_lengths(settings(broker_url=broker_url), [NORMAL]) == {NORMAL: 600}


def test_publisher_works_again_when_the_broker_is_back(
    settings: MakeSettings, own_valkey: ValkeyServer
) -> None:
    now = settings(broker_url=own_valkey.url)
    publisher = Publisher(now)
    publisher.publish(messages(1))
    own_valkey.kill()
    # If the broker dies, I expect an error that says what happens to the work
    with pytest.raises(ServiceUnavailableError, match="kept in the database"):
        publisher.publish(messages(300))
    own_valkey.start()
    assert publisher.publish(messages(2)) == 2
    assert queue_lengths(now, [NORMAL]) == {NORMAL: 2}
    publisher.close()


@pytest.mark.timeout(30)
def test_broker_that_hangs_in_the_middle(settings: MakeSettings, own_valkey: ValkeyServer) -> None:
    publisher = Publisher(settings(broker_url=own_valkey.url))
    publisher.publish(messages(1))
    own_valkey.pause()
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        publisher.publish(messages(300))
    own_valkey.unpause()
    assert publisher.publish(messages(2)) == 2
    publisher.close()


ASK: dict[str, Callable[[Settings], object]] = {
    "publish": lambda settings: Publisher(settings).publish(messages(2)),
    "ping": ping,
    "queue_lengths": lambda settings: queue_lengths(settings, [NORMAL]),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_broker_that_is_not_there(settings: MakeSettings, ask: Callable[..., object]) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
    with pytest.raises(ServiceUnavailableError, match="cannot be reached") as caught:
        ask(settings(broker_url=url))
    assert redacted_url(url) in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_broker_that_never_answers(settings: MakeSettings, ask: Callable[..., object]) -> None:
    with (
        listener(answer=None) as url,
        pytest.raises(ServiceUnavailableError, match="does not answer"),
    ):
        ask(settings(broker_url=url))


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
@pytest.mark.parametrize("login", [":wrong@", "", "nobody:wrong@"])
def test_wrong_password(
    settings: MakeSettings, valkey: ValkeyServer, login: str, ask: Callable[..., object]
) -> None:
    url = f"redis://{login}127.0.0.1:{valkey.port}/0"
    with pytest.raises(ServiceUnavailableError, match="refuses the login") as caught:
        ask(settings(broker_url=url))
    assert "wrong@" not in str(caught.value)


@pytest.mark.parametrize("for_worker", [True, False], ids=["worker", "producer"])
def test_the_kernel_gives_up_a_broker_whose_host_is_silent(
    settings: MakeSettings, broker_url: str, for_worker: bool
) -> None:
    """By its own defaults it would after 15 minutes: a worker would look alive, and get nothing."""
    app = make_celery(settings(broker_url=broker_url), for_worker=for_worker)
    with app.connection() as connection:
        pool = connection.default_channel.client.connection_pool
        one = pool.get_connection()
        try:
            option = one._sock.getsockopt
            assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 10
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert 0 < option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 10_000
        finally:
            pool.release(one)


def test_server_that_is_no_broker(settings: MakeSettings) -> None:
    with (
        listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url,
        pytest.raises(ServiceUnavailableError, match="not a Redis server"),
    ):
        ping(settings(broker_url=url))


def test_full_broker(settings: MakeSettings) -> None:
    with ValkeyServer("--maxmemory", "1mb") as full:
        publisher = Publisher(settings(broker_url=full.url))
        with pytest.raises(ServiceUnavailableError, match="is full"):
            publisher.publish(messages(3000))
        publisher.close()


def test_ping_names_the_server(settings: MakeSettings, broker_url: str) -> None:
    assert ping(settings(broker_url=broker_url)).startswith("valkey 9.")


@pytest.mark.parametrize(
    ("url", "redacted", "for_kombu", "for_redis"),
    [
        ("redis://u:p%40w@h:1/2", "redis://u:***@h:1/2", None, None),
        ("redis://h", "redis://h", None, None),
        ("rediss://:p@h/1", "rediss://:***@h/1", "rediss://:p@h/1?ssl_cert_reqs=required", None),
        (
            "rediss://h/1?ssl_cert_reqs=CERT_NONE",
            "rediss://h/1?ssl_cert_reqs=CERT_NONE",
            None,
            "rediss://h/1?ssl_cert_reqs=none",
        ),
        (
            "unix://:p@/run/x.sock?db=2",
            "unix://:***@/run/x.sock?db=2",
            "redis+socket://:p@/run/x.sock?virtual_host=2",
            "unix://:p@/run/x.sock?db=2",
        ),
        (
            "unix:///run/x.sock?password=p%2Fw",
            "unix:///run/x.sock?password=***",
            "redis+socket://:p%2Fw@/run/x.sock?virtual_host=0",
            "unix://:p%2Fw@/run/x.sock?db=0",
        ),
        (
            "sentinel://:p@a:26379/0?master_name=m;sentinel://b:26379",
            "sentinel://:***@a:26379/0?master_name=m;sentinel://b:26379",
            "sentinel://:p@a:26379/0;sentinel://b:26379",
            None,
        ),
    ],
)
def test_urls(url: str, redacted: str, for_kombu: str | None, for_redis: str | None) -> None:
    assert redacted_url(url) == redacted
    assert kombu_url(url) == (for_kombu or url)
    assert redis_url(kombu_url(url)) == (for_redis or for_kombu or url)


def test_sentinels_are_asked_for_the_named_master(settings: MakeSettings) -> None:
    url = "sentinel://a:26379?master_name=jobs;sentinel://b:26379"
    app = make_celery(settings(broker_url=url), for_worker=True)
    connection = app.connection_for_write()
    assert connection.transport_options["master_name"] == "jobs"
    assert connection.alt == ["sentinel://a:26379", "sentinel://b:26379"]
    with pytest.raises(ConfigurationError, match="master_name"):
        make_celery(settings(broker_url="sentinel://a:26379"), for_worker=True)


def test_url_of_another_kind_of_broker(settings: MakeSettings) -> None:
    with pytest.raises(ConfigurationError, match=r"'amqp'.*redis://") as caught:
        make_celery(settings(broker_url="amqp://u:hidden@h/0"), for_worker=False)
    assert "hidden" not in str(caught.value)
