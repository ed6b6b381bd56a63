"""The embedded model on a CPU: products that the CPU is quick at, and layers of few operations.

Three kinds of products, chosen once by what the CPU has (`best_products`):
- "int8", where there are instructions for it: weights by output row, activations by token, sums in int32. Symmetric
  scales both ways: weight[n, k] ~ q[n, k] * scale[n]; x[t, k] ~ round(x[t, k] / s[t]) * s[t] with s the row's largest
  magnitude / 127. Few rows take their activations as bf16 instead: then reading the weights is all that counts.
- "half", any other x86 with AVX2, where an integer product is a loop in C: weights in fp16, activations and sums in
  fp32. As exact as fp32 in effect, as quick for many rows, and two to four times as quick for few.
- "float", everywhere else (ARM above all): plain fp32.
The truth of a product is its `weight`, fp32; that of a layer is model.py's; tests/engine/test_int8.py compares.
"""

from __future__ import annotations

import functools
import math
import platform
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .model import Attend, Attention, DiffusionGemma, Experts, Layer, RMSNorm, rotate

Products = Literal["int8", "half", "float"]

NUM_FEW = 4
"""Up to this many rows widening int8 weights is quicker than quantising the activations (measured at H = 256)."""

FEW_MULTIPLE = 32
"""torch's product for few rows reads its inputs in pieces of this many, past their end if need be (torch 2.13)."""

NUM_PACKING = 2
"""Layers that are packed side by side while loading."""

GROUPED_FROM = 64
"""From this many rows on, sorting them by expert costs less than the products of the experts that nobody chose."""

HALF_MAX = 65504.0
HALF_MIN = 2.0**-10
"""A matrix whose largest entry lies outside is not rounded to fp16: it would overflow, or lose bits below 2^-14."""

GELU_SLOPE = 2 * math.sqrt(2 / math.pi)
GELU_SLOPE_TENSOR = torch.tensor(GELU_SLOPE)


@functools.cache
def best_products() -> Products:
    """What this CPU is quick at. The integer product needs VNNI or AMX; without them torch's is 50 times too slow."""
    # as torch's own compiler asks; AVX-VNNI alone, of client CPUs, was never measured here and counts as without
    if torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported():  # pyright: ignore[reportPrivateUsage]
        return "int8"
    return "half" if has_half() else "float"


def has_half() -> bool:
    """Whether there is FBGEMM here, which HalfLinear is made of."""
    has_fbgemm = torch.backends.quantized.engine in ("x86", "fbgemm")
    return has_fbgemm and torch.cpu._is_avx2_supported()  # pyright: ignore[reportPrivateUsage]


@functools.cache
def copies_weights() -> bool:
    """Whether F.linear puts a whole matrix into another order each time, before it multiplies rows with it: it does on
    Linux on ARM (torch 2.9, seen with DNNL_VERBOSE=1), and for few rows that is more work than the product.
    """
    return platform.machine() == "aarch64" and bool(cast(Any, torch.backends).mkldnn.is_available())


def quantise(weight: Tensor, over: tuple[int, ...] = (-1,)) -> tuple[Tensor, Tensor]:
    """weight [..., N, K] float -> (int8 [..., N, K], fp32 scale [..., N, 1]). over: dimensions that share a scale."""
    scale = weight.float().abs().amax(over, keepdim=True).clamp_min(1e-12) / 127
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

    From weights [N_i, K] float, as its two siblings; rounding them to int8 is the only loss that is kept.
    Buffers: weight_kn int8 [K, N], scale fp32 [N]; for few rows weight_nk int8 [N, K], scale_few bf16 [N].
    """

    weight_kn: Tensor
    weight_nk: Tensor
    scale: Tensor
    scale_few: Tensor

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        quantised, scale = quantise(torch.cat([weight.detach() for weight in weights]))
        self.register_buffer("weight_nk", quantised)
        self.register_buffer("weight_kn", quantised.t().contiguous())
        self.register_buffer("scale", scale[:, 0].contiguous())
        self.register_buffer("scale_few", scale[:, 0].bfloat16())
        self.num_few = NUM_FEW if quantised.shape[1] % FEW_MULTIPLE == 0 else 0

    @property
    def weight(self) -> Tensor:
        """What the quantised weights mean, fp32 [N, K]."""
        return dequantise(self.weight_nk, self.scale[:, None])

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[0] <= self.num_few:
            out = few_rows_matmul(rows, self.weight_nk, self.scale_few)
        elif rows.shape[1] == 1:
            # torch's integer product of one-column inputs is wrong (uninitialised memory, seen with torch 2.13)
            out = F.linear(rows, self.weight)
        else:
            out = int8_matmul(rows, self.weight_kn, self.scale)
        return out.view(*x.shape[:-1], -1)

    multiply = forward


class HalfLinear(nn.Module):
    """Weights in fp16, in an order of FBGEMM's own that only it can read."""

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        joined = torch.cat([weight.detach().float() for weight in weights])
        if not self.holds(joined):
            raise ValueError("fp16 does not hold this matrix")
        # not of the quantised tensors that torch is about to remove: weights go in and activations stay as fp32
        self._packed = torch.ops.quantized.linear_prepack_fp16(joined, None)
        product = torch.ops.quantized.linear_dynamic_fp16.default
        # without the look at every argument that tracing asks for, which costs as much as a small product (torch 2.13)
        self._product = getattr(product, "_op", product)
        self.packed_bytes = 2 * joined.numel()

    @staticmethod
    def holds(weight: Tensor) -> bool:
        """Whether fp16 does."""
        least, most = torch.aminmax(weight)
        return HALF_MIN <= max(-float(least), float(most)) <= HALF_MAX

    @property
    def weight(self) -> Tensor:
        """What the packed weights mean, fp32 [N, K]."""
        return cast(Tensor, torch.ops.quantized.linear_unpack_fp16(self._packed)[0])

    def multiply(self, x: Tensor) -> Tensor:
        """x: fp32 [T, K] -> [T, N], without what a module's call adds."""
        return self._product(x, self._packed)

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x) if x.dim() > 1 else self.multiply(x[None])[0]


