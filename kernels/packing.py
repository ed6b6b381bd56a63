"""Weight formats: quantise, pack into the order the kernels stream, and unpack again. Pure PyTorch, any device.

A stack of E matrices [N, K] (K is the contraction) becomes panels of 16 rows; inside a panel, blocks of block_k columns
follow each other, so that a program which walks along K for its rows reads one contiguous stream per panel (512 bytes
to 4 KiB at a time) in 16-byte pieces, whatever number of panels its tile has. Nothing here knows a model or a device.

data by format:
    int4   int32 [E, N/16, K/block_k, 16, block_k/8]. A block is four quarters of Q = block_k/4 columns; word i of a row
           holds columns 2i (low half) and 2i+1 (high half) of every quarter j, at bit 4j of its half. So one shift, one
           `& 0x000F000F | 0x43004300` turns a word into the pair of bf16 values 128 + code that one tensor-core
           register wants; minus 136 gives code - 8 exactly.
    int8   int8 [E, N/16, K/block_k, 16, block_k], two's complement.
    fp8    float8_e4m3fn, same shape.
    bf16   bfloat16, same shape (float32 when the weights are: the truth of tests).
scale: int32 [E, ceil(groups/2), N] (int4, int8): a word holds the bf16 scales of two groups, the earlier in its low
    half, so that one 4-byte load serves 128 columns at group_size 64. With group_size 0 (always so for fp8) fp32
    [E, 1, N], one scale per row. None for bf16.
N and K are padded with zero weights to whole panels and blocks; scale rows are padded with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Format = Literal["int4", "int8", "fp8", "bf16"]

PANEL = 16
"""Rows of a panel: the M of one tensor-core instruction."""

GROUP_SIZES = (32, 64, 128)
FP8_MAX = 448.0


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """E matrices [num_rows, num_cols] in one of the formats above. group_size 0: one scale per row."""

    data: Tensor
    scale: Tensor | None
    format: Format
    num_rows: int
    num_cols: int
    group_size: int
    block_k: int

    @property
    def num_matrices(self) -> int:
        return self.data.shape[0]

    @property
    def padded_rows(self) -> int:
        return self.data.shape[1] * PANEL

    @property
    def padded_cols(self) -> int:
        return self.data.shape[2] * self.block_k

    @property
    def num_bytes(self) -> int:
        scale = 0 if self.scale is None else self.scale.numel() * self.scale.element_size()
        return self.data.numel() * self.data.element_size() + scale

    def to(self, device: torch.device | str) -> PackedMatrix:
        scale = None if self.scale is None else self.scale.to(device)
        return PackedMatrix(
            self.data.to(device), scale, self.format, self.num_rows, self.num_cols, self.group_size, self.block_k
        )


def block_k_of(num_cols: int, format: Format, group_size: int) -> int:
    """Columns of a block: 128 when that wastes no padding, else 64; never across a scale group in the 8-bit formats."""
    block = 128 if num_cols % 128 == 0 else 64
    return min(block, group_size) if format == "int8" and group_size else block


def quantize(weight: Tensor, format: Format, group_size: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of weights [..., N, K]: weight ~ codes * scale of the group.

    Returns codes [..., N, K] (int8 for int4 and int8, float8_e4m3fn for fp8) and scale [..., N, num_groups] (bf16, or
    fp32 for whole rows). int4 tries a few scales per group, among them the one that puts the largest value on code -8,
    and keeps the one with the least squared error: plain amax/7 costs 10-20 % more error.
    Raises: ValueError for a format or group size that does not exist.
    """
    _check(format, group_size)
    if format == "bf16":
        raise ValueError("bf16 weights are not quantised; pack them as they are")
    groups = _grouped(weight.float(), group_size)
    peak = groups.abs().amax(-1)
    scale_dtype = torch.float32 if format == "fp8" or not group_size else torch.bfloat16
    if format == "fp8":
        scale = (peak / FP8_MAX).clamp_min(1e-12).to(scale_dtype)
        codes = (groups / scale.float()[..., None]).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    elif format == "int8":
        scale = (peak / 127).clamp_min(1e-12).to(scale_dtype)
        codes = (groups / scale.float()[..., None]).round().clamp(-127, 127).to(torch.int8)
    else:
        scale = _best_int4_scale(groups, peak, scale_dtype)
        codes = (groups / scale.float()[..., None]).round().clamp(-8, 7).to(torch.int8)
    num_cols = weight.shape[-1]
    return codes.flatten(-2)[..., :num_cols].contiguous(), scale


def _best_int4_scale(groups: Tensor, peak: Tensor, dtype: torch.dtype) -> Tensor:
    index = groups.abs().argmax(-1, keepdim=True)
    signed = groups.gather(-1, index)[..., 0]
    best = torch.empty(0)
    best_error = torch.full_like(peak, torch.inf)
    # a negative scale lets a positive peak use code -8
    for candidate in (-signed / 8, signed / 8, peak / 7, peak / 7.6, -signed / 8.7):
        tiny = torch.where(candidate.abs() < 1e-12, 1e-12, candidate)
        scale = tiny.to(dtype).float()
        codes = (groups / scale[..., None]).round().clamp(-8, 7)
        error = (codes * scale[..., None] - groups).square().sum(-1)
        best = torch.where(error < best_error, scale, best) if best.numel() else scale
        best_error = torch.minimum(error, best_error)
    return best.to(dtype)


