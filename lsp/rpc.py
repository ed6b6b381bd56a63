"""JSON-RPC under the server: which message is which type, and that every request gets an answer.

pygls does the dispatching and the typing; this adds what it leaves out: InvalidParams for parameters that cannot be
structured, answers before `initialize` and after `shutdown`, cancelling that ends in an ordinary answer, the exit code,
and one message at a time in the order they came. Knows methods by name only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, BinaryIO, cast

import attrs
from lsprotocol import types
from pygls.exceptions import JsonRpcException, PyglsError
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol

from . import protocol as names
from .cancel import CancelToken
from .greeting import Greeting
from .wire import FrameReader, FrameWriter

logger = logging.getLogger(__name__)

MsgId = int | str

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
NOT_INITIALIZED = -32002

OWN_SYNC = (
    types.TEXT_DOCUMENT_DID_OPEN,
    types.TEXT_DOCUMENT_DID_CHANGE,
    types.TEXT_DOCUMENT_DID_CLOSE,
    types.NOTEBOOK_DOCUMENT_DID_OPEN,
    types.NOTEBOOK_DOCUMENT_DID_CHANGE,
    types.NOTEBOOK_DOCUMENT_DID_CLOSE,
)
"""What documents.py does instead of pygls' workspace."""

Observer = Callable[[str, dict[str, Any], float], None]
"""Told of every message: "in" or "out", the message, time.monotonic seconds."""


def _message_types() -> dict[str, type]:
    found: dict[str, type] = {types.TEXT_DOCUMENT_INLINE_COMPLETION: names.InlineCompletionRequest}
    methods = {**{name: name for name in names.PARAMS}, **names.COPILOT_ALIASES}
    for method, ours in methods.items():
        params = names.PARAMS[ours]
        id_type: Any = int | str
        fields: dict[str, Any] = {} if ours in names.NOTIFICATIONS else {"id": attrs.field(type=id_type)}
        # a request without parameters may carry null, {} or nothing
        anything: Any = Any
        fields["params"] = attrs.field(type=anything, default=None) if params is None else attrs.field(type=params)
        fields["method"] = attrs.field(type=str, default=method)
        fields["jsonrpc"] = attrs.field(type=str, default="2.0")
        found[method] = attrs.make_class("Message", fields)
    return found


