"""A job under way, and the full check of how it ended, for tests in which something goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..servers import PASSWORD, wait_until
from .conftest import FAKE, Shell


class Load:
    """A job of texts that each take a moment and differ from all others."""

    def __init__(
        self, shell: Shell, records: int = 200, *, first: Sequence[str] = (), last: str = ""
    ) -> None:
        self._shell = shell
        slow = [f"slow 0.020{at:05d}" for at in range(records)]
        self.lines = [*first, *slow, *([last] if last else [])]
        name = f"load-{len(list(shell.folder.glob('load-*')))}.txt"
        self.job = shell.submit(shell.write(name, "\n".join(self.lines)), *FAKE)

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The job's rows of a table."""
        name = "id" if table == "jobs" else "job_id"
        return [row for row in self._shell.rows(table) if row[name] == self.job]

    @property
    def done(self) -> int:
        """How many records have their row."""
        return len(self.rows("results"))

    def wait_for_results(self, more: int = 20) -> None:
        """Until so many more records are done than now."""
        before = self.done
        wait_until(lambda: self.done >= before + more, 60, what=f"with {more} more", every=0.1)

    def wait_for_end(self) -> None:
        """Until the job has ended by itself."""
        wait_until(lambda: self.rows("jobs")[0]["finished_at"], 60, what="finished", every=0.1)

    def assert_complete(self, *, crashes: int = 0) -> None:
        """Wait for the end. Every record then has one right result, and nothing else is left."""
        self.wait_for_end()
        (job,) = self.rows("jobs")
        counted = (job["status"], job["done_records"], job["error_records"], job["input_tokens"])
        assert counted == ("completed", len(self.lines), 0, len(self.lines)), job
        results = sorted(self.rows("results"), key=lambda row: row["record_index"])
        assert [row["record_index"] for row in results] == list(range(len(self.lines)))
        assert [row["output"] for row in results] == [line.upper() for line in self.lines]
        labels = {row["label"]: row["records"] for row in self.rows("label_counts")}
        assert labels == Counter(line[0].upper() for line in self.lines)
        chunks = self.rows("chunks")
        assert {chunk["status"] for chunk in chunks} == {"done"}
        # No outage is a failure of a chunk, let alone a crash.
        assert sum(chunk["crashes"] for chunk in chunks) == crashes
        assert [chunk for chunk in chunks if chunk["failures"]] == []
        own = {chunk["id"] for chunk in chunks}
        assert [row for row in self._shell.rows("payloads") if row["chunk_id"] in own] == []
        for log in self._shell.folder.glob("*.log"):
            assert PASSWORD not in log.read_text(), "told in a message about a server"


def worker_pids(shell: Shell, workers: int) -> set[int]:
    """Process ids in the table of workers, once there are so many."""
    wait_until(lambda: len(shell.workers()) == workers, 60, what=f"with {workers} workers")
    return {worker["pid"] for worker in shell.workers()}
