"""What translation and summarization share: one encoder-decoder model that writes texts.

Wraps ``AutoModelForSeq2SeqLM``. Settings are those of the model's generation_config with the job's
over them; nothing is drawn at random. Greedy outputs are those of ``generate`` one by one (see
``greedy``); beams are ``generate``'s own, over items of near lengths.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import transformers

from textmill.core.checkpoints import Checkpoint
from textmill.core.errors import ModelLoadError, RecordError
from textmill.core.params import Seq2SeqParams
from textmill.workers.items import Item, ModelRequest
from textmill.workers.runners import devices, greedy, loading
from textmill.workers.runners.base import DeviceRunner
from textmill.workers.runners.ctranslate import ConvertedModel, missing_package
from textmill.workers.runners.finite import FiniteWatch
from textmill.workers.runners.padding import pack_ids
from textmill.workers.runners.seq2seq_tokens import Seq2SeqTokenizer, load_seq2seq_tokenizer

DEFAULT_NEW_TOKENS = 256  # transformers' own would be 20
CPU_BATCH_TOKENS = 4096  # of the input; see docs/translation.md
MAX_LOGITS = 2**26  # numbers in one step's logits: 256 MB

Runner = TypeVar("Runner", bound="Seq2SeqRunner")


class Writing(NamedTuple):
    """How a text is to be written: what the items of one batch share. None: as the model says."""

    backend: str = "torch"
    num_beams: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    forced_bos_token_id: int | None = None


class Written(NamedTuple):
    """What the model wrote for one item."""

    ids: list[int]
    ended: bool  # False: it was cut at its limit


@dataclass(frozen=True, slots=True)
class Seq2SeqModel:
    """An encoder-decoder model on its device, with its tokenizer and the files it came from."""

    model: Any
    tokenizer: Seq2SeqTokenizer
    device: torch.device
    checkpoint: Checkpoint


class Seq2SeqRunner(DeviceRunner):
    """One loaded model on one device. An item's data has ``ids``; its group is a Writing."""

    def __init__(self, loaded: Seq2SeqModel) -> None:
        super().__init__(loaded.model, loaded.device)
        if loaded.device.type == "cpu":
            self.max_batch_tokens = CPU_BATCH_TOKENS
        self._tokenizer = loaded.tokenizer
        self._vocabulary = int(loaded.model.get_output_embeddings().weight.shape[0])
        # generate fills what a setting leaves open from the model's own.
        self._settings = loaded.model.generation_config = _own_settings(loaded.model)
        self._converted = ConvertedModel(
            loaded.model, loaded.tokenizer, loaded.device, loaded.checkpoint
        )

    @classmethod
    def load(cls: type[Runner], request: ModelRequest) -> Runner:
        """Load a model; raises ModelLoadError that says what was found and expected."""
        checkpoint = loading.open_model(request)
        tokenizer = load_seq2seq_tokenizer(checkpoint)
        weights = loading.load_weights(
            request, checkpoint, transformers.AutoModelForSeq2SeqLM, outcome="texts"
        )
        if not weights.model.config.is_encoder_decoder:
            raise ModelLoadError(
                f"model {checkpoint.name!r} has no encoder beside its decoder "
                f"({checkpoint.architecture}); {request.task} needs both"
            )
        tokenizer.fit(weights.model)
        return cls(Seq2SeqModel(weights.model, tokenizer, weights.device, checkpoint))

    def forward(self, items: Sequence[Item]) -> list[Written | None]:
        """What the model writes for each item; None where its scores were not finite."""
        writing: Writing = items[0].group  # type: ignore[assignment]
        ids = [item.data.ids for item in items]
        if writing.backend == "ctranslate2":
            return devices.run_on_device(
                self._device, lambda: self._convert_and_write(ids, writing)
            )
        return devices.run_on_device(self._device, lambda: self._write(ids, writing))

    def load_for(self, group: Hashable) -> None:
        """The model as CTranslate2 wants it, if that is to write; raises RecordError."""
        if isinstance(group, Writing) and group.backend == "ctranslate2":
            self._converted.open()

    def warm_up(self) -> None:
        """A few tokens for one small batch of made-up input."""
        pad = self._tokenizer.pad_id
        config = self._config(Writing(num_beams=1, max_new_tokens=2, min_new_tokens=0))
        devices.run_on_device(self._device, lambda: self._generate([[pad] * 8] * 4, config))

    def _writing(self, params: Seq2SeqParams, **more: Any) -> Writing:
        """The group of an item; raises RecordError for what cannot be done, here or at all."""
        if problem := params.problem_with(causal=False):
            raise RecordError("invalid_params", problem)
        writing = Writing(
            params.backend,
            params.num_beams,
            params.max_new_tokens,
            length_penalty=params.length_penalty,
            no_repeat_ngram_size=params.no_repeat_ngram_size,
            **more,
        )
        if params.backend == "ctranslate2":
            missing = missing_package() or self._converted.problem(self._config(writing))
            if missing:
                raise RecordError("backend_unavailable", missing)
        return writing

    def _config(self, writing: Writing) -> Any:
        """What ``generate`` is to do."""
        config = copy.deepcopy(self._settings)
        for name, value in writing._asdict().items():
            if value is not None and name != "backend":
                setattr(config, name, value)
        if writing.max_new_tokens is not None:
            config.max_length = None
        if writing.min_new_tokens is not None:
            config.min_length = 0
        return config

    def _write(self, ids: list[list[int]], writing: Writing) -> list[Written | None]:
        config = self._config(writing)
        rows = max(1, MAX_LOGITS // (self._vocabulary * (config.num_beams or 1)))
        found: list[Written | None] = []
        for start in range(0, len(ids), rows):
            found.extend(self._generate(ids[start : start + rows], config))
        return found

    def _generate(self, ids: list[list[int]], config: Any) -> list[Written | None]:
        inputs: dict[str, Any] = dict(pack_ids(ids, self._tokenizer.pad_id, self._device))
        watch = FiniteWatch(config.num_beams or 1, _end_ids(config))
        if greedy.is_greedy(config):
            inputs |= {"custom_generate": greedy.search, "watch": watch}
        else:
            inputs["logits_processor"] = transformers.LogitsProcessorList([watch])
        with torch.inference_mode():
            rows = self._model.generate(**inputs, generation_config=config).tolist()
        read = [_read_row(row, config, _length_limit(config)) for row in rows]
        ends = zip(rows, read, strict=True)
        return [
            None if watch.is_broken(n, row, end) else written
            for n, (row, (written, end)) in enumerate(ends)
        ]

    def _convert_and_write(self, ids: list[list[int]], writing: Writing) -> list[Written | None]:
        config = self._config(writing)
        # transformers makes the last token an end, where the model's settings say so.
        limit = _length_limit(config) - (1 if config.forced_eos_token_id is None else 2)
        rows = self._converted.write(ids, config, limit)
        first = config.forced_bos_token_id
        return [
            None if row is None else Written(row[1:] if first in row[:1] else row, len(row) < limit)
            for row in rows
        ]


def all_written(raw: Sequence[Written | None]) -> list[Written]:
    """What was written for a record's items; raises RecordError("not_finite")."""
    found = [one for one in raw if one is not None]
    if len(found) < len(raw):
        raise RecordError("not_finite", "the model's scores are not finite numbers")
    return found


def _own_settings(model: Any) -> Any:
    """The model's generation_config, without chance and with a limit."""
    config = copy.deepcopy(model.generation_config)
    config.do_sample = False
    config.num_return_sequences = 1
    config.return_dict_in_generate = False
    if config.max_new_tokens is None and config.max_length is None:
        config.max_new_tokens = min(DEFAULT_NEW_TOKENS, _decoder_positions(model) - 1)
    return config


def _decoder_positions(model: Any) -> int:
    config = model.config
    positions = getattr(config, "max_decoder_position_embeddings", None)
    return int(positions or getattr(config, "max_position_embeddings", None) or 2**20)


def _length_limit(config: Any) -> int:
    """Tokens of an output, the one that starts it included, as ``generate`` counts."""
    if config.max_new_tokens is not None:
        return int(config.max_new_tokens) + 1
    return int(config.max_length)


def _end_ids(config: Any) -> list[int]:
    ends = config.eos_token_id
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _read_row(row: list[int], config: Any, limit: int) -> tuple[Written, int]:
    """A row of ``generate`` without what starts it (a token, a language), and where it ends."""
    ends = _end_ids(config)
    first = 2 if len(row) > 1 and row[1] == config.forced_bos_token_id else 1
    body = row[first:limit]
    for place, token in enumerate(body):
        if token in ends:
            # The last token of all may have been forced to be an end.
            forced = config.forced_eos_token_id is not None and first + place + 1 == limit
            return Written(body[:place], not forced), first + place
    return Written(body, False), first + len(body)
