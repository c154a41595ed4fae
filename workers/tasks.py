"""What happens to one message: claim the chunk, compute its records, complete it.

Acknowledged before it starts: from the claim on, the chunk's lease in SQL is responsible for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import Connection

from textmill.core.checkpoints import Permits
from textmill.core.errors import (
    ConfigurationError,
    InvalidJobError,
    ModelLoadError,
    RecordError,
    RetryableError,
    ServiceUnavailableError,
    describe_error,
)
from textmill.core.hub import COMMIT
from textmill.core.jobs import Record
from textmill.core.messages import ChunkMessage
from textmill.core.params import TaskParams
from textmill.core.stored_texts import StoreText, check_key
from textmill.core.tasks import get_task, validate_params
from textmill.db import suspects
from textmill.db.chunks import (
    ChunkOutcome,
    Claim,
    LeaseLostError,
    claim_chunk,
    complete_chunk,
    give_back_chunk,
)
from textmill.db.dispatch import fill_window, window_size
from textmill.db.indexing import make_entries
from textmill.db.jobs import pin_model
from textmill.db.model_failures import report_load_failure
from textmill.workers.items import DeviceLostError, ModelRequest, NoRoomError, Output
from textmill.workers.process import Hold, WorkerProcess
from textmill.workers.reused import Reused
from textmill.workers.rows import Keeping, gather_outcome
from textmill.workers.scheduler import Run

log = structlog.get_logger("textmill.worker")


def process_chunk(worker: WorkerProcess, chunk_id: int, attempt: int) -> None:
    """Handle one message; never raises for what a chunk or a service can do wrong."""
    try:
        with worker.handling():
            _handle(worker, chunk_id, attempt)
    except (ServiceUnavailableError, RetryableError) as error:
        log.warning("message left to sweep", chunk=chunk_id, reason=str(error))
    except Exception:  # Celery would log its message, which may quote a text
        log.exception("message left to sweep", chunk=chunk_id)


def _handle(worker: WorkerProcess, chunk_id: int, attempt: int) -> None:
    with worker.gate.shared():
        claim = _claim(worker, chunk_id, attempt, alone=False)
        if claim is not None:
            _process(worker, claim)
            return
    # The gate is taken before the claim: a chunk that only waits must not count a crash.
    if worker.patiently(lambda: _is_suspect(worker, chunk_id, attempt), "database"):
        with worker.gate.alone():
            claim = _claim(worker, chunk_id, attempt, alone=True)
            if claim is not None:
                _process_suspect(worker, claim)


def _claim(worker: WorkerProcess, chunk_id: int, attempt: int, *, alone: bool) -> Claim | None:
    if worker.stopping.is_set():
        return None  # told to stop while it waited at the gate

    def claim() -> Claim | None:
        return worker.database.transact(
            claim_chunk,
            chunk_id,
            attempt,
            worker_id=worker.options.id,
            lease_seconds=worker.settings.lease_seconds,
            alone=alone,
        )

    return worker.patiently(claim, "database")


def _is_suspect(worker: WorkerProcess, chunk_id: int, attempt: int) -> bool:
    with worker.database.read() as connection:
        return suspects.is_suspect(connection, chunk_id, attempt)


def _process_suspect(worker: WorkerProcess, claim: Claim) -> None:
    """A chunk whose worker died: halve it, condemn its only record, or run it alone."""
    verdict = suspects.condemn(claim)
    if suspects.must_split(claim):
        log.warning("chunk halved", chunk=claim.chunk_id, records=len(claim.records))
        worker.publish(worker.patiently(lambda: _split(worker, claim), "database"))
    elif verdict is not None:
        log.error("record condemned", chunk=claim.chunk_id, job=claim.job.id, reason=str(verdict))
        worker.publish(_finish(worker, claim, lambda: _condemn(worker, claim, verdict)))
    else:
        log.info("chunk runs alone", chunk=claim.chunk_id, crashes=claim.crashes)
        _process(worker, claim)


def _condemn(worker: WorkerProcess, claim: Claim, verdict: RecordError) -> list[ChunkMessage]:
    return _complete(worker, claim, _gather(worker, claim, [verdict]))


def _params_of(claim: Claim) -> TaskParams:
    """The job's options; raises ModelLoadError if this worker does not know its task or an option.

    It may be of another version than the producer, or lack a plugin: others can run the job.
    """
    try:
        return validate_params(get_task(claim.job.task), claim.job.params)
    except InvalidJobError as error:
        raise ModelLoadError(
            f"this worker cannot run the job: {error}; it needs the version of Textmill, and in "
            "TEXTMILL_PLUGINS the tasks of your own, that the job was submitted with"
        ) from None


def _split(worker: WorkerProcess, claim: Claim) -> list[ChunkMessage]:
    def split(connection: Connection) -> list[ChunkMessage]:
        suspects.split_chunk(connection, claim)
        window = window_size(connection, claim.job.queue)
        return fill_window(connection, claim.job.id, window)

    return worker.database.transact(split)


def _process(worker: WorkerProcess, claim: Claim) -> None:
    with worker.holding(claim) as hold:
        messages = _finish(
            worker, claim, lambda: _complete(worker, claim, _compute(worker, claim, hold)), hold
        )
    worker.publish(messages)  # no longer held: it is done, and a broker that is away takes time


def _finish(
    worker: WorkerProcess,
    claim: Claim,
    work: Callable[[], list[ChunkMessage]],
    hold: Hold | None = None,
) -> list[ChunkMessage]:
    """Do a claimed chunk's work; returns what to publish. Says what becomes of it on a failure."""
    try:
        return work()
    except LeaseLostError as error:
        log.info("chunk lost", chunk=claim.chunk_id, reason=str(error))
    except ModelLoadError as error:
        _report_load_failure(worker, claim, error)
    except ServiceUnavailableError as error:
        log.warning("chunk left to its lease", chunk=claim.chunk_id, reason=str(error))
    except DeviceLostError as error:
        if hold is None or not hold.computing:
            _give_back(worker, claim, error)
        else:  # the watchdog ends this process, and the supervisor counts a crash
            log.warning("chunk left to the supervisor", chunk=claim.chunk_id, reason=str(error))
    except Exception as error:
        if hold is None or hold.lost is None:
            _give_back(worker, claim, error)
        else:
            log.info("chunk lost", chunk=claim.chunk_id, reason=hold.lost)
    return []


