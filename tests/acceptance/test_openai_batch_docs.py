"""docs/openai-batch.md shows what its commands print: they are run again, on real models."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from textmill.producer.openai_batch.endpoints import ENDPOINTS
from textmill.producer.openai_batch.fields import FIELDS

from ..documented import console_blocks
from ..real_models import PACKAGES
from .conftest import ROOT, TEXTMILL, Shell

PAGE = (ROOT / "docs" / "openai-batch.md").read_text(encoding="utf-8")
# What differs from job to job: digests, and when the job was accepted. And the last digits of
# vectors, from one kind of CPU to another.
OF_THE_JOB = [
    (r"[0-9a-f]{32}", "ID"),
    (r'"created":\d+', '"created":0'),
    (r"\bfp_\w+", "FP"),
    (r"-?0\.\d{6,}", lambda found: f"{float(found[0]):.3f}"),
    (r'"embedding":"[\w+/=]+"', '"embedding":"BASE64"'),
]


def test_every_field_has_its_row_in_the_table() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| ", PAGE, re.MULTILINE)
    told = {name for fields, _ in rows for name in re.findall(r"`(\w+)`", fields)}
    needed = {endpoint.field for endpoint in ENDPOINTS.values()} | {"model"}
    assert needed | {name for fields in FIELDS.values() for name in fields} <= told


@pytest.mark.timeout(600)  # two real models, one of them made of a quantized file
def test_the_page_shows_what_is_printed(shell: Shell) -> None:
    _link_models(shell)
    shell.start_worker()  # keeps the model for the next example
    for block in console_blocks(PAGE):
        for command, printed in block:
            _check(shell, command, printed)
    _check_answers(shell.folder)
    for source in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        done = _run(shell, [sys.executable, "-c", source])
        assert done.returncode == 0, done.stderr
        assert "The capital of France is Paris." in done.stdout


def _link_models(shell: Shell) -> None:
    (shell.folder / "models").mkdir()
    for name, folder in PACKAGES.items():
        (shell.folder / "models" / name).symlink_to(folder)


def _check(shell: Shell, command: str, printed: str) -> None:
    if command.startswith("cat ") and not (shell.folder / command.split()[1]).exists():
        shell.write(command.split()[1], printed)
        return
    done = _run(shell, ["bash", "-c", command])
    assert done.returncode in (0, 3) or printed.startswith("error: "), done.stderr
    if printed.endswith("\n…\n"):
        assert printed.removesuffix("…\n") in done.stderr, (command, done.stderr)
    else:
        assert _without_ids(done.stdout or done.stderr) == _without_ids(printed), command


def _run(shell: Shell, words: list[str]) -> subprocess.CompletedProcess[str]:
    env = shell.env | {"PATH": f"{TEXTMILL.parent}:{shell.env['PATH']}", "COLUMNS": "100"}
    return subprocess.run(
        words,
        cwd=shell.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _without_ids(text: str) -> str:
    for pattern, same in OF_THE_JOB:
        text = re.sub(pattern, same, text)
    return text


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _decode(vector: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(vector), "<f4")


def _check_answers(folder: Path) -> None:
    """What the page says of them, as the official package sees it."""
    answers = _lines(folder / "answers.jsonl")
    chats = [ChatCompletion.model_validate(one["response"]["body"]) for one in answers]
    assert [len(chat.choices) for chat in chats] == [1, 2, 1]
    assert json.loads(chats[2].choices[0].message.content or "") == {
        "name": "Ada Lovelace",
        "age": 20,
    }
    first, second = _lines(folder / "vectors.out.jsonl")
    response = CreateEmbeddingResponse.model_validate(first["response"]["body"])
    assert [len(one.embedding) for one in response.data] == [4, 4]
    shown = json.loads(next(line for line in PAGE.splitlines() if '"doc-2","response"' in line))
    vectors = [_decode(one["response"]["body"]["data"][0]["embedding"]) for one in (second, shown)]
    np.testing.assert_allclose(*vectors, atol=1e-4)
