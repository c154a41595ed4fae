"""``textmill db``: the schema of the database."""

from __future__ import annotations

import typer

from textmill.producer.terminal import say, tell

app = typer.Typer(help="The database's schema.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def upgrade() -> None:
    """Create the tables or bring them to this version, all or nothing.

    \b
    Example:
      TEXTMILL_DATABASE_URL=postgresql://me:secret@db/textmill textmill db upgrade
    """
    from textmill.core.settings import load_settings
    from textmill.db import schema
    from textmill.db.session import Database

    database = Database.open(load_settings())
    try:
        before = schema.current_revision(database)
        schema.upgrade(database)
        say(f"schema {before or 'none'} -> {schema.current_revision(database)}")
    finally:
        database.close()


@app.command()
def current() -> None:
    """Print the schema's revision and what this version needs.

    \b
    Example:
      textmill db current
    """
    from textmill.core.settings import load_settings
    from textmill.db import schema
    from textmill.db.session import Database

    database = Database.open(load_settings())
    try:
        revision = schema.current_revision(database)
    finally:
        database.close()
    tell(revision or "none")
    if revision != schema.HEAD:
        say(f"this version needs schema {schema.HEAD}: run `textmill db upgrade`")
        raise typer.Exit(1)


@app.command()
def vacuum() -> None:
    """Rid the database's files of what was purged, redacted or deleted.

    It takes room for a second copy of the database, and whatever writes waits meanwhile; on
    PostgreSQL whatever reads a table that is being rewritten waits too.

    \b
    Example:
      textmill db vacuum
    """
    from textmill.db.vacuum import vacuum as rid
    from textmill.producer.cli.context import open_context

    with open_context() as context:
        rid(context.database, on_wait=lambda reason: say(f"waiting for {reason}"))
    say("the database's files hold nothing any more of what was removed")
