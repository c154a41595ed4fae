"""Run text models over large batches: jobs in SQL, chunks through Redis, results in SQL.

from textmill import submit

job = submit("comments.csv", task="classification", model="./spam-model", text_column="body")
job.wait()
for row in job.results(label="spam", min_score=0.9):
    print(row.record_id, row.text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textmill.core.errors import InvalidJobError, ServiceUnavailableError, TextmillError
    from textmill.producer.api import Job, results, sql, submit

__all__ = [
    "InvalidJobError",
    "Job",
    "ServiceUnavailableError",
    "TextmillError",
    "results",
    "sql",
    "submit",
]


def __getattr__(name: str) -> Any:
    # Imported at first use: `import textmill.core` must not pay for SQL and Celery.
    if name.endswith("Error") and name in __all__:
        from textmill.core import errors

        return getattr(errors, name)
    if name in __all__:
        from textmill.producer import api

        return getattr(api, name)
    raise AttributeError(f"module 'textmill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
