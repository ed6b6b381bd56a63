"""The engine at the released model's sizes, on a card that is all sizes and no memory.

torch's meta device stands for the GPU. What runs there is the product's own code down to each launch of a Triton
kernel, which is written down instead of run: shapes, tables of tiles, splits and workspaces are those of the card.
Tensors of the host are real, and no operation may mix them with the card's: torch on a GPU would refuse to, or wait.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Hashable
from pathlib import Path
from typing import Any

import kernel_gate
import pytest
import torch
import triton_offline
from emulated_graphs import operations, tensors
from lacuna_ls.engine import pipeline
from lacuna_ls.engine.config import ModelConfig
from lacuna_ls.engine.cuda_graph import Reports
from lacuna_ls.engine.formats import Scheme, parts
from lacuna_ls.engine.measure import _random_part
from lacuna_ls.engine.packed_engine import FULL_SIZE_POLICY
from lacuna_ls.engine.packed_model import PackedModel
from lacuna_ls.engine.plan import KV_TOKENS
from lacuna_ls.engine.slots import SlotPool
from lacuna_ls.kernels import attention_triton, dispatch, packed_triton, tiles
from lacuna_ls.kernels.vocab import VocabStats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

META = torch.device("meta")
RELEASED = Path(__file__).resolve().parents[2] / "bench" / "diffusiongemma_26b.json"
MAX_GRID = (2**31 - 1, 65535, 65535)

WAITING = ("experts", "expert_slots", "vocab_stats")
"""Operations whose truth asks the device for numbers."""


class OneDevice(TorchDispatchMode):
    """Fails where tensors of the host and of the card meet in one operation that is no copy to the card."""

    COPIES = ("copy_", "_to_copy", "to.")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        # a single number of the host goes along with a launch
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()]
        if not name.startswith(self.COPIES) and len({x.device for x in given}) > 1:
            raise AssertionError(f"{name} of " + ", ".join(f"{tuple(x.shape)} on {x.device}" for x in given))
        return func(*args, **(kwargs or {}))


@dataclasses.dataclass(frozen=True)
class Launch:
    """A kernel, and what it was given."""

    kernel: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def key(self) -> Hashable:
        """What Triton compiles it for: dtypes, alignment, multiples of 16, and whether a number is 1. Launches with
        one key are one program of the machine.
        """
        kinds = zip(self.kernel.params, self.args)
        return self.kernel.__name__, tuple(_kind(p, x) for p, x in kinds), tuple(sorted(self.kwargs.items()))

    def compiled(self, arch: int) -> triton_offline.Report:
        return triton_offline.compile_launch(self.kernel, self.args, self.kwargs, arch)


def _kind(parameter: Any, value: object) -> Hashable:
    if isinstance(value, Tensor):
        return value.dtype, value.data_ptr() % 16 == 0
    if isinstance(value, int) and not isinstance(value, bool):
        is_wide = not -(2**31) <= value < 2**31
        return is_wide if parameter.do_not_specialize else (is_wide, value == 1, value % 16 == 0)
    return type(value).__name__ if isinstance(value, float) else value


class NoReports(Reports):
    """The host's side of a sweep over tensors that hold nothing: four steps, all zeros."""

    def push(self, report: Tensor) -> None:
        assert report.device == META
        self._waiting.append((torch.zeros(report.shape), None))

    def is_done(self) -> bool:
        return len(self._waiting) >= 4

    def latest(self) -> Tensor:
        return self._waiting[-1][0]


