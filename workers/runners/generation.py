"""Generation: a text that goes on from a prompt, or answers a chat.

Wraps ``AutoModelForCausalLM``. What the model reads is the business of ``generation_prompts``; how
tokens are chosen, and when a text ends, that of ``decoding``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar

import torch
import transformers

from textmill.core.errors import EngineClosedError, RecordError
from textmill.core.jobs import Record
from textmill.core.json_schemas import read_json
from textmill.core.params import GenerationParams, TaskParams
from textmill.workers.items import Item, ModelRequest, Output, Step, equal_key
from textmill.workers.runners import devices, loading
from textmill.workers.runners.base import ModelRunner
from textmill.workers.runners.decoding.loop import DecodeLoop
from textmill.workers.runners.decoding.requests import DecodeRequest, Generated, Sampling
from textmill.workers.runners.generation_prompts import answer_tokens, encode_prompt
from textmill.workers.runners.grammars import Grammars
from textmill.workers.runners.lengths import truncation_mark
from textmill.workers.runners.loading import Loaded
from textmill.workers.runners.prompting import PromptEncoder
from textmill.workers.runners.records import check_text, own_params, read_each

MAX_ROWS = {"cpu": 32, "cuda": 256}
CACHE_SHARE = 0.5  # of the memory that is free beside the weights
MOST_HELD_TOKENS = 1 << 20
TRIAL_TOKENS = 4


@dataclass(frozen=True, slots=True)
class PromptRequest(DecodeRequest):
    """A prompt to go on from, how many tokens it had before anything was cut, what is asked."""

    given_tokens: int = 0
    schema: str | None = None  # of the JSON that the answer is to be


class GenerationRunner(ModelRunner):
    """One loaded generative model on one device. An item is a whole prompt with its answer."""

    PADS: ClassVar[bool] = False

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        self._prompts = PromptEncoder(loaded.tokenizer)
        self._eos_ids = find_eos_ids(loaded.model, loaded.tokenizer.source)
        added = loaded.tokenizer.source.added_tokens_decoder.items()
        self._control_tokens = {token.content: number for number, token in added if token.special}
        self._grammars = Grammars(loaded.tokenizer.source, self._eos_ids)
        self.max_rows = MAX_ROWS.get(self._device.type, MAX_ROWS["cpu"])
        self.max_held_tokens = cache_tokens(loaded.model, self._device)
        self._loop: DecodeLoop | None = DecodeLoop(
            loaded.model,
            loaded.tokenizer.source,
            self._device,
            max_held_tokens=self.max_held_tokens,
        )

    @classmethod
    def load(cls, request: ModelRequest) -> GenerationRunner:
        """Load a generative model; raises ModelLoadError that says what was found and expected."""
        auto_class = transformers.AutoModelForCausalLM
        return cls(loading.load_model(request, auto_class, outcome="text"))

    def prepare(
        self, records: Sequence[Record], params: TaskParams
    ) -> list[list[Item] | RecordError]:
        """One item per record, or why it has none."""
        return read_each(records, lambda record: self._items(record, params))

    def admit(self, rows: Mapping[int, Item]) -> None:
        """Take items in as rows; nothing is computed yet."""
        self._open_loop().admit({handle: item.data for handle, item in rows.items()})

    def step(self) -> Step:
        """One forward pass."""
        return self._open_loop().step()

    def drop(self, handles: Iterable[int]) -> None:
        """Forget rows and what they hold."""
        self._open_loop().drop(handles)

    def join(
        self, record: Record, items: Sequence[Item], raw: Sequence[Any], params: TaskParams
    ) -> Output:
        """The record's text, why it ended, and how many tokens were read and written."""
        request: PromptRequest = items[0].data
        generated: Generated = raw[0]
        read = len(request.ids)
        detail: dict[str, Any] = {"finish_reason": generated.finish_reason}
        detail |= truncation_mark(read, request.given_tokens)
        text = generated.text
        if request.schema is not None:
            text = self._grammars.text(generated.ids)
            detail["json"] = _read_answer(text, generated, request.schema)
        return Output(
            output=text, detail=detail, input_tokens=read, output_tokens=len(generated.ids)
        )

    def warm_up(self) -> None:
        """One small made-up prompt, and two tokens after it."""
        self.admit({0: Item(4, DecodeRequest([0, 0], max_new_tokens=3))})
        for _ in range(2):
            self.step()
        self.drop([0])

    def close(self) -> None:
        """Free the model and the cache; outputs can still be joined."""
        self._loop = None
        self._grammars.close()
        super().close()

    def _open_loop(self) -> DecodeLoop:
        if self._loop is None:
            raise EngineClosedError("the model was closed")
        return self._loop

    def _items(self, record: Record, job_params: TaskParams) -> list[Item]:
        text = check_text("text", record.inputs.get("text"))
        params = own_params(record, job_params, GenerationParams, "generation")
        prompt = encode_prompt(self._prompts, text, params)
        schema = params.json_schema
        request = PromptRequest(
            prompt.ids,
            answer_tokens(self._prompts, prompt, params),
            eos_ids=self._eos_ids | self._ends_among(params.stop),
            stop=params.stop,
            sampling=_sampling(params, record.record_id),
            constraint=None if schema is None else self._grammars.constraint(schema),
            given_tokens=prompt.given_tokens,
            schema=schema,
        )
        return [as_item(request, schema)]

    def _ends_among(self, stop: Iterable[str]) -> set[int]:
        """Control tokens are no text, so one that is to stop is looked for by its id."""
        return {self._control_tokens[one] for one in stop if one in self._control_tokens}


