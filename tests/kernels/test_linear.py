"""The dense linear layer over packed weights on Triton against the truth."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close
from lacuna_ls.kernels import dispatch as ops
from lacuna_ls.kernels import linear_triton, packed_triton
from lacuna_ls.kernels.experts import PackedExperts, interleave_gate_up, unpack_experts
from lacuna_ls.kernels.packing import pack_weights
from torch.nn import functional as F

BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("T", "N", "K", "format", "group_size", "dtype"),
    [
        pytest.param(1, 48, 128, "int4", 64, BF16, id="one row"),
        pytest.param(8, 64, 128, "int8", 64, BF16, id="exactly the first regime"),
        pytest.param(19, 53, 97, "int4", 32, BF16, id="prime everything"),
        pytest.param(
            33, 40, 192, "int8", 128, BF16, id="a tile of rows that is nearly empty, the last group half full"
        ),
        pytest.param(130, 33, 64, "int4", 64, BF16, id="more rows than the widest tile, one row past two panels"),
        pytest.param(17, 32, 320, "int8", 32, BF16, id="more groups than fit a word twice"),
        pytest.param(20, 96, 128, "fp8", 0, BF16, id="fp8"),
        pytest.param(20, 96, 128, "int8", 0, BF16, id="int8 with one scale per row"),
        pytest.param(5, 37, 101, "bf16", 0, FP32, id="plain fp32, primes"),
        pytest.param(40, 37, 128, "int8", 64, FP32, id="int8 decoded exactly in fp32"),
    ],
)
def test_linear_is_the_truth(T: int, N: int, K: int, format: str, group_size: int, dtype: torch.dtype, device: str):
    generator = torch.Generator().manual_seed(N)
    weight = pack_weights(torch.randn(N, K, generator=generator).to(device), format, group_size)  # type: ignore[arg-type]
    x = torch.randn(T, K, generator=generator).to(dtype).to(device)
    assert_close(ops.linear(x, weight, path="triton"), ops.linear(x.double(), weight, path="reference"), dtype)


TILE = {"BM": 16, "BN": 64, "warps": 4, "stages": 2}


@pytest.mark.parametrize("order", ["mma", "wgmma", "mma, several quarters at once"])
@pytest.mark.parametrize(
    ("T", "N", "K", "format", "group_size", "more", "is_gated"),
    [
        pytest.param(5, 48, 320, "int4", 64, {"split": 3}, False, id="five blocks in three parts"),
        pytest.param(19, 53, 97, "int4", 32, {"split": 4, "fold": 1}, False, id="more parts than blocks, prime sizes"),
        pytest.param(9, 40, 704, "int4", 64, {"split": 7, "fold": 1}, True, id="gated, the last parts are empty"),
        pytest.param(17, 32, 256, "int4", 128, {"split": 2, "fold": 1}, True, id="gated, a block for each part"),
        pytest.param(17, 72, 128, "int4", 0, {"fold": 1}, False, id="one scale per row, offsets folded"),
        pytest.param(33, 80, 256, "int4", 32, {"BN": 128, "warps": 1}, True, id="fewer threads than rows of the tile"),
        pytest.param(19, 53, 97, "int8", 64, {"split": 2}, False, id="int8 in two parts"),
        pytest.param(9, 40, 300, "int8", 64, {"split": 8}, True, id="int8, gated, more parts than blocks"),
        pytest.param(4, 32, 256, "fp8", 0, {"split": 2}, False, id="fp8 in two parts"),
        pytest.param(1, 48, 256, "int8", 64, {"split": 2}, False, id="one row in two parts"),
    ],
)
def test_every_way_through_the_product_is_the_truth(
    T: int, N: int, K: int, format: str, group_size: int, more: dict[str, int], is_gated: bool, order: str, device: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """The order of columns that another card would get is as right here: it only costs shuffling."""
    monkeypatch.setattr(packed_triton, "has_wgmma", lambda device: order == "wgmma")
    generator = torch.Generator().manual_seed(K)
    dense = torch.randn(1, 2 * N if is_gated else N, K, generator=generator) / K**0.5
    weight = pack_weights((interleave_gate_up(dense) if is_gated else dense).to(device), format, group_size)  # type: ignore[arg-type]
    x = torch.randn(T, K, generator=generator).to(BF16).to(device)
    tile = {**TILE, **more}
    if "several" in order:
        if format != "int4":
            pytest.skip("only int4 has quarters")
        tile["quarters"] = 2
    outs = []
    for _ in range(2):
        out = torch.empty((T, N), dtype=BF16, device=device)
        packed_triton.launch(x, weight, out, tile, num_slots=T, num_columns=N, is_gated=is_gated)
        outs.append(out)
    if is_gated:
        gate, up, _ = unpack_experts(PackedExperts(weight, pack_weights(torch.zeros(1, K, N))), 0, torch.float64)
        gate, up = gate[:N].to(device), up[:N].to(device)
        truth = F.gelu(x.double() @ gate.T, approximate="tanh") * (x.double() @ up.T)
    else:
        truth = ops.linear(x.double(), weight, path="reference")
    assert_close(outs[0], truth, BF16)
    # no atomics: the parts are added in one order
    assert torch.equal(outs[0], outs[1])


@pytest.mark.parametrize(
    ("T", "N", "K", "format", "split"),
    [
        pytest.param(5, 48, 320, "int4", 3, id="five blocks in three parts"),
        pytest.param(9, 53, 97, "int8", 4, id="more parts than blocks"),
        pytest.param(3, 32, 128, "fp8", 1, id="not split: whole, in the rows' dtype"),
        pytest.param(1, 40, 256, "bf16", 2, id="one row"),
    ],
)
def test_parts_add_up_to_the_product(T: int, N: int, K: int, format: str, split: int, device: str):
    generator = torch.Generator().manual_seed(K)
    dense = torch.randn(N, K, generator=generator).to(BF16).to(device)
    weight = pack_weights(dense, format, 64 if "int" in format else 0)  # type: ignore[arg-type]
    x = torch.randn(T, K, generator=generator).to(BF16).to(device)
    parts = linear_triton.linear_parts(x, weight, {**TILE, "BM": 16, "split": split})
    assert parts.shape[1:] == (T, N)
    assert 1 <= len(parts) <= split
    assert parts.dtype == (BF16 if len(parts) == 1 else FP32)
    truth = ops.linear_parts(x.double(), weight, path="reference")
    assert truth.shape == (1, T, N)
    assert_close(parts.float().sum(0), truth[0], BF16 if len(parts) == 1 else FP32)
