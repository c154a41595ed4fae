"""A chunk is seconds of work: how many records it has depends on what the job's model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from textmill.producer.terminal import plural

from ..tiny_generators import save_generator
from ..tiny_gguf import save_gguf
from ..tiny_translators import save_bart, save_marian
from .conftest import Refusals, Shell


@pytest.mark.parametrize(
    ("task", "words", "name", "save", "sizes"),
    [
        ("translation", ["--target-lang", "fr"], "m", save_generator, [32, 32, 6]),
        ("translation", ["--target-lang", "fr"], "m.gguf", save_gguf, [32, 32, 6]),
        ("translation", [], "m", save_marian, [70]),
        ("summarization", [], "m", save_generator, [32, 32, 6]),
        ("summarization", [], "m", save_bart, [64, 6]),
        ("generation", ["--max-new-tokens", "9"], "m", save_generator, [32, 32, 6]),
        ("zero-shot-classification", ["--labels", "a,b"], "m", save_generator, [64, 6]),
    ],
)
def test_a_model_that_writes_text_gets_smaller_chunks(
    shell: Shell,
    refusals: Refusals,
    task: str,
    words: list[str],
    name: str,
    save: Callable[[Path], Path],
    sizes: list[int],
) -> None:
    texts = shell.write("texts.txt", "how are you\n" * 70)
    words = ["--task", task, "--model", str(save(shell.folder / name)), *words]
    code, _, err = refusals.submit(texts, *words, "--dry-run")
    assert code == 0, err
    assert f"in about {plural(len(sizes), 'chunk')} (0 bad)" in err
    code, _, err = refusals.submit(texts, *words)
    assert code == 0, err
    assert [row["records"] for row in shell.rows("chunks")] == sizes


def test_a_model_that_is_not_here_gets_the_chunks_of_the_task(
    shell: Shell, refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a database of one's own it may lie where the workers are."""
    url = f"sqlite:///{shell.folder / 'own.db'}"
    monkeypatch.setenv("TEXTMILL_DATABASE_URL", url)
    shell.env["TEXTMILL_DATABASE_URL"] = url
    assert shell.run("db", "upgrade").returncode == 0
    texts = shell.write("texts.txt", "how are you\n" * 70)
    words = ["--task", "translation", "--target-lang", "fr", "--model", "/elsewhere/model"]
    code, _, err = refusals.submit(texts, *words)
    assert code == 0, err
    assert [row["records"] for row in shell.rows("chunks")] == [70]
