"""Norms, rotary, glue and the soft embedding on Triton against the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_checks import assert_close
from lacuna_ls.kernels import dispatch as ops

BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64
DTYPES = [pytest.param(BF16, id="bf16: what a GPU runs"), pytest.param(FP32, id="fp32: nothing hides in rounding")]
SIZES = [
    pytest.param(1, 64, id="one row"),
    pytest.param(5, 97, id="a prime width"),
    pytest.param(3, 2816, id="the released model's width, no power of two"),
]
EPS = 1e-6


def check(operation: Callable[..., Any], dtype: torch.dtype, *args: Any) -> None:
    def wide(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(wide(part) for part in value)
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    got, truth = operation(*args, path="triton"), operation(*map(wide, args), path="reference")
    pairs = zip(got, truth) if isinstance(got, tuple) else [(got, truth)]
    for mine, right in pairs:
        assert mine.dtype == dtype
        assert_close(mine, right, dtype)


PARTS = [
    pytest.param(1, id="whole"),
    pytest.param(2, id="of two parts"),
    pytest.param(5, id="of five parts"),
]


def left(num_parts: int, whole: torch.Tensor) -> torch.Tensor:
    """The tensor as a product leaves it: whole in its dtype, or in fp32 parts that add up to about it."""
    if num_parts == 1:
        return whole[None]
    parts = [torch.randn(whole.shape, generator=torch.Generator().manual_seed(i)) for i in range(num_parts - 1)]
    rest = whole.float().cpu() - sum(parts)
    return torch.stack([*parts, rest]).to(whole.device)


def rand(*shape: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).to(device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("T", "H"), SIZES)
def test_rms_norm(T: int, H: int, dtype: torch.dtype, device: str):
    x = rand(T, 2 * H, dtype=dtype, device=device)[:, H:]
    check(ops.rms_norm, dtype, x, rand(H, dtype=dtype, device=device), EPS)
    check(ops.rms_norm, dtype, x, None, EPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("T", "num_q", "num_kv", "D", "has_value"),
    [
        pytest.param(1, 4, 2, 64, True, id="one row"),
        pytest.param(7, 4, 2, 20, True, id="a head size that is no power of two"),
        pytest.param(3, 8, 1, 512, False, id="a full-attention layer: the value is the raw key"),
    ],
)
@pytest.mark.parametrize("num_parts", PARTS)
def test_qkv_norm_rotate(
    T: int, num_q: int, num_kv: int, D: int, has_value: bool, num_parts: int, dtype: torch.dtype, device: str
):
    heads = num_q + num_kv * (2 if has_value else 1)
    angle = rand(T, D // 2, dtype=FP32, device=device).repeat(1, 2)
    rope = (angle.cos(), angle.sin())
    weights = (rand(D, dtype=dtype, device=device), rand(D, dtype=dtype, device=device) + 1)
    qkv = left(num_parts, rand(T, heads, D, dtype=dtype, device=device))
    check(ops.qkv_norm_rotate, dtype, qkv, num_q, num_kv, *weights, rope, EPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("T", "H"), SIZES)
@pytest.mark.parametrize("num_parts", PARTS)
def test_attention_glue(T: int, H: int, num_parts: int, dtype: torch.dtype, device: str):
    rows = (
        rand(T, H, dtype=dtype, device=device),
        left(num_parts, 3 * rand(T, H, dtype=dtype, device=device).flip(0)),
    )
    weights = [rand(H + i, dtype=dtype, device=device)[:H] for i in range(4)]
    check(ops.attention_glue, dtype, *rows, *weights, EPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("T", "H"), SIZES)
@pytest.mark.parametrize(
    "is_per_row", [False, True], ids=["one layer scalar", "encoder and decoder rows in one forward"]
)
@pytest.mark.parametrize("num_parts", PARTS)
def test_mlp_glue(T: int, H: int, is_per_row: bool, num_parts: int, dtype: torch.dtype, device: str):
    K = 3
    dense = left(num_parts, rand(T, 2 * H, dtype=dtype, device=device)[:, :H])
    rows = (rand(T, H, dtype=dtype, device=device), dense)
    slots, share = rand(T, K, H, dtype=dtype, device=device), rand(T, K, dtype=FP32, device=device).abs()
    weights = [rand(H + i, dtype=dtype, device=device)[:H] for i in range(4)]
    scalar = rand(T if is_per_row else 1, dtype=FP32, device=device) + 2
    check(ops.mlp_glue, dtype, *rows, slots, share, *weights[:3], scalar, weights[3], EPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("T", "N"), SIZES)
@pytest.mark.parametrize("num_parts", PARTS)
def test_gated_gelu(T: int, N: int, num_parts: int, dtype: torch.dtype, device: str):
    gate_up = rand(T, 2 * N, dtype=dtype, device=device)
    # far out, where the exponential overflows
    gate_up[0, :2] = torch.tensor([80.0, -80.0])
    parts = left(num_parts, gate_up)
    got, truth = ops.gated_gelu(parts, dtype, path="triton"), ops.gated_gelu(parts.double(), FP64, path="reference")
    assert got.dtype == dtype
    assert_close(got, truth, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("T", "H"), SIZES)
def test_soft_embedding(T: int, H: int, dtype: torch.dtype, device: str):
    ids = torch.randint(0, 50, (T, 8), generator=torch.Generator().manual_seed(1)).to(device)
    check(
        ops.soft_embedding,
        dtype,
        ids,
        rand(T, 8, dtype=FP32, device=device),
        rand(50, H, dtype=dtype, device=device),
        53.0,
    )
