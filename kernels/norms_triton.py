# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""RMSNorm, rotary, the glue between a layer's norms and the soft embedding on Triton: one program per row, one read of
each operand, one launch where PyTorch needs four to thirty. Truth: norms.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def normalised(x, H, eps):
    """x * rsqrt(mean of squares + eps); x: fp32 [BH], zero past H."""
    return x * tl.rsqrt(tl.sum(x * x, axis=0) / H + eps)


@triton.jit
def load_row(ptr, h, H):
    return tl.load(ptr + h, mask=h < H, other=0.0).to(tl.float32)


@triton.jit
def load_sum(ptr, h, H, part_stride, PARTS: tl.constexpr):
    """A row that a split product left in parts, added in their order. Unrolled: all parts are on their way at once."""
    x = load_row(ptr, h, H)
    for part in tl.static_range(1, PARTS):
        x += load_row(ptr + part * part_stride, h, H)
    return x


@triton.jit
def store_row(ptr, x, h, H):
    tl.store(ptr + h, x.to(ptr.dtype.element_ty), mask=h < H)


@triton.jit
def rms_norm_kernel(x, weight, out, H, x_stride, eps, HAS_WEIGHT: tl.constexpr, BH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BH)
    y = normalised(load_row(x + row * x_stride, h, H), H, eps)
    if HAS_WEIGHT:
        y *= load_row(weight, h, H)
    store_row(out + row * H, y, h, H)


@triton.jit
def qkv_kernel(
    qkv, q_weight, k_weight, cos, sin, q, k, v, Hq, Hkv, D, part_stride, row_stride, eps, PARTS: tl.constexpr,
    HAS_VALUE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Grid: (rows, Hq + 2 Hkv). D halves turn together: i with i + D / 2."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    i = tl.arange(0, BD)
    half = D // 2
    is_value = head >= Hq + Hkv
    # without a value projection the value is the raw key's
    source = head if HAS_VALUE else tl.where(is_value, head - Hkv, head)
    ptr = qkv + row * row_stride + source * D
    a = load_sum(ptr, i, half, part_stride, PARTS)
    b = load_sum(ptr + half, i, half, part_stride, PARTS)
    scale = tl.rsqrt((tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)) / D + eps)
    a *= scale
    b *= scale
    if is_value:
        to = v + (row * Hkv + head - Hq - Hkv) * D
    else:
        weight = q_weight if head < Hq else k_weight
        a *= load_row(weight, i, half)
        b *= load_row(weight + half, i, half)
        cos_row, sin_row = cos + row * D, sin + row * D
        turned = a * load_row(cos_row, i, half) - b * load_row(sin_row, i, half)
        b = b * load_row(cos_row + half, i, half) + a * load_row(sin_row + half, i, half)
        a = turned
        to = q + (row * Hq + head) * D if head < Hq else k + (row * Hkv + head - Hq) * D
    store_row(to, a, i, half)
    store_row(to + half, b, i, half)


@triton.jit
def attention_glue_kernel(
    x, attention, post, dense, sparse, router, out, dense_out, sparse_out, router_out, H, x_stride, part_stride,
    attention_stride, eps, PARTS: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BH)
    y = load_row(x + row * x_stride, h, H)
    got = load_sum(attention + row * attention_stride, h, H, part_stride, PARTS)
    y += normalised(got, H, eps) * load_row(post, h, H)
    store_row(out + row * H, y, h, H)
    y = normalised(y, H, eps)
    store_row(dense_out + row * H, y * load_row(dense, h, H), h, H)
    store_row(sparse_out + row * H, y * load_row(sparse, h, H), h, H)
    store_row(router_out + row * H, y * load_row(router, h, H), h, H)


@triton.jit
def mlp_glue_kernel(
    x, dense, slots, slot_weights, post_dense, post_sparse, post_both, scalar, next_norm, out, next_out, H, x_stride,
    part_stride, dense_stride, scalar_stride, eps, PARTS: tl.constexpr, K: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BH)
    mixed = tl.zeros((BH,), dtype=tl.float32)
    # unrolled: all answers are on their way at once
    for k in tl.static_range(K):
        share = tl.load(slot_weights + row * K + k).to(tl.float32)
        mixed += load_row(slots + (row * K + k) * H, h, H) * share
    both = normalised(mixed, H, eps) * load_row(post_sparse, h, H)
    got = load_sum(dense + row * dense_stride, h, H, part_stride, PARTS)
    both += normalised(got, H, eps) * load_row(post_dense, h, H)
    y = load_row(x + row * x_stride, h, H) + normalised(both, H, eps) * load_row(post_both, h, H)
    y *= tl.load(scalar + row * scalar_stride).to(tl.float32)
    store_row(out + row * H, y, h, H)
    store_row(next_out + row * H, normalised(y, H, eps) * load_row(next_norm, h, H), h, H)


