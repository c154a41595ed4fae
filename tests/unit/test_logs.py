"""Log lines of workers: one line of kombu's traceback, and nothing that controls a terminal."""

from __future__ import annotations

import subprocess
import sys

from ..screens import Screen

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
HOSTILE = r"""
import logging
import structlog
structlog.get_logger("textmill").warning("chunk \x1b[2J", reason="\x9b31m")
logging.getLogger("elsewhere").error("model %s", "\x1b]0;title\x07")
try:
    raise ValueError("\x1b[31m")
except ValueError:
    logging.getLogger("elsewhere").exception("failed")
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


def test_no_text_in_a_log_controls_the_terminal() -> None:
    text = _log(HOSTILE)
    Screen(columns=200).feed(text)  # it fails at a control character
    for shown in (r"chunk \x1b[2J", r"\x9b31m", r"model \x1b]0;title\x07", r"ValueError: \x1b[31m"):
        assert shown in text, text
