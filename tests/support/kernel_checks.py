"""Helpers of the kernel tests."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = {torch.bfloat16: 5e-3, torch.float32: 1e-5}
"""Relative error (Frobenius) against the float64 truth that a kernel may have."""


def relative_error(got: Tensor, truth: Tensor) -> float:
    """||got - truth|| / ||truth||; infinite when something was not written or is not finite."""
    if got.shape != truth.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    difference = (got.double().cpu() - truth.double().cpu()).norm()
    return float(difference / truth.double().cpu().norm().clamp_min(1e-30))


def assert_close(got: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    error = relative_error(got, truth)
    assert error <= TOLERANCE[dtype], (
        f"relative error {error:.2e} against the float64 truth, allowed {TOLERANCE[dtype]}"
    )
