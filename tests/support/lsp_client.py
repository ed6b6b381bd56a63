"""A language client for tests: a real subprocess, real stdio, every message kept."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
FAKE_SERVER = [sys.executable, "-P", str(HERE / "fake_infiller.py")]
CLIENTS = HERE.parent / "lsp" / "clients"


def lacuna() -> str:
    """The console script of the environment that runs the tests."""
    beside = Path(sys.executable).with_name("lacuna")
    found = str(beside) if beside.exists() else shutil.which("lacuna")
    if found is None:
        pytest.skip("the console script is not installed")
    return found


class ResponseError(Exception):
    """The server answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]


def initialize_params(client: str) -> dict[str, Any]:
    """The recorded initialize parameters of "nvim" or "vscode"."""
    (file,) = CLIENTS.glob(f"{client}-*.json")
    return json.loads(file.read_text(encoding="utf-8"))


def with_encoding(params: dict[str, Any], encoding: str) -> dict[str, Any]:
    """The same client, offering one position encoding only."""
    params["capabilities"].setdefault("general", {})["positionEncodings"] = [encoding]
    return params


class Client:
    """One server process and what it said. Requests of the server are answered as an editor would."""

    def __init__(self, command: list[str], *, env: dict[str, str] | None = None, settings: Any = None) -> None:
        self.settings = settings
        self.notifications: list[tuple[str, Any, float]] = []
        self.requests: list[tuple[str, Any]] = []
        self.stderr: list[str] = []
        self.unparsed: list[bytes] = []
        self.answers: dict[str, Any] = {}
        """By method: what this client answers to a request of the server, in place of what an editor would."""
        self._answers: dict[Any, dict[str, Any]] = {}
        self.answered_at: dict[Any, float] = {}
        self._next = 0
        self._news = threading.Condition()
        self._is_over = False
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._read, self._read_stderr)]
        for thread in self._threads:
            thread.start()

    # sending

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.send_bytes(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def notify(self, method: str, params: Any = None) -> None:
        self.send({"method": method, **({} if params is None else {"params": params})})

    def start(self, method: str, params: Any = None) -> int:
        """Send a request; its id."""
        self._next += 1
        self.send({"id": self._next, "method": method, **({} if params is None else {"params": params})})
        return self._next

    def cancel(self, request_id: int) -> None:
        self.notify("$/cancelRequest", {"id": request_id})

    def wait(self, request_id: Any, timeout_s: float = 60.0) -> Any:
        """The result of a request. Raises ResponseError."""
        answer = self.wait_for(lambda: self._answers.get(request_id), timeout_s, f"an answer to {request_id}")
        if "error" in answer:
            raise ResponseError(answer["error"])
        return answer["result"]

    def request(self, method: str, params: Any = None, timeout_s: float = 60.0) -> Any:
        return self.wait(self.start(method, params), timeout_s)

    def wait_for(self, look: Callable[[], Any], timeout_s: float = 60.0, what: str = "something") -> Any:
        """Wait until look() is true; what it returned."""
        until = time.monotonic() + timeout_s
        with self._news:
            while not (found := look()):
                left = until - time.monotonic()
                if left <= 0 or (self._is_over and not look()):
                    tail = "".join(self.stderr[-30:])
                    state = "ended" if self._is_over else "is silent"
                    raise AssertionError(f"waited for {what}; the server {state}\n{tail}")
                self._news.wait(min(left, 0.2))
            return found

    # receiving

    def _read(self) -> None:
        out = self.process.stdout
        assert out is not None
        while True:
            length = 0
            while line := out.readline():
                if line == b"\r\n":
                    break
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                elif not line.lower().startswith(b"content-type:"):
                    self.unparsed.append(line)
            if not line:
                break
            message = json.loads(out.read(length))
            with self._news:
                self._take(message, time.monotonic())
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def _take(self, message: dict[str, Any], now: float) -> None:
        if "method" not in message:
            self._answers[message["id"]] = message
            self.answered_at[message["id"]] = now
        elif "id" not in message:
            self.notifications.append((message["method"], message.get("params"), now))
        else:
            self.requests.append((message["method"], message.get("params")))
            result: Any = None
            if message["method"] == "workspace/configuration":
                result = [self.configuration(item) for item in message["params"]["items"]]
            if message["method"] == "workspace/applyEdit":
                result = {"applied": True}
            result = self.answers.get(message["method"], result)
            # the test may have closed the pipe
            with contextlib.suppress(OSError, ValueError):
                self.send({"id": message["id"], "result": result})

    def configuration(self, item: dict[str, Any]) -> Any:
        """What workspace/configuration answers; settings may be a function of the item."""
        return self.settings(item) if callable(self.settings) else self.settings

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr.append(line.decode(errors="replace"))

    # what editors do

    def initialize(self, params: dict[str, Any], options: Any = None) -> dict[str, Any]:
        """The handshake; the answer to initialize."""
        if options is not None:
            params = {**params, "initializationOptions": options}
        answer: dict[str, Any] = self.request("initialize", params)
        self.notify("initialized", {})
        return answer

    def open(self, uri: str, text: str, language: str = "python", version: int = 1) -> None:
        item = {"uri": uri, "languageId": language, "version": version, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def change(self, uri: str, version: int, *changes: dict[str, Any]) -> None:
        document = {"uri": uri, "version": version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": list(changes)})

    def start_inline(self, uri: str, line: int, character: int, kind: int = 2, **more: Any) -> int:
        params = {
            "textDocument": {"uri": uri, **more.pop("document", {})},
            "position": {"line": line, "character": character},
            "context": {"triggerKind": kind, **more.pop("context", {})},
            **more,
        }
        return self.start("textDocument/inlineCompletion", params)

    def inline(self, uri: str, line: int, character: int, kind: int = 2, **more: Any) -> Any:
        return self.wait(self.start_inline(uri, line, character, kind, **more))

    def messages(self) -> list[str]:
        """Everything shown to the user."""
        return [params["message"] for method, params, _ in self.notifications if method == "window/showMessage"]

    def statuses(self) -> list[dict[str, Any]]:
        return [params for method, params, _ in self.notifications if method == "$/lacuna/status"]

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Until the model is loaded."""
        self.wait_for(lambda: any(each["kind"] == "normal" for each in self.statuses()), timeout_s, "a ready model")

    def close(self) -> int:
        """shutdown and exit; the exit code."""
        if self.process.poll() is None:
            try:
                self.request("shutdown", timeout_s=30)
                self.notify("exit")
                self.process.wait(10)
            except (AssertionError, OSError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            # the reader thread may be in the middle of a line
            for thread in self._threads:
                thread.join(2)
            with contextlib.suppress(OSError):
                pipe.close()
        return int(self.process.returncode)
