"""The bundled Valkey server: shared, kept, adopted, restarted, and ended when unused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis

from textmill.core.broker import Publisher, ping, queue_lengths
from textmill.core.embedded import EmbeddedServices, is_running, stop
from textmill.core.errors import ServiceUnavailableError
from textmill.core.locks import is_free, read_holder
from textmill.core.messages import ChunkMessage
from textmill.core.settings import Settings, load_settings

from ..servers import alive, wait_until

# A command that needs the services until its standard input is closed.
COMMAND = """
import sys
from textmill.core.embedded import EmbeddedServices, answers
from textmill.core.settings import load_settings
settings = load_settings()
with EmbeddedServices(settings, idle_seconds=0.5):
    print("up", answers(settings.socket_path), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def embedded(home: Path) -> Iterator[Settings]:
    """Settings with the bundled server, which is not running."""
    settings = load_settings()
    yield settings
    if home.is_dir():
        stop(settings)
        assert not is_running(settings)


@pytest.fixture
def other_runtime_dir() -> Iterator[str]:
    """Another XDG_RUNTIME_DIR, with a path short enough to be used."""
    with tempfile.TemporaryDirectory(prefix="tm-") as folder:
        yield folder


def services(settings: Settings) -> EmbeddedServices:
    return EmbeddedServices(settings, idle_seconds=0.5)


def command(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def keeper_pid(settings: Settings) -> int:
    return int(read_holder(settings.home / "keeper.lock")["pid"])


def server_pid(settings: Settings) -> int:
    """What the server that answers says of itself."""
    with redis.Redis(unix_socket_path=str(settings.socket_path)) as client:
        return int(client.info("server")["process_id"])


def servers_of(settings: Settings) -> list[int]:
    """All server processes on this data folder's socket, by the machine's process list."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if str(settings.socket_path).encode() in line and b"valkey-server" in line:
            found.append(int(folder.name))
    return found


def test_commands_share_one_server_that_ends_after_the_last_of_them(embedded: Settings) -> None:
    with services(embedded):
        first = server_pid(embedded)
        with services(embedded):
            # Given two commands in one data folder, I expect one server
            assert server_pid(embedded) == first
        # If one of them leaves, and longer than the idle time passes, I expect the server to stay
        with pytest.raises(AssertionError):
            wait_until(lambda: not alive(first), 1.5)
    # If the last leaves, I expect server, keeper and socket to go
    wait_until(lambda: not alive(first), what="ended")
    wait_until(lambda: is_free(embedded.home / "keeper.lock"), what="without a keeper")
    assert not embedded.socket_path.exists()


def test_next_command_within_the_idle_time_finds_the_same_server(embedded: Settings) -> None:
    with EmbeddedServices(embedded, idle_seconds=30):
        first = server_pid(embedded)
    # Given a keeper that had time to see that nobody is there
    with pytest.raises(AssertionError):
        wait_until(lambda: not alive(first), 2.5)
    with services(embedded):
        assert server_pid(embedded) == first


def test_messages_pass_through_the_bundled_server(embedded: Settings) -> None:
    message = ChunkMessage(chunk_id=1, attempt=1, queue="default", priority="low")
    publisher = Publisher(embedded)
    with services(embedded):
        assert publisher.publish([message]) == 1
        assert queue_lengths(embedded, [message.routing_queue]) == {message.routing_queue: 1}
        assert ping(embedded).startswith("valkey 9")
    publisher.close()


def test_server_is_private(embedded: Settings) -> None:
    with services(embedded), redis.Redis(unix_socket_path=str(embedded.socket_path)) as client:
        # I expect no TCP port, nothing written to disk, and a folder for this user only
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert embedded.runtime_dir.stat().st_mode & 0o077 == 0


def test_server_that_outlived_its_keeper_is_adopted(embedded: Settings) -> None:
    with services(embedded):
        server, keeper = server_pid(embedded), keeper_pid(embedded)
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: not alive(keeper))
        # If a keeper was killed, I expect the next command to take its server over
        with services(embedded):
            assert server_pid(embedded) == server
            assert keeper_pid(embedded) != keeper
            assert servers_of(embedded) == [server]
    # ... and the new keeper to end it
    wait_until(lambda: not alive(server), what="ended by its new keeper")


def test_killed_server_is_restarted(embedded: Settings) -> None:
    with services(embedded):
        first = server_pid(embedded)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not alive(first))
        wait_until(lambda: is_running(embedded), what="restarted")
        assert server_pid(embedded) != first


def test_keeper_and_server_killed(embedded: Settings) -> None:
    with services(embedded):
        keeper, server = keeper_pid(embedded), server_pid(embedded)
        os.kill(keeper, signal.SIGKILL)
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: not alive(server))
        assert embedded.socket_path.exists()  # stale: nobody was left to remove it
        with services(embedded) as again:
            assert is_running(embedded)
            again.ensure()
            assert len(servers_of(embedded)) == 1


def test_commands_that_start_at_once_share_one_server(embedded: Settings) -> None:
    running = [command() for _ in range(8)]
    outputs = [process.stdout.readline() for process in running if process.stdout]
    found = servers_of(embedded)
    for process in running:
        process.communicate()
    assert outputs == ["up True\n"] * 8
    assert len(found) == 1
    wait_until(lambda: not servers_of(embedded), what="ended")


def test_commands_that_come_and_go_always_have_a_server(embedded: Settings) -> None:
    # Given an idle time so short that the server is always about to end
    for _ in range(12):
        with EmbeddedServices(embedded, idle_seconds=0.05):
            assert is_running(embedded)
            with pytest.raises(AssertionError):
                wait_until(partial(lambda pid: not alive(pid), server_pid(embedded)), 0.2)


def test_killed_command_does_not_keep_the_server(embedded: Settings) -> None:
    process = command()
    assert process.stdout and process.stdin
    assert process.stdout.readline() == "up True\n"
    process.kill()
    process.communicate()
    wait_until(lambda: not servers_of(embedded), what="ended")


def test_commands_with_other_runtime_folders_share_one_server(
    embedded: Settings, other_runtime_dir: str
) -> None:
    with services(embedded):
        process = command(XDG_RUNTIME_DIR=other_runtime_dir)
        assert process.stdout and process.stdin
        assert process.stdout.readline() == "up True\n"
        # I expect its socket to lead to the one server
        (link,) = Path(other_runtime_dir).glob("*/valkey.sock")
        assert link.readlink() == embedded.socket_path
        assert len(servers_of(embedded)) == 1
        process.communicate()


def test_adopted_server_stays_where_its_commands_look_for_it(
    embedded: Settings, other_runtime_dir: str
) -> None:
    with services(embedded):
        server, keeper = server_pid(embedded), keeper_pid(embedded)
        os.kill(keeper, signal.SIGKILL)
        wait_until(lambda: not alive(keeper))
        # If the new keeper is started by a command that expects the socket elsewhere
        process = command(XDG_RUNTIME_DIR=other_runtime_dir)
        assert process.stdout and process.stdin
        assert process.stdout.readline() == "up True\n"
        # I expect it to watch the old server on the old socket
        assert read_holder(embedded.home / "keeper.lock")["socket"] == str(embedded.socket_path)
        assert servers_of(embedded) == [server]
        process.communicate()


def test_keeper_ends_with_its_data_folder(embedded: Settings) -> None:
    with services(embedded):
        keeper, server = keeper_pid(embedded), server_pid(embedded)
        shutil.rmtree(embedded.home)
        wait_until(lambda: not alive(keeper) and not alive(server), what="ended")
    shutil.rmtree(embedded.runtime_dir)


def test_long_path_of_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTMILL_HOME", str(tmp_path / ("long" * 30) / "x y"))
    settings = load_settings()
    with services(settings):
        assert is_running(settings)
    stop(settings)


def test_data_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TEXTMILL_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(ServiceUnavailableError, match=r"file/home.*TEXTMILL_HOME"):
        EmbeddedServices(load_settings()).__enter__()


def test_socket_folder_that_others_can_enter_is_refused(embedded: Settings) -> None:
    embedded.runtime_dir.mkdir()
    embedded.runtime_dir.chmod(0o777)
    with pytest.raises(ServiceUnavailableError, match="only this user"):
        services(embedded).__enter__()
    embedded.runtime_dir.rmdir()


def test_server_that_does_not_start_is_explained(
    embedded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textmill.core.embedded.START_SECONDS", 4.0)
    (embedded.home / "logs").mkdir()
    (embedded.home / "logs" / "valkey.log").mkdir()  # the server cannot open its log
    with pytest.raises(ServiceUnavailableError, match=r"(?s)did not answer.*keeper\.log.*log file"):
        services(embedded).__enter__()


def test_nothing_is_started_with_a_broker_url(home: Path) -> None:
    settings = load_settings(broker_url="redis://127.0.0.1:1/0")
    with EmbeddedServices(settings):
        assert not is_running(settings)
    assert list(home.iterdir()) == []
