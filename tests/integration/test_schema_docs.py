"""docs/schema.md and examples/queries.sql tell the truth: each name exists, each query answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Index, text
from sqlalchemy.dialects import postgresql, sqlite

from textmill.core.errors import RecordError
from textmill.core.jobs import CHUNK_TRANSITIONS, JOB_TRANSITIONS, JobSpec, Record
from textmill.core.messages import ChunkMessage
from textmill.db.chunks import complete_chunk
from textmill.db.indexing import make_entries
from textmill.db.loading import NewChunk, add_chunks, create_job, finish_loading
from textmill.db.models import metadata, postgresql_words
from textmill.db.payloads import encode_payload
from textmill.db.results import ResultRow, write_results
from textmill.db.schema import upgrade
from textmill.db.session import Database
from textmill.db.workers import WorkerInfo, register_worker
from textmill.workers.items import Output
from textmill.workers.tasks import gather_outcome

from ..builders import claim, dispatch, open_database
from ..machine import lacks
from ..servers import PostgresServer, wait_until

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "queries.sql"
DIALECTS = {"sqlite": sqlite.dialect(), "postgresql": postgresql.dialect()}


@dataclass(frozen=True, slots=True)
class Query:
    """One SQL block of the page: its heading, its databases, and the indexes it says it uses."""

    heading: str
    database: str | None  # None: both
    sql: str
    indexes: Sequence[str] = field(default_factory=list)


def read_queries(page: str) -> list[Query]:
    found: list[Query] = []
    for section in page.split("\n### ")[1:]:
        indexes: list[str] = []
        for part in re.split(r"^(```sql.*?^```$)", section, flags=re.MULTILINE | re.DOTALL):
            block = re.fullmatch(r"```sql ?(\w*)\n(.*?)```", part, flags=re.DOTALL)
            if block is None:  # what is said before a block holds for it and its variant
                said = re.findall(r"(?:Uses|and)\s(`ix_\w+`|the\sprimary\skey)", part)
                indexes = [" ".join(name.strip("`").split()) for name in said] or (
                    indexes if not part.strip() else []
                )
            elif block[1] != "delete":
                found.append(
                    Query(section.splitlines()[0], block[1] or None, block[2].strip(), indexes)
                )
    return found


QUERIES = read_queries(DOC)

# (text, label found, score of spam, the label known); a label of None is an error row
MESSAGES = [
    ("free prize", "spam", 0.99, "spam"),
    ("call now to win", "spam", 0.95, "spam"),
    ("free prize", "spam", 0.99, "spam"),
    ("see you at nine", "ham", 0.02, "ham"),
    ("ok", "ham", 0.45, "spam"),
    ("win a walk with me", "spam", 0.55, "ham"),
    ("", None, 0.0, "ham"),
]
SECOND_MODEL = {"ok": ("spam", 0.71), "win a walk with me": ("ham", 0.2)}


def _output(message: str, label: str | None, spam: float) -> Output | RecordError:
    if label is None:
        return RecordError("empty_text", "the text has no tokens")
    scores = {"spam": spam, "ham": round(1 - spam, 6)}
    return Output(label=label, score=scores[label], detail={"scores": scores}, input_tokens=4)


def _load(database: Database, records: Sequence[Record], *, bad: int = 0, **about: Any) -> str:
    """A queued job of one chunk for each four records, and ``bad`` rows that cannot be read."""
    job = JobSpec(
        **{"task": "classification", "model": "org/small", "index_columns": ("country",), **about}
    )
    with database.write() as connection:
        job_id = create_job(connection, job, extra_columns=["label", "country"], load_seconds=60)
        chunks = [records[start : start + 4] for start in range(0, len(records), 4)]
        new = [NewChunk(len(chunk), encode_payload(chunk)) for chunk in chunks]
        add_chunks(connection, job_id, new, load_seconds=60)
        rows = [ResultRow(len(records) + n, f"bad{n}", error_code="bad_row") for n in range(bad)]
        write_results(connection, job_id, rows)
        total = len(records) + bad
        finish_loading(connection, job_id, total=total, errors=bad, input_hash=b"")
    return job_id


def _run(
    database: Database, job_id: str, outputs: Mapping[int, Output | RecordError], chunks: int = 99
) -> None:
    """Claim and complete the job's first ``chunks`` chunks, as a worker does."""
    for message in dispatch(database, job_id)[:chunks]:
        claimed = claim(database, message, "host:1:a")
        assert claimed is not None
        outcome = gather_outcome(claimed.records, [outputs[r.index] for r in claimed.records])
        outcome.entries = make_entries(claimed.job, outcome.rows, sqlite=database.is_sqlite)
        outcome.device_seconds = 0.5
        database.transact(complete_chunk, claimed, outcome, window=99)


