"""``textmill doctor``: what is reachable and what is wrong."""

from __future__ import annotations

import typer

from textmill.producer.cli import options as o
from textmill.producer.terminal import emit_json, tell


def doctor(json: o.Json = False) -> None:
    """Look at everything Textmill needs; exit code 1 if something is wrong.

    \b
    Example:
      textmill doctor
    """
    from textmill.core.settings import load_settings
    from textmill.producer.checks import run_checks

    findings = list(run_checks(load_settings()))
    if json:
        emit_json(findings)
    else:
        for finding in findings:
            head = f"{'ok   ' if finding.ok else 'WRONG'}  {finding.subject:<12}  "
            tell(head + finding.found.replace("\n", "\n" + " " * len(head)))
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)
