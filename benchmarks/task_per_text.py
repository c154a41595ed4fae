"""What fixed_cost compares with: one Celery task per text, whose result is one INSERT.

Written as one would by hand: the text travels in the message, the worker keeps a connection open,
each task commits its row.
"""

from __future__ import annotations

import os

from celery import Celery
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert

from textmill.db.session import Database

app = Celery("task_per_text", broker=os.environ.get("BENCHMARK_BROKER_URL"))
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=64)

metadata = MetaData()
rows = Table(
    "task_per_text",
    metadata,
    Column("record_index", Integer, primary_key=True, autoincrement=False),
    Column("text", Text),
    Column("label", Text),
)
_open: list[Database] = []


@app.task(name="classify_text", ignore_result=True)  # type: ignore[untyped-decorator]
def classify_text(index: int, text: str) -> None:
    """Do nothing with the text and store that."""
    if not _open:
        _open.append(Database(os.environ["BENCHMARK_DATABASE_URL"]))
    with _open[0].write() as connection:
        connection.execute(insert(rows).values(record_index=index, text=text, label="none"))
