"""Models that could not be loaded: where, and when that fails the job."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from textmill.db.chunks import Claim, give_back_chunk, still_ours
from textmill.db.jobs import fail_job
from textmill.db.models import chunks, jobs
from textmill.db.workers import live_workers, place_of


def report_load_failure(connection: Connection, claim: Claim, reason: str, *, place: str) -> bool:
    """Give the chunk back; fail the job if its model failed on two hosts or no other place is live.

    ``place`` is the worker's host and device: one host with a wrong path must not drain the queue,
    however many devices it has. Returns True if the job failed.
    """
    ours = connection.execute(select(chunks.c.id).where(*still_ours(claim)).with_for_update())
    if ours.one_or_none() is None:
        return False  # overtaken: whoever has the chunk now says what becomes of it
    give_back_chunk(connection, claim, reason, failed=False)
    job = connection.execute(select(jobs).where(jobs.c.id == claim.job.id).with_for_update()).one()
    failed_on = sorted({*(job.load_failures or []), place})
    # If the reporter itself does not count as live, the database was away: nobody could say so.
    live = {place_of(worker) for worker in live_workers(connection, job.queue)}
    hosts = {one.partition(" ")[0] for one in failed_on}
    if len(hosts) >= 2 or (place in live and live <= set(failed_on)):
        return fail_job(connection, job.id, reason)
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(load_failures=failed_on))
    return False