class FloatLinear(nn.Module):
    """Weights as they are."""

    weight: Tensor

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        joined = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.register_buffer("weight", joined.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2 and 0 < len(x) <= NUM_FEW and copies_weights():
            return torch.stack([torch.mv(self.weight, row) for row in x])
        return F.linear(x, self.weight)

    multiply = forward


Product = Int8Linear | HalfLinear | FloatLinear


def product_of(products: Products, *weights: Tensor) -> Product:
    """One product of weights that share their input."""
    if products == "int8":
        return Int8Linear(*weights)
    joined = torch.cat([weight.detach().float() for weight in weights])
    return HalfLinear(joined) if products == "half" and HalfLinear.holds(joined) else FloatLinear(joined)


class Norm(nn.Module):
    """model.py's RMSNorm in two parts, in half its operations: `unit` is common to all norms of one input.

    x * rsqrt(mean(x^2) + eps) * w = x / sqrt(|x|^2 + dim * eps) * (sqrt(dim) * w); `weight` is what is in brackets.
    """

    least: Tensor
    weight: Tensor | None

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.register_buffer("least", torch.tensor(math.sqrt(norm.dim * norm.eps)))
        weight = torch.ones(norm.dim) if norm.weight is None else norm.weight.detach().float()
        self.register_buffer("weight", weight * math.sqrt(norm.dim))

    def unit(self, x: Tensor) -> Tensor:
        """x: [..., dim] at length one, or less where it is near zero."""
        length = cast(Tensor, torch.linalg.vector_norm(x, dim=-1, keepdim=True))
        return x / torch.hypot(length, self.least)

    def weigh(self, unit: Tensor) -> Tensor:
        """What the products of this norm's output read."""
        return unit if self.weight is None else unit * self.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.weigh(self.unit(x))

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + norm(x)."""
        return residual + self.unit(x) if self.weight is None else torch.addcmul(residual, self.unit(x), self.weight)

    def give_weight(self, products: Products) -> Tensor | float:
        """What every column of the products behind this norm is multiplied with: then the norm need not do it.

        int8 weights stay as the checkpoint holds them, which rounded them as they are.
        """
        if products == "int8" or self.weight is None:
            return 1.0
        weight, self.weight = self.weight, None
        return weight


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """gelu_tanh(gate) * up. torch's own takes three times as long: a tanh costs more than all else here together."""
    # gelu_tanh(x) = x * sigmoid(slope * (x + 0.044715 x^3))
    inner = torch.addcmul(GELU_SLOPE_TENSOR, gate, gate, value=0.044715 * GELU_SLOPE).mul_(gate)
    return inner.sigmoid_().mul_(gate).mul_(up)


class QuickAttention(nn.Module):
    """model.py's Attention: one product for queries, keys and values, one norm and one rotation for their heads."""

    head_weight: Tensor

    def __init__(self, attention: Attention, products: Products, factor: Tensor | float = 1.0) -> None:
        """factor: of each column of the first product."""
        super().__init__()
        q, k = attention.q_proj.weight, attention.k_proj.weight
        # where there is no projection for values they begin as the keys do
        parts = (q, k, k if attention.v_proj is None else attention.v_proj.weight)
        self.qkv = product_of(products, *(part * factor for part in parts))
        self.out = product_of(products, attention.o_proj.weight)
        self.head_dim = attention.head_dim
        self.num_heads, self.num_kv_heads = (len(weight) // self.head_dim for weight in (q, k))
        norms = [Norm(norm) for norm in (attention.q_norm, attention.k_norm, attention.v_norm)]
        counts = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        self.norm = norms[0]
        weights = [cast(Tensor, norm.weight).expand(count, -1) for norm, count in zip(norms, counts, strict=True)]
        self.register_buffer("head_weight", torch.cat(weights))

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], layer: int, attend: Attend, only_last: bool = False
    ) -> Tensor:
        heads = self.norm.unit(self.qkv(x).view(*x.shape[:-1], -1, self.head_dim)).mul_(self.head_weight)
        to_turn, value = torch.split(heads, [self.num_heads + self.num_kv_heads, self.num_kv_heads], dim=-2)
        turned = rotate(to_turn, rope).transpose(1, 2)
        query, key = torch.split(turned, [self.num_heads, self.num_kv_heads], dim=1)
        out = attend(layer, query[:, :, -1:] if only_last else query, key, value.transpose(1, 2))
        return self.out(out.transpose(1, 2).flatten(2))


