"""Vectors read back from both databases: as arrays, as one matrix, and in exported files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Row

from textmill.core.errors import InvalidJobError
from textmill.db.batches import iter_batches
from textmill.db.filters import ResultFilter
from textmill.db.queries import iter_vectors
from textmill.db.results import ResultRow, write_results
from textmill.db.session import Database
from textmill.producer.exports import Export, write_export
from textmill.producer.vectors import read_matrix, read_vectors

from .. import builders
from ..builders import job_of, make_job

MODEL = Path(__file__).resolve().parents[2] / "examples" / "sms_spam" / "model"

database, postgresql, tables_url = builders.database, builders.postgresql, builders.tables_url

VECTORS = {
    0: np.array([0.1, -1 / 3, 1e-9], "<f4"),
    1: np.array([1, 0, 16777217], "<f4"),
    3: np.array([np.pi, 3e38, -1e-38], "<f4"),
}


def fill(database: Database, vectors: dict[int, np.ndarray]) -> Row[Any]:
    """A job of four embeddings, of which record 2 is an error; another job has its own."""
    job_id, other = (make_job(database, [4], task="embeddings") for _ in range(2))
    rows = [ResultRow(i, f"id{i}", "text", vector=v.tobytes()) for i, v in vectors.items()]
    error = ResultRow(2, "id2", "text", error_code="empty_text", error_message="no tokens")
    with database.write() as connection:
        write_results(connection, job_id, [*rows, error])
        write_results(connection, other, [row._replace(record_id="other") for row in rows])
    return job_of(database, job_id)


@pytest.mark.parametrize("page_rows", [1, 3, 100])
def test_vectors_come_in_input_order_with_their_ids(database: Database, page_rows: int) -> None:
    job = fill(database, VECTORS)
    found = list(iter_vectors(database, job.id, page_rows=page_rows))
    assert found == [(index, f"id{index}", v.tobytes()) for index, v in VECTORS.items()]
    for vector in read_vectors(database, job):
        assert vector.record_id == f"id{vector.record_index}"
        assert vector.array.dtype == np.float32
        assert (vector.array == VECTORS[vector.record_index]).all()


def test_a_row_of_the_matrix_is_the_record_of_that_index(database: Database) -> None:
    matrix = read_matrix(database, fill(database, VECTORS))
    assert (matrix.shape, matrix.dtype) == ((4, 3), np.float32)
    assert np.isnan(matrix[2]).all(), "a record without a vector keeps its place"
    for index, vector in VECTORS.items():
        assert (matrix[index] == vector).all()


def test_a_matrix_that_cannot_be_made_says_why(database: Database) -> None:
    uneven = fill(database, VECTORS | {3: np.array([1], "<f4")})
    with pytest.raises(InvalidJobError, match=r"'id3' .* has a vector of 1 numbers, others have 3"):
        read_matrix(database, uneven)
    none = job_of(database, make_job(database, [1]))
    with pytest.raises(InvalidJobError, match="its task is 'classification' and it is queued"):
        read_matrix(database, none)
    assert list(read_vectors(database, none)) == []


def test_exported_numbers_are_the_same_float32(database: Database, tmp_path: Path) -> None:
    job = fill(database, VECTORS)
    for kind in ("jsonl", "csv", "tsv"):
        rows = Export(job=job, read=partial(iter_all, database, job), format=kind)
        write_export(rows, tmp_path / f"all.{kind}")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    from_json = [json.loads(line)["vector"] for line in lines]
    assert from_json[2] is None
    for kind, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"all.{kind}").open(newline="") as file:
            cells = [row["vector"] for row in csv.DictReader(file, delimiter=delimiter)]
        assert [json.loads(cell) if cell else None for cell in cells] == from_json
    for index, vector in VECTORS.items():
        assert (np.array(from_json[index], "float32") == vector).all()


def iter_all(database: Database, job: Row[Any], columns: Any, extra: Any) -> Iterator[Any]:
    return iter_batches(database, job, ResultFilter(), columns, extra)


def test_without_numpy_vectors_say_so_and_the_rest_works(home: Path) -> None:
    """On a machine that only submits and watches."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from textmill import Job, submit, TextmillError\n"
        f"job = submit([{{'text': 'a'}}], task='embeddings', model='{MODEL}')\n"
        "print(job.status, list(job.results()))\n"
        "for read in (job.vectors, job.matrix):\n"
        "    try:\n"
        "        read()\n"
        "    except TextmillError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status, *messages = done.stdout.splitlines()
    assert status == "queued []"
    assert len(messages) == 2
    for message in messages:
        assert "numpy is not installed here: pip install numpy" in message
