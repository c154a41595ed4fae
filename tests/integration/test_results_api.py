"""``job.results(…)`` in Python: a stream, pages, counts, Arrow and pandas."""

from __future__ import annotations

import math
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from textmill import Job, results, submit
from textmill.core.errors import ConfigurationError, InvalidJobError
from textmill.db.filters import ResultFilter
from textmill.db.result_rows import Result
from textmill.db.results import ResultRow, to_json
from textmill.db.session import Database
from textmill.producer.results_api import Results, make_filter

from .. import builders
from ..builders import claim_all, complete, make_job
from ..filled import filled_job

# Fixtures; imported by name, they would be redefined by every test's parameter.
tables_url = builders.tables_url
postgresql = builders.postgresql
database = builders.database

EXTRA = ["label", "country", "year", "tags"]
ROWS = [
    ResultRow(0, "a", "free prize", b"h", "spam", 0.9, detail=to_json({"labels": ["spam", "ad"]}),
              extra=to_json({"label": "ham", "country": "DE", "year": 2026, "tags": ["x", 1]}),
              input_tokens=4, output_tokens=0),
    ResultRow(1, "b", 'a\n"b"\t\u202e', b"h", "ham", 0.8, "out", struct.pack("<2f", 0.5, -1.25),
              extra=to_json({"label": None, "country": "FR", "year": 1.5}), input_tokens=3),
    ResultRow(2, "c", None, error_code="bad_row", error_message="no text"),
    ResultRow(3, "d", "free", b"h", "ham", 0.1, vector=b"", extra=to_json({"country": ""})),
]  # fmt: skip
COLUMNS = ["record_index", "record_id", "text", "label", "score", "output", "vector", "detail"]
COLUMNS += ["error_code", "error_message", "input_tokens", "output_tokens", "reused_from"]
COLUMNS += ["input_label", "country", "year", "tags"]


@pytest.fixture
def job_id(database: Database) -> str:
    return str(filled_job(database, ROWS, extra_columns=EXTRA, index_columns=("country",)).id)


def ask(database: Database, job_id: str, **wanted: Any) -> Results:
    return Results(database, job_id, ResultFilter(**wanted))


def test_results_are_read_anew_by_each_question(database: Database) -> None:
    job_id = make_job(database, (2, 1))
    found = ask(database, job_id, label="ham")
    assert (list(found), found.count(), found.page().rows) == ([], 0, [])
    for claimed in claim_all(database, job_id):
        complete(database, claimed)
    rows = list(found)
    assert [type(row) for row in rows] == [Result] * 3
    assert [row.record_index for row in found] == [0, 1, 2]
    assert found.count() == found.to_arrow().num_rows == len(found.page().rows) == 3


def test_pages_follow_one_another(database: Database, job_id: str) -> None:
    for order, expected in (("input", [0, 1, 2, 3]), ("score", [0, 1, 3])):
        found, after = [], None
        while True:
            page = ask(database, job_id, order=order, after=after).page(2)
            found += [row.record_index for row in page.rows]
            after = page.after
            if after is None:
                break
        assert found == expected
    with pytest.raises(InvalidJobError, match="a page of 0 rows; expected at least 1"):
        ask(database, job_id).page(0)


def test_a_limit_holds_for_pages_too(database: Database, job_id: str) -> None:
    page = ask(database, job_id, limit=3).page(2)
    assert ([row.record_index for row in page.rows], page.after) == ([0, 1], "1")
    page = ask(database, job_id, limit=2).page(3)
    assert ([row.record_index for row in page.rows], page.after) == ([0, 1], None)
    assert ask(database, job_id, limit=0).page(3).rows == []


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, 4),
        ({"limit": 3}, 3),
        ({"limit": 9}, 4),
        ({"after": "1"}, 2),
        ({"label": "ham"}, 2),
        ({"label": "ad"}, 1),
        ({"label": "ham", "after": "1"}, 1),
        ({"errors": True}, 1),
        ({"search": "free"}, 2),
        ({"search": "free", "limit": 1}, 1),
        ({"where": {"country": "FR"}}, 1),
        ({"order": "score"}, 3),
    ],
)
def test_rows_are_counted_whatever_is_asked(
    database: Database, job_id: str, wanted: dict[str, Any], expected: int
) -> None:
    found = ask(database, job_id, **wanted)
    assert found.count() == len(list(found)) == expected


def test_what_has_no_index_is_said(database: Database, job_id: str) -> None:
    assert ask(database, job_id, where={"country": "DE"}).streamed is None
    assert "column 'year' has no index" in str(ask(database, job_id, where={"year": 2026}).streamed)
    assert [row.record_index for row in ask(database, job_id, where={"year": 2026})] == [0]


def test_a_table_has_a_rows_columns_then_the_inputs(database: Database, job_id: str) -> None:
    table = ask(database, job_id).to_arrow()
    assert table.column_names == COLUMNS
    first, second, third, fourth = table.to_pylist()
    assert {name: value for name, value in first.items() if value is not None} == {
        "record_index": 0, "record_id": "a", "text": "free prize", "label": "spam", "score": 0.9,
        "detail": first["detail"], "input_tokens": 4, "output_tokens": 0, "input_label": "ham",
        "country": "DE", "year": "2026", "tags": first["tags"],
    }  # fmt: skip
    assert first["tags"].replace(" ", "") == '["x",1]'
    assert first["detail"].replace(" ", "") == '{"labels":["spam","ad"]}'
    assert (second["text"], second["vector"]) == (ROWS[1].text, [0.5, -1.25])
    assert (second["input_label"], second["year"], second["tags"]) == (None, "1.5", None)
    assert (third["error_code"], third["text"], third["country"]) == ("bad_row", None, None)
    assert (fourth["vector"], fourth["country"]) == ([], "")
    assert table.schema.field("vector").type == pa.list_(pa.float32())


