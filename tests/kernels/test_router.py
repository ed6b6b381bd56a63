"""The fused router on Triton against the truth: every choice exactly, weights to fp32."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close
from lacuna_ls.kernels import dispatch as ops
from lacuna_ls.kernels import router_triton

BF16, FP32 = torch.bfloat16, torch.float32


def check(x: torch.Tensor, proj: torch.Tensor, scale: torch.Tensor, K: int, tile: dict[str, int] | None = None) -> None:
    ids, weights = router_triton.router(x, proj, scale, K, tile)
    true_ids, true_weights = ops.router(x.double(), proj.double(), scale.double(), K, path="reference")
    assert ids.dtype == true_ids.dtype == torch.int32
    assert weights.dtype == FP32
    assert torch.equal(ids, true_ids)
    assert_close(weights, true_weights, FP32)


@pytest.mark.parametrize(
    ("T", "H", "E", "K", "dtype", "tile"),
    [
        pytest.param(1, 64, 8, 2, FP32, None, id="one row"),
        pytest.param(17, 2816, 128, 8, BF16, None, id="the released model, one row past a tile"),
        pytest.param(5, 97, 13, 3, FP32, None, id="primes"),
        pytest.param(3, 96, 6, 6, BF16, None, id="every expert chosen, K no power of two"),
        pytest.param(2, 40, 1, 1, FP32, None, id="one expert"),
        pytest.param(
            40, 200, 72, 4, BF16, {"BM": 32, "BE": 32, "BH": 64, "warps": 2}, id="several tiles in every direction"
        ),
    ],
)
def test_the_choice_is_the_truth(
    T: int, H: int, E: int, K: int, dtype: torch.dtype, tile: dict[str, int] | None, device: str
):
    generator = torch.Generator().manual_seed(T * H)
    x, proj = torch.randn(T, H, generator=generator), torch.randn(E, H, generator=generator) * H**-0.5
    scale = torch.rand(E, generator=generator) + 0.5
    check(x.to(dtype).to(device), proj.to(dtype).to(device), scale.to(device), K, tile)


def test_ties_go_to_the_lowest_expert(device: str):
    """Small integers are exact in every order of summation: equal logits are equal to the last bit."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(-1, 2, (6, 32), generator=generator).to(BF16).to(device)
    proj = torch.randint(-1, 2, (5, 32), generator=generator).to(BF16).repeat(4, 1).to(device)
    check(x, proj, torch.ones(20, device=device), 7)


def test_rows_of_a_wider_tensor(device: str):
    x = torch.randn(4, 128, generator=torch.Generator().manual_seed(3)).to(device)[:, 64:]
    proj = torch.randn(9, 64, generator=torch.Generator().manual_seed(4)).to(device)
    check(x, proj, torch.ones(9, device=device), 2)
