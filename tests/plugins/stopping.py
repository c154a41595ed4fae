"""The fake task, in a worker that stands still inside its first completing transaction.

Loaded through TEXTMILL_PLUGINS. The worker stops itself (SIGSTOP) right after the fence, before the
results are written, and notes its process id in the file STOP_NOTE; once while there is that file.
With STOP_SUPERVISOR its supervisor stops too, so that nobody on its host can end it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import fake_tasks  # noqa: F401 - registers the task
from sqlalchemy import Engine, event


@event.listens_for(Engine, "after_cursor_execute")
def stop_after_the_fence(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
) -> None:
    """SIGSTOP between the fence and the results."""
    values = parameters.values() if isinstance(parameters, dict) else parameters
    if not statement.startswith("UPDATE chunks") or "done" not in values:
        return
    note = Path(os.environ["STOP_NOTE"])
    try:
        note.touch(exist_ok=False)
    except FileExistsError:
        return  # another did
    note.write_text(f"{os.getpid()} {os.getppid()}")
    if "STOP_SUPERVISOR" in os.environ:
        os.kill(os.getppid(), signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
