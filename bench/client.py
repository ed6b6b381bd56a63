"""A headless editor: starts a language server, speaks LSP with it over stdio as VS Code does, and notes the times.

Written on plain JSON rather than on a typed protocol library: any server may be the subject, fields that no standard
knows must arrive (a confidence, for one), and the time of an answer is the time its last byte came in. Sends the
`initialize` parameters recorded from VS Code 1.139.1 (vscode-languageclient 10.1.2). Knows no hole and no metric.

Longer than most files here: the wire, the documents and the process are one life cycle, and are read together.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from .errors import ServerError

Json = dict[str, Any]
Position = tuple[int, int]
"""Line and UTF-16 code unit, both from 0."""

INITIALIZE_FILE = Path(__file__).with_name("vscode_initialize.json")
INITIALIZE_TIMEOUT_S = 60.0
LAST_WORDS_S = 1.0
STOP_TIMEOUT_S = 5.0
MAX_STDERR_LINES = 400
MAX_MESSAGE_BYTES = 64 << 20
_LINE_END = re.compile(r"\r\n|\n|\r")
_LONE = re.compile(r"\r(?!\n)")

CANCELLED_CODES = (-32800, -32801, -32802)
"""RequestCancelled, ContentModified, ServerCancelled: a superseded request, not a failure."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request. error: the message of an error answer. Times are of perf_counter, in seconds."""

    result: Any
    error: str
    is_cancelled: bool
    sent_at: float
    received_at: float

    @property
    def elapsed_ms(self) -> float:
        return (self.received_at - self.sent_at) * 1000


def position_at(text: str, offset: int) -> Position:
    """The LSP position of a code-point offset. Raises: ValueError outside the text."""
    if not 0 <= offset <= len(text):
        raise ValueError(f"offset {offset} is outside a text of {len(text)} code points")
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    line = text.count("\n", 0, start) + (len(_LONE.findall(text, 0, start)) if "\r" in text else 0)
    return line, num_units(text[start:offset])


def offset_at(text: str, position: Mapping[str, int]) -> int:
    """The code-point offset of an LSP position; a character beyond its line is its end, a line beyond is the end."""
    start, left = 0, position["line"]
    for match in _LINE_END.finditer(text):
        if left == 0:
            break
        start, left = match.end(), left - 1
    if left:
        return len(text)
    end = _LINE_END.search(text, start)
    line = text[start : end.start() if end else len(text)]
    units = 0
    for number, char in enumerate(line):
        if units >= position["character"]:
            return start + number
        units += 1 if ord(char) < 0x10000 else 2
    return start + len(line)


