"""The loaded models of one worker: an engine for each, the least recently used makes room.

Knows when to load and when to close; what loading means is the registry's and runners' business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition, Lock

from textmill.core.errors import ConfigurationError, EngineClosedError, ModelLoadError
from textmill.core.identities import Identities
from textmill.core.settings import Settings
from textmill.workers import registry
from textmill.workers.engine import Engine, EngineState
from textmill.workers.items import (
    AnyRunner,
    DeviceLostError,
    DeviceOutOfMemoryError,
    ModelRequest,
    NoRoomError,
)

log = logging.getLogger(__name__)

RESIDENCE_FACTOR = 10  # an idle model stays this many times its load time
FIRST_BACK_OFF_SECONDS = 10.0
LONGEST_BACK_OFF_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """A load that failed, and until when it is not tried again (monotonic seconds)."""

    message: str
    pause_seconds: float
    until: float


class ModelPool:
    """One engine per model request, loaded when first asked for, all on one device.

    ``limit_bytes`` bounds the weights (default: half of the memory free at the first load). A model
    that is idle for less than ten times its load time is not closed for another one, so that two
    alternating jobs do not reload models all day: the newcomer waits, ``max_wait_seconds`` at most.
    """

    def __init__(
        self,
        device: str = "auto",
        *,
        limit_bytes: int | None = None,
        max_batch_tokens: int | None = None,
        max_wait_seconds: float = 300,
        load: Callable[[ModelRequest], AnyRunner] = registry.load_runner,
        estimate: Callable[[ModelRequest], int] = registry.estimate_bytes,
    ) -> None:
        self.device = _resolve(device)
        self._limit_bytes = limit_bytes
        self._max_batch_tokens = max_batch_tokens
        self._max_wait_seconds = max_wait_seconds
        self._load = load
        self._estimate = estimate
        self._device_lock = Lock()  # engines of one device forward one after the other
        self._loading = Lock()  # one load at a time
        self.identities = Identities()
        self._changed = Condition()  # guards all below; told when an engine goes idle or ends
        self._engines: dict[ModelRequest, Engine] = {}
        self._failures: dict[ModelRequest, _Failure] = {}
        self._closed = False

    @classmethod
    def for_device(cls, device: str, settings: Settings) -> ModelPool:
        """The pool of a worker on this device, bounded as the settings say."""
        gigabytes = settings.max_model_memory_gb
        return cls(
            device,
            limit_bytes=int(gigabytes * 1e9) if gigabytes is not None else None,
            max_batch_tokens=settings.max_batch_tokens,
        )

    def engine(self, request: ModelRequest) -> Engine:
        """The ready engine of this model, loaded now if need be; its device is the pool's.

        Blocks while the model loads or waits for room. Raises ModelLoadError (at once during the
        back-off after a failed load), NoRoomError, EngineClosedError, and DeviceLostError once an
        engine has lost the device.
        """
        request = replace(request, device=self.device)
        engine = self._ready(request)
        if engine is None:
            with self._loading:
                engine = self._ready(request) or self._load_engine(request)
        return engine

    def engines(self) -> list[Engine]:
        """All engines, those that load or failed too; for a watchdog."""
        with self._changed:
            return list(self._engines.values())

    def models(self) -> list[str]:
        """The names of the models that are loaded."""
        return sorted({e.name for e in self.engines() if e.state == EngineState.READY})

    def close(self, *, timeout: float = 10) -> None:
        """Close every engine; whoever waits for one gets EngineClosedError."""
        with self._changed:
            self._closed = True
            engines = list(self._engines.values())
            self._engines.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for engine in engines:
            engine.close(timeout=max(0.0, deadline - time.monotonic()))

    def _ready(self, request: ModelRequest) -> Engine | None:
        with self._changed:
            self._check_open()
            self._check_device()
            self._check_back_off(request)
            engine = self._engines.get(request)
            if engine is None or engine.state != EngineState.READY:
                return None
            engine.touch()
            return engine

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("this worker's models are being closed")

    def _check_device(self) -> None:
        """Nothing loads on a lost device, and no model is to blame for that."""
        for engine in self._engines.values():
            if isinstance(engine.failure, DeviceLostError):
                raise DeviceLostError(str(engine.failure))

    def _check_back_off(self, request: ModelRequest) -> None:
        failure = self._failures.get(request)
        if failure is not None and time.monotonic() < failure.until:
            raise ModelLoadError(failure.message)

    # -- one thread at a time, under self._loading -----------------------------------------

    def _load_engine(self, request: ModelRequest) -> Engine:
        try:
            if request.digest is not None:
                self.identities.require(
                    request.model, request.revision, request.permits, request.digest
                )
            self._make_room(self._estimate(request))
            engine = self._start(request)
        except ModelLoadError as error:
            self._remember_failure(request, str(error))
            raise
        self._failures.pop(request, None)
        log.info("model %s loaded in %.1f s", request.model, engine.load_seconds)
        self._shed_excess(engine)
        return engine

    def _start(self, request: ModelRequest, *, again: bool = True) -> Engine:
        """A new engine, loaded; if memory was short, once more after all idle ones have left."""
        engine = Engine(
            lambda: self._load(request),
            max_batch_tokens=self._max_batch_tokens,
            device_lock=self._device_lock,
            name=request.model,
            on_idle=self._notify,
        )
        with self._changed:
            self._engines[request] = engine
            closed = self._closed
        if closed:
            engine.close(timeout=0)
        try:
            engine.wait_ready()
        except DeviceLostError as error:  # the engine stays, for the watchdog
            if self._others_work(engine):
                raise  # what they did may have come to light here; the next process tells
            raise ModelLoadError(f"model {request.model!r} cannot be loaded: {error}") from None
        except ModelLoadError as error:
            self._forget(engine)
            short = isinstance(engine.failure and engine.failure.__cause__, DeviceOutOfMemoryError)
            if again and short and self._evict_all_idle():
                return self._start(request, again=False)
            raise error
        return engine

    def _others_work(self, engine: Engine) -> bool:
        others = [other for other in self.engines() if other is not engine]
        return any(one.idle_since is None or one.failure is not None for one in others)

    def _make_room(self, needed_bytes: int) -> None:
        """Close idle engines until the new model fits; an only model may have any size."""
        limit = self._limit()
        deadline = time.monotonic() + self._max_wait_seconds
        while True:
            with self._changed:
                self._check_open()
                self._check_device()
                self._forget_ended()
                used = sum(engine.memory_bytes for engine in self._engines.values())
                if not self._engines or used + needed_bytes <= limit:
                    return
                victim = self._least_recently_used(young_too=False)
                if victim is None and not self._wait_for_room(deadline):
                    raise NoRoomError(
                        f"no room for a model of {needed_bytes / 1e9:.2f} GB: {used / 1e9:.2f} of "
                        f"{limit / 1e9:.2f} GB hold models that are busy or were just loaded"
                    )
            if victim is not None:
                self._evict(victim)

    def _limit(self) -> int:
        if self._limit_bytes is None:
            self._limit_bytes = registry.default_memory_limit(self.device)
        return self._limit_bytes

    def _wait_for_room(self, deadline: float) -> bool:
        """Sleep until an engine goes idle or old enough; False once the deadline has passed."""
        now = time.monotonic()
        grown = [_evictable_from(engine) for engine in self._engines.values()]
        wake = min([deadline, *(moment for moment in grown if moment is not None)])
        if now >= deadline:
            return False
        self._changed.wait(max(0.0, wake - now))
        return True

    def _least_recently_used(self, *, young_too: bool) -> Engine | None:
        now = time.monotonic()
        idle = [
            (engine.idle_since, engine)
            for engine in self._engines.values()
            if engine.idle_since is not None
        ]
        old = [(since, e) for since, e in idle if young_too or (_evictable_from(e) or now) <= now]
        return min(old, key=lambda pair: pair[0])[1] if old else None

    def _shed_excess(self, newest: Engine) -> None:
        """Close old idle engines beyond the limit: a model may be bigger than estimated."""
        while True:
            with self._changed:
                used = sum(engine.memory_bytes for engine in self._engines.values())
                victim = self._least_recently_used(young_too=False)
            if used <= self._limit() or victim is None or victim is newest:
                return
            self._evict(victim)

    def _evict_all_idle(self) -> bool:
        """Close every idle engine, however young; True if there was one."""
        evicted = False
        while True:
            with self._changed:
                victim = self._least_recently_used(young_too=True)
            if victim is None:
                return evicted
            self._evict(victim)
            evicted = True

    def _evict(self, engine: Engine) -> None:
        log.info("model %s makes room", engine.name)
        self._forget(engine)
        engine.close()

    def _forget(self, engine: Engine) -> None:
        with self._changed:
            self._engines = {r: other for r, other in self._engines.items() if other is not engine}

    def _forget_ended(self) -> None:
        ended = (EngineState.FAILED, EngineState.CLOSED)
        self._engines = {
            request: engine
            for request, engine in self._engines.items()
            # One that lost the device is for the watchdog to see.
            if engine.state not in ended or isinstance(engine.failure, DeviceLostError)
        }

    def _remember_failure(self, request: ModelRequest, message: str) -> None:
        before = self._failures.get(request)
        pause = 2 * before.pause_seconds if before else FIRST_BACK_OFF_SECONDS
        pause = min(pause, LONGEST_BACK_OFF_SECONDS)
        self._failures[request] = _Failure(message, pause, time.monotonic() + pause)
        log.warning("not tried again for %.0f s: %s", pause, message)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _resolve(device: str) -> str:
    """The device, looked up; raises ConfigurationError for one this machine does not have."""
    if device == "cpu":  # known without torch, which takes seconds to import
        return device
    try:
        return registry.resolve_device(device)
    except ModelLoadError as error:
        raise ConfigurationError(str(error)) from None


def _evictable_from(engine: Engine) -> float | None:
    """When (monotonic) an idle engine may make room for another; None while it works."""
    since = engine.idle_since
    return None if since is None else since + RESIDENCE_FACTOR * engine.load_seconds
