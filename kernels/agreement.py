"""Whether an answer is right: what `tune` and the benchmark ask before they measure. Knows no operation.

An answer is a tuple of tensors, and each has a truth beside it: the numbers themselves, or, where ids were chosen, the
scores that they were chosen by. Numbers are judged row by row, so that a wrong row is not lost among many right ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Answer = tuple[Tensor, ...]

TOLERANCE = {torch.bfloat16: 8e-3, torch.float32: 1e-4}
"""Relative error of a row against the fp32 truth, by the answer's dtype: bf16 was rounded twice on the way, where the
tests compare one operation at a time.
"""

RESOLUTION = 1e-5
"""Scores that differ by less, relative to the larger of 1 and the best, are one to fp32: either may be chosen."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a row chose among: fp32 [R, n], the truth's."""

    values: Tensor


Truth = tuple[Tensor | Scores, ...]


def row_error(got: Tensor, truth: Tensor) -> float:
    """The largest ||got - truth|| / ||truth|| of a row (the last dimension), in fp64; infinite when the shapes differ,
    or when something was not written or is not finite.
    """
    if got.shape != truth.shape or not bool(torch.isfinite(got).all()):
        return float("inf")
    if not got.numel():
        return 0.0
    got, truth = got.double(), truth.to(got.device).double()
    error = (got - truth).square().sum(-1) / truth.square().sum(-1).clamp_min(1e-60)
    return float(error.max()) ** 0.5


def wrong_choices(ids: Tensor, scores: Scores) -> float:
    """The share of rows whose ids, [R] or [R, k], are not their k best, best first, as far as fp32 tells them apart."""
    values = scores.values
    ids = ids.long().reshape(len(values), -1)
    if not bool(((ids >= 0) & (ids < values.shape[1])).all()):
        return 1.0
    best = values.topk(ids.shape[1]).values
    is_best = values.gather(1, ids) >= best - RESOLUTION * best.abs().clamp_min(1.0)
    ordered = ids.sort(1).values
    is_once = ordered[:, 1:] != ordered[:, :-1]
    return float((~(is_best.all(1) & is_once.all(1))).float().mean())


def judge(answer: Answer, truth: Truth) -> tuple[float, bool]:
    """(the largest error of all parts, whether each part is within what it may have: of choices, none is wrong)."""
    if len(answer) != len(truth):
        return float("inf"), False
    largest, is_right = 0.0, True
    for got, true in zip(answer, truth, strict=True):
        if isinstance(true, Scores):
            error, limit = wrong_choices(got, true), 0.0
        else:
            error, limit = row_error(got, true), TOLERANCE[got.dtype]
        largest, is_right = max(largest, error), is_right and error <= limit
    return largest, is_right