def _records() -> list[Record]:
    return [
        Record(index, f"m{index}", {"text": message}, extra={"label": known, "country": "FR"})
        for index, (message, _, _, known) in enumerate(MESSAGES)
    ]


def fill(database: Database) -> dict[str, Any]:
    """Four jobs as Textmill leaves them: a multi-label one, one that runs and has a stalled chunk,
    two of two models on one input, the latest with bad rows; returns the queries' parameters."""
    upgrade(database)
    worker = WorkerInfo("host:1:a", "host", 1, "cuda:0", 4, ("default",))
    database.transact(register_worker, worker)
    first = {i: _output(m, label, spam) for i, (m, label, spam, _) in enumerate(MESSAGES)}
    second = {
        i: _output(m, *SECOND_MODEL.get(m, (label, spam)))
        for i, (m, label, spam, _) in enumerate(MESSAGES)
    }
    many = _load(database, [Record(0, "m0", {"text": "rude advert"})], model="org/multi")
    both = {"labels": ["advert", "rude"], "scores": {"advert": 0.9, "rude": 0.8}}
    _run(database, many, {0: Output("advert", 0.9, detail=both, labels=["advert", "rude"])})
    going = _load(database, [*_records(), Record(7, "m7", {"text": "more"})], name="going on")
    _run(database, going, first, chunks=1)
    assert claim(database, dispatch_again(database, going), "host:1:a", lease=-1)
    other = _load(database, _records(), model="org/large", name="second model")
    _run(database, other, second)
    _wait_for_the_next_id()
    job = _load(database, _records(), bad=2, name="comments.csv")
    _run(database, job, first)
    return {
        "job": job,
        "other_job": other,
        "many": many,
        "record": "m5",
        "label": "rude",
        "after": -1,
    }


def _wait_for_the_next_id() -> None:
    """Ids sort by time only from one millisecond to the next."""
    start = time.time_ns() // 1_000_000
    wait_until(lambda: time.time_ns() // 1_000_000 > start, every=0.0005)


def dispatch_again(database: Database, job_id: str) -> ChunkMessage:
    """The message of the job's chunk that is dispatched already."""
    with database.read() as connection:
        where = "job_id = :job AND status = 'dispatched'"
        chunk = connection.scalar(text(f"SELECT id FROM chunks WHERE {where}"), {"job": job_id})
    return ChunkMessage(chunk, 0, "default", "normal")


@dataclass(frozen=True, slots=True)
class Filled:
    """A database with jobs in it, and the ids to ask about."""

    database: Database
    params: dict[str, Any]

    @property
    def kind(self) -> str:
        return "sqlite" if self.database.is_sqlite else "postgresql"

    def ask(self, sql: str, **params: Any) -> list[dict[str, Any]]:
        with self.database.read() as connection:
            statement = text(sql.rstrip(";"))
            given = {**self.params, **params}
            wanted = {name: given[name] for name in statement.compile().params}
            return [dict(row) for row in connection.execute(statement, wanted).mappings()]

    def answer(self, heading: str, at: int = 0, **params: Any) -> list[dict[str, Any]]:
        """What the page's query under the heading that starts so answers on this database."""
        found = [
            query.sql
            for query in QUERIES
            if query.heading.startswith(heading) and query.database in (None, self.kind)
        ]
        return self.ask(found[at], **params)


@pytest.fixture
def filled(database_url: str) -> Iterator[Filled]:
    with open_database(database_url) as database:
        yield Filled(database, fill(database))


def test_the_page_has_at_least_ten_queries_for_each_database() -> None:
    for kind in DIALECTS:
        headings = {query.heading for query in QUERIES if query.database in (None, kind)}
        assert len(headings) >= 10
        assert headings == {query.heading for query in QUERIES}, f"a variant for {kind} is missing"


def test_every_query_of_the_page_runs(filled: Filled) -> None:
    for query in QUERIES:
        if query.database in (None, filled.kind):
            try:
                filled.ask(query.sql)
            except Exception as error:
                raise AssertionError(f"{query.heading}: {error}") from error


def test_the_queries_about_labels_answer(filled: Filled) -> None:
    spam = filled.answer("Spam above 0.9")
    assert [(row["score"], row["country"]) for row in spam] == [
        (0.99, "FR"), (0.99, "FR"), (0.95, "FR")
    ]  # fmt: skip
    over = filled.answer("Every record whose spam score")
    assert [(row["label"], row["spam_score"]) for row in over][-1] == ("ham", 0.45)
    counts = filled.answer("How many of each label")
    assert [(row["label"], row["records"]) for row in counts] == [("spam", 4), ("ham", 2)]
    assert sum(row["percent"] for row in counts) == pytest.approx(100)
    unsure = filled.answer("The least certain")
    assert [row["record_id"] for row in unsure][:2] == ["m5", "m1"]
    known = filled.answer("The label found against")
    assert [tuple(row.values()) for row in known] == [
        ("ham", "ham", 1), ("ham", "spam", 1), ("spam", "ham", 1), ("spam", "spam", 3)
    ]  # fmt: skip
    several = filled.answer("Records that have a label", job=filled.params["many"])
    assert [row["record_id"] for row in several] == ["m0"]
    page = filled.answer("Records of a label in input order", after=0)
    assert [row["record_id"] for row in page] == ["m1", "m2", "m5"]
    twice = filled.answer("Texts that came more than once")
    assert [(row["copies"], row["text"]) for row in twice] == [(2, "free prize")]


def test_the_queries_by_values_and_words_answer(filled: Filled) -> None:
    french = filled.answer("Records with a value in a column")
    assert [row["record_id"] for row in french] == [f"m{n}" for n in range(len(MESSAGES))]
    found = filled.answer("Records with words, in every job")
    assert {row["id"] for row in found} >= {filled.params["job"], filled.params["other_job"]}
    assert {(row["text"], row["label"]) for row in found} == {("free prize", "spam")}


def test_the_queries_about_days_and_models_answer(filled: Filled) -> None:
    days = filled.answer("The share of each label")
    assert sum(row["percent"] for row in days) == pytest.approx(100 * len({r["day"] for r in days}))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(days[0]["day"]))
    changed = filled.answer("Which texts changed")
    assert {(row["text"], row["label"], row["other_label"]) for row in changed} == {
        ("ok", "ham", "spam"),
        ("win a walk with me", "spam", "ham"),
    }
    pairs = filled.answer("Which texts changed", 1)
    assert sum(row["records"] for row in pairs) == len(MESSAGES)
    costs = {row["id"]: row for row in filled.answer("What each job cost")}
    cost = costs[filled.params["job"]]
    assert (cost["device_seconds"], cost["input_tokens"], cost["records"]) == (1.0, 24, 9)
    assert cost["records_per_second"] > 0