class QuickMLP(nn.Module):
    """down(gelu_tanh(gate(x)) * up(x)) with gate and up as one product."""

    def __init__(self, products: Products, gate: Tensor, up: Tensor, down: Tensor) -> None:
        """gate, up: [width, H]; down: [H, width]."""
        super().__init__()
        self.width = len(gate)
        self.gate_up = product_of(products, gate, up)
        self.down = product_of(products, down)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gated(*self.gate_up(x).chunk(2, dim=-1)))


class QuickExperts(nn.Module):
    """model.py's dense Experts. Few rows go through all experts as one product, and unchosen ones count for nothing;
    many are sorted by expert, which halves the products with the best two of four.

    x: [T, H], ids and weights: [T, K] -> [T, H].
    """

    scale: Tensor

    def __init__(self, experts: Experts, scale: Tensor, products: Products, factor: Tensor | float = 1.0) -> None:
        """scale: [E], of each expert's answer; factor: of each column of the first product."""
        super().__init__()
        gate, up = (experts.gate_up_proj.detach() * factor).chunk(2, dim=1)
        down = experts.down_proj.detach()
        self.num_experts = experts.num_experts
        self.register_buffer("scale", scale.detach())
        self.down = product_of(products, down.permute(1, 0, 2).flatten(1))
        # int8 has one scale for all experts of an output row, as the checkpoint, and so no product of one of them; the
        # exact ones have no product of all of them here, because QuickLayer joins it with the dense one
        is_exact = products != "int8"
        self.gate_up = None if is_exact else product_of(products, gate.flatten(0, 1), up.flatten(0, 1))
        self.each = nn.ModuleList(QuickMLP(products, *parts) for parts in zip(gate, up, down) if is_exact)

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        if self.gate_up is None:
            return self.grouped(x, ids, weights)
        return self.sum(gated(*self.gate_up(x).chunk(2, dim=-1)), ids, weights)

    def sum(self, act: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """act: [T, E * I], what every expert made of every row."""
        share = act.new_zeros(len(act), self.num_experts).scatter_(1, ids, weights).mul_(self.scale)
        return self.down(act.view(*share.shape, -1).mul(share[..., None]).flatten(1))

    def grouped(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        chosen = ids.flatten()
        order = chosen.argsort()
        rows = x.index_select(0, order.div(ids.shape[1], rounding_mode="floor"))
        counts = cast(list[int], torch.bincount(chosen, minlength=self.num_experts).tolist())
        outs = torch.cat([expert(part) for expert, part in zip(self.each, torch.split(rows, counts)) if len(part)])
        # back to the order of the rows, K answers for each
        outs = outs.index_select(0, order.argsort()).view(*ids.shape, -1)
        return outs.mul_((weights * self.scale[ids])[..., None]).sum(1)


class QuickLayer(nn.Module):
    """model.py's Layer, the same sums in about half the operations: at these sizes each costs as much as its product.

    Experts that are gathered stay as they are; the router stays fp32, because a flipped choice costs more than its
    bytes.
    """

    encoder_layer_scalar: Tensor
    layer_scalar: Tensor
    router: Tensor
    expert_scale: Tensor

    def __init__(self, layer: Layer, products: Products) -> None:
        super().__init__()
        self.input_norm = Norm(layer.input_layernorm)
        self.attention_norm = Norm(layer.post_attention_layernorm)
        self.mlp_norm = Norm(layer.pre_feedforward_layernorm)
        self.experts_norm = Norm(layer.pre_feedforward_layernorm_2)
        self.mlp_out_norm = Norm(layer.post_feedforward_layernorm_1)
        self.experts_out_norm = Norm(layer.post_feedforward_layernorm_2)
        self.out_norm = Norm(layer.post_feedforward_layernorm)
        self.self_attn = QuickAttention(layer.self_attn, products, self.input_norm.give_weight(products))
        factor, mlp = self.mlp_norm.give_weight(products), layer.mlp
        parts = (mlp.gate_proj.weight * factor, mlp.up_proj.weight * factor, mlp.down_proj.weight)
        self.mlp = QuickMLP(products, *parts)
        self.experts: Experts | QuickExperts = layer.experts
        # gate and up of the dense MLP and of all experts: beginning a product of few rows takes as long as doing it
        self.together: Product | None = None
        if layer.experts.is_dense:
            factor = self.experts_norm.give_weight(products)
            self.experts = QuickExperts(layer.experts, layer.router.per_expert_scale, products, factor)
            if products != "int8":
                gate, up = (layer.experts.gate_up_proj.detach() * factor).chunk(2, dim=1)
                self.together = product_of(products, parts[0], gate.flatten(0, 1), parts[1], up.flatten(0, 1))
        router = layer.router
        self.top_k = router.top_k
        # its norm has no weight: the root of the size that `unit` leaves out is the one that its scale is divided by
        self.register_buffer("router", router.proj.weight.detach() * router.scale)
        self.register_buffer("expert_scale", router.per_expert_scale.detach())
        self.register_buffer("layer_scalar", layer.layer_scalar)
        self.register_buffer("encoder_layer_scalar", layer.encoder_layer_scalar)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        layer: int,
        attend: Attend,
        scalar: Tensor,
        only_last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Returns the router's logits in the place of its probabilities."""
        attended = self.self_attn(self.input_norm(x), rope, layer, attend, only_last)
        x = self.attention_norm.add(x[:, -1:] if only_last else x, attended)
        unit = self.mlp_norm.unit(x)
        rows = unit.view(-1, x.shape[-1])
        logits = F.linear(rows, self.router)
        # the softmax of the chosen is the softmax of all, renormalised over the chosen
        top, ids = torch.topk(logits, self.top_k, dim=-1)
        weights = torch.softmax(top, dim=-1)
        if self.together is not None and isinstance(self.experts, QuickExperts) and len(rows) < GROUPED_FROM:
            # exact products have taken the norms' weights in
            act = gated(*self.together(rows).chunk(2, dim=-1))
            parts = torch.split(act, [self.mlp.width, act.shape[1] - self.mlp.width], dim=1)
            dense, sparse = self.mlp.down(parts[0]), self.experts.sum(parts[1], ids, weights)
        else:
            dense = self.mlp(self.mlp_norm.weigh(rows))
            if isinstance(self.experts, Experts):
                weights = weights * self.expert_scale[ids]
            sparse = self.experts(self.experts_norm.weigh(rows), ids, weights)
        both = self.experts_out_norm.add(self.mlp_out_norm(dense), sparse).view(x.shape)
        return self.out_norm.add(x, both).mul_(scalar), logits


def convert(model: DiffusionGemma, products: Products | None = None) -> DiffusionGemma:
    """Replace, in place, every layer by one with the products given, those of self-conditioning, and those with the
    vocabulary. products: None for the best on this CPU. Returns model.

    The embedding stays as it is, because it is gathered. Logits are too fine for int8: the product of few rows rounds
    what it gives to bf16, and a search adds up many. fp16 halves the bytes of the largest matrix instead.
    """
    products = products or best_products()

    @torch.no_grad()
    def quick(layer: Layer) -> QuickLayer:
        return QuickLayer(layer, products)

    # packing is one thread's work for each matrix
    with ThreadPoolExecutor(NUM_PACKING) as pool:
        for i, layer in enumerate(pool.map(quick, list(model.blocks()))):
            model.layers[i] = layer
    for name, child in list(model.self_conditioning.named_children()):
        if isinstance(child, nn.Linear):
            setattr(model.self_conditioning, name, product_of(products, child.weight))
    if products == "half" or (products == "int8" and has_half()):
        table = model.embed_tokens.weight
        model.to_vocabulary, model.from_vocabulary = product_of("half", table), product_of("half", table.t())
    elif copies_weights():
        model.to_vocabulary = FloatLinear(model.embed_tokens.weight)
    both = [(layer, layer.experts) for layer in model.layers if isinstance(layer, QuickLayer)]
    dense = [(layer, experts) for layer, experts in both if isinstance(experts, QuickExperts)]
    if len(dense) == len(model.layers):
        from .few_rows import FewRows

        model.few_rows = FewRows(model, dense)
    return model
