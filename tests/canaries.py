"""Jobs whose every text is a canary, and where in a database's files one still sings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

from sqlalchemy import Row, select, text

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.stored_texts import StoreText
from textmill.db.chunks import Claim, complete_chunk
from textmill.db.indexing import make_entries
from textmill.db.loading import NewChunk, add_chunks, create_job, finish_loading
from textmill.db.models import chunks, payloads, results, reuse_keys
from textmill.db.payloads import encode_payload
from textmill.db.results import ResultRow, to_json, write_results
from textmill.db.session import Database
from textmill.workers.items import Output
from textmill.workers.rows import Keeping, gather_outcome

from .builders import claim_all, spec

TAIL = 14
KEY = b"a key of 24 bytes or so."
# One for each place that a text gets to; each is a word, so that an index of words has it too.
PLACES = ("text", "output", "detail", "extra", "declared", "message", "id")


def canary(place: str, index: int | str) -> str:
    """A word that stands in one place of one record and nowhere else, and begins as no other."""
    return blake2b(f"{place} {index}".encode(), digest_size=10).hexdigest()


def record(index: int) -> Record:
    return Record(
        index,
        canary("id", index),
        {"text": f"dear {canary('text', index)}, hello"},
        extra={"note": canary("extra", index), "country": canary("declared", index)},
    )


def output_of(index: int, errors: Iterable[int]) -> Output | RecordError:
    if index in errors:
        return RecordError("text_too_long", f"the text says {canary('message', index)}")
    return Output(
        "spam",
        0.75,
        f"answer {canary('output', index)}",
        b"\x01\x02\x03\x04" * 4,
        {"scores": {"spam": 0.75}, "quoted": canary("detail", index)},
        input_tokens=3,
        output_tokens=2,
    )


def private_job(
    database: Database,
    records: int = 6,
    *,
    errors: Sequence[int] = (1,),
    run: int | None = None,
    chunk: int = 3,
    store_text: StoreText = StoreText.FULL,
    start: int = 0,
) -> str:
    """A job of chunks of ``chunk`` records of which the first ``run`` chunks have run."""
    about = spec(
        store_text=store_text, index_columns=("country",), full_text=True, name="canaries.csv"
    )
    with database.write() as connection:
        job_id = create_job(connection, about, extra_columns=["note", "country"], load_seconds=60)
        every = [record(start + index) for index in range(records)]
        every = [
            Record(index, one.record_id, one.inputs, one.params, one.extra)
            for index, one in enumerate(every)
        ]
        new = [
            NewChunk(len(part), encode_payload(part))
            for part in (every[at : at + chunk] for at in range(0, records, chunk))
        ]
        add_chunks(connection, job_id, new, load_seconds=60)
        finish_loading(connection, job_id, total=records, errors=0, input_hash=b"h" * 32)
    for claimed in claim_all(database, job_id)[:run]:
        finish(database, claimed, errors, start)
    return job_id


def finish(database: Database, claimed: Claim, errors: Iterable[int], start: int = 0) -> None:
    """Complete a chunk as a worker does, and note its outputs for reuse."""
    outputs = [
        output_of(start + one.index, [start + at for at in errors]) for one in claimed.records
    ]
    keeping = Keeping(StoreText(claimed.job.store_text), KEY)
    outcome = gather_outcome(claimed.records, outputs, "text", keeping)
    outcome.entries = make_entries(claimed.job, outcome.rows, sqlite=database.is_sqlite)
    database.transact(complete_chunk, claimed, outcome, window=1000)
    with database.write() as connection:
        for one in claimed.records:
            key = f"{claimed.job.id[-8:]}{one.index:08}".encode()
            values = {"key": key, "job_id": claimed.job.id, "record_index": one.index}
            connection.execute(reuse_keys.insert().values(**values))


def unreadable_row(database: Database, job_id: str, index: int) -> None:
    """An input that could not be read, as the loader leaves it."""
    row = ResultRow(
        index,
        canary("id", index),
        error_code="bad_row",
        error_message=f"it was {canary('message', index)}",
        extra=to_json({"note": canary("extra", index)}),
    )
    with database.write() as connection:
        write_results(connection, job_id, [row])


def rows_of(database: Database, job_id: str) -> list[Row[tuple[object, ...]]]:
    with database.read() as connection:
        own = select(results).where(results.c.job_id == job_id).order_by(results.c.record_index)
        return list(connection.execute(own).all())


def payload_bytes(database: Database, job_id: str) -> list[bytes]:
    """A piece of each payload that the job has: compressed, so that no canary can be read in it."""
    with database.read() as connection:
        own = (
            select(payloads.c.data)
            .join(chunks, chunks.c.id == payloads.c.chunk_id)
            .where(chunks.c.job_id == job_id)
        )
        return [bytes(data[12:44]) for data in connection.scalars(own)]


def files_of(database: Database, folder: Path | None = None) -> list[Path]:
    """The files of the database: SQLite's and its log, or of PostgreSQL all below ``folder``."""
    if database.is_sqlite:
        file = Path(str(database.engine.url.database))
        return [one for one in file.parent.glob(file.name + "*") if one.is_file()]
    assert folder is not None
    with database.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("CHECKPOINT"))
        oid = connection.scalar(
            text("SELECT oid FROM pg_database WHERE datname = current_database()")
        )
    return [one for one in (folder / "data" / "base" / str(oid)).iterdir() if one.is_file()]


def found_in(files: Iterable[Path], *wanted: str | bytes) -> list[str]:
    """Which of these stand in the files, and where.

    Of a text its end: an index of words keeps of each only what differs from the one before.
    """
    needles = [one[-TAIL:].encode() if isinstance(one, str) else one for one in wanted]
    found = []
    for file in files:
        try:
            content = file.read_bytes()
        except FileNotFoundError:  # PostgreSQL replaces some of its own files at any time
            continue
        found += [f"{needle!r} in {file.name}" for needle in needles if needle in content]
    return found