def test_the_queries_about_errors_and_single_records_answer(filled: Filled) -> None:
    errors = {row["error_code"]: row["records"] for row in filled.answer("Error rows by reason")}
    assert errors == {"bad_row": 2, "empty_text": 1}
    (found,) = filled.answer("Where is record X")
    assert (found["record_index"], found["label"]) == (5, "spam")
    everywhere = filled.answer("Where is record X", 1)
    assert [row["label"] for row in everywhere] == ["spam", "ham"]


def test_the_queries_about_what_runs_answer(filled: Filled) -> None:
    (job,) = filled.answer("Jobs that have not ended")
    assert (job["name"], job["percent"]) == ("going on", 50)
    assert 0 <= job["seconds_left"] < 60
    (worker,) = filled.answer("Workers that live now")
    assert (worker["device"], worker["chunks_held"]) == ("cuda:0", 1)
    (stalled,) = filled.answer("Stalled chunks")
    assert (stalled["job_id"], stalled["records"]) == (job["id"], 4)
    standing = filled.answer("Where a job's chunks stand", job=job["id"])
    assert [(row["status"], row["records"]) for row in standing] == [("done", 4), ("running", 4)]


def test_the_counters_agree_with_the_rows_as_the_page_says(filled: Filled) -> None:
    sums = filled.ask(
        "SELECT done_records + error_records AS processed, error_records AS errors, done_records,"
        " (SELECT COUNT(*) FROM results WHERE job_id = jobs.id) AS rows_there,"
        " (SELECT COUNT(error_code) FROM results WHERE job_id = jobs.id) AS error_rows,"
        " (SELECT SUM(records) FROM label_counts WHERE job_id = jobs.id) AS labelled"
        " FROM jobs WHERE model <> 'org/multi'"
    )
    assert len(sums) == 3
    for row in sums:
        assert row["processed"] == row["rows_there"]
        assert row["errors"] == row["error_rows"]
        assert row["done_records"] == row["labelled"]


