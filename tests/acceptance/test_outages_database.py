"""A database that goes away, ends sessions or refuses writes, while a job is under way."""

from __future__ import annotations

import pytest

from ..servers import PostgresServer
from .conftest import FAKE, Shell, assert_user_error
from .load import Load, worker_pids


def _end(how: str, server: PostgresServer) -> None:
    {"fast": server.stop, "immediate": server.crash}[how]()


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_database_that_is_stopped_under_load(
    database_shell: Shell, own_postgres: PostgresServer, how: str
) -> None:
    database_shell.start_worker("--devices", "cpu,cpu")
    pids = worker_pids(database_shell, 2)
    load = Load(database_shell, 1000)  # more than is done before the server has stopped
    load.wait_for_results()
    _end(how, own_postgres)
    database_shell.wait_for_log("to=database")
    own_postgres.start()
    load.assert_complete()
    log = database_shell.log()
    assert "going on" in log
    assert "Traceback" not in log
    assert worker_pids(database_shell, 2) == pids, "the same processes went on"


def test_sessions_that_the_database_ends_under_load(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    database_shell.start_worker("--devices", "cpu,cpu")
    load = Load(database_shell, 1000)  # more than is done in ten rounds on a busy machine
    for _ in range(10):
        load.wait_for_results()
        assert own_postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'textmill worker'"
        )
    load.assert_complete()
    assert "Traceback" not in database_shell.log()


def _make_read_only(server: PostgresServer, value: str) -> None:
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    server.execute("SELECT pg_reload_conf()")


def test_a_database_that_takes_no_writes_for_a_while(
    database_shell: Shell, own_postgres: PostgresServer
) -> None:
    database_shell.start_worker()
    load = Load(database_shell)
    load.wait_for_results()
    _make_read_only(own_postgres, "on")
    database_shell.wait_for_log("to=database")
    texts = database_shell.write("other.txt", "a\n")
    done = database_shell.run("submit", texts, *FAKE)
    assert_user_error(done, "takes no writes", "read-only", code=1)
    assert done.stderr.count("\n") == 1
    _make_read_only(own_postgres, "off")
    load.assert_complete()
    assert len(database_shell.rows("jobs")) == 1
    assert "Traceback" not in database_shell.log()
