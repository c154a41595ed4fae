"""Which names a repository of the hub can have: those that huggingface_hub lets through."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from textmill.core.errors import ModelLoadError
from textmill.core.hub import find_source

NAMES = [
    "gpt2",
    "org/model",
    "Org-1/m_2.v3",
    "_a/_b",
    "a" * 96,
    f"{'o' * 96}/{'m' * 96}",
    "a.git/b",
]
NAMES += ["a b", "org/na me", "ü/x", "org/ü", "a..b", "a--b", "a-/b", "a/b-", "-x", "a/.b", "a/b."]
NAMES += [
    "org/x.git",
    "a" * 97,
    f"{'o' * 97}/m",
    "a\n",
    "a/b\n",
    "a\x01b",
    "a\udcffb",
    "a\0b",
    "a:b",
]


def _of_the_library(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_where_the_library_says_so(name: str) -> None:
    for model in (name, f"{name}/x.gguf") if name.count("/") == 1 else (name,):
        if _of_the_library(name):
            assert find_source(model).repository == name
        else:
            with pytest.raises(ModelLoadError, match="neither a folder on this machine nor a name"):
                find_source(model)
