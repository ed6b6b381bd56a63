"""What the server itself answers to `initialize`, and lsp/greeting.json written from it (`make docs`)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from lacuna_ls.lsp.greeting import FULL_RESULT
from lacuna_ls.lsp.server import create_server

EVERYTHING = {
    "textDocument": {"synchronization": {"willSave": True, "willSaveWaitUntil": True}},
    "notebookDocument": {"synchronization": {}},
}
"""Whatever in a client's capabilities makes the server's longer."""


class Kept:
    """A writer that keeps what is written."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def write(self, data: bytes) -> None:
        self.messages.append(json.loads(data.partition(b"\r\n\r\n")[2]))

    def close(self) -> None:
        pass


def server_answers(frame: bytes, greeted: dict[str, Any] | None = None) -> list[Any]:
    """All that a new server sends when it receives one frame."""
    kept = Kept()

    async def ask() -> None:
        server = create_server(lambda options, roots, progress: NotImplemented)
        server.protocol.set_writer(kept)
        server.protocol.greeted = greeted
        server.protocol.receive(frame)
        await asyncio.sleep(0)

    asyncio.run(ask())
    return kept.messages


def initialize_frame(params: Any, **more: Any) -> bytes:
    """The body of an initialize request."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params, **more}).encode()


def full_result() -> str:
    """The text of lsp/greeting.json."""
    (answer,) = server_answers(initialize_frame({"capabilities": EVERYTHING}))
    return json.dumps(answer["result"], indent=2) + "\n"


if __name__ == "__main__":
    FULL_RESULT.write_text(full_result(), encoding="utf-8")
