"""RMSNorm, rotary, the glue between a layer's seven norms, the dense MLP's activation, and the top-k soft embedding:
the slow truths.

A DiffusionGemma layer needs, besides its products, exactly two elementwise passes over the residual stream:

    after attention   x1 = x + norm(attention) * post_attention;  three products start from the SAME normalised x1,
                      only their weights differ (dense MLP, experts, router)                        -> `attention_glue`
    after both MLPs   x2 = (x1 + norm(norm(dense) * w1 + norm(sum of slots) * w2) * w3) * scalar;
                      and the next layer's input norm of x2                                         -> `mlp_glue`

What comes from a dense product comes in parts (linear.linear_parts_reference), [P, ...], and is added as it is read.
Everything is computed in fp32 (fp64 for fp64 inputs) and rounded once, when it is stored.
Source: transformers 5.23.0 modeling_diffusion_gemma.py, which rounds to the stream's dtype after each norm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def wide_dtype(x: Tensor) -> torch.dtype:
    """The dtype that truths compute in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    x = x.to(wide_dtype(x))
    out = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return out if weight is None else out * weight.to(out.dtype)


def _whole(parts: Tensor) -> Tensor:
    return parts.to(wide_dtype(parts)).sum(0)


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x: [T, H]; weight: [H] or None (scaleless) -> [T, H] in x's dtype."""
    return _norm(x, weight, eps).to(x.dtype)


def qkv_norm_rotate_reference(
    qkv: Tensor,
    num_q: int,
    num_kv: int,
    q_weight: Tensor,
    k_weight: Tensor,
    rope: tuple[Tensor, Tensor],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The per-head norms and the rotation of a joint projection, ready for attention.

    qkv: [P, T, heads, D] of a joint projection, query heads first, then key and value heads; or without value heads
    (heads == num_q + num_kv), where the value is the scaleless norm of the raw key. q_weight, k_weight: [D]; rope: cos
    and sin [T, D], halves repeated. Returns q [T, num_q, D], k and v [T, num_kv, D], contiguous, in the weights' dtype.
    """
    qkv = _whole(qkv)
    q, k = _norm(qkv[:, :num_q], q_weight, eps), _norm(qkv[:, num_q : num_q + num_kv], k_weight, eps)
    v = _norm(qkv[:, -num_kv:], None, eps)
    q, k, v = (part.to(q_weight.dtype).contiguous() for part in (_rotate(q, rope), _rotate(k, rope), v))
    return q, k, v


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (part[:, None, :].to(x.dtype) for part in rope)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attention_glue_reference(
    x: Tensor, attention: Tensor, post_attention: Tensor, dense: Tensor, sparse: Tensor, router: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x: [T, H]; attention: [P, T, H]; the rest: norm weights [H]. router is router.scale * H^-0.5.

    Returns x1 = x + norm(attention) * post_attention, and norm(x1) times dense, sparse and router, each [T, H] in x's
    dtype.
    """
    wide = x.to(wide_dtype(x)) + _norm(_whole(attention), post_attention, eps)
    normed = _norm(wide, None, eps)
    dense_in, sparse_in, router_in = ((normed * w.to(normed.dtype)).to(x.dtype) for w in (dense, sparse, router))
    return wide.to(x.dtype), dense_in, sparse_in, router_in


def mlp_glue_reference(
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
    """x: [T, H]; dense: [P, T, H]; slots: [T, K, H], the experts' outputs before the weighted sum; slot_weights:
    [T, K]; norm weights [H]; scalar: [1] (one layer scalar) or [T] (one per row, when encoder and decoder rows share a
    forward).

    Returns x2 and norm(x2) * next_norm, both [T, H] in x's dtype.
    """
    wide = wide_dtype(x)
    sparse = (slots.to(wide) * slot_weights.to(wide)[..., None]).sum(1)
    both = _norm(_whole(dense), post_dense, eps) + _norm(sparse, post_sparse, eps)
    out = (x.to(wide) + _norm(both, post_both, eps)) * scalar.to(wide)[:, None]
    return out.to(x.dtype), _norm(out, next_norm, eps).to(x.dtype)


def gated_gelu_reference(gate_up: Tensor, dtype: torch.dtype) -> Tensor:
    """gate_up: [P, T, 2 N], gates first -> gelu(gate) * up in gelu's tanh form, [T, N] in dtype."""
    gate, up = _whole(gate_up).chunk(2, dim=-1)
    return (F.gelu(gate, approximate="tanh") * up).to(dtype)


def soft_embedding_reference(ids: Tensor, weights: Tensor, table: Tensor, scale: float) -> Tensor:
    """The expected embedding under the k likeliest tokens. ids: int [R, k]; weights: float [R, k]; table: [V, H].

    -> scale * sum over k of weights * table[ids], [R, H] in the table's dtype. Whether the weights sum to one is the
    caller's business: the norm that follows does not mind.
    """
    wide = wide_dtype(table)
    rows = table[ids.long()].to(wide)
    return ((rows * weights.to(wide)[..., None]).sum(1) * scale).to(table.dtype)
