"""What the lines of a batch say of their job, counted: a job has one endpoint and one model.

Whether all lines agree is known at the end of the file only, so what is wrong is said then, all
of it at once.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from textmill.core.errors import InputError
from textmill.producer.openai_batch.endpoints import Endpoint, find_endpoint
from textmill.producer.terminal import plural

MOST_NAMES = 1000  # that are told from each other; a file of more has names by mistake
SHOWN_NAMES = 20
SHOWN_LINES = 5


@dataclass(slots=True)
class Lines:
    """How many lines say one thing, and the first of them."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.first) < SHOWN_LINES:
            self.first.append(line)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.first) else ""
        return f"{plural(self.count, 'line')}: {', '.join(map(str, self.first))}{more}"


class Tally:
    """Lines by what they say, in bounded memory."""

    def __init__(self) -> None:
        self.by_name: dict[str, Lines] = {}
        self.others = 0

    def add(self, name: str, line: int) -> None:
        if name not in self.by_name and len(self.by_name) >= MOST_NAMES:
            self.others += 1
            return
        self.by_name.setdefault(name, Lines()).add(line)

    def listed(self, names: list[str]) -> str:
        """``gpt-4o (60 lines), o3 (1 line)``, in the file's order."""
        told = [f"{name} ({plural(self.by_name[name].count, 'line')})" for name in names]
        rest = len(told) - SHOWN_NAMES
        ending = f" and {rest} more" if rest > 0 else ""
        ending += f" and further ones in {plural(self.others, 'line')}" if self.others else ""
        return ", ".join(told[:SHOWN_NAMES]) + ending


class Census:
    """The endpoints and model names of all lines.

    ``model`` serves every name; without it ``aliases`` say which model serves which.
    """

    def __init__(self, file: str, endpoint: Endpoint) -> None:
        self._file = file
        self._endpoint = endpoint
        self._urls = Tally()
        self._names = Tally()
        self._model = ""
        self._aliases: Mapping[str, str] = {}
        self._refused = False

    def serve(self, model: str, aliases: Mapping[str, str]) -> None:
        """Say what model the job has, and what the names in the file mean; before any line."""
        self._model, self._aliases = model, aliases
        self._refused = not model

    def add(self, url: str, name: str | None, line: int) -> bool:
        """Count a line in; False once the file cannot become a job."""
        endpoint = find_endpoint(url)
        self._urls.add(url if endpoint is None else endpoint.url, line)
        if endpoint is not self._endpoint:
            self._refused = True
        if name is not None:
            self._names.add(name, line)
            if self._aliases and not self._fits(name):
                self._refused = True
        return not self._refused

    def _fits(self, name: str) -> bool:
        served = self._aliases.get(name)
        return served is not None and _same(served, self._model)

    def check(self) -> None:
        """Raise InputError unless all lines can be one job."""
        self._check_urls()
        if not self._model or self._aliases:
            self._check_names()

    def _check_urls(self) -> None:
        if set(self._urls.by_name) <= {self._endpoint.url}:
            return
        counted = list(self._urls.by_name.items())[:SHOWN_NAMES]
        told = "; ".join(f"{url} ({lines})" for url, lines in counted)
        raise InputError(
            f"{self._file} mixes endpoints: {told}; a job has one, so split the file: "
            f"{self._split('.url', self._endpoint.url)}"
        )

    def _check_names(self) -> None:
        names = list(self._names.by_name)
        unknown = [name for name in names if name not in self._aliases]
        if unknown:
            one = len(unknown) == 1
            example = shlex.quote(f"{unknown[0]}=FOLDER")
            raise InputError(
                f"{self._file}: no model is named for {self._names.listed(unknown)}; pass "
                f"--model-alias {example}{'' if one else ', once for each'}, or --model FOLDER for "
                "all names"
            )
        if any(not self._fits(name) for name in names):
            told = ", ".join(
                f"{name} -> {self._aliases[name]} ({plural(lines.count, 'line')})"
                for name, lines in list(self._names.by_name.items())[:SHOWN_NAMES]
            )
            raise InputError(
                f"{self._file} names several models: {told}; a job has one, so split the file: "
                f"{self._split('.body.model', names[0])}"
            )

    def _split(self, path: str, value: str) -> str:
        program = shlex.quote(f"select({path} == {json.dumps(value)})")
        return f"jq -c {program} {shlex.quote(self._file)} > part.jsonl"

    def describe(self) -> str:
        """``OpenAI batch file: 120 chat completions, model gpt-4o-mini -> ./folder``."""
        lines = sum(lines.count for lines in self._urls.by_name.values())
        names = list(self._names.by_name)
        told = ", ".join(names[:SHOWN_NAMES]) + ", …" * (len(names) > SHOWN_NAMES)
        word = "model" if len(names) == 1 else "models"
        what = f"{plural(lines, self._endpoint.noun)}, {word} {told}".rstrip()
        return f"OpenAI batch file: {what} -> {self._model}"


def _same(one: str, other: str) -> bool:
    """Whether two folders are one, or two names on the hub."""
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
