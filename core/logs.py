"""Log lines of long-running processes: one line an event, on stderr, as text or JSON.

No text of a record is logged, but at debug: there an unexpected error is shown with its message,
which may quote one. Elsewhere it is its kind, and the places in the code that it passed.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

from textmill.core.printable import printable_event
from textmill.core.settings import Settings

CHATTY = ("celery.worker.strategy", "celery.app.trace", "amqp", "kombu", "urllib3", "filelock")

ACKNOWLEDGER = "celery.worker.request"  # whose logger kombu's Message.ack_log_error is handed


class UnacknowledgedFilter(logging.Filter):
    """Makes one line of kombu's traceback about a message that could not be acknowledged.

    That happens at a broker that hangs or goes away, and is no failure: the message is done by the
    claim that follows, and one that comes again claims nothing. All else passes unchanged.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True; rewrites that one event."""
        if record.msg == "Couldn't ack %r, reason:%r":
            tag, reason = record.args if isinstance(record.args, tuple) else ("", "")
            record.msg = "message not acknowledged, which does no harm: %s (%s)"
            record.args = (str(reason), str(tag))
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


MOST_CAUSES = 10  # of one error; contexts may lead in a circle


def format_error(logger: Any, name: str, event: MutableMapping[str, Any]) -> Any:
    """A processor: of an exception its kind and its frames, and no message."""
    info = event.pop("exc_info", None)
    error = info[1] if isinstance(info, tuple) else info
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = "".join(_frames(error, MOST_CAUSES))
    return event


def _frames(error: BaseException, causes: int) -> list[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = []
    if before is not None and causes:
        lines = [*_frames(before, causes - 1), "\nand from there\n"]
    lines += ["Traceback (most recent call last):\n", *traceback.format_tb(error.__traceback__)]
    return [*lines, f"{type(error).__name__} (TEXTMILL_LOG_LEVEL=debug shows its message)"]


def configure_logging(settings: Settings) -> None:
    """Send the standard library's and structlog's events through one formatter to stderr."""
    debug = settings.log_level == "debug"
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if debug else format_error,
        printable_event,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    acknowledger = logging.getLogger(ACKNOWLEDGER)
    if not any(isinstance(known, UnacknowledgedFilter) for known in acknowledger.filters):
        acknowledger.addFilter(UnacknowledgedFilter())
    for name in CHATTY:  # they log each message, and with it the name of each task
        logging.getLogger(name).setLevel(logging.WARNING)
