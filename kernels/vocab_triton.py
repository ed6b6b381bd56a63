# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
"""The vocabulary pass on Triton: one sweep over the table. Truth: vocab.py.

Each program has BV tokens and BM rows. It leaves a few numbers per row (a softmax state at both temperatures: maximum,
sum of exponentials, sum of exponential times distance; and the best noisy logit) and its logits, in a buffer of bounded
size: many rows go through the table a segment at a time. A second launch, one program per row, looks into the logits
of the num_top tiles with the largest maxima (no other tile can have one of the num_top best) and of the tile of the
sample, and after the last segment merges the softmax states.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .tiles import Tile
from .vocab import VocabStats

NUM_STATS = 6
"""Floats a program leaves per row: maximum, two sums at temperature 1, two processed, best noisy logit."""

MAX_LOGITS = 2**25
"""Logits that are kept at a time (134 MB): all of 128 rows of the released model's vocabulary."""

BANNED = tl.constexpr(-1e30)
NO_TOKEN = tl.constexpr(2**31 - 1)


@triton.jit
def gumbel(seed, step, row_ids, first_v, BM: tl.constexpr, BV: tl.constexpr):
    """fp32 [BM, BV] noise of tokens first_v .. first_v + BV (a multiple of 4); see vocab.gumbel_noise."""
    zero = tl.zeros((BM, BV // 4), dtype=tl.int32)
    quad = (first_v // 4 + tl.arange(0, BV // 4))[None, :] + zero
    u0, u1, u2, u3 = tl.philox(seed, quad, row_ids[:, None] + zero, step + zero, zero)
    # [m, q, i, j] is word 2 i + j of its quad
    bits = tl.join(tl.join(u0, u2), tl.join(u1, u3)).reshape(BM, BV)
    uniform = ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(uniform))


# an argument that is 1 becomes a constant of Python's, without the methods of a tensor
@triton.jit(do_not_specialize=["R", "first_tile", "segment"])
def vocab_tile_kernel(
    hidden, table, temperature, row_ids, noise, is_banned, stats, logits_out, R, V, H, softcap, hidden_stride,
    table_stride, num_tiles, first_tile, segment, HAS_BANNED: tl.constexpr, EVEN_H: tl.constexpr, BM: tl.constexpr,
    BV: tl.constexpr, BH: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid: (row tiles, vocabulary tiles of a segment), rows fastest: the row tiles of one piece of the table run
    together. segment: tiles that there is room for in logits_out [R, segment * BV].
    """
    tile = first_tile + tl.program_id(1)
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

    place = tl.program_id(1) * BV
    to = logits_out + rows[None, :].to(tl.int64) * (segment * BV) + (place + tl.arange(0, BV))[:, None]
    tl.store(to, logits, mask=is_row[None, :])
    peak = tl.max(logits, axis=0)

    # from here on a few tokens at a time, which come back from L2 with a row's tokens side by side: all at once would
    # take so many registers that one program filled a processor, and nothing hid what follows behind the next loads
    tl.debug_barrier()
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    is_row = rows < R
    slope = 1.0 / tl.load(temperature + rows, mask=is_row, other=1.0)
    seed, step = tl.load(noise), tl.load(noise + 1).to(tl.int32)
    row_id = tl.load(row_ids + rows, mask=is_row, other=0).to(tl.int32)
    v = tl.arange(0, CHUNK)
    line = logits_out + rows[:, None].to(tl.int64) * (segment * BV) + (place + v[None, :])
    s1 = tl.zeros((BM, CHUNK), dtype=tl.float32)
    w1 = tl.zeros((BM, CHUNK), dtype=tl.float32)
    st = tl.zeros((BM, CHUNK), dtype=tl.float32)
    wt = tl.zeros((BM, CHUNK), dtype=tl.float32)
    best = tl.full((BM, CHUNK), -float("inf"), dtype=tl.float32)
    for start in range(0, BV, CHUNK):
        x = tl.load(line + start, mask=is_row[:, None], other=BANNED, cache_modifier=".cg")
        # a tile has at least one token inside the vocabulary, so the peak is finite
        distance = tl.where((tile * BV + start + v)[None, :] < V, x - peak[:, None], BANNED)
        p1 = tl.exp(distance)
        scaled = distance * slope[:, None]
        pt = tl.exp(scaled)
        s1 += p1
        w1 += p1 * distance
        st += pt
        wt += pt * scaled
        best = tl.maximum(best, x * slope[:, None] + gumbel(seed, step, row_id, tile * BV + start, BM, CHUNK))

    field = stats + rows.to(tl.int64) * num_tiles + tile
    stride = R.to(tl.int64) * num_tiles
    tl.store(field, peak, mask=is_row)
    tl.store(field + stride, tl.sum(s1, axis=1), mask=is_row)
    tl.store(field + 2 * stride, tl.sum(w1, axis=1), mask=is_row)
    tl.store(field + 3 * stride, tl.sum(st, axis=1), mask=is_row)
    tl.store(field + 4 * stride, tl.sum(wt, axis=1), mask=is_row)
    tl.store(field + 5 * stride, tl.max(best, axis=1), mask=is_row)


@triton.jit(do_not_specialize=["R", "first_tile", "segment"])
def vocab_merge_kernel(
    stats, logits, temperature, row_ids, noise, floats, ids, R, V, num_tiles, first_tile, segment,
    IS_FIRST: tl.constexpr, IS_LAST: tl.constexpr, TOP: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr,
    BALL: tl.constexpr,
):  # fmt: skip
    """One program per row. BT, BALL: segment and num_tiles as powers of two.

    ids: int64 [1 + TOP, R], the sample, then the list; floats: [6 + TOP, R], the sample's logit, lse, entropy, lse_1,
    entropy_1, the list's logits, the sample's noisy logit.
    """
    row = tl.program_id(0)
    low = -float("inf")
    field = stats + row.to(tl.int64) * num_tiles
    stride = R.to(tl.int64) * num_tiles
    slope = 1.0 / tl.load(temperature + row)
    t = tl.arange(0, BT)
    is_tile = (t < segment) & (first_tile + t < num_tiles)
    peaks = tl.load(field + first_tile + t, mask=is_tile, other=low)
    noisy = tl.load(field + 5 * stride + first_tile + t, mask=is_tile, other=low)
    line = logits + row.to(tl.int64) * (segment * BV)

    # the sample: its tile, and there once more what won
    _, tile = tl.max(noisy, axis=0, return_indices=True)
    v = tl.arange(0, BV)[None, :]
    one = tl.arange(0, 1)
    plain = tl.load(line + tile * BV + v)
    seed, step = tl.load(noise), tl.load(noise + 1).to(tl.int32)
    draw = gumbel(seed, step, tl.load(row_ids + row + one).to(tl.int32), (first_tile + tile) * BV, 1, BV)
    best, chosen = tl.max(plain * slope + draw, axis=1, return_indices=True)
    logit = tl.sum(tl.where(v == chosen[:, None], plain, 0.0), axis=1)
    logit = tl.where(logit <= 0.1 * BANNED, low, logit)
    sample = tl.minimum((first_tile + tile) * BV + chosen, V - 1)
    noisy_ptr = floats + (5 + TOP) * R + row + one
    if not IS_FIRST:
        # of equal ones the earlier, whose id is lower
        before = tl.load(noisy_ptr)
        is_new = best > before
        best = tl.where(is_new, best, before)
        sample = tl.where(is_new, sample, tl.load(ids + row + one).to(tl.int32))
        logit = tl.where(is_new, logit, tl.load(floats + row + one))
        # nobody may write before all have read
        tl.debug_barrier()
    tl.store(noisy_ptr, best)
    tl.store(ids + row + one, sample.to(tl.int64))
    tl.store(floats + row + one, logit)

    # the tiles that may have one of the best: of equal ones the first, whose ids are lower
    place = tl.arange(0, TOP * BV)
    tile_of = tl.zeros((TOP * BV,), dtype=tl.int32)
    left = peaks
    for i in tl.static_range(TOP):
        _, tile = tl.max(left, axis=0, return_indices=True)
        tile_of = tl.where(place // BV == i, tile, tile_of)
        left = tl.where(t == tile, low, left)
    at = tile_of * BV + place % BV
    v = first_tile * BV + at
    # with fewer tiles than places the last ones repeat a tile
    is_token = (place // BV < tl.minimum(segment, num_tiles - first_tile)) & (v < V)
    values = tl.load(line + at, mask=is_token, other=low)
    v = tl.where(is_token, v, NO_TOKEN)
    k = tl.arange(0, TOP)
    if IS_FIRST:
        old = tl.full((TOP,), low, dtype=tl.float32)
        old_v = tl.full((TOP,), NO_TOKEN, dtype=tl.int32)
    else:
        old = tl.load(floats + (5 + k) * R + row)
        old_v = tl.load(ids + (1 + k) * R + row).to(tl.int32)
    list_values = tl.full((TOP,), low, dtype=tl.float32)
    list_ids = tl.full((TOP,), NO_TOKEN, dtype=tl.int32)
    for i in tl.static_range(TOP):
        value = tl.maximum(tl.max(values, axis=0), tl.max(old, axis=0))
        token = tl.minimum(
            tl.min(tl.where(values == value, v, NO_TOKEN), axis=0),
            tl.min(tl.where(old == value, old_v, NO_TOKEN), axis=0),
        )
        list_values = tl.where(k == i, value, list_values)
        list_ids = tl.where(k == i, token, list_ids)
        values = tl.where(v == token, low, values)
        old = tl.where(old_v == token, low, old)
    if IS_LAST:
        list_values = tl.where(list_values <= 0.1 * BANNED, low, list_values)
        # of a row that is no number nothing equals the largest; its tokens must still be some, for they are looked up
        list_ids = tl.minimum(list_ids, V - 1)
    tl.store(floats + (5 + k) * R + row, list_values)
    tl.store(ids + (1 + k) * R + row, list_ids.to(tl.int64))

    if IS_LAST:
        t = tl.arange(0, BALL)
        is_tile = t < num_tiles
        field += t
        peaks = tl.load(field, mask=is_tile, other=low)
        s1 = tl.load(field + stride, mask=is_tile, other=0.0)
        w1 = tl.load(field + 2 * stride, mask=is_tile, other=0.0)
        st = tl.load(field + 3 * stride, mask=is_tile, other=0.0)
        wt = tl.load(field + 4 * stride, mask=is_tile, other=0.0)
        peak = tl.max(peaks, axis=0)
        gap = tl.where(is_tile, peaks - peak, BANNED)
        share, share_t = tl.exp(gap), tl.exp(gap * slope)
        # exp(-1e30) is 0, and 0 * -1e30 is 0: an all-banned tile adds nothing
        total = tl.sum(s1 * share, axis=0)
        mean = tl.sum((w1 + s1 * gap) * share, axis=0) / total
        total_t = tl.sum(st * share_t, axis=0)
        mean_t = tl.sum((wt + st * gap * slope) * share_t, axis=0) / total_t
        tl.store(floats + R + row, peak * slope + tl.log(total_t))
        # what is no number stays none, or the row would look certain
        tl.store(floats + 2 * R + row, tl.maximum(tl.log(total_t) - mean_t, 0.0, tl.PropagateNan.ALL))
        tl.store(floats + 3 * R + row, peak + tl.log(total))
        tl.store(floats + 4 * R + row, tl.maximum(tl.log(total) - mean, 0.0, tl.PropagateNan.ALL))


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
    segment = max(1, min(num_tiles, MAX_LOGITS // max(1, R * tile["BV"])))
    # equal segments, so that the last is no stub
    segment = triton.cdiv(num_tiles, triton.cdiv(num_tiles, segment))
    logits = torch.empty((R, segment * tile["BV"]), dtype=torch.float32, device=device)
    floats = torch.empty((6 + top, R), dtype=torch.float32, device=device)
    ids = torch.empty((1 + top, R), dtype=torch.int64, device=device)
    if R:
        temperature, row_ids = temperature.contiguous(), row_ids.contiguous()
        hidden = hidden if hidden.stride(-1) == 1 else hidden.contiguous()
        for first in range(0, num_tiles, segment):
            vocab_tile_kernel[(triton.cdiv(R, tile["BM"]), min(segment, num_tiles - first))](
                hidden, table, temperature, row_ids, noise, is_banned, stats, logits, R, V, H, float(softcap),
                hidden.stride(0), table.stride(0), num_tiles, first, segment, HAS_BANNED=is_banned is not None,
                EVEN_H=H % tile["BH"] == 0, BM=tile["BM"], BV=tile["BV"], BH=tile["BH"],
                # eight tokens a thread
                CHUNK=min(tile["BV"], max(16, 256 * tile["warps"] // tile["BM"])), STAGES=tile["stages"],
                num_warps=tile["warps"],
            )  # fmt: skip
            vocab_merge_kernel[(R,)](
                stats, logits, temperature, row_ids, noise, floats, ids, R, V, num_tiles, first, segment,
                IS_FIRST=first == 0, IS_LAST=first + segment >= num_tiles, TOP=top, BV=tile["BV"],
                BT=triton.next_power_of_2(segment), BALL=triton.next_power_of_2(num_tiles), num_warps=8,
            )  # fmt: skip
    return VocabStats(
        argmax=ids[1],
        logit=floats[5],
        sample=ids[0],
        sample_logit=floats[0],
        lse=floats[1],
        entropy=floats[2],
        lse_1=floats[3],
        entropy_1=floats[4],
        top_ids=ids[1 : 1 + num_top].T,
        top_logits=floats[5 : 5 + num_top].T,
    )
