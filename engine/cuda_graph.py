"""A whole denoise step as one CUDA graph, with an eager twin that runs the same body where there is no GPU.

A body is a function without arguments and results that works on static buffers only: the caller copies its input in,
replays, and reads its output from the buffers. `Reports` tells the host, a few steps late and without making the device
wait, what came out and whether there is anything left to do. Knows no model.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

WARM_UPS = 2
"""Runs before the capture: Triton compiles, cuBLAS takes its workspace."""


class StepGraph:
    """One body, captured on its first replay. On a CPU, or with is_eager, every replay runs the body itself."""

    def __init__(
        self, body: Callable[[], None], device: torch.device, pool: Any = None, is_eager: bool = False
    ) -> None:
        """pool: a memory pool shared by graphs that never run at the same time."""
        self._body, self._pool = body, pool
        self._is_eager = is_eager or device.type != "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def is_captured(self) -> bool:
        return self._graph is not None

    def prepare(self) -> None:
        """Warm up and capture. The body runs, on whatever the buffers hold: call it before the input is copied in."""
        if self._is_eager or self._graph is not None:
            return
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._body()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._body()
        self._graph = graph

    def replay(self) -> None:
        if self._is_eager:
            self._body()
            return
        if self._graph is None:
            raise ValueError("a graph is prepared before its input is copied in, and replayed after")
        self._graph.replay()


class Fork:
    """A second stream on the device for work that needs nothing of what goes on meanwhile. On a CPU: one after the
    other.

    Both edges are events, which a graph captures as edges. What is allocated inside of `branch` may be read after
    `join`, and is free for the next branch only, which starts after whatever the first stream was told before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def branch(self) -> Generator[None]:
        """What is launched inside starts when all that was launched before has ended."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """What is launched from here on starts when the branch has ended."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


class GraphCache(Generic[T]):
    """What was built for a key, the least recently used dropped first: every graph holds memory on the device."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        while len(self._held) >= self._limit:
            self._held.popitem(last=False)
        self._held[key] = build()
        return self._held[key]

    def values(self) -> list[T]:
        return list(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        self._held.clear()


class Reports:
    """What the steps say, read by the host `lag` steps later. A report is fp32, and its first value tells the end.

    With lag 1 the next step is queued before the report of this one is looked at, so the device never waits for the
    host; a step that runs after the end must then change nothing, which the pipeline sees to. The end is known from
    its own step's report: nobody waits for the step that came too many.
    """

    def __init__(self, device: torch.device, lag: int) -> None:
        self._is_cuda, self._lag = device.type == "cuda", lag
        self._waiting: list[tuple[Tensor, Any]] = []
        self._read: Tensor | None = None

    def push(self, report: Tensor) -> None:
        """report: on the device, of the step that was queued last."""
        if not self._is_cuda:
            self._waiting.append((report.clone(), None))
            return
        host = torch.empty(report.shape, dtype=report.dtype, pin_memory=True)
        host.copy_(report, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._waiting.append((host, event))

    def is_done(self) -> bool:
        """Whether the step `lag` before the last one was the end. Waits for that step only."""
        if len(self._waiting) <= self._lag:
            return False
        return bool(self._next()[0])

    def latest(self) -> Tensor:
        """The report that told the end, or else the last one, waited for. On the host."""
        while self._waiting and not (self._read is not None and bool(self._read[0])):
            self._next()
        assert self._read is not None, "asked before any step"
        return self._read

    def _next(self) -> Tensor:
        report, event = self._waiting.pop(0)
        if event is not None:
            event.synchronize()
        self._read = report
        return report
