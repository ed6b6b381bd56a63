"""Timing on a GPU: events around many launches, the median, and a copy to compare with. Nothing here is printed or
kept.

A median of launches that follow each other in one stream, each on another copy of the weights (`copies`): in a step
every weight comes from memory, and one that is read again at once would come from the cache. On a CPU (Triton's
interpreter, tests) the same code runs with a wall clock.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .experts import PackedExperts
from .packing import PackedMatrix

Work = Callable[[], object]
Measure = Callable[[Sequence[Work]], float]
"""Runs the works one after the other, often enough, and returns the milliseconds of one."""

Operand = Tensor | PackedMatrix | PackedExperts

MAX_COPIES = 256


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


def copies(operands: tuple[Operand, ...], cache_bytes: int) -> list[tuple[Operand, ...]]:
    """The operands, and so many copies of them that all together are over twice the cache (256 sets at most): when the
    first is read again it is no longer there. Operands that are larger by themselves are not copied.
    """
    num_bytes = sum(part.nbytes if isinstance(part, Tensor) else part.num_bytes for part in operands)
    num_sets = min(MAX_COPIES, 2 * cache_bytes // num_bytes + 1) if num_bytes else 1
    return [operands, *(copy.deepcopy(operands) for _ in range(num_sets - 1))]


def cache_bytes(device: torch.device) -> int:
    """The size of a GPU's last cache; 0 on a CPU, where nothing is measured in earnest."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).L2_cache_size)  # pyright: ignore[reportUnknownArgumentType]


def as_graph(works: Sequence[Work]) -> Work:
    """The works captured one after the other in a CUDA graph: replaying it leaves no gaps between launches, as in the
    engine's own graph.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    # the operands may still be on their way
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            for work in works:
                work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    return graph.replay


def copy_gbs(device: torch.device, num_bytes: int = 2**30) -> float:
    """Bytes read plus bytes written per second of a device-to-device copy, in GB/s: the ceiling that counts."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    is_cuda = device.type == "cuda"
    return 2 * num_bytes / time_ms(lambda: target.copy_(source), 10, is_cuda=is_cuda) / 1e6
