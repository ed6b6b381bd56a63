"""SharedEngine: one model for all windows of a user. The first process hosts it; later ones attach over a Unix socket.

Who hosts is decided by a file lock that the kernel gives back when a process dies, however it dies: whoever holds it
is the only one that may load the model, so there is never a second copy. When the host goes away, what is under way
ends as cancelled, one survivor gets the lock and loads the model, and the others attach to it. A host that is there and
does not answer (it was stopped, or hangs) keeps the lock: nothing is filled until it answers again. Knows the Engine
protocol, frames, and nothing of text.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import EngineError
from .frames import FrameError, Value, pack, problem_value, read_frame, result_from, status_from, timings_from
from .host import HELLO_TIMEOUT_S, PROTOCOL, EngineHost, Turnstile, cancelled_results, fill_in_turn, is_same_user
from .problem import Cancelled, CanvasProblem, CanvasResult, Engine, EngineStatus, Loadable, Timings

logger = logging.getLogger(__name__)

POLL_S = 0.005
ELECTION_POLL_S = 0.02
WATCH_S = 0.5
ATTACH_TIMEOUT_S = 120.0
"""How long a host may take to listen before those who wait for it give up."""
PING_S = 1.0
"""A host that has said nothing for so long is asked whether it is there."""
SILENCE_S = 5.0
"""A host that does not say so within this time is not waited for any more."""
SILENT = "the window that hosts the model does not answer"
CLOSED = "The shared engine was closed. Restart the server."
FRESH_S = 1800.0
"""So often a host touches its files: folders for temporary files are cleaned of what nobody used, some after 6 h."""
STATUS_TIMEOUT_S = 0.2
"""A host that does not say in this time how it is, is as it was."""
SEND_US = 1000
"""Longest wait, in microseconds, for room in the socket."""


def is_supported() -> bool:
    """Whether this system has what sharing needs; elsewhere every process hosts its own model."""
    return sys.platform != "win32" and hasattr(socket, "AF_UNIX")


def private_folder() -> Path:
    """A folder that only this user can enter. Raises: EngineError when there is none to be had."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base) / "lacuna" if base else Path(tempfile.gettempdir()) / f"lacuna-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise EngineError(f"The folder {folder} cannot be made ({error.strerror}). Use engine.kind local.") from error
    # in a shared temporary folder anybody may have made it first
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EngineError(f"The folder {folder} is not private to you. Remove it, or set engine.kind to local.")
    return folder


