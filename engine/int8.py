"""int8 on the CPU: weights by output row, activations by token, products in int32; and layers of few operations.

Symmetric scales both ways: weight[n, k] ~ q[n, k] * scale[n]; x[t, k] ~ round(x[t, k] / s[t]) * s[t] with s the row's
largest magnitude / 127. Few rows take their activations as bf16 instead: then reading the weights is all that counts.
The fp32 truth of a quantised weight is `dequantise`, that of a layer is model.py's; tests/engine/test_int8.py compares.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .model import Attend, Attention, DiffusionGemma, Experts, GatedMLP, Layer, RMSNorm, Router, rotate

NUM_FEW = 4
"""Up to this many rows widening the weights is quicker than quantising the activations (measured at H = 256)."""

FEW_MULTIPLE = 32
"""torch's product for few rows reads its inputs in pieces of this many, past their end if need be (torch 2.13)."""


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [..., N, K] float -> (int8 [..., N, K], fp32 scale [..., N, 1])."""
    scale = weight.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (weight.float() / scale).round().clamp(-127, 127).to(torch.int8), scale


def dequantise(quantised: Tensor, scale: Tensor) -> Tensor:
    """The fp32 truth: quantised * scale."""
    return quantised.float() * scale


def few_rows_matmul(x: Tensor, weight_nk: Tensor, scale: Tensor) -> Tensor:
    """x: fp32 [T, K], K a multiple of 32; weight_nk: int8 [N, K]; scale: bf16 [N] -> fp32 [T, N], rounded to bf16."""
    # as private as _int_mm; torchao's weight-only int8 calls it on a CPU
    return torch._weight_int8pack_mm(x.bfloat16(), weight_nk, scale).float()  # pyright: ignore


def int8_matmul(x: Tensor, weight_kn: Tensor, scale: Tensor) -> Tensor:
    """x: fp32 [T, K]; weight_kn: int8 [K, N], contiguous; scale: fp32 [N] -> fp32 [T, N]."""
    x_scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    # torch has no public integer product on the CPU; this one is what torchao and the inductor call
    product = torch._int_mm((x / x_scale).round_().to(torch.int8), weight_kn)  # pyright: ignore
    return product.float().mul_(x_scale).mul_(scale)


class Int8Linear(nn.Module):
    """Stands where one or more nn.Linear layers of the same input stood; their outputs follow each other.

    Buffers: weight_kn int8 [K, N], scale fp32 [N]; for few rows weight_nk int8 [N, K], scale_few bf16 [N].
    """

    weight_kn: Tensor
    weight_nk: Tensor
    scale: Tensor
    scale_few: Tensor

    def __init__(self, *weights: Tensor) -> None:
        """weights: [N_i, K] float; their rounding to int8 is the only loss."""
        super().__init__()
        quantised, scale = quantise(torch.cat([weight.detach() for weight in weights]))
        self.register_buffer("weight_nk", quantised)
        self.register_buffer("weight_kn", quantised.t().contiguous())
        self.register_buffer("scale", scale[:, 0].contiguous())
        self.register_buffer("scale_few", scale[:, 0].bfloat16())
        self._num_few = NUM_FEW if quantised.shape[1] % FEW_MULTIPLE == 0 else 0

    @property
    def weight(self) -> Tensor:
        """What the quantised weights mean, fp32 [N, K]."""
        return dequantise(self.weight_nk, self.scale[:, None])

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[0] <= self._num_few:
            out = few_rows_matmul(rows, self.weight_nk, self.scale_few)
        elif rows.shape[1] == 1:
            # torch's integer product of one-column inputs is wrong (uninitialised memory, seen with torch 2.13)
            out = F.linear(rows, self.weight)
        else:
            out = int8_matmul(rows, self.weight_kn, self.scale)
        return out.view(*x.shape[:-1], -1)


class Norm(nn.Module):
    """model.py's RMSNorm in two parts, in half its operations: `unit` is common to all norms of one input."""

    eps: Tensor
    weight: Tensor

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.register_buffer("eps", torch.tensor(norm.eps))
        self.register_buffer("weight", torch.ones(norm.dim) if norm.weight is None else norm.weight.detach().float())

    def unit(self, x: Tensor) -> Tensor:
        """x * rsqrt(mean(x^2) + eps), without the weight. x: [..., dim]."""
        size = cast(Tensor, torch.linalg.vector_norm(x, dim=-1, keepdim=True))
        return x * torch.addcmul(self.eps, size, size, value=1 / x.shape[-1]).rsqrt_()

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x).mul_(self.weight)

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + norm(x)."""
        return torch.addcmul(residual, self.unit(x), self.weight)


class Int8Attention(nn.Module):
    """model.py's Attention: one product for queries, keys and values, one norm and one rotation for their heads."""

    head_weight: Tensor

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        q, k = attention.q_proj.weight, attention.k_proj.weight
        # where there is no projection for values they begin as the keys do
        self.qkv = Int8Linear(q, k, k if attention.v_proj is None else attention.v_proj.weight)
        self.out = Int8Linear(attention.o_proj.weight)
        self.head_dim = attention.head_dim
        self.num_heads, self.num_kv_heads = (len(weight) // self.head_dim for weight in (q, k))
        norms = [Norm(norm) for norm in (attention.q_norm, attention.k_norm, attention.v_norm)]
        counts = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        self.norm = norms[0]
        parts = [norm.weight.expand(count, -1) for norm, count in zip(norms, counts, strict=True)]
        self.register_buffer("head_weight", torch.cat(parts))

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], layer: int, attend: Attend) -> Tensor:
        heads = self.norm.unit(self.qkv(x).view(*x.shape[:-1], -1, self.head_dim)).mul_(self.head_weight)
        num_turned = self.num_heads + self.num_kv_heads
        turned = rotate(heads[..., :num_turned, :], rope).transpose(1, 2)
        query, key = turned[:, : self.num_heads], turned[:, self.num_heads :]
        out = attend(layer, query, key, heads[..., num_turned:, :].transpose(1, 2))
        return self.out(out.transpose(1, 2).flatten(2))