def _compute(worker: WorkerProcess, claim: Claim, hold: Hold) -> ChunkOutcome:
    params = _params_of(claim)
    _keeping(worker, claim)  # before the work that could not be kept
    version = _model_version(worker, claim)
    reused = Reused.look(worker, claim, version)
    outputs, device_seconds = _run(worker, claim, hold, version, params, reused.left)
    merged = reused.merge(outputs)
    outcome = _gather(worker, claim, merged)
    outcome.device_seconds = device_seconds
    outcome.answers = reused.answers(merged)
    return outcome


def _run(
    worker: WorkerProcess,
    claim: Claim,
    hold: Hold,
    version: str | None,
    params: TaskParams,
    records: Sequence[Record],
) -> tuple[Sequence[Output | RecordError], float]:
    """The outputs of these records of the chunk, and the device's time for them."""
    if not records:
        return [], 0.0  # all were answered: no model is loaded for them
    engine = worker.pool.engine(_model_request(worker, claim, version))
    submission = engine.submit(records, params, _run_of(claim))
    hold.on_loss(submission.cancel)
    hold.computing = True
    outputs = submission.wait()
    if hold.lost is not None:
        raise LeaseLostError(hold.lost)
    return outputs, submission.device_seconds


def _run_of(claim: Claim) -> Run:
    """Which chunks may share what an engine computed; ``retry --all`` starts a run of its own."""
    job = claim.job
    return Run((job.id, job.started_at), kept=job.store_text == StoreText.FULL)


