"""From a task's name to its runner, imported only when a worker needs it."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import psutil

from textmill.core.errors import InvalidJobError, ModelLoadError
from textmill.core.tasks import get_task
from textmill.workers.items import AnyRunner, ModelRequest


class RunnerClass(Protocol):
    """What a task's ``runner`` string names: how to load one, and how big it will be."""

    def load(self, request: ModelRequest) -> AnyRunner:
        """The runner with its weights on the device; raises ModelLoadError."""

    def estimate_bytes(self, request: ModelRequest) -> int:
        """What the weights will take on the device; 0 if that cannot be told before loading."""


def runner_class(task: str) -> RunnerClass:
    """The class that runs this task; raises ModelLoadError if this worker cannot run it."""
    try:
        path = get_task(task).runner
        module, _, name = path.partition(":")
        return cast(RunnerClass, getattr(importlib.import_module(module), name))
    except InvalidJobError as error:
        raise ModelLoadError(f"this worker cannot run the job: {error}") from None
    except (ImportError, AttributeError) as error:
        raise ModelLoadError(
            f"the runner {path!r} of task {task!r} cannot be imported: {error}; "
            "a worker needs: pip install 'textmill[worker]'"
        ) from error


def load_runner(request: ModelRequest) -> AnyRunner:
    """Load a model as what its task needs."""
    return runner_class(request.task).load(request)


def estimate_bytes(request: ModelRequest) -> int:
    """What a model will take on its device, as far as its files tell."""
    return runner_class(request.task).estimate_bytes(request)


def default_memory_limit(device: str) -> int:
    """Half of what is free on the device now, in bytes; the rest is for batches."""
    if device == "cpu":  # asked without torch, which takes seconds to import
        return int(psutil.virtual_memory().available // 2)
    devices = _devices()
    return int(devices.free_memory_bytes(devices.choose_device(device)) // 2)


def resolve_device(name: str) -> str:
    """The device that ``auto`` means here."""
    return str(_devices().choose_device(name))


def _devices() -> Any:
    return importlib.import_module("textmill.workers.runners.devices")
