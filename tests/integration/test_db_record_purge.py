"""Purge of single records of a failed job, whose workers still write what they have in hand."""

from __future__ import annotations

from textmill.db.jobs import fail_job
from textmill.db.models import chunks
from textmill.db.record_purge import find_records, purge_records
from textmill.db.session import Database

from .. import builders
from ..builders import put
from ..canaries import canary, private_job

tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

ASKED = {"by": "test"}


def test_what_is_said_to_go_counts_records_that_have_no_row_yet(database: Database) -> None:
    """Beside rows, and once where an error row's input is kept as well."""
    ids = {canary("id", index) for index in (0, 1, 4)}
    job_id = private_job(database, run=1)
    database.transact(fail_job, job_id, "no model")
    put(database, chunks, chunks.c.status == "running", status="failed")
    (found,) = find_records(database, ids)
    assert len(found.waiting) == 2
    assert found.records == 3
    assert purge_records(database, found, ids, ASKED) == 3