class _Link:
    """A connection to a host. One call at a time; a thread reads the answers.

    Nothing here waits for a host that has stopped reading: what does not fit into the socket is sent later.
    """

    def __init__(self, path: Path) -> None:
        """Connect. Raises: OSError, EngineError when the socket is another user's."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stream = self._socket.makefile("rb")
        try:
            self._socket.settimeout(HELLO_TIMEOUT_S)
            self._socket.connect(str(path))
            if not is_same_user(self._socket):
                raise EngineError("The shared engine's socket belongs to another user. Set engine.kind to local.")
            self._socket.settimeout(None)
            # macOS does not know MSG_DONTWAIT when sending: there a send returns after this time (a struct timeval)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, SEND_US))
        except BaseException:
            # the stream holds the socket open
            self._stream.close()
            self._socket.close()
            raise
        self.pid = 0
        self.status = EngineStatus("loading")
        self._refusal = ""
        self._news = threading.Condition()
        self._number = 0
        self._answer: Value | None = None
        """To the call of that number."""
        self._outgoing = bytearray()
        self._owes_since: float | None = time.monotonic()
        """Since when the host owes an answer and has said nothing."""
        self._pinged_at: float | None = self._owes_since
        """When it was asked for a sign of life that it has not given yet; its hello is the first."""
        self.greeted = threading.Event()
        """Set when it has answered, or never will."""
        self.ended = threading.Event()
        self._post({"protocol": PROTOCOL})
        threading.Thread(target=self._read, name="lacuna-link", daemon=True).start()

    @property
    def is_silent(self) -> bool:
        """Whether the host should have given a sign of life. Over when it does."""
        pinged_at = self._pinged_at
        return pinged_at is not None and time.monotonic() - pinged_at > SILENCE_S

    def check(self) -> None:
        """Raises: ConnectionError when the host is gone, EngineError when it is of another version."""
        if self._refusal:
            raise EngineError(f"The shared engine cannot be used: {self._refusal}. Restart the other editors.")
        if self.ended.is_set():
            raise ConnectionResetError("the host went away")

    def call(self, value: Value, cancelled: Cancelled | None) -> Value | None:
        """The answer; None when cancelled, or when the host is silent. Raises: as check, EngineError as it reports."""
        with self._news:
            self._number += 1
            self._answer = None
            number = self._number
        is_posted = False
        try:
            while (answer := self._answer) is None:
                self.check()
                # also while it is silent: it may go on reading in the middle of a frame
                self._flush()
                if self.is_silent or (cancelled is not None and cancelled()):
                    if is_posted:
                        self._post({"op": "cancel", "id": number})
                    return None
                if not is_posted and not self._outgoing:
                    self._post({**value, "id": number})
                    is_posted = True
                self._ping_if_due()
                with self._news:
                    if self._answer is None and not self.ended.is_set():
                        self._news.wait(POLL_S)
        except OSError as error:
            raise ConnectionResetError("the host went away") from error
        if "error" in answer:
            raise EngineError(str(answer["error"]))
        return answer

    def _post(self, value: Value) -> None:
        self._outgoing += pack(value)
        self._flush()

    def _flush(self) -> None:
        """Send what the socket takes."""
        while self._outgoing:
            try:
                sent = self._socket.send(self._outgoing, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            del self._outgoing[:sent]

    def _ping_if_due(self) -> None:
        now = time.monotonic()
        with self._news:
            if self._owes_since is None:
                self._owes_since = now
            is_due = self._pinged_at is None and now - self._owes_since > PING_S
            if is_due:
                self._pinged_at = now
        if is_due:
            # one at a time: it lies in the socket until the host goes on, and is answered then
            self._post({"op": "ping"})

    def close(self) -> None:
        """Detach."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        try:
            while (frame := read_frame(self._stream.read)) is not None:
                with self._news:
                    self._owes_since = None
                    if not self.greeted.is_set():
                        self._greet(frame)
                    elif frame.get("op") == "pong":
                        self._pinged_at = None
                    elif frame.get("id") == self._number:
                        # the answer to a call that was cancelled is not waited for any more
                        self._answer = frame
                    self._news.notify_all()
        except (OSError, FrameError, ValueError) as error:
            logger.debug("the link to the shared engine ended: %s", error)
        finally:
            self._stream.close()
            with self._news:
                self.ended.set()
                self.greeted.set()
                self._news.notify_all()

    def _greet(self, hello: Value) -> None:
        """Read the first frame. Raises: FrameError."""
        if hello.get("protocol") == PROTOCOL:
            self.pid = int(hello.get("pid", 0))
            self.status = status_from(hello.get("status"))
        else:
            self._refusal = str(hello.get("error"))
        self._pinged_at = None
        self.greeted.set()


