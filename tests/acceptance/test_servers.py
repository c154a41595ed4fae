"""The same commands against a password-protected broker and PostgreSQL, in separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ..servers import wait_until
from .conftest import FAKE, MESSAGES, MODEL, ROOT, Shell

NEWEST = max(path.name[:4] for path in (ROOT / "db/migrations/versions").glob("0*.py"))
"""The revision of the newest migration: their files are numbered."""


def test_a_producer_and_two_workers_complete_a_job(server_shell: Shell) -> None:
    shell = server_shell
    assert shell.run("db", "upgrade").returncode == 0
    assert shell.run("db", "current").stdout.strip() == NEWEST
    shell.start_worker()
    shell.start_worker()
    job = shell.submit(MESSAGES, "--model", MODEL, "--id-column", "id", "--limit", "1500")
    done = shell.run("watch", job)

    assert done.returncode == 0, done.stderr
    assert "completed: 1,500 of 1,500 records" in done.stdout
    rows = shell.rows("results")
    assert sorted(row["record_index"] for row in rows) == list(range(1500))
    assert sum(row["label"] == row["extra"]["label"] for row in rows) > 1450
    log = (shell.folder / "worker.log").read_text()
    assert log.count(f"model {MODEL} loaded") == 2, "both workers had a share"
    assert "s3cret" not in log


def _light_environment(folder: Path) -> Path:
    """A virtual environment as `pip install textmill` makes it: without the worker extra."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", ROOT / "constraints.txt", ROOT]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / "bin"


def test_a_machine_without_torch_submits_watches_and_queries(
    server_shell: Shell, tmp_path: Path
) -> None:
    shell = server_shell
    assert shell.run("db", "upgrade").returncode == 0
    shell.start_worker()
    binaries = _light_environment(tmp_path / "light")
    env = {key: value for key, value in shell.env.items() if key != "TEXTMILL_PLUGINS"}

    def light(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(binaries / "textmill"), *words],
            cwd=shell.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    missing = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('transformers'))"
    found = subprocess.check_output([str(binaries / "python"), "-c", missing], text=True)
    assert found.split() == ["None", "None"]
    done = light("submit", str(MESSAGES), "--model", str(MODEL), "--limit", "50")
    assert done.returncode == 0, done.stderr
    assert light("watch", done.stdout.strip()).returncode == 0
    rows = light("results", "last", "--format", "jsonl").stdout.splitlines()
    assert len(rows) == 50
    assert json.loads(rows[0])["label"] in ("ham", "spam")
    done = light("worker")
    assert done.returncode == 2
    assert "textmill[worker]" in done.stderr


def test_a_job_submitted_while_the_broker_is_away_runs_once_it_is_back(
    shell: Shell, own_valkey: object
) -> None:
    from ..servers import ValkeyServer

    assert isinstance(own_valkey, ValkeyServer)
    shell.env["TEXTMILL_BROKER_URL"] = own_valkey.url
    shell.env["TEXTMILL_SWEEP_SECONDS"] = "0.5"
    shell.start_worker()
    own_valkey.kill()
    done = shell.run("submit", shell.write("texts.txt", "a\nb\n"), *FAKE)
    assert done.returncode == 0
    assert "not dispatched yet" in done.stderr
    own_valkey.start()
    wait_until(lambda: shell.rows("jobs")[0]["status"] == "completed", 60, what="completed")


def test_commands_work_beside_files_named_like_our_folders(shell: Shell) -> None:
    for name in ("db", "core", "workers", "producer", "textmill_plugins"):
        shell.write(f"{name}.py", "raise RuntimeError('imported the wrong file')")
    texts = shell.write("texts.txt", "a\n")
    env = dict(os.environ, **shell.env)
    code = "from textmill import submit; print(submit('texts.txt', task='fake', model='m').status)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=shell.folder, env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == "queued", done.stderr
    assert shell.run("run", texts, *FAKE, "--devices", "cpu").returncode == 0
