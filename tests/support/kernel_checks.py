"""Helpers of the kernel tests."""

from __future__ import annotations

import torch
from lacuna_ls.kernels.agreement import row_error
from torch import Tensor

TOLERANCE = {torch.bfloat16: 5e-3, torch.float32: 1e-5}
"""Relative error against the float64 truth that each row of a kernel's answer may have."""


def assert_close(got: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    error = row_error(got, truth)
    assert error <= TOLERANCE[dtype], (
        f"relative error {error:.2e} of a row against the float64 truth, allowed {TOLERANCE[dtype]}"
    )