def as_item(request: DecodeRequest, schema: str | None = None) -> Item:
    """The item of a row; rows of equal prompts, settings and schemas are computed once."""
    options = (request.max_new_tokens, request.stop, request.sampling, schema)
    key = equal_key(request.ids, *options)
    return Item(request.tokens, request, key=key)


def _sampling(params: GenerationParams, record_id: str) -> Sampling:
    whose = record_id if params.draws is None else params.draws
    return Sampling(
        temperature=params.temperature,
        top_k=params.top_k or 0,
        top_p=1.0 if params.top_p is None else params.top_p,
        seed=mix_seed(params.seed, whose) if params.temperature > 0 else 0,
        repetition_penalty=params.repetition_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
    )


def _read_answer(text: str, generated: Generated, schema: str) -> Any:
    """The JSON of an answer; raises RecordError if it was cut, is wrong or cannot be stored."""
    written = len(generated.ids)
    if generated.finish_reason == "length":
        raise RecordError(
            "json_incomplete",
            f"the JSON was not complete after {written} tokens; give a larger max_new_tokens, or "
            "bound the schema's strings and lists (maxLength, maxItems)",
        )
    try:
        return read_json(text, schema)
    except OverflowError as error:
        raise RecordError(
            "json_invalid",
            f"the JSON cannot be stored: {error}; bound the schema's numbers and lists (minimum, "
            "maximum, maxItems)",
        ) from None
    except ValueError as error:
        raise RecordError(
            "json_invalid",
            f"what came after {written} tokens does not fulfil json_schema: {error}; the model's "
            "vocabulary may lack a character, or the schema be too complex: try a simpler one",
        ) from None


def mix_seed(seed: int, record_id: str) -> int:
    """The seed of one record's draws: the same in every batch, chunk, retry and job.

    By the id and not the index, so that a record with an id of its own keeps its text where
    others are added before it.
    """
    return int.from_bytes(blake2b(f"{seed} {record_id}".encode(), digest_size=8).digest())


def find_eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text: as ``model.generate`` finds them, else the tokenizer's own."""
    known = model.generation_config.eos_token_id
    if known is None:
        known = model.config.get_text_config().eos_token_id
    if known is None:
        known = tokenizer.eos_token_id
    if known is None:
        return frozenset()
    return frozenset([known] if isinstance(known, int) else known)


def cache_tokens(model: Any, device: torch.device) -> int:
    """How many tokens' keys and values fit beside the weights, by the memory that is free now."""
    token_bytes = devices.run_on_device(device, lambda: _token_bytes(model, device))
    if not token_bytes:
        return MOST_HELD_TOKENS
    room = int(devices.free_memory_bytes(device) * CACHE_SHARE) // token_bytes
    return max(1, min(room, MOST_HELD_TOKENS))


def _token_bytes(model: Any, device: torch.device) -> int:
    """What a token's keys and values take, by those of a few; 0 for a state that does not grow.

    Configs do not say it of every model: heads may differ from layer to layer, or not be there.
    """
    ids = torch.zeros((1, TRIAL_TOKENS), dtype=torch.long, device=device)
    with torch.inference_mode():
        cache = getattr(model(input_ids=ids, use_cache=True), "past_key_values", None)
    kept = [
        tensor
        for layer in getattr(cache, "layers", ())
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if isinstance(tensor, torch.Tensor)
    ]
    return sum(tensor.nbytes for tensor in kept) // TRIAL_TOKENS
