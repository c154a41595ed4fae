"""Log lines of workers: kombu's traceback about an acknowledgement becomes one line."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
from celery.worker import request
from kombu.message import Message
from textmill.core.logs import ACKNOWLEDGER, configure_logging
from textmill.core.settings import load_settings

class LostChannel:
    no_ack_consumers = None
    def basic_ack(self, *args, **options):
        raise ConnectionError("the broker hangs")

configure_logging(load_settings())
configure_logging(load_settings())  # as in a worker: before Celery starts, and by its signal
assert request.logger.name == ACKNOWLEDGER
"""
UNACKNOWLEDGED = """
message = Message(channel=LostChannel(), delivery_tag="7")
message.ack_log_error(request.logger, (ConnectionError,))
"""
ANOTHER_ERROR = """
try:
    raise ValueError("something else")
except ValueError:
    request.logger.critical("Couldn't reject %r, reason: %r", 1, "x", exc_info=True)
"""


def _log(what_happens: str) -> str:
    """What a process with a worker's logging writes, by itself: pytest has handlers of its own."""
    command = [sys.executable, "-c", SCRIPT + what_happens]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def test_a_message_that_cannot_be_acknowledged_is_one_line() -> None:
    (line,) = _log(UNACKNOWLEDGED).splitlines()
    assert "[warning" in line
    assert "message not acknowledged" in line
    assert "the broker hangs" in line


def test_other_errors_of_that_logger_keep_their_traceback() -> None:
    text = _log(ANOTHER_ERROR)
    assert "[critical" in text
    assert "Traceback" in text
