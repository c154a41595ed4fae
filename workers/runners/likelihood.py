"""Zero-shot classification by a model that writes text: how likely each label is as its answer.

Nothing is generated and nothing parsed. A label's log-likelihood is the sum of the
log-probabilities of its tokens behind the prompt, as in the tasks with choices of EleutherAI's
evaluation harness (https://github.com/EleutherAI/lm-evaluation-harness, there ``acc``), and of an
ending behind them: else a label that another one begins with could never lose. The scores are the
softmax of these sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import transformers

from textmill.core.errors import EngineClosedError, RecordError
from textmill.core.jobs import Record
from textmill.core.params import TaskParams, ZeroShotParams
from textmill.workers.items import Item, ModelRequest, Output, equal_key
from textmill.workers.runners import devices, loading
from textmill.workers.runners.base import ModelRunner
from textmill.workers.runners.branches import Branched, BranchModel
from textmill.workers.runners.generation import find_eos_ids
from textmill.workers.runners.label_prompts import LabelPrompts
from textmill.workers.runners.lengths import truncation_mark
from textmill.workers.runners.loading import Loaded
from textmill.workers.runners.ranking import rank_scores, softmax
from textmill.workers.runners.records import check_text, own_params, read_each

TASK = "zero-shot-classification"
MAX_BRANCH_TOKENS = 512  # of one item: each has logits of the whole vocabulary


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt with some of its labels behind it."""

    row: Branched
    tokens: int  # of the prompt and its longest label, before truncation
    longest_label: int
    params: ZeroShotParams


class LikelihoodRunner(ModelRunner):
    """One loaded model on one device. An item is a prompt with labels; its row a number for each.

    A model that cannot read several labels in one pass gets an item for each label.
    """

    PADS: ClassVar[bool] = False

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        self._prompts = LabelPrompts(loaded.tokenizer)
        ends = find_eos_ids(loaded.model, loaded.tokenizer.source)
        ends |= self._prompts.line_ends()
        self._branches: BranchModel | None = devices.run_on_device(
            self._device, lambda: BranchModel(loaded.model, ends, self._device)
        )
        self._takes_several = self._branches.takes_several

    @classmethod
    def load(cls, request: ModelRequest) -> LikelihoodRunner:
        """Load a generative model; raises ModelLoadError that says what was found and expected."""
        auto_class = transformers.AutoModelForCausalLM
        return cls(loading.load_model(request, auto_class, outcome="scores"))

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """The items of each record, or why it has none."""
        labels: dict[ZeroShotParams, list[list[int]]] = {}  # most records share their options
        return read_each(records, lambda record: self._items(record, params, labels))

    def forward(self, items: Sequence[Item]) -> list[list[float]]:
        """Each item's labels' log-likelihoods."""
        branches = self._branches
        if branches is None:
            raise EngineClosedError("the model was closed")
        rows = [item.data.row for item in items]
        return devices.run_on_device(self._device, lambda: branches.log_likelihoods(rows))

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The record's best label, its score, and all scores; raises RecordError("not_finite")."""
        asked: Asked = items[0].data
        found = [number for row in raw for number in row]
        if not all(map(math.isfinite, found)):
            raise RecordError("not_finite", "the model's scores are not finite numbers")
        output = rank_scores(softmax(found), asked.params)
        read = len(asked.row.prompt) + asked.longest_label
        output.detail = {**(output.detail or {}), **truncation_mark(read, asked.tokens)}
        output.input_tokens = sum(item.length for item in items)
        return output

    def warm_up(self) -> None:
        """One small batch of made-up tokens."""
        row = Branched([0] * 4, [[0], [0]] if self._takes_several else [[0]])
        self.forward([Item(row.tokens, Asked(row, 0, 0, ZeroShotParams(labels=("a",))))] * 4)

    def close(self) -> None:
        """Free the model; outputs can still be joined."""
        self._branches = None
        super().close()

    def _items(
        self,
        record: Record,
        job_params: TaskParams,
        known: dict[ZeroShotParams, list[list[int]]],
    ) -> list[Item]:
        text = check_text("text", record.inputs.get("text"))
        params = own_params(record, job_params, ZeroShotParams, TASK)
        if problem := params.record_problem(causal=True):
            raise RecordError("invalid_params", problem)
        if not text.strip():
            raise RecordError("empty_text", "the text is empty, or nothing but white space")
        if params not in known:
            known[params] = self._prompts.labels(params)
        labels = known[params]
        longest = max(map(len, labels))
        prompt = self._prompts.prompt(text, params, longest)
        rows = [Branched(prompt.ids, group) for group in self._groups(labels)]
        tokens = prompt.given_tokens + longest
        return [_as_item(Asked(row, tokens, longest, params)) for row in rows]

    def _groups(self, labels: list[list[int]]) -> list[list[list[int]]]:
        """The labels in order, as many together as one pass may have."""
        if not self._takes_several:
            return [[label] for label in labels]
        groups: list[list[list[int]]] = [[]]
        tokens = 0
        for label in labels:
            tokens += len(label)
            if groups[-1] and tokens > MAX_BRANCH_TOKENS:
                groups.append([])
                tokens = len(label)
            groups[-1].append(label)
        return groups


def _as_item(asked: Asked) -> Item:
    branches = tuple(map(tuple, asked.row.branches))
    return Item(asked.row.tokens, asked, key=equal_key(asked.row.prompt, branches))
