"""Console examples of the docs, as commands with what the page says they print."""

from __future__ import annotations

import re
import shlex

JOB = re.compile(r"\b[0-9a-hjkmnp-tv-z]{16}\b")  # an id, which differs from run to run


def console_blocks(page: str) -> list[list[tuple[str, str]]]:
    """Each block's commands in order."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    return [_commands(block) for block in blocks]


def _commands(block: str) -> list[tuple[str, str]]:
    found = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        end = _end_of_command(part)
        found.append((part[:end], part[end + 1 :]))
    return found


def _end_of_command(part: str) -> int:
    """Where the command's last line ends: quotes and backslashes go on over lines."""
    for match in re.finditer(r"\n", part):
        command = part[: match.start()]
        try:
            shlex.split(command)
        except ValueError:
            continue
        if not command.endswith("\\"):
            return match.start()
    raise AssertionError(f"a command without an end: {part}")
