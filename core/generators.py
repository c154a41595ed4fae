"""What a model's files say of its use for generation: its context, and whether it has a chat form.

Reads JSON and looks for files; imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textmill.core.errors import ModelLoadError

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
ARCHITECTURES = ("ForCausalLM", "GPT2LMHeadModel", "OpenAIGPTLMHeadModel")
"""What the classes of models that write text end with."""

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


def is_generator(config: Mapping[str, Any]) -> bool:
    """Whether the model's class is one that writes text."""
    return next(iter(config.get("architectures") or []), "").endswith(ARCHITECTURES)


def has_chat_template(name: str, folder: Path) -> bool:
    """Whether the tokenizer of this folder can write a chat as the model was taught to read it."""
    if any((folder / file).is_file() for file in TEMPLATE_FILES):
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"model {name!r}: tokenizer_config.json cannot be read: {error}"
        ) from None
    return isinstance(config, dict) and bool(config.get("chat_template"))


def context_length(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model has positions for; None if its config does not say."""
    config = config.get("text_config") or config
    found = next((config[key] for key in CONTEXT_KEYS if config.get(key)), None)
    return found if isinstance(found, int) else None


def check_generator(
    name: str, folder: Path, config: Mapping[str, Any], *, chat: str | None, new_tokens: int
) -> None:
    """Raise ModelLoadError if the model has no chat template and ``chat`` (an option) needs it.

    Also if ``new_tokens`` leave no room for a prompt.
    """
    # A GGUF file carries its template itself, and is read into ``config``.
    has_template = bool(config.get("chat_template")) or has_chat_template(name, folder)
    if chat is not None and not has_template:
        raise ModelLoadError(
            f"model {name!r} has no chat template (neither in tokenizer_config.json nor as "
            f"chat_template.jinja), which {chat} needs; take a model that was trained on chats, "
            "often called Instruct or Chat, or send plain prompts"
        )
    context = context_length(config)
    if context is not None and new_tokens >= context:
        raise ModelLoadError(
            f"max_new_tokens is {new_tokens}, and the context of model {name!r} has {context} "
            "tokens, prompt and answer together; give less with --max-new-tokens"
        )
