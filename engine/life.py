"""The life of a model on a device: loaded when it is first needed, given back when nobody asks, and never left
half-broken.

ManagedEngine is an Engine around a function that loads one. It catches what a device does to a program: memory that
runs out (the KV budget is halved and the call tried once more), a device that is lost (everything is dropped and the
device probed before it is used again). After a failure that cannot be helped the memory is given back, the state says
why, and every call says it again until it is told to load or a minute has passed. Each load begins with the whole KV
budget. Knows no model: it is tested with fakes, on a CPU.

    unloaded -> loading -> ready <-> busy      any -> unloaded (unload, idle)      any -> failed      any -> closed
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal, NoReturn, Protocol, TypeVar, runtime_checkable

import torch

from .errors import DeviceError, EngineError, LacunaError, first_line
from .problem import Cancelled, CanvasProblem, CanvasResult, Engine, EngineStatus, Timings

T = TypeVar("T")

RETRY_AFTER_S = 60.0
"""A failed device is tried again by itself after so long."""

MIN_KV_TOKENS = 2048
"""The KV budget is not shrunk below this, and cannot be set below it (lsp/options.py): the longest that infill/ asks, a
rewrite in infill/chat.py, is 1,472 tokens of code and some 200 of words around them, with a canvas of 256 rows.
"""

NOT_YET = "the model is loaded when it is first asked for"
UNLOADED = "the model's memory is given back; the next request loads it again"
LOADING = "loading the model"

MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
"""What torch, triton and the driver say when memory has run out, each in its own way."""

LOST_WORDS = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", "CUBLAS_STATUS_", "CUDNN_STATUS_", "NVML")
"""The same of anything else that goes wrong on a device: it is of no use before it was probed."""

State = Literal["unloaded", "loading", "ready", "busy", "failed", "closed"]


@runtime_checkable
class Shrinkable(Protocol):
    """An engine whose KV budget can be lowered while it lives (PackedEngine)."""

    @property
    def kv_tokens(self) -> int: ...

    def shrink(self, kv_tokens: int) -> None: ...


@runtime_checkable
class Warmable(Protocol):
    def warm_up(self) -> None: ...


class ManagedEngine:
    """Engine whose model comes and goes. Any thread may call; calls run one after the other."""

    def __init__(
        self,
        load: Callable[[int], Engine],
        kv_tokens: int,
        name: str = "",
        idle_minutes: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        return_memory: Callable[[], None] | None = None,
        probe: Callable[[], None] | None = None,
        has_timer: bool = True,
    ) -> None:
        """load: given a KV budget in tokens, loads an engine. idle_minutes: 0 never unloads. return_memory: hands the
        allocator's free memory back to the device. probe: raises while the device is unusable. has_timer: False where
        the caller calls `tick` itself.
        """
        self._load, self._wanted_kv, self._name = load, kv_tokens, name
        self._kv_tokens = kv_tokens
        self._idle_s, self._clock = idle_minutes * 60, clock
        self._return_memory = return_memory or return_free_memory
        self._probe = probe or probe_device
        self._engine: Engine | None = None
        self._state: State = "unloaded"
        self._detail = NOT_YET
        self._failed_at = 0.0
        self._last_used = clock()
        self._is_lost = False
        self._lock = threading.RLock()
        self._wake = threading.Event()
        if has_timer and self._idle_s:
            threading.Thread(target=self._watch, name="lacuna-idle", daemon=True).start()

    # -- Engine ------------------------------------------------------------------------------------------------------

    def prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None = None) -> Timings:
        """See Engine.prefill. Prepares what may never be asked for, so a model that is not there is not loaded."""
        with self._lock:
            if self._state == "unloaded" or _is_cancelled(cancelled):
                return Timings()
            if self._state == "failed":
                # nor tried again
                raise DeviceError(self._detail)
            return self._guarded(lambda engine: engine.prefill(prompt, cancelled), cancelled, Timings)

    def fill(self, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        def nothing() -> list[CanvasResult]:
            return [CanvasResult.untouched(canvas, is_cancelled=True) for canvas in problem.canvases]

        with self._lock:
            if _is_cancelled(cancelled):
                return nothing()
            return self._guarded(lambda engine: engine.fill(problem, cancelled), cancelled, nothing)

    def status(self) -> EngineStatus:
        """Never waits: a call that runs elsewhere is "busy" or "loading"."""
        state, detail, engine = self._state, self._detail, self._engine
        if engine is None or state in ("loading", "failed"):
            return EngineStatus(state, self._name, detail=detail)
        inner = engine.status()
        return replace(inner, state=state, model=inner.model or self._name, detail=detail)

    def close(self) -> None:
        with self._lock:
            self._drop()
            self._state, self._detail = "closed", ""
            self._wake.set()

    # -- what a user can ask for ---------------------------------------------------------------------------------------

    def load(self) -> None:
        """Load now, with the warm-up, instead of at the first fill; a failure is forgotten. Raises: LacunaError's
        kinds.
        """
        with self._lock:
            if self._state == "failed":
                self._state = "unloaded"
            self._ready()

    def unload(self) -> None:
        """Give the memory back now; the next fill loads the model again."""
        with self._lock:
            if self._state != "closed":
                self._drop()
                self._state, self._detail = "unloaded", UNLOADED

    def tick(self) -> bool:
        """Unload when nobody has asked for idle_minutes. Returns whether it did. Called by the timer."""
        with self._lock:
            is_idle = self._idle_s > 0 and self._clock() - self._last_used >= self._idle_s
            if self._engine is None or not is_idle:
                return False
            self.unload()
            self._detail = f"idle: {UNLOADED}"
            return True

    def told_progress(self, done_bytes: int, total_bytes: int) -> None:
        """For the function that loads: how much of the model is there. The status says it."""
        if self._state == "loading":
            self._detail = f"{LOADING}: {100 * done_bytes // max(1, total_bytes)} %"

    # -- inside --------------------------------------------------------------------------------------------------------

    def _guarded(self, work: Callable[[Engine], T], cancelled: Cancelled | None, nothing: Callable[[], T]) -> T:
        """Run work, once more with a smaller cache when memory ran out, and leave a state that is true."""
        for attempt in range(2):
            engine = self._ready()
            if _is_cancelled(cancelled):
                # the caller left while the model was loading
                self._last_used = self._clock()
                return nothing()
            self._state = "busy"
            try:
                return work(engine)
            except LacunaError:
                raise
            except Exception as error:
                kind, reason = device_trouble(error), first_line(error)
                if kind is None:
                    raise
            finally:
                self._last_used = self._clock()
                self._state = "ready"
                # when its memory is to be returned nobody else may hold it
                del engine
            # out here the error is gone, and with its frames the tensors of the forward that failed
            if kind == "lost":
                self._lose(reason)
            if attempt or not self._shrink():
                lower = ", lower engine.kvTokens" if self._kv_tokens > MIN_KV_TOKENS else ""
                self._fail(
                    f"the device ran out of memory, also with a KV cache of {self._kv_tokens} tokens; close what "
                    f"else uses it{lower}, and resume"
                )
        raise AssertionError("the second attempt returns or raises")

    def _ready(self) -> Engine:
        """The loaded engine. Raises: EngineError when closed, DeviceError while failed, whatever loading raises."""
        if self._state == "closed":
            raise EngineError("the engine was closed; start the server again")
        if self._state == "failed":
            if self._clock() - self._failed_at < RETRY_AFTER_S:
                raise DeviceError(self._detail)
            self._state = "unloaded"
        if self._engine is not None:
            return self._engine
        self._state, self._detail = "loading", LOADING
        # what an exhausted device has cut is tried whole again
        self._kv_tokens = self._wanted_kv
        try:
            if self._is_lost:
                self._probe()
                self._is_lost = False
            engine = self._load_fitting()
        except Exception as error:
            # it is on its way, and its frames hold what was loaded of the model
            _clear_frames(error)
            if isinstance(error, LacunaError):
                self._drop()
                self._state, self._detail, self._failed_at = "failed", str(error), self._clock()
                raise
            kind = device_trouble(error)
            if self._is_lost or kind == "lost":
                self._lose(first_line(error))
            if kind == "memory":
                self._fail(
                    "the device has too little free memory for the model; close what else uses it, or choose a "
                    "smaller model"
                )
            self._drop()
            self._state, self._detail = "unloaded", UNLOADED
            raise
        self._engine, self._state, self._detail = engine, "ready", ""
        self._last_used = self._clock()
        return engine

    def _load_fitting(self) -> Engine:
        """An engine that is loaded and warmed up; with half the cache where the whole one does not fit."""
        smaller = self._smaller_kv()
        try:
            return self._load_warm()
        except Exception as error:
            if device_trouble(error) != "memory" or smaller is None:
                raise
        # once more, after what the first attempt left is gone
        self._collect()
        self._kv_tokens = smaller
        return self._load_warm()

    def _load_warm(self) -> Engine:
        engine = self._load(self._kv_tokens)
        try:
            if isinstance(engine, Warmable):
                engine.warm_up()
        except BaseException:
            _close(engine)
            raise
        return engine

    def _smaller_kv(self) -> int | None:
        """The KV budget to try when this one is too much; None when there is none."""
        smaller = max(MIN_KV_TOKENS, self._kv_tokens // 2)
        return smaller if smaller < self._kv_tokens else None

    def _shrink(self) -> bool:
        """Lower the KV budget of the living engine. False when that is not possible."""
        engine, smaller = self._engine, self._smaller_kv()
        if not isinstance(engine, Shrinkable) or smaller is None:
            return False
        self._collect()
        try:
            engine.shrink(smaller)
        except Exception as error:
            if device_trouble(error) is None:
                raise
            return False
        self._kv_tokens = smaller
        self._detail = f"memory ran short: the KV cache was cut to {smaller} tokens"
        self._collect()
        return True

    def _fail(self, message: str) -> NoReturn:
        self._drop()
        self._state, self._detail, self._failed_at = "failed", message, self._clock()
        raise DeviceError(message)

    def _lose(self, reason: str) -> NoReturn:
        self._is_lost = True
        self._fail(
            f"the device was lost ({reason}); it is tried again in a minute, and if that fails restart the server"
        )

    def _drop(self) -> None:
        """Let go of the engine, if there is one, and hand its memory back, whatever state the device is in.

        Also where loading has failed: nobody else gives back what was loaded by then.
        """
        engine, self._engine = self._engine, None
        try:
            if engine is not None:
                _close(engine)
        finally:
            del engine
            self._collect()

    def _collect(self) -> None:
        gc.collect()
        try:
            self._return_memory()
        except Exception as error:
            # a lost device has no memory to return
            if device_trouble(error) is None:
                raise

    def _watch(self) -> None:
        while not self._wake.wait(max(1.0, min(30.0, self._idle_s / 4))):
            self.tick()


def device_trouble(error: BaseException) -> Literal["memory", "lost"] | None:
    """What an exception of torch or triton says about the device; None when it says nothing.

    What it was raised from, or while handling, counts too: the end of a graph's capture, which memory ran out in, has
    an error of its own.
    """
    found = {_trouble_of(each) for each in _chain(error)}
    return "memory" if "memory" in found else "lost" if "lost" in found else None


def _trouble_of(error: BaseException) -> Literal["memory", "lost"] | None:
    """The same of one exception alone."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "memory"
    accelerator_error: Any = getattr(torch, "AcceleratorError", None)
    text = str(error)
    if not isinstance(error, RuntimeError):
        return None
    if any(words in text for words in MEMORY_WORDS):
        return "memory"
    if accelerator_error is not None and isinstance(error, accelerator_error):
        return "lost"
    return "lost" if any(words in text for words in LOST_WORDS) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it came from."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in seen:
            seen.append(each)
            waiting += [each.__cause__, each.__context__]
            yield each


def _clear_frames(error: BaseException) -> None:
    """Let go of what the frames of a failure hold. Its traceback can still be printed."""
    for each in _chain(error):
        traceback.clear_frames(each.__traceback__)


def _close(engine: Engine) -> None:
    """Close an engine whose device may be in any state."""
    try:
        engine.close()
    except Exception as error:
        if device_trouble(error) is None:
            raise


def return_free_memory() -> None:
    """Hand what the allocators hold for later back to the device and to the system."""
    if sys.platform == "linux":
        # of the C library: glibc alone keeps so much, and alone has the call
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def probe_device() -> None:
    """Raises what torch raises when the device cannot do the least thing."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.zeros(1, device="cuda").add_(1)
        torch.cuda.synchronize()


def _is_cancelled(cancelled: Cancelled | None) -> bool:
    return cancelled is not None and cancelled()
