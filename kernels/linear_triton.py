"""The dense linear layer on Triton: the experts' product with one matrix and no routing. Truth: linear.py."""

from __future__ import annotations

import torch
from torch import Tensor

from . import tiles
from .packed_triton import kind, launch, num_parts
from .packing import PackedMatrix
from .tiles import Tile


def linear(x: Tensor, weight: PackedMatrix, tile: Tile | None = None) -> Tensor:
    """See linear.linear_reference. tile overrides the table."""
    T, N = x.shape[0], weight.num_rows
    out = torch.empty((T, N), dtype=x.dtype, device=x.device)
    if T:
        x = x if x.stride(-1) == 1 else x.contiguous()
        tile = tile or tiles.pick(f"linear.{kind(weight)}", T, x.device)
        launch(x, weight, out, tile, num_slots=T, num_columns=N)
    return out


def linear_parts(x: Tensor, weight: PackedMatrix, tile: Tile | None = None) -> Tensor:
    """See linear.linear_parts_reference: as many parts as the tile splits the product into."""
    T, N = x.shape[0], weight.num_rows
    tile = tile or tiles.pick(f"linear.{kind(weight)}", T, x.device)
    parts = num_parts(weight, tile)
    if parts == 1 or T == 0:
        return linear(x, weight, tile)[None]
    out = torch.empty((parts, T, N), dtype=torch.float32, device=x.device)
    launch(x if x.stride(-1) == 1 else x.contiguous(), weight, out, tile, num_slots=T, num_columns=N)
    return out
