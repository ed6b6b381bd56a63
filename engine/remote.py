"""RemoteEngine: a vLLM server that serves a DiffusionGemma, through its OpenAI-compatible completions endpoint.

Prompts and canvases travel as token ids, so the tokenizer here and the model there must belong together (`agrees_on`
asks); where it is not here, they travel as text (chat_api.py). Pinned and seeded canvases go through vLLM's extra
arguments; a server that shows it does not know them is asked for a plain continuation instead, which ends where the
first pinned row after the gap begins. Failures become a state, not noise: after a few in a row the server is left alone
for a while. A server that does not answer yet is one of them: it is asked again when somebody asks. Knows no layout and
no editor. Longer than other files because what a network does to one request is handled where the request is made.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import logging
import math
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import urlsplit

from . import chat_api
from .errors import EngineError
from .modelfile import loads
from .problem import NOISE, Cancelled, Canvas, CanvasProblem, CanvasResult, EngineStatus, Timings

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "LACUNA_REMOTE_TOKEN"
"""Environment variable with the bearer token; there is no other way to give it."""

CANVAS_GRID = 16
MAX_RETRIES = 2
RETRY_S = 0.1
MAX_RETRY_S = 2.0
BREAK_AFTER = 3
BREAK_S = 5.0
MAX_BREAK_S = 60.0
POLL_S = 0.005
MIN_ASK_S = 0.01
"""With less than this left nothing is asked: no answer would come in time, and that says nothing about the server."""
NO_TOKENIZE = frozenset((400, 404, 405, 422, 500, 501))
"""HTTP statuses of a server that has no way to ask for tokens; others may pass, or are the user's to mend."""
MAX_ANSWER_BYTES = 16 << 20
MAX_CANVASES = 8
MAX_TOKEN_ID = 2**32 - 1
"""No tokenizer can take a larger one."""


class UnreachableError(EngineError):
    """The server does not answer, or not yet; later it may."""


