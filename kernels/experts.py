"""The mixture of experts, the slow truth of it: routing of chosen experts to tiles, and E gated MLPs over packed
weights.

    out[t] = sum over k of weights[t, k] * down[e](gelu_tanh(gate[e](x[t])) * up[e](x[t])),   e = ids[t, k]

Knows neither how experts are chosen (the router is the model's) nor which path runs (dispatch.py).
Shapes: T rows, H hidden, E experts, K chosen, I expert width. A slot is t * K + k, one use of one expert by one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .norms import wide_dtype
from .packing import PANEL, Format, PackedMatrix, pack_weights, unpack


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """gate_up: E matrices whose 16-row panels alternate gate, up, gate, up; down: E matrices [H, I].

    The alternation lets one program hold the gate and the up rows of the same expert columns, so that the activation is
    finished where the products are.
    """

    gate_up: PackedMatrix
    down: PackedMatrix

    @property
    def num_experts(self) -> int:
        return self.gate_up.num_matrices

    @property
    def hidden_size(self) -> int:
        return self.gate_up.num_cols

    @property
    def expert_size(self) -> int:
        return self.down.num_cols

    @property
    def num_bytes(self) -> int:
        return self.gate_up.num_bytes + self.down.num_bytes

    def to(self, device: torch.device | str) -> PackedExperts:
        return PackedExperts(self.gate_up.to(device), self.down.to(device))


@dataclass(frozen=True, slots=True)
class Routing:
    """Which slots each tile of rows takes. All int32, on the rows' device; sizes are upper bounds, so nothing waits for
    the device.

    slots: [max_tiles * tile_rows], T * K where a place is empty. tile_expert: [max_tiles], -1 past the last tile.
    """

    slots: Tensor
    tile_expert: Tensor
    tile_rows: int


def max_tiles(num_slots: int, num_experts: int, tile_rows: int) -> int:
    """The most tiles that num_slots slots can need: every expert with a slot may have one tile that is not full."""
    used = min(num_slots, num_experts)
    return used + (num_slots - used) // tile_rows


def route_reference(ids: Tensor, num_experts: int, tile_rows: int) -> Routing:
    """ids: int [T, K], each in [0, E) -> slots by expert, in slot order, each expert's padded to whole tiles."""
    flat = ids.flatten().long()
    num_slots = flat.numel()
    limit = max_tiles(num_slots, num_experts, tile_rows)
    counts = torch.bincount(flat, minlength=num_experts)
    num_tiles = (counts + tile_rows - 1) // tile_rows
    first_tile = num_tiles.cumsum(0) - num_tiles
    order = torch.argsort(flat, stable=True)
    experts = flat[order]
    place = torch.arange(num_slots, device=ids.device) - (counts.cumsum(0) - counts)[experts]
    slots = torch.full((limit * tile_rows,), num_slots, dtype=torch.int32, device=ids.device)
    slots[first_tile[experts] * tile_rows + place] = order.to(torch.int32)
    tile_expert = torch.full((limit,), -1, dtype=torch.int32, device=ids.device)
    owner = torch.repeat_interleave(torch.arange(num_experts, device=ids.device), num_tiles)
    tile_expert[: owner.numel()] = owner.to(torch.int32)
    return Routing(slots, tile_expert, tile_rows)


def interleave_gate_up(gate_up: Tensor) -> Tensor:
    """[E, 2 I, *], gate rows first -> [E, 2 I', *] with alternating panels of 16 rows; I' is I in whole panels."""
    E = gate_up.shape[0]
    gate, up = gate_up.chunk(2, dim=1)
    padding = -gate.shape[1] % PANEL
    gate, up = (F.pad(part, (0, 0, 0, padding)).reshape(E, -1, PANEL, *gate_up.shape[2:]) for part in (gate, up))
    return torch.stack((gate, up), dim=2).flatten(1, 3)


def pack_experts(
    gate_up_proj: Tensor, down_proj: Tensor, format: Format = "int4", group_size: int = 64
) -> PackedExperts:
    """gate_up_proj: [E, 2 I, H], gate rows first; down_proj: [E, H, I]; any float dtype. Quantises and packs.

    Raises: ValueError when the two do not belong together.
    """
    E, twice, H = gate_up_proj.shape
    if twice % 2 or down_proj.shape != (E, H, twice // 2):
        shapes = f"gate_up {tuple(gate_up_proj.shape)} and down {tuple(down_proj.shape)}"
        raise ValueError(f"{shapes} are not one set of experts")
    return PackedExperts(
        pack_weights(interleave_gate_up(gate_up_proj), format, group_size), pack_weights(down_proj, format, group_size)
    )


def unpack_experts(
    experts: PackedExperts, expert: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """One expert's dequantised gate [I, H], up [I, H] and down [H, I]."""
    panels = unpack(experts.gate_up, expert, dtype).view(-1, 2, PANEL, experts.hidden_size)
    gate, up = panels[:, 0].flatten(0, 1), panels[:, 1].flatten(0, 1)
    return gate[: experts.expert_size], up[: experts.expert_size], unpack(experts.down, expert, dtype)


def expert_slots_reference(x: Tensor, ids: Tensor, experts: PackedExperts) -> Tensor:
    """x: [T, H]; ids: int [T, K] -> each chosen expert's own answer [T, K, H], unweighted, in x's dtype.

    Computed in fp32, or fp64 for an fp64 x.
    """
    wide = wide_dtype(x)
    out = torch.empty((*ids.shape, x.shape[-1]), dtype=x.dtype, device=x.device)
    for expert in cast(list[int], torch.unique(ids).tolist()):  # pyright: ignore[reportUnknownMemberType]
        row, place = torch.where(ids == expert)
        gate, up, down = unpack_experts(experts, expert, wide)
        inner = x[row].to(wide)
        act = F.gelu(inner @ gate.T, approximate="tanh") * (inner @ up.T)
        out[row, place] = (act @ down.T).to(x.dtype)
    return out


def experts_reference(x: Tensor, ids: Tensor, weights: Tensor, experts: PackedExperts) -> Tensor:
    """x: [T, H]; ids: int [T, K]; weights: float [T, K] -> [T, H] in x's dtype, the weighted sum over K."""
    wide = wide_dtype(x)
    slots = expert_slots_reference(x.to(wide), ids, experts)
    return (slots * weights.to(wide)[..., None]).sum(1).to(x.dtype)
