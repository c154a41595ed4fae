"""The tables. No ORM classes: every state change is a guarded UPDATE, written in its own module.

There are no foreign keys: a foreign key makes PostgreSQL lock the job's row for each chunk written,
against the lock order (chunks, then job), and slows the bulk write of results. All timestamps are
seconds since 1970 in UTC, from the database's clock (see ``clock.py``).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    String,
    Table,
    Text,
    event,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

metadata = MetaData()

JsonColumn = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
AutoId = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER autoincrements on SQLite

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(16), primary_key=True, comment="sorts by time of submission"),
    Column("name", Text, comment="given with --name, or the input's file name"),
    Column("task", Text, nullable=False),
    Column("model", Text, nullable=False, comment="hub id, or absolute path of a folder"),
    Column("revision", Text),
    Column("model_version", Text, comment="what ran: a commit, or sha256: of local files"),
    Column("permits", JsonColumn, comment="pickle, remote_code: what it lets a worker do"),
    Column("dtype", Text, nullable=False),
    Column("params", JsonColumn, nullable=False, comment="the task's parameters, validated"),
    Column("extra_columns", JsonColumn, nullable=False, comment="input columns kept in extra"),
    Column("queue", Text, nullable=False),
    Column("priority", Text, nullable=False, comment="high, normal or low"),
    Column("status", Text, nullable=False),
    Column("total_records", BigInteger, nullable=False, server_default=text("0")),
    Column("done_records", BigInteger, nullable=False, server_default=text("0")),
    Column("error_records", BigInteger, nullable=False, server_default=text("0")),
    Column("input_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("output_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("device_seconds", Float, nullable=False, server_default=text("0")),
    Column("max_error_rate", Float, comment="share of error records that fails the job, 0 to 1"),
    Column("created_at", Float, nullable=False),
    Column("queued_at", Float, comment="all records are in SQL"),
    Column("started_at", Float, comment="first claim"),
    Column("finished_at", Float),
    Column("purged_at", Float),
    Column("load_expires_at", Float, comment="lease of the producer that loads it"),
    Column("error", Text, comment="why the job failed"),
    Column("load_failures", JsonColumn, comment="where its model could not be loaded"),
    Column("key", Text, unique=True, comment="idempotency key"),
    Column("input_hash", LargeBinary, comment="SHA-256 of records, task, model and params"),
    Column("store_text", Text, nullable=False, server_default="full", comment="or hash, or none"),
    Column("hash_key_id", Text, comment="of the key of its keyed hashes"),
    Column("full_text", Boolean, nullable=False, server_default=false(), comment="words indexed"),
    Column("index_columns", JsonColumn, comment="columns of extra in result_values"),
    Column("reuse", Boolean, nullable=False, server_default=false(), comment="earlier answers"),
    Column("reused_records", BigInteger, nullable=False, server_default=text("0")),
    Column("reusable_at", Float, comment="when its results had got their reuse keys"),
    Column("number", BigInteger, comment="its rows in result_words begin at number * 2^40"),
    Index("ix_jobs_number", "number", unique=True),
)

chunks = Table(
    "chunks",
    metadata,
    Column("id", AutoId, primary_key=True, autoincrement=True),
    Column("job_id", String(16), nullable=False),
    Column("status", Text, nullable=False),
    Column("records", Integer, nullable=False, comment="how many records it holds"),
    Column("attempt", Integer, nullable=False, server_default=text("0"), comment="claims so far"),
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0"), comment="of the system"),
    Column("dispatches", Integer, nullable=False, server_default=text("0")),
    Column("lease_owner", Text, comment="id of the worker that holds it"),
    Column("lease_expires_at", Float),
    Column("dispatched_at", Float),
    Column("error", Text, comment="why its last attempt came to nothing"),
    Index("ix_chunks_job", "job_id", "status", "id"),
    Index("ix_chunks_lease", "status", "lease_expires_at"),
)

payloads = Table(
    "payloads",
    metadata,
    Column("chunk_id", AutoId, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False, comment="records; of a done chunk: its errors'"),
)

# Scores and ids come in no order: in one index of a whole job every new row changed another page of
# it, and of ten million rows each page was written and logged again and again. So in these indexes
# a job's rows lie by blocks of records, and they are asked block by block.
SCORE_BLOCK_BITS = 16
ID_BLOCK_BITS = 12
SCORE_BLOCK = f"(record_index >> {SCORE_BLOCK_BITS})"
ID_BLOCK = f"(record_index >> {ID_BLOCK_BITS})"

results = Table(
    "results",
    metadata,
    Column("job_id", String(16), primary_key=True),
    Column("record_index", BigInteger, primary_key=True, autoincrement=False),
    Column("record_id", Text, nullable=False),
    Column("text", Text),
    Column("text_hash", LargeBinary(16)),
    Column("label", Text),
    Column("score", Float),
    Column("output", Text),
    Column("vector", LargeBinary),
    Column("detail", JsonColumn),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("extra", JsonColumn, comment="the other columns of the input"),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("reused_from", String(16), comment="the job whose result answered the record"),
    Index(
        "ix_results_score", "job_id", text(SCORE_BLOCK), "label", text("score DESC"), "record_index"
    ),
    Index("ix_results_record_id", "job_id", text(ID_BLOCK), "record_id"),
    Index(
        "ix_results_error",
        "job_id",
        "error_code",
        "record_index",
        sqlite_where=text("error_code IS NOT NULL"),
        postgresql_where=text("error_code IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

result_values = Table(
    "result_values",
    metadata,
    Column("job_id", String(16), primary_key=True),
    Column("name", Text, primary_key=True, comment="a declared column; empty: a further label"),
    Column("value", Text, primary_key=True),
    Column("record_index", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

label_counts = Table(
    "label_counts",
    metadata,
    Column("job_id", String(16), primary_key=True),
    Column("label", Text, primary_key=True),
    Column("records", BigInteger, nullable=False),
)

audits = Table(
    "audits",
    metadata,
    Column("id", AutoId, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("action", Text, nullable=False, comment="purge or redact"),
    Column("job_id", String(16), comment="none: of several jobs"),
    Column("records", BigInteger, nullable=False, comment="how many rows it changed"),
    Column("detail", JsonColumn, comment="what was asked for, without texts or ids of records"),
    Column("finished_at", Float, comment="none: it was cut off"),
    Column("vacuumed_at", Float, comment="no file of the database has the bytes any more"),
)

reuse_keys = Table(
    "reuse_keys",
    metadata,
    Column("key", LargeBinary(16), primary_key=True, comment="of model, task, options and inputs"),
    Column("job_id", String(16), nullable=False),
    Column("record_index", BigInteger, nullable=False),
    Index("ix_reuse_keys_job", "job_id", "record_index"),
    sqlite_with_rowid=False,
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True, comment="host:device:random"),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("queues", JsonColumn, nullable=False),
    Column("models", JsonColumn, nullable=False, comment="models loaded now"),
    Column("started_at", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("name", Text, primary_key=True),
    Column("swept_at", Float, nullable=False, comment="decides which worker sweeps next"),
)

# The words of results, by which ``--search`` finds them: on PostgreSQL a table, on SQLite a virtual
# one of the same name (FTS5, https://www.sqlite.org/fts5.html) that keeps no texts. A row of either
# is number * 2^40 + record_index of its job.
words_metadata = MetaData()
postgresql_words = Table(
    "result_words",
    words_metadata,
    Column("row_id", BigInteger, primary_key=True, autoincrement=False),
    Column("words", TSVECTOR, nullable=False),
    Index("ix_result_words", "words", postgresql_using="gin"),
)
SQLITE_WORDS = (
    "CREATE VIRTUAL TABLE result_words USING fts5("
    "words, content = '', columnsize = 0, tokenize = 'ascii')"
)
job_numbers = Sequence("job_numbers", metadata=metadata)  # SQLite counts by itself


@event.listens_for(metadata, "after_create")
def _make_words(target: MetaData, connection: Connection, **options: Any) -> None:
    """``create_all`` makes them too; a migrated database has them from migration 0003."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(SQLITE_WORDS)
    else:
        words_metadata.create_all(connection)
