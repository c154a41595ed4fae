"""Bad input: one clear message, the exit code, and a database without half a job."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ..servers import free_port, wait_until
from .conftest import FAKE, MODEL, Refusals, Shell, assert_user_error
from .disks import DiskShell

CSV = "id,body,lang\n1,first text here,en\n2,second text here,de\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "parts"),
    [
        ("a.csv", b"", [], ["a.csv", "is empty"]),
        ("a.csv", b"id,body\n", [], ["a.csv", "no rows"]),
        ("a.csv", CSV.encode(), ["--text-column", "boddy"], ["'boddy'", "body", "did you mean"]),
        ("a.csv", CSV.encode(), ["--id-column", "uid"], ["'uid'", "id, body, lang"]),
        ("a.csv", b"x,y\nsome words,more words\n", [], ["x, y", "--text-column"]),
        ("a.csv", b"id,body\n1,ok\n2,\xff\xfe\n", [], ["a.csv", "line 3", "UTF-8"]),
        ("a.csv", b"id,body\n1,ok\n2,a,b\n", [], ["a.csv", "line 3", "--skip-bad"]),
        ("a.jsonl", b'{"text": "ok"}\n{"text": \n', [], ["a.jsonl", "line 2", "--skip-bad"]),
        ("a.csv", b"id,text\n7,a\n8,b\n7,c\n", ["--id-column", "id"], ["'7'", "1", "3"]),
        ("a.parquet", b"PAR1 no parquet", [], ["a.parquet"]),
        (
            "a.txt.gz",
            gzip.compress(b"some text\n" * 1000, mtime=0)[:-9],
            [],
            ["a.txt.gz", "ends too early"],
        ),
        ("a.docx", b"x", [], ["a.docx", "--format"]),
    ],
)
def test_a_bad_input_is_named_and_leaves_nothing(
    shell: Shell,
    refusals: Refusals,
    name: str,
    content: bytes,
    options: list[str],
    parts: list[str],
) -> None:
    refusals.check([shell.write(name, content), *FAKE, *options], *parts)


def test_a_missing_file_is_named(shell: Shell) -> None:
    assert_user_error(shell.run("submit", "nowhere.csv", *FAKE), "nowhere.csv", "no such file")
    shell.assert_nothing_written()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--task", "clasification"], ["'clasification'", "did you mean 'classification'"]),
        (["--topk", "3"], ["--topk", "did you mean '--top-k'"]),
        (["--id-colum", "id"], ["did you mean '--id-column'"]),
        (["--top-k", "0"], ["top_k"]),
        (["--max-error-rate", "5 percent"], ["5 percent", "5%"]),
        (["--queue", "a b"], ["'a b'"]),
        (["--priority", "hihg"], ["'hihg'", "did you mean 'high'"]),
        (["--dtype", "int4"], ["'int4'", "fp32"]),
        (["--key", ""], ["key is ''; expected a text that is not blank, or no key"]),
        (["--key", " \t"], [r"key is ' \t'; expected a text that is not blank"]),
        (["--key", "a\udcffb"], [r"key is 'a\udcffb'; expected text, without", "not UTF-8"]),
        (["--name", "a\udcffb"], [r"name is 'a\udcffb'; expected text, without", "not UTF-8"]),
        (["--revision", "\udcff"], [r"revision is '\udcff'; expected text, without", "not UTF-8"]),
    ],
)
def test_a_wrong_option_is_named(
    shell: Shell, refusals: Refusals, options: list[str], parts: list[str]
) -> None:
    texts = shell.write("texts.txt", "a\n")
    refusals.check([texts, "--model", MODEL, *options], *parts)


def _broken_models(folder: Path) -> dict[str, tuple[Path, list[str]]]:
    """Model folders, each with what its message must say."""
    pickled = shutil.copytree(MODEL, folder / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    encoder = shutil.copytree(MODEL, folder / "encoder")
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    cut = shutil.copytree(MODEL, folder / "cut")
    os.truncate(cut / "model.safetensors", 1_000_000)
    return {
        "missing": (folder / "nothing", ["does not exist"]),
        "empty": (folder, ["config.json"]),
        "pickled": (pickled, ["safetensors", "pytorch_model.bin"]),
        "encoder": (encoder, ["BertModel", "ForSequenceClassification"]),
        "cut": (cut, ["model.safetensors", "damaged"]),
    }


@pytest.mark.parametrize("kind", ["missing", "empty", "pickled", "encoder", "cut"])
def test_a_wrong_model_folder_is_refused_before_anything_is_enqueued(
    shell: Shell, refusals: Refusals, kind: str
) -> None:
    model, parts = _broken_models(shell.folder)[kind]
    texts = shell.write("texts.txt", "a\n")
    refusals.check([texts, "--model", model], str(model), *parts)


def test_a_hub_model_that_is_not_here_and_cannot_be_fetched(shell: Shell) -> None:
    texts = shell.write("texts.txt", "a\n")
    done = shell.run("run", texts, "--model", "nobody/nothing", "--devices", "cpu")
    assert_user_error(done, "'nobody/nothing'", "hf download nobody/nothing")
    shell.assert_nothing_written()


@pytest.mark.parametrize(
    "model",
    ["a b", "org/na me", "ü/x", "a..b", "a--b", "org/x.git", "a b/c/d.gguf", "a\x01b"],
)
def test_a_model_that_is_no_path_and_cannot_be_on_the_hub(
    shell: Shell, refusals: Refusals, model: str
) -> None:
    texts = shell.write("texts.txt", "a\n")
    neither = "is neither a folder on this machine nor a name on the hub; expected a folder, or ORG"
    refusals.check([texts, "--model", model], neither)


def test_a_model_that_is_not_utf8(shell: Shell, refusals: Refusals) -> None:
    words = [shell.write("texts.txt", "a\n"), "--model", "a\udcffb"]
    refusals.check(words, r"model is 'a\udcffb'; expected text, without NUL")


def test_options_of_a_task_that_are_not_utf8(shell: Shell, refusals: Refusals) -> None:
    words = [shell.write("texts.txt", "a\n"), "--task", "generation", "--model", "m"]
    refusals.check([*words, "--stop", "\udcff"], r"stop is '\udcff'; expected text, without NUL")
    template = "\udcff" + 100 * "x" + "{text}"
    refusals.check([*words, "--template", template], r"template is '\udcffxx", "x'…; expected text")


def test_a_file_may_be_called_as_no_text_can(shell: Shell) -> None:
    job = shell.submit(shell.write("a\udcff.txt", "a\n"), *FAKE)
    assert shell.json("show", job)["name"] == "a?.txt"


@pytest.mark.parametrize("option", ["-x", "--dry-run", "--json"])
def test_a_model_that_was_forgotten(shell: Shell, refusals: Refusals, option: str) -> None:
    texts = shell.write("texts.txt", "a\n")
    refusals.check([texts, "--model", option], f"model '{option}'", "is the model left out?")


def test_a_model_that_was_forgotten_behind_an_alias(shell: Shell, refusals: Refusals) -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    batch = shell.write("batch.jsonl", json.dumps(line))
    refusals.check([batch, "--model-alias", "gpt=--x"], "model '--x' is neither")


def test_skip_bad_turns_bad_rows_into_error_rows_at_once(shell: Shell) -> None:
    lines = [
        '{"text": "good", "n": 1}',
        '{"text": ',
        '{"other": 1}',
        '{"text": ""}',
        '{"text": "x"}',
    ]
    texts = shell.write("a.jsonl", "\n".join(lines))
    assert shell.run("submit", texts, *FAKE, "--skip-bad").returncode == 0
    rows = {row["record_index"]: row["error_code"] for row in shell.rows("results")}
    assert rows == {1: "bad_json", 2: "missing_text", 3: "empty_text"}
    assert shell.rows("jobs")[0]["error_records"] == 3


def test_a_bad_row_without_an_id_is_no_duplicate_of_a_real_one(shell: Shell) -> None:
    # The ragged row is called after its index, 1, which is also the id of the first.
    table = shell.write("a.csv", "id,text\n1,first\n2,a,b\n3,third\n")
    words = ["submit", table, *FAKE, "--id-column", "id", "--skip-bad"]
    assert "(1 bad)" in shell.run(*words, "--dry-run").stderr
    done = shell.run(*words)
    assert done.returncode == 0, done.stderr
    assert shell.rows("jobs")[0]["total_records"] == 3


def test_long_texts_are_cut_and_marked_or_refused(shell: Shell) -> None:
    texts = shell.write("texts.txt", "short one\n" + "word " * 2000 + "\n")
    assert shell.run("run", texts, "--model", MODEL, "--devices", "cpu").returncode == 0
    short, long = sorted(shell.rows("results"), key=lambda row: row["record_index"])
    assert "truncated" not in short["detail"]
    assert long["detail"]["truncated"] is True
    assert long["detail"]["tokens"] > 1000

    words = ["run", texts, "--model", MODEL, "--devices", "cpu", "--on-long", "error"]
    assert shell.run(*words).returncode == 3
    (row,) = [row for row in shell.rows("results") if row["error_code"]]
    assert row["error_code"] == "text_too_long"


def test_dry_run_checks_everything_and_writes_nothing(shell: Shell) -> None:
    done = shell.run(
        "submit", shell.write("a.csv", CSV), *FAKE, "--dry-run", "--text-column", "body"
    )
    assert done.returncode == 0, done.stderr
    assert "would submit 2 records" in done.stderr
    assert "text = 'body'" in done.stderr
    shell.assert_nothing_written()


def test_a_broker_that_is_away_does_not_refuse_a_job(shell: Shell) -> None:
    shell.env["TEXTMILL_BROKER_URL"] = f"redis://:secret@127.0.0.1:{free_port()}/0"
    done = shell.run("submit", shell.write("texts.txt", "a\n"), *FAKE)
    assert done.returncode == 0, done.stderr
    assert "accepted, not dispatched yet" in done.stderr
    assert "secret" not in done.stderr
    assert shell.rows("jobs")[0]["status"] == "queued"


@pytest.mark.parametrize(
    "url",
    ["nonsense://x", "redis://127.0.0.1:abc/0", "redis://:pa#s3cret@h:6379/0", "redis://h/some"],
)
def test_a_broker_url_that_cannot_be_meant_stops_before_anything_is_written(
    shell: Shell, url: str
) -> None:
    shell.env["TEXTMILL_BROKER_URL"] = url
    done = shell.run("submit", shell.write("texts.txt", "a\n"), *FAKE)
    assert_user_error(done, "TEXTMILL_BROKER_URL", "redis://:PASSWORD@HOST")
    assert "s3cret" not in done.stderr
    shell.assert_nothing_written()


@pytest.mark.parametrize(("devices", "says"), [("bogus", "'bogus'"), (",", "--devices")])
def test_a_device_that_is_not_there_stops_the_worker(shell: Shell, devices: str, says: str) -> None:
    worker = shell.start("worker", "--devices", devices)
    assert worker.wait(90) == 2
    log = (shell.folder / "worker.log").read_text()
    assert says in log
    assert "Traceback" not in log
    assert shell.workers() == []


def test_columns_of_stdin_need_a_format(shell: Shell) -> None:
    done = shell.run("submit", "-", *FAKE, "--text-column", "body", stdin=CSV)
    assert_user_error(done, "stdin", "--format csv")
    shell.assert_nothing_written()


def test_a_retry_that_would_be_refused_is_not_advised(shell: Shell) -> None:
    shell.run("run", shell.write("texts.txt", "one\n\n"), "--devices", "cpu", *FAKE)
    shown = shell.run("show", "last").stdout
    assert "--errors" in shown
    assert "textmill retry" not in shown


@pytest.mark.parametrize("hangs", [False, True])
def test_a_database_that_does_not_answer_is_said(shell: Shell, hangs: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if hangs else free_port()
        url = f"postgresql://me:secret@127.0.0.1:{port}/db"
        shell.env["TEXTMILL_DATABASE_URL"] = url
        done = shell.run("submit", shell.write("texts.txt", "a\n"), *FAKE)
    assert_user_error(done, "does not answer", f"127.0.0.1:{port}", "TEXTMILL_DATABASE_URL", code=1)
    assert "secret" not in done.stderr


def test_wrong_passwords_are_told_apart(server_shell: Shell) -> None:
    assert server_shell.run("db", "upgrade").returncode == 0
    texts = server_shell.write("texts.txt", "a\n")
    right = dict(server_shell.env)
    for name in ("TEXTMILL_DATABASE_URL", "TEXTMILL_BROKER_URL"):
        head, _, tail = right[name].partition("@")
        user = head.rpartition(":")[0]
        server_shell.env = right | {name: f"{user}:wr0ng@{tail}"}
        done = server_shell.run("doctor")
        assert done.returncode == 1
        assert "password" in done.stdout
        assert "wr0ng" not in done.stdout + done.stderr
    # The broker's password is wrong now: the job is accepted all the same, and says why it waits.
    done = server_shell.run("submit", texts, *FAKE)
    assert done.returncode == 0
    assert "password" in done.stderr


def test_an_external_database_without_tables_names_the_command(server_shell: Shell) -> None:
    done = server_shell.run("submit", server_shell.write("texts.txt", "a\n"), *FAKE)
    assert_user_error(done, "textmill db upgrade", code=1)


@pytest.fixture
def disk_shell(tmp_path: Path) -> Iterator[DiskShell]:
    """A shell with the embedded services, whose data folder is on a small disk."""
    home = tmp_path / "disk" / "home"
    given = DiskShell(
        tmp_path,
        "9m",
        TEXTMILL_HOME=str(home),
        TEXTMILL_DATABASE_URL=f"sqlite:///{home}/textmill.db",
        TEXTMILL_LEASE_SECONDS="1",
    )
    given.env.pop("TEXTMILL_DATABASE_URL")
    yield given
    given.close()


def _assert_no_half_job(shell: DiskShell) -> None:
    """The disk is free again: once the load's lease has ended it is gone, and the next one goes."""
    wait_until(lambda: shell.json("jobs") == [], 30, what="without the half job")
    assert len(shell.submit(shell.write("small.txt", "one\n"), *FAKE)) == 16
    assert len(shell.rows("jobs")) == 1


