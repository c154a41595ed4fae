"""``textmill sweep``: one round of repairs, as every worker does on a timer."""

from __future__ import annotations

from textmill.producer.cli import options as o
from textmill.producer.cli.context import open_context
from textmill.producer.terminal import emit_json, say


def sweep(json: o.Json = False) -> None:
    """Repair now: stalled chunks, lost messages, dead submissions. Harmless at any time.

    \b
    Example:
      textmill sweep
    """
    from textmill.db.sweep import sweep_and_publish

    with open_context() as context:
        report = sweep_and_publish(context.database, context.settings, context.publisher)
        if json:
            emit_json(report)
            return
        say(
            f"{report.stalled} stalled chunks released, {report.republished} messages published "
            f"again, {len(report.messages) - report.republished} chunks dispatched, "
            f"{len(report.dead_loads)} dead submissions removed"
        )
        if report.unpublished:
            say(f"note: not published yet: {report.unpublished}")
