"""The answer to `initialize` before the server is there: importing it takes a second, which no editor should wait for.

What the server answers is greeting.json, written from the server itself (`make docs`) as a client gets it that can do
everything; what the client at hand cannot do is left out here. Only an ordinary request is answered; all others are
left to the server, and it gets the greeted one too. Knows frames and `initialize`, and imports nothing that takes time.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

from .wire import read_frame, write_whole

logger = logging.getLogger(__name__)

FULL_RESULT = Path(__file__).with_name("greeting.json")
ENCODINGS = ("utf-8", "utf-16", "utf-32")

Json = dict[str, Any]


class Greeting:
    """Reads the first frame in a thread, while the server is imported, and answers it if it is an ordinary one."""

    def __init__(self, stdin: BinaryIO, wire: BinaryIO) -> None:
        self.first: bytes | None = None
        """The first frame, for the server; None when the client left without one."""
        self.answer: Json | None = None
        """What was answered; None when that is left to the server."""
        self._stdin = stdin
        self._wire = wire
        self._thread = threading.Thread(target=self._run, name="lacuna-greeting", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the first frame is there and, if it is an ordinary `initialize`, answered."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self.first = read_frame(self._stdin)
            self.answer = None if self.first is None else answer_to(self.first)
            if self.answer is not None:
                body = json.dumps(self.answer).encode()
                write_whole(self._wire, b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        except (OSError, ValueError):
            # what was sent in part is not sent again: the server will find the same end
            logger.debug("the client left before it was greeted", exc_info=True)


def answer_to(first: bytes) -> Json | None:
    """The answer to an ordinary `initialize`, exactly as the server gives it; None for everything else."""
    try:
        return _answer(_object(json.loads(first)))
    except (ValueError, RecursionError, _NotOrdinaryError):
        return None


class _NotOrdinaryError(Exception):
    """The server itself has to look at it."""


def _answer(request: Json) -> Json:
    _check(set(request) == {"jsonrpc", "id", "method", "params"})
    _check(request["jsonrpc"] == "2.0" and request["method"] == "initialize")
    _check(isinstance(request["id"], int | str) and not isinstance(request["id"], bool))
    params = _object(request["params"])
    _check(isinstance(params.get("processId"), int | None))
    _check(params.get("clientInfo") is None or isinstance(_object(params["clientInfo"]).get("name"), str))
    for folder in _items(params.get("workspaceFolders")):
        _check(isinstance(_object(folder).get("name"), str) and _is_file(_object(folder).get("uri")))
    _check(params.get("rootUri") is None or _is_file(params["rootUri"]))
    path: Any = params.get("rootPath")
    _check(path is None or (isinstance(path, str) and path.isprintable() and path[:2] not in ("//", "\\\\")))
    _check(params.get("capabilities") is not None)
    result = _result(_object(params["capabilities"]), params.get("initializationOptions"))
    return {"id": request["id"], "jsonrpc": "2.0", "result": result}


def _result(can: Json, options: Any) -> Json:
    result: Json = json.loads(FULL_RESULT.read_bytes())
    ours = result["capabilities"]
    # pygls' rule: the first of the client's encodings that is known, else UTF-16
    offered = _items(_object(can.get("general")).get("positionEncodings"))
    _check(all(isinstance(each, str) for each in offered))
    ours["positionEncoding"] = next((each for each in offered if each in ENCODINGS), "utf-16")
    text = _object(can.get("textDocument"))
    sync = _flags(text.get("synchronization"))
    for name in ("willSave", "willSaveWaitUntil"):
        if sync.get(name) is None:
            del ours["textDocumentSync"][name]
    if can.get("notebookDocument") is None:
        del ours["notebookDocumentSync"]
    else:
        book = _object(can["notebookDocument"])
        _check(book.get("synchronization") is not None)
        _flags(book["synchronization"])
    # the one option that adds a capability, in all its spellings; not where the client has ghost text
    spelled = json.dumps(options).replace("_", "").lower()
    _check(bool(_flags(text.get("inlineCompletion"))) or "completionfallback" not in spelled)
    return result


def _check(is_ordinary: bool) -> None:
    if not is_ordinary:
        raise _NotOrdinaryError


def _object(value: Any) -> Json:
    """An object, empty where there is none."""
    _check(isinstance(value, dict | None))
    return cast(Json, value or {})


def _flags(value: Any) -> Json:
    """An object of booleans, empty where there is none."""
    flags = _object(value)
    _check(all(isinstance(each, bool | None) for each in flags.values()))
    return flags


def _items(value: Any) -> list[Any]:
    """A list, empty where there is none."""
    _check(isinstance(value, list | None))
    return cast(list[Any], value or [])


def _is_file(uri: Any) -> bool:
    # with an empty host and without lone surrogates: what no library stumbles over
    return isinstance(uri, str) and uri.startswith("file:///") and uri.isprintable()