def test_the_deletion_removes_an_ended_job_and_spares_a_running_one(filled: Filled) -> None:
    deletion = re.search(r"```sql delete\n(.*?)```", DOC, flags=re.DOTALL)
    assert deletion is not None
    (going,) = filled.ask("SELECT id FROM jobs WHERE finished_at IS NULL")
    before = _rows_by_table(filled)
    for job_id in (going["id"], filled.params["job"]):
        with filled.database.write() as connection:
            for statement in deletion[1].strip().split(";\n"):
                connection.execute(text(statement.rstrip(";")), {"job": job_id})

    after = _rows_by_table(filled)
    left = {name: before[name] - after[name] for name in before}
    # One payload: the input of the record that ended as an error.
    assert left == {
        "jobs": 1,
        "chunks": 2,
        "payloads": 1,
        "results": 9,
        "result_values": 7,
        "label_counts": 2,
    }


def _rows_by_table(filled: Filled) -> dict[str, int]:
    names = ("jobs", "chunks", "payloads", "results", "result_values", "label_counts")
    return {name: filled.ask(f"SELECT COUNT(*) AS n FROM {name}")[0]["n"] for name in names}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_queries_use_the_indexes_they_name(filled: Filled) -> None:
    named = set()
    for query in QUERIES:
        if query.database in (None, "sqlite"):
            rows = filled.ask(f"EXPLAIN QUERY PLAN {query.sql}")
            plan = "\n".join(row["detail"] for row in rows)
            for index in query.indexes:
                pattern = r"PRIMARY KEY|autoindex" if "primary" in index else rf"INDEX {index}\b"
                assert re.search(pattern, plan), f"{query.heading}: {plan}"
                named.add(index)
    assert named == {"the primary key", *(index.name for index in _indexes())}


def _indexes() -> list[Index]:
    return [index for table in metadata.sorted_tables for index in table.indexes]


def test_the_page_names_every_table_and_column_with_its_types() -> None:
    documented = {}
    for section in DOC.split("\n### `")[1:]:
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| .+ \|$", section, flags=re.MULTILINE)
        documented[section.partition("`")[0]] = rows[: _length_of_first_table(section)]
    assert documented == {
        table.name: [(column.name, *map(_type(column), DIALECTS)) for column in table.columns]
        for table in metadata.tables.values()
    } | {
        "result_words": [
            (column.name, kept, _type(column)("postgresql"))
            for column, kept in zip(postgresql_words.columns, ("rowid", "–"), strict=True)
        ]
    }


def _length_of_first_table(section: str) -> int:
    table = section[section.index("|---") :].partition("\n\n")[0]
    return len(table.splitlines()) - 1


def _type(column: Any) -> Any:
    def name(kind: str) -> str:
        compiled = column.type.compile(dialect=DIALECTS[kind]).lower()
        # PostgreSQL's `float` is what it shows as `double precision`.
        return compiled.replace("float", "double precision") if kind == "postgresql" else compiled

    return name


def test_the_page_names_every_index_with_its_columns() -> None:
    rows = re.findall(r"^\| `(ix_\w+)`.*? \| `([\w, ()>]+)`", DOC, flags=re.MULTILINE)
    assert dict(rows) == {
        index.name: ", ".join(str(getattr(one, "name", one)) for one in index.expressions)
        for index in _indexes()
    }


def test_the_page_names_every_status_and_its_next_ones() -> None:
    section = DOC.partition("\n## Statuses\n")[2].partition("\n## ")[0]
    for at, transitions in enumerate([JOB_TRANSITIONS, CHUNK_TRANSITIONS]):
        half = section.split("Of a chunk:")[at]
        rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+?) \|$", half, flags=re.MULTILINE)
        found = {status: set(re.findall(r"`(\w+)`", targets)) for status, targets in rows}
        assert found == {status: set(targets) for status, targets in transitions.items()}


def test_every_example_query_answers_about_the_latest_job(filled: Filled) -> None:
    statements = EXAMPLE.read_text(encoding="utf-8").strip().split(";\n")
    assert len(statements) >= 10
    for statement in statements:
        assert filled.ask(re.sub(r"--.*", "", statement)), f"no rows: {statement}"


def test_the_example_queries_run_in_each_databases_own_shell(
    filled: Filled, database_url: str
) -> None:
    if filled.kind == "sqlite":
        command = ["sqlite3", "-bail", database_url.removeprefix("sqlite:///")]
    else:
        psql = PostgresServer.program("psql")
        command = [str(psql), database_url, "-v", "ON_ERROR_STOP=1", "-f", "-"]
    if shutil.which(command[0]) is None:
        lacks(f"the shell {command[0]} is not installed here")
    with EXAMPLE.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"comments.csv" in done.stdout
