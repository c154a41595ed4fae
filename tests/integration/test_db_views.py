"""The views: what the page says of them, their rows, and that they take the indexes."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from sqlalchemy import inspect, text

from textmill.core.errors import ServiceUnavailableError
from textmill.core.tasks import TASKS
from textmill.db.results import ResultRow, to_json
from textmill.db.schema import upgrade
from textmill.db.session import Database
from textmill.db.views import QUANTILES, view_name

from ..builders import open_database
from ..filled import filled_job

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Views\n")[2].partition("\n## ")[0]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with open_database(database_url) as database:
        upgrade(database)
        yield database


def ask(database: Database, sql: str, **params: Any) -> list[dict[str, Any]]:
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(text(sql), params).mappings()]
    return [{name: _decoded(name, value) for name, value in row.items()} for row in rows]


def _decoded(name: str, value: Any) -> Any:
    """JSON, which is text on SQLite."""
    json = name in {"scores", "labels", "answers", "json", "extra"}
    return orjson.loads(value) if json and isinstance(value, str) else value


def documented_columns() -> dict[str, list[str]]:
    """The page's columns of every view, in their order."""
    ends = re.search(r"All begin with (.+?) and end with (.+?), as in", SECTION, re.DOTALL)
    assert ends is not None
    first, last = (re.findall(r"`(\w+)`", part) for part in ends.groups())
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", SECTION, re.MULTILINE)
    found = {name: [*first, *re.findall(r"`(\w+)`", own), *last] for name, own in rows}
    for part in SECTION.split("\n### ")[2:]:
        listed = re.search(r"^`(\w+)`: .*?\n\n(`.*?)\n\n", part + "\n\n", re.DOTALL | re.MULTILINE)
        assert listed is not None
        found[listed[1]] = re.findall(r"`(\w+)`", listed[2])
    return found


def test_the_page_names_every_view_with_its_columns(database: Database) -> None:
    with database.read() as connection:
        looked = inspect(connection)
        made = {
            name: [column["name"] for column in looked.get_columns(name)]
            for name in looked.get_view_names()
        }
    assert made == documented_columns()
    ours = {name for name, task in TASKS.items() if task.runner.startswith("textmill.")}
    assert {view_name(name) for name in ours} < set(made), "a task of ours without a view"


def test_each_task_shows_what_it_found(database: Database) -> None:
    labels = {"scores": {"spam": 0.9, "ham": 0.1}}
    row = ResultRow(0, "a", "free prize", label="spam", score=0.9, detail=to_json(labels))
    failed = ResultRow(1, "b", "", error_code="empty_text", error_message="the text is empty")
    extra = row._replace(extra=to_json({"country": "DE"}), input_tokens=5)
    job = filled_job(database, [extra, failed], name="sms.csv", model="org/small").id
    both = ask(database, "SELECT * FROM classification_results ORDER BY record_index")
    assert both == [
        {
            "job_id": job,
            "job_name": "sms.csv",
            "model": "org/small",
            "record_index": 0,
            "record_id": "a",
            "text": "free prize",
            "label": "spam",
            "score": 0.9,
            "scores": {"spam": 0.9, "ham": 0.1},
            "labels": None,
            "error_code": None,
            "error_message": None,
            "extra": {"country": "DE"},
            "input_tokens": 5,
            "output_tokens": None,
        },
        dict.fromkeys(both[0])
        | {"job_id": job, "job_name": "sms.csv", "model": "org/small", "record_index": 1}
        | {"record_id": "b", "text": "", "error_code": "empty_text"}
        | {"error_message": "the text is empty"},
    ]
    several = row._replace(detail=to_json(labels | {"labels": ["spam", "ad"]}))
    filled_job(database, [several], task="zero-shot-classification", params={"labels": ["spam"]})
    (found,) = ask(database, "SELECT * FROM zero_shot_classification_results")
    assert (found["scores"], found["labels"]) == (labels["scores"], ["spam", "ad"])


