# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""Canvas attention on Triton: flash attention whose rows bring their own ranges. Truth: attention.py.

The query heads that share a key head are rows of one tile, so a key is loaded once for all of them. A tile walks only
over the hull of its rows' ranges, read from the device: a sliding window costs what it covers. With few rows the walk
is split among programs, and a second launch merges their softmax states (of one split too: a variant without it had
other registers, and spilled). The host knows only the most splits that can be of use; how many are used is decided by
the hull, and those that are not write nothing but that.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .tiles import Tile

LOG2E = tl.constexpr(1.4426950408889634)
MIN_TURNS = tl.constexpr(2)
"""Blocks of keys that a split has at least: fewer cost more to merge than they save."""
MAX_SPLITS = 32


@triton.jit
def attend(
    acc, peak, total, q, key, value, first, last, low, high, start, stop, d, D,
    KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr, EVEN_D: tl.constexpr, BS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Adds the keys of blocks [start, stop), counted from position first and ending before last, to a softmax state.

    Strides are constants of a model: addresses inside a block are then one register and immediates.
    """
    s = tl.arange(0, BS)
    for block in tl.range(start, stop, num_stages=STAGES):
        begin = first + block * BS
        at = begin + s
        is_key = at < last
        k_ptr = key + begin.to(tl.int64) * KEY_STRIDE + (s[None, :] * KEY_STRIDE + d[:, None])
        v_ptr = value + begin.to(tl.int64) * VALUE_STRIDE + (s[:, None] * VALUE_STRIDE + d[None, :])
        if EVEN_D:
            k = tl.load(k_ptr, mask=is_key[None, :], other=0.0)
            v = tl.load(v_ptr, mask=is_key[:, None], other=0.0)
        else:
            k = tl.load(k_ptr, mask=is_key[None, :] & (d[:, None] < D), other=0.0)
            v = tl.load(v_ptr, mask=is_key[:, None] & (d[None, :] < D), other=0.0)
        scores = tl.dot(q, k.to(q.dtype), input_precision="ieee")
        sees = (at[None, :] >= low[:, None]) & (at[None, :] < high[:, None])
        scores = tl.where(sees, scores, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        # a row that has seen nothing yet has peak -inf, and -inf - -inf is not a number
        base = tl.where(higher == -float("inf"), 0.0, higher)
        # base 2 throughout: exp2 is the instruction that exists
        p = tl.exp2((scores - base[:, None]) * LOG2E)
        decay = tl.exp2((peak - base) * LOG2E)
        total = total * decay + tl.sum(p, axis=1)
        acc = tl.dot(p.to(q.dtype), v.to(q.dtype), acc * decay[:, None], input_precision="ieee")
        peak = higher
    return acc, peak, total


@triton.jit(do_not_specialize=["num_splits"])
def attention_kernel(
    query, key, value, cached_key, cached_value, ranges, partial, peaks, totals, T, D, num_splits, query_stride,
    query_head_stride, key_head_stride, value_head_stride, cached_key_head_stride, cached_value_head_stride,
    GROUP: tl.constexpr, KEY_STRIDE: tl.constexpr, VALUE_STRIDE: tl.constexpr, CACHED_KEY_STRIDE: tl.constexpr,
    CACHED_VALUE_STRIDE: tl.constexpr, EVEN_D: tl.constexpr, BM: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: (row tiles, key heads, splits). A tile's row m is query row m // GROUP, head m % GROUP of the key head.

    partial: fp32 [splits, Hkv, T * GROUP, D], unnormalised, and peaks, totals [splits, Hkv, T * GROUP]; a split that is
    not used leaves a total of 0 and partial alone.
    """
    head = tl.program_id(1)
    split = tl.program_id(2)
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    row = m // GROUP
    query_head = head * GROUP + m % GROUP
    is_row = row < T
    d = tl.arange(0, BD)
    q_ptr = query + tl.where(is_row, row, 0)[:, None].to(tl.int64) * query_stride
    q_mask = is_row[:, None] if EVEN_D else is_row[:, None] & (d[None, :] < D)
    q = tl.load(q_ptr + query_head[:, None] * query_head_stride + d[None, :], mask=q_mask, other=0.0)

    low = tl.load(ranges + row * 4, mask=is_row, other=0)
    high = tl.load(ranges + row * 4 + 1, mask=is_row, other=0)
    own_low = tl.load(ranges + row * 4 + 2, mask=is_row, other=0)
    own_high = tl.load(ranges + row * 4 + 3, mask=is_row, other=0)
    # the hull of the tile's ranges; an empty range must not stretch it
    first = tl.min(tl.where(high > low, low, 2**30), axis=0)
    last = tl.max(tl.where(high > low, high, 0), axis=0)
    own_first = tl.min(tl.where(own_high > own_low, own_low, 2**30), axis=0)
    own_last = tl.max(tl.where(own_high > own_low, own_high, 0), axis=0)
    num_cached = tl.cdiv(tl.maximum(last - first, 0), BS)
    num_blocks = num_cached + tl.cdiv(tl.maximum(own_last - own_first, 0), BS)
    # the storage may be far longer than what is seen of it
    used = tl.maximum(tl.minimum(num_splits, num_blocks // MIN_TURNS), 1)
    start = tl.minimum(num_blocks * split // used, num_blocks)
    stop = tl.minimum(num_blocks * (split + 1) // used, num_blocks)

    acc = tl.zeros((BM, BD), dtype=tl.float32)
    peak = tl.full((BM,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    acc, peak, total = attend(
        acc, peak, total, q, cached_key + head.to(tl.int64) * cached_key_head_stride,
        cached_value + head.to(tl.int64) * cached_value_head_stride, first, last, low, high, start,
        tl.minimum(stop, num_cached), d, D, CACHED_KEY_STRIDE, CACHED_VALUE_STRIDE, EVEN_D, BS, STAGES,
    )  # fmt: skip
    # in halves of a block: a few turns, and what does not spill the 64 x 512 accumulators of a Hopper warp group. Nor
    # does max(start, num_cached) - num_cached, where max(start - num_cached, 0) keeps a register more across the walk
    PARTS: tl.constexpr = 2 if BS > 16 else 1
    acc, peak, total = attend(
        acc, peak, total, q, key + head * key_head_stride, value + head * value_head_stride, own_first, own_last,
        own_low, own_high, (tl.maximum(start, num_cached) - num_cached) * PARTS, (stop - num_cached) * PARTS, d, D,
        KEY_STRIDE, VALUE_STRIDE, EVEN_D, BS // PARTS, STAGES,
    )  # fmt: skip

    base = (split.to(tl.int64) * tl.num_programs(1) + head) * T * GROUP
    tl.store(peaks + base + m, peak, mask=is_row)
    tl.store(totals + base + m, total, mask=is_row)
    tl.store(partial + base * D + (m[:, None] * D + d[None, :]), acc, mask=q_mask & (split < used))


@triton.jit(do_not_specialize=["num_splits"])
def merge_kernel(
    partial, peaks, totals, out, T, Hq, D, num_splits, GROUP: tl.constexpr, NS: tl.constexpr, BD: tl.constexpr
):
    """One program per (row, head): the splits' states become one. NS: splits, as a power of two.

    All splits are loaded at once: a loop over them would wait for memory as often as there are splits.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, BD)
    split = tl.arange(0, NS)
    place = (split.to(tl.int64) * (Hq // GROUP) + head // GROUP) * T * GROUP + row * GROUP + head % GROUP
    is_split = split < num_splits
    peak = tl.load(peaks + place, mask=is_split, other=-float("inf"))
    total = tl.load(totals + place, mask=is_split, other=0.0)
    highest = tl.max(peak, axis=0)
    base = tl.where(highest == -float("inf"), 0.0, highest)
    share = tl.exp2((peak - base) * LOG2E)
    whole = tl.sum(total * share, axis=0)
    # a split that saw nothing may have written nothing
    mask = (total > 0)[:, None] & (d[None, :] < D)
    parts = tl.load(partial + place[:, None] * D + d[None, :], mask=mask, other=0.0)
    acc = tl.sum(parts * share[:, None], axis=0) / tl.where(whole > 0, whole, 1.0)
    tl.store(out + (row.to(tl.int64) * Hq + head) * D + d, acc.to(out.dtype.element_ty), mask=d < D)


def canvas_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cached_key: Tensor,
    cached_value: Tensor,
    ranges: Tensor,
    tile: Tile | None = None,
) -> Tensor:
    """See attention.canvas_attention_reference; strides are free but for the last dimension. tile overrides the table.

    Cached positions outside the hull of a tile's ranges are not read.
    """
    (T, Hq, D), Hkv = query.shape, key.shape[1]
    out = torch.empty((T, Hq, D), dtype=query.dtype, device=query.device)
    if T == 0:
        return out
    block_d = max(16, triton.next_power_of_2(D))
    tile = fitted(tile or tiles.pick("attention", block_d, query.device), T * (Hq // Hkv))
    num_tiles = triton.cdiv(T * (Hq // Hkv), tile["BM"])
    splits = tile.get("splits") or _num_splits(
        _num_processors(query.device), num_tiles * Hkv, cached_key.shape[1] + T, tile
    )
    partial = torch.empty((splits, T * Hq, D), dtype=torch.float32, device=query.device)
    peaks = torch.empty((splits, T * Hq), dtype=torch.float32, device=query.device)
    totals = torch.empty_like(peaks)
    attention_kernel[(num_tiles, Hkv, splits)](
        query, key, value, cached_key, cached_value, ranges, partial, peaks, totals, T, D, splits, query.stride(0),
        query.stride(1), key.stride(1), value.stride(1), cached_key.stride(0), cached_value.stride(0), GROUP=Hq // Hkv,
        KEY_STRIDE=key.stride(0), VALUE_STRIDE=value.stride(0), CACHED_KEY_STRIDE=cached_key.stride(1),
        CACHED_VALUE_STRIDE=cached_value.stride(1), EVEN_D=block_d == D, BM=tile["BM"], BS=tile["BS"], BD=block_d,
        STAGES=tile["stages"], num_warps=tile["warps"],
    )  # fmt: skip
    merge_kernel[(T, Hq)](
        partial, peaks, totals, out, T, Hq, D, splits, GROUP=Hq // Hkv, NS=triton.next_power_of_2(splits), BD=block_d,
        num_warps=4,
    )  # fmt: skip
    return out


def fitted(tile: Tile, num_rows: int) -> Tile:
    """The tile for a key head that num_rows rows ask: lower, with fewer warps (but four), while it holds all of them.

    So a key head has two row tiles at least: measured at 32 and 128 rows, they beat one that needs as many splits more.
    """
    BM, warps = tile["BM"], tile["warps"]
    while BM > 16 and num_rows <= BM:
        BM, warps = BM // 2, max(4, warps // 2)
    return {**tile, "BM": BM, "warps": warps}


def _num_splits(num_processors: int, num_programs: int, num_keys: int, tile: Tile) -> int:
    """As many as make one wave of programs, one for each processor, if the keys are enough for so many."""
    return max(1, min(num_processors // num_programs, -(-num_keys // (MIN_TURNS.value * tile["BS"])), MAX_SPLITS))


@cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
