"""Which outputs of a model of natural language inference (NLI) say that a hypothesis holds.

Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textmill.core.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class InferenceLabels:
    """Output indices of the two labels that decide."""

    entailment: int
    contradiction: int


def find_inference_labels(name: str, config: Mapping[str, Any]) -> InferenceLabels:
    """The indices by the labels' names; raises ModelLoadError if none is entailment.

    A model that names no contradiction (``entailment``, ``not_entailment``) gets the index that
    transformers' zero-shot pipeline takes: the last one if entailment is the first, else the first.
    """
    ids = _label_ids(config)
    entailment = _find(ids, "entail")
    if entailment is None or len(ids) < 2:
        raise ModelLoadError(
            f"model {name!r} cannot do zero-shot classification: none of its labels begins with "
            f"'entail' ({', '.join(ids) or 'it names none'}); expected a model of natural language "
            "inference (NLI), such as one trained on MNLI"
        )
    contradiction = _find(ids, "contra")
    if contradiction is None:
        contradiction = max(ids.values()) if entailment == 0 else 0
    return InferenceLabels(entailment, contradiction)


def _label_ids(config: Mapping[str, Any]) -> dict[str, int]:
    """``label2id``, or where a config has only the other direction, that turned around."""
    given = config.get("label2id") or {}
    if not given:
        given = {label: index for index, label in (config.get("id2label") or {}).items()}
    return {str(label): int(index) for label, index in given.items()}


def _find(ids: Mapping[str, int], start: str) -> int | None:
    return next((ids[label] for label in ids if label.lower().startswith(start)), None)
