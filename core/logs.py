"""Log lines of long-running processes: one line an event, on stderr, as text or JSON.

Texts of records are never logged, at any level.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from textmill.core.settings import Settings

CHATTY = ("celery.worker.strategy", "celery.app.trace", "amqp", "kombu", "urllib3", "filelock")


def configure_logging(settings: Settings) -> None:
    """Send the standard library's and structlog's events through one formatter to stderr."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
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
    for name in CHATTY:  # they log each message, and with it the name of each task
        logging.getLogger(name).setLevel(logging.WARNING)
