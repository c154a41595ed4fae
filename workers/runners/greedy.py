"""Greedy decoding for encoder-decoder models: a row that has ended leaves the batch at once.

``generate`` computes every row until the last has ended. This loop is given to it as
``custom_generate``, so that all else is transformers' own: the settings, the logits processors, the
stopping criteria, the encoder's pass. Where a row's place in the batch matters, its own loop runs.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from textmill.workers.runners.finite import FiniteWatch

# Those that treat each row by itself and keep nothing about rows from step to step.
ROW_BY_ROW = {
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
}
# Whose decoders take one token, the encoder's output and a cache, and nothing else.
MODELS = {
    "bart",
    "blenderbot",
    "blenderbot-small",
    "m2m_100",
    "marian",
    "mbart",
    "mt5",
    "pegasus",
    "t5",
    "umt5",
}
KNOWN_INPUTS = {"encoder_outputs", "attention_mask", "past_key_values", "use_cache"}


def search(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    watch: FiniteWatch,
    **inputs: Any,
) -> torch.Tensor:
    """Token ids (rows, longest), padded on the right; what ``generate`` hands over comes in.

    Outputs that are not to be used are noted in ``watch``.
    """
    if not _drops_rows(model, logits_processor, inputs):
        watched = transformers.LogitsProcessorList([*logits_processor, watch])
        plain: torch.Tensor = model._sample(
            input_ids,
            logits_processor=watched,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            **inputs,
        )
        return plain
    length = int(stopping_criteria.max_length)
    found = input_ids.new_full((len(input_ids), length), int(generation_config._pad_token_tensor))
    found[:, : input_ids.shape[1]] = input_ids
    batch = _Batch(model, input_ids, inputs)
    while len(batch.rows):
        best, tokens = logits_processor(batch.ids, batch.step()).max(dim=-1)
        finite = best.isfinite()
        if not bool(finite.all()):
            watch.note(batch.rows[~finite].tolist(), batch.ids[~finite])
        batch.ids = torch.cat([batch.ids, tokens[:, None]], dim=-1)
        found[batch.rows, batch.ids.shape[1] - 1] = tokens
        batch.keep(finite & ~stopping_criteria(batch.ids, None))
    return found


class _Batch:
    """The rows that have not ended: their ids so far, encoder outputs and cache."""

    def __init__(self, model: Any, input_ids: torch.Tensor, inputs: dict[str, Any]) -> None:
        self.ids = input_ids
        self.rows = torch.arange(len(input_ids), device=input_ids.device)
        self._model = model
        self._cache: EncoderDecoderCache = inputs["past_key_values"]
        self._mask: torch.Tensor = inputs["attention_mask"]
        self._encoded: torch.Tensor = inputs["encoder_outputs"][0]

    def step(self) -> torch.Tensor:
        """The next token's logits (rows, vocabulary), float32."""
        logits: torch.Tensor = self._model(
            decoder_input_ids=self.ids[:, -1:],
            encoder_outputs=BaseModelOutput(last_hidden_state=self._encoded),
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        return logits[:, -1].to(copy=True, dtype=torch.float32)

    def keep(self, going: torch.Tensor) -> None:
        """Drop the other rows."""
        if bool(going.all()):
            return
        kept = going.nonzero().squeeze(1)
        self.rows, self.ids, self._mask = self.rows[kept], self.ids[kept], self._mask[kept]
        self._encoded = self._encoded[kept]
        if len(kept):
            self._cache.batch_select_indices(kept)


def _drops_rows(model: Any, processors: Any, inputs: dict[str, Any]) -> bool:
    cache = inputs.get("past_key_values")
    given = {name for name, value in inputs.items() if value is not None}
    return (
        model.config.model_type in MODELS
        and given <= KNOWN_INPUTS
        and given >= {"encoder_outputs", "attention_mask"}
        and isinstance(cache, EncoderDecoderCache)
        and all(type(layer) is DynamicLayer for layer in _layers(cache))
        and all(type(one).__name__ in ROW_BY_ROW for one in processors)
        and not any(getattr(one, "prompt_ignore_length", None) is not None for one in processors)
    )


def _layers(cache: EncoderDecoderCache) -> list[Any]:
    return [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]


def is_greedy(config: Any) -> bool:
    """Whether ``generate`` would take the best token at each step."""
    mode = transformers.generation.GenerationMode.GREEDY_SEARCH
    return bool(config.get_generation_mode() == mode)