def test_each_column_of_a_table_has_a_name_of_its_own(database: Database) -> None:
    own = {"label": "a", "input_label": "b", "input_input_label": "c", "extra": "d"}
    rows = [ResultRow(0, "r0", "x", label="spam", extra=to_json(own))]
    job = filled_job(database, rows, extra_columns=list(own))
    table = ask(database, job.id).to_arrow()
    assert len(set(table.column_names)) == len(table.column_names)
    (row,) = table.to_pylist()
    assert (row["label"], row["input_label"], row["input_input_label"]) == ("spam", "b", "c")
    assert (row["input_input_input_label"], row["extra"]) == ("a", "d")
    assert ask(database, job.id).to_pandas().input_label.tolist() == ["b"]


def test_a_table_without_rows_has_its_columns_all_the_same(database: Database, job_id: str) -> None:
    empty = ask(database, job_id, label="none").to_arrow()
    assert empty.schema == ask(database, job_id).to_arrow().schema
    assert empty.num_rows == 0


def test_batches_are_of_the_size_asked_for(database: Database, job_id: str) -> None:
    batches = ask(database, job_id, order="score").batches(2)
    assert isinstance(batches, Iterator)
    assert [batch.column("record_id").to_pylist() for batch in batches] == [["a", "b"], ["d"]]


@pytest.mark.parametrize("rows", [0, -1, "a", 1.5, None, 1 << 70])
def test_a_number_of_rows_that_cannot_be_meant_is_refused_at_once(
    database: Database, job_id: str, rows: Any
) -> None:
    found = ask(database, job_id)
    for what, question in (("page", found.page), ("batch", found.batches)):
        with pytest.raises(InvalidJobError) as caught:
            question(rows)
        assert f"a {what} of {rows!r} rows; expected" in str(caught.value)


def test_a_data_frame_keeps_whole_numbers_and_what_is_missing(
    database: Database, job_id: str
) -> None:
    frame = ask(database, job_id).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == COLUMNS
    assert frame.record_index.tolist() == [0, 1, 2, 3]
    assert frame.input_tokens.dtype == pd.Int64Dtype()
    assert frame.input_tokens.isna().tolist() == [False, False, True, True]
    assert frame[frame.label == "ham"].score.tolist() == [0.8, 0.1]
    assert frame.vector[1].tolist() == [0.5, -1.25]


def test_without_pandas_it_is_said_how_to_get_it(
    database: Database, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as Python marks what cannot be imported
    with pytest.raises(ConfigurationError, match=r"by pandas, .*: pip install pandas"):
        ask(database, job_id).to_pandas()
    assert ask(database, job_id).to_arrow().num_rows == 4


def test_neither_pandas_nor_pyarrow_is_imported_before_a_table_is_asked_for() -> None:
    code = (
        "import sys, textmill.producer.api; "
        "sys.exit(any(name in sys.modules for name in ('pandas', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_column_that_there_is_not_is_refused_at_once(database: Database, job_id: str) -> None:
    with pytest.raises(InvalidJobError, match=r"no column 'contry'.*did you mean 'country'"):
        ask(database, job_id, where={"contry": "DE"})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"after": 3}, "after is 3; expected what an earlier page ended with"),
        ({"where": "a=b"}, "where is 'a=b'; expected columns with their values"),
        ({"where": {1: "x"}}, "where has the column 1; expected its name as text"),
        ({"where": {"n": 10**5000}}, "where 'n' is a whole number of too many digits"),
        ({"min_score": 10**400}, "min_score is a whole number of over 300 digits; expected a"),
        ({"max_score": -(10**400)}, "max_score is a whole number of over 300 digits; expected a"),
        ({"min_score": math.nan}, "min_score is nan; expected a number"),
        ({"min_score": 10**30, "max_score": 1}, "which no score fulfils"),
        ({"order": ["score"]}, "order is ['score']; expected one of input, score, fastest"),
        ({"min_score": "a"}, "min_score is 'a'; expected a number"),
        ({"errors": "yes"}, "errors is 'yes'; expected True or False"),
        ({"limit": "3"}, "limit is '3'; expected a number of rows"),
        ({"limt": 3}, "no filter 'limt' (did you mean 'limit'?)"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_named(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        make_filter(wanted)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize("order", ["input", "score"])
def test_a_score_may_be_any_number(database: Database, job_id: str, order: str) -> None:
    for wanted, expected in (
        ({"min_score": 10**30}, 0),
        ({"max_score": 10**30}, 3),
        ({"min_score": -(10**30), "max_score": math.inf}, 3),
        ({"min_score": 0, "max_score": 0.8}, 2),
    ):
        assert len(list(ask(database, job_id, order=order, **wanted))) == expected


def test_columns_to_index_are_a_list_and_not_a_name(home: Path) -> None:
    with pytest.raises(InvalidJobError, match=r"index_columns is 'country'; expected a list, such"):
        submit([{"text": "a", "country": "DE"}], model="m", index_columns="country")
    with pytest.raises(InvalidJobError, match="no job 'last'"):
        Job("last")


@pytest.mark.parametrize("reference", [None, 5, b"06h0", Path("06h0"), ["last"], {"id": 1}])
def test_a_job_that_is_no_text_is_named(home: Path, reference: Any) -> None:
    expected = re.escape(f"the job is {reference!r}; expected its id, the start of its id, its key")
    for ask_for in (Job, results):
        with pytest.raises(InvalidJobError, match=expected):
            ask_for(reference)