@pytest.mark.parametrize("room", ["3m", "8k"])
def test_a_full_disk_is_said_and_leaves_no_half_job(disk_shell: DiskShell, room: str) -> None:
    """In 8 KiB SQLite cannot even open its file, and calls that an I/O error."""
    shell = disk_shell
    assert shell.run("jobs").returncode == 0  # makes the tables
    texts = shell.write("texts.txt", "".join(f"{os.urandom(60).hex()}\n" for _ in range(60_000)))
    shell.disk.fill()
    shell.disk.inside(f"truncate -s -{room} {shell.disk.folder}/ballast")
    done = shell.run("submit", texts, *FAKE)
    assert_user_error(done, "no space left", "free some and try again", code=1)
    assert done.stderr.count("\n") == 1
    shell.disk.free()
    _assert_no_half_job(shell)


def test_a_disk_that_fills_while_a_job_is_loaded(disk_shell: DiskShell) -> None:
    shell = disk_shell
    fifo = shell.folder / "texts.txt"
    os.mkfifo(fifo)
    process = shell.start("submit", fifo, *FAKE, log="submit.log")
    with suppress(BrokenPipeError), fifo.open("w") as pipe:
        pipe.write("some text\n" * 20_000)
        pipe.flush()
        wait_until(lambda: len(shell.rows("chunks")) > 400, 60, what="with chunks")
        shell.disk.fill()
        pipe.write("".join(f"{os.urandom(60).hex()}\n" for _ in range(20_000)))
    assert process.wait(60) == 1
    log = shell.log("submit.log")
    assert "no space left" in log, log
    assert log.count("\n") == 1, log
    shell.disk.free()
    _assert_no_half_job(shell)


