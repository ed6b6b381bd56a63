"""Routing and the fused expert MLP on Triton against the truth, at the shapes where tiles go wrong."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close
from lacuna_ls.kernels import dispatch as ops
from lacuna_ls.kernels import experts_triton, packed_triton, tiles
from lacuna_ls.kernels.experts import (
    PackedExperts,
    expert_slots_reference,
    experts_reference,
    pack_experts,
    route_reference,
)

BF16, FP32 = torch.bfloat16, torch.float32


def make_experts(E: int, H: int, width: int, format: str, group_size: int, device: str) -> PackedExperts:
    generator = torch.Generator().manual_seed(E * H + width)
    gate_up = torch.randn(E, 2 * width, H, generator=generator) / H**0.5
    down = torch.randn(E, H, width, generator=generator) / width**0.5
    return pack_experts(gate_up.to(device), down.to(device), format, group_size)  # type: ignore[arg-type]


def make_ids(T: int, K: int, E: int, how: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(T)
    if how == "spread":
        return torch.stack([torch.randperm(E, generator=generator)[:K] for _ in range(T)])
    # the same K experts for every row: the others have no rows
    return torch.arange(E - K, E).expand(T, K).contiguous()


@pytest.mark.parametrize(
    ("T", "K", "E", "how", "tile_rows"),
    [
        pytest.param(1, 2, 8, "spread", 8, id="one row"),
        pytest.param(37, 2, 8, "spread", 16, id="rows not a multiple of a tile, most experts with several tiles"),
        pytest.param(5, 1, 16, "same", 8, id="all rows to one expert, fifteen experts with none"),
        pytest.param(11, 7, 7, "spread", 8, id="K equal to E, both prime"),
        pytest.param(600, 2, 128, "spread", 32, id="more slots than one chunk of the counting loop"),
        pytest.param(64, 8, 128, "spread", 8, id="the released model's shape"),
    ],
)
def test_routing_gives_every_slot_one_place(T: int, K: int, E: int, how: str, tile_rows: int, device: str):
    ids = make_ids(T, K, E, how).to(device)
    got, truth = experts_triton.route(ids, E, tile_rows), route_reference(ids, E, tile_rows)
    assert torch.equal(got.tile_expert, truth.tile_expert)
    used = int((truth.tile_expert >= 0).sum()) * tile_rows
    assert torch.equal(got.slots[:used], truth.slots[:used])
    assert sorted(s for s in got.slots[:used].tolist() if s < T * K) == list(range(T * K))


@pytest.mark.parametrize(
    ("T", "K", "E", "H", "width", "format", "group_size", "how", "dtype"),
    [
        pytest.param(1, 2, 4, 64, 32, "int4", 64, "spread", BF16, id="one row"),
        pytest.param(
            37, 2, 8, 256, 176, "int4", 64, "spread", BF16, id="rows not a multiple, width like 704: 11 panels"
        ),
        pytest.param(9, 3, 3, 97, 53, "int4", 32, "spread", BF16, id="K equal to E, prime sizes, padded blocks"),
        pytest.param(21, 2, 16, 128, 64, "int4", 128, "same", BF16, id="all rows to two experts, fourteen with none"),
        pytest.param(21, 1, 5, 96, 48, "int4", 64, "same", BF16, id="all rows to one expert, the last one"),
        pytest.param(
            9, 2, 4, 192, 192, "int4", 128, "spread", BF16, id="the last group half full, a group over two blocks"
        ),
        pytest.param(6, 2, 4, 160, 96, "int4", 32, "spread", BF16, id="an odd number of groups and of blocks"),
        pytest.param(6, 2, 4, 128, 64, "int4", 32, "spread", BF16, id="four scales in one block"),
        pytest.param(6, 2, 4, 128, 64, "int4", 0, "spread", BF16, id="one scale per row"),
        pytest.param(100, 2, 4, 64, 48, "int4", 64, "spread", BF16, id="many rows per expert: the widest tile"),
        pytest.param(9, 2, 4, 384, 128, "int4", 64, "spread", BF16, id="the embedded model's experts"),
        pytest.param(11, 2, 4, 128, 64, "int8", 64, "spread", BF16, id="int8 in groups"),
        pytest.param(11, 2, 4, 96, 80, "fp8", 0, "spread", BF16, id="fp8, padded blocks"),
        pytest.param(40, 2, 4, 128, 80, "fp8", 0, "spread", BF16, id="fp8, the second regime"),
        pytest.param(11, 2, 4, 128, 80, "bf16", 0, "spread", BF16, id="bf16 weights: the truth on a GPU"),
        pytest.param(7, 2, 4, 101, 37, "bf16", 0, "spread", FP32, id="fp32 weights and activations, primes"),
        pytest.param(11, 2, 4, 96, 80, "int4", 64, "spread", FP32, id="int4 decoded exactly in fp32"),
    ],
)
def test_experts_are_the_truth(
    T: int, K: int, E: int, H: int, width: int, format: str, group_size: int, how: str, dtype: torch.dtype, device: str
):
    experts = make_experts(E, H, width, format, group_size, device)
    if format == "bf16" and dtype == BF16:
        experts = pack_experts(
            torch.randn(E, 2 * width, H, device=device).to(BF16) / H**0.5,
            torch.randn(E, H, width, device=device).to(BF16) / width**0.5,
            "bf16",
        )
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(T, H, generator=generator).to(dtype).to(device)
    ids = make_ids(T, K, E, how).to(device)
    weights = torch.rand(T, K, generator=generator).to(device)
    truth = experts_reference(x.double(), ids, weights.double(), experts)
    assert_close(ops.experts(x, ids, weights, experts, path="triton"), truth, dtype)


HOPPER = tiles.shipped()["9.0"]


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize(
    ("gate_up", "down"),
    [
        pytest.param(*pair, id=f"up to {pair[0].get('rows', 'any number of')} rows an expert")
        for pair in zip(HOPPER["gate_up.int4"], HOPPER["down.int4"], strict=True)
    ],
)
def test_hopper_tiles_and_its_order_of_columns(
    gate_up: tiles.Tile, down: tiles.Tile, group_size: int, device: str, monkeypatch: pytest.MonkeyPatch
):
    """Folded, several quarters at once, in the order of wgmma, and routed: a part of each is nobody's."""
    if device == "cuda" and not packed_triton.has_wgmma(torch.device(device)):
        pytest.skip("these tiles are made for an H200")
    monkeypatch.setattr(packed_triton, "has_wgmma", lambda device: True)
    experts = make_experts(4, 256, 176, "int4", group_size, device)
    x = torch.randn(19, 256, generator=torch.Generator().manual_seed(5)).to(BF16).to(device)
    ids = make_ids(19, 2, 4, "spread").to(device)
    got = experts_triton.expert_slots(x, ids, experts, gate_up, down)
    assert_close(got, expert_slots_reference(x.double(), ids, experts), BF16)