class LacunaProtocol(LanguageServerProtocol):
    """pygls' protocol with nothing left unanswered."""

    def __init__(self, server: LanguageServer, converter: Any) -> None:
        super().__init__(server, converter)
        for method in OWN_SYNC:
            self._handlers(builtin=True).pop(method, None)
        self.cancellations: dict[MsgId, CancelToken] = {}
        """Requests that answer a cancel by themselves."""
        self.observer: Observer | None = None
        self.greeted: dict[str, Any] | None = None
        """The answer to `initialize` that the client has already."""
        self.exit_code: int | None = None
        self._types = _message_types()
        self._is_initialized = False

    def _handlers(self, *, builtin: bool) -> dict[str, Any]:
        manager: Any = self.fm
        return cast(dict[str, Any], manager.builtin_features if builtin else manager.features)

    # pygls wraps its own in a cache, which is what both checkers see
    def get_message_type(  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        self, method: str
    ) -> type[Any] | None:
        """The type of a message: ours first, then LSP's."""
        return self._types.get(method) or super().get_message_type(method)

    def receive(self, body: bytes) -> None:
        """Handle one frame. Never raises for anything that a client can send."""
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            logger.warning("A message of %d bytes is not JSON.", len(body))
            self._answer_error(None, PARSE_ERROR, "not JSON")
            return
        if not isinstance(message, dict) or cast(dict[str, Any], message).get("jsonrpc") != "2.0":
            self._answer_error(None, INVALID_REQUEST, "not a JSON-RPC 2.0 message")
            return
        self._receive(cast(dict[str, Any], message))

    def _receive(self, message: dict[str, Any]) -> None:
        if self.observer is not None:
            self.observer("in", message, time.monotonic())
        method, msg_id = message.get("method"), message.get("id")
        if method == types.EXIT:
            self.exit_code = 0 if self._shutdown else 1
            return
        if method == types.CANCEL_REQUEST:
            self._cancel(message.get("params"))
            return
        is_request = isinstance(method, str) and msg_id is not None
        if is_request and (problem := self._why_not(str(method), message)) is not None:
            self._answer_error(msg_id, *problem)
            return
        structured = self._structure(message)
        if structured is None:
            logger.warning("The parameters of %s cannot be understood.", method)
            if is_request:
                self._answer_error(msg_id, INVALID_PARAMS, f"the parameters of {method} cannot be understood")
            elif method == types.TEXT_DOCUMENT_DID_CHANGE:
                self._lose_text(message.get("params"))
            return
        self.handle_message(structured)
        if method == types.INITIALIZE:
            self._is_initialized = True

    def _why_not(self, method: str, message: dict[str, Any]) -> tuple[int, str] | None:
        if self._shutdown:
            return INVALID_REQUEST, "the server is shutting down"
        if not self._is_initialized and method != types.INITIALIZE:
            return NOT_INITIALIZED, "initialize comes first"
        if self._is_initialized and method == types.INITIALIZE:
            return INVALID_REQUEST, "initialize comes once"
        if method not in self._handlers(builtin=True) and method not in self._handlers(builtin=False):
            return METHOD_NOT_FOUND, f"there is no method {method}"
        if not isinstance(message["id"], int | str):
            return INVALID_REQUEST, "an id is a number or a string"
        return None

    def _structure(self, message: dict[str, Any]) -> Any:
        """A message as its type; None where it cannot be understood."""
        for reading in self._readings(message):
            try:
                return self.structure_message(reading)
            except Exception:
                logger.debug("cannot be understood", exc_info=True)
        return None

    def _readings(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A message as it came, and what it may have meant, for clients newer or stranger than our types."""
        yield message
        # null for what is absent
        yield _without_nulls(message)
        params = message.get("params")
        given = cast(dict[str, Any], params).get("capabilities") if isinstance(params, dict) else None
        if message.get("method") != types.INITIALIZE or not isinstance(given, dict):
            return
        # the capabilities that can be understood
        kept: dict[str, Any] = {}
        for key, group in cast(dict[str, Any], given).items():
            entries = cast(dict[str, Any], group).items() if isinstance(group, dict) else ()
            good = {name: item for name, item in entries if self._is_capability(key, {name: item})}
            if good:
                kept[key] = good
        plain = {"processId", "clientInfo", "rootPath", "rootUri", "initializationOptions", "workspaceFolders"}
        rest = {name: item for name, item in cast(dict[str, Any], params).items() if name in plain}
        yield {**message, "params": {"processId": None, **rest, "capabilities": kept}}

    def _lose_text(self, params: Any) -> None:
        """A change that cannot be understood: nothing is proposed into a text that is no longer the client's."""
        item = cast(dict[str, Any], params).get("textDocument") if isinstance(params, dict) else None
        uri = cast(dict[str, Any], item).get("uri") if isinstance(item, dict) else None
        if isinstance(uri, str):
            logger.warning("%s is closed until the client opens it again: its text is not known.", uri)
            closed: Any = types.DidCloseTextDocumentParams(types.TextDocumentIdentifier(uri))
            # pygls' own type for messages fits none of lsprotocol's
            message: Any = types.DidCloseTextDocumentNotification(closed)
            self.handle_message(message)

    def _is_capability(self, key: str, group: dict[str, Any]) -> bool:
        try:
            self._converter.structure({key: group}, types.ClientCapabilities)
        except Exception:
            return False
        return True

    def _cancel(self, params: Any) -> None:
        msg_id = cast(dict[str, Any], params).get("id") if isinstance(params, dict) else None
        if not isinstance(msg_id, int | str):
            return
        if (token := self.cancellations.get(msg_id)) is not None:
            token.cancel()
        elif (future := self._request_futures.pop(msg_id, None)) is not None:
            future.cancel()

    def _handle_response(self, msg_id: MsgId, result: Any = None, error: Any = None) -> None:
        future: Any = self._request_futures.get(msg_id)
        # pygls would raise over an answer to a request of the client's own, and over one that comes too late
        if future is not None and not isinstance(future, Future):
            logger.warning("The client answered a request of its own.")
        elif future is not None and future.done():
            del self._request_futures[msg_id]
        else:
            super()._handle_response(msg_id, result, error)

    def tell(self, method: str, params: Any) -> None:
        """Send a notification of our own."""
        self._send_data({"jsonrpc": "2.0", "method": method, "params": params})

    def _answer_error(self, msg_id: Any, code: int, message: str) -> None:
        self._send_data({"jsonrpc": "2.0", "id": msg_id, "error": {"code": code, "message": message}})

    def _send_data(self, data: Any) -> None:
        plain: dict[str, Any] = {}
        if self.observer is not None or self.greeted is not None:
            plain = json.loads(json.dumps(data, default=self._serialize_message))
        if self.observer is not None:
            self.observer("out", plain, time.monotonic())
        if self.greeted is not None and plain.get("id") == self.greeted["id"] and "method" not in plain:
            self._compare(plain, self.greeted)
            self.greeted = None
            return
        super()._send_data(data)

    def _compare(self, answer: dict[str, Any], greeted: dict[str, Any]) -> None:
        if answer == greeted:
            logger.info("initialize was answered before the server was there.")
        else:
            # one of them has changed alone, and the client goes by what it was told
            logger.warning("initialize was answered otherwise than the server would have: %s", json.dumps(answer))


def _without_nulls(value: Any) -> Any:
    """JSON without the members of objects that are null."""
    if isinstance(value, dict):
        members = cast(dict[str, Any], value).items()
        return {name: _without_nulls(item) for name, item in members if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]


class RpcServer(LanguageServer):
    """A pygls server that runs on our own wire."""

    protocol: LacunaProtocol  # pyright: ignore[reportIncompatibleVariableOverride]

    def report_server_error(self, error: Exception, source: type[PyglsError] | type[JsonRpcException]) -> None:
        """Log it. A toast for every malformed notification would teach people to ignore toasts."""
        logger.error("%s", error)

    async def run(self, stdin: BinaryIO, stdout: BinaryIO, greeting: Greeting) -> int:
        """Serve one client, who was greeted, until it leaves. Returns the exit code that LSP asks for."""
        loop = asyncio.get_running_loop()
        frames: asyncio.Queue[bytes | None] = asyncio.Queue()

        def post(frame: bytes | None) -> None:
            loop.call_soon_threadsafe(frames.put_nowait, frame)

        writer = FrameWriter(stdout, lambda: post(None))
        self.protocol.set_writer(writer)
        self.protocol.greeted = greeting.answer
        frames.put_nowait(greeting.first)
        FrameReader(stdin, post, lambda: post(None)).start()
        try:
            while (frame := await frames.get()) is not None:
                self.protocol.receive(frame)
                if self.protocol.exit_code is not None:
                    break
                # let a handler take its snapshot before the next message changes the document
                await asyncio.sleep(0)
        finally:
            writer.close()
        return 1 if self.protocol.exit_code is None else self.protocol.exit_code
