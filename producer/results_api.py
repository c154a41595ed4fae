"""Questions to a job's results from Python: rows as a stream, pages, counts, tables.

The questions are ``db/queries.py``'s. pyarrow and pandas are imported when a table is asked for.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from textmill.core.errors import ConfigurationError, InvalidJobError
from textmill.core.tasks import nearest
from textmill.db.batches import iter_batches
from textmill.db.filters import Order, ResultFilter, check_columns
from textmill.db.jobs import get_job
from textmill.db.queries import (
    PAGE_ROWS,
    Page,
    count_results,
    is_streamed,
    iter_pages,
    read_page,
)
from textmill.db.result_rows import Result
from textmill.db.session import Database
from textmill.producer.exports.export import COLUMNS, make_schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from sqlalchemy import Row

MOST_ROWS = 1 << 40  # more than any job has


class Wanted(TypedDict, total=False):
    """The fields of ``ResultFilter``, as the arguments of ``Job.results``."""

    label: str | None
    min_score: float | None
    max_score: float | None
    search: str | None
    errors: bool | None
    error_code: str | None
    record_id: str | None
    where: Mapping[str, str | float]
    limit: int | None
    order: Order
    after: str | None


def make_filter(wanted: Wanted) -> ResultFilter:
    """The arguments as a filter; raises InvalidJobError for one that there is not, or a value."""
    known = list(Wanted.__annotations__)
    if unknown := [name for name in wanted if name not in known]:
        raise InvalidJobError(
            f"results have no filter {unknown[0]!r}{nearest(unknown[0], known)}; "
            f"there are: {', '.join(known)}"
        )
    return ResultFilter(**wanted)


class Results:
    """The rows of a job that fulfil a filter: iterate over them, or ask for a page, a number, a
    table. Each asks the database anew, so of a job that still runs it is what there is by then.

    Raises InvalidJobError for a column that the job's records do not have.
    """

    def __init__(self, database: Database, job_id: str, wanted: ResultFilter) -> None:
        self._database = database
        self._job_id = job_id
        self._wanted = wanted
        check_columns(self._job(), wanted)

    def _job(self) -> Row[Any]:
        with self._database.read() as connection:
            return get_job(connection, self._job_id)

    def __iter__(self) -> Iterator[Result]:
        """Row after row, read page by page: in little memory, with no transaction left open."""
        for page in iter_pages(self._database, self._job(), self._wanted):
            yield from page

    @property
    def streamed(self) -> str | None:
        """Why every row is looked at, because no index knows a condition; None if that is not so.

        The rows come all the same, as they are found.
        """
        return is_streamed(self._database, self._job(), self._wanted)

    def page(self, rows: int = 100) -> Page:
        """The first ``rows`` and, as its ``after``, what ``after=`` of the next page is."""
        rows = _number_of("a page", rows)
        return read_page(self._database, self._job(), self._wanted, rows)

    def count(self) -> int:
        """How many rows there are: at once where counters know it, else by looking at each."""
        job, wanted = self._job(), self._wanted
        known = None
        if wanted.after is None:
            with self._database.read() as connection:
                known = count_results(connection, job, wanted)
        if known is None:
            return sum(len(page) for page in iter_pages(self._database, job, wanted))
        return known if wanted.limit is None else min(known, wanted.limit)

    def batches(self, rows: int = PAGE_ROWS) -> Iterator[pa.RecordBatch]:
        """The rows as columns, at most ``rows`` at a time, fewer where they are large.

        The columns of a row, ``detail`` as JSON text and ``vector`` as a list of float32, then the
        input's own as strings, ``input_label`` where a row has a ``label`` of its own: as an export
        has them. Raises InvalidJobError for ``rows`` that are no number of rows.
        """
        return self._batches(_number_of("a batch", rows))

    def _batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        job = self._job()
        schema = make_schema(job.extra_columns)
        page_rows = min(rows, PAGE_ROWS)
        for batch in iter_batches(
            self._database, job, self._wanted, COLUMNS, job.extra_columns, page_rows=page_rows
        ):
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    def to_arrow(self) -> pa.Table:
        """All rows in one table, as ``batches`` has them."""
        import pyarrow as pa

        return pa.Table.from_batches(self.batches(), make_schema(self._job().extra_columns))

    def to_pandas(self) -> pd.DataFrame:
        """All rows in one data frame, as ``batches`` has them; whole numbers are ``Int64``.

        Raises ConfigurationError where pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ConfigurationError(
                "results are read into a data frame by pandas, which is not installed here: "
                "pip install pandas"
            ) from None
        import pyarrow as pa

        kinds = {pa.int64(): pd.Int64Dtype()}  # NaN for none would make floats of them
        return self.to_arrow().to_pandas(types_mapper=kinds.get)


def _number_of(what: str, rows: Any) -> int:
    try:
        number = operator.index(rows)  # numpy's whole numbers are no int
    except TypeError:
        raise InvalidJobError(
            f"{what} of {rows!r} rows; expected a whole number, such as 100"
        ) from None
    if not 1 <= number <= MOST_ROWS:
        raise InvalidJobError(f"{what} of {rows} rows; expected at least 1, at most {MOST_ROWS}")
    return number
