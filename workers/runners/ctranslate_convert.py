"""From a loaded torch model to CTranslate2's files. Imported only where ctranslate2 is installed.

Its converters read the model that is already loaded, from safetensors: they would load it again, by
whatever file they find.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from ctranslate2.converters import transformers as loaders
from ctranslate2.converters.converter import Converter


class _AsLoaded:
    """Names every token of the model by its id, and starts outputs as transformers does.

    CTranslate2's loaders take some of it from attributes that tokenizers and configs of
    transformers 5 no longer have.
    """

    def get_vocabulary(self, model: Any, tokenizer: Any) -> list[str]:
        size = model.get_output_embeddings().weight.shape[0]
        names: dict[str, int] = {}
        for place, name in enumerate(tokenizer.convert_ids_to_tokens(list(range(size)))):
            # More rows than tokens: rows that fill up, or that stand for nothing.
            names[f"<unused_{place}>" if name is None or name in names else name] = place
        return list(names)

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        start = model.generation_config.decoder_start_token_id
        config.bos_token = tokenizer.bos_token or tokenizer.pad_token
        config.eos_token = tokenizer.eos_token
        config.unk_token = tokenizer.unk_token
        config.decoder_start_token = tokenizer.convert_ids_to_tokens(start)


class BartLoader(_AsLoaded, loaders.BartLoader):  # type: ignore[misc]
    """Layers are normalized after what they do."""

    def get_model_spec(self, model: Any) -> Any:
        model.config.normalize_before = False
        model.config.normalize_embedding = True
        return loaders.BartLoader.get_model_spec(self, model)


class MarianLoader(BartLoader):
    """Starts from the padding's own vector, as transformers does.

    CTranslate2 starts Marian's decoder from zeros. That is the same only for models of the Marian
    toolkit, whose padding is zeros; one trained with transformers would write other texts.
    """

    def get_model_spec(self, model: Any) -> Any:
        model.config.normalize_before = False
        model.config.normalize_embedding = False
        return loaders.BartLoader.get_model_spec(self, model)


class MBartLoader(_AsLoaded, loaders.BartLoader):  # type: ignore[misc]
    """Layers are normalized before what they do."""

    def get_model_spec(self, model: Any) -> Any:
        model.config.normalize_before = True
        model.config.normalize_embedding = True
        return loaders.BartLoader.get_model_spec(self, model)


class M2M100Loader(_AsLoaded, loaders.M2M100Loader):  # type: ignore[misc]
    """M2M100 and NLLB."""


class T5Loader(_AsLoaded, loaders.T5Loader):  # type: ignore[misc]
    """T5 and mT5."""


LOADERS: dict[str, Any] = {
    "bart": BartLoader,
    "m2m_100": M2M100Loader,
    "marian": MarianLoader,
    "mbart": MBartLoader,
    "mt5": T5Loader,
    "t5": T5Loader,
}


def knows(family: str) -> bool:
    """Whether models of this ``model_type`` can be converted."""
    return family in LOADERS


def convert(model: Any, tokenizer: Any, compute_type: str, folder: Path) -> None:
    """Write the model into a folder."""
    _LoadedConverter(model, tokenizer).convert(str(folder), quantization=compute_type, force=True)


class _LoadedConverter(Converter):  # type: ignore[misc]
    """Converts a model that is in memory."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def _load(self) -> Any:
        config = self._model.config
        self._model.config = copy.deepcopy(config)  # the loaders write into it
        try:
            with torch.no_grad():
                return LOADERS[config.model_type]()(self._model, self._tokenizer)
        finally:
            self._model.config = config