@contextlib.contextmanager
def sizes_of_a_card(arch: int) -> Generator[list[Launch]]:
    """Inside, the meta device is the card of an architecture. -> the launches so far."""
    launches: list[Launch] = []
    choose = dispatch.choose

    def record(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> None:
        assert not warmup
        for x in args:
            assert not isinstance(x, Tensor) or x.device == META, f"{kernel.__name__} is given a tensor of the host"
        assert all(size <= limit for size, limit in zip(grid, MAX_GRID)), f"{kernel.__name__} on a grid of {grid}"
        launches.append(Launch(kernel, args, kwargs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "choose", lambda x, path: path or ("triton" if x.is_meta else choose(x, path)))
        patch.setattr(tiles, "table_of", lambda device: tiles.table_for(*kernel_gate.CARDS[arch]))
        patch.setattr(packed_triton, "has_wgmma", lambda device: arch == 90)
        patch.setattr(attention_triton, "_num_processors", lambda device: triton_offline.ARCH[arch]["sms"])
        patch.setattr(JITFunction, "run", record)
        patch.setattr(pipeline, "Reports", NoReports)
        with OneDevice():
            yield launches


@contextlib.contextmanager
def beside_truths() -> Generator[None]:
    """Inside of `sizes_of_a_card`: a launch takes its operands at their word; torch, which the truths are written in,
    looks at all shapes.
    """

    def beside(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            out = operation(*args, **kwargs)
            wanted = operation(*args, **{**kwargs, "path": "reference"})
            for ours, theirs in zip(tensors(out), tensors(wanted), strict=True):
                if name == "linear_parts":
                    # as many parts, and as wide, as the tile says
                    ours, theirs = ours[0].float(), theirs[0].float()
                assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name
            return out

        return call

    def vocab_stats(hidden: Tensor, table: Tensor, **more: Any) -> VocabStats:
        R, V = len(hidden), len(table)
        for name, shape, dtype in (
            ("temperature", (R,), torch.float32),
            ("row_ids", (R,), torch.int64),
            ("noise", (2,), torch.int64),
            ("is_banned", (V,), torch.bool),
        ):
            assert (more[name].shape, more[name].dtype) == (shape, dtype), name
        return summed_up(hidden, table, **more)

    summed_up = dispatch.vocab_stats
    with pytest.MonkeyPatch.context() as patch:
        for name, operation in operations():
            if name not in WAITING:
                patch.setattr(dispatch, name, beside(name, operation))
        patch.setattr(dispatch, "vocab_stats", vocab_stats)
        yield


def released_model(scheme: Scheme | None = None, is_whole: bool = True) -> PackedModel:
    """On the meta device. is_whole: else a layer of each kind."""
    config, scheme = ModelConfig.load(RELEASED), scheme or Scheme()
    if not is_whole:
        kinds = {layer.kind: layer for layer in config.layers}
        config = dataclasses.replace(config, layers=tuple(kinds.values()))
    return PackedModel(config, {part.name: _random_part(part, scheme, META, None) for part in parts(config, scheme)})


@torch.inference_mode()
def run_every_size(model: PackedModel) -> None:
    """Forwards of as many rows as the engine ever asks for: canvases, prompts, both together, and branches."""
    steps = pipeline.Pipeline(model, FULL_SIZE_POLICY)
    slot = SlotPool(model.config, META, model.dtype, KV_TOKENS).take((1,), 512)
    for C in pipeline.PROMPT_BUCKETS:
        steps.encode(range(C), slot)
    for B, L in (*((1, L) for L in pipeline.BUCKETS), (2, 64), (8, 32)):
        sweep, step = steps.prepare(slot, B, L)
        step.replay()
        for C in pipeline.PROMPT_BUCKETS:
            _, first_step = steps.prepare_lead(sweep, C, slot)
            first_step.replay()
    for B, L in ((1, 1), (4, 16)):
        model.branch(torch.zeros(B, L, dtype=torch.long, device=META), slot)


def new_to_the_gate(launches: list[Launch], arch: int) -> list[Launch]:
    """One of each key that kernel_gate.gate does not compile already."""
    caught = (kernel_gate.captured(launcher, arch) for _, _, launcher in kernel_gate.configurations(arch))
    known = {Launch(*each).key for launch in caught for each in launch}
    return [launch for key, launch in {launch.key: launch for launch in launches}.items() if key not in known]
