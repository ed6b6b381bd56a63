# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""The mixture of experts on Triton: one routing launch, gate and up with the activation, down, and the weighted sum.

Nothing here waits for the device: the number of tiles is bounded on the host and the surplus programs leave at once,
so the whole of it can be captured in a CUDA graph. Truth: experts.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .experts import PackedExperts, Routing, max_tiles
from .packed_triton import kind, launch
from .tiles import Tile


@triton.jit
def route_kernel(ids, slots, tile_expert, num_slots, limit, E, BM: tl.constexpr, EP: tl.constexpr, CHUNK: tl.constexpr):
    """One program per expert. Each counts all slots by itself: that costs less than a second launch or an atomic, and
    the order of slots is always that of the input."""
    me = tl.program_id(0)
    experts = tl.arange(0, EP)
    counts = tl.zeros((EP,), dtype=tl.int32)
    for start in range(0, num_slots, CHUNK):
        at = start + tl.arange(0, CHUNK)
        chosen = tl.load(ids + at, mask=at < num_slots, other=0).to(tl.int32)
        counts += tl.histogram(chosen, EP, mask=at < num_slots)
    num_tiles = (counts + BM - 1) // BM
    first = tl.sum(tl.where(experts < me, num_tiles, 0))
    mine = tl.sum(tl.where(experts == me, num_tiles, 0))
    count = tl.sum(tl.where(experts == me, counts, 0))
    total = tl.sum(num_tiles)
    for tile in range(first, first + mine):
        tl.store(tile_expert + tile, me)
    # the tiles that nobody has, shared out
    for tile in range(total + me, limit, E):
        tl.store(tile_expert + tile, -1)
    # the places of the last tile that stay empty
    pad = count + tl.arange(0, BM)
    tl.store(slots + first * BM + pad, tl.zeros_like(pad) + num_slots, mask=pad < mine * BM)
    base = first * BM
    for start in range(0, num_slots, CHUNK):
        at = start + tl.arange(0, CHUNK)
        is_mine = (tl.load(ids + at, mask=at < num_slots, other=-1).to(tl.int32) == me).to(tl.int32)
        tl.store(slots + base + tl.cumsum(is_mine) - 1, at, mask=is_mine > 0)
        base += tl.sum(is_mine)


@triton.jit
def combine_kernel(slots, weights, out, H, K, slot_stride, out_stride, BH: tl.constexpr):
    """out[t] = sum over k of weights[t, k] * slots[t * K + k]."""
    row = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BH + tl.arange(0, BH)
    acc = tl.zeros((BH,), dtype=tl.float32)
    for k in range(K):
        share = tl.load(weights + row * K + k).to(tl.float32)
        acc += tl.load(slots + (row * K + k) * slot_stride + h, mask=h < H, other=0.0).to(tl.float32) * share
    tl.store(out + row * out_stride + h, acc.to(out.dtype.element_ty), mask=h < H)


def route(ids: Tensor, num_experts: int, tile_rows: int) -> Routing:
    """See experts.route_reference; slots of tiles that nobody has are not written."""
    ids = ids.contiguous()
    num_slots = ids.numel()
    limit = max_tiles(num_slots, num_experts, tile_rows)
    slots = torch.empty(limit * tile_rows, dtype=torch.int32, device=ids.device)
    tile_expert = torch.empty(limit, dtype=torch.int32, device=ids.device)
    route_kernel[(num_experts,)](
        ids, slots, tile_expert, num_slots, limit, num_experts, BM=tile_rows,
        EP=max(32, triton.next_power_of_2(num_experts)), CHUNK=min(1024, max(128, triton.next_power_of_2(num_slots))),
    )  # fmt: skip
    return Routing(slots, tile_expert, tile_rows)


def expert_slots(
    x: Tensor, ids: Tensor, experts: PackedExperts, gate_up_tile: Tile | None = None, down_tile: Tile | None = None
) -> Tensor:
    """See experts.expert_slots_reference. The tiles override the table (for tests and for tune)."""
    (T, K), H, width = ids.shape, experts.hidden_size, experts.expert_size
    out = torch.empty((T, K, H), dtype=x.dtype, device=x.device)
    if T == 0:
        return out
    x = x if x.stride(-1) == 1 else x.contiguous()
    rows = T * K / min(experts.num_experts, T * K)
    up = gate_up_tile or tiles.pick(f"gate_up.{kind(experts.gate_up)}", rows, x.device)
    down = down_tile or tiles.pick(f"down.{kind(experts.down)}", rows, x.device)
    routing = route(ids, experts.num_experts, up["BM"])
    act = torch.empty((T * K, width), dtype=x.dtype, device=x.device)
    launch(
        x, experts.gate_up, act, up, slots=routing.slots, tile_expert=routing.tile_expert, num_slots=T * K,
        num_columns=width, row_div=K, is_gated=True,
    )  # fmt: skip
    if down["BM"] != up["BM"]:
        routing = route(ids, experts.num_experts, down["BM"])
    launch(
        act, experts.down, out.view(T * K, H), down, slots=routing.slots, tile_expert=routing.tile_expert,
        num_slots=T * K, num_columns=H,
    )  # fmt: skip
    return out


def experts(x: Tensor, ids: Tensor, weights: Tensor, packed: PackedExperts) -> Tensor:
    """See experts.experts_reference."""
    slots = expert_slots(x, ids, packed)
    T, K, H = slots.shape
    out = torch.empty((T, H), dtype=x.dtype, device=x.device)
    if T:
        block = min(1024, triton.next_power_of_2(H))
        grid = (T, triton.cdiv(H, block))
        combine_kernel[grid](slots, weights.contiguous(), out, H, K, slots.stride(1), out.stride(0), BH=block)
    return out
