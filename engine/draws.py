"""Random numbers without a state: what a row draws depends on seed, step, canvas and row, and on nothing else.

So a canvas comes out the same whether it is padded to a bucket, shares its sweep with others, or runs in a CUDA graph.
The plain loop takes its numbers from a torch.Generator, as the reference does, unless it is given these.
Source: Philox4x32-10, see kernels/vocab.py, which draws the samples from the same stream (its fourth counter word is
0).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..kernels.vocab import gumbel_noise, philox

ROW_BITS = 16
"""row id = canvas << ROW_BITS | row"""


class Draws(Protocol):
    """Where a denoise loop gets its random numbers from. Called in this order: noise, then sample and noise per
    step.
    """

    def noise(self, shape: tuple[int, int]) -> Tensor:
        """A canvas of uniform random tokens, int64 [B, L]."""
        ...

    def sample(self, processed: Tensor) -> Tensor:
        """One token per row from softmax(processed) [B, L, V] -> int64 [B, L]."""
        ...


def row_ids(B: int, L: int, device: torch.device) -> Tensor:
    """int64 [B, L]."""
    return (torch.arange(B, device=device)[:, None] << ROW_BITS) | torch.arange(L, device=device)


def uniform_tokens(seed: int, steps: Tensor, rows: Tensor, low: int, high: int) -> Tensor:
    """Uniform over [low, high). steps: int64 [S]; rows: row ids [B, L] -> int64 [S, B, L]."""
    zero = torch.zeros_like(rows)[None] + torch.zeros_like(steps)[:, None, None]
    words = philox(seed, (zero, zero + rows, zero + steps[:, None, None], zero + 1))
    # the high word of a 32 by 18 bit product: even to one part in 2^14 and without a division
    return low + ((words[0] * (high - low)) >> 32)


class PhiloxDraws:
    """Draws of one fill."""

    def __init__(self, seed: int, low: int, high: int, device: torch.device) -> None:
        """low, high: noise is uniform over [low, high)."""
        self.seed, self.low, self.high, self.device = seed, low, high, device
        self.step = -1

    def noise(self, shape: tuple[int, int]) -> Tensor:
        self.step += 1
        steps = torch.tensor([self.step], device=self.device)
        return uniform_tokens(self.seed, steps, row_ids(*shape, self.device), self.low, self.high)[0]

    def sample(self, processed: Tensor) -> Tensor:
        B, L, V = processed.shape
        # the step that runs now is the one whose noise comes next
        gumbel = gumbel_noise(self.seed, self.step + 1, row_ids(B, L, self.device).flatten(), V)
        return (processed.float() + gumbel.view(B, L, V)).argmax(-1)
