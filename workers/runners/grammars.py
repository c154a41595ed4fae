"""JSON Schemas as constraints of the decode loop: which tokens may come next, row by row.

``llguidance`` keeps the state and computes the masks, here in threads while the model computes:
the mask of a row's next token is begun as soon as its last token is known.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import llguidance
import llguidance.hf
import torch

from textmill.core.errors import RecordError
from textmill.core.json_schemas import make_grammar

KEPT_GRAMMARS = 16
MASK_THREADS = min(8, os.cpu_count() or 1)


class Grammars:
    """The compiled schemas of one tokenizer, from many threads."""

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int]) -> None:
        self._source = tokenizer
        self._eos_ids = sorted(eos_ids)
        self._lock = Lock()
        self._tokenizer: Any = None  # made with the first schema: it takes a second
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._threads = ThreadPoolExecutor(MASK_THREADS, thread_name_prefix="masks")

    def constraint(self, schema: str) -> Callable[[], JsonConstraint]:
        """Fresh states of a schema; raises RecordError if this tokenizer cannot write it."""
        matcher = self._compile(schema)
        if isinstance(matcher, str):
            raise RecordError("json_schema", matcher)
        return lambda: JsonConstraint(
            matcher.deep_copy(), self._eos_ids, self._tokenizer.eos_tokens, self._threads
        )

    def text(self, ids: Sequence[int]) -> str:
        """What the grammar read: a tokenizer's own decoding may change spaces."""
        text: bytes = self._tokenizer.decode_bytes(list(ids))
        return text.decode(errors="replace")

    def close(self) -> None:
        """End the threads; texts can still be read."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compile(self, schema: str) -> Any:
        """A matcher, or why there is none: every record of the job will ask."""
        with self._lock:
            if schema not in self._compiled:
                self._compiled[schema] = self._new_matcher(schema)
            self._compiled.move_to_end(schema)
            if len(self._compiled) > KEPT_GRAMMARS:
                self._compiled.popitem(last=False)
            return self._compiled[schema]

    def _new_matcher(self, schema: str) -> Any:
        try:
            if self._tokenizer is None:
                self._tokenizer = self._read_tokenizer()
        except Exception as error:  # it has no class of its own for a tokenizer it cannot read
            return f"llguidance cannot read the model's tokenizer: {error}"
        matcher = llguidance.LLMatcher(self._tokenizer, make_grammar(schema), log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().partition("\n")[0]
            return f"the schema cannot be enforced: {reason}"
        return matcher

    def _read_tokenizer(self) -> Any:
        """With room for end tokens that the model has and its tokenizer lacks."""
        size = max([len(self._source), *(one + 1 for one in self._eos_ids)])
        return llguidance.hf.from_tokenizer(self._source, n_vocab=size)


class JsonConstraint:
    """One row's state."""

    def __init__(
        self,
        matcher: Any,
        eos_ids: Sequence[int],
        grammar_eos_ids: Sequence[int],
        threads: ThreadPoolExecutor,
    ) -> None:
        self._matcher = matcher
        self._eos_ids = list(eos_ids)
        # llguidance ends texts with the tokenizer's end token; the model may have other ones.
        self._grammar_eos_ids = list(grammar_eos_ids)
        self._threads = threads
        self._look_ahead()

    def allowed(self) -> torch.Tensor:
        """Which tokens may come next; end tokens only where the JSON is complete.

        Where nothing may follow though it is not complete, because the vocabulary lacks a
        character or the schema is too complex, the end tokens let the row end as an error.
        """
        mask = torch.frombuffer(bytearray(self._mask.result()), dtype=torch.uint8).bool()
        mask[self._grammar_eos_ids] = False
        mask[self._eos_ids] = self._complete
        if not mask.any():
            mask[self._eos_ids] = True
        return mask

    def accept(self, token_id: int) -> None:
        """Take note of a token."""
        self._matcher.consume_token(token_id)
        self._look_ahead()

    @property
    def finished(self) -> bool:
        """True once the JSON is complete and nothing can follow."""
        return self._stopped

    def _look_ahead(self) -> None:
        # Asked for before the thread begins: the matcher is of one thread at a time.
        self._stopped: bool = self._matcher.is_stopped()
        self._complete: bool = self._matcher.is_accepting()
        if not self._stopped:
            self._mask: Future[bytes] = self._threads.submit(self._matcher.compute_logit_bias)