def num_units(text: str) -> int:
    """Length in UTF-16 code units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _point(position: Position) -> Json:
    return {"line": position[0], "character": position[1]}


class LspClient:
    """One server process. Use `start`, then `open`, `change`, `inline_completion`, and `stop` in a finally."""

    def __init__(self, process: asyncio.subprocess.Process, settings: Json) -> None:
        self._process = process
        self._settings = settings
        self._folders: list[Json] = []
        self._next_id = 0
        self._waiting: dict[int, tuple[float, asyncio.Future[Reply]]] = {}
        self._versions: dict[str, int] = {}
        self._texts: dict[str, str] = {}
        self._watchers: list[Callable[[str, Any], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.stderr: deque[str] = deque(maxlen=MAX_STDERR_LINES)
        self.on_stderr: Callable[[str], None] = lambda line: None
        self.messages: deque[str] = deque(maxlen=MAX_STDERR_LINES)
        """window/showMessage and window/logMessage."""
        self.capabilities: Json = {}
        self.server_info: Json = {}
        self.initialize_ms = 0.0
        self.started_at = 0.0
        self.num_sent = 0

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        root: Path | None = None,
        initialization_options: Json | None = None,
        settings: Json | None = None,
        environment: Mapping[str, str] | None = None,
        on_stderr: Callable[[str], None] | None = None,
    ) -> LspClient:
        """Start the server and shake hands. root: the workspace folder that is announced.

        Raises: ServerError where it does not start, ends, or does not answer `initialize`.
        """
        started_at = perf_counter()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **environment} if environment else None,
                start_new_session=True,
                limit=1 << 20,
            )
        except OSError as error:
            raise ServerError(f"The server {command[0]!r} does not start: {error}. Check --server.") from error
        client = cls(process, settings or {})
        client.started_at = started_at
        if on_stderr is not None:
            client.on_stderr = on_stderr
        client._tasks = [asyncio.create_task(client._read()), asyncio.create_task(client._read_stderr())]
        try:
            await client._shake_hands(root, initialization_options)
        except BaseException:
            await client.stop()
            raise
        return client

    async def _shake_hands(self, root: Path | None, initialization_options: Json | None) -> None:
        params: Json = json.loads(INITIALIZE_FILE.read_text(encoding="utf-8"))
        uri = root.resolve().as_uri() if root else None
        params |= {"processId": os.getpid(), "rootPath": str(root) if root else None, "rootUri": uri}
        self._folders = [{"uri": uri, "name": root.name}] if root else []
        params["workspaceFolders"] = self._folders or None
        if initialization_options is not None:
            params["initializationOptions"] = initialization_options
        reply = await self.request("initialize", params, timeout_s=INITIALIZE_TIMEOUT_S)
        if reply.error or not isinstance(reply.result, dict):
            raise ServerError(f"The server refused `initialize`: {reply.error or 'no result'}.{self.last_words()}")
        result = cast(Json, reply.result)
        self.initialize_ms = (reply.received_at - self.started_at) * 1000
        self.capabilities, self.server_info = result.get("capabilities") or {}, result.get("serverInfo") or {}
        self.notify("initialized", {})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None and not self._tasks[0].done()

    @property
    def is_incremental(self) -> bool:
        """Whether the server takes changes as ranges."""
        sync: Any = self.capabilities.get("textDocumentSync")
        return (cast(Json, sync).get("change") if isinstance(sync, dict) else sync) == 2

    def last_words(self) -> str:
        """The end of what the server wrote to stderr, for a message to people."""
        return ("\n  " + "\n  ".join(list(self.stderr)[-8:])) if self.stderr else ""

    def watch(self, watcher: Callable[[str, Any], None]) -> None:
        """Call watcher with method and params of every notification from now on."""
        self._watchers.append(watcher)

    # the wire

    def _send(self, message: Json) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False).encode("utf-8", "surrogatepass")
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing() or not self.is_running:
            raise ServerError(f"The server has ended (exit code {self._process.returncode}).{self.last_words()}")
        stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.num_sent += 1

    def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    def begin(self, method: str, params: Any) -> tuple[int, asyncio.Future[Reply]]:
        """Send a request; its id, and a future of its answer."""
        self._next_id += 1
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[self._next_id] = perf_counter(), future
        try:
            self._send({"id": self._next_id, "method": method, "params": params})
        except ServerError:
            del self._waiting[self._next_id]
            raise
        return self._next_id, future

    async def request(self, method: str, params: Any, *, timeout_s: float = 60.0) -> Reply:
        """Send a request and wait for its answer. Raises: ServerError when it ends or stays silent."""
        ident, future = self.begin(method, params)
        return await self.wait(ident, future, method=method, timeout_s=timeout_s)

    async def wait(
        self, ident: int, future: asyncio.Future[Reply], *, method: str = "request", timeout_s: float = 60.0
    ) -> Reply:
        """Wait for the answer of a request that was begun."""
        try:
            # not wait_for, which in Python 3.11 loses a Ctrl-C that comes together with the answer
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            self._waiting.pop(ident, None)
            message = f"The server did not answer {method} within {timeout_s:g} s.{self.last_words()}"
            raise ServerError(message) from None

    def cancel(self, ident: int) -> None:
        """Ask the server to give a request up; its answer still comes."""
        self.notify("$/cancelRequest", {"id": ident})

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        failure = ""
        try:
            while True:
                length = -1
                while (line := await stdout.readline()).strip():
                    name, _, value = line.partition(b":")
                    if name.strip().lower() == b"content-length":
                        length = int(value)
                if not line:
                    break
                if not 0 <= length <= MAX_MESSAGE_BYTES:
                    failure = f"The server wrote something that is no LSP message ({line[:80]!r})."
                    break
                body = await stdout.readexactly(length)
                self._receive(json.loads(body), perf_counter())
        except (ValueError, RecursionError, asyncio.IncompleteReadError, ConnectionError) as error:
            failure = f"The server wrote something that is no LSP message: {error}."
        if not failure:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 1.0)
            failure = f"The server ended (exit code {self._process.returncode})."
        # its last words come through another pipe, which a process that it started may hold open
        has_ended = self._process.returncode is not None
        await asyncio.wait([self._tasks[1]], timeout=LAST_WORDS_S if has_ended else 0.01)
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(ServerError(failure + self.last_words()))
                # an answer nobody waits for any more is no fault of the program
                future.exception()
        self._waiting.clear()

    def _receive(self, message: Any, now: float) -> None:
        if not isinstance(message, dict):
            return
        call = cast(Json, message)
        method, ident = call.get("method"), call.get("id")
        if method is None:
            sent_at, future = self._waiting.pop(ident, (0.0, None)) if isinstance(ident, int) else (0.0, None)
            if future is not None and not future.done():
                said: Any = call.get("error")
                # what is no error object is an error all the same
                error = cast(Json, said) if isinstance(said, dict) else {"message": said} if said else {}
                is_cancelled = error.get("code") in CANCELLED_CODES
                text = "" if is_cancelled else str(error.get("message", error)) if error else ""
                future.set_result(Reply(call.get("result"), text, is_cancelled, sent_at, now))
        elif ident is not None:
            self._answer(ident, str(method), call.get("params"))
        else:
            params: Any = call.get("params")
            if method in ("window/showMessage", "window/logMessage") and isinstance(params, dict):
                self.messages.append(str(cast(Json, params).get("message", "")))
            for watcher in self._watchers:
                watcher(str(method), call.get("params"))

    def _answer(self, ident: Any, method: str, params: Any) -> None:
        """Requests from the server: a client without windows has little to say, but says it at once."""
        result: Any = None
        if method == "workspace/configuration":
            asked: Any = cast(Json, params).get("items") if isinstance(params, dict) else None
            items = cast(Sequence[Any], asked) if isinstance(asked, list) else ()
            sections = [cast(Json, item).get("section") if isinstance(item, dict) else None for item in items]
            result = [self._settings.get(str(section or "")) for section in sections]
        elif method == "workspace/workspaceFolders":
            result = self._folders
        elif method == "workspace/applyEdit":
            result = {"applied": False, "failureReason": "a headless client applies nothing"}
        elif method not in (
            "client/registerCapability",
            "client/unregisterCapability",
            "window/workDoneProgress/create",
            "window/showMessageRequest",
        ):
            error = {"code": -32601, "message": f"a headless client has no {method}"}
            with suppress(ServerError):
                self._send({"id": ident, "error": error})
            return
        with suppress(ServerError):
            self._send({"id": ident, "result": result})

    async def _read_stderr(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        while True:
            try:
                line = await stderr.readline()
            except ValueError:
                # longer than the limit of the stream: the rest of it comes with the next read
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            self.stderr.append(text)
            self.on_stderr(text)

    # documents

    def open(self, uri: str, language: str, text: str) -> None:
        """didOpen."""
        self._versions[uri], self._texts[uri] = 1, text
        item = {"uri": uri, "languageId": language, "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def text_of(self, uri: str) -> str:
        """The text of an open document as the server has been told."""
        return self._texts[uri]

    def version_of(self, uri: str) -> int:
        """The version of an open document."""
        return self._versions[uri]

    def change(self, uri: str, start: int, end: int, new: str) -> None:
        """didChange: replace [start, end) of the document, as a range where the server takes ranges."""
        old = self._texts[uri]
        text = old[:start] + new + old[end:]
        self._versions[uri] += 1
        self._texts[uri] = text
        event: Json = {"text": text}
        if self.is_incremental:
            low, high = position_at(old, start), position_at(old, end)
            event = {"range": {"start": _point(low), "end": _point(high)}, "text": new}
        identifier = {"uri": uri, "version": self._versions[uri]}
        self.notify("textDocument/didChange", {"textDocument": identifier, "contentChanges": [event]})

    def close(self, uri: str) -> None:
        """didClose."""
        del self._versions[uri], self._texts[uri]
        self.notify("textDocument/didClose", {"textDocument": {"uri": uri}})

    def begin_inline_completion(
        self, uri: str, position: Position, *, is_explicit: bool = False
    ) -> tuple[int, asyncio.Future[Reply]]:
        """Send textDocument/inlineCompletion; its id, and a future of the answer."""
        params = {
            "textDocument": {"uri": uri},
            "position": _point(position),
            "context": {"triggerKind": 1 if is_explicit else 2},
        }
        return self.begin("textDocument/inlineCompletion", params)

    async def stop(self) -> None:
        """shutdown and exit; what does not leave by itself is ended."""
        with suppress(ServerError):
            if self.is_running:
                await self.request("shutdown", None, timeout_s=STOP_TIMEOUT_S)
                self.notify("exit", None)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                if sys.platform == "win32":
                    self._process.kill()
                else:
                    # its own session: the processes that it started go with it
                    os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
