"""A deterministic engine for tests of infill/ and lsp/: it answers with canned text, through a real tokenizer.

Keeps the KV cache's bookkeeping (longest common prefix), so that tests can count re-prefilled tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import tokenizers
from lacuna_ls.engine.problem import CanvasProblem, CanvasResult, EngineStatus, Timings
from lacuna_ls.infill.tokenizer import NUM_RESERVED, SPECIAL_TOKENS, Tokenizer


def byte_tokenizer() -> Tokenizer:
    """One token per byte: no training, every text round-trips, a newline is a token of its own."""
    vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    vocab |= {f"<unused{i}>": i for i in range(len(SPECIAL_TOKENS), NUM_RESERVED)}
    for char in sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()):
        vocab[char] = len(vocab)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(backend)


class CannedEngine:
    """answer: the text of each canvas, or a function from the problem to it; "" ends at once.

    logprob: of every row, or one value per canvas. scored: the same of a text that is only scored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        answer: str | list[str] | Callable[[CanvasProblem], list[str]],
        logprob: float | list[float] = -0.01,
        scored: Callable[[str], float] = lambda text: -0.01,
    ) -> None:
        self.tokenizer = tokenizer
        self.answer = answer
        self.logprob = logprob
        self.scored = scored
        self.problems: list[CanvasProblem] = []
        self.prefills: list[tuple[int, ...]] = []
        self.cached: tuple[int, ...] = ()
        self.is_closed = False

    def prefill(self, prompt, cancelled=None) -> Timings:
        shared = 0
        while shared < min(len(prompt), len(self.cached)) and prompt[shared] == self.cached[shared]:
            shared += 1
        self.cached = prompt
        self.prefills.append(prompt)
        return Timings(num_prefilled=len(prompt) - shared, num_cached=shared)

    def fill(self, problem, cancelled=None) -> list[CanvasResult]:
        self.problems.append(problem)
        timings = self.prefill(problem.prompt)
        if problem.decoding == "score":
            values = [self.scored(self.tokenizer.decode(canvas.tokens)) for canvas in problem.canvases]
            return [
                CanvasResult(canvas.tokens, (0.0,) * rows, (value,) * rows, rows, 0, True, timings=timings)
                for canvas, value in zip(problem.canvases, values, strict=True)
                for rows in [len(canvas.tokens)]
            ]
        if callable(self.answer):
            texts = self.answer(problem)
        else:
            texts = [self.answer] if isinstance(self.answer, str) else self.answer
        results = []
        for i, canvas in enumerate(problem.canvases):
            num_rows = len(canvas.tokens)
            # a byte a token: each state of an opening has one way on
            typed = [choices[0][0] for choices in problem.opening]
            rows = [*typed, *self.tokenizer.encode(texts[min(i, len(texts) - 1)])][:num_rows]
            # a stop token is a row of the answer
            end = next((at + 1 for at, token in enumerate(rows) if token in problem.stop), len(rows))
            rows += [self.tokenizer.eos] * (num_rows - len(rows))
            value = self.logprob[min(i, len(self.logprob) - 1)] if isinstance(self.logprob, list) else self.logprob
            results.append(
                CanvasResult(
                    tokens=tuple(rows),
                    entropy=(0.0,) * num_rows,
                    logprob=(value,) * num_rows,
                    end=end,
                    steps=1,
                    is_finished=True,
                    is_cancelled=cancelled is not None and cancelled(),
                    timings=timings,
                )
            )
        return results

    def status(self) -> EngineStatus:
        return EngineStatus("closed" if self.is_closed else "ready", "fake", "cpu")

    def close(self) -> None:
        self.is_closed = True
