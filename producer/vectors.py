"""A job's vectors as numpy arrays. Imports numpy when called: only workers need it installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Row

from textmill.core.errors import ConfigurationError, InvalidJobError
from textmill.db.jobs import check_not_purged
from textmill.db.queries import iter_vectors
from textmill.db.session import Database

if TYPE_CHECKING:
    import numpy as np

STORED = "<f4"  # float32, little endian


class Vector(NamedTuple):
    """The vector of one record, as a read-only float32 array."""

    record_index: int
    record_id: str
    array: np.ndarray


def read_vectors(database: Database, job: Row[Any]) -> Iterator[Vector]:
    """Every vector of the job in input order, read page by page; raises ConfigurationError.

    Raises PurgedJobError for a job whose vectors were removed.
    """
    numpy = _numpy()
    check_not_purged(job)
    return (
        Vector(index, record_id, numpy.frombuffer(blob, STORED))
        for index, record_id, blob in iter_vectors(database, job.id)
    )


def read_matrix(database: Database, job: Row[Any]) -> np.ndarray:
    """All vectors, float32 of (records, dimensions): row i is the record of index i.

    A record without a vector (an error, or not done yet) has a row of NaN, so that rows and records
    stay in step. Raises InvalidJobError if there is no vector, or if they differ in length.
    """
    numpy = _numpy()
    matrix: np.ndarray | None = None
    for index, record_id, array in read_vectors(database, job):
        if matrix is None:
            matrix = numpy.full((job.total_records, len(array)), numpy.nan, "float32")
        if len(array) != matrix.shape[1]:
            raise InvalidJobError(
                f"record {record_id!r} of job {job.id} has a vector of {len(array)} numbers, "
                f"others have {matrix.shape[1]}; read them one by one with Job.vectors()"
            )
        matrix[index] = array
    if matrix is None:
        raise InvalidJobError(
            f"job {job.id} has no vectors: its task is {job.task!r} and it is {job.status}; "
            "expected a job of embeddings that has results"
        )
    return matrix


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError:
        raise ConfigurationError(
            "vectors are read as numpy arrays, and numpy is not installed here: pip install numpy"
        ) from None
    return np