class _FailedError(Exception):
    """One request failed. can_retry: whether trying again may help. status: the HTTP status, or 0."""

    def __init__(self, message: str, *, can_retry: bool = False, status: int = 0, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.can_retry, self.status, self.after_s = can_retry, status, after_s

    @property
    def is_final(self) -> bool:
        """Whether waiting does not help: the server answers, and refuses."""
        return 400 <= self.status < 500 and self.status not in (408, 425, 429)


class _LateError(Exception):
    """There was no time left to ask."""


class _CancelledError(Exception):
    """The caller lost interest."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. Raises: EngineError from parse() for what must not be used."""

    is_secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a base address; https unless the server is on this machine."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise EngineError(f"{url} is no address ({error}). Write http://127.0.0.1:8000 or https://host.") from error
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
            raise EngineError(f"{url} is no address of a server. Write http://127.0.0.1:8000 or https://host.")
        is_secure = parts.scheme == "https"
        if not is_secure and not _is_loopback(host):
            raise EngineError(f"{url} would send your code unencrypted. Use https, or a tunnel to this machine.")
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(is_secure, host, port or (443 if is_secure else 80), path)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class RemoteEngine:
    """Engine over HTTP. See engine/problem.py for the contract; logprob is the server's, entropy is not reported by it
    and is given as the surprisal of the chosen token."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        timeout_s: float = 5.0,
        num_vocab: int = 262_144,
        end_tokens: Sequence[int] = (1, 106, 50),
    ) -> None:
        """model: the name to ask for; empty: the first one that the server lists. num_vocab: ids that noise is drawn
        from. end_tokens: ids that end an answer and are no part of it. Asks nothing: the server need not be there yet.
        Raises: EngineError when the address is unusable."""
        self._address = Address.parse(url)
        self._url = url
        self._timeout_s = timeout_s
        self._num_vocab = num_vocab
        self._ends = frozenset(end_tokens)
        self._is_text = False
        self._token = os.environ.get(TOKEN_VARIABLE, "").strip()
        self._can_pin: bool | None = None
        """Whether the server knows canvases; None until an answer has shown it."""
        self._breaker = _Breaker()
        self._is_closed = False
        self._pool = ThreadPoolExecutor(MAX_CANVASES, thread_name_prefix="lacuna-remote")
        self._model = model

    @property
    def model(self) -> str:
        """The name of the model that is asked; empty until the server has told it."""
        return self._model

    @property
    def is_left_alone(self) -> bool:
        """Whether the server failed so often that it is not asked for a while."""
        return not self._breaker.allows()

    def use_vocabulary(self, num_vocab: int, end_tokens: Sequence[int], *, is_text: bool = False) -> None:
        """Which ids the problems are made of. is_text: code points instead of tokens, for the server's chat."""
        self._num_vocab, self._ends, self._is_text = num_vocab, frozenset(end_tokens), is_text

    def prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None = None) -> Timings:
        """Nothing to do: the server keeps a prefix cache of its own."""
        return Timings()

    def fill(self, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        """See Engine.fill. While the server is left alone, and when it fails, nothing is filled, nothing is raised."""
        if self._is_closed:
            raise EngineError("The remote engine was closed. Restart the server.")
        begun = time.monotonic()
        limit_s = self._timeout_s if problem.deadline_ms is None else min(self._timeout_s, problem.deadline_ms / 1000)
        untouched = [CanvasResult.untouched(canvas) for canvas in problem.canvases]
        if not self._breaker.allows():
            return untouched
        is_over = cancelled or (lambda: False)
        try:
            self._find_model(begun + limit_s, is_over)
        except _FailedError as error:
            self._breaker.failed(str(error))
            return untouched
        except _LateError:
            return untouched
        except _CancelledError:
            return [replace(result, is_cancelled=True) for result in untouched]
        calls = [self._pool.submit(self._one, problem, canvas, begun + limit_s, is_over) for canvas in problem.canvases]
        results: list[CanvasResult] = []
        failure: _FailedError | None = None
        is_late = False
        for call, nothing in zip(calls, untouched, strict=True):
            try:
                results.append(call.result())
            except _CancelledError:
                results.append(replace(nothing, is_cancelled=True))
            except _LateError:
                is_late = True
                results.append(nothing)
            except _FailedError as error:
                failure = error
                results.append(nothing)
        if failure is not None:
            self._breaker.failed(str(failure))
        elif not is_late and not any(result.is_cancelled for result in results):
            self._breaker.succeeded()
        return results

    def status(self) -> EngineStatus:
        """ready, or failed with the reason: while the server is left alone, and while it has never answered."""
        if self._is_closed:
            return EngineStatus("closed")
        trouble = self._breaker.trouble
        if trouble:
            return EngineStatus("failed", self._model, self._url, trouble)
        detail = "without canvases: the server only continues text" if self._can_pin is False else ""
        if self._is_text:
            detail = "by text: the tokenizer of the model is not here"
        return EngineStatus("ready", self._model, self._url, detail)

    def close(self) -> None:
        """Stop asking."""
        self._is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def agrees_on(self, text: str, tokens: Sequence[int], cancelled: Cancelled | None = None) -> bool | None:
        """Whether the server makes the same tokens of a text; None when it has no way to be asked.

        Raises: UnreachableError when it does not answer or cancelled first, EngineError when it refuses.
        """
        until = time.monotonic() + self._timeout_s
        is_over = cancelled or (lambda: False)
        try:
            self._find_model(until, is_over)
            body = {"model": self._model, "prompt": text, "add_special_tokens": False}
            answer = self._request("POST", "/tokenize", body, until, is_over)
        except (_CancelledError, _LateError) as error:
            raise UnreachableError(f"There was no time to ask the server {self._url}.") from error
        except _FailedError as error:
            # a server that has shown its models may still keep this to itself
            is_mute = error.status in NO_TOKENIZE or (error.is_final and bool(self._token))
            if self._model and is_mute:
                logger.warning("The server's tokenizer cannot be compared (%s).", error)
                return None
            message = f"The server {self._url} cannot be used: {error}. Start it, or use another engine."
            self._breaker.failed(str(error))
            raise (EngineError if error.is_final else UnreachableError)(message) from error
        self._breaker.succeeded()
        return cast(object, answer.get("tokens")) == list(tokens)

    def complain(self, reason: str) -> None:
        """The server answers, but is of no use as it is: it is left alone for a while."""
        self._breaker.failed(reason, is_enough=True)

    def _find_model(self, until: float, cancelled: Callable[[], bool]) -> None:
        """Have the name of a model to ask for. Raises: _FailedError, _CancelledError, _LateError."""
        if self._model:
            return
        answer = self._request("GET", "/v1/models", None, until, cancelled)
        try:
            self._model = str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise _FailedError("it lists no model") from error

    def _one(self, problem: CanvasProblem, canvas: Canvas, until: float, cancelled: Callable[[], bool]) -> CanvasResult:
        begun = time.monotonic()
        if self._is_text:
            return self._chat(problem, canvas, until, cancelled, begun)
        if self._can_pin is not False:
            try:
                answer = self._ask(self._canvas_body(problem, canvas), until, cancelled)
                tokens, logprobs = _read_choice(answer)
                has_effect = _shows_pins(canvas, tokens)
                if self._can_pin or has_effect:
                    self._can_pin = True if any(canvas.pinned) else self._can_pin
                    return self._result(problem, canvas, tokens, logprobs, begun)
                logger.warning("The server %s does not know canvases; it is asked to continue text instead.", self._url)
            except _FailedError as error:
                if error.status not in (400, 422):
                    raise
                logger.warning("The server %s refuses canvases (%s); it is asked to continue text.", self._url, error)
            self._can_pin = False
        return self._continuation(problem, canvas, until, cancelled, begun)

    def _canvas_body(self, problem: CanvasProblem, canvas: Canvas) -> dict[str, Any]:
        length = -(-len(canvas.tokens) // CANVAS_GRID) * CANVAS_GRID
        noise = random.Random(problem.seed)
        seeds = [token if token != NOISE else noise.randrange(self._num_vocab) for token in canvas.tokens]
        seeds += [noise.randrange(self._num_vocab) for _ in range(length - len(seeds))]
        pinned = [int(pin) for pin in canvas.pinned] + [0] * (length - len(canvas.pinned))
        extra = {
            "diffusion_seed_canvas": seeds,
            "diffusion_pinned": pinned,
            "diffusion_canvas_length": length,
            "diffusion_max_steps": problem.max_steps,
        }
        return {**self._body(problem, problem.prompt, length), "vllm_xargs": extra}

    def _body(self, problem: CanvasProblem, prompt: Sequence[int], num_tokens: int) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": num_tokens,
            "temperature": 0.0,
            "seed": problem.seed,
            "stop_token_ids": list(problem.stop),
            "include_stop_str_in_output": True,
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
        }

    def _chat(
        self, problem: CanvasProblem, canvas: Canvas, until: float, cancelled: Callable[[], bool], begun: float
    ) -> CanvasResult:
        """A free canvas as the answer to one turn; one with pinned rows cannot be asked for in words."""
        if any(canvas.pinned):
            return CanvasResult.untouched(canvas)
        body = chat_api.body_of(self._model, problem.prompt, len(canvas.tokens), problem.seed)
        answer = self._ask(body, until, cancelled, chat_api.PATH)
        try:
            tokens, logprobs, is_cut = chat_api.read(answer)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _FailedError(f"its answer is no chat completion ({type(error).__name__})") from error
        result = self._result(problem, canvas, tokens, logprobs, begun)
        return replace(result, is_finished=not is_cut and len(tokens) < len(canvas.tokens))

    def _continuation(
        self, problem: CanvasProblem, canvas: Canvas, until: float, cancelled: Callable[[], bool], begun: float
    ) -> CanvasResult:
        """The free rows up to the next pinned one, as a plain continuation of the prompt and the rows pinned before."""
        lead = next((row for row, pin in enumerate(canvas.pinned) if not pin), len(canvas.tokens))
        last = next((row for row in range(lead, len(canvas.tokens)) if canvas.pinned[row]), len(canvas.tokens))
        if lead == last:
            return CanvasResult.untouched(canvas)
        body = self._body(problem, (*problem.prompt, *canvas.tokens[:lead]), last - lead)
        tokens, logprobs = _read_choice(self._ask(body, until, cancelled))
        tokens, logprobs = tokens[: last - lead], logprobs[: last - lead]
        given = [*canvas.tokens[:lead], *tokens]
        return self._result(problem, canvas, given, [*[0.0] * lead, *logprobs], begun)

    def _result(
        self, problem: CanvasProblem, canvas: Canvas, tokens: Sequence[int], logprobs: Sequence[float], begun: float
    ) -> CanvasResult:
        """The answer as rows of the canvas: pinned rows as given, missing ones as the end of the answer."""
        num_rows = len(canvas.tokens)
        filler = min(self._ends, default=0)
        rows = [*tokens[:num_rows], *[filler] * (num_rows - len(tokens))]
        values = [*logprobs[:num_rows], *[0.0] * (num_rows - len(logprobs))]
        for row, pin in enumerate(canvas.pinned):
            if pin:
                rows[row], values[row] = canvas.tokens[row], 0.0
        end = min(len(tokens), num_rows)
        for row, token in enumerate(rows):
            if not canvas.pinned[row] and (token in self._ends or token in problem.stop):
                # a stop token is a row of the answer, an end token is not
                end = min(end, row + (token not in self._ends))
                break
        return CanvasResult(
            tokens=tuple(rows),
            entropy=tuple(-value for value in values),
            logprob=tuple(values),
            end=end,
            steps=1,
            is_finished=True,
            timings=Timings(denoise_ms=(time.monotonic() - begun) * 1000, num_forwards=1),
        )

    def _ask(
        self, body: dict[str, Any], until: float, cancelled: Callable[[], bool], path: str = "/v1/completions"
    ) -> dict[str, Any]:
        for number in range(MAX_RETRIES + 1):
            try:
                return self._request("POST", path, body, until, cancelled)
            except _FailedError as error:
                wait_s = min(MAX_RETRY_S, error.after_s or RETRY_S * 2**number)
                if not error.can_retry or number == MAX_RETRIES or time.monotonic() + wait_s + MIN_ASK_S >= until:
                    raise
                end = time.monotonic() + wait_s
                while time.monotonic() < end:
                    if cancelled():
                        raise _CancelledError from None
                    time.sleep(POLL_S)
        raise AssertionError("unreachable")

    def _request(
        self, method: str, path: str, body: dict[str, Any] | None, until: float, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """One request on a connection of its own, so that hanging up cancels it on the server as well."""
        left_s = until - time.monotonic()
        if left_s < MIN_ASK_S:
            raise _LateError
        address = self._address
        connection = (
            http.client.HTTPSConnection(
                address.host, address.port, timeout=left_s, context=ssl.create_default_context()
            )
            if address.is_secure
            else http.client.HTTPConnection(address.host, address.port, timeout=left_s)
        )
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        is_done = threading.Event()
        opened: list[socket.socket] = []
        watcher = threading.Thread(
            target=_hang_up_when,
            args=(connection, opened, lambda: cancelled() or time.monotonic() > until, is_done),
            daemon=True,
        )
        watcher.start()
        try:
            connection.connect()
            opened.append(connection.sock)
            connection.request(method, address.path + path, json.dumps(body) if body is not None else None, headers)
            # closed here: the connection lets go of an answer that ends with it
            with connection.getresponse() as response:
                data = response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if cancelled():
                raise _CancelledError from None
            name = type(error).__name__
            if time.monotonic() >= until - 0.001 or isinstance(error, TimeoutError):
                raise _FailedError("it took too long") from error
            if not isinstance(error, (OSError, http.client.HTTPException)):
                # what cannot be sent at all; its own words may hold the token
                raise _FailedError(f"it cannot be asked ({name}); look at its address and {TOKEN_VARIABLE}") from None
            raise _FailedError(f"the connection failed ({name})", can_retry=True) from error
        finally:
            is_done.set()
            connection.close()
        if cancelled():
            raise _CancelledError
        return _decoded(response, data)


def _decoded(response: http.client.HTTPResponse, data: bytes) -> dict[str, Any]:
    status = response.status
    if status in (401, 403):
        raise _FailedError(f"it refuses access (HTTP {status}); set {TOKEN_VARIABLE}", status=status)
    if status != 200:
        after = response.getheader("Retry-After") or ""
        raise _FailedError(
            f"it answers HTTP {status}",
            can_retry=status == 429 or status >= 500,
            status=status,
            after_s=float(after) if after.isdecimal() else 0.0,
        )
    try:
        answer = loads(data)
    except ValueError as error:
        raise _FailedError("its answer breaks off or is not JSON", can_retry=True) from error
    if not isinstance(answer, dict):
        raise _FailedError("its answer is no object")
    return cast(dict[str, Any], answer)


def _hang_up_when(
    connection: http.client.HTTPConnection,
    opened: list[socket.socket],
    is_over: Callable[[], bool],
    is_done: threading.Event,
) -> None:
    """opened: the connection's socket once it is connected. The connection itself lets go of it when an answer begins
    that ends with it."""
    # until it is done: while it still connects there may be nothing to hang up on yet
    while not is_done.wait(POLL_S):
        sock = opened[0] if opened else connection.sock
        if sock is not None and is_over():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _read_choice(answer: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Token ids and natural-log probabilities of the first choice. Raises: _FailedError."""
    try:
        logprobs = answer["choices"][0]["logprobs"]
        tokens = [int(str(token).removeprefix("token_id:")) for token in logprobs["tokens"]]
        values = [0.0 if value is None else float(value) for value in logprobs["token_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise _FailedError(f"its answer has no token ids ({type(error).__name__})") from error
    if len(tokens) != len(values):
        raise _FailedError("its answer has more tokens than probabilities")
    if not all(0 <= token <= MAX_TOKEN_ID for token in tokens) or any(map(math.isnan, values)):
        raise _FailedError("its answer holds what is no token id, or no probability")
    return tokens, values


def _shows_pins(canvas: Canvas, tokens: list[int]) -> bool:
    """Whether the answer has the pinned rows where they were pinned. Without pinned rows nothing can be told."""
    return all(
        row < len(tokens) and tokens[row] == token
        for row, (token, pin) in enumerate(zip(canvas.tokens, canvas.pinned, strict=True))
        if pin
    )


class _Breaker:
    """Leaves a server alone after failures in a row: BREAK_S at first, doubling; then one request tries again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_failures = 0
        self._until = 0.0
        self._reason = ""
        self._has_succeeded = False

    @property
    def trouble(self) -> str:
        """Why the server is left alone, or has never answered; else empty."""
        with self._lock:
            return self._reason if self._num_failures >= BREAK_AFTER or not self._has_succeeded else ""

    def allows(self) -> bool:
        """Whether the server may be asked now."""
        with self._lock:
            return time.monotonic() >= self._until

    def failed(self, reason: str, *, is_enough: bool = False) -> None:
        """A request failed for good. is_enough: as if it had failed so often that the server is left alone."""
        with self._lock:
            self._num_failures = max(self._num_failures + 1, BREAK_AFTER if is_enough else 0)
            self._reason = reason
            if self._num_failures >= BREAK_AFTER:
                wait_s = min(MAX_BREAK_S, BREAK_S * 2 ** (self._num_failures - BREAK_AFTER))
                self._until = time.monotonic() + wait_s
                logger.warning("The remote engine is left alone for %.0f s: %s.", wait_s, reason)

    def succeeded(self) -> None:
        """A request was answered."""
        with self._lock:
            self._num_failures, self._until, self._reason = 0, 0.0, ""
            self._has_succeeded = True
