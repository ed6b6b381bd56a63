"""The hosting side of a shared engine: a Unix socket that other Lacuna processes of the same user attach to.

One engine, calls one at a time in the order they came; a cancel reaches a call that is under way or waiting, and a ping
is answered meanwhile. Only processes of the same user are let in. Knows frames; loads no model and elects nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .errors import LacunaError
from .frames import FrameError, Value, pack, problem_from, read_frame, result_value
from .problem import Cancelled, CanvasProblem, CanvasResult, Engine, Loadable

logger = logging.getLogger(__name__)

PROTOCOL = 4
HELLO_TIMEOUT_S = 5.0
ACCEPT_AGAIN_S = 0.1

# sys/un.h and sys/ucred.h of macOS, which Python does not know
SOL_LOCAL = 0
LOCAL_PEERCRED = 1
XUCRED_VERSION = 0
XUCRED = struct.Struct("=IIh2x16I")
"""Version, user, number of groups, groups."""


class Turnstile:
    """A lock that is taken in the order it was asked for, so that no window starves the others."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextlib.contextmanager
    def turn(self, cancelled: Cancelled | None = None) -> Generator[bool]:
        """Wait for the turn; yields False when cancelled meanwhile."""
        ticket = object()
        with self._condition:
            self._waiting.append(ticket)
        try:
            with self._condition:
                while self._waiting[0] is not ticket and not (cancelled is not None and cancelled()):
                    self._condition.wait(0.005)
                has_turn = self._waiting[0] is ticket
            yield has_turn
        finally:
            with self._condition:
                self._waiting.remove(ticket)
                self._condition.notify_all()


def is_same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end belongs to this user."""
    if sys.platform == "linux":
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        return bool(uid == os.getuid())
    if sys.platform == "darwin":
        try:
            return user_of_xucred(connection.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, XUCRED.size)) == os.getuid()
        except OSError:
            return False
    # elsewhere the folder's and the socket's modes are the guard
    return True


def user_of_xucred(data: bytes) -> int | None:
    """The user in macOS' description of the process at the other end; None for a description that is not known."""
    if len(data) < XUCRED.size:
        return None
    version, user = XUCRED.unpack_from(data)[:2]
    return int(user) if version == XUCRED_VERSION else None