def pack(codes: Tensor, scale: Tensor | None, format: Format, group_size: int) -> PackedMatrix:
    """Packs codes [E, N, K] and scale [E, N, num_groups], as `quantize` returns them or as a published checkpoint
    holds them.

    int4 codes lie in [-8, 7]. For bf16, codes are the weights themselves and scale is None.
    Raises: ValueError when shapes do not belong together.
    """
    _check(format, group_size)
    if codes.dim() != 3:
        raise ValueError(f"pack wants codes [E, N, K], got {tuple(codes.shape)}")
    E, N, K = codes.shape
    num_groups = 1 if not group_size else -(-K // group_size)
    if (scale is None) != (format == "bf16") or (scale is not None and scale.shape != (E, N, num_groups)):
        got = None if scale is None else tuple(scale.shape)
        raise ValueError(f"{format} codes {tuple(codes.shape)} with groups of {group_size} do not fit scales {got}")
    block_k = block_k_of(K, format, group_size)
    rows, cols = -(-N // PANEL) * PANEL, -(-K // block_k) * block_k
    per_word = 8 if format == "int4" else 1
    shape = (E, rows // PANEL, cols // block_k, PANEL, block_k // per_word)
    data = torch.empty(shape, dtype=torch.int32 if format == "int4" else codes.dtype, device=codes.device)
    for e in range(E):
        # one matrix at a time bounds the memory for the wide intermediate of int4
        padded = torch.zeros((rows, cols), dtype=codes.dtype, device=codes.device)
        padded[:N, :K] = codes[e]
        blocks = padded.view(rows // PANEL, PANEL, cols // block_k, block_k).transpose(1, 2)
        data[e] = _int4_words(blocks) if format == "int4" else blocks
    packed_scale = None
    if scale is not None:
        padded_scale = torch.zeros((E, num_groups, rows), dtype=scale.dtype, device=scale.device)
        padded_scale[:, :, :N] = scale.transpose(1, 2)
        packed_scale = _scale_words(padded_scale) if group_size else padded_scale.float()
    return PackedMatrix(data, packed_scale, format, N, K, group_size, block_k)


def pack_weights(weight: Tensor, format: Format = "int4", group_size: int = 64) -> PackedMatrix:
    """weight: [E, N, K] or [N, K] -> quantised and packed."""
    weight = weight if weight.dim() == 3 else weight[None]
    if format == "bf16":
        keep = weight if weight.dtype in (torch.bfloat16, torch.float32) else weight.to(torch.bfloat16)
        return pack(keep, None, format, 0)
    group_size = 0 if format == "fp8" else group_size
    parts = [quantize(matrix, format, group_size) for matrix in weight]
    return pack(torch.stack([c for c, _ in parts]), torch.stack([s for _, s in parts]), format, group_size)


def unpack_codes(packed: PackedMatrix, matrix: int) -> Tensor:
    """The codes of one matrix of the stack: int8 [N, K] (int4, int8), float8 (fp8) or the weights (bf16)."""
    blocks = packed.data[matrix]
    if packed.format == "int4":
        blocks = _int4_codes(blocks)
    rows = blocks.transpose(1, 2).reshape(packed.padded_rows, packed.padded_cols)
    return rows[: packed.num_rows, : packed.num_cols]


def unpack(packed: PackedMatrix, matrix: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights of one matrix of the stack, dequantised: [N, K] in dtype."""
    weight = unpack_codes(packed, matrix).to(dtype)
    if packed.scale is None:
        return weight
    scale = packed.scale[matrix, :, : packed.num_rows]
    scale = (_scale_halves(scale) if packed.group_size else scale).T.to(dtype)
    if packed.group_size:
        scale = scale.repeat_interleave(packed.group_size, dim=1)[:, : packed.num_cols]
    return weight * scale


def _check(format: Format, group_size: int) -> None:
    if format not in ("int4", "int8", "fp8", "bf16"):
        raise ValueError(f"unknown weight format {format!r}")
    if group_size and (format in ("fp8", "bf16") or group_size not in GROUP_SIZES):
        raise ValueError(f"{format} weights cannot have groups of {group_size}; use one of {GROUP_SIZES}, or 0")


def _grouped(weight: Tensor, group_size: int) -> Tensor:
    """[..., K] -> [..., num_groups, group_size], zero-padded."""
    size = group_size or weight.shape[-1]
    padding = -weight.shape[-1] % size
    padded = torch.nn.functional.pad(weight, (0, padding))
    return padded.view(*weight.shape[:-1], -1, size)


def _int4_words(blocks: Tensor) -> Tensor:
    """int8 codes [panels, blocks, 16, block_k] -> int32 [panels, blocks, 16, block_k / 8]."""
    quarters = (blocks.to(torch.int64) + 8).reshape(*blocks.shape[:-1], 4, -1, 2)
    shift = torch.arange(4, device=blocks.device)[:, None, None] * 4 + torch.arange(2, device=blocks.device) * 16
    words = (quarters << shift).sum(dim=(-3, -1))
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _int4_codes(words: Tensor) -> Tensor:
    """The inverse of _int4_words."""
    shift = torch.arange(4, device=words.device)[:, None, None] * 4 + torch.arange(2, device=words.device) * 16
    codes = (words.to(torch.int64)[..., None, :, None] >> shift) & 15
    return (codes - 8).to(torch.int8).flatten(-3)


def _scale_words(scale: Tensor) -> Tensor:
    """[E, groups, N] -> int32 [E, ceil(groups / 2), N]."""
    scale = torch.nn.functional.pad(scale, (0, 0, 0, scale.shape[1] % 2)).to(torch.bfloat16)
    low, high = scale[:, 0::2].contiguous(), scale[:, 1::2].contiguous()
    return (low.view(torch.int16).int() & 0xFFFF) | (high.view(torch.int16).int() << 16)


def _scale_halves(words: Tensor) -> Tensor:
    """int32 [G, N] -> fp32 [2 G, N]; the inverse of _scale_words."""
    halves = torch.stack((words << 16, words & -65536), dim=1).flatten(0, 1)
    return halves.view(torch.float32)
