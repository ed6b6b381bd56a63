"""Canvas attention on Triton against the truth."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close
from lacuna_ls.kernels import attention_triton
from lacuna_ls.kernels.attention import canvas_attention_reference, row_ranges

BF16, FP32 = torch.bfloat16, torch.float32
SPLIT = {"BM": 32, "BS": 16, "warps": 4, "stages": 2, "splits": 3}


@pytest.mark.parametrize(
    ("S", "cached", "causal", "canvases", "window", "Hq", "Hkv", "D", "dtype", "tile"),
    [
        pytest.param(64, 50, 0, [9], None, 4, 2, 64, BF16, None, id="one canvas over a prompt"),
        pytest.param(40, 33, 3, [7, 5], 16, 4, 2, 64, FP32, None, id="causal rows and two canvases, a sliding window"),
        pytest.param(
            40, 33, 3, [7, 5], None, 8, 1, 64, FP32, SPLIT, id="the same without window, split among programs"
        ),
        pytest.param(300, 290, 0, [40, 24], 257, 4, 2, 256, BF16, None, id="head size 256, window, candidate canvases"),
        pytest.param(
            64, 60, 2, [16], None, 8, 1, 512, BF16, {**SPLIT, "warps": 8}, id="head size 512, eight heads a key"
        ),
        pytest.param(8, 0, 0, [1], None, 2, 2, 64, FP32, None, id="one row that sees only itself, an empty cache"),
        pytest.param(8, 0, 0, [1], None, 2, 2, 64, FP32, SPLIT, id="the same in three splits, two of them empty"),
        pytest.param(
            300,
            45,
            0,
            [9],
            None,
            4,
            2,
            64,
            BF16,
            {**SPLIT, "BM": 128, "warps": 8, "splits": 7},
            id="seven splits for a long storage, four of them used; a tile far too high",
        ),
        pytest.param(53, 47, 0, [13], 29, 3, 1, 48, FP32, None, id="primes, a head size that is no power of two"),
        pytest.param(70, 0, 67, [], 31, 4, 2, 32, BF16, None, id="causal prefill alone, longer than its window"),
    ],
)
def test_attention_is_the_truth(
    S: int, cached: int, causal: int, canvases: list[int], window: int | None, Hq: int, Hkv: int, D: int,
    dtype: torch.dtype, tile: dict[str, int] | None, device: str,
):  # fmt: skip
    T = causal + sum(canvases)
    generator = torch.Generator().manual_seed(S)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    # scores of a few units, as after QK norms with learned weights
    query, key, value = (rand(T, heads, D) * scale for heads, scale in ((Hq, 0.4), (Hkv, 0.4), (Hkv, 1.0)))
    cached_key, cached_value = rand(Hkv, S, D) * 0.4, rand(Hkv, S, D)
    # what is past the end of the prompt was never written
    cached_key[:, cached + causal :] = torch.nan
    cached_value[:, cached + causal :] = torch.nan
    operands = [x.to(dtype).to(device) for x in (query, key, value, cached_key, cached_value)]
    ranges = row_ranges(cached, causal, canvases, window, device)
    got = attention_triton.canvas_attention(*operands, ranges, tile)
    assert_close(got, canvas_attention_reference(*[x.double() for x in operands], ranges), dtype)


def test_a_row_that_sees_nothing_gets_zeros(device: str):
    query, key = torch.randn(3, 2, 32, device=device), torch.randn(3, 1, 32, device=device)
    cache = torch.randn(1, 20, 32, device=device)
    ranges = torch.tensor([[0, 9, 0, 3], [5, 5, 2, 2], [3, 20, 0, 1]], dtype=torch.int32, device=device)
    for tile in (None, SPLIT):
        got = attention_triton.canvas_attention(query, key, key, cache, cache, ranges, tile)
        assert not bool(got[1].any())
        assert_close(
            got, canvas_attention_reference(*[x.double() for x in (query, key, key, cache, cache)], ranges), FP32
        )


def test_large_scores_do_not_overflow(device: str):
    query = torch.full((4, 1, 32), 20.0, device=device)
    cache = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(1)).to(device) * 20
    ranges = row_ranges(40, 0, [4], None, device)
    operands = (query, query, query, cache, cache)
    got = attention_triton.canvas_attention(*operands, ranges)
    assert_close(got, canvas_attention_reference(*[x.double() for x in operands], ranges), FP32)
