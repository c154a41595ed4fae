"""``textmill sql``: one query of a person's own, over a connection that can only read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from textmill.producer.cli import options as o
from textmill.producer.terminal import plural, say

if TYPE_CHECKING:
    from textmill.db.sql import Answer
    from textmill.db.sql.parameters import Word

SHOWN_ROWS = 20

Statement = Annotated[
    str | None,
    typer.Argument(metavar="STATEMENT", help="One query; without it, stdin is read."),
]
File = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="Read the query from this file.", show_default=False),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        "-p",
        metavar="NAME=VALUE",
        help="The value of :NAME in the query; may come several times.",
        show_default=False,
    ),
]
Rows = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=0,
        help="At most this many rows, 0 for all.",
        show_default=f"{SHOWN_ROWS} in a table, else all",
    ),
]
Timeout = Annotated[
    float, typer.Option(help="Seconds that the next rows may take, 0 for any time.", min=0)
]
Kind = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="table, csv, jsonl or json.",
        show_default="table on a terminal, else jsonl; by the name of --out",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Write to this new file.", show_default=False)]


def sql(
    statement: Statement = None,
    file: File = None,
    param: Params = None,
    limit: Rows = None,
    timeout: Timeout = 60.0,
    kind: Kind = None,
    out: Out = None,
    json: o.Json = False,
) -> None:
    """Ask the database with SQL of your own. The connection can only read.

    docs/schema.md names the tables and has the queries that people run.

    \b
    Examples:
      textmill sql "SELECT label, count(*) FROM results GROUP BY label"
      textmill sql "SELECT text FROM results WHERE score > :min" -p min=0.9 --out sure.csv
      textmill sql --file question.sql --json
    """
    from textmill.core.settings import load_settings
    from textmill.db.sql import ask
    from textmill.producer.rows import write_rows

    kind = _kind(kind, out, json)
    if limit is None and kind == "table":
        limit = SHOWN_ROWS
    query = _read(statement, file)
    with ask(
        load_settings(),
        query,
        _params(param or []),
        timeout_seconds=timeout,
        limit=limit + 1 if limit and kind == "table" else limit or None,  # is there one more?
    ) as answer:
        if kind == "table":
            _print(answer, limit)
        else:
            written = write_rows(answer, kind=kind, out=out)
            if out is not None:
                say(f"{plural(written, 'row')} in {out}")


def _print(answer: Answer, limit: int | None) -> None:
    from textmill.producer.cli.rows_table import print_rows

    rows = list(answer.rows())
    if not rows:
        say("no rows")
        return
    shown = rows[: limit or None]
    print_rows(answer.columns, shown)
    if len(rows) > len(shown):
        say(f"the first {len(shown)} rows; --limit 0 for all, --out FILE to keep them")


def _kind(kind: str | None, out: Path | None, json: bool) -> str:
    from textmill.core.errors import QueryError
    from textmill.producer.rows import check_kind, kind_of

    if kind == "table" and out is not None:
        raise QueryError(f"--format table is for the terminal; expected another for --out {out}")
    if kind is not None:
        named, found = f"--format {kind}", check_kind(kind)
    elif out is not None:
        named, found = f"--out {out}", kind_of(out)
    else:
        return "jsonl" if json or not sys.stdout.isatty() else "table"
    if json and found not in ("json", "jsonl"):
        raise QueryError(f"--json and {named} contradict each other; leave one of them out")
    return found


def _read(statement: str | None, file: Path | None) -> str:
    from textmill.core.errors import QueryError

    if statement is not None and file is not None:
        raise QueryError(f"there is a statement and --file {file}; expected one of the two")
    if statement is not None:
        return statement
    if file is None and sys.stdin.isatty():
        raise QueryError("there is no statement; give one, or --file FILE, or pipe one in")
    try:
        given = sys.stdin.buffer.read() if file is None or str(file) == "-" else file.read_bytes()
        return given.decode("utf-8-sig")
    except OSError as error:
        raise QueryError(f"--file {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise QueryError(f"{file or 'stdin'}: not UTF-8 at byte {error.start}") from None


def _params(given: list[str]) -> dict[str, Word]:
    from textmill.core.errors import QueryError

    params: dict[str, Word] = {}
    for name, value in map(_param, given):
        if params.setdefault(name, value) is not value:
            raise QueryError(f"--param {name} is given twice; expected one value")
    return params


def _param(given: str) -> tuple[str, Word]:
    from textmill.core.errors import QueryError
    from textmill.db.sql.parameters import Word

    name, equals, value = given.partition("=")
    name = name.strip().removeprefix(":")
    if not equals or not name.isidentifier():
        raise QueryError(f"--param {given}: expected NAME=VALUE, such as --param min=0.9")
    return name, Word(value)
