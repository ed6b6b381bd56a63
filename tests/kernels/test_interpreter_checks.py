"""The interpreter itself: bf16 is right, and a wrong kernel is caught. Without these the numbers above mean nothing."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def copy_kernel(x, out, SHIFT: tl.constexpr, STEP: tl.constexpr):
    i = tl.program_id(0) * STEP + tl.arange(0, 16)
    tl.store(out + i, tl.load(x + i + SHIFT))


@triton.jit
def product_kernel(a, b, out, N: tl.constexpr):
    i, j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    c = tl.dot(tl.load(a + i * N + j), tl.load(b + i * N + j))
    tl.store(out + i * N + j, (c * 1.5).to(tl.bfloat16))


def test_reading_past_the_end_is_caught():
    x, out = torch.ones(32), torch.zeros(32)
    copy_kernel[(2,)](x, out, SHIFT=0, STEP=16)
    assert torch.equal(x, out)
    with pytest.raises(Exception, match="out-of-bounds load"):
        copy_kernel[(2,)](x, out, SHIFT=1, STEP=16)


def test_two_programs_that_write_one_address_are_caught():
    with pytest.raises(Exception, match="race"):
        copy_kernel[(2,)](torch.ones(32), torch.zeros(32), SHIFT=0, STEP=8)


def test_bf16_is_arithmetic_and_rounds_to_even():
    a, b = torch.randn(32, 32).bfloat16(), torch.randn(32, 32).bfloat16()
    out = torch.zeros(32, 32, dtype=torch.bfloat16)
    product_kernel[(1,)](a, b, out, N=32)
    truth = ((a.double() @ b.double()) * 1.5).bfloat16()
    # fp32 sums may round the last bit of a bf16 the other way now and then
    assert float((out != truth).double().mean()) < 0.01
    assert torch.allclose(out.double(), truth.double(), rtol=2**-7)
