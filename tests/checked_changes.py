"""Every state change of jobs and chunks, made on a real database and checked as it is made.

Beside the database stands what only an onlooker knows: whose each running chunk is, what each
worker has in its hands, and how often a record crashed alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection

from textmill.core.errors import JobConflictError
from textmill.core.messages import ChunkMessage
from textmill.db.chunks import (
    MAX_FAILURES,
    ChunkOutcome,
    Claim,
    LeaseLostError,
    claim_chunk,
    complete_chunk,
    give_back,
    give_back_chunk,
    renew_leases,
    report_load_failure,
)
from textmill.db.clock import now
from textmill.db.dispatch import fill_window
from textmill.db.jobs import cancel_job, fail_job, pause_job, resume_job
from textmill.db.loading import finish_loading
from textmill.db.models import chunks
from textmill.db.rerun import rerun_job
from textmill.db.retry import retry_job
from textmill.db.suspects import condemn, is_suspect, must_split, split_chunk
from textmill.db.sweep import SweepReport, sweep_once

from . import invariants
from .builders import LEASE, indexed, outcome, put, with_further_label
from .invariants import BAD_ROW, OPEN, State, WatchedDatabase, read_state


class CheckedChanges:
    """The database of a test, its onlooker, and the changes."""

    def __init__(self, database: WatchedDatabase) -> None:
        self.database = database
        self.database.watch = self.watch
        self.state = read_state(database)
        self.rerun: str | None = None  # the job that may lose outputs
        self.holders: dict[int, Claim] = {}  # whose each running chunk is
        self.hands: dict[str, list[Claim]] = {"w1": [], "w2": [], "w3": []}  # lost ones too
        self.poison: set[tuple[str, int]] = set()  # records that kill their worker
        self.crashes_alone: Counter[tuple[str, int]] = Counter()  # in a chunk of one

    def watch(self) -> None:
        before, self.state = self.state, read_state(self.database)
        invariants.check_change(before, self.state, rerun=self.rerun)
        invariants.check_state(self.state)
        for chunk_id in list(self.holders):
            if self.state.chunks[chunk_id].status != "running":
                del self.holders[chunk_id]

    def look(self) -> None:
        """Take notice of what the test itself wrote."""
        self.state = read_state(self.database)
        invariants.check_state(self.state)

    def check_holders(self) -> None:
        running = [one for one in self.state.chunks.values() if one.status == "running"]
        assert {(one.id, one.attempt, one.lease_owner) for one in running} == {
            (one.chunk_id, one.attempt, one.worker_id) for one in self.holders.values()
        }

    def held_by(self, worker: str) -> list[Claim]:
        return [one for one in self.holders.values() if one.worker_id == worker]

    def is_current(self, claim: Claim) -> bool:
        return self.holders.get(claim.chunk_id) is claim

    def sent(self, messages: Sequence[ChunkMessage]) -> list[ChunkMessage]:
        """What a caller would publish now: each for a chunk that can be claimed."""
        for message in messages:
            chunk = self.state.chunks[message.chunk_id]
            assert (chunk.status, chunk.attempt) == ("dispatched", message.attempt)
            assert self.state.jobs[chunk.job_id].status in ("queued", "running")
        return list(messages)

    # Jobs

    def finish_loading(self, job_id: str) -> None:
        bad = len(self.state.rows_of(job_id))
        total = bad + sum(chunk.records for chunk in self.state.chunks_of(job_id))

        def finish(connection: Connection, job_id: str) -> None:
            finish_loading(connection, job_id, total=total, errors=bad, input_hash=b"hash")

        self.change(job_id, finish, allowed=self.status(job_id) == "loading")

    def status(self, job_id: str) -> str | None:
        return self.state.jobs[job_id].status if job_id in self.state.jobs else None

    def change(self, job_id: str, change: Callable[..., Any], *, allowed: bool) -> Any:
        """Make the change, or see that it is refused and nothing is written."""
        if job_id not in self.state.jobs:  # a dead load was removed
            return None
        if allowed:
            return self.database.transact(change, job_id)
        with pytest.raises(JobConflictError):
            self.database.transact(change, job_id)
        assert read_state(self.database) == self.state, "refused, but wrote"
        return None

    def cancel(self, job_id: str) -> None:
        allowed = self.status(job_id) in ("loading", *OPEN)
        self.change(job_id, cancel_job, allowed=allowed)
        assert self.status(job_id) == "cancelled" or not allowed

    def pause(self, job_id: str) -> None:
        allowed = self.status(job_id) in ("queued", "running")
        self.change(job_id, pause_job, allowed=allowed)
        assert self.status(job_id) == "paused" or not allowed
        if allowed:
            assert not self.state.chunks_of(job_id, "dispatched")

    def resume(self, job_id: str) -> None:
        allowed = self.status(job_id) == "paused"
        self.change(job_id, resume_job, allowed=allowed)
        assert self.status(job_id) in ("queued", "running") or not allowed

    def retry(self, job_id: str) -> None:
        again = self.state.inputs_of(job_id, "done", "pending", "dispatched", "failed")
        ended = self.status(job_id) in ("failed", "completed_with_errors")
        assert self.change(job_id, retry_job, allowed=ended and bool(again)) in (None, len(again))
        if ended:
            assert not set(again) & set(self.state.rows_of(job_id)), "to run again, but has its row"

    def retry_all(self, job_id: str) -> None:
        rows = self.state.rows_of(job_id).values()
        records = self.state.inputs_of(job_id, "pending", "dispatched", "running", "failed")
        records += [row.record_index for row in rows if row.error_code != BAD_ROW]
        ended = self.status(job_id) in ("failed", "completed_with_errors", "completed")
        self.rerun = job_id
        allowed = ended and bool(records)
        assert self.change(job_id, rerun_job, allowed=allowed) in (None, len(records))
        self.rerun = None

    def fail(self, job_id: str) -> None:
        allowed = self.status(job_id) in OPEN
        assert self.database.transact(fail_job, job_id, "no model") == allowed
        assert self.status(job_id) == "failed" or not allowed
        if allowed:
            assert not self.state.chunks_of(job_id, "pending", "dispatched")

    # Dispatch and claims

    def dispatch(self, job_id: str, window: int) -> list[ChunkMessage]:
        waiting = len(self.state.chunks_of(job_id, "dispatched"))
        messages = self.database.transact(fill_window, job_id, window)
        dispatched = self.state.chunks_of(job_id, "dispatched")
        assert len(dispatched) == waiting + len(messages) <= max(window, waiting)
        return self.sent(messages)

    def take(self, chunk_id: int, attempt: int, worker: str) -> Claim | None:
        """As a slot of a worker does it: beside others, or alone if the chunk is a suspect."""
        before, hands = self.state, self.hands[worker]
        if any(claim.crashes for claim in hands):
            return None  # a suspect runs alone
        chunk = before.chunks.get(chunk_id)
        current = (
            chunk is not None
            and (chunk.status, chunk.attempt) == ("dispatched", attempt)
            and before.jobs[chunk.job_id].status in ("queued", "running")
        )
        suspect = current and chunk is not None and chunk.crashes > 0
        claim = self.try_claim(chunk_id, attempt, worker, alone=False)
        assert (claim is not None) == (current and not suspect), "claimed a message that is late"
        if suspect and not hands:
            with self.database.read() as connection:
                assert is_suspect(connection, chunk_id, attempt)
            claim = self.try_claim(chunk_id, attempt, worker, alone=True)
            assert claim is not None
        if claim is None:
            assert self.state == before, "claimed nothing, but wrote"
            return None
        assert self.state.chunks[chunk_id].lease_expires_at > self.state.now + LEASE / 2
        assert [record.index for record in claim.records] == before.inputs[chunk_id]
        self.holders[chunk_id] = claim
        hands.append(claim)
        return claim

    def try_claim(self, chunk_id: int, attempt: int, worker: str, *, alone: bool) -> Claim | None:
        mine: Any = {"worker_id": worker, "lease_seconds": LEASE, "alone": alone}
        claim: Claim | None = self.database.transact(claim_chunk, chunk_id, attempt, **mine)
        return claim

    def let_leases_end(self, worker: str) -> None:
        put(self.database, chunks, chunks.c.lease_owner == worker, lease_expires_at=1.0)
        self.look()

    def renew(self, worker: str) -> None:
        valid = chunks.c.lease_expires_at > now()
        put(self.database, chunks, valid, lease_expires_at=now() + 1)  # nearly a lease later
        self.look()
        before = self.state
        mine = [(claim.chunk_id, claim.attempt) for claim in self.hands[worker]]
        kept = self.database.transact(renew_leases, worker, mine, lease_seconds=LEASE)
        self.hands[worker] = [claim for claim in self.hands[worker] if self.is_current(claim)]
        assert kept == {(claim.chunk_id, claim.attempt) for claim in self.hands[worker]}
        renewed = {chunk_id for chunk_id, _ in kept}
        for chunk_id, chunk in self.state.chunks.items():
            if chunk_id in renewed:
                assert chunk.lease_expires_at > self.state.now + LEASE / 2, "not renewed"
            else:
                assert chunk == before.chunks[chunk_id], "renewed for nobody"

    # Work

    def work(self, claim: Claim, errors: set[int], window: int) -> list[ChunkMessage]:
        """As a worker does it, that still has its claim or lost it meanwhile."""
        indexes = [record.index for record in claim.records]
        verdict = condemn(claim)
        if must_split(claim):
            self.split(claim)
            return []
        if verdict is None and self.is_current(claim) and self.is_poisoned(claim):
            return self.crash(claim.worker_id)
        done = outcome(claim, {indexes[n] for n in errors if n < len(indexes)})
        if verdict is not None:
            if self.is_current(claim):
                assert self.crashes_alone[claim.job.id, indexes[0]] >= 2, "condemned too early"
            done = outcome(claim, indexes)
            done.rows = [row._replace(error_code=verdict.code) for row in done.rows]
        done = indexed(self.database, claim, with_further_label(done))
        return self.sent(self.complete(claim, done, window))

    def is_poisoned(self, claim: Claim) -> bool:
        return any((claim.job.id, record.index) in self.poison for record in claim.records)

    def complete(self, claim: Claim, done: ChunkOutcome, window: int) -> list[ChunkMessage]:
        before, job_id = self.state, claim.job.id
        if not self.is_current(claim):
            with pytest.raises(LeaseLostError):
                self.database.transact(complete_chunk, claim, done, window=window)
            assert read_state(self.database) == before, "lost its lease, but wrote"
            return []
        messages = self.database.transact(complete_chunk, claim, done, window=window)
        self.hands[claim.worker_id].remove(claim)
        assert self.state.chunks[claim.chunk_id].status == "done"
        written = set(self.state.results) - set(before.results)
        assert written == {(job_id, record.index) for record in claim.records}
        assert self.status(job_id) == self.status_after_work(before, job_id)
        for record in claim.records:
            del self.crashes_alone[job_id, record.index]
        return list(messages)

    def status_after_work(self, before: State, job_id: str) -> str:
        job, was = self.state.jobs[job_id], before.jobs[job_id].status
        rate = job.max_error_rate
        if was == "failed":
            return "failed"
        if rate is not None and job.error_records / job.total_records > rate:
            return "failed"
        if job.done_records + job.error_records < job.total_records:
            return str(was)
        return "completed_with_errors" if job.error_records else "completed"

    def split(self, claim: Claim) -> None:
        """Whatever made the caller do it: the fence must hold."""
        if len(claim.records) < 2:
            return
        before, current = self.state, self.is_current(claim)
        self.database.transact(split_chunk, claim)
        if not current:
            assert self.state == before, "lost its lease, but split"
            return
        self.hands[claim.worker_id].remove(claim)
        assert self.state.chunks[claim.chunk_id].status == "split"
        halves = [one for one in self.state.chunks.values() if one.id not in before.chunks]
        assert [(one.status, one.crashes, one.attempt) for one in halves] == [("pending", 1, 0)] * 2

    # What goes wrong

    def crash(self, worker: str) -> list[ChunkMessage]:
        """Its supervisor reports it at once and sweeps."""
        held, hands = self.held_by(worker), self.hands[worker]
        if hands == held and len(held) == 1 and held[0].crashes and len(held[0].records) == 1:
            self.crashes_alone[held[0].job.id, held[0].records[0].index] += 1
        self.end_worker(worker, crashed=True)
        return self.sweep(idle=False)

    def stop(self, worker: str) -> None:
        self.end_worker(worker, crashed=False)

    def end_worker(self, worker: str, *, crashed: bool) -> None:
        before, held = self.state, {claim.chunk_id for claim in self.held_by(worker)}
        assert self.database.transact(give_back, worker, crashed=crashed) == len(held)
        self.hands[worker] = []
        for chunk_id, chunk in before.chunks.items():
            after = self.state.chunks[chunk_id]
            if chunk_id in held:
                assert (after.status, after.crashes) == ("pending", chunk.crashes + crashed)
            else:
                assert after == chunk, "another's chunk was given back"

    def give_back_one(self, claim: Claim, *, failed: bool) -> None:
        before, job_id = self.state, claim.job.id
        current = self.is_current(claim)
        ended = self.database.transact(give_back_chunk, claim, "memory", failed=failed)
        if not current:
            assert (ended, self.state) == (None, before), "lost its lease, but gave back"
            return
        self.hands[claim.worker_id].remove(claim)
        failures = before.chunks[claim.chunk_id].failures + failed
        assert self.state.chunks[claim.chunk_id].failures == failures
        last = failures >= MAX_FAILURES and before.jobs[job_id].status in OPEN
        assert ended == (job_id if last else None)
        assert self.state.chunks[claim.chunk_id].status == ("failed" if last else "pending")

    def fail_to_load(self, claim: Claim, place: str) -> None:
        before, job_id = self.state, claim.job.id
        current = self.is_current(claim)
        failed = self.database.transact(report_load_failure, claim, "no model", place=place)
        moved = before.jobs[job_id].status != self.status(job_id)
        assert failed == moved == (failed and self.status(job_id) == "failed")
        if current:
            self.hands[claim.worker_id].remove(claim)
            assert self.state.chunks[claim.chunk_id].status in ("pending", "failed")
        assert self.state.results == before.results

    def sweep(self, *, idle: bool) -> list[ChunkMessage]:
        return self.sent(self.repair(idle=idle).messages)

    def repair(self, *, idle: bool) -> SweepReport:
        before = self.state
        dead = [
            one.id
            for one in before.jobs.values()
            if one.load_expires_at and one.load_expires_at < before.now
        ]
        stalled = [one for one in before.chunks.values() if one.lease_expires_at == 1.0]
        queues = {("default", "normal")} if idle else set()
        report = sweep_once(self.database, idle_queues=queues, grace_seconds=-1)
        assert report.stalled == len(stalled)
        for chunk in stalled:
            assert self.state.chunks[chunk.id].status != "running", "stalled for ever"
        assert not set(dead) & set(self.state.jobs)
        return report
