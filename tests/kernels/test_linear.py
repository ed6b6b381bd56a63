"""The dense linear layer over packed weights on Triton against the truth."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close
from lacuna_ls.kernels import dispatch as ops
from lacuna_ls.kernels.packing import pack_weights

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
