"""CTranslate2 in place of torch: the loaded model, converted once and kept in the data folder.

https://opennmt.net/CTranslate2 is an optional package (``textmill[ct2]``). What it does otherwise
than transformers is said in docs/translation.md; settings it has no word for are refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from textmill.core.checkpoints import Checkpoint
from textmill.core.errors import RecordError
from textmill.core.locks import open_lock
from textmill.core.params.seq2seq import INT8_WITH_CTRANSLATE2
from textmill.core.settings import load_settings
from textmill.workers.items import DeviceLostError
from textmill.workers.runners import devices, quantizing
from textmill.workers.runners.seq2seq_tokens import Seq2SeqTokenizer

log = logging.getLogger(__name__)

MOST_PARTS = 4  # of a batch, which must not become too small
PAUSE_SECONDS = 60.0  # after a conversion that failed
CONVERSION = 1  # counted up when converting changes, so that older folders are not used
COMPUTE_TYPES = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
# What transformers would act on and CTranslate2 has no word for.
UNKNOWN_SETTINGS = (
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "guidance_scale",
    "sequence_bias",
    "suppress_tokens",
    "watermarking_config",
)
NEUTRAL: tuple[Any, ...] = (None, 0, 1.0, [])


def missing_package() -> str | None:
    """What to tell a person where CTranslate2 is not installed."""
    if importlib.util.find_spec("ctranslate2") is not None:
        return None
    return (
        "backend is 'ctranslate2', which this worker does not have; install it there with "
        "pip install 'textmill[ct2]', or leave --backend out"
    )


class ConvertedModel:
    """The CTranslate2 twin of a loaded model, made when a job first asks for it."""

    def __init__(
        self,
        model: Any,
        tokenizer: Seq2SeqTokenizer,
        device: torch.device,
        checkpoint: Checkpoint,
    ) -> None:
        self._tokenizer = tokenizer
        self._device = device
        self._checkpoint = checkpoint
        self._type = COMPUTE_TYPES.get(model.dtype, "float32")
        self._rounded = quantizing.is_quantized(model)
        self._family = str(model.config.model_type)
        self._convert: Any = model
        self._workers = _side_by_side(device)
        self._translator: Any = None
        self._failure: RecordError | None = None
        self._failed_at = 0.0

    def problem(self, config: Any) -> str | None:
        """Why this model, device or these settings are nothing for CTranslate2, or None."""
        library = importlib.import_module("ctranslate2")
        converters = importlib.import_module("textmill.workers.runners.ctranslate_convert")
        if self._rounded:
            return INT8_WITH_CTRANSLATE2
        if not converters.knows(self._family):
            return f"backend is 'ctranslate2', which has no {self._family} models; leave it out"
        if self._device.type not in ("cpu", "cuda"):
            return f"backend is 'ctranslate2', which does not run on {self._device.type}"
        if self._type not in library.get_supported_compute_types(self._device.type):
            return f"backend is 'ctranslate2', which has no {self._type} here; ask for --dtype fp32"
        settings = {name: getattr(config, name, None) for name in UNKNOWN_SETTINGS}
        known = _own_bad_words(config)
        odd = [name for name, value in settings.items() if value not in NEUTRAL]
        if not known or odd:
            names = ", ".join(odd or ["bad_words_ids"])
            return f"backend is 'ctranslate2', which has no {names} as the model's settings have"
        return None

    def write(self, ids: list[list[int]], config: Any, limit: int) -> list[list[int] | None]:
        """Token ids of each output, at most ``limit``, without those that start and end it.

        None where the scores were not finite.
        """
        self.open()
        tokenizer = self._tokenizer
        first = config.forced_bos_token_id
        prefix = None if first is None else [tokenizer.tokens([first])] * len(ids)
        found = self._translator.translate_batch(
            [tokenizer.tokens(row) for row in ids],
            target_prefix=prefix,
            beam_size=config.num_beams or 1,
            length_penalty=1.0 if config.length_penalty is None else config.length_penalty,
            repetition_penalty=config.repetition_penalty or 1.0,
            no_repeat_ngram_size=config.no_repeat_ngram_size or 0,
            suppress_sequences=[tokenizer.tokens(bad) for bad in config.bad_words_ids or []],
            max_batch_size=math.ceil(len(ids) / self._workers),
            max_input_length=0,  # its own limit would cut without a word
            max_decoding_length=limit,
            min_decoding_length=_least(config),
            return_scores=True,
        )
        return [
            tokenizer.ids(one.hypotheses[0]) if math.isfinite(one.scores[0]) else None
            for one in found
        ]

    def open(self) -> None:
        """Convert the model unless that was done before, and load it: seconds to minutes.

        Raises RecordError; then it is not tried again for a while.
        """
        if self._translator is not None:
            return
        if self._failure is not None and time.monotonic() < self._failed_at + PAUSE_SECONDS:
            raise self._failure
        try:
            self._translator = devices.run_on_device(self._device, self._load)
        except DeviceLostError:
            raise
        except Exception as error:
            log.exception("%s cannot be converted", self._checkpoint.name)
            self._failed_at = time.monotonic()
            self._failure = RecordError(
                "backend_unavailable",
                "backend is 'ctranslate2', and the model cannot be converted for it: "
                f"{type(error).__name__}: {error}; mend that, or leave --backend out",
            )
            raise self._failure from None

    def _load(self) -> Any:
        library = importlib.import_module("ctranslate2")
        threads = torch.get_num_threads()
        translator = library.Translator(
            str(self._folder()),
            device=self._device.type,
            device_index=self._device.index or 0,
            compute_type=self._type,
            inter_threads=self._workers,
            intra_threads=max(1, threads // self._workers),
        )
        torch.set_num_threads(threads)  # where both use one OpenMP, it took those of this thread
        return translator

    def _folder(self) -> Path:
        """The converted model; of several processes one converts, and the others wait for it."""
        cache = load_settings().home / "ctranslate2"
        cache.mkdir(parents=True, exist_ok=True)
        folder = cache / self._digest()
        lock = open_lock(cache / f"{folder.name}.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                self._convert_into(folder)
        finally:
            os.close(lock)
        return folder

    def _convert_into(self, folder: Path) -> None:
        converters = importlib.import_module("textmill.workers.runners.ctranslate_convert")
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            converters.convert(
                self._convert, self._tokenizer.transformers_tokenizer, self._type, unfinished
            )
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _digest(self) -> str:
        """One name for the same weights, by the files' sizes and times, and the same converter."""
        files = [(path, path.stat()) for path in self._checkpoint.weights]
        stats = [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in files]
        facts = (
            CONVERSION,
            str(self._checkpoint.folder.resolve()),
            stats,
            self._type,
            importlib.metadata.version("ctranslate2"),
        )
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:20]


def _side_by_side(device: torch.device) -> int:
    """How many parts of a batch are computed at once; see docs/translation.md.

    A decoder's operations are small: on a CPU, one thread for each part is faster than all threads
    for each operation.
    """
    return min(MOST_PARTS, torch.get_num_threads()) if device.type == "cpu" else 1


def _own_bad_words(config: Any) -> bool:
    """Marian's models forbid their padding, which is one token; so can CTranslate2."""
    words: Sequence[Sequence[int]] = config.bad_words_ids or []
    return all(len(word) == 1 for word in words)


def _least(config: Any) -> int:
    least = max(config.min_new_tokens or 0, (config.min_length or 0) - 1)
    return max(1, int(least))