class _Calls:
    """What one client asked for. Its calls are numbered upwards and worked on one at a time."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Value | None] = queue.SimpleQueue()
        self.is_over = False
        self.sending = threading.Lock()
        """Held while a frame is sent: pings are answered by another thread than calls."""
        self._current = 0
        self._cancelled = 0
        """The highest number that was cancelled: a client never asks anew before it has given up the call before."""

    def begin(self, number: object) -> int:
        """The next call is worked on."""
        self._current = number if isinstance(number, int) else 0
        return self._current

    def cancel(self, number: object) -> None:
        """The client has lost interest in this call and those before it."""
        if isinstance(number, int):
            self._cancelled = max(self._cancelled, number)

    def is_cancelled(self) -> bool:
        """Whether the call under way should stop."""
        return self.is_over or self._current <= self._cancelled


class EngineHost:
    """Serves an engine on a socket that is bound already by nobody. Threads: one that accepts, two per client."""

    def __init__(self, engine: Engine, path: Path, turnstile: Turnstile) -> None:
        """Bind path, which must be free or stale, and listen. Raises: OSError."""
        self._engine = engine
        self._turnstile = turnstile
        self._path = path
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # the socket must never exist with wider rights, not even for a moment
        old = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        except OSError:
            self._socket.close()
            raise
        finally:
            os.umask(old)
        self._inode = path.stat().st_ino
        self._socket.listen(64)
        self._clients: set[socket.socket] = set()
        self._changing = threading.Lock()
        self._is_closed = False
        threading.Thread(target=self._accept, name="lacuna-host", daemon=True).start()

    @property
    def num_clients(self) -> int:
        """Processes attached now."""
        return len(self._clients)

    def close(self) -> None:
        """Stop listening and hang up on everybody; they elect another host."""
        with self._changing:
            self._is_closed = True
            clients = list(self._clients)
        with contextlib.suppress(OSError):
            # where the lock was cleaned away, another process hosts here now
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        for connection in [self._socket, *clients]:
            # close alone does not wake a thread that waits in accept or recv
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        has_complained = False
        while not self._is_closed:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if not self._is_closed and not has_complained:
                    logger.warning("Another window cannot attach to the engine yet (%s).", error)
                has_complained = True
                # who waits to attach goes on waiting, until a descriptor is free
                time.sleep(ACCEPT_AGAIN_S)
                continue
            if not is_same_user(connection):
                logger.warning("A process of another user tried to attach to the engine and was turned away.")
                connection.close()
                continue
            with self._changing:
                if self._is_closed:
                    # it came while everybody else was hung up on
                    connection.close()
                    return
                self._clients.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="lacuna-host-client", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        calls = _Calls()
        threading.Thread(target=self._work, args=(connection, calls), name="lacuna-host-worker", daemon=True).start()
        try:
            with connection.makefile("rb") as stream:
                connection.settimeout(HELLO_TIMEOUT_S)
                hello = read_frame(stream.read)
                connection.settimeout(None)
                if hello is None or hello.get("protocol") != PROTOCOL:
                    _send(connection, {"error": f"this host speaks protocol {PROTOCOL}"})
                    return
                _send(connection, {"protocol": PROTOCOL, "pid": os.getpid(), "status": asdict(self._engine.status())})
                while (frame := read_frame(stream.read)) is not None:
                    if frame.get("op") == "cancel":
                        calls.cancel(frame.get("id"))
                    elif frame.get("op") == "ping":
                        with calls.sending:
                            _send(connection, {"op": "pong"})
                    else:
                        calls.queue.put(frame)
        except (OSError, FrameError, ValueError, TypeError) as error:
            logger.info("A client of the shared engine left (%s).", error)
        finally:
            # what it asked for is of no use to anybody now
            calls.is_over = True
            calls.queue.put(None)
            with self._changing:
                self._clients.discard(connection)
            connection.close()

    def _work(self, connection: socket.socket, calls: _Calls) -> None:
        while (call := calls.queue.get()) is not None:
            number = calls.begin(call.get("id"))
            try:
                answer = {"id": number, **self._call(call, calls.is_cancelled)}
            except LacunaError as error:
                answer = {"id": number, "error": str(error)}
            except Exception as error:
                logger.exception("A call of the shared engine failed.")
                answer = {"id": number, "error": f"{type(error).__name__}: {error}"}
            try:
                with calls.sending:
                    _send(connection, answer)
            except (OSError, FrameError):
                return

    def _call(self, call: Value, cancelled: Callable[[], bool]) -> Value:
        operation = call.get("op")
        if operation == "fill":
            problem = problem_from(call.get("problem"))
            results = fill_in_turn(self._engine, self._turnstile, problem, cancelled)
            return {"results": [result_value(result) for result in results]}
        if operation == "prefill":
            prompt = tuple(int(token) for token in call.get("prompt", ()))
            with self._turnstile.turn(cancelled) as has_turn:
                timings = self._engine.prefill(prompt, cancelled) if has_turn else None
            return {"timings": asdict(timings) if timings is not None else {}}
        if operation in ("load", "unload"):
            with self._turnstile.turn(cancelled) as has_turn:
                if has_turn and isinstance(self._engine, Loadable):
                    (self._engine.load if operation == "load" else self._engine.unload)()
            return {"status": asdict(self._engine.status())}
        if operation == "status":
            return {"status": asdict(self._engine.status())}
        return {"error": f"there is no operation {operation!r}"}


def fill_in_turn(
    engine: Engine, turnstile: Turnstile, problem: CanvasProblem, cancelled: Cancelled | None
) -> list[CanvasResult]:
    """Fill when it is this caller's turn; the time spent waiting counts against the deadline."""
    begun = time.monotonic()
    with turnstile.turn(cancelled) as has_turn:
        if not has_turn:
            return cancelled_results(problem)
        if problem.deadline_ms is not None:
            left_ms = problem.deadline_ms - (time.monotonic() - begun) * 1000
            problem = replace(problem, deadline_ms=max(1.0, left_ms))
        return engine.fill(problem, cancelled)


def cancelled_results(problem: CanvasProblem) -> list[CanvasResult]:
    """What a problem ends in that nobody worked on."""
    return [CanvasResult.untouched(canvas, is_cancelled=True) for canvas in problem.canvases]


def _send(connection: socket.socket, value: Any) -> None:
    connection.sendall(pack(value))
