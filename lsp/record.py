"""Recording an LSP session with its timings, and playing it back against a server of today.

`lacuna serve --record FILE` writes one frame per message. Unless contents are asked for, a text keeps its shape only:
letters become x, paths become hashes, so that a recording can be given away. `lacuna replay FILE` sends the client's
messages again, at their times, and compares latencies. Knows frames and JSON; no document and no engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..engine.errors import LacunaError
from ..engine.frames import MAX_FRAME_BYTES, FrameError, pack, read_frame
from .wire import read_frame as read_message

logger = logging.getLogger(__name__)

FORMAT = "lacuna-session-1"

_PLAIN = frozenset(
    ("jsonrpc", "method", "id", "languageId", "kind", "reason", "token", "positionEncoding", "notebookType", "section")
) | frozenset(("command", "error", "state"))
"""Keys whose strings say nothing about the user's files."""

_WHOLE = frozenset(("capabilities", "clientInfo", "serverInfo"))
_PATHS = frozenset(("uri", "rootUri", "rootPath", "scopeUri", "workspaceFolders", "newUri", "oldUri"))
_WORD = re.compile(r"\w")
_PLACE = re.compile(r"[/\\:]")
"""What is in no name of LSP's own, but in every path and URI: WorkspaceEdit.changes has them as keys."""

_LETTERS = {1: "x", 2: "ö", 3: "字", 4: "\U0001d431"}
"""By bytes of UTF-8: with another width, every position behind it would mean another place in a replay."""


def shape_of(value: Any, key: str = "") -> Any:
    """value with every text reduced to its shape: same lengths, same lines, no letters; paths as hashes."""
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        return {
            _hashed(name) if _PLACE.search(name) else name: item if name in _WHOLE else shape_of(item, name)
            for name, item in fields.items()
        }
    if isinstance(value, list):
        return [shape_of(item, key) for item in _items(value)]
    if not isinstance(value, str) or key in _PLAIN:
        return value
    if key in _PATHS or value.startswith(("file:", "/")):
        return _hashed(value)
    return _WORD.sub(lambda found: _LETTERS[len(found.group().encode())], value)


def _hashed(path: str) -> str:
    suffix = re.search(r"\.\w{1,8}\Z", path)
    name = hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"file:///{name}{suffix.group() if suffix else ''}"


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]


class Recorder:
    """An observer that writes a session to a file, as long as it can. Raises: LacunaError when it cannot be made."""

    def __init__(self, file: Path, *, with_contents: bool) -> None:
        self._with_contents = with_contents
        self._file = file
        self._is_over = False
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # a recording may hold what the user typed
            self._stream: BinaryIO = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        except OSError as error:
            message = f"The recording {file} cannot be written ({error.strerror}). Choose another file."
            raise LacunaError(message) from error
        self._begun = time.monotonic()
        self._write({"format": FORMAT, "contents": with_contents})

    def __call__(self, direction: str, message: dict[str, Any], now: float) -> None:
        """Write one message that came "in" or went "out"."""
        if self._is_over:
            return
        kept = message if self._with_contents else shape_of(message)
        self._write({"s": round(now - self._begun, 6), "way": direction, "message": kept})

    def close(self) -> None:
        """Finish the file."""
        self._stream.close()

    def _write(self, value: dict[str, Any]) -> None:
        try:
            frame = pack(value)
        except FrameError:
            frame = pack({"skipped": f"a message over {MAX_FRAME_BYTES} bytes"})
        except (ValueError, OverflowError) as error:
            # for example half a surrogate pair
            frame = pack({"skipped": f"a message that cannot be packed ({type(error).__name__})"})
        try:
            self._stream.write(frame)
            self._stream.flush()
        except OSError as error:
            # a full disk ends the recording, not the session
            logger.error("The recording %s ends here: it cannot be written (%s).", self._file, error.strerror)
            self._is_over = True
            with contextlib.suppress(OSError):
                self._stream.close()


@dataclass(frozen=True, slots=True)
class Recorded:
    """One message of a recording. when_s: seconds since the recording began."""

    when_s: float
    is_incoming: bool
    message: dict[str, Any]


def read_session(file: Path) -> Iterator[Recorded]:
    """The messages of a recording, in order; one that ends in the middle of a frame ends there. Raises: LacunaError."""
    try:
        with file.open("rb") as stream:
            head = read_frame(stream.read)
            if head is None or head.get("format") != FORMAT:
                raise LacunaError(f"{file} is no recording of a session. Make one with: lacuna serve --record FILE")
            while (frame := read_frame(stream.read)) is not None:
                message, when_s = frame.get("message"), frame.get("s")
                if isinstance(message, dict) and isinstance(when_s, int | float):
                    yield Recorded(float(when_s), frame.get("way") == "in", cast(dict[str, Any], message))
    except OSError as error:
        raise LacunaError(f"{file} cannot be read ({error.strerror}). Check the path.") from error
    except FrameError as error:
        raise LacunaError(f"{file} is damaged ({error}). Record the session again.") from error


