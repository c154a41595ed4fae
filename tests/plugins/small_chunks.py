"""A plugin under which generation has chunks of two records."""

from __future__ import annotations

from dataclasses import replace

from textmill.core.tasks import get_task, register

register(replace(get_task("generation"), chunk_records=2))