@pytest.mark.parametrize("rows", [1, 2], ids=["a block of columns of a wider tensor", "every second row"])
def test_strided_rows(rows: int, device: str):
    experts = make_experts(4, 64, 32, "int4", 64, device)
    wide = torch.randn(rows * 6, 64 * 3, device=device).to(BF16)
    x = wide[::rows, 64:128]
    ids = make_ids(6, 2, 4, "spread").to(device)
    got = ops.expert_slots(x, ids, experts, path="triton")
    assert_close(got, expert_slots_reference(x.double(), ids, experts), BF16)


def test_no_rows_at_all(device: str):
    experts = make_experts(4, 64, 32, "int4", 64, device)
    empty = torch.zeros(0, 2, dtype=torch.int64, device=device)
    out = ops.experts(
        torch.zeros(0, 64, device=device), empty, torch.zeros(0, 2, device=device), experts, path="triton"
    )
    assert out.shape == (0, 64)


def test_the_released_models_sizes(device: str):
    """H=2816 and I=704 with the loop counts they bring; two experts, and tiles wide enough for the interpreter."""
    experts = make_experts(2, 2816, 704, "int4", 64, device)
    x = torch.randn(9, 2816, generator=torch.Generator().manual_seed(3)).to(BF16).to(device)
    ids = make_ids(9, 2, 2, "spread").to(device)
    gate_up = {"BM": 16, "BN": 256, "warps": 8, "stages": 2} if device == "cpu" else None
    down = {"BM": 16, "BN": 512, "warps": 8, "stages": 2} if device == "cpu" else None
    got = experts_triton.expert_slots(x, ids, experts, gate_up, down)
    assert_close(got, expert_slots_reference(x.double(), ids, experts), BF16)
