"""Options that several commands share, declared and documented once."""

from __future__ import annotations

from typing import Annotated

import typer

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT... [OPTIONS OF THE TASK]",
        help="Files (.csv .tsv .jsonl .parquet .txt, also .gz and .zst), or - for stdin. OpenAI "
        "batch files are recognised by their first line. "
        "`textmill tasks TASK` lists the options of a task; --FIELD-column names the column of "
        "a field that it reads, such as --text-column body.",
        show_default=False,
    ),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="What to do with each record.",
        show_default="classification; of an OpenAI batch file what it asks for",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Folder of a model, a .gguf file, or its name on the hub "
        "(ORGANISATION/MODEL, or of a GGUF ORGANISATION/MODEL/FILE.gguf).",
    ),
]
ModelAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--model-alias",
        metavar="NAME=FOLDER",
        help="The model behind a name in an OpenAI batch file, such as gpt-4o-mini=./model; "
        "once for each name. (--model is the one behind all of them.)",
        show_default=False,
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Load weights that are pickles, on workers with TEXTMILL_ALLOW_PICKLE=1.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the model's own Python files, on workers with TEXTMILL_TRUST_REMOTE_CODE=1.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Commit, tag or branch of a hub model.", show_default=False)
]
Dtype = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 or int8 (CPU only).")]
IdColumn = Annotated[
    str | None, typer.Option(help="Column that holds each record's id.", show_default="its index")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="csv, tsv, jsonl, parquet, text or openai-batch.",
        show_default="by file name",
    ),
]
Delimiter = Annotated[
    str | None, typer.Option(help="Column separator of CSV or TSV.", show_default=False)
]
Quoting = Annotated[str, typer.Option(help="minimal, or none: quotes are ordinary characters.")]
NoHeader = Annotated[
    bool, typer.Option("--no-header", help="The first line is data; columns are column1, …")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="A row that cannot be read becomes an error row.")
]
Limit = Annotated[
    int | None, typer.Option(help="Only the first N records.", min=1, show_default=False)
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the input and say what would happen.")
]
Name = Annotated[
    str | None, typer.Option(help="A name to recognise the job by.", show_default="the file's")
]
Queue = Annotated[str, typer.Option(help="Pool of workers the job is meant for.")]
PriorityName = Annotated[str, typer.Option("--priority", help="high, normal or low.")]
Key = Annotated[
    str | None,
    typer.Option(
        help="Idempotency key: the same key and input give the same job.", show_default=False
    ),
]
MaxErrorRate = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Fail the job above this share of error records, such as 5%.",
        show_default=False,
    ),
]
StoreTextName = Annotated[
    str,
    typer.Option(
        "--store-text",
        metavar="MODE",
        help="What results keep of the texts: full; hash, made with TEXTMILL_HASH_KEY; or none.",
    ),
]
FullText = Annotated[
    bool,
    typer.Option(
        "--full-text/--no-full-text",
        help="Index the words of texts and outputs, for `results --search`.",
    ),
]
Reuse = Annotated[
    bool,
    typer.Option(
        "--reuse",
        help="Take a record's answer from an earlier result of equal input, model and options.",
    ),
]
IndexColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--index-column",
        metavar="COLUMN",
        help="Index another column of the input, for `results --where`; once for each.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]
JobRef = Annotated[
    str,
    typer.Argument(metavar="JOB", help="Job id, its unique start, its key, or 'last'."),
]
OlderThan = Annotated[
    str | None,
    typer.Option(
        metavar="AGE",
        help="Jobs that ended longer ago, such as 30d, 12h or 2w.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, on a terminal.")]
Vacuum = Annotated[
    bool,
    typer.Option(
        "--vacuum/--no-vacuum",
        help="Rid the database's files of the bytes too, now, or later by `textmill db vacuum`.",
    ),
]
Queues = Annotated[
    str, typer.Option(help="Queues to serve, by comma; 'default' is always served too.")
]
Devices = Annotated[str, typer.Option(help="auto, or a list such as cuda:0,cuda:1 or cpu.")]


def option_name(option: str) -> str:
    """``top_k`` as a person types it."""
    return f"--{option.replace('_', '-')}"
