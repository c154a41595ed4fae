"""A broker that goes away, hangs or loses what it holds, while a job is under way."""

from __future__ import annotations

import time

import pytest

from textmill.core.broker import make_celery, worker_queues
from textmill.core.settings import load_settings

from ..servers import ValkeyServer, wait_until
from .conftest import Shell
from .load import Load, worker_pids


def _is_idle(shell: Shell) -> bool:
    return all(chunk["status"] != "running" for chunk in shell.rows("chunks"))


@pytest.mark.parametrize("until_idle", [False, True], ids=["busy", "until idle"])
def test_a_broker_that_is_killed_under_load(
    broker_shell: Shell, own_valkey: ValkeyServer, until_idle: bool
) -> None:
    broker_shell.start_worker()
    load = Load(broker_shell)
    load.wait_for_results()
    own_valkey.kill()
    if until_idle:
        wait_until(lambda: _is_idle(broker_shell), 30, what="idle")
    own_valkey.start()
    load.assert_complete()


def test_idle_workers_go_on_after_a_restart_of_the_broker(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    broker_shell.start_worker("--devices", "cpu,cpu")
    Load(broker_shell, 40).assert_complete()
    own_valkey.restart()
    loads = [Load(broker_shell, 40) for _ in range(3)]
    for load in loads:
        load.assert_complete()


def test_a_running_job_survives_the_loss_of_all_messages(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    broker_shell.start_worker()
    load = Load(broker_shell)
    for _ in range(3):
        load.wait_for_results()
        own_valkey.flush()
    load.assert_complete()


def test_connections_that_the_broker_cuts_under_load(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    broker_shell.start_worker("--devices", "cpu,cpu")
    load = Load(broker_shell, 400)
    for _ in range(4):
        load.wait_for_results()
        with own_valkey.client() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    load.assert_complete()


def test_a_broker_that_hangs_under_load(broker_shell: Shell, own_valkey: ValkeyServer) -> None:
    """It hangs for longer than any of our time-outs, and until a worker has said so."""
    broker_shell.start_worker()
    load = Load(broker_shell)
    load.wait_for_results()
    own_valkey.pause()
    broker_shell.wait_for_log("does not answer within")
    hung = time.monotonic()
    wait_until(lambda: time.monotonic() - hung > 6, what="hung for longer than any time-out")
    own_valkey.unpause()
    load.assert_complete()
    assert "Traceback" not in broker_shell.log()


def test_a_worker_that_is_connected_and_consumes_nothing_is_replaced(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    """It looks alive in every other way: it heartbeats, sweeps and answers the broker."""
    broker_shell.start_worker("--slots", "2")
    before = worker_pids(broker_shell, 1)
    settings = load_settings(broker_url=own_valkey.url)
    app = make_celery(settings, for_worker=False)
    for name in worker_queues(["default"]):
        app.control.cancel_consumer(name, reply=True, timeout=5)
    load = Load(broker_shell)
    load.assert_complete()
    assert worker_pids(broker_shell, 1).isdisjoint(before)
    assert "messages wait, and none arrives" in broker_shell.log()
    app.close()
