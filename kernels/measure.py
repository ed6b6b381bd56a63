"""Timing on a GPU: events around many launches, the median, and a copy to compare with. Nothing here is printed or
kept.

A median of launches that follow each other in one stream, each on other weights where the caller rotates them: what
fits the cache would measure the cache. On a CPU (Triton's interpreter, tests) the same code runs with a wall clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

Work = Callable[[], object]
Measure = Callable[[Work], float]
"""Runs the work often enough and returns milliseconds."""


def time_ms(work: Work, repeats: int = 30, warm_up: int = 3, is_cuda: bool = True) -> float:
    """The median time of one call in milliseconds, without what the host takes to launch it."""
    for _ in range(warm_up):
        work()
    if not is_cuda:
        times: list[float] = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)
    torch.cuda.synchronize()
    pairs = [(_event(), _event()) for _ in range(repeats)]
    for before, after in pairs:
        before.record()
        work()
        after.record()
    torch.cuda.synchronize()
    return statistics.median(float(before.elapsed_time(after)) for before, after in pairs)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def as_graph(work: Work) -> Work:
    """The work captured in a CUDA graph: replaying it leaves no gaps between launches, as in the engine's own graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def copy_gbs(device: torch.device, num_bytes: int = 2**30) -> float:
    """Bytes read plus bytes written per second of a device-to-device copy, in GB/s: the ceiling that counts."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    is_cuda = device.type == "cuda"
    return 2 * num_bytes / time_ms(lambda: target.copy_(source), 10, is_cuda=is_cuda) / 1e6