def test_questions_have_their_context_wherever_it_lies(database: Database) -> None:
    detail = {"question": "Who?", "start": 3, "end": 6, "answers": [{"answer": "Ada"}]}
    row = ResultRow(0, "a", "It Ada", score=0.5, output="Ada", detail=to_json(detail))
    task = {"task": "question-answering"}
    filled_job(database, [row], name="each", **task)
    fixed = row._replace(text="Who?", detail=to_json(detail | {"answers": None}))
    filled_job(database, [fixed], name="one", params={"context": "It Ada"}, **task)
    own = "question, context, answer, answer_start, answer_end, answers"
    found = ask(database, f"SELECT {own} FROM question_answering_results ORDER BY job_name")
    assert [tuple(row.values()) for row in found] == [
        ("Who?", "It Ada", "Ada", 3, 6, [{"answer": "Ada"}]),
        ("Who?", "It Ada", "Ada", 3, 6, None),
    ]


def test_tasks_that_write_show_why_they_ended(database: Database) -> None:
    cut = to_json({"finish_reason": "length"})
    row = ResultRow(0, "a", "Hello", output="Bonjour", detail=cut, output_tokens=2)
    target = {"target_lang": "fr"}
    filled_job(database, [row], task="translation", params=target)
    filled_job(database, [row], task="summarization")
    answers = [None, {"name": "Ada"}, [1, "b"], "text", 7, False]
    written = [
        row._replace(record_index=at, detail=to_json({"finish_reason": "stop", "json": answer}))
        for at, answer in enumerate(answers)
    ]
    filled_job(database, written, task="generation")
    (found,) = ask(database, "SELECT * FROM translation_results")
    assert (found["text"], found["translation"], found["finish_reason"]) == (
        "Hello", "Bonjour", "length"
    )  # fmt: skip
    assert (found["source_lang"], found["target_lang"], found["output_tokens"]) == (None, "fr", 2)
    (found,) = ask(database, "SELECT summary, finish_reason FROM summarization_results")
    assert tuple(found.values()) == ("Bonjour", "length")
    prompts = "SELECT prompt, output, CAST(json AS TEXT) AS answer FROM generation_results"
    rows = ask(database, f"{prompts} ORDER BY record_index")
    assert {(row["prompt"], row["output"]) for row in rows} == {("Hello", "Bonjour")}
    assert [row["answer"] and orjson.loads(row["answer"]) for row in rows] == answers


def test_vectors_say_their_dimensions(database: Database) -> None:
    vector = np.array([0.5, -1, 2], "<f4").tobytes()
    filled_job(database, [ResultRow(0, "a", "t", vector=vector)], task="embeddings")
    (found,) = ask(database, "SELECT vector, dimensions FROM embeddings_results")
    assert (bytes(found["vector"]), found["dimensions"]) == (vector, 3)


def nearest_rank(scores: list[float], percent: int) -> float:
    return sorted(scores)[math.ceil(percent * len(scores) / 100) - 1]


