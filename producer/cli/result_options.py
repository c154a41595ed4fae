"""Options of ``textmill results``: which rows, in which order, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHOWN_ROWS = 20
NO_ROWS = "no rows match"

Label = Annotated[
    str | None, typer.Option(help="Only records with this label.", show_default=False)
]
MinScore = Annotated[
    float | None, typer.Option(help="Only scores from here on.", show_default=False)
]
MaxScore = Annotated[float | None, typer.Option(help="Only scores up to here.", show_default=False)]
Search = Annotated[
    str | None,
    typer.Option(
        help='Only texts and outputs with these words: free -call "urgent reply" '
        "(win OR prize) congrat*",
        show_default=False,
    ),
]
ErrorCode = Annotated[
    str | None, typer.Option(help="Only error rows of this code.", show_default=False)
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=VALUE",
        help="Only records with this in another column of the input; quick where it was declared "
        "with `submit --index-column`. Several must all hold.",
        show_default=False,
    ),
]
After = Annotated[
    str | None,
    typer.Option(help="Go on where an earlier page ended, as it said.", show_default=False),
]
Errors = Annotated[bool, typer.Option("--errors", help="Only error rows.")]
RecordId = Annotated[
    str | None, typer.Option(help="Only the record of this id.", show_default=False)
]
Order = Annotated[
    str,
    typer.Option(
        help="input, fastest: as is read with the least work, or score: the highest first."
    ),
]
Rows = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=0,
        help="At most this many rows, 0 for all.",
        show_default=f"{SHOWN_ROWS} in a table, else all",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="table, csv, tsv, jsonl, parquet, arrow, datasets (a folder for Hugging Face); of "
        "an OpenAI batch file also openai-batch.",
        show_default="table on a terminal, else jsonl; by the name of --out",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Write to this new file; .gz or .zst at the end of a text's name compresses it.",
        show_default=False,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace what --out names, once the new one is whole.")
]
SpreadsheetSafe = Annotated[
    bool,
    typer.Option(
        "--spreadsheet-safe", help="In csv and tsv: no text is a formula for a spreadsheet."
    ),
]
