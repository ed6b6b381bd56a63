# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""The router on Triton: two launches where PyTorch needs nine. Truth: router.py.

The product is small (0.7 MB of weights) and would fill four processors: so it is split along H as well, every program
multiplies one block, and the second launch, one warp per row, sums the pieces in a fixed order and takes the best.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .tiles import Tile


@triton.jit
def router_logits_kernel(
    x, proj, partial, T, E, H, x_stride, proj_stride,
    EVEN: tl.constexpr, BM: tl.constexpr, BE: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """Grid: (blocks of H, tiles of experts, row tiles). partial: fp32 [blocks of H, T, E]."""
    part = tl.program_id(0)
    e = tl.program_id(1) * BE + tl.arange(0, BE)
    row = tl.program_id(2) * BM + tl.arange(0, BM)
    h = part * BH + tl.arange(0, BH)
    w_ptr = proj + e[:, None] * proj_stride + h[None, :]
    x_ptr = x + row[None, :].to(tl.int64) * x_stride + h[:, None]
    if EVEN:
        w = tl.load(w_ptr)
        a = tl.load(x_ptr, mask=row[None, :] < T, other=0.0)
    else:
        w = tl.load(w_ptr, mask=(e[:, None] < E) & (h[None, :] < H), other=0.0)
        a = tl.load(x_ptr, mask=(row[None, :] < T) & (h[:, None] < H), other=0.0)
    logits = tl.dot(w, a, input_precision="ieee")
    at = (part.to(tl.int64) * T + row[None, :]) * E + e[:, None]
    tl.store(partial + at, logits, mask=(row[None, :] < T) & (e[:, None] < E))


@triton.jit
def router_choose_kernel(
    partial, per_expert_scale, ids, weights, T, E, num_parts, K: tl.constexpr, KP: tl.constexpr, EP: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """One program per row. KP, EP, PARTS: K, E and num_parts as powers of two."""
    row = tl.program_id(0)
    e = tl.arange(0, EP)
    part = tl.arange(0, PARTS)
    at = (part[:, None].to(tl.int64) * T + row) * E + e[None, :]
    pieces = tl.load(partial + at, mask=(part[:, None] < num_parts) & (e[None, :] < E), other=0.0)
    left = tl.where(e < E, tl.sum(pieces, axis=0), -float("inf"))
    k = tl.arange(0, KP)
    top = tl.full((KP,), -float("inf"), dtype=tl.float32)
    chosen = tl.zeros((KP,), dtype=tl.int32)
    for i in tl.static_range(K):
        value, expert = tl.max(left, axis=0, return_indices=True)
        top = tl.where(k == i, value, top)
        chosen = tl.where(k == i, expert, chosen)
        left = tl.where(e == expert, -float("inf"), left)
    share = tl.exp(top - tl.max(top, axis=0))
    share /= tl.sum(share, axis=0)
    scale = tl.load(per_expert_scale + chosen).to(tl.float32)
    place = row.to(tl.int64) * K + k
    tl.store(ids + place, chosen, mask=k < K)
    tl.store(weights + place, share * scale, mask=k < K)


def router(
    x: Tensor, proj: Tensor, per_expert_scale: Tensor, top_k: int, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """See router.router_reference. tile overrides the table."""
    (T, H), E = x.shape, proj.shape[0]
    ids = torch.empty((T, top_k), dtype=torch.int32, device=x.device)
    weights = torch.empty((T, top_k), dtype=torch.float32, device=x.device)
    if T == 0:
        return ids, weights
    tile = tile or tiles.pick("router", T, x.device)
    x = x if x.stride(-1) == 1 else x.contiguous()
    num_parts, expert_tiles, row_tiles = (
        triton.cdiv(H, tile["BH"]), triton.cdiv(E, tile["BE"]), triton.cdiv(T, tile["BM"])
    )  # fmt: skip
    partial = torch.empty((num_parts, T, E), dtype=torch.float32, device=x.device)
    router_logits_kernel[(num_parts, expert_tiles, row_tiles)](
        x, proj, partial, T, E, H, x.stride(0), proj.stride(0), EVEN=H % tile["BH"] == 0 and E % tile["BE"] == 0,
        BM=tile["BM"], BE=tile["BE"], BH=tile["BH"], num_warps=tile["warps"],
    )  # fmt: skip
    router_choose_kernel[(T,)](
        partial, per_expert_scale, ids, weights, T, E, num_parts, K=top_k, KP=triton.next_power_of_2(top_k),
        EP=triton.next_power_of_2(E), PARTS=triton.next_power_of_2(num_parts), num_warps=2,
    )  # fmt: skip
    return ids, weights
