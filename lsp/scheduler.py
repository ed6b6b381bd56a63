"""One engine thread, and the rules of who uses it: cancel-previous and latest-wins per document, deadlines, restarts.

The event loop submits work and awaits its ending; the thread loads the infiller, works, and polls the token of what it
does. Nothing here blocks the event loop, and no ending is an exception. Knows no LSP type and no document. Longer than
other files because the thread's states are safe to read only side by side.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

from ..engine.errors import LacunaError
from ..infill.request import Infiller
from .cancel import CancelToken

logger = logging.getLogger(__name__)

R = TypeVar("R")

LOOK_S = 30.0
"""So often a resting thread looks whether its model was unloaded, by the clock or by another window."""

LOADING_LOOK_S = 1.0
"""The same while another window loads it."""

RETRY_S = 60.0
"""A model that could not be loaded is tried again by the first request that comes so long after."""

LOADING = "loading the model"

MAX_CRASHES = 5
"""So many crashes without a success in between, and the thread waits to be told to try again."""


class Ending(enum.Enum):
    """How work can end without a value."""

    SUPERSEDED = "superseded"
    """Cancelled, or a later request for the same document came."""
    LATE = "late"
    """The deadline passed first."""
    UNAVAILABLE = "unavailable"
    """There is no model: it failed to load, or crashed, or its device did."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the engine thread does. detail: one line for people. is_new: the infiller was not there before. percent: how
    much of the model is loaded, where that is known.
    """

    state: Literal["unloaded", "loading", "ready", "restarting", "failed", "closed"]
    detail: str = ""
    model: str = ""
    device: str = ""
    is_new: bool = False
    percent: int | None = None


@dataclass(slots=True)
class Job(Generic[R]):
    """work is called in the engine thread; its value, or an Ending, becomes the result of future."""

    key: str
    work: Callable[[Infiller, CancelToken], R]
    token: CancelToken
    is_background: bool
    future: Future[R | Ending] = field(default_factory=Future[Any])


class EngineThread:
    """Owns the infiller. Every method may be called from any thread; the callbacks come from this one."""

    def __init__(
        self,
        load: Callable[[], Infiller],
        on_state: Callable[[EngineState], None],
        on_crash: Callable[[str], None],
        *,
        backoff_s: float = 1.0,
        look_s: float = LOOK_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """load: makes the infiller, whose model may be loaded by then or come with the first request."""
        self._load = load
        self._on_state = on_state
        self._on_crash = on_crash
        self._backoff_s = backoff_s
        self._look_s = look_s
        self._retry_s = retry_s
        self._wake = threading.Condition()
        self._jobs: deque[Job[Any]] = deque()
        self._background: dict[str, Job[Any]] = {}
        self._current: Job[Any] | None = None
        self._infiller: Infiller | None = None
        self._wanted = False
        """Whether an infiller should be there."""
        self._order: Literal["", "load", "unload"] = ""
        """What the infiller has to be told before the next job."""
        self._told = EngineState("unloaded")
        self._is_stopped = False
        self._is_outdated = False
        self._num_crashes = 0
        self._not_before = 0.0
        self._needs_request = False
        """Whether the infiller is tried again for a request only: what was the matter may still be."""
        self._looked = time.monotonic()
        self._onlookers: list[Future[None]] = []
        """Who waits for a look."""
        self.cancel_lags_ms: deque[float] = deque(maxlen=1000)
        """Milliseconds from a cancel to the end of the work it cancelled."""
        self._thread = threading.Thread(target=self._run, name="lacuna-engine", daemon=True)

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for this thread's work."""
        current = self._current
        return bool(self._jobs) or (current is not None and not current.is_background)

    def start(self) -> None:
        """Start the thread, which makes the infiller."""
        self._wanted = True
        self._thread.start()

    def submit(self, job: Job[Any]) -> None:
        """Queue a job. Foreground work interrupts background work; background work is one per key, the latest."""
        with self._wake:
            if self._is_stopped or not self._wanted:
                _finish(job.future, Ending.UNAVAILABLE)
                return
            if job.is_background:
                self._drop_locked(job.key)
                self._background[job.key] = job
            else:
                self._jobs.append(job)
                if self._current is not None and self._current.is_background:
                    self._current.token.cancel()
            self._wake.notify_all()

    def drop_background(self, key: str) -> None:
        """Give up the background work of this key, begun or not."""
        with self._wake:
            self._drop_locked(key)

    def _drop_locked(self, key: str) -> None:
        if (old := self._background.pop(key, None)) is not None:
            _finish(old.future, Ending.SUPERSEDED)
        current = self._current
        if current is not None and current.is_background and current.key == key:
            current.token.cancel()

    def load(self) -> None:
        """Load the model if it is not there; forget earlier failures."""
        with self._wake:
            self._order = "load"
            self._forget_failures_locked()

    def reload(self) -> None:
        """Close the infiller, if there is one, and make another: the options changed."""
        with self._wake:
            self._is_outdated = True
            if self._current is not None:
                self._current.token.cancel()
            self._forget_failures_locked()

    def _forget_failures_locked(self) -> None:
        self._wanted = True
        self._num_crashes = 0
        self._not_before = 0.0
        self._needs_request = False
        self._wake.notify_all()

    def told_progress(self, done: int, total: int, name: str) -> None:
        """For the function that loads: bytes done and in all, and the tensor. The state says how much is there."""
        # what another window asked this one to load is that one's to show
        if threading.current_thread() is self._thread:
            percent = 100 * done // max(1, total)
            told = self._told
            self._tell(EngineState("loading", f"{LOADING}: {percent} %", told.model, told.device, percent=percent))

    def unload(self) -> None:
        """Give the model's memory back. load() or the next foreground work brings it again."""
        with self._wake:
            self._order = "unload"
            if self._current is not None:
                self._current.token.cancel()
            self._wake.notify_all()

    def look(self) -> Future[None]:
        """Look between two jobs what the engine has become; done once that has been told."""
        future = Future[None]()
        with self._wake:
            if self._is_stopped or not self._wanted:
                _finish(future, None)
            else:
                self._onlookers.append(future)
                self._wake.notify_all()
        return future

    def stop(self, timeout_s: float) -> bool:
        """Close the infiller and end the thread. Returns whether it ended in time."""
        with self._wake:
            self._is_stopped = True
            if self._current is not None:
                self._current.token.cancel()
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._is_stopped or self._has_work()):
                    self._wake.wait(self._patience())
                if self._is_stopped:
                    break
                is_outdated, self._is_outdated = self._is_outdated, False
                order, self._order = self._order, ""
                onlookers, self._onlookers = self._onlookers, []
                is_asked = bool(self._jobs) or not self._needs_request
                can_load = is_asked and time.monotonic() >= self._not_before
            if is_outdated:
                self._release()
            is_new = self._infiller is None
            if is_new and can_load:
                self._bring_up()
            # one that has just been made is loaded already, or it is not: then it may be told to
            if self._infiller is not None and order and (not is_new or self._told.state == "unloaded"):
                self._obey(self._infiller, order)
            if (job := self._take()) is not None:
                self._work(job)
            if onlookers:
                self._looked = float("-inf")
            self._look()
            for onlooker in onlookers:
                _finish(onlooker, None)
        self._release()
        self._tell(EngineState("closed"))
        with self._wake:
            for onlooker in self._onlookers:
                _finish(onlooker, None)
            while (job := self._take_locked()) is not None:
                _finish(job.future, Ending.UNAVAILABLE)

    def _has_work(self) -> bool:
        if self._jobs or self._background or self._is_outdated or self._order or self._onlookers:
            return True
        return time.monotonic() >= self._until()

    def _patience(self) -> float | None:
        until = self._until()
        return max(0.01, until - time.monotonic()) if until < float("inf") else None

    def _until(self) -> float:
        """When there is something to do that nobody asks for."""
        if self._infiller is not None:
            return self._next_look()
        return float("inf") if self._needs_request else self._not_before

    def _next_look(self) -> float:
        return self._looked + (min(LOADING_LOOK_S, self._look_s) if self._told.state == "loading" else self._look_s)

    def _take(self) -> Job[Any] | None:
        with self._wake:
            job = self._take_locked()
            self._current = job
            return job

    def _take_locked(self) -> Job[Any] | None:
        if self._jobs:
            return self._jobs.popleft()
        if self._background:
            return self._background.pop(next(iter(self._background)))
        return None

    def _work(self, job: Job[Any]) -> None:
        try:
            if job.token():
                _finish(job.future, Ending.SUPERSEDED)
                return
            if self._infiller is None:
                _finish(job.future, Ending.UNAVAILABLE)
                return
            # what may never be asked for does not bring the model back
            if self._told.state == "unloaded" and (job.is_background or not self._obey(self._infiller, "load")):
                _finish(job.future, Ending.UNAVAILABLE)
                return
            try:
                value = job.work(self._infiller, job.token)
            except LacunaError as error:
                # the engine has said what the matter is, and tries again by itself when it can
                _finish(job.future, Ending.UNAVAILABLE)
                self._failed(error)
                return
            except BaseException as error:
                _finish(job.future, Ending.UNAVAILABLE)
                self._crashed(error)
                return
            self._num_crashes = 0
            if self._told.state != "ready":
                self._looked = float("-inf")
            if job.token.cancelled_at is not None:
                self.cancel_lags_ms.append((time.monotonic() - job.token.cancelled_at) * 1000)
                _finish(job.future, Ending.SUPERSEDED)
            else:
                _finish(job.future, value)
        finally:
            with self._wake:
                self._current = None

    def _bring_up(self) -> None:
        self._tell(EngineState("loading", LOADING))
        start = time.monotonic()
        try:
            self._infiller = self._load()
            status = self._infiller.status()
        except LacunaError as error:
            # somebody has to do something first, and the next request shows whether that was done
            logger.error("The model could not be loaded: %s", error)
            self._release()
            self._give_up(str(error), self._retry_s)
            return
        except BaseException as error:
            self._crashed(error)
            return
        self._looked = time.monotonic()
        # a server that does not answer yet is an infiller all the same, and asked again by itself; so is a model that
        # comes with the first request
        state = "ready" if status.state == "busy" else status.state
        what = {"failed": "does not answer yet", "unloaded": "can be loaded"}.get(state, f"is {state}")
        logger.info("Model %s %s on %s after %.2f s.", status.model, what, status.device, self._looked - start)
        self._tell(EngineState(state, status.detail, status.model, status.device, is_new=True))

    def _obey(self, infiller: Infiller, order: str) -> bool:
        """Load or unload the model. Returns whether that went well; if not, the state says why."""
        if order == "load" and self._told.state in ("unloaded", "failed"):
            self._tell(EngineState("loading", LOADING, self._told.model, self._told.device))
        try:
            infiller.unload() if order == "unload" else infiller.load()
        except LacunaError as error:
            self._failed(error)
            return False
        except BaseException as error:
            self._crashed(error)
            return False
        self._looked = float("-inf")
        return self._look()

    def _look(self) -> bool:
        """Tell what the engine has become by itself, or in another window's hands. Returns whether it could be seen."""
        if self._infiller is None or time.monotonic() < self._next_look():
            return True
        self._looked = time.monotonic()
        try:
            status = self._infiller.status()
        except LacunaError as error:
            self._failed(error)
            return False
        except BaseException as error:
            self._crashed(error)
            return False
        # a failure is told by the call that meets it, and a load by another window is no call of this one's: a remote
        # server's is over when it answers again
        if status.state in ("ready", "busy", "unloaded", "loading") or self._told.state == "loading":
            state = "ready" if status.state == "busy" else status.state
            self._tell(EngineState(state, status.detail, status.model, status.device))
        return True

    def _failed(self, error: LacunaError) -> None:
        logger.error("The engine cannot work: %s", error)
        self._tell(EngineState("failed", str(error), self._told.model, self._told.device))

    def _crashed(self, error: BaseException) -> None:
        self._num_crashes += 1
        logger.error("The engine crashed.", exc_info=error)
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._release()
        if self._num_crashes > MAX_CRASHES:
            self._give_up(
                f"The engine crashed {self._num_crashes} times in a row ({reason}). Look at the log, then resume."
            )
            return
        wait_s = self._backoff_s * 2 ** (self._num_crashes - 1)
        self._not_before = time.monotonic() + wait_s
        self._tell(EngineState("restarting", f"the engine crashed ({reason}); it restarts in {wait_s:.0f} s"))
        if self._num_crashes == 1:
            self._on_crash(f"Lacuna's engine crashed and is being restarted ({reason}).")

    def _give_up(self, message: str, retry_s: float = float("inf")) -> None:
        """retry_s: a request that comes so much later may try again; without it only who says so."""
        self._needs_request = True
        self._not_before = time.monotonic() + retry_s
        self._tell(EngineState("failed", message))

    def _tell(self, state: EngineState) -> None:
        if state != replace(self._told, is_new=False):
            self._told = state
            self._on_state(state)

    def _release(self) -> None:
        infiller, self._infiller = self._infiller, None
        if infiller is None:
            return
        try:
            infiller.close()
        except BaseException as error:
            logger.warning("Closing the engine failed: %s", error)


