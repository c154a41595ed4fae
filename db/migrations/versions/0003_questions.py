"""What questions to ten million rows need: words, declared columns, orders; what is stored; reuse.

``result_words`` is a full-text index that keeps no texts: on SQLite a contentless FTS5 table
(https://www.sqlite.org/fts5.html), on PostgreSQL tsvectors under a GIN index.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
AUTO_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

STATISTICS = [  # as in 0001
    ("results", "ix_results_label", "1000000 60000 6000 1"),
    ("results", "ix_results_score", "1000000 60000 6000 100 1"),
    ("results", "ix_results_error", "10000 1000 500 1"),
    ("result_values", "result_values", "1000000 60000 60000 1000 1"),
]

FURTHER_LABELS_SQLITE = """
INSERT OR IGNORE INTO result_values (job_id, name, value, record_index)
SELECT results.job_id, '', further.value, results.record_index
FROM results, json_each(results.detail, '$.labels') AS further
WHERE results.label IS NOT NULL AND further.value <> results.label
"""
FURTHER_LABELS_POSTGRESQL = """
INSERT INTO result_values (job_id, name, value, record_index)
SELECT results.job_id, '', further.label, results.record_index
FROM results, jsonb_array_elements_text(
    CASE jsonb_typeof(results.detail -> 'labels')
    WHEN 'array' THEN results.detail -> 'labels' ELSE '[]' END) AS further (label)
WHERE results.label IS NOT NULL AND further.label <> results.label
ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for column in (
        sa.Column(
            "store_text",
            sa.Text(),
            nullable=False,
            server_default="full",
            comment="or hash, or none",
        ),
        sa.Column("hash_key_id", sa.Text(), comment="of the key of its keyed hashes"),
        sa.Column(
            "full_text",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="words indexed",
        ),
        sa.Column("index_columns", JSON, comment="columns of extra in result_values"),
        sa.Column(
            "reuse",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="earlier answers",
        ),
        sa.Column("reused_records", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column(
            "number",
            sa.BigInteger(),
            comment="its rows in result_words begin at number * 2^40",
        ),
    ):
        op.add_column("jobs", column)
    op.create_index("ix_jobs_number", "jobs", ["number"], unique=True)
    op.add_column(
        "results",
        sa.Column(
            "reused_from", sa.String(length=16), comment="the job whose result answered the record"
        ),
    )
    _index_results()
    op.create_table(
        "result_values",
        sa.Column("job_id", sa.String(length=16), nullable=False),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="a declared column; empty: a further label"
        ),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("record_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "name", "value", "record_index"),
        sqlite_with_rowid=False,
    )
    op.execute(FURTHER_LABELS_SQLITE if sqlite else FURTHER_LABELS_POSTGRESQL)
    op.create_table(
        "audits",
        sa.Column("id", AUTO_ID, autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False, comment="purge or redact"),
        sa.Column("job_id", sa.String(length=16), comment="none: of several jobs"),
        sa.Column("records", sa.BigInteger(), nullable=False, comment="how many rows it changed"),
        sa.Column("detail", JSON, comment="what was asked for, without texts or ids of records"),
        sa.Column("finished_at", sa.Float(), comment="none: it was cut off"),
        sa.Column(
            "vacuumed_at", sa.Float(), comment="no file of the database has the bytes any more"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "reuse_keys",
        sa.Column(
            "key",
            sa.LargeBinary(length=16),
            nullable=False,
            comment="of model, task, options and inputs",
        ),
        sa.Column("job_id", sa.String(length=16), nullable=False),
        sa.Column("record_index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_reuse_keys_job", "reuse_keys", ["job_id", "record_index"])
    _make_words(sqlite=sqlite)
    if sqlite:
        for table, index, stat in STATISTICS:
            op.execute(f"INSERT INTO sqlite_stat1 VALUES ('{table}', '{index}', '{stat}')")


def _index_results() -> None:
    for name in ("ix_results_label", "ix_results_error"):
        op.drop_index(name, "results")
    op.create_index("ix_results_label", "results", ["job_id", "label", "record_index"])
    op.create_index(
        "ix_results_score", "results", ["job_id", "label", sa.text("score DESC"), "record_index"]
    )
    op.create_index(
        "ix_results_error",
        "results",
        ["job_id", "error_code", "record_index"],
        sqlite_where=sa.text("error_code IS NOT NULL"),
        postgresql_where=sa.text("error_code IS NOT NULL"),
    )


def _make_words(*, sqlite: bool) -> None:
    if sqlite:
        op.execute(
            "CREATE VIRTUAL TABLE result_words USING fts5("
            "words, content = '', columnsize = 0, tokenize = 'ascii')"
        )
        return
    op.execute("CREATE SEQUENCE job_numbers")
    op.create_table(
        "result_words",
        sa.Column("row_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("words", postgresql.TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("row_id"),
    )
    op.create_index("ix_result_words", "result_words", ["words"], postgresql_using="gin")