def _interrupt(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(60)


@pytest.mark.parametrize("moment", [0.0, 0.2, 0.5, 1.0])
def test_ctrl_c_while_loading_leaves_nothing(shell: Shell, moment: float) -> None:
    fifo = shell.folder / "texts.txt"
    os.mkfifo(fifo)
    process = shell.start("submit", fifo, *FAKE, log="submit.log")
    with fifo.open("w") as pipe:  # opens once the command reads, so it is in the middle of loading
        pipe.write("some text\n" * 20_000)
        pipe.flush()
        time.sleep(moment)  # any moment must do
        assert _interrupt(process) == 130
    assert "Traceback" not in (shell.folder / "submit.log").read_text()
    shell.assert_nothing_written()


def test_ctrl_c_during_run_keeps_the_job_and_says_how_to_go_on(shell: Shell) -> None:
    texts = shell.write("texts.txt", "\n".join(f"slow 0.05 {at}"[:8] for at in range(200)))
    process = shell.start("run", texts, *FAKE, "--devices", "cpu", log="run.log")
    wait_until(lambda: len(shell.rows("results")) > 0, 60, what="with first results")
    assert _interrupt(process) == 130
    assert "textmill run --resume" in (shell.folder / "run.log").read_text()

    done = shell.run("run", "--resume", "last", "--devices", "cpu")
    assert done.returncode == 0, done.stderr
    assert sorted(row["record_index"] for row in shell.rows("results")) == list(range(200))
