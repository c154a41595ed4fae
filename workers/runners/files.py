"""A checkpoint's files as the arguments of transformers' ``from_pretrained``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textmill.core.checkpoints import Checkpoint


@contextmanager
def files_for_transformers(checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """The arguments that say which files; good inside this block."""
    common = {
        "trust_remote_code": checkpoint.permits.remote_code,
        "local_files_only": True,
    }
    if checkpoint.gguf is None:
        yield {"pretrained_model_name_or_path": checkpoint.folder, **common}
        return
    # Alone in a folder: a tokenizer.json or generation_config.json that lies beside it may be of
    # another model, and would be taken.
    with tempfile.TemporaryDirectory(prefix="textmill-gguf-") as folder:
        (Path(folder) / checkpoint.gguf).symlink_to(checkpoint.weights[0].absolute())
        yield {
            "pretrained_model_name_or_path": folder,
            "gguf_file": checkpoint.gguf,
            **common,
        }
