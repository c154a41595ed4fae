"""Indexes of scores and ids by blocks of records: each write then changes few of their pages.

The index of scores now finds the records of a label too.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# As in 0001. A query that says nothing of the block must not make SQLite pass over that column:
# of a join 3.40 then finds nothing, by a wrong Bloom filter over the expression.
# https://www.sqlite.org/optoverview.html#skipscan
STATISTICS = [
    ("ix_results_score", "1000000 50000 16000 6000 10 1 noskipscan"),
    ("ix_results_record_id", "1000000 50000 4000 1 noskipscan"),
]


def upgrade() -> None:
    for name in ("ix_results_label", "ix_results_score", "ix_results_record_id"):
        op.drop_index(name, "results")
    op.create_index(
        "ix_results_score",
        "results",
        ["job_id", sa.text("(record_index >> 16)"), "label", sa.text("score DESC"), "record_index"],
    )
    op.create_index(
        "ix_results_record_id",
        "results",
        ["job_id", sa.text("(record_index >> 12)"), "record_id"],
    )
    if op.get_bind().dialect.name == "sqlite":
        for name, stat in STATISTICS:
            op.execute(f"INSERT INTO sqlite_stat1 VALUES ('results', '{name}', '{stat}')")
        op.execute("ANALYZE sqlite_schema")  # for this connection to read them
