# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""Canvas attention on Triton: flash attention whose rows bring their own ranges. Truth: attention.py.

The query heads that share a key head are rows of one tile, so a key is loaded once for all of them. A tile walks only
over the hull of its rows' ranges, read from the device: a sliding window costs what it covers. With few rows the walk
is split among programs, and a second launch merges their softmax states.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .tiles import Tile


@triton.jit
def attend(
    acc, peak, total, q, key, value, key_stride, value_stride, first, last, low, high, start, stop, d, D,
    EVEN_D: tl.constexpr, BS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Adds the keys of blocks [start, stop), counted from position first and ending before last, to a softmax state."""
    for block in tl.range(start, stop, num_stages=STAGES):
        at = first + block * BS + tl.arange(0, BS)
        is_key = at < last
        offset = at.to(tl.int64)
        if EVEN_D:
            k = tl.load(key + offset[None, :] * key_stride + d[:, None], mask=is_key[None, :], other=0.0)
            v = tl.load(value + offset[:, None] * value_stride + d[None, :], mask=is_key[:, None], other=0.0)
        else:
            k_mask = is_key[None, :] & (d[:, None] < D)
            k = tl.load(key + offset[None, :] * key_stride + d[:, None], mask=k_mask, other=0.0)
            v_mask = is_key[:, None] & (d[None, :] < D)
            v = tl.load(value + offset[:, None] * value_stride + d[None, :], mask=v_mask, other=0.0)
        # base 2 throughout: exp2 is the instruction that exists
        scores = tl.dot(q, k.to(q.dtype), input_precision="ieee") * 1.4426950408889634
        sees = (at[None, :] >= low[:, None]) & (at[None, :] < high[:, None])
        scores = tl.where(sees, scores, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        # a row that has seen nothing yet has peak -inf, and -inf - -inf is not a number
        base = tl.where(higher == -float("inf"), 0.0, higher)
        p = tl.exp2(scores - base[:, None])
        decay = tl.exp2(peak - base)
        total = total * decay + tl.sum(p, axis=1)
        acc = tl.dot(p.to(q.dtype), v.to(q.dtype), acc * decay[:, None], input_precision="ieee")
        peak = higher
    return acc, peak, total


@triton.jit
def attention_kernel(
    query,
    key,
    value,
    cached_key,
    cached_value,
    ranges,
    out,
    peaks,
    totals,
    T,
    Hq,
    D,
    group,
    num_splits,
    query_stride,
    query_head_stride,
    key_stride,
    key_head_stride,
    value_stride,
    value_head_stride,
    cached_key_stride,
    cached_key_head_stride,
    cached_value_stride,
    cached_value_head_stride,
    SPLIT: tl.constexpr,
    EVEN_D: tl.constexpr,
    BM: tl.constexpr,
    BS: tl.constexpr,
    BD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Grid: (row tiles, key heads, splits). A tile's row m is query row m // group, head m % group of the key head.

    out: [T, Hq, D]; or with SPLIT fp32 [splits, T, Hq, D] unnormalised, and peaks, totals [splits, T, Hq].
    """
    head = tl.program_id(1)
    split = tl.program_id(2)
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    row = m // group
    query_head = head * group + m % group
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
    start = num_blocks * split // num_splits
    stop = num_blocks * (split + 1) // num_splits

    acc = tl.zeros((BM, BD), dtype=tl.float32)
    peak = tl.full((BM,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    acc, peak, total = attend(
        acc, peak, total, q, cached_key + head.to(tl.int64) * cached_key_head_stride,
        cached_value + head.to(tl.int64) * cached_value_head_stride, cached_key_stride, cached_value_stride, first,
        last, low, high, start, tl.minimum(stop, num_cached), d, D, EVEN_D, BS, STAGES,
    )  # fmt: skip
    acc, peak, total = attend(
        acc, peak, total, q, key + head * key_head_stride, value + head * value_head_stride, key_stride, value_stride,
        own_first, own_last, own_low, own_high, tl.maximum(start - num_cached, 0), stop - num_cached, d, D, EVEN_D, BS,
        STAGES,
    )  # fmt: skip

    at = row.to(tl.int64) * Hq + query_head
    if SPLIT:
        at += split.to(tl.int64) * T * Hq
        tl.store(peaks + at, peak, mask=is_row)
        tl.store(totals + at, total, mask=is_row)
    else:
        acc /= tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + at[:, None] * D + d[None, :], acc.to(out.dtype.element_ty), mask=q_mask)


@triton.jit
def merge_kernel(partial, peaks, totals, out, num_heads, D, num_splits, BD: tl.constexpr):
    """One program per (row, head): the splits' states become one. num_heads: T * Hq."""
    at = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BD)
    peak = tl.full((), -float("inf"), dtype=tl.float32)
    for split in range(num_splits):
        peak = tl.maximum(peak, tl.load(peaks + split * num_heads + at))
    base = tl.where(peak == -float("inf"), 0.0, peak)
    acc = tl.zeros((BD,), dtype=tl.float32)
    total = tl.zeros((), dtype=tl.float32)
    for split in range(num_splits):
        place = split * num_heads + at
        share = tl.exp2(tl.load(peaks + place) - base)
        total += tl.load(totals + place) * share
        acc += tl.load(partial + place * D + d, mask=d < D, other=0.0) * share
    acc /= tl.where(total > 0, total, 1.0)
    tl.store(out + at * D + d, acc.to(out.dtype.element_ty), mask=d < D)


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
    tile = tile or tiles.pick("attention", block_d, query.device)
    num_tiles = triton.cdiv(T * (Hq // Hkv), tile["BM"])
    splits = tile.get("splits") or _num_splits(query.device, num_tiles * Hkv, cached_key.shape[1] + T, tile["BS"])
    partial, peaks, totals = out, out, out
    if splits > 1:
        partial = torch.empty((splits, T, Hq, D), dtype=torch.float32, device=query.device)
        peaks = torch.empty((splits, T, Hq), dtype=torch.float32, device=query.device)
        totals = torch.empty_like(peaks)
    attention_kernel[(num_tiles, Hkv, splits)](
        query,
        key,
        value,
        cached_key,
        cached_value,
        ranges,
        partial,
        peaks,
        totals,
        T,
        Hq,
        D,
        Hq // Hkv,
        splits,
        query.stride(0),
        query.stride(1),
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        cached_key.stride(1),
        cached_key.stride(0),
        cached_value.stride(1),
        cached_value.stride(0),
        SPLIT=splits > 1,
        EVEN_D=block_d == D,
        BM=tile["BM"],
        BS=tile["BS"],
        BD=block_d,
        STAGES=tile["stages"],
        num_warps=tile["warps"],
    )
    if splits > 1:
        merge_kernel[(T * Hq,)](partial, peaks, totals, out, T * Hq, D, splits, BD=block_d, num_warps=4)
    return out


def _num_splits(device: torch.device, num_programs: int, num_keys: int, block: int) -> int:
    """Enough splits to occupy the device twice, but never fewer than four blocks of keys each."""
    wanted = -(-2 * _num_processors(device) // num_programs)
    return max(1, min(wanted, num_keys // (4 * block), 16))


@cache
def _num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
