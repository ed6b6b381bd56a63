"""Muon: momentum whose update is orthogonalised, for the matrices of the body. AdamW takes the rest.

torch.optim.Muon accepts 2-D parameters only; expert weights are stacks of matrices [E, rows, columns], and each matrix
of a stack must be orthogonalised on its own, so this class batches the iteration over leading dimensions.
Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), quintic Newton-Schulz
coefficients (3.4445, -4.7750, 2.0315), in bf16 as there; differs by the batching.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn


def orthogonalise(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly (singular values in about [0.7, 1.2]). matrix: [..., M, N], any dtype."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    x = x / (x.float().square().sum(dim=(-2, -1), keepdim=True).sqrt().to(x.dtype) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """lr: size of the update's spectral norm. weight_decay is decoupled. Parameters: 2-D, or 3-D stacks of matrices."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            # matrices of one shape are one stack: on a GPU a launch costs more than the arithmetic of a small matrix
            stacks: dict[torch.Size, list[Tensor]] = {}
            for p in cast(list[Tensor], group["params"]):
                if p.grad is not None:
                    stacks.setdefault(p.shape, []).append(p)
            for shape, params in stacks.items():
                grads = [cast(Tensor, p.grad) for p in params]
                states = [self.state[p] for p in params]
                for state, p in zip(states, params):
                    state.setdefault("momentum_buffer", torch.zeros_like(p))
                buffers: list[Tensor] = [state["momentum_buffer"] for state in states]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])  # pyright: ignore
                ahead = torch._foreach_lerp(grads, buffers, group["momentum"])  # pyright: ignore
                update = orthogonalise(torch.stack(ahead))
                scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore
                torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * scale)  # pyright: ignore