def _permits(worker: WorkerProcess, claim: Claim) -> Permits:
    asked, settings = claim.job.permits or (), worker.settings
    return Permits(
        pickle="pickle" in asked and settings.allow_pickle,
        remote_code="remote_code" in asked and settings.trust_remote_code,
    )


def _model_version(worker: WorkerProcess, claim: Claim) -> str | None:
    """The job's model as what it was when the job's first chunk asked for it."""
    job = claim.job
    if job.model_version is not None or get_task(job.task).architecture is None:
        return job.model_version  # type: ignore[no-any-return]
    found = worker.pool.identities.identify(job.model, job.revision, _permits(worker, claim))
    return worker.patiently(lambda: worker.database.transact(pin_model, job.id, found), "database")


def _model_request(worker: WorkerProcess, claim: Claim, version: str | None) -> ModelRequest:
    job = claim.job
    is_commit = version is not None and COMMIT.fullmatch(version) is not None
    return ModelRequest(
        job.task,
        job.model,
        version if is_commit else job.revision,
        job.dtype,
        worker.options.device,
        None if is_commit else version,
        _permits(worker, claim),
    )


def _complete(worker: WorkerProcess, claim: Claim, outcome: ChunkOutcome) -> list[ChunkMessage]:
    def complete(connection: Connection) -> list[ChunkMessage]:
        window = window_size(connection, claim.job.queue)
        return complete_chunk(connection, claim, outcome, window=window)

    # The work is done and paid for: wait for a database that is away. The fence decides whether
    # the chunk is still ours when it is back.
    return worker.patiently(lambda: worker.database.transact(complete), "database")


def _keeping(worker: WorkerProcess, claim: Claim) -> Keeping:
    """What the rows keep of texts; raises ModelLoadError where this worker lacks the job's key.

    Another may have it, as with a model: a job fails when no worker can do it.
    """
    mode = StoreText(claim.job.store_text)
    if mode != StoreText.HASH:
        return Keeping(mode)
    try:
        return Keeping(mode, check_key(worker.settings.hash_key_bytes, claim.job.hash_key_id))
    except ConfigurationError as error:
        raise ModelLoadError(str(error)) from None


def _gather(
    worker: WorkerProcess, claim: Claim, outputs: Sequence[Output | RecordError]
) -> ChunkOutcome:
    """The chunk's outcome with its entries, which take longer to make than to write."""
    params = _params_of(claim)
    keeping = _keeping(worker, claim)
    outcome = gather_outcome(claim.records, outputs, params.text_field(), keeping)
    outcome.entries = make_entries(claim.job, outcome.rows, sqlite=worker.database.is_sqlite)
    return outcome


def _report_load_failure(worker: WorkerProcess, claim: Claim, error: ModelLoadError) -> None:
    place = worker.place
    log.error("model not loaded", model=claim.job.model, job=claim.job.id, reason=str(error))
    try:
        worker.database.transact(report_load_failure, claim, str(error), place=place)
    except ServiceUnavailableError as unavailable:
        log.warning("chunk left to its lease", chunk=claim.chunk_id, reason=str(unavailable))


def _give_back(worker: WorkerProcess, claim: Claim, error: Exception) -> None:
    """A failure of the system, not of a record: the chunk is tried again, here or elsewhere."""
    expected = isinstance(error, RetryableError)
    reason = str(error) if expected else describe_error(error)
    log.warning("chunk given back", chunk=claim.chunk_id, reason=reason, exc_info=not expected)
    # What a stopping worker drops, a lost device or a full one is no fault that returns elsewhere.
    failed = not worker.stopping.is_set() and not isinstance(error, DeviceLostError | NoRoomError)
    try:
        worker.database.transact(give_back_chunk, claim, reason, failed=failed)
    except ServiceUnavailableError as unavailable:
        log.warning("chunk left to its lease", chunk=claim.chunk_id, reason=str(unavailable))