@triton.jit
def gated_gelu_kernel(gate_up, out, N, part_stride, stride, PARTS: tl.constexpr, BN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    gate = load_sum(gate_up + row * stride, n, N, part_stride, PARTS)
    up = load_sum(gate_up + row * stride + N, n, N, part_stride, PARTS)
    # gelu's tanh form: 0.5 (1 + tanh(u)) = 1 - 1 / (exp(2 u) + 1), which is 1 long before the exponential overflows
    u = tl.minimum(0.7978845608028654 * (gate + 0.044715 * gate * gate * gate), 40.0)
    store_row(out + row * N, gate * (1.0 - 1.0 / (tl.exp(2.0 * u) + 1.0)) * up, n, N)


@triton.jit
def soft_embedding_kernel(ids, weights, table, out, H, table_stride, scale, K: tl.constexpr, BH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BH + tl.arange(0, BH)
    acc = tl.zeros((BH,), dtype=tl.float32)
    for k in tl.static_range(K):
        token = tl.load(ids + row * K + k).to(tl.int64)
        acc += load_row(table + token * table_stride, h, H) * tl.load(weights + row * K + k).to(tl.float32)
    store_row(out + row * H, acc * scale, h, H)


def _warps(block: int) -> int:
    """A warp per 512 elements: 16 a lane, two 16-byte loads of bf16."""
    return max(1, min(8, block // 512))


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """See norms.rms_norm_reference."""
    T, H = x.shape
    out = torch.empty((T, H), dtype=x.dtype, device=x.device)
    block = triton.next_power_of_2(H)
    if T:
        x = _rows(x)
        rms_norm_kernel[(T,)](
            x, weight, out, H, x.stride(0), eps, HAS_WEIGHT=weight is not None, BH=block, num_warps=_warps(block)
        )
    return out


def qkv_norm_rotate(
    qkv: Tensor,
    num_q: int,
    num_kv: int,
    q_weight: Tensor,
    k_weight: Tensor,
    rope: tuple[Tensor, Tensor],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See norms.qkv_norm_rotate_reference."""
    parts, T, heads, D = qkv.shape
    q, k, v = (torch.empty((T, n, D), dtype=q_weight.dtype, device=qkv.device) for n in (num_q, num_kv, num_kv))
    if T:
        qkv = qkv if qkv.stride(-1) == 1 and qkv.stride(2) == D else qkv.contiguous()
        cos, sin = (part.contiguous() for part in rope)
        block = triton.next_power_of_2(max(1, D // 2))
        qkv_kernel[(T, num_q + 2 * num_kv)](
            qkv, q_weight, k_weight, cos, sin, q, k, v, num_q, num_kv, D, qkv.stride(0), qkv.stride(1), eps,
            PARTS=parts, HAS_VALUE=heads == num_q + 2 * num_kv, BD=block, num_warps=1,
        )  # fmt: skip
    return q, k, v


def attention_glue(
    x: Tensor, attention: Tensor, post_attention: Tensor, dense: Tensor, sparse: Tensor, router: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See norms.attention_glue_reference."""
    T, H = x.shape
    outs = tuple(torch.empty((T, H), dtype=x.dtype, device=x.device) for _ in range(4))
    block = triton.next_power_of_2(H)
    if T:
        x, attention = _rows(x), _rows(attention)
        attention_glue_kernel[(T,)](
            x, attention, post_attention, dense, sparse, router, *outs, H, x.stride(0), attention.stride(0),
            attention.stride(1), eps, PARTS=len(attention), BH=block, num_warps=_warps(block),
        )  # fmt: skip
    return outs[0], outs[1], outs[2], outs[3]


def mlp_glue(
    x: Tensor,
    dense: Tensor,
    slots: Tensor,
    slot_weights: Tensor,
    post_dense: Tensor,
    post_sparse: Tensor,
    post_both: Tensor,
    scalar: Tensor,
    next_norm: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See norms.mlp_glue_reference."""
    (T, K, H) = slots.shape
    out, next_out = (torch.empty((T, H), dtype=x.dtype, device=x.device) for _ in range(2))
    block = triton.next_power_of_2(H)
    if T:
        x, dense = _rows(x), _rows(dense)
        mlp_glue_kernel[(T,)](
            x, dense, slots.contiguous(), slot_weights.contiguous(), post_dense, post_sparse, post_both, scalar,
            next_norm, out, next_out, H, x.stride(0), dense.stride(0), dense.stride(1), int(scalar.numel() > 1), eps,
            PARTS=len(dense), K=K, BH=block, num_warps=_warps(block),
        )  # fmt: skip
    return out, next_out


def gated_gelu(gate_up: Tensor, dtype: torch.dtype) -> Tensor:
    """See norms.gated_gelu_reference."""
    parts, T, N = gate_up.shape[0], gate_up.shape[1], gate_up.shape[2] // 2
    out = torch.empty((T, N), dtype=dtype, device=gate_up.device)
    block = min(1024, triton.next_power_of_2(N))
    if T:
        gate_up = _rows(gate_up)
        gated_gelu_kernel[(T, triton.cdiv(N, block))](
            gate_up, out, N, gate_up.stride(0), gate_up.stride(1), PARTS=parts, BN=block, num_warps=_warps(block)
        )
    return out


def soft_embedding(ids: Tensor, weights: Tensor, table: Tensor, scale: float) -> Tensor:
    """See norms.soft_embedding_reference."""
    (R, K), H = ids.shape, table.shape[1]
    out = torch.empty((R, H), dtype=table.dtype, device=table.device)
    block = min(1024, triton.next_power_of_2(H))
    if R:
        soft_embedding_kernel[(R, triton.cdiv(H, block))](
            ids.contiguous(), weights.contiguous(), table, out, H, table.stride(0), float(scale), K=K, BH=block,
            num_warps=_warps(block),
        )  # fmt: skip
    return out