@dataclass(slots=True)
class Replay:
    """What came of a replay. Latencies in milliseconds, by method."""

    recorded_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    replayed_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    num_unanswered: int = 0
    num_errors: int = 0


def recorded_latencies(session: list[Recorded]) -> dict[str, list[float]]:
    """Request to answer, as it was, by method."""
    asked: dict[Any, tuple[str, float]] = {}
    found: dict[str, list[float]] = defaultdict(list)
    for each in session:
        message = each.message
        if each.is_incoming and "method" in message and "id" in message:
            asked[message["id"]] = (str(message["method"]), each.when_s)
        elif not each.is_incoming and "method" not in message and message.get("id") in asked:
            method, begun = asked.pop(message["id"])
            found[method].append((each.when_s - begun) * 1000)
    return found


def replay(session: list[Recorded], command: list[str], *, speed: float = 1.0) -> Replay:
    """Send a session's client messages to a fresh server, at their times divided by speed."""
    result = Replay(recorded_ms=recorded_latencies(session))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    asked: dict[Any, tuple[str, float]] = {}
    lock = threading.Lock()
    reader = threading.Thread(target=_collect, args=(process, asked, lock, result), daemon=True)
    reader.start()
    try:
        begun = time.monotonic()
        start_s = session[0].when_s if session else 0.0
        for each in session:
            # answers of the client to the server's own requests belong to ids of another day
            if not each.is_incoming or "method" not in each.message or each.message["method"] == "exit":
                continue
            time.sleep(max(0.0, (each.when_s - start_s) / speed - (time.monotonic() - begun)))
            if "id" in each.message:
                with lock:
                    asked[each.message["id"]] = (str(each.message["method"]), time.monotonic())
            _send(process.stdin, each.message)
        until = time.monotonic() + 30.0
        while asked and time.monotonic() < until and reader.is_alive():
            time.sleep(0.01)
        _send(process.stdin, {"jsonrpc": "2.0", "method": "exit"})
        process.wait(10)
    except BrokenPipeError:
        raise LacunaError("The server ended in the middle of the replay. Start it by hand to see why.") from None
    finally:
        process.kill()
        process.wait()
        reader.join(2)
        process.stdin.close()
        process.stdout.close()
    result.num_unanswered = len(asked)
    return result


def _collect(
    process: subprocess.Popen[bytes], asked: dict[Any, tuple[str, float]], lock: threading.Lock, result: Replay
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    while (body := read_message(cast(BinaryIO, process.stdout))) is not None:
        now = time.monotonic()
        message: dict[str, Any] = json.loads(body)
        if "method" in message and "id" in message:
            # the server asks for something: what an editor without an opinion says
            params: Any = message.get("params") or {}
            answer = [None] * len(_items(params.get("items"))) if "items" in params else None
            try:
                _send(process.stdin, {"jsonrpc": "2.0", "id": message["id"], "result": answer})
            except (BrokenPipeError, ValueError):
                return
        elif "method" not in message:
            with lock:
                method, begun = asked.pop(message.get("id"), ("", now))
            if method:
                result.replayed_ms[method].append((now - begun) * 1000)
                result.num_errors += "error" in message


def _send(stream: Any, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    stream.flush()


def _quantiles(values: list[float]) -> str:
    if not values:
        return f"{'-':>9} {'-':>9}"
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:9.1f} {ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]:9.1f}"


def report(result: Replay) -> str:
    """The replay as a table for people."""
    lines = [f"{'method':36} {'count':>5}  {'then p50':>9} {'p95':>9}  {'now p50':>9} {'p95':>9}  ms"]
    for method in sorted({*result.recorded_ms, *result.replayed_ms}):
        then, now = result.recorded_ms.get(method, []), result.replayed_ms.get(method, [])
        lines.append(f"{method:36} {len(now):5}  {_quantiles(then)}  {_quantiles(now)}")
    lines.append(f"{result.num_unanswered} requests without an answer, {result.num_errors} errors")
    return "\n".join(lines) + "\n"


def main(file: Path, *, speed: float, server: list[str] | None = None) -> int:
    """`lacuna replay`. Exit code 1 when a request got no answer."""
    session = list(read_session(file))
    command = server or [sys.executable, "-P", "-m", "lacuna_ls.lsp.cli", "serve"]
    result = replay(session, command, speed=speed)
    sys.stdout.write(report(result))
    return 1 if result.num_unanswered else 0
