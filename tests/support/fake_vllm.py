"""A small HTTP server that speaks the part of vLLM's API that Lacuna uses, with everything that can go wrong on demand.

`Behaviour` says what it does; `requests` keeps what it was asked.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Behaviour:
    """knows_canvases: whether the extra arguments have an effect. rejects_canvases: HTTP 400 for them.

    statuses: HTTP statuses of the next completions, one each; 0 hangs up, -1 truncates the body, -2 answers no JSON.
    model_statuses, model_latency_s, tokenize_status: the same for the list of models, and for tokenizing.
    body: what completions answer instead, as it is. body_latency_s: how long the headers of an answer come before it.
    text, is_cut: what chat completions answer, and whether for lack of room they end there.
    """

    knows_canvases: bool = True
    rejects_canvases: bool = False
    latency_s: float = 0.0
    statuses: list[int] = field(default_factory=list)
    token: str = ""
    tokens: list[int] | None = None
    retry_after: str = ""
    text_tokens: Any = None
    model: str = "served-model"
    text: str = "answer"
    is_cut: bool = False
    model_statuses: list[int] = field(default_factory=list)
    model_latency_s: float = 0.0
    tokenize_status: int = 200
    body: bytes = b""
    body_latency_s: float = 0.0


class FakeVllm:
    """Context manager: `with FakeVllm(Behaviour()) as server:` then server.url."""

    def __init__(self, behaviour: Behaviour | None = None, port: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.num_hung_up = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                time.sleep(fake.behaviour.model_latency_s)
                status = fake.behaviour.model_statuses.pop(0) if fake.behaviour.model_statuses else 200
                if status:
                    fake.answer(self, {"data": [{"id": fake.behaviour.model}]}, status)
                else:
                    self.connection.close()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.headers.append(dict(self.headers))
                if self.path.endswith("/tokenize"):
                    fake.answer(self, {"tokens": fake.behaviour.text_tokens}, fake.behaviour.tokenize_status)
                    return
                fake.requests.append(body)
                fake.complete(self, body)

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> FakeVllm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, value: Any, status: int = 200, cut: bool = False) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        try:
            handler.send_response(status)
            if self.behaviour.retry_after and status == 429:
                handler.send_header("Retry-After", self.behaviour.retry_after)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            time.sleep(self.behaviour.body_latency_s)
            handler.wfile.write(data[: len(data) // 2] if cut else data)
        except OSError:
            self.num_hung_up += 1
        handler.close_connection = True

    def complete(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        did = self.behaviour
        until = time.monotonic() + did.latency_s
        while time.monotonic() < until:
            time.sleep(0.01)
        if did.token and handler.headers.get("Authorization") != f"Bearer {did.token}":
            self.answer(handler, {"error": "who are you"}, 401)
            return
        status = did.statuses.pop(0) if did.statuses else 200
        if status == 0:
            handler.connection.close()
            return
        if status == -2:
            handler.send_response(200)
            handler.send_header("Content-Length", "3")
            handler.end_headers()
            handler.wfile.write(b"???")
            return
        if status not in (200, -1):
            self.answer(handler, {"error": "no"}, status)
            return
        if did.body:
            self.answer(handler, did.body)
            return
        if handler.path.endswith("/chat/completions"):
            pieces = [{"token": piece, "logprob": -0.01} for piece in re.findall(r"\w+|\W", did.text)]
            choice = {
                "message": {"role": "assistant", "content": did.text},
                "finish_reason": "length" if did.is_cut else "stop",
                "logprobs": {"content": pieces},
            }
            self.answer(handler, {"choices": [choice]}, cut=status == -1)
            return
        extra = body.get("vllm_xargs")
        if extra and did.rejects_canvases:
            self.answer(handler, {"error": "unknown argument"}, 400)
            return
        tokens = did.tokens or [1000 + n for n in range(body["max_tokens"])]
        if extra and did.knows_canvases:
            seeds, pinned = extra["diffusion_seed_canvas"], extra["diffusion_pinned"]
            tokens = [seed if pin else 7 for seed, pin in zip(seeds, pinned, strict=True)]
        names = [f"token_id:{token}" for token in tokens]
        choice = {"text": "", "logprobs": {"tokens": names, "token_logprobs": [-0.5] * len(tokens)}}
        self.answer(handler, {"choices": [choice]}, cut=status == -1)
