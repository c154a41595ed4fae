"""Which model a job ran, and which it may run: real commands, workers, a hub cache by hand."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from ..hub_cache import HubCache
from ..servers import wait_until
from ..tiny_gguf import save_gguf
from ..tiny_models import save_model
from .conftest import Shell, assert_user_error

OLD, NEW = "a" * 40, "b" * 40
TEXTS = "good\nfree win now call me\nthe bad text\n"


def _model(shell: Shell, name: str) -> Path:
    """A classifier whose labels begin with its name."""
    return save_model(shell.folder / name, id2label={0: f"{name} ham", 1: f"{name} spam"})


@pytest.fixture
def cache(shell: Shell) -> HubCache:
    """``org/tiny`` at two commits; ``main`` points to the first. The shell's commands see it."""
    found = HubCache(shell.folder / "hf")
    found.add(OLD, _model(shell, "old"))
    found.add(NEW, _model(shell, "new"))
    found.point("main", OLD)
    shell.env["HF_HOME"] = str(found.home)
    return found


def _labels(shell: Shell, job_id: str) -> set[str]:
    """The names of the models that gave the job's labels."""
    rows = [row for row in shell.rows("results") if row["job_id"] == job_id]
    return {row["label"].partition(" ")[0] for row in rows}


def _wait_for_end(shell: Shell, job_id: str) -> dict[str, object]:
    def job() -> dict[str, object]:
        return next(row for row in shell.rows("jobs") if row["id"] == job_id)

    wait_until(lambda: job()["finished_at"], 120, what="finished")
    return job()


def test_the_commit_is_that_of_the_submission(shell: Shell, cache: HubCache) -> None:
    texts = shell.write("texts.txt", TEXTS)
    first = shell.submit(texts, "--model", "org/tiny", "--revision", "main")
    cache.point("main", NEW)
    shell.start_worker()
    _wait_for_end(shell, first)
    assert _labels(shell, first) == {"old"}
    shown = shell.run("show", first).stdout
    assert "org/tiny @ main" in shown
    assert OLD in shown
    assert shell.json("show", first)["model_version"] == OLD

    second = shell.submit(texts, "--model", "org/tiny")
    _wait_for_end(shell, second)
    assert _labels(shell, second) == {"new"}


@pytest.mark.timeout(600)  # three workers load a model, one after the other
def test_all_workers_of_a_job_run_the_commit_of_the_first(shell: Shell, cache: HubCache) -> None:
    """Submitted where nobody knows the commit; the branch moves between two workers."""
    texts = shell.write("texts.txt", "free win now call me\n" * 60_000)
    shell.env["HF_HOME"] = str(shell.folder / "nothing")
    shell.env["TEXTMILL_DATABASE_URL"] = f"sqlite:///{shell.folder / 'own.db'}"
    assert shell.run("db", "upgrade").returncode == 0
    job_id = shell.submit(texts, "--model", "org/tiny")
    assert shell.json("show", job_id)["model_version"] is None

    shell.env["HF_HOME"] = str(cache.home)
    worker = shell.start_worker("--slots", "1")
    wait_until(lambda: shell.json("show", job_id)["done_records"], 60, what="with results")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert shell.json("show", job_id)["status"] == "running"
    cache.point("main", NEW)
    shell.start_worker()
    assert _wait_for_end(shell, job_id)["model_version"] == OLD
    assert _labels(shell, job_id) == {"old"}


def test_a_model_that_is_trained_again_in_its_folder_is_loaded_anew(shell: Shell) -> None:
    texts = shell.write("texts.txt", TEXTS)
    model = _model(shell, "old")
    shell.start_worker()
    first = shell.submit(texts, "--model", model)
    before = _wait_for_end(shell, first)["model_version"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", str(before))
    _model(shell, "new").rename(shell.folder / "other")
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes((shell.folder / "other" / name).read_bytes())

    second = shell.submit(texts, "--model", model)
    assert _wait_for_end(shell, second)["model_version"] != before
    assert (_labels(shell, first), _labels(shell, second)) == ({"old"}, {"new"})
    shell.run("retry", first, "--all")
    _wait_for_end(shell, first)
    assert _labels(shell, first) == {"new"}


def test_what_cannot_be_had_or_cannot_do_it_is_refused(shell: Shell, cache: HubCache) -> None:
    texts = shell.write("texts.txt", TEXTS)
    whole = save_gguf(shell.folder / "whole.gguf").read_bytes()
    cut = shell.write("cut.gguf", whole[:-10])
    for model, parts in {
        "org/none": ("is not in its cache", "hf download org/none"),
        "org/tiny/x.gguf": ("there is no file 'x.gguf' in org/tiny",),
        "none.gguf": ("'none.gguf' does not exist",),
        str(cut): (f"it has {len(whole) - 10:,} bytes", f"says {len(whole):,}"),
        str(shell.folder / "whole.gguf"): ("cannot do classification",),
    }.items():
        assert_user_error(shell.run("submit", texts, "--model", model), *parts)
    done = shell.run("run", texts, "--model", "org/tiny", "--revision", "v9")
    assert_user_error(done, "revision 'v9' is not (wholly) in this machine's cache")
    shell.assert_nothing_written()


def test_pickles_need_the_job_and_the_worker(shell: Shell) -> None:
    import torch
    import transformers

    model, texts = _model(shell, "old"), shell.write("texts.txt", TEXTS)
    weights = transformers.AutoModelForSequenceClassification.from_pretrained(model).state_dict()
    torch.save(weights, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert_user_error(shell.run("submit", texts, "--model", model), "or submit with --allow-pickle")
    shell.assert_nothing_written()

    done = shell.run("run", texts, "--devices", "cpu", "--model", model, "--allow-pickle")
    assert done.returncode == 0, done.stderr
    shell.start_worker()
    refused = shell.submit(texts, "--model", model, "--allow-pickle")
    assert "TEXTMILL_ALLOW_PICKLE=1" in str(_wait_for_end(shell, refused)["error"])


def test_a_workers_log_has_one_line_an_event_while_models_are_loaded(shell: Shell) -> None:
    """Given a GGUF file and a folder, for both of which transformers would draw progress bars."""
    shell.env["TEXTMILL_LOG_FORMAT"] = "json"
    texts = shell.write("texts.txt", TEXTS)
    gguf = save_gguf(shell.folder / "tiny.gguf")
    shell.start_worker()
    written = shell.submit(texts, "--task", "generation", "--model", gguf, "--max-new-tokens", "4")
    labelled = shell.submit(texts, "--model", _model(shell, "old"))
    for job_id in (written, labelled):
        assert _wait_for_end(shell, job_id)["status"] == "completed"
    lines = shell.log().splitlines()
    assert all(isinstance(json.loads(line)["event"], str) for line in lines), shell.log()
    assert sum("loaded in" in line for line in lines) == 2
