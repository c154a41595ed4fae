"""What PostgreSQL is told on each connection: time limits for what a client leaves behind."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event

IDLE_SECONDS = 60  # of a command that stands still inside a transaction, stopped by Ctrl-Z say
SILENCE_SECONDS = 10  # of a host that is cut off without a word, until a connection is given up
WORKER_NAME = "textmill worker"
CONNECT_ARGS = {
    "connect_timeout": 5,
    "application_name": "textmill",
    # Keepalives find a silent host only while nothing is under way; what was sent and is not
    # acknowledged the kernel repeats for a quarter of an hour, unless it is told a limit.
    "keepalives_idle": SILENCE_SECONDS,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": SILENCE_SECONDS * 1000,
}


def bound_transactions(engine: Engine, seconds: float | None) -> None:
    """Ask the server to end what a client leaves behind: at once if cut off, else after a time.

    A server of its own accord looks for a lost client after two hours, and holds its locks until
    then; and no time limit of PostgreSQL reaches a COPY that waits for its client's next row: only
    a dead connection, or sweep, ends that.
    """
    silence = SILENCE_SECONDS if seconds is None else max(1, min(SILENCE_SECONDS, int(seconds)))
    options: dict[str, int | str] = {
        "tcp_keepalives_idle": silence,
        "tcp_keepalives_interval": max(1, silence // 2),
        "tcp_keepalives_count": 3,
        "tcp_user_timeout": silence * 1000,
        "idle_in_transaction_session_timeout": IDLE_SECONDS * 1000,
    }
    limit = None if seconds is None else max(500, int(seconds * 1000))

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        wanted = dict(options)
        if limit is not None:
            wanted |= {"lock_timeout": limit, "idle_in_transaction_session_timeout": limit}
            wanted["application_name"] = WORKER_NAME  # by which sweep finds what gets stuck
        if limit is not None and connection.info.server_version >= 170000:
            wanted["transaction_timeout"] = limit
        calls = ", ".join(f"set_config('{name}', '{wanted[name]}', false)" for name in wanted)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {calls}")
        connection.commit()
