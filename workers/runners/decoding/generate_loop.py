"""Rows of a model that only its own ``generate`` can serve, one token a step like the others.

``generate`` runs in a thread that goes on only while ``step`` waits for it: a logits processor
hands each token's scores over and gets the chosen tokens back. Prompts of one length share a run,
so nothing is padded; a row that has ended rides along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from queue import Queue
from threading import Thread
from typing import Any

import torch
import transformers

from textmill.workers.items import Step
from textmill.workers.runners.decoding.requests import DecodeRequest
from textmill.workers.runners.decoding.rows import Row, choose_tokens

GROUP_ROWS = 8


class GenerateLoop:
    """Takes the place of SlotLoop; used by one thread."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._new: list[Row] = []
        self._rows: list[Row] = []  # of the run
        self._run: _Run | None = None

    def admit(self, requests: Mapping[int, DecodeRequest]) -> None:
        """Take rows in, under handles of the caller's choice."""
        self._new += [Row(handle, request, self._tokenizer) for handle, request in requests.items()]

    def drop(self, handles: Iterable[int]) -> None:
        """Forget rows, whatever they have come to."""
        gone = set(handles)
        self._new = [row for row in self._new if row.handle not in gone]
        for row in self._rows:
            row.dropped = row.dropped or row.handle in gone
        self._end_if_done()

    def step(self) -> Step:
        """One forward pass. After a failure the run's rows are new again."""
        first = self._run is None
        if first and not self._new:
            return Step([], {})
        try:
            run = self._run or self._start()
            scores = run.next_scores()
        except BaseException:
            self._begin_anew()
            raise
        live = [row for row in self._rows if row.live]
        choose_tokens(live, scores[[n for n, row in enumerate(self._rows) if row.live]])
        run.tokens = [row.ids[-1] if row.ids else 0 for row in self._rows]
        ended = [(row.handle, row.outcome) for row in live if row.outcome is not None]
        self._end_if_done()
        return Step(ended, {row.handle: len(row.request.ids) if first else 1 for row in live})

    def _start(self) -> _Run:
        length = len(self._new[0].request.ids)
        self._rows = [row for row in self._new if len(row.request.ids) == length][:GROUP_ROWS]
        self._new = [row for row in self._new if row not in self._rows]
        self._run = _Run(self._model, self._device, [row.request for row in self._rows])
        return self._run

    def _begin_anew(self) -> None:
        again = [Row(r.handle, r.request, self._tokenizer) for r in self._rows if r.live]
        self._new = again + self._new
        self._end()

    def _end_if_done(self) -> None:
        if not any(row.live for row in self._rows):
            self._end()

    def _end(self) -> None:
        run, self._run, self._rows = self._run, None, []
        if run is not None:
            run.end()


class _Run(transformers.LogitsProcessor):  # type: ignore[misc]
    """One call of ``generate``, stopped at every token."""

    def __init__(self, model: Any, device: torch.device, requests: list[DecodeRequest]) -> None:
        self.tokens: list[int] = []  # what was chosen from the last scores
        self._model = model
        self._ids = torch.tensor([request.ids for request in requests]).to(device)
        self._max_new_tokens = max(request.max_new_tokens for request in requests)
        self._scores: Queue[torch.Tensor | BaseException] = Queue()
        self._chosen: Queue[list[int] | None] = Queue()
        self._thread: Thread | None = None

    def next_scores(self) -> torch.Tensor:
        """Let it compute up to the next scores (rows, vocabulary)."""
        if self._thread is None:
            self._thread = Thread(target=self._generate, name="generate", daemon=True)
            self._thread.start()
        else:
            self._chosen.put(self.tokens)
        scores = self._scores.get()
        if isinstance(scores, BaseException):
            raise scores
        return scores

    def end(self) -> None:
        """Let it compute no more."""
        self._chosen.put(None)
        if self._thread is not None:
            self._thread.join()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Called by ``generate``: force what the loop chose."""
        self._scores.put(scores.clone())
        tokens = self._chosen.get()
        if tokens is None:
            raise _EndedError
        forced = torch.full_like(scores, float("-inf"))
        forced[torch.arange(len(tokens)), tokens] = 0
        return forced

    def _generate(self) -> None:
        """The thread. The model's own settings would change scores, so they are put aside."""
        own, self._model.generation_config = (
            self._model.generation_config,
            transformers.GenerationConfig(pad_token_id=0),
        )
        try:
            self._model.generate(
                self._ids,
                attention_mask=torch.ones_like(self._ids),
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                logits_processor=transformers.LogitsProcessorList([self]),
            )
        except _EndedError:
            pass
        except BaseException as error:
            self._scores.put(error.with_traceback(None))
        finally:
            self._model.generation_config = own


class _EndedError(Exception):
    """Unwinds ``generate``."""
