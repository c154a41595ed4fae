"""The options of a batch's job, and those in which a line differs from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from textmill.core.errors import InvalidJobError, RecordError
from textmill.core.stored_texts import StoreText
from textmill.core.tasks import get_task, validate_params
from textmill.producer.openai_batch.endpoints import Endpoint
from textmill.producer.openai_batch.fields import Options, unsupported
from textmill.producer.openai_batch.requests import Request, read_request

NOT_SHARED = ("dimensions",)
"""Whether a model can do it is checked for the job as a whole: one line must not fail it."""
KEPT_CHECKS = 64


class JobOptions:
    """The endpoint's defaults under what the person asked for, as the first good line has them.

    Most files say the same in every line, and then no record needs options of its own. ``params``
    are the job's. ``store_text`` says what rows and job may keep of a line. Raises InvalidJobError
    for options that cannot be.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        given: Mapping[str, Any] | None = None,
        samples: Sequence[Mapping[str, Any]] = (),
        store_text: StoreText = StoreText.FULL,
    ) -> None:
        self.endpoint = endpoint
        self.store_text = store_text
        self._task = get_task(endpoint.task)
        self._base = self._check(
            dict(endpoint.defaults) | {"openai_batch": endpoint.url} | dict(given or {})
        )
        self.params = self._base
        self._check_own = lru_cache(KEPT_CHECKS)(self._check_encoded)
        for body in samples:
            try:
                whole = self._whole(read_request(endpoint, body))
                self.params = self._check(whole | self._unshared())
            except (RecordError, InvalidJobError):
                continue  # it gets an error row
            break

    @property
    def draws(self) -> bool:
        """Whether answers may be drawn."""
        return self.endpoint.task == "generation"

    @property
    def keep_texts(self) -> bool:
        """Whether rows and job keep what a line says in words; else no word of it, and no quote."""
        return self.store_text == StoreText.FULL

    def _unshared(self) -> Options:
        """What the job has as it was asked for, whatever its first line says."""
        own = set() if self.keep_texts else self._task.params.FROM_LINES
        return {name: self._base[name] for name in {*NOT_SHARED, *own} if name in self._base}

    def own(self, request: Request) -> Options:
        """The options in which a line differs from the job; raises RecordError."""
        whole = self._whole(request)
        own = {name: value for name, value in whole.items() if value != self.params[name]}
        if own:
            self._check_own(orjson.dumps(own))
        return own

    def _whole(self, request: Request) -> Options:
        """All options of a line."""
        whole = self._base | request.options
        if not self.draws:
            return whole
        if whole["top_p"] == 0:
            whole["temperature"] = 0  # the likeliest token alone is left
        if whole["temperature"] == 0:
            whole["top_p"] = whole["top_k"] = None  # nothing is drawn
        if whole["json_schema"] is not None and whole["stop"]:
            problem = "would cut the JSON that response_format asks for"
            raise unsupported("stop", problem, problem)
        if "seed" in request.options:
            whole["draws"] = "0"  # of equal requests with equal seeds the answers are equal
        return whole

    def _check(self, options: Mapping[str, Any]) -> Options:
        return validate_params(self._task, dict(options)).model_dump(mode="json")

    def _check_encoded(self, own: bytes) -> None:
        try:
            self._check(self.params | orjson.loads(own))
        except InvalidJobError as error:
            raise RecordError("invalid_params", str(error)) from None
