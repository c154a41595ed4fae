"""Why a model could not be loaded, as the error that jobs and the pool act on."""

from __future__ import annotations

import logging

from textmill.core.errors import ModelLoadError

log = logging.getLogger(__name__)


def load_error(name: str, error: Exception) -> ModelLoadError:
    """The reason as a ModelLoadError, without the frames that hold the half-loaded model."""
    if isinstance(error, ModelLoadError):
        return error.with_traceback(None)
    log.exception("model %s cannot be loaded", name)
    failure = ModelLoadError(f"model {name!r} cannot be loaded: {type(error).__name__}: {error}")
    failure.__cause__ = error.with_traceback(None)
    return failure
