"""A quantised model in the plain model's shape, for training adapters beside it: weights stay packed and never move.

A product dequantises its matrix, multiplies and forgets it, and does so again going back, so that no dequantised copy
outlives one layer. The forward is DiffusionGemma's own; gradients go through to the rows, not to the weights.
Source: Dettmers et al., "QLoRA" (arXiv 2305.14314), section 3, in the formats of kernels/packing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.experts import PackedExperts
from ..kernels.packing import PANEL, PackedMatrix, unpack
from .config import ModelConfig
from .formats import Part, Scheme, stream
from .model import DiffusionGemma, Experts
from .packed import default_scheme, is_packed, read_packed

Weight = Callable[[torch.dtype], Tensor]
"""Dequantises a matrix [N, K] in a dtype."""


class _Product(torch.autograd.Function):
    """x [..., K] times a packed matrix -> [..., N]; the matrix is made anew in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Weight) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.weight(grads[0].dtype), None


def product(x: Tensor, weight: Weight) -> Tensor:
    """F.linear(x, weight) that keeps no weight for the backward."""
    return cast(Tensor, cast(Any, _Product).apply(x, weight))


class FrozenLinear(nn.Module):
    """Rows [first, first + out_features) of a packed matrix, as a linear layer."""

    def __init__(self, matrix: PackedMatrix, first: int, out_features: int) -> None:
        super().__init__()
        self.matrix, self.first = matrix, first
        self.in_features, self.out_features = matrix.num_cols, out_features

    def forward(self, x: Tensor) -> Tensor:
        return product(x, lambda dtype: unpack(self.matrix, 0, dtype)[self.first : self.first + self.out_features])


class FrozenExperts(Experts):
    """The gathered form of Experts over packed stacks."""

    def __init__(self, config: ModelConfig, packed: PackedExperts) -> None:
        nn.Module.__init__(self)
        self.num_experts, self.width, self.is_dense = config.num_experts, config.expert_size, False
        self.packed = packed

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for expert in cast(list[int], torch.unique(ids).tolist()):
            row, place = torch.where(ids == expert)
            # gate and up alternate in panels of rows (kernels/experts.py)
            panels = product(x[row], partial(unpack, self.packed.gate_up, expert)).view(len(row), -1, 2, PANEL)
            gate, up = (panels[:, :, i].flatten(1)[:, : self.width] for i in (0, 1))
            y = product(F.gelu(gate, approximate="tanh") * up, partial(unpack, self.packed.down, expert))
            out = out.index_add(0, row, (y * weights[row, place, None]).to(out.dtype))
        return out


def load_frozen(source: Path, device: str = "cpu", scheme: Scheme | None = None) -> DiffusionGemma:
    """A folder that PackedEngine would serve, quantised alike. scheme: as in load_packed. Raises: as load_packed."""
    config = ModelConfig.load(source / "config.json")
    if is_packed(source):
        return frozen_model(config, read_packed(source, config, device))
    return frozen_model(config, stream(source, config, scheme or default_scheme(source), device))


def frozen_model(config: ModelConfig, pieces: Iterable[tuple[Part, PackedMatrix | Tensor]]) -> DiffusionGemma:
    """The model of a stream of parts. Raises: ValueError where the stream leaves a weight out."""
    with torch.device("meta"):
        model = DiffusionGemma(config)
    modules: dict[str, nn.Module] = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    plain: dict[str, Tensor] = {}
    stacks: dict[str, PackedMatrix] = {}
    for part, weight in pieces:
        if isinstance(weight, Tensor):
            plain[part.name] = weight
        elif part.kind != "matrix":
            stacks[part.name] = weight
        else:
            first = 0
            for name, shape in zip(part.sources, part.shapes, strict=True):
                owner, _, leaf = name.removesuffix(".weight").rpartition(".")
                setattr(modules[owner], leaf, FrozenLinear(weight, first, shape[0]))
                first += shape[0]
    for i, layer in enumerate(model.blocks()):
        at = f"layers.{i}.experts"
        layer.experts = FrozenExperts(config, PackedExperts(stacks[f"{at}.gate_up"], stacks[f"{at}.down"]))
    model.load_state_dict(plain, strict=False, assign=True)
    missing = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if missing:
        raise ValueError(f"the stream holds no {missing[0]}, nor {len(missing) - 1} more")
    return model.requires_grad_(False).eval()
