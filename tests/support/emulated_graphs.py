"""CUDA graphs on a CPU: what a captured body did is written down operation by operation, and replayed without Python.

    with emulated_graphs() as card:
        engine = PackedEngine(model, ...)       captures and replays as on a GPU, on the CPU's tensors
        assert card.num_replayed

A real graph is as blind: it knows the addresses that the body read and wrote when it was captured, nothing of the
Python around it. So a body that binds a buffer anew, uses a number of Python's that changes, or reads what nobody has
written gives other answers here than when it runs itself. To that end

- whatever a body allocates is poisoned after the capture and after every replay, as if other graphs of the same pool
  had run: only the buffers that were there before carry anything from one replay to the next;
- a branch on a second stream runs as late as its edges allow (run eagerly it is the first): an edge that is missing
  makes somebody read poison;
- a body that waits for the device, or copies from the host, is refused.

The operations of kernels/dispatch.py are whole nodes, as their launches are on a GPU: their truths may wait. torch.cuda
is replaced as far as engine/cuda_graph.py uses it, so its StepGraph and Fork are the product's own. What is not
emulated: a capture runs the body once more (a real one only writes it down), and the memory of freed storage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import torch
from lacuna_ls.engine import pipeline
from lacuna_ls.engine.cuda_graph import StepGraph
from lacuna_ls.kernels import dispatch as ops
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda")


class NoWaiting(TorchDispatchMode):
    """Fails where a program would wait for the device, which also ends the capture of a graph."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique", "repeat_interleave.Tensor")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        assert not name.startswith(self.WAITING), f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class Stream:
    """torch.cuda.Stream: a name for the graph to order its nodes by."""

    def __init__(self, card: Card) -> None:
        self.device, self._card = CUDA, card

    def wait_stream(self, other: Stream) -> None:
        if self._card.recorder is not None:
            self._card.recorder.graph.wait(self, other)


@dataclasses.dataclass
class Node:
    """One operation of a captured body, on the tensors that it had then."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    is_in_place: bool

    def __post_init__(self) -> None:
        given = {_address(tensor) for tensor in tensors((self.args, self.kwargs))}
        self.made = [_address(tensor) not in given for tensor in tensors(self.out)]
        """By result: whether it is memory of its own, and not a view of what was given."""

    def run(self) -> None:
        if not self.is_in_place and not any(self.made):
            # a view is no work, and shows what its base holds now
            return
        for new, old, is_made in zip(tensors(self.call(*self.args, **self.kwargs)), tensors(self.out), self.made):
            if is_made:
                old.copy_(new)

    def poison(self) -> None:
        for tensor, is_made in zip(tensors(self.out), self.made):
            if is_made:
                tensor.fill_(_poison(tensor.dtype))


@dataclasses.dataclass
class Edge:
    """Until here: the first `num` nodes and edges of a stream."""

    stream: Stream
    num: int


class Graph:
    """torch.cuda.CUDAGraph."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._queues: dict[Stream, list[Node | Edge]] = {}
        self._nodes: list[Node] = []
        """In the order of a replay."""

    def add(self, node: Node) -> None:
        stream = self._card.streams[-1]
        if stream not in self._queues:
            raise RuntimeError("work in a capture on a stream that does not wait for the captured one")
        self._queues[stream].append(node)

    def wait(self, waiting: Stream, other: Stream) -> None:
        if other not in self._queues:
            raise RuntimeError("a stream in a capture waits for one that is not in it")
        self._queues.setdefault(waiting, []).append(Edge(other, len(self._queues[other])))

    def begin(self, stream: Stream) -> None:
        self._queues[stream] = []

    def end(self, stream: Stream) -> None:
        """Find the order, and take the memory away from what the capture computed."""
        done = dict.fromkeys(self._queues, 0)
        self._run(stream, len(self._queues[stream]), done)
        if any(done[each] < len(queue) for each, queue in self._queues.items()):
            raise RuntimeError("the capture ends with a branch that nobody joined")
        self._poison()

    def _run(self, stream: Stream, num: int, done: dict[Stream, int]) -> None:
        """The first num of a stream's, and before each edge what it waits for: nobody runs before he is waited for."""
        while done[stream] < num:
            item = self._queues[stream][done[stream]]
            done[stream] += 1
            if isinstance(item, Node):
                self._nodes.append(item)
            else:
                self._run(item.stream, item.num, done)

    def replay(self) -> None:
        self._card.num_replayed += 1
        for node in self._nodes:
            node.run()
        self._poison()

    def _poison(self) -> None:
        for node in self._nodes:
            node.poison()


