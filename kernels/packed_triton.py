# triton's language has no types that a checker could follow
# ruff: noqa: ANN201
# mypy: disable-error-code="no-untyped-def,no-untyped-call,no-any-return,untyped-decorator,import-untyped"
# pyright: basic, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportAssignmentType=false
"""One matrix product for every packed format: out^T = W x^T, tile by tile. The experts and the dense linear are this.

Weights are the M operand and rows of x the N operand ("swap-AB"), because a denoise step has few rows per expert: the
tensor core's N may be 8 where its M is 16 (or 64 on Hopper), and weights that are decoded in registers may stay there,
also for wgmma, which takes only its first operand from registers. See packing.py for the order of the weights.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .packing import PackedMatrix
from .tiles import Tile


@triton.jit
def int4_pairs(words, QUARTER: tl.constexpr):
    """int32 words [N, Q/2] -> bf16 [N, Q], the codes of one quarter of their block, exact."""
    pairs = ((words >> (4 * QUARTER)) & 0x000F000F) | 0x43004300
    low = pairs.to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (pairs >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    both = tl.join(low, high).reshape(words.shape[0], 2 * words.shape[1])
    return (both - 136.0).to(tl.bfloat16)


@triton.jit
def gelu_tanh(x):
    # tanh(y) = 1 - 2 / (exp(2 y) + 1), which saturates to the right side at both ends
    y = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return 0.5 * x * (2.0 - 2.0 / (tl.exp(2.0 * y) + 1.0))


@triton.jit
def load_scales(s_ptr, block, stride, GROUP: tl.constexpr, BK: tl.constexpr):
    """The words with a block's scales (two bf16 a word, of groups that follow each other), as a pair."""
    if GROUP <= 0:
        return s_ptr, s_ptr
    elif GROUP * 4 <= BK:
        return tl.load(s_ptr + block * 2 * stride), tl.load(s_ptr + (block * 2 + 1) * stride)
    else:
        word = tl.load(s_ptr + block * BK // (2 * GROUP) * stride)
        return word, word


@triton.jit
def half(word, is_high):
    """fp32 of one of the two bf16 values in a word."""
    return ((word << (16 - 16 * is_high)) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def int4_block(acc, w_ptr, scales, xs, block, GROUP: tl.constexpr, Q: tl.constexpr):
    """Adds one block of 4 Q columns to acc [N, M]. xs: the four quarters of x^T, [Q, M] each."""
    words = tl.load(w_ptr)
    # quarters that share a scale
    PER: tl.constexpr = 4 if GROUP <= 0 or GROUP >= 4 * Q else GROUP // Q
    for first in tl.static_range(0, 4, PER):
        part = acc if GROUP <= 0 else tl.zeros_like(acc)
        for j in tl.static_range(first, first + PER):
            part = tl.dot(int4_pairs(words, j).to(xs[j].dtype), xs[j], part, input_precision="ieee")
        if GROUP <= 0:
            acc = part
        elif PER == 4:
            acc += part * half(scales[0], block * (4 * Q) // GROUP % 2)[:, None]
        else:
            acc += part * half(scales[first // PER // 2], first // PER % 2)[:, None]
    return acc


@triton.jit
def wide_block(acc, w_ptr, scales, x, block, GROUP: tl.constexpr, BK: tl.constexpr):
    """The same for a block of BK columns in int8, fp8 or bf16: never across a scale group. x: [BK, M]."""
    weight = tl.load(w_ptr).to(x.dtype)
    if GROUP > 0:
        part = tl.dot(weight, x, input_precision="ieee")
        return acc + part * half(scales[0], block * BK // GROUP % 2)[:, None]
    return tl.dot(weight, x, acc, input_precision="ieee")


@triton.jit
def packed_product(
    x,
    weight,
    scale,
    out,
    slots,
    tile_expert,
    num_slots,
    N,
    K,
    num_blocks,
    panel_stride,
    matrix_stride,
    scale_stride,
    scale_matrix_stride,
    x_stride,
    out_stride,
    row_div,
    GATED: tl.constexpr,
    ROUTED: tl.constexpr,
    IS_INT4: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN_K: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """out[slot, n] = sum over k of W[expert, n, k] * x[slot // row_div, k]; GATED: gelu(gate) * up, n an expert column.

    Grid: tiles of BM slots times ceil(N / BN). ROUTED: slots and tile_expert say which slots and which matrix a tile
    has; otherwise slot = row and there is one matrix. N here is the number of columns of `out`.
    """
    num_n = tl.cdiv(N, BN)
    tile = tl.program_id(0) // num_n
    first_n = (tl.program_id(0) % num_n) * BN
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

    n = first_n + tl.arange(0, BN)
    # a tile may reach past the last panel: read the last panel again, the store drops it
    inside = tl.minimum(n, (N + 15) // 16 * 16 - 16 + n % 16)
    panel = inside // 16 * (2 if GATED else 1)
    w_row = panel[:, None].to(tl.int64) * panel_stride + (inside % 16)[:, None] * W + tl.arange(0, W)[None, :]
    w_ptr = weight + expert.to(tl.int64) * matrix_stride + w_row if ROUTED else weight + w_row
    s_row = panel * 16 + inside % 16
    s_ptr = scale + expert.to(tl.int64) * scale_matrix_stride + s_row if ROUTED else scale + s_row
    x_ptr = x + row[None, :].to(tl.int64) * x_stride + tl.arange(0, Q)[:, None]

    acc = tl.zeros((BN, BM), dtype=tl.float32)
    up = acc
    # scales are read one block ahead into registers: too narrow for cp.async, too far away to wait for
    scales = load_scales(s_ptr, 0, scale_stride, GROUP, BK)
    up_scales = scales
    if GATED:
        up_scales = load_scales(s_ptr + 16, 0, scale_stride, GROUP, BK)
    for block in tl.range(0, num_blocks, num_stages=STAGES):
        ahead = tl.minimum(block + 1, num_blocks - 1)
        next_scales = load_scales(s_ptr, ahead, scale_stride, GROUP, BK)
        next_up_scales = next_scales
        if GATED:
            next_up_scales = load_scales(s_ptr + 16, ahead, scale_stride, GROUP, BK)
        if IS_INT4:
            base = block * BK
            k = base + tl.arange(0, Q)[:, None]
            if EVEN_K:
                x0 = tl.load(x_ptr + base)
                x1 = tl.load(x_ptr + base + Q)
                x2 = tl.load(x_ptr + base + 2 * Q)
                x3 = tl.load(x_ptr + base + 3 * Q)
            else:
                x0 = tl.load(x_ptr + base, mask=k < K, other=0.0)
                x1 = tl.load(x_ptr + base + Q, mask=k + Q < K, other=0.0)
                x2 = tl.load(x_ptr + base + 2 * Q, mask=k + 2 * Q < K, other=0.0)
                x3 = tl.load(x_ptr + base + 3 * Q, mask=k + 3 * Q < K, other=0.0)
            xs = (x0, x1, x2, x3)
            acc = int4_block(acc, w_ptr, scales, xs, block, GROUP, Q)
            if GATED:
                up = int4_block(up, w_ptr + panel_stride, up_scales, xs, block, GROUP, Q)
        else:
            base = block * BK
            if EVEN_K:
                xb = tl.load(x_ptr + base)
            else:
                xb = tl.load(x_ptr + base, mask=base + tl.arange(0, Q)[:, None] < K, other=0.0)
            acc = wide_block(acc, w_ptr, scales, xb, block, GROUP, BK)
            if GATED:
                up = wide_block(up, w_ptr + panel_stride, up_scales, xb, block, GROUP, BK)
        w_ptr += 16 * W
        scales = next_scales
        up_scales = next_up_scales
    if GROUP == -1:
        acc *= tl.load(s_ptr).to(tl.float32)[:, None]
        if GATED:
            up *= tl.load(s_ptr + 16).to(tl.float32)[:, None]
    if GATED:
        acc = gelu_tanh(acc) * up
    out_ptr = out + slot[None, :].to(tl.int64) * out_stride + n[:, None]
    tl.store(out_ptr, acc.to(out.dtype.element_ty), mask=is_slot[None, :] & (n < N)[:, None])


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
    """
    block_m, block_n = tile["BM"], tile["BN"]
    num_tiles = triton.cdiv(num_slots, block_m) if tile_expert is None else tile_expert.numel()
    scale = weight.data if weight.scale is None else weight.scale
    group = weight.group_size or (0 if weight.scale is None else -1)
    packed_product[(num_tiles * triton.cdiv(num_columns, block_n),)](
        x,
        weight.data,
        scale,
        out,
        slots,
        tile_expert,
        num_slots,
        num_columns,
        weight.num_cols,
        weight.data.shape[2],
        weight.data.stride(1),
        weight.data.stride(0),
        scale.stride(1),
        scale.stride(0),
        x.stride(0),
        out.stride(0),
        row_div,
        GATED=is_gated,
        ROUTED=tile_expert is not None,
        IS_INT4=weight.format == "int4",
        GROUP=group,
        EVEN_K=weight.num_cols == weight.padded_cols,
        BM=block_m,
        BN=block_n,
        BK=weight.block_k,
        STAGES=tile["stages"],
        num_warps=tile["warps"],
    )


def kind(weight: PackedMatrix) -> str:
    """How tiles.json calls the format: int4, or wide for one byte and more a weight."""
    return "int4" if weight.format == "int4" else "wide"