class SharedEngine:
    """Engine that is hosted here or elsewhere. Calls come from one thread; taking over happens in another."""

    def __init__(self, load: Callable[[], Engine], key: str, folder: Path | None = None) -> None:
        """load: makes the engine, called only while no other process has it. key: what has to be equal to share.

        Returns once there is an engine, whose model may still have to be loaded (Loadable). Raises: what load raises,
        EngineError when sharing is impossible.
        """
        self._load = load
        place = (folder or private_folder()) / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._socket_path, self._lock_path = place.with_suffix(".sock"), place.with_suffix(".lock")
        self._turnstile = Turnstile()
        self._engine: Engine | None = None
        self._host: EngineHost | None = None
        self._link: _Link | None = None
        self._lock_file: int | None = None
        self._is_closed = False
        self._joining = threading.Lock()
        self._error: BaseException | None = None
        self._join(None)
        threading.Thread(target=self._watch, name="lacuna-survivor", daemon=True).start()

    @property
    def is_host(self) -> bool:
        """Whether the model is in this process."""
        return self._engine is not None

    def prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None = None) -> Timings:
        """See Engine.prefill."""
        if not self._join(cancelled):
            return Timings()
        if (engine := self._engine) is not None:
            with self._turnstile.turn(cancelled) as has_turn:
                return engine.prefill(prompt, cancelled) if has_turn else Timings()
        answer = self._call({"op": "prefill", "prompt": list(prompt)}, cancelled)
        return timings_from(answer["timings"]) if answer is not None else Timings()

    def fill(self, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        """See Engine.fill. When the host dies meanwhile the results are cancelled, and the next call finds another.
        While it does not answer they are not finished: whoever asked may look at the status."""
        if not self._join(cancelled):
            return cancelled_results(problem)
        if (engine := self._engine) is not None:
            return fill_in_turn(engine, self._turnstile, problem, cancelled)
        answer = self._call({"op": "fill", "problem": problem_value(problem)}, cancelled)
        if answer is None:
            is_cancelled = not self._is_silent
            return [replace(result, is_cancelled=is_cancelled) for result in cancelled_results(problem)]
        results = [result_from(each) for each in answer["results"]]
        return results if len(results) == len(problem.canvases) else cancelled_results(problem)

    def load(self) -> None:
        """See Loadable.load; wherever the model is hosted."""
        self._tell_all("load", lambda engine: engine.load())

    def unload(self) -> None:
        """See Loadable.unload. The model is shared, so its memory is given back for all windows."""
        self._tell_all("unload", lambda engine: engine.unload())

    def status(self) -> EngineStatus:
        """The engine's own status, with who hosts it in detail. Asks the host, for a moment."""
        if self._is_closed:
            return EngineStatus("closed")
        if (engine := self._engine) is not None:
            status = engine.status()
            num_others = self._host.num_clients if self._host is not None else 0
            where = f"hosted here for {num_others} more" if num_others else "" if status.detail else "hosted here"
        elif (link := self._link) is not None:
            until = time.monotonic() + STATUS_TIMEOUT_S
            answer = self._call({"op": "status"}, lambda: time.monotonic() > until)
            if answer is not None:
                link.status = status_from(answer.get("status"))
            if link.is_silent:
                return replace(link.status, state="failed", detail=SILENT)
            status, where = link.status, f"hosted by process {link.pid}"
        else:
            return EngineStatus("loading", detail="waiting for the shared engine")
        detail = "; ".join(part for part in (status.detail, where) if part)
        return replace(status, detail=detail)

    def close(self) -> None:
        """Leave. A model that is hosted here is closed, and one of the others takes over."""
        self._is_closed = True
        with self._joining:
            if self._link is not None:
                self._link.close()
                self._link = None
            self._step_down()

    def _step_down(self) -> None:
        host, self._host = self._host, None
        engine, self._engine = self._engine, None
        if host is not None:
            host.close()
        if engine is not None:
            with self._turnstile.turn():
                engine.close()
        if self._lock_file is not None:
            # only now may another process load the model
            os.close(self._lock_file)
            self._lock_file = None

    def _tell_all(self, operation: str, do: Callable[[Loadable], None]) -> None:
        """Have the host do it; when it goes away meanwhile, the next one. While it does not answer nothing is done."""
        while self._join(None):
            if (engine := self._engine) is not None:
                if isinstance(engine, Loadable):
                    with self._turnstile.turn():
                        do(engine)
                return
            answer = self._call({"op": operation}, lambda: self._is_closed)
            if answer is not None or self._is_silent:
                return

    @property
    def _is_silent(self) -> bool:
        return (link := self._link) is not None and link.is_silent

    def _call(self, value: Value, cancelled: Cancelled | None) -> Value | None:
        link = self._link
        if link is None:
            return None
        try:
            return link.call(value, cancelled)
        except (ConnectionError, FrameError) as error:
            logger.info("The process that hosted the model is gone (%s).", error)
            link.ended.set()
            return None

    def _watch(self) -> None:
        """Take over as soon as the host goes away, not only when somebody types. A host stays where it can be found."""
        touched_at = time.monotonic()
        while not self._is_closed:
            link = self._link
            if link is None:
                # hosted here, or somebody is joining
                time.sleep(WATCH_S)
                if self._host is not None and time.monotonic() - touched_at > FRESH_S:
                    touched_at = time.monotonic()
                    for path in (self._lock_path, self._socket_path):
                        with contextlib.suppress(OSError):
                            os.utime(path)
            elif link.ended.wait(WATCH_S):
                try:
                    was_loaded = link.status.state in ("ready", "busy")
                    if self._join(lambda: self._is_closed) and self.is_host and was_loaded:
                        # what was given back before stays so until somebody asks
                        self.load()
                except BaseException as error:
                    # the next call reports it
                    self._error = error

    def _join(self, cancelled: Cancelled | None) -> bool:
        """Become host or attach to one; False when cancelled first. Raises: what loading raises, EngineError."""
        while not self._joining.acquire(timeout=POLL_S):
            if cancelled is not None and cancelled():
                return False
        try:
            error, self._error = self._error, None
            if error is not None:
                raise error
            if self._is_closed:
                raise EngineError(CLOSED)
            if self._link is not None and self._link.ended.is_set():
                self._link.close()
                self._link = None
            until = time.monotonic() + ATTACH_TIMEOUT_S
            while self._engine is None and self._link is None:
                if cancelled is not None and cancelled():
                    return False
                if self._is_closed:
                    raise EngineError(CLOSED)
                if self._try_to_host() or self._try_to_attach(cancelled):
                    break
                if time.monotonic() > until:
                    raise EngineError("The process that hosts the model does not answer. Restart the other editors.")
                time.sleep(ELECTION_POLL_S)
            return True
        finally:
            self._joining.release()

    def _try_to_host(self) -> bool:
        import fcntl

        try:
            file = os.open(self._lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            return self._keep_to_itself(error)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError as error:
            os.close(file)
            return self._keep_to_itself(error)
        try:
            engine = self._load()
        except BaseException:
            os.close(file)
            raise
        try:
            host = EngineHost(engine, self._socket_path, self._turnstile)
        except OSError as error:
            # a path that is too long, a full disk: whoever comes next may find the lock, and has to load its own
            logger.warning("The socket %s cannot be opened (%s). The model is not shared.", self._socket_path, error)
            os.close(file)
            self._engine = engine
            return True
        self._lock_file, self._engine, self._host = file, engine, host
        logger.info("The model is hosted by this process.")
        return True

    def _keep_to_itself(self, error: OSError) -> bool:
        """Load for this process alone: a disk is full or read only, a folder is gone, a file system knows no locks."""
        logger.warning("The file %s cannot be locked (%s). The model is not shared.", self._lock_path, error)
        self._engine = self._load()
        return True

    def _try_to_attach(self, cancelled: Cancelled | None) -> bool:
        try:
            link = _Link(self._socket_path)
        except (OSError, FrameError):
            # the host is loading, or has just gone
            return False
        # a host that says no hello yet is the host all the same
        while not link.greeted.wait(POLL_S) and not link.is_silent:
            if self._is_closed or (cancelled is not None and cancelled()):
                link.close()
                return False
        try:
            link.check()
        except ConnectionError:
            link.close()
            return False
        except EngineError:
            link.close()
            raise
        self._link = link
        logger.info("The model is hosted by process %d.", link.pid)
        return True


def sharing_key(*parts: Any) -> str:
    """What has to be equal for two processes to share one engine."""
    return "\0".join(str(part) for part in (PROTOCOL, *parts))
