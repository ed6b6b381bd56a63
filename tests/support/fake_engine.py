"""An engine without a model, for tests of what stands between processes. A prompt's first token tells it what to do.

1 answers at once; 2 works 300 ms, polling the cancel flag every 2 ms; 3 raises an EngineError; 4 raises a bug.
The answer's tokens are the canvas's, NOISE replaced by 7.
"""

from __future__ import annotations

import os
import time

from lacuna_ls.engine.errors import EngineError
from lacuna_ls.engine.problem import Cancelled, CanvasProblem, CanvasResult, EngineStatus, Timings


class FakeEngine:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.num_inside = 0
        self.most_inside = 0
        self.is_closed = False
        self.is_loaded = True

    def load(self) -> None:
        self.calls.append("load")
        self.is_loaded = True

    def unload(self) -> None:
        self.calls.append("unload")
        self.is_loaded = False

    def prefill(self, prompt: tuple[int, ...], cancelled: Cancelled | None = None) -> Timings:
        self.calls.append("prefill")
        return Timings(prefill_ms=1.0, num_prefilled=len(prompt))

    def fill(self, problem: CanvasProblem, cancelled: Cancelled | None = None) -> list[CanvasResult]:
        self.calls.append("fill")
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        try:
            return self._fill(problem, cancelled)
        finally:
            self.num_inside -= 1

    def _fill(self, problem: CanvasProblem, cancelled: Cancelled | None) -> list[CanvasResult]:
        kind = problem.prompt[0]
        is_cancelled = False
        if kind == 2:
            until = time.monotonic() + 0.3
            while time.monotonic() < until and not is_cancelled:
                time.sleep(0.002)
                is_cancelled = cancelled is not None and cancelled()
        if kind == 3:
            raise EngineError("The fake was told to fail. Tell it something else.")
        if kind == 4:
            raise ZeroDivisionError("a bug")
        if is_cancelled:
            self.calls.append("cancelled")
        return [
            CanvasResult(
                tokens=tuple(7 if token < 0 else token for token in canvas.tokens),
                entropy=(0.5,) * len(canvas.tokens),
                logprob=(-0.25,) * len(canvas.tokens),
                end=len(canvas.tokens),
                steps=os.getpid(),
                is_finished=not is_cancelled,
                is_cancelled=is_cancelled,
                timings=Timings(denoise_ms=2.0, num_forwards=3),
            )
            for canvas in problem.canvases
        ]

    def status(self) -> EngineStatus:
        return EngineStatus("ready" if self.is_loaded else "unloaded", "fake", "cpu", weights_bytes=5)

    def close(self) -> None:
        self.is_closed = True
