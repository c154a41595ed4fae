"""``textmill tasks``: what can be done, and with which options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from textmill.producer.cli import options as o
from textmill.producer.terminal import emit_json, table, tell

Name = Annotated[str | None, typer.Argument(metavar="TASK", show_default=False)]


def tasks(name: Name = None, json: o.Json = False) -> None:
    """List the tasks, or the options of one with their defaults.

    \b
    Examples:
      textmill tasks
      textmill tasks classification
    """
    from textmill.core.settings import load_settings
    from textmill.core.tasks import TASKS, get_task, load_plugins

    load_plugins(load_settings().plugins)
    chosen = [get_task(name)] if name else list(TASKS.values())
    if json:
        emit_json([_as_dict(task) for task in chosen])
    elif name:
        tell(f"{chosen[0].name}: {chosen[0].description}\n")
        rows = [[row["option"], row["default"], row["meaning"]] for row in _options(chosen[0])]
        tell(table(["option", "default", "meaning"], rows) if rows else "no options")
        if own := _own_columns(chosen[0]):
            tell(f"\na column with each record's own value: {', '.join(own)}")
    else:
        tell(table(["task", "does"], [[task.name, task.description] for task in chosen]))
        tell("\n`textmill tasks TASK` lists the options of one")


def _as_dict(task: Any) -> dict[str, Any]:
    return {
        "task": task.name,
        "description": task.description,
        "options": _options(task),
        "own_columns": _own_columns(task),
    }


def _own_columns(task: Any) -> list[str]:
    from textmill.core.tasks import options_of

    return [
        f"{o.option_name(name)}-column"
        for name in options_of(task.params)
        if name in task.params.OWN
    ]


def _options(task: Any) -> list[dict[str, str]]:
    from textmill.core.tasks import options_of

    return [
        {
            "option": o.option_name(option),
            "default": "" if field.default in (None, ()) else str(field.default),
            "meaning": field.description or "",
        }
        for option, field in options_of(task.params).items()
    ]
