# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""The vocabulary pass on Triton: one sweep over the table, logits never leave the registers. Truth: vocab.py.

Each program has BV tokens and BM rows and leaves a few numbers per row: a softmax state at both temperatures (maximum,
sum of exponentials, sum of exponential times distance), the best noisy logit, and its num_top best tokens. A second
launch, one program per row, merges them; there the top-k walks over the heads of the tiles' sorted lists.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .tiles import Tile
from .vocab import VocabStats

NUM_STATS = 8
"""Floats a program leaves per row: maximum, sums at temperature 1 and processed, best noisy logit, its plain logit,
id.
"""

BANNED = tl.constexpr(-1e30)
NO_TOKEN = tl.constexpr(2**31 - 1)


@triton.jit
def gumbel(seed, step, row_ids, first_v, BV: tl.constexpr, BM: tl.constexpr):
    """fp32 [BV, BM] noise of tokens first_v .. first_v + BV (a multiple of 4); see vocab.gumbel_noise."""
    zero = tl.zeros((BV // 4, BM), dtype=tl.int32)
    quad = (first_v // 4 + tl.arange(0, BV // 4))[:, None] + zero
    u0, u1, u2, u3 = tl.philox(seed, quad, row_ids[None, :] + zero, step + zero, zero)
    # [q, m, i, j] is word i + 2 j of its quad
    words = tl.join(tl.join(u0, u1), tl.join(u2, u3))
    bits = tl.permute(words, (0, 3, 2, 1)).reshape(BV, BM)
    uniform = ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(uniform))


@triton.jit
def lowest(value, peak, ids):
    """The lowest id among those whose value is the peak. value: [N, M], peak: [M], ids: [N]."""
    return tl.min(tl.where(value == peak[None, :], ids[:, None], NO_TOKEN), axis=0)


@triton.jit
def vocab_tile_kernel(
    hidden,
    table,
    temperature,
    row_ids,
    noise,
    is_banned,
    stats,
    top_values,
    top_ids,
    R,
    V,
    H,
    softcap,
    hidden_stride,
    table_stride,
    num_tiles,
    HAS_BANNED: tl.constexpr,
    EVEN_H: tl.constexpr,
    TOP: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BH: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Grid: (row tiles, vocabulary tiles), rows fastest: the row tiles of one piece of the table run together."""
    tile = tl.program_id(1)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    is_row = rows < R
    ids = tile * BV + tl.arange(0, BV)
    row_ptr = hidden + tl.where(is_row, rows, 0)[None, :].to(tl.int64) * hidden_stride + tl.arange(0, BH)[:, None]
    # a token past the end reads the last one, and is left out below
    table_ptr = table + tl.minimum(ids, V - 1)[:, None].to(tl.int64) * table_stride + tl.arange(0, BH)[None, :]
    acc = tl.zeros((BV, BM), dtype=tl.float32)
    for start in tl.range(0, H, BH, num_stages=STAGES):
        if EVEN_H:
            w = tl.load(table_ptr + start)
            x = tl.load(row_ptr + start)
        else:
            h = start + tl.arange(0, BH)
            w = tl.load(table_ptr + start, mask=h[None, :] < H, other=0.0)
            x = tl.load(row_ptr + start, mask=h[:, None] < H, other=0.0)
        acc = tl.dot(w, x, acc, input_precision="ieee")

    logits = acc
    if softcap > 0:
        # tanh(y) = 1 - 2 / (exp(2 y) + 1)
        logits = softcap * (1.0 - 2.0 / (tl.exp(acc * (2.0 / softcap)) + 1.0))
    if HAS_BANNED:
        banned = tl.load(is_banned + ids, mask=ids < V, other=0)
        logits = tl.where(banned[:, None] != 0, BANNED, logits)
    logits = tl.where(ids[:, None] < V, logits, -float("inf"))

    slope = 1.0 / tl.load(temperature + rows, mask=is_row, other=1.0)
    peak = tl.max(logits, axis=0)
    # a tile has at least one token inside the vocabulary, so the peak is finite
    distance = tl.where(ids[:, None] < V, logits - peak[None, :], BANNED)
    p1 = tl.exp(distance)
    scaled = distance * slope[None, :]
    pt = tl.exp(scaled)

    seed, step = tl.load(noise), tl.load(noise + 1).to(tl.int32)
    draw = gumbel(seed, step, tl.load(row_ids + rows, mask=is_row, other=0).to(tl.int32), tile * BV, BV, BM)
    noisy = logits * slope[None, :] + draw
    best = tl.max(noisy, axis=0)
    chosen = lowest(noisy, best, ids)
    chosen_logit = tl.max(tl.where(ids[:, None] == chosen[None, :], logits, -float("inf")), axis=0)

    field = stats + rows.to(tl.int64) * num_tiles + tile
    stride = R.to(tl.int64) * num_tiles
    tl.store(field, peak, mask=is_row)
    tl.store(field + stride, tl.sum(p1, axis=0), mask=is_row)
    tl.store(field + 2 * stride, tl.sum(p1 * distance, axis=0), mask=is_row)
    tl.store(field + 3 * stride, tl.sum(pt, axis=0), mask=is_row)
    tl.store(field + 4 * stride, tl.sum(pt * scaled, axis=0), mask=is_row)
    tl.store(field + 5 * stride, best, mask=is_row)
    tl.store(field + 6 * stride, chosen_logit, mask=is_row)
    tl.store(field + 7 * stride, chosen.to(tl.float32, bitcast=True), mask=is_row)

    place = (rows.to(tl.int64) * num_tiles + tile) * TOP
    left = logits
    for i in tl.static_range(TOP):
        value = tl.max(left, axis=0)
        winner = lowest(left, value, ids)
        tl.store(top_values + place + i, value, mask=is_row)
        tl.store(top_ids + place + i, winner, mask=is_row)
        left = tl.where(ids[:, None] == winner[None, :], -float("inf"), left)


@triton.jit
def vocab_merge_kernel(
    stats, top_values, top_ids, temperature, floats, ids, R, num_tiles, TOP: tl.constexpr, BT: tl.constexpr
):
    """One program per row. ids: [1 + TOP, R], the sample, then the list.

    floats: [5 + TOP, R], the sample's logit, lse, entropy, lse_1, entropy_1, then the list's logits.
    """
    row = tl.program_id(0)
    t = tl.arange(0, BT)
    is_tile = t < num_tiles
    field = stats + row.to(tl.int64) * num_tiles + t
    stride = R.to(tl.int64) * num_tiles
    low = -float("inf")
    peaks = tl.load(field, mask=is_tile, other=low)
    peak = tl.max(peaks, axis=0)
    gap = tl.where(is_tile, peaks - peak, BANNED)
    slope = 1.0 / tl.load(temperature + row)

    share = tl.exp(gap)
    s1 = tl.load(field + stride, mask=is_tile, other=0.0)
    w1 = tl.load(field + 2 * stride, mask=is_tile, other=0.0)
    total = tl.sum(s1 * share, axis=0)
    # exp(-1e30) is 0, and 0 * -1e30 is 0: an all-banned tile adds nothing
    mean = tl.sum((w1 + s1 * gap) * share, axis=0) / total
    share = tl.exp(gap * slope)
    st = tl.load(field + 3 * stride, mask=is_tile, other=0.0)
    wt = tl.load(field + 4 * stride, mask=is_tile, other=0.0)
    total_t = tl.sum(st * share, axis=0)
    mean_t = tl.sum((wt + st * gap * slope) * share, axis=0) / total_t

    noisy = tl.load(field + 5 * stride, mask=is_tile, other=low)
    best = tl.max(noisy, axis=0)
    sampled = tl.load(field + 7 * stride, mask=is_tile, other=0.0).to(tl.int32, bitcast=True)
    sample = tl.min(tl.where((noisy == best) & is_tile, sampled, NO_TOKEN), axis=0)
    plain = tl.load(field + 6 * stride, mask=is_tile, other=low)
    sample_logit = tl.max(tl.where((sampled == sample) & is_tile, plain, low), axis=0)

    tl.store(ids + row, sample)
    tl.store(floats + row, tl.where(sample_logit <= 0.1 * BANNED, low, sample_logit))
    tl.store(floats + R + row, peak * slope + tl.log(total_t))
    tl.store(floats + 2 * R + row, tl.maximum(tl.log(total_t) - mean_t, 0.0))
    tl.store(floats + 3 * R + row, peak + tl.log(total))
    tl.store(floats + 4 * R + row, tl.maximum(tl.log(total) - mean, 0.0))

    # every tile's list is sorted: only its head can be next
    used = tl.zeros((BT,), dtype=tl.int32)
    head_ptr = (row.to(tl.int64) * num_tiles + t) * TOP
    for i in tl.static_range(TOP):
        has = is_tile & (used < TOP)
        value = tl.load(top_values + head_ptr + used, mask=has, other=low)
        token = tl.load(top_ids + head_ptr + used, mask=has, other=NO_TOKEN)
        largest = tl.max(value, axis=0)
        winner = tl.min(tl.where(value == largest, token, NO_TOKEN), axis=0)
        tl.store(floats + (5 + i) * R + row, tl.where(largest <= 0.1 * BANNED, low, largest))
        tl.store(ids + (1 + i) * R + row, winner)
        used += ((token == winner) & has).to(tl.int32)


def vocab_stats(
    hidden: Tensor,
    table: Tensor,
    *,
    softcap: float,
    temperature: Tensor,
    noise: Tensor,
    num_top: int,
    row_ids: Tensor,
    is_banned: Tensor | None,
    tile: Tile | None = None,
) -> VocabStats:
    """See vocab.vocab_stats_reference. tile overrides the table."""
    (R, H), V = hidden.shape, table.shape[0]
    device = hidden.device
    tile = tile or tiles.pick("vocab", R, device)
    num_tiles = triton.cdiv(V, tile["BV"])
    # a power of two keeps the lists of a tile aligned, and serves neighbouring values of num_top with one compilation
    top = triton.next_power_of_2(num_top)
    stats = torch.empty((NUM_STATS, R, num_tiles), dtype=torch.float32, device=device)
    top_values = torch.empty((R, num_tiles, top), dtype=torch.float32, device=device)
    top_ids = torch.empty((R, num_tiles, top), dtype=torch.int32, device=device)
    floats = torch.empty((5 + top, R), dtype=torch.float32, device=device)
    ids = torch.empty((1 + top, R), dtype=torch.int32, device=device)
    if R:
        hidden = hidden if hidden.stride(-1) == 1 else hidden.contiguous()
        vocab_tile_kernel[(triton.cdiv(R, tile["BM"]), num_tiles)](
            hidden,
            table,
            temperature.contiguous(),
            row_ids.contiguous(),
            noise,
            is_banned,
            stats,
            top_values,
            top_ids,
            R,
            V,
            H,
            float(softcap),
            hidden.stride(0),
            table.stride(0),
            num_tiles,
            HAS_BANNED=is_banned is not None,
            EVEN_H=H % tile["BH"] == 0,
            TOP=top,
            BM=tile["BM"],
            BV=tile["BV"],
            BH=tile["BH"],
            STAGES=tile["stages"],
            num_warps=tile["warps"],
        )
        vocab_merge_kernel[(R,)](
            stats,
            top_values,
            top_ids,
            temperature,
            floats,
            ids,
            R,
            num_tiles,
            TOP=top,
            BT=triton.next_power_of_2(num_tiles),
            num_warps=8,
        )
    wide = ids.to(torch.int64)
    return VocabStats(
        argmax=wide[1],
        logit=floats[5],
        sample=wide[0],
        sample_logit=floats[0],
        lse=floats[1],
        entropy=floats[2],
        lse_1=floats[3],
        entropy_1=floats[4],
        top_ids=wide[1 : 1 + num_top].T,
        top_logits=floats[5 : 5 + num_top].T,
    )