def test_labels_show_how_their_scores_lie(database: Database) -> None:
    dice = random.Random(1)
    sizes = {"one": 1, "two": 2, "ten": 10, "many": 237}
    scores = {name: [round(dice.random(), 2) for _ in range(n)] for name, n in sizes.items()}
    rows = [
        ResultRow(at, str(at), "t", label=label, score=score)
        for at, (label, score) in enumerate((n, s) for n in sizes for s in scores[n])
    ]
    rows.append(ResultRow(len(rows), "bad", None, error_code="bad_row"))
    dice.shuffle(rows)
    filled_job(database, rows[: len(rows) // 2])
    job = filled_job(database, rows, name="all").id
    filled_job(database, rows, task="token-classification")  # somebody's own task
    found = ask(database, "SELECT * FROM classification_labels WHERE job_id = :job", job=job)
    assert {row["label"] for row in found} == set(sizes)
    for row in found:
        own = scores[row["label"]]
        assert (row["job_name"], row["records"]) == ("all", len(own))
        assert row["score_mean"] == pytest.approx(sum(own) / len(own))
        assert (row["score_min"], row["score_max"]) == (min(own), max(own))
        for name, percent in QUANTILES.items():
            assert row[f"score_{name}"] == nearest_rank(own, percent), (row["label"], name)
    (both,) = ask(database, "SELECT COUNT(DISTINCT job_id) AS jobs FROM classification_labels")
    assert both["jobs"] == 2
    one = "SELECT label, score_median FROM classification_labels WHERE job_id = :job"
    (found_one,) = ask(database, f"{one} AND label = 'two'", job=job)
    assert found_one["score_median"] == min(scores["two"])


def test_jobs_have_times_that_can_be_read(database: Database) -> None:
    filled_job(database, [ResultRow(0, "a", "t"), ResultRow(1, "b", None, error_code="x")])
    with database.write() as connection:
        connection.execute(
            text("UPDATE jobs SET created_at = 1795811400, started_at = 1795811401.5,"
                 " finished_at = 1795811405.5, total_records = 4")
        )  # fmt: skip
    (job,) = ask(database, "SELECT * FROM job_overview")
    assert str(job["created_at"]).removesuffix("+00:00") == "2026-11-27 20:30:00"
    assert (job["percent"], job["run_seconds"], job["records_per_second"]) == (50, 4, 0.5)
    filled_job(database, [], name="empty")
    (job,) = ask(database, "SELECT * FROM job_overview WHERE job_name = 'empty'")
    assert (job["percent"], job["started_at"], job["run_seconds"]) == (None, None, None)


KEY = "results_pkey|PRIMARY KEY"
QUESTIONS = [  # about one job, and the index that has to serve each
    ("classification_results WHERE {} AND label = 'a' ORDER BY record_index LIMIT 5", KEY),
    ("classification_results WHERE {} AND label = 'a' AND score > 0.99", "ix_results_score"),
    ("classification_results WHERE {} AND record_id = 'x'", "ix_results_record_id"),
    ("classification_results WHERE {} AND error_code = 'bad_row'", "ix_results_error"),
    ("classification_labels WHERE {}", f"{KEY}|ix_results_score"),
]


@pytest.mark.parametrize(("question", "index"), QUESTIONS)
def test_a_view_takes_the_indexes_of_the_table(
    database: Database, question: str, index: str
) -> None:
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    codes = dict.fromkeys(range(0, 3000, 500), "bad_row")
    rows = [
        ResultRow(n, f"r{n}", "t", label="ab"[n % 2], score=n / 3000, error_code=codes.get(n))
        for n in range(3000)
    ]
    job = filled_job(database, rows).id
    filled_job(database, rows)
    question = question.format(f"job_id = '{job}'")
    with database.write() as connection:
        if not database.is_sqlite:  # which reads a small table as a whole
            connection.execute(text("ANALYZE results"))
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = connection.execute(text(f"{explain} SELECT * FROM {question}")).all()
    lines = [str(row[-1]) for row in plan]
    blocks = ("ix_results_score", "ix_results_record_id")
    if database.is_sqlite and index in blocks:  # which SQLite takes where it is told to only
        index = KEY
    assert re.search(index, "\n".join(lines)), lines
    read = [line for line in lines if re.search(r"SCAN (results|jobs)|Seq Scan", line)]
    assert read == [], lines


def test_an_upgrade_makes_them_anew(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("DROP VIEW job_overview")
        connection.exec_driver_sql("CREATE VIEW job_overview AS SELECT 1 AS old")
        connection.exec_driver_sql("CREATE VIEW of_mine AS SELECT * FROM jobs")
    upgrade(database)
    with database.read() as connection:
        looked = inspect(connection)
        assert len(looked.get_columns("job_overview")) > 1
        assert "of_mine" in looked.get_view_names()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_view_of_ones_own_on_them_is_said_before_anything_changes(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("CREATE VIEW of_mine AS SELECT * FROM translation_results")
    with pytest.raises(ServiceUnavailableError, match="view of_mine depends on"):
        upgrade(database)
    with database.read() as connection:
        views = set(inspect(connection).get_view_names())
    assert views == {*documented_columns(), "of_mine"}
