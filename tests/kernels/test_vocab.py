"""The vocabulary pass on Triton against the truth: every choice exactly, every number to fp32."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close
from lacuna_ls.kernels import dispatch as ops
from lacuna_ls.kernels import vocab_triton
from lacuna_ls.kernels.vocab import VocabStats

BF16, FP32 = torch.bfloat16, torch.float32


def assert_same(got: VocabStats, truth: VocabStats) -> None:
    for name in ("argmax", "sample", "top_ids"):
        assert torch.equal(getattr(got, name), getattr(truth, name)), name
    for name in ("logit", "sample_logit", "lse", "entropy", "lse_1", "entropy_1", "top_logits"):
        assert_close(getattr(got, name), getattr(truth, name), FP32)


def operands(R: int, H: int, V: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(R * V)
    hidden, table = torch.randn(R, H, generator=generator), torch.randn(V, H, generator=generator)
    return hidden.to(dtype).to(device), table.to(dtype).to(device)


@pytest.mark.parametrize(
    ("R", "H", "V", "dtype", "num_top"),
    [
        pytest.param(1, 64, 131, FP32, 8, id="one row, a prime vocabulary with three tokens in the last tile"),
        pytest.param(19, 97, 1009, FP32, 5, id="primes, num_top no power of two"),
        pytest.param(33, 128, 517, BF16, 8, id="one row past a tile of rows"),
        pytest.param(3, 64, 4096, BF16, 16, id="whole tiles only, the longest list"),
        pytest.param(70, 32, 257, BF16, 1, id="two tiles of rows, one token in the last tile, no list"),
        pytest.param(2, 64, 5, FP32, 5, id="as many tokens as the list is long"),
    ],
)
def test_statistics_are_the_truth(R: int, H: int, V: int, dtype: torch.dtype, num_top: int, device: str):
    hidden, table = operands(R, H, V, dtype, device)
    temperature = torch.linspace(0.3, 1.7, R).to(device)
    options = {"temperature": temperature, "noise": torch.tensor([-(2**40) - 3, 11], device=device), "num_top": num_top}
    truth = ops.vocab_stats(hidden.double(), table.double(), path="reference", **options)
    assert_same(ops.vocab_stats(hidden, table, path="triton", **options), truth)


@pytest.mark.parametrize(
    "max_logits", [pytest.param(9 * 300, id="three segments"), pytest.param(1, id="a tile at a time")]
)
def test_segments_of_the_table_do_not_change_the_answer(max_logits: int, device: str, monkeypatch: pytest.MonkeyPatch):
    """Ties across segments, a list with entries of several, and a sample of the first or a later one."""
    monkeypatch.setattr(vocab_triton, "MAX_LOGITS", max_logits)
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randint(-2, 3, (9, 32), generator=generator).to(BF16).to(device)
    table = torch.randint(-1, 2, (50, 32), generator=generator).to(BF16).repeat(13, 1).to(device)
    options = {"num_top": 8, "softcap": 0.0, "noise": torch.tensor([3, 0], device=device), "temperature": 4.0}
    got = ops.vocab_stats(hidden, table, path="triton", **options)
    assert_same(got, ops.vocab_stats(hidden.double(), table.double(), path="reference", **options))


def test_banned_tokens_never_appear(device: str):
    hidden, table = operands(9, 64, 700, BF16, device)
    is_banned = torch.rand(700, generator=torch.Generator().manual_seed(1)) < 0.5
    # a whole tile banned, and the best tokens of every row
    is_banned[128:256] = True
    is_banned[(hidden.float() @ table.float().T).argmax(1).cpu()] = True
    is_banned = is_banned.to(device)
    options = {"temperature": 0.7, "noise": torch.tensor([5, 0], device=device), "num_top": 8, "is_banned": is_banned}
    got = ops.vocab_stats(hidden, table, path="triton", **options)
    assert_same(got, ops.vocab_stats(hidden.double(), table.double(), path="reference", **options))
    assert not bool(is_banned[got.top_ids].any() | is_banned[got.sample].any() | is_banned[got.argmax].any())


def test_ties_go_to_the_lowest_id(device: str):
    """Small integers are exact in every order of summation: equal logits are equal to the last bit, in any tile."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randint(-2, 3, (6, 32), generator=generator).to(BF16).to(device)
    table = torch.randint(-1, 2, (50, 32), generator=generator).to(BF16).repeat(12, 1).to(device)
    options = {"num_top": 8, "softcap": 0.0, "noise": torch.tensor([3, 0], device=device)}
    got = ops.vocab_stats(hidden, table, path="triton", **options)
    truth = ops.vocab_stats(hidden.double(), table.double(), path="reference", **options)
    assert_same(got, truth)
    assert bool((got.top_logits[:, 0] == got.top_logits[:, 1]).all()), "the test must contain ties"


def test_a_sample_depends_on_seed_step_row_and_token_only(device: str):
    hidden, table = operands(5, 64, 300, FP32, device)
    noise = torch.tensor([1, 2], device=device)
    options = {"noise": noise, "temperature": 2.0, "num_top": 1}
    whole = ops.vocab_stats(hidden, table, path="triton", **options)
    row_ids = torch.arange(3, 5, device=device)
    part = ops.vocab_stats(hidden[3:], table, path="triton", row_ids=row_ids, **options)
    assert torch.equal(part.sample, whole.sample[3:])
    tile = {"BM": 16, "BV": 32, "BH": 32, "warps": 4, "stages": 2}
    temperature = torch.full((5,), 2.0, device=device)
    other = vocab_triton.vocab_stats(
        hidden, table, softcap=30.0, temperature=temperature, noise=noise, num_top=1,
        row_ids=torch.arange(5, device=device), is_banned=None, tile=tile,
    )  # fmt: skip
    assert torch.equal(other.sample, whole.sample)
    later = {**options, "noise": torch.tensor([1, 3], device=device)}
    moved = ops.vocab_stats(hidden, table, path="triton", **later)
    assert not torch.equal(moved.sample, whole.sample)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_row_that_is_no_number_gets_tokens_that_exist(device: str):
    """They are looked up in the table: one that does not exist would be read far behind its end."""
    hidden, table = torch.randn(3, 64, device=device).bfloat16(), torch.randn(131, 64, device=device).bfloat16()
    hidden[1] = torch.nan
    for path in ("triton", "reference"):
        got = ops.vocab_stats(hidden, table, path=path)
        for ids in (got.argmax, got.sample, got.top_ids):
            assert bool(((ids >= 0) & (ids < 131)).all())
        assert got.entropy.isnan().tolist() == [False, True, False]
