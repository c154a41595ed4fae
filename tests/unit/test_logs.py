"""Log lines of workers: kombu's traceback becomes one line, no error shows its message, and nothing
controls a terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from textmill.core.errors import (
    ModelLoadError,
    RecordError,
    ServiceUnavailableError,
    describe_error,
)

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


def _log(what_happens: str, **variables: str) -> str:
    """What a process with a worker's logging writes, by itself: pytest has handlers of its own."""
    command = [sys.executable, "-c", SCRIPT + what_happens]
    env = os.environ | variables
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
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
    text = _log(HOSTILE, TEXTMILL_LOG_LEVEL="debug")
    Screen(columns=200).feed(text)  # it fails at a control character
    for shown in (r"chunk \x1b[2J", r"\x9b31m", r"model \x1b]0;title\x07", r"ValueError: \x1b[31m"):
        assert shown in text, text


QUOTING_ERRORS = """
import logging, structlog

def parse(text):
    raise ValueError(f"no number: {text}")

try:
    try:
        parse("dear Jane")
    except ValueError as error:
        raise KeyError("dear Jane") from error
except KeyError:
    logging.getLogger("plain").exception("it failed")
    structlog.get_logger("ours").exception("it failed too")
    structlog.get_logger("ours").warning("given back", exc_info=True)
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_an_error_is_logged_with_its_places_and_without_its_message(form: str) -> None:
    text = _log(QUOTING_ERRORS, TEXTMILL_LOG_FORMAT=form)
    assert "Jane" not in text
    assert text.count("ValueError (TEXTMILL_LOG_LEVEL=debug shows its message)") == 3
    assert text.count("KeyError (TEXTMILL_LOG_LEVEL=debug shows its message)") == 3
    assert text.count("in parse") == 3  # with what led to it


def test_at_debug_an_error_is_shown_whole() -> None:
    text = _log(QUOTING_ERRORS, TEXTMILL_LOG_LEVEL="debug")
    assert text.count("ValueError: no number: dear Jane") == 3


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_only_errors_that_quote_nothing_are_described_by_their_message() -> None:
    assert describe_error(ModelLoadError("no file")) == "no file"
    assert describe_error(ServiceUnavailableError("no answer")) == "no answer"
    assert describe_error(OSError(28, "No space left on device")).startswith("OSError: [Errno 28]")
    assert describe_error(ValueError("dear Jane")) == "ValueError"
    for error in (ValueError("dear Jane"), RecordError("invalid", "dear Jane")):
        said = describe_error(_raised(error))
        assert said.startswith(f"{type(error).__name__} in test_logs.py, line ")
        assert "Jane" not in said
