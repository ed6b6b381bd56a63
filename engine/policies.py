"""What the denoise loop is told to do: temperature, sampling, acceptance, stopping, as small frozen values.

The loop (denoise.py) knows the order of things; these know the rules. Each rule of the reference is here beside ours.
Source: transformers 5.23.0, models/diffusion_gemma/generation_diffusion_gemma.py.
Shapes: B canvases, L rows, V vocabulary. Entropy in nats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Protocol

import torch
from torch import Tensor

Ends = frozenset[int] | Tensor
"""Token ids that end an answer: as they are known on the host, or int64 [N] on the device, for a captured step."""


@dataclass(frozen=True, slots=True)
class TemperatureSchedule:
    """Linear from t_max at the first step to nearly t_min at the last.

    The temperature is t_min + (t_max - t_min) * remaining / max_steps.
    """

    t_max: float = 0.8
    t_min: float = 0.4

    def at(self, remaining: int, max_steps: int) -> float:
        """remaining: steps left, this one included (the reference counts max_steps .. 1)."""
        # in fp32 as the reference: a rounding more or less would grow, step by step, through self-conditioning
        share = torch.tensor(remaining, dtype=torch.int32) / max_steps
        return float(self.t_min + (self.t_max - self.t_min) * share)


@cache
def temperatures(schedule: TemperatureSchedule, max_steps: int) -> tuple[float, ...]:
    """Of all steps, in their order."""
    return tuple(schedule.at(remaining, max_steps) for remaining in range(max_steps, 0, -1))


@dataclass(frozen=True, slots=True)
class EntropyBound:
    """Accept the lowest-entropy rows while the entropy of those before them sums to at most `bound`.

    The row with the lowest entropy is always accepted. Source: EntropyBoundSampler.accept_canvas; arXiv 2505.24857.
    """

    bound: float = 0.1

    def accept(self, entropy: Tensor, is_free: Tensor) -> Tensor:
        """entropy [B, L] -> bool [B, L]. Rows that are not free (pinned, unused) neither count nor get accepted."""
        entropy = entropy.masked_fill(~is_free, torch.inf)
        ordered, order = torch.sort(entropy, dim=-1)
        # entropy before the row itself, so that the comparison with the bound never meets inf - inf
        before = torch.cat([torch.zeros_like(ordered[:, :1]), ordered.cumsum(-1)[:, :-1]], dim=-1)
        return torch.zeros_like(is_free).scatter(-1, order, before <= self.bound) & is_free


@dataclass(frozen=True, slots=True)
class StableAndConfident:
    """The reference rule: the argmax canvas equals those of the last `stability` steps, and the model is sure.

    Sure: the mean entropy over the free rows is below `confidence` nats.
    """

    stability: int = 1
    confidence: float = 0.005

    def done(self, history: list[Tensor], entropy: Tensor, is_free: Tensor, ends: Ends) -> Tensor:
        mean = (entropy * is_free).sum(-1) / is_free.sum(-1).clamp_min(1)
        confident = mean < self.confidence
        if len(history) <= self.stability:
            return torch.zeros_like(confident) if self.stability else confident
        stable = torch.ones_like(confident)
        for earlier in history[-1 - self.stability : -1]:
            stable &= ((earlier == history[-1]) | ~is_free).all(-1)
        return stable & confident


@dataclass(frozen=True, slots=True)
class RegionEntropySum:
    """Stop when the entropies of the rows up to and including the first end token sum to less than `limit` nats.

    Rows behind the end token are filler: certain, and a mean over them says nothing about the answer.
    """

    limit: float = 0.5

    def done(self, history: list[Tensor], entropy: Tensor, is_free: Tensor, ends: Ends) -> Tensor:
        return (entropy * (answer_region(history[-1], ends) & is_free)).sum(-1) < self.limit


class StopRule(Protocol):
    """history: argmax canvases [B, L] of the steps so far, the latest last; entropy [B, L]; -> bool [B]."""

    def done(self, history: list[Tensor], entropy: Tensor, is_free: Tensor, ends: Ends) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class SamplingPolicy:
    """All rules of one denoise. The defaults are the reference's own.

    choose: "sample" draws every row from its distribution, "argmax" takes the likeliest token (code wants one answer).
    """

    temperature: TemperatureSchedule = field(default_factory=TemperatureSchedule)
    accept: EntropyBound = field(default_factory=EntropyBound)
    stop: StopRule = field(default_factory=StableAndConfident)
    choose: Literal["sample", "argmax"] = "sample"


EMBEDDED_POLICY = SamplingPolicy(
    temperature=TemperatureSchedule(1.0, 1.0),
    accept=EntropyBound(0.05),
    stop=RegionEntropySum(0.5),
    choose="argmax",
)
"""What the embedded model is served with: one answer, so argmax at temperature 1."""


def answer_region(tokens: Tensor, ends: Ends) -> Tensor:
    """bool [B, L]: rows up to and including the first end token; all rows where there is none."""
    if not isinstance(ends, Tensor):
        ends = torch.tensor(sorted(ends), dtype=tokens.dtype, device=tokens.device)
    is_end = (tokens[..., None] == ends).any(-1)
    return is_end.cumsum(-1) - is_end.long() == 0