def _finish(future: Future[Any], value: Any) -> None:
    # the loop may have cancelled the future in the meantime
    if future.set_running_or_notify_cancel():
        future.set_result(value)


class Scheduler:
    """The event loop's side: tokens per document, deadlines, and endings as values."""

    def __init__(self, thread: EngineThread) -> None:
        self.thread = thread
        self._latest: dict[str, CancelToken] = {}

    def begin(self, key: str) -> CancelToken:
        """A token for a new request of this document; the former request is superseded at once."""
        self.supersede(key)
        token = self._latest[key] = CancelToken()
        return token

    def supersede(self, key: str) -> None:
        """Cancel what is under way for this document, if anything is."""
        if (token := self._latest.pop(key, None)) is not None:
            token.cancel()

    async def run(
        self,
        key: str,
        token: CancelToken,
        work: Callable[[Infiller, CancelToken], R],
        *,
        deadline_s: float | None = None,
    ) -> R | Ending:
        """Do work in the engine thread. Ends with its value, or as soon as token is set or the deadline passes.

        A task that is cancelled while it waits sets token, so that the work ends too.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R | Ending] = loop.create_future()

        def end(value: R | Ending) -> None:
            if not answer.done():
                answer.set_result(value)

        def late() -> None:
            end(Ending.LATE)
            token.cancel()

        def done(future: Future[R | Ending]) -> None:
            try:
                loop.call_soon_threadsafe(end, future.result())
            except RuntimeError:
                logger.debug("the event loop has ended before the work")

        token.on_cancel(lambda: end(Ending.SUPERSEDED))
        timer = loop.call_later(deadline_s, late) if deadline_s is not None else None
        job = Job(key, work, token, False)
        job.future.add_done_callback(done)
        self.thread.submit(job)
        try:
            return await answer
        except asyncio.CancelledError:
            token.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if self._latest.get(key) is token:
                del self._latest[key]

    def in_background(self, key: str, work: Callable[[Infiller, CancelToken], None]) -> None:
        """Do work when the engine has nothing better to do. A later call with the same key replaces it."""
        self.thread.submit(Job(key, work, CancelToken(), True))

    def drop_background(self, key: str) -> None:
        """Give up the background work of this key, begun or not."""
        self.thread.drop_background(key)
