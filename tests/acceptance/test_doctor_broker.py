"""``textmill doctor`` beside a broker that takes connections and says nothing."""

from __future__ import annotations

import os
import signal

from textmill.core import embedded
from textmill.core.embedded import EmbeddedServices
from textmill.core.locks import read_holder
from textmill.core.settings import load_settings

from ..servers import ValkeyServer
from .conftest import Shell


def test_a_broker_that_hangs_is_shown_as_such(
    broker_shell: Shell, own_valkey: ValkeyServer
) -> None:
    assert broker_shell.run("db", "upgrade").returncode == 0
    own_valkey.pause()
    done = broker_shell.run("doctor")
    own_valkey.unpause()
    assert done.returncode == 1
    (wrong,) = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert "broker" in wrong
    assert "does not answer within 2 s, though it takes connections: it hangs" in wrong
    own_valkey.kill()
    assert "cannot be reached" in broker_shell.run("doctor").stdout


def test_the_bundled_broker_that_hangs_is_not_called_absent(shell: Shell) -> None:
    settings = load_settings(home=shell.env["TEXTMILL_HOME"])
    with EmbeddedServices(settings):
        assert not embedded.hangs(settings)
        pid = read_holder(settings.home / "server.lock")["pid"]
        os.kill(pid, signal.SIGSTOP)
        done = shell.run("doctor")
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 1
    (wrong,) = [line for line in done.stdout.splitlines() if line.startswith("WRONG")]
    assert "bundled Valkey takes connections" in wrong
    assert "it hangs" in wrong
