"""What a task asks of a row with the job's options: its fields, what they become, what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textmill.core.params import TaskParams
from textmill.core.stored_texts import StoreText
from textmill.core.tasks import Task, read_own_params


@dataclass(frozen=True, slots=True)
class RecordRules:
    """A task with the job's checked options, as a reader asks for them."""

    task: Task
    params: TaskParams
    store_text: StoreText = StoreText.FULL

    @property
    def own_columns(self) -> Mapping[str, str]:
        """Option to the column of each record's own value of it."""
        return self.params.own_columns

    @property
    def are_plain(self) -> bool:
        """Whether the texts of the fields are all that a record holds."""
        return not self.own_columns and self.params.composition() is None

    @property
    def by_name(self) -> bool:
        """Whether the fields are columns that the person named, such as those of a template."""
        composition = self.params.composition()
        return composition is not None and composition.keep_columns

    @property
    def keep_columns(self) -> bool:
        """Whether the columns of the fields stay beside the inputs made of them."""
        return self.by_name and self.keep_texts

    @property
    def keep_texts(self) -> bool:
        """Whether rows keep what the model is given; else no column of it, and no quote."""
        return self.store_text == StoreText.FULL

    def read_params(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row's own options; raises RecordError."""
        return read_own_params(self.task, self.params, row)

    def kept(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """What of a row's other columns is kept as ``extra``."""
        if not self.keep_texts:
            for column in self.own_columns.values():
                row.pop(column, None)
        return row or None
