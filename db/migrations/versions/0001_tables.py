"""All tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
AUTO_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

STATISTICS = [  # rows of the index, then rows per value of its first column, of its first two, …
    ("results", "results", "1000000 50000 1"),
    ("results", "ix_results_label", "1000000 60000 6000 100"),
    ("results", "ix_results_record_id", "1000000 60000 1"),
    ("results", "ix_results_error", "10000 1000 500"),
    ("chunks", "ix_chunks_job", "10000 1000 100 1"),
    ("chunks", "ix_chunks_lease", "10000 1000 10"),
]


def upgrade() -> None:
    op.create_table(
        "chunks",
        sa.Column("id", AUTO_ID, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False, comment="how many records it holds"),
        sa.Column(
            "attempt",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="claims so far",
        ),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="of the system",
        ),
        sa.Column("dispatches", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_owner", sa.Text(), comment="id of the worker that holds it"),
        sa.Column("lease_expires_at", sa.Float()),
        sa.Column("dispatched_at", sa.Float()),
        sa.Column("error", sa.Text(), comment="why its last attempt came to nothing"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_chunks_job", "chunks", ["job_id", "status", "id"])
    op.create_index("ix_chunks_lease", "chunks", ["status", "lease_expires_at"])
    op.create_table(
        "jobs",
        sa.Column(
            "id", sa.String(length=16), nullable=False, comment="sorts by time of submission"
        ),
        sa.Column("name", sa.Text(), comment="given with --name, or the input's file name"),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column(
            "model", sa.Text(), nullable=False, comment="hub id, or absolute path of a folder"
        ),
        sa.Column("revision", sa.Text()),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("params", JSON, nullable=False, comment="the task's parameters, validated"),
        sa.Column("extra_columns", JSON, nullable=False, comment="input columns kept in extra"),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False, comment="high, normal or low"),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("total_records", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("done_records", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("error_records", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("device_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "max_error_rate",
            sa.Float(),
            comment="share of error records that fails the job, 0 to 1",
        ),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("queued_at", sa.Float(), comment="all records are in SQL"),
        sa.Column("started_at", sa.Float(), comment="first claim"),
        sa.Column("finished_at", sa.Float()),
        sa.Column("purged_at", sa.Float()),
        sa.Column("load_expires_at", sa.Float(), comment="lease of the producer that loads it"),
        sa.Column("error", sa.Text(), comment="why the job failed"),
        sa.Column("load_failures", JSON, comment="where its model could not be loaded"),
        sa.Column("key", sa.Text(), comment="idempotency key"),
        sa.Column(
            "input_hash", sa.LargeBinary(), comment="SHA-256 of records, task, model and params"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_table(
        "label_counts",
        sa.Column("job_id", sa.String(length=16), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "label"),
    )
    op.create_table(
        "payloads",
        sa.Column("chunk_id", AUTO_ID, autoincrement=False, nullable=False),
        sa.Column(
            "data",
            sa.LargeBinary(),
            nullable=False,
            comment="records; of a done chunk: its errors'",
        ),
        sa.PrimaryKeyConstraint("chunk_id"),
    )
    op.create_table(
        "results",
        sa.Column("job_id", sa.String(length=16), nullable=False),
        sa.Column("record_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("text", sa.Text()),
        sa.Column("text_hash", sa.LargeBinary(length=16)),
        sa.Column("label", sa.Text()),
        sa.Column("score", sa.Float()),
        sa.Column("output", sa.Text()),
        sa.Column("vector", sa.LargeBinary()),
        sa.Column("detail", JSON),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("extra", JSON, comment="the other columns of the input"),
        sa.Column("input_tokens", sa.Integer()),
        sa.Column("output_tokens", sa.Integer()),
        sa.PrimaryKeyConstraint("job_id", "record_index"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_results_error",
        "results",
        ["job_id", "error_code"],
        sqlite_where=sa.text("error_code IS NOT NULL"),
        postgresql_where=sa.text("error_code IS NOT NULL"),
    )
    op.create_index("ix_results_label", "results", ["job_id", "label", "score"])
    op.create_index("ix_results_record_id", "results", ["job_id", "record_id"])
    op.create_table(
        "sweeps",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "swept_at", sa.Float(), nullable=False, comment="decides which worker sweeps next"
        ),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False, comment="host:device:random"),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("queues", JSON, nullable=False),
        sa.Column("models", JSON, nullable=False, comment="models loaded now"),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO sweeps (name, swept_at) VALUES ('sweep', 0)")
    if op.get_bind().dialect.name == "sqlite":
        _fix_statistics()


def _fix_statistics() -> None:
    """What SQLite's planner believes of the tables: without it, it reads whole jobs by their key.

    Fixed figures of a large database instead of ANALYZE, whose figures of an empty or small one
    mislead it. Format: https://www.sqlite.org/fileformat2.html#the_sqlite_stat1_table
    """
    op.execute("ANALYZE")
    op.execute("DELETE FROM sqlite_stat1")
    for table, index, stat in STATISTICS:
        op.execute(f"INSERT INTO sqlite_stat1 VALUES ('{table}', '{index}', '{stat}')")