class Recorder(NoWaiting):
    """Writes a body into a graph while it runs."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self._is_inside = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._is_inside:
            return func(*args, **kwargs)
        # a single number goes along with the launch
        is_copied = func is torch.ops.aten.lift_fresh.default and args[0].dim() > 0
        assert not is_copied, "a tensor of Python's numbers is a copy from the host, which waits for the device"
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.graph.add(Node(func, args, kwargs, out, func._schema.is_mutable))
        return out

    def whole(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operation of kernels/dispatch.py as one node."""
        self._is_inside = True
        try:
            out = call(*args, **kwargs)
        finally:
            self._is_inside = False
        self.graph.add(Node(call, args, kwargs, out, is_in_place=False))
        return out


class Pool:
    """What torch.cuda.graph_pool_handle gives. Torch takes no graph into a pool whose graphs are all gone."""

    def __init__(self) -> None:
        self._graphs: weakref.WeakSet[Graph] = weakref.WeakSet()
        self._was_used = False

    def take(self, graph: Graph) -> None:
        if self._was_used and not self._graphs:
            raise RuntimeError("the graphs of this pool are all gone")
        self._graphs.add(graph)
        self._was_used = True


class Card:
    """torch.cuda, as far as a capture needs it, and what happened on it."""

    def __init__(self) -> None:
        self.streams = [Stream(self)]
        """Those that were made current, the latest last."""
        self.recorder: Recorder | None = None
        self.num_captured = self.num_replayed = 0

    @contextlib.contextmanager
    def use(self, stream: Stream) -> Generator[None]:
        self.streams.append(stream)
        try:
            yield
        finally:
            self.streams.pop()

    @contextlib.contextmanager
    def capture(self, graph: Graph, pool: Pool | None = None) -> Generator[None]:
        assert self.recorder is None, "a capture inside of a capture"
        if pool is not None:
            pool.take(graph)
        stream = Stream(self)
        graph.begin(stream)
        self.recorder = Recorder(graph)
        try:
            with self.use(stream), self.recorder:
                yield
        finally:
            self.recorder = None
        graph.end(stream)
        self.num_captured += 1


class CapturedOnCpu(StepGraph):
    """A StepGraph that takes the CPU for a GPU."""

    def __init__(
        self, body: Callable[[], None], device: torch.device, pool: Any = None, is_eager: bool = False
    ) -> None:
        super().__init__(body, CUDA, pool, is_eager)


@contextlib.contextmanager
def emulated_graphs() -> Generator[Card]:
    """Pipelines made inside capture their steps, unless their options say "eager"; also `Fork(torch.device("cuda"))`
    and `CapturedOnCpu` work.
    """
    card = Card()
    make = pipeline.Pipeline.__init__

    def capturing(self: pipeline.Pipeline, *args: Any, **more: Any) -> None:
        make(self, *args, **more)
        self._is_captured = self.options.graph == "auto"
        self._memory = self._new_memory()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Stream", lambda device=None: Stream(card))
        patch.setattr(torch.cuda, "current_stream", lambda device=None: card.streams[-1])
        patch.setattr(torch.cuda, "stream", card.use)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(card))
        patch.setattr(torch.cuda, "graph", card.capture)
        patch.setattr(torch.cuda, "graph_pool_handle", Pool)
        patch.setattr(pipeline, "StepGraph", CapturedOnCpu)
        patch.setattr(pipeline.Pipeline, "__init__", capturing)
        for name, operation in operations():
            patch.setattr(ops, name, _whole(card, operation))
        yield card


def operations() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Those of kernels/dispatch.py: what takes a path as an option."""
    for name, function in list(vars(ops).items()):
        if inspect.isfunction(function):
            path = inspect.signature(function).parameters.get("path")
            if path is not None and path.kind is inspect.Parameter.KEYWORD_ONLY:
                yield name, function


def _whole(card: Card, operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if card.recorder is None:
            return operation(*args, **kwargs)
        return card.recorder.whole(operation, args, kwargs)

    return call


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a value, those of dataclasses too, in a fixed order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return tensors(list(value.values()))
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in tensors(each)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tensors([getattr(value, field.name) for field in dataclasses.fields(value)])
    return []


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _poison(dtype: torch.dtype) -> float | int | bool:
    """What nobody means. An integer that is no index of anything."""
    if dtype == torch.bool:
        return True
    return float("nan") if dtype.is_floating_point else torch.iinfo(dtype).max
