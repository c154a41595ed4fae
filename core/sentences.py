"""How a model folder in the layout of sentence-transformers makes one vector of a text.

The layout: ``modules.json`` lists the steps, ``1_Pooling/config.json`` says how token vectors
become one, ``sentence_bert_config.json`` how long a text may be
(https://sbert.net/docs/package_reference/sentence_transformer/models.html). A folder without these
files gets the defaults below. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textmill.core.errors import ModelLoadError

POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
STEPS = {"Transformer", "Pooling", "Normalize"}
WIDTH_KEYS = ("hidden_size", "dim", "d_model", "n_embd")


@dataclass(frozen=True, slots=True)
class SentenceDefaults:
    """What the folder says of the options that a job leaves to it."""

    pooling: str = "mean"  # mean, cls or last
    normalize: bool = True
    prefix: str = ""
    lower_case: bool = False
    max_tokens: int | None = None


def read_defaults(name: str, folder: Path) -> SentenceDefaults:
    """The folder's own settings; raises ModelLoadError for a step that Textmill does not do."""
    try:
        return _read_defaults(name, folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(
            f"model {name!r}: its modules.json or another file of sentence-transformers is "
            f"damaged: {error!r}"
        ) from None


def _read_defaults(name: str, folder: Path) -> SentenceDefaults:
    steps = _read_steps(name, folder)
    pooling = _read_json(name, folder / steps.get("Pooling", "1_Pooling") / "config.json")
    texts: dict[str, Any] = next(
        (_read_json(name, path) for path in folder.glob("sentence_*_config.json")), {}
    )
    prompts = _read_json(name, folder / "config_sentence_transformers.json")
    return SentenceDefaults(
        pooling=_choose_pooling(name, pooling),
        normalize="Normalize" in steps or not steps,
        prefix=(prompts.get("prompts") or {}).get(prompts.get("default_prompt_name"), ""),
        lower_case=bool(texts.get("do_lower_case")),
        max_tokens=texts.get("max_seq_length"),
    )


def _read_steps(name: str, folder: Path) -> dict[str, str]:
    """The folder of each step of ``modules.json`` by its kind."""
    modules = _read_json(name, folder / "modules.json")
    steps = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    if unknown := sorted(steps.keys() - STEPS):
        raise ModelLoadError(
            f"model {name!r}: modules.json has the step {', '.join(unknown)}, which embeddings "
            f"does not do; it does {', '.join(sorted(STEPS))}"
        )
    return steps


def check_embedder(
    name: str, folder: Path, config: Mapping[str, Any], dimensions: int | None
) -> None:
    """Raise ModelLoadError if the model gives no vectors, or none of so many dimensions."""
    if config.get("is_encoder_decoder"):
        raise ModelLoadError(
            f"model {name!r} cannot do embeddings: it is an encoder with a decoder "
            f"({config.get('model_type')}); expected an encoder or a decoder alone"
        )
    read_defaults(name, folder)
    width = next((config[key] for key in WIDTH_KEYS if key in config), None)
    if dimensions is not None and width is not None and dimensions > width:
        raise ModelLoadError(
            f"dimensions is {dimensions}, and the vectors of model {name!r} have {width}"
        )


def _choose_pooling(name: str, config: Mapping[str, Any]) -> str:
    if not config:
        return "mean"
    asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    if config.get("pooling_mode"):
        asked = [f"pooling_mode_{config['pooling_mode']}"]
    known = POOLING_FLAGS | {f"pooling_mode_{mode}": mode for mode in POOLING_FLAGS.values()}
    if len(asked) != 1 or asked[0] not in known:
        found = " and ".join(key.removeprefix("pooling_mode_") for key in asked) or "none"
        raise ModelLoadError(
            f"model {name!r}: its pooling is {found}; expected one of "
            f"{', '.join(POOLING_FLAGS.values())}"
        )
    if config.get("include_prompt") is False:
        raise ModelLoadError(
            f"model {name!r} pools without its prompt (include_prompt is false), which "
            "embeddings does not do"
        )
    return known[asked[0]]


def _read_json(name: str, path: Path) -> Any:
    """The file's content, or an empty object if there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelLoadError(f"model {name!r}: {path.name} is not JSON: {error}") from None
    except OSError as error:
        raise ModelLoadError(f"model {name!r}: {path.name}: {error.strerror}") from None
