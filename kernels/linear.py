"""A dense linear layer over packed weights, the slow truth of it: attention projections and the dense MLP.

Knows no model; which path runs is decided in dispatch.py.
"""

from __future__ import annotations

from torch import Tensor

from .norms import wide_dtype
from .packing import PackedMatrix, unpack


def linear_reference(x: Tensor, weight: PackedMatrix) -> Tensor:
    """x: [T, K]; weight: one matrix [N, K] -> x @ weight.T [T, N] in x's dtype; computed in fp32 (fp64 for fp64)."""
    wide = wide_dtype(x)
    return (x.to(wide) @ unpack(weight, 0, wide).T).to(x.dtype)


def linear_parts_reference(x: Tensor, weight: PackedMatrix) -> Tensor:
    """The same product before its last addition: [P, T, N], whose sum over P is x @ weight.T. P is the path's choice:
    1 here, in x's dtype; a split product has several, in fp32. For readers that add as they read (norms.py), which
    saves a launch for each product.
    """
    return linear_reference(x, weight)[None]