class Int8GatedMLP(nn.Module):
    """model.py's GatedMLP or dense Experts, gate and up as one product. share: [T, E], what each expert counts for."""

    def __init__(self, mlp: GatedMLP | Experts) -> None:
        super().__init__()
        if isinstance(mlp, GatedMLP):
            self.gate_up = Int8Linear(mlp.gate_proj.weight, mlp.up_proj.weight)
            self.down = Int8Linear(mlp.down_proj.weight)
        else:
            gate, up = mlp.gate_up_proj.detach().chunk(2, dim=1)
            self.gate_up = Int8Linear(gate.flatten(0, 1), up.flatten(0, 1))
            self.down = Int8Linear(mlp.down_proj.detach().permute(1, 0, 2).flatten(1))

    def forward(self, x: Tensor, share: Tensor | None = None) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        act = F.gelu(gate, approximate="tanh").mul_(up)
        if share is not None:
            act.view(*share.shape, -1).mul_(share[..., None])
        return self.down(act)


class Int8Layer(nn.Module):
    """model.py's Layer, the same sums in about half the operations: at these sizes each costs as much as its product.

    Experts that are gathered stay as they are; the router does too, because a flipped choice costs more than its bytes.
    """

    encoder_layer_scalar: Tensor
    layer_scalar: Tensor
    router_scale: Tensor

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.self_attn = Int8Attention(layer.self_attn)
        self.mlp = Int8GatedMLP(layer.mlp)
        self.experts = Int8GatedMLP(layer.experts) if layer.experts.is_dense else layer.experts
        self.router: Router = layer.router
        self.input_norm = Norm(layer.input_layernorm)
        self.attention_norm = Norm(layer.post_attention_layernorm)
        self.mlp_norm = Norm(layer.pre_feedforward_layernorm)
        self.experts_norm = Norm(layer.pre_feedforward_layernorm_2)
        self.mlp_out_norm = Norm(layer.post_feedforward_layernorm_1)
        self.experts_out_norm = Norm(layer.post_feedforward_layernorm_2)
        self.out_norm = Norm(layer.post_feedforward_layernorm)
        self.register_buffer("layer_scalar", layer.layer_scalar)
        self.register_buffer("encoder_layer_scalar", layer.encoder_layer_scalar)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], layer: int, attend: Attend, scalar: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = self.attention_norm.add(x, self.self_attn(self.input_norm(x), rope, layer, attend))
        unit = self.mlp_norm.unit(x)
        dense = self.mlp_out_norm(self.mlp(unit * self.mlp_norm.weight))
        rows = unit.view(-1, x.shape[-1])
        weights, ids, probabilities = self.router.choose(rows)
        rows = rows * self.experts_norm.weight
        if isinstance(self.experts, Experts):
            sparse = self.experts(rows, ids, weights)
        else:
            sparse = self.experts(rows, torch.zeros_like(probabilities).scatter_(1, ids, weights))
        both = self.experts_out_norm.add(dense, sparse.view(x.shape))
        return self.out_norm.add(x, both).mul_(scalar), probabilities


def convert(model: DiffusionGemma) -> DiffusionGemma:
    """Replace, in place, every layer by one whose products are int8, and those of self-conditioning. Returns model.

    The embedding stays: it is gathered, and its product with a few rows is memory bound either way.
    """
    for i, layer in enumerate(model.blocks()):
        model.layers[i] = Int8Layer(layer)
    for name, child in list(model.self_conditioning.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model.self_conditioning, name, Int8Linear(child.weight))
    return model
