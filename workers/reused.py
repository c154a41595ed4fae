"""Records of a chunk that earlier results answer: found before the model is asked, and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from textmill.core.errors import RecordError
from textmill.core.jobs import Record
from textmill.core.stored_texts import StoreText
from textmill.db.chunks import Claim
from textmill.db.reuse import find_answers, job_scope
from textmill.workers.items import Output
from textmill.workers.process import WorkerProcess


@dataclass(frozen=True, slots=True)
class Reused:
    """A chunk's records, their reuse keys (none: nothing is reused), and what was found."""

    records: Sequence[Record]
    keys: Sequence[bytes]
    found: dict[bytes, Output]
    keeps: bool  # whether the keys of what is computed may be written

    @classmethod
    def look(cls, worker: WorkerProcess, claim: Claim, version: str | None) -> Reused:
        """Ask for the chunk's records, if its job says so."""
        job, records = claim.job, claim.records
        if not job.reuse:
            return cls(records, (), {}, keeps=False)
        scope = job_scope(job, version, worker.settings.hash_key_bytes)
        keys = [scope.key(record) for record in records]

        def find() -> dict[bytes, Row[Any]]:
            with worker.database.read() as connection:
                return find_answers(connection, list(dict.fromkeys(keys)))

        rows = worker.patiently(find, "database")
        found = {key: _output(row) for key, row in rows.items()}
        return cls(records, keys, found, keeps=job.store_text != StoreText.NONE)

    @property
    def left(self) -> list[Record]:
        """The records that have to be computed, in their order."""
        if not self.found:
            return list(self.records)
        pairs = zip(self.records, self.keys, strict=True)
        return [record for record, key in pairs if key not in self.found]

    def merge(self, computed: Sequence[Output | RecordError]) -> Sequence[Output | RecordError]:
        """An output for each record of the chunk, in their order."""
        if not self.found:
            return computed
        rest = iter(computed)
        return [self.found.get(key) or next(rest) for key in self.keys]

    def answers(self, outputs: Sequence[Output | RecordError]) -> dict[bytes, int]:
        """The keys of the chunk's outputs, for those who ask later; of equal records the first."""
        if not self.keeps:
            return {}
        kept: dict[bytes, int] = {}
        for record, key, output in zip(self.records, self.keys, outputs, strict=True):
            if isinstance(output, Output):
                kept.setdefault(key, record.index)
        return kept


def _output(row: Row[Any]) -> Output:
    detail = row.detail
    return Output(
        row.label,
        row.score,
        row.output,
        row.vector,
        detail,
        labels=(detail or {}).get("labels") or (),
        input_tokens=row.input_tokens or 0,
        output_tokens=row.output_tokens or 0,
        reused_from=row.reused_from or row.job_id,
    )
