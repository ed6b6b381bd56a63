"""Low-rank factors beside frozen weights, while they are trained: which weights get them, and what a forward becomes.

Afterwards only the factors are kept (engine/adapter.py), and merged when a model is loaded. Knows no data and no loss.
Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), with scale 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.model import DiffusionGemma

TARGETS = re.compile(r"(layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))|self_conditioning\.(gate|up|down))_proj")
"""The modules that get factors: attention and dense MLPs. Embedding, routers and experts are never changed."""


class LowRankLinear(nn.Module):
    """base(x) + x down^T up^T. base: anything that maps [..., K] to [..., N].

    The factors, fp32: up [N, r], zeros at first, so that nothing changes; down [r, K].
    """

    def __init__(self, base: nn.Module, num_out: int, num_in: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.up = nn.Parameter(torch.zeros(num_out, rank))
        self.down = nn.Parameter(torch.randn(rank, num_in) * num_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))


def attach(model: DiffusionGemma, rank: int, seed: int = 0) -> dict[str, LowRankLinear]:
    """Freeze the model and put factors beside the TARGETS' weights, in place. Returns them by the weight's name."""
    model.requires_grad_(False)
    torch.manual_seed(seed)
    attached: dict[str, LowRankLinear] = {}
    modules: dict[str, nn.Module] = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    for name, module in modules.items():
        if TARGETS.fullmatch(name):
            num_out, num_in = cast(int, module.out_features), cast(int, module.in_features)
            low = LowRankLinear(module, num_out, num_in, rank).to(model.device)
            owner, _, leaf = name.rpartition(".")
            setattr(modules[owner], leaf, low)
            attached[f"{name}.weight"] = low
    return attached


def factors(attached: dict[str, LowRankLinear]) -> dict[str, tuple[Tensor, Tensor]]:
    """A copy of the factors as they stand, on the CPU: up and down by the weight's name."""
    return {name: (low.up.detach().cpu().clone(), low.down.detach().cpu().clone()) for name, low in attached.items()}


def put(attached: dict[str, LowRankLinear], known: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Let the modules have these factors, of any rank, in place of their own.

    Raises: ValueError where they are not of the same weights.
    """
    if attached.keys() != known.keys():
        raise ValueError(f"factors of other weights: {sorted(attached.keys() ^ known.keys())}")
    for name, low in attached.items():
        up, down = known[name]
        if (up.shape[0], down.shape[1]) != (low.up.shape[0], low.down.shape[1]):
            raise ValueError(
                f"{name} takes {tuple(low.up.shape)} and {tuple(low.down.shape)}, not {tuple(up.shape)} "
                f"and {tuple(down.shape)}"
            )
        low.up.data, low.down.data = (factor.to(low.up.device, torch.float32).clone() for factor in (up, down))
