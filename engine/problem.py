"""The engine's contract: plain frozen values that go in and come out, and the Engine protocol.

Tensor-free on purpose, so that infill/ and lsp/ can build and read these without importing torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

NOISE = -1
"""Token of a free canvas row that starts as uniform random noise."""

Cancelled = Callable[[], bool]
"""Polled after every forward; returns True once the caller has lost interest."""

Decoding = Literal["denoise", "verify", "autoregressive", "beam", "score"]

Opening = tuple[tuple[tuple[int, int], ...], ...]
"""What the first rows of an answer may be: opening[state] holds (token, following state), row 0 is in state 0, and
state len(opening) is free. So a word whose beginning is typed can be tokenised anew, in one token or in several."""


def opening_after(opening: Opening, state: int, token: int) -> int:
    """The state behind a token of an answer; a token that is no choice there (a pinned one may be any) ends it."""
    return next((following for each, following in opening[state] if each == token), len(opening))


@dataclass(frozen=True, slots=True)
class Canvas:
    """The rows denoised together.

    tokens: L token ids; a free row may hold NOISE, or an id that it warm-starts from.
    pinned: L flags; a pinned row is re-imposed at every step and never renoised.
    """

    tokens: tuple[int, ...]
    pinned: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.pinned):
            raise ValueError(f"canvas has {len(self.tokens)} tokens but {len(self.pinned)} pinned flags")
        if not self.tokens:
            raise ValueError("a canvas needs at least one row")
        if any(pin and token < 0 for token, pin in zip(self.tokens, self.pinned, strict=True)):
            raise ValueError("a pinned row needs a token id, not NOISE")

    @classmethod
    def free(cls, num_rows: int) -> Canvas:
        """A canvas of num_rows free rows that all start as noise."""
        return cls((NOISE,) * num_rows, (False,) * num_rows)


@dataclass(frozen=True, slots=True)
class CanvasProblem:
    """Several canvases (candidate gap lengths, alternatives) that share one prompt and one sweep over the weights.

    prompt: the token ids that the encoder has, or will have, in its KV cache.
    banned: token ids that must not be produced in a free row (specials other than the end token, newlines for a line).
    opening: what the first rows of every canvas may be, () for anything. Diffusion decides all rows at once: it is
        given the tokens that lead from state 0 to the free state. "score" takes no notice.
    floor: an answer whose summed log-probability falls below this is given up, as nobody would be shown it; only causal
        decoding can tell before the end. None: every answer is finished.
    stop: token ids that end a middle; the end token always does. A stop token is part of the result.
    deadline_ms: time allowed from the call of fill; the engine returns what it has when it is over. None: no limit.
    decoding: "denoise" is diffusion alone; "verify" drafts and verifies with the causal encoder of the same weights,
        which gives the greedy autoregressive answer in fewer forwards; "autoregressive" is the slow truth of that;
        "beam" searches for the likeliest whole answers (beam.py): canvas i gets the i-th, so they must be alike, and
        the search goes on until num_certain of them are the likeliest there are;
        "score" keeps the tokens as they are given (no NOISE) and only says how likely the encoder finds each.
    """

    prompt: tuple[int, ...]
    canvases: tuple[Canvas, ...]
    max_steps: int = 48
    deadline_ms: float | None = None
    seed: int = 0
    decoding: Decoding = "denoise"
    banned: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    opening: Opening = ()
    num_certain: int = 1
    floor: float | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("a problem needs a prompt of at least one token")
        if not self.canvases:
            raise ValueError("a problem needs at least one canvas")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")
        if self.num_certain < 1:
            raise ValueError(f"num_certain must be at least 1, got {self.num_certain}")
        if self.decoding == "score" and any(NOISE in canvas.tokens for canvas in self.canvases):
            raise ValueError("only canvases without NOISE can be scored")
        if self.decoding == "beam" and any(canvas != self.canvases[0] for canvas in self.canvases):
            raise ValueError("a beam search has one canvas, as many times as answers are wanted")
        for state, choices in enumerate(self.opening):
            if not choices or any(not state < following <= len(self.opening) for _, following in choices):
                raise ValueError(f"state {state} of the opening leads nowhere, or back")


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one fill went, in milliseconds, and how much work it was."""

    prefill_ms: float = 0.0
    denoise_ms: float = 0.0
    verify_ms: float = 0.0
    num_prefilled: int = 0
    """Prompt tokens that were not in the KV cache."""
    num_cached: int = 0
    num_forwards: int = 0
    """Decoder and encoder forwards after the prefill."""


@dataclass(frozen=True, slots=True)
class CanvasResult:
    """What became of one canvas.

    tokens: L token ids (argmax of the last step; pinned rows as given). entropy: L values in nats, at the temperature
        of the last step (1 for the encoder).
    logprob: L natural-log probabilities of the tokens under the model that chose them, at temperature 1: the decoder
        for "denoise", else the causal encoder (0 for pinned rows).
    end: number of rows before the first end or stop token (a stop token counts as a row), or L when there is none.
    """

    tokens: tuple[int, ...]
    entropy: tuple[float, ...]
    logprob: tuple[float, ...]
    end: int
    steps: int
    is_finished: bool
    """False when the deadline, the step limit or a cancel ended the work before the stop rule did."""
    is_cancelled: bool = False
    timings: Timings = field(default_factory=Timings)
    is_given_up: bool = False
    """Its log-probability fell below the problem's floor."""

    @classmethod
    def untouched(cls, canvas: Canvas, is_cancelled: bool = False, timings: Timings | None = None) -> CanvasResult:
        """Of a canvas that no forward has seen."""
        tokens, zeros = tuple(max(0, token) for token in canvas.tokens), (0.0,) * len(canvas.tokens)
        return cls(tokens, zeros, zeros, 0, 0, False, is_cancelled, timings or Timings())


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot of the engine's life. state: what it does now; detail: one line for people."""

    state: Literal["unloaded", "loading", "ready", "busy", "failed", "closed"]
    model: str = ""
    device: str = ""
    detail: str = ""
    weights_bytes: int = 0
    kv_bytes: int = 0


class Engine(Protocol):
    """What every engine does (ARCHITECTURE.md lists them). Calls come from one thread at a time."""

    def prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None = None) -> Timings:
        """Make the KV cache hold prompt, re-using the longest common prefix with what it held."""
        ...

    def fill(self, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        """Denoise every canvas of the problem. One result per canvas, in order; cancelled is a value, not an error."""
        ...

    def status(self) -> EngineStatus: ...

    def close(self) -> None:
        """Give the memory back. The engine cannot be used afterwards."""
        ...


@runtime_checkable
class Loadable(Protocol):
    """An engine whose model comes and goes: ManagedEngine, and SharedEngine over it."""

    def load(self) -> None:
        """Load the model now, and forget an earlier failure. Raises: LacunaError's kinds."""
        ...

    def unload(self) -> None:
        """Give the model's memory back; the next fill loads it again."""
        ...
