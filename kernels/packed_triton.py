# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped,assignment"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportAssignmentType=false
"""One matrix product for every packed format: out^T = W x^T, tile by tile. The experts and the dense linear are this.

Weights are the M operand and rows of x the N operand ("swap-AB"), because a denoise step has few rows per expert: the
tensor core's N may be 8 where its M is 16 (or 64 on Hopper), and weights that are decoded in registers may stay there,
also for wgmma, which takes only its first operand from registers. See packing.py for the order of the weights.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .packing import PackedMatrix
from .tiles import Tile

IS_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def nibbles(words, QUARTER: tl.constexpr):
    """int32 words: the codes of one quarter of their block as bf16 pairs of 128 + code (code in 0..15), exact."""
    words = words >> (4 * QUARTER)
    if IS_INTERPRETED:
        return (words & 0x000F000F) | 0x43004300
    # one instruction, which neither LLVM nor ptxas makes of the line above; the interpreter knows no assembly
    return tl.inline_asm_elementwise(
        "lop3.b32 $0, $1, 0x000F000F, 0x43004300, 0xEA;", "=r,r", [words], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def less_136(pairs):
    """int32 words of two bf16 each: both less 136, in one instruction. Triton 3.7 takes pairs apart to subtract."""
    # an addition of pairs is there from Hopper on, before it only a multiply-add
    if tl.target_info.cuda_capability_geq(9):
        return tl.inline_asm_elementwise(
            "{ .reg .b32 m; mov.b32 m, 0xC308C308; add.rn.bf16x2 $0, $1, m; }",
            "=r,r", [pairs], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    return tl.inline_asm_elementwise(
        "{ .reg .b32 one, m; mov.b32 one, 0x3F803F80; mov.b32 m, 0xC308C308; fma.rn.bf16x2 $0, $1, one, m; }",
        "=r,r", [pairs], dtype=tl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def int4_quarter(words, QUARTER: tl.constexpr, FOLD: tl.constexpr):
    """int32 words [N, Q/2] -> bf16 [N, Q/2, 2]: the codes of a word's two columns in one quarter, less 8; with FOLD
    128 + code (what start of `int4_dot` has taken off already)."""
    pairs = nibbles(words, QUARTER)
    if not (FOLD or IS_INTERPRETED):
        pairs = less_136(pairs)
    low = pairs.to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (pairs >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    both = tl.join(low, high)
    if IS_INTERPRETED and not FOLD:
        both = (both - 136.0).to(tl.bfloat16)
    return both


@triton.jit
def int4_tile(words, FIRST: tl.constexpr, NUM: tl.constexpr, WGMMA: tl.constexpr, FOLD: tl.constexpr):
    """int32 words [N, W] -> bf16 [N, 2 NUM W]: NUM quarters from FIRST on as `int4_quarter` has them, in the order of
    `x_column`."""
    N: tl.constexpr = words.shape[0]
    W: tl.constexpr = words.shape[1]
    if NUM == 1:
        return int4_quarter(words, FIRST, FOLD).reshape(N, 2 * W)
    elif NUM == 2:
        both = tl.join(int4_quarter(words, FIRST, FOLD), int4_quarter(words, FIRST + 1, FOLD))
        if WGMMA:
            return both.reshape(N, W // 4, 4, 2, 2).permute(0, 1, 4, 2, 3).reshape(N, 4 * W)
        else:
            return both.permute(0, 1, 3, 2).reshape(N, 4 * W)
    else:
        even = tl.join(int4_quarter(words, 0, FOLD), int4_quarter(words, 2, FOLD))
        odd = tl.join(int4_quarter(words, 1, FOLD), int4_quarter(words, 3, FOLD))
        # the last three dimensions: column of the word, which pair of quarters, which of the pair
        every = tl.join(even, odd)
        if WGMMA:
            return every.reshape(N, W // 4, 4, 2, 2, 2).permute(0, 1, 4, 5, 2, 3).reshape(N, 8 * W)
        else:
            return every.permute(0, 3, 1, 4, 2).reshape(N, 8 * W)


@triton.jit
def x_column(Q: tl.constexpr, FIRST: tl.constexpr, NUM: tl.constexpr, WGMMA: tl.constexpr):
    """The columns of a block that `int4_tile` yields, [NUM Q].

    The sum over columns may have any order, so it gets the one in which every thread finds its columns of several
    quarters in one word: eight columns of each quarter in turn for wgmma, a word of two quarters in turn for mma.
    """
    k = tl.arange(0, NUM * Q)
    if NUM == 1:
        return FIRST * Q + k
    elif WGMMA:
        column = (FIRST + k // 8 % NUM) * Q + k // (8 * NUM) * 8 + k % 8
        return tl.max_contiguous(tl.multiple_of(column, 8), 8)
    else:
        column = (FIRST + k // (2 * Q) * 2 + k // 2 % 2) * Q + k % (2 * Q) // 4 * 2 + k % 2
        return tl.max_contiguous(tl.multiple_of(column, 2), 2)


@triton.jit
def minus_tile(N: tl.constexpr, KD: tl.constexpr, zero):
    """bf16 [N, KD] of -136. zero: 0, but not known when this is compiled: a constant tile would be filled anew in every
    turn of the loop."""
    place = tl.arange(0, N)[:, None] * KD + tl.arange(0, KD // 2)[None, :]
    words = (place & zero) | -0x3CF73CF8
    low = words.to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (words >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.join(low, high).reshape(N, KD)


@triton.jit
def gelu_tanh(x):
    # tanh(y) = 1 - 2 / (exp(2 y) + 1), which saturates to the right side at both ends
    y = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return 0.5 * x * (2.0 - 2.0 / (tl.exp(2.0 * y) + 1.0))


@triton.jit
def panel_row(first_n, N, BN: tl.constexpr, GATED: tl.constexpr):
    """Of BN columns of the output from first_n on: which panel holds the (gate) weights, and which row of it."""
    n = first_n + tl.arange(0, BN)
    # a tile may reach past the last panel: read the last panel again, the store drops it
    inside = tl.minimum(n, (N + 15) // 16 * 16 - 16 + n % 16)
    return inside // 16 * (2 if GATED else 1), inside % 16


@triton.jit
def scale_pointers(scale, first_n, N, BN: tl.constexpr, GATED: tl.constexpr, HALVES: tl.constexpr):
    if HALVES == 1:
        panel, row = panel_row(first_n, N, BN, GATED)
        return (scale + panel * 16 + row,)
    else:
        panel, row = panel_row(first_n, N, BN // 2, GATED)
        panel2, row2 = panel_row(first_n + BN // 2, N, BN // 2, GATED)
        return (scale + panel * 16 + row, scale + panel2 * 16 + row2)


@triton.jit
def load_rows(pointers, offset, HALVES: tl.constexpr):
    """A value for each row. HALVES is 2 where a tile has as many rows as threads: Triton would spread one load of so
    many values over the threads and pass them on through shared memory; of half as many each thread loads its own."""
    if HALVES == 1:
        return tl.load(pointers[0] + offset)
    else:
        both = tl.join(tl.load(pointers[0] + offset), tl.load(pointers[1] + offset))
        return both.permute(1, 0).reshape(2 * both.shape[0])


@triton.jit
def load_scales(pointers, block, stride, GROUP: tl.constexpr, BK: tl.constexpr, HALVES: tl.constexpr):
    """The words with a block's scales (two bf16 a word, of groups that follow each other), as a pair."""
    if GROUP <= 0:
        return block, block
    elif GROUP * 4 <= BK:
        low = load_rows(pointers, block * 2 * stride, HALVES)
        return low, load_rows(pointers, (block * 2 + 1) * stride, HALVES)
    else:
        word = load_rows(pointers, block * BK // (2 * GROUP) * stride, HALVES)
        return word, word


@triton.jit
def half(word, is_high):
    """fp32 of one of the two bf16 values in a word."""
    return ((word << (16 - 16 * is_high)) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def load_x(
    x_ptr, base, K, Q: tl.constexpr, FIRST: tl.constexpr, NUM: tl.constexpr, EVEN_K: tl.constexpr, WGMMA: tl.constexpr
):
    """The rows' values at the columns of `int4_tile`, [NUM Q, M]."""
    k = base + x_column(Q, FIRST, NUM, WGMMA)[:, None]
    if EVEN_K:
        return tl.load(x_ptr + k)
    return tl.load(x_ptr + k, mask=k < K, other=0.0)


@triton.jit
def int4_dot(words, x, start, FIRST: tl.constexpr, NUM: tl.constexpr, WGMMA: tl.constexpr, FOLD: tl.constexpr):
    """The product of NUM quarters of a block with x, unscaled; with FOLD, start has taken 136 off the codes already."""
    tile = int4_tile(words, FIRST, NUM, WGMMA, FOLD)
    return tl.dot(tile.to(x.dtype), x, start, input_precision="ieee")


@triton.jit
def add_scaled(acc, got, scales, part, block, GROUP: tl.constexpr, BK: tl.constexpr):
    if GROUP <= 0:
        return acc + got
    elif GROUP >= BK:
        return acc + got * half(scales[0], block * BK // GROUP % 2)[:, None]
    else:
        # four scales in a block lie in two words, two in one
        return acc + got * half(scales[part // 2], part % 2)[:, None]


@triton.jit
def int4_block(acc, up, w_ptr, up_ptr, scales, up_scales, xs, minus, block, GROUP: tl.constexpr, BK: tl.constexpr,
               NUM: tl.constexpr, WGMMA: tl.constexpr, GATED: tl.constexpr, FOLD: tl.constexpr):  # fmt: skip
    """Adds one block of BK columns to acc and up [N, M]. xs: 4 / NUM parts of x^T in the order of `x_column`."""
    words = tl.load(w_ptr)
    up_words = words
    if GATED:
        up_words = tl.load(up_ptr)
    # parts that share a scale
    PER: tl.constexpr = 4 // NUM if GROUP <= 0 or GROUP >= BK else GROUP * 4 // BK // NUM
    for part in tl.static_range(0, 4 // NUM // PER):
        start = tl.zeros_like(acc)
        if FOLD:
            # -136 times the column sums of x: takes 128 + 8 off every code at once
            for i in tl.static_range(part * PER, (part + 1) * PER):
                start = tl.dot(minus, xs[i], start, input_precision="ieee")
        got = start
        for i in tl.static_range(part * PER, (part + 1) * PER):
            got = int4_dot(words, xs[i], got, i * NUM, NUM, WGMMA, FOLD)
        acc = add_scaled(acc, got, scales, part, block, GROUP, BK)
        if GATED:
            got = start
            for i in tl.static_range(part * PER, (part + 1) * PER):
                got = int4_dot(up_words, xs[i], got, i * NUM, NUM, WGMMA, FOLD)
            up = add_scaled(up, got, up_scales, part, block, GROUP, BK)
    return acc, up


@triton.jit
def wide_block(acc, w_ptr, scales, x, block, GROUP: tl.constexpr, BK: tl.constexpr):
    """The same for a block of BK columns in int8, fp8 or bf16: never across a scale group. x: [BK, M]."""
    weight = tl.load(w_ptr).to(x.dtype)
    if GROUP > 0:
        part = tl.dot(weight, x, input_precision="ieee")
        return acc + part * half(scales[0], block * BK // GROUP % 2)[:, None]
    return tl.dot(weight, x, acc, input_precision="ieee")


# an argument that is 1 becomes a constant of Python's, without the methods of a tensor
@triton.jit(do_not_specialize=["num_slots"])
def packed_product(
    x, weight, scale, out, slots, tile_expert, num_slots, N, K, num_blocks, panel_stride, matrix_stride, scale_stride,
    scale_matrix_stride, x_stride, out_stride, row_div, num_parts, GATED: tl.constexpr, ROUTED: tl.constexpr,
    IS_INT4: tl.constexpr, GROUP: tl.constexpr, EVEN_K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, STAGES: tl.constexpr, IS_SPLIT: tl.constexpr, WGMMA: tl.constexpr, NUM: tl.constexpr,
    FOLD: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """out[slot, n] = sum over k of W[expert, n, k] * x[slot // row_div, k]; GATED: gelu(gate) * up, n an expert column.

    Grid: tiles of BM slots times ceil(N / BN) times num_parts. ROUTED: slots and tile_expert say which slots and which
    matrix a tile has; otherwise slot = row and there is one matrix. N here is the number of columns of `out`.
    IS_SPLIT: out is fp32 [num_parts, 1 or 2 (gate and up), num_slots, N], sums over a part of K each, for `add_parts`.
    """
    num_n = tl.cdiv(N, BN)
    place = tl.program_id(0)
    my_part = 0
    if IS_SPLIT:
        place = tl.program_id(0) // num_parts
        my_part = tl.program_id(0) % num_parts
    tile = place // num_n
    first_n = (place % num_n) * BN
    if ROUTED:
        expert = tl.load(tile_expert + tile)
        if expert < 0:
            return
        slot = tl.load(slots + tile * BM + tl.arange(0, BM))
    else:
        expert = 0
        slot = tile * BM + tl.arange(0, BM)
    is_slot = slot < num_slots
    row = tl.where(is_slot, slot, 0) // row_div
    W: tl.constexpr = BK // 8 if IS_INT4 else BK
    Q: tl.constexpr = BK // 4 if IS_INT4 else BK

    panel, panel_line = panel_row(first_n, N, BN, GATED)
    w_row = panel[:, None].to(tl.int64) * panel_stride + panel_line[:, None] * W + tl.arange(0, W)[None, :]
    w_ptr = weight + expert.to(tl.int64) * matrix_stride + w_row if ROUTED else weight + w_row
    s_base = scale + expert.to(tl.int64) * scale_matrix_stride if ROUTED else scale
    s_ptr = scale_pointers(s_base, first_n, N, BN, GATED, HALVES)
    up_ptr = scale_pointers(s_base + 16, first_n, N, BN, GATED, HALVES)
    x_ptr = x + row[None, :].to(tl.int64) * x_stride
    first_block, end_block = 0, num_blocks
    if IS_SPLIT:
        share = tl.cdiv(num_blocks, num_parts)
        first_block = tl.minimum(my_part * share, num_blocks)
        end_block = tl.minimum(first_block + share, num_blocks)
        w_ptr += first_block * (16 * W)
    minus = minus_tile(BN, NUM * Q, num_blocks >> 30).to(x.dtype.element_ty)
    acc = tl.zeros((BN, BM), dtype=tl.float32)
    up = acc
    # scales are read one block ahead into registers: too narrow for cp.async, too far away to wait for
    # a part past the end reads a scale that is there, and nothing else
    at_first = tl.minimum(first_block, num_blocks - 1)
    scales = load_scales(s_ptr, at_first, scale_stride, GROUP, BK, HALVES)
    up_scales = scales
    if GATED:
        up_scales = load_scales(up_ptr, at_first, scale_stride, GROUP, BK, HALVES)
    for block in tl.range(first_block, end_block, num_stages=STAGES):
        ahead = tl.minimum(block + 1, num_blocks - 1)
        next_scales = load_scales(s_ptr, ahead, scale_stride, GROUP, BK, HALVES)
        next_up_scales = next_scales
        if GATED:
            next_up_scales = load_scales(up_ptr, ahead, scale_stride, GROUP, BK, HALVES)
        if IS_INT4:
            base = block * BK
            xs = (load_x(x_ptr, base, K, Q, 0, NUM, EVEN_K, WGMMA),)
            for part in tl.static_range(1, 4 // NUM):
                xs = xs + (load_x(x_ptr, base, K, Q, part * NUM, NUM, EVEN_K, WGMMA),)  # noqa: RUF005
            acc, up = int4_block(
                acc, up, w_ptr, w_ptr + panel_stride, scales, up_scales, xs, minus, block, GROUP, BK, NUM, WGMMA,
                GATED, FOLD,
            )  # fmt: skip
        else:
            base = block * BK
            if EVEN_K:
                xb = tl.load(x_ptr + base + tl.arange(0, Q)[:, None])
            else:
                k = base + tl.arange(0, Q)[:, None]
                xb = tl.load(x_ptr + k, mask=k < K, other=0.0)
            acc = wide_block(acc, w_ptr, scales, xb, block, GROUP, BK)
            if GATED:
                up = wide_block(up, w_ptr + panel_stride, up_scales, xb, block, GROUP, BK)
        w_ptr += 16 * W
        scales = next_scales
        up_scales = next_up_scales
    if GROUP == -1:
        acc *= load_rows(s_ptr, 0, HALVES).to(tl.float32)[:, None]
        if GATED:
            up *= load_rows(up_ptr, 0, HALVES).to(tl.float32)[:, None]
    n = first_n + tl.arange(0, BN)
    if IS_SPLIT:
        plane = num_slots.to(tl.int64) * N
        at = my_part * plane * (2 if GATED else 1) + slot[None, :].to(tl.int64) * N + n[:, None]
        is_inside = is_slot[None, :] & (n < N)[:, None]
        tl.store(out + at, acc, mask=is_inside)
        if GATED:
            tl.store(out + at + plane, up, mask=is_inside)
        return
    if GATED:
        acc = gelu_tanh(acc) * up
    out_ptr = out + slot[None, :].to(tl.int64) * out_stride + n[:, None]
    tl.store(out_ptr, acc.to(out.dtype.element_ty), mask=is_slot[None, :] & (n < N)[:, None])


@triton.jit(do_not_specialize=["num_slots"])
def add_parts(parts, out, num_slots, N, out_stride, PARTS: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr):
    """What `packed_product` left with IS_SPLIT: the sums of the parts, always in the same order. Unrolled: all are on
    their way at once.
    """
    slot = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = n < N
    plane = num_slots.to(tl.int64) * N
    at = parts + slot * N + n
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    up = acc
    for _ in tl.static_range(PARTS):
        acc += tl.load(at, mask=is_inside, other=0.0)
        at += plane
        if GATED:
            up += tl.load(at, mask=is_inside, other=0.0)
            at += plane
    if GATED:
        acc = gelu_tanh(acc) * up
    tl.store(out + slot * out_stride + n, acc.to(out.dtype.element_ty), mask=is_inside)


def num_parts(weight: PackedMatrix, tile: Tile) -> int:
    """Parts of the columns that programs of their own sum up: as many as the tile says, and not more than blocks."""
    return min(tile.get("split", 1), weight.data.shape[2])


@cache
def has_wgmma(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


def launch(
    x: Tensor,
    weight: PackedMatrix,
    out: Tensor,
    tile: Tile,
    *,
    slots: Tensor | None = None,
    tile_expert: Tensor | None = None,
    num_slots: int,
    num_columns: int,
    row_div: int = 1,
    is_gated: bool = False,
) -> None:
    """out[slot, :num_columns] = weight[expert] @ x[slot // row_div]; with is_gated the rows are gate and up in panels.

    x and out: 2-D, last dimension contiguous. slots, tile_expert: a Routing's, or None for one matrix and slot = row.
    out may be fp32 [num_parts, num_slots, num_columns] of a split product that is not gated: the parts are left there,
    and whoever reads them adds them.
    """
    block_m, block_n = tile["BM"], tile["BN"]
    num_tiles = triton.cdiv(num_slots, block_m) if tile_expert is None else tile_expert.numel()
    scale = weight.data if weight.scale is None else weight.scale
    group = weight.group_size or (0 if weight.scale is None else -1)
    # as Triton decides: elsewhere the other order of columns is the one that needs no shuffling
    is_wgmma = block_m >= 16 and block_n >= 64 and tile["warps"] % 4 == 0 and has_wgmma(x.device)
    # quarters of a block of x that are read at once. One: 16-byte pieces, and pairs lie where mma wants them. wgmma
    # takes as many as share a scale, for each product is waited for; and less than 4 bytes a thread is no cp.async
    num_quarters = 4 if group <= 0 else max(1, min(4, group * 4 // weight.block_k))
    if not is_wgmma and weight.block_k // 4 * block_m >= 64 * tile["warps"]:
        num_quarters = min(num_quarters, tile.get("quarters", 1))
    split = num_parts(weight, tile)
    target, is_left = out, out.dim() == 3
    if split > 1 and not is_left:
        planes = split * (2 if is_gated else 1)
        target = torch.empty((planes, num_slots, num_columns), dtype=torch.float32, device=x.device)
    packed_product[(num_tiles * triton.cdiv(num_columns, block_n) * split,)](
        x, weight.data, scale, target, slots, tile_expert, num_slots, num_columns, weight.num_cols,
        weight.data.shape[2], weight.data.stride(1), weight.data.stride(0), scale.stride(1), scale.stride(0),
        x.stride(0), out.stride(-2), row_div, split, GATED=is_gated, ROUTED=tile_expert is not None,
        IS_INT4=weight.format == "int4", GROUP=group, EVEN_K=weight.num_cols == weight.padded_cols, BM=block_m,
        BN=block_n, BK=weight.block_k, STAGES=tile["stages"], IS_SPLIT=split > 1, WGMMA=is_wgmma, NUM=num_quarters,
        HALVES=2 if is_gated and block_n >= 32 * tile["warps"] else 1,
        FOLD=bool(tile.get("fold")) and x.dtype == torch.bfloat16, num_warps=tile["warps"],
    )  # fmt: skip
    if split > 1 and not is_left:
        block = min(1024, triton.next_power_of_2(num_columns))
        grid = (num_slots, triton.cdiv(num_columns, block))
        add_parts[grid](
            target, out, num_slots, num_columns, out.stride(0), PARTS=split, GATED=is_gated, BLOCK=block,
        )  # fmt: skip


def kind(weight: PackedMatrix) -> str:
    """How tiles.json calls the format: int4, or wide for one byte and more a weight."""
    return "int4" if weight.format == "int4" else "wide"
