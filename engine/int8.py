"""int8 on the CPU: weights by output row, activations by token, products in int32.

Symmetric scales both ways: weight[n, k] ~ q[n, k] * scale[n]; x[t, k] ~ round(x[t, k] / s[t]) * s[t] with s the row's
largest magnitude / 127. The fp32 truth of a quantised layer is `dequantise`; tests/engine/test_int8.py compares them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .model import DiffusionGemma, Experts

NUM_ROWS_FLOAT = 4
"""Up to this many rows a plain fp32 product is quicker than quantising the activations (measured at H = 256)."""


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [..., N, K] float -> (int8 [..., N, K], fp32 scale [..., N, 1])."""
    scale = weight.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (weight.float() / scale).round().clamp(-127, 127).to(torch.int8), scale


def dequantise(quantised: Tensor, scale: Tensor) -> Tensor:
    """The fp32 truth: quantised * scale."""
    return quantised.float() * scale


def int8_matmul(x: Tensor, weight_kn: Tensor, scale: Tensor) -> Tensor:
    """x: fp32 [T, K]; weight_kn: int8 [K, N], contiguous; scale: fp32 [N] -> fp32 [T, N]."""
    x_scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    # torch has no public integer product on the CPU; this one is what torchao and the inductor call
    product = torch._int_mm((x / x_scale).round_().to(torch.int8), weight_kn)  # pyright: ignore
    return product.float().mul_(x_scale).mul_(scale)


class Int8Linear(nn.Module):
    """Stands where an nn.Linear without bias stood.

    Buffers: weight_kn int8 [K, N], scale fp32 [N], and weight fp32 [N, K], the same values for few rows.
    """

    weight_kn: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        """weight: [N, K] float; its rounding to int8 is the only loss."""
        super().__init__()
        quantised, scale = quantise(weight)
        self.register_buffer("weight_kn", quantised.t().contiguous())
        self.register_buffer("scale", scale[:, 0].contiguous())
        self.register_buffer("weight", dequantise(quantised, scale))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        # torch's integer product of one-column inputs is wrong (uninitialised memory, seen with torch 2.13)
        if rows.shape[0] <= NUM_ROWS_FLOAT or rows.shape[1] == 1:
            return F.linear(x, self.weight)
        return int8_matmul(rows, self.weight_kn, self.scale).view(*x.shape[:-1], -1)


class Int8Experts(Experts):
    """The dense form of Experts with both products in int8."""

    def __init__(self, experts: Experts) -> None:
        nn.Module.__init__(self)
        self.num_experts, self.width, self.is_dense = experts.num_experts, experts.width, True
        self.gate_up_linear = Int8Linear(experts.gate_up_proj.detach().flatten(0, 1))
        self.down_linear = Int8Linear(experts.down_proj.detach().permute(1, 0, 2).flatten(1))

    def gate_up(self, x: Tensor) -> Tensor:
        return self.gate_up_linear(x)

    def down(self, act: Tensor) -> Tensor:
        return self.down_linear(act)


def convert(model: DiffusionGemma) -> DiffusionGemma:
    """Replace, in place, every linear layer but the routers, and dense experts. Returns model.

    The embedding stays: it is gathered, and its product with a few rows is memory bound either way. Routers stay
    because a flipped expert choice costs more than their few weights.
    """
    for layer in model.blocks():
        _convert_linears(layer.self_attn)
        _convert_linears(layer.mlp)
        if layer.experts.is_dense:
            layer.experts = Int8Experts(layer.experts)
    _convert_linears(model.self_conditioning)
    return model


def _convert_linears(owner: nn.Module) -> None:
    children: dict[str, nn.Module] = dict(owner.named_children())
    for name, child in children.items():
        if isinstance(child, nn.Linear):
            setattr(owner, name, Int8Linear(child.weight.detach()))
