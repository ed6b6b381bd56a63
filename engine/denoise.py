"""The denoise loop, once: noise a canvas, let the decoder look, accept what it is sure of, renoise the rest, repeat.

Policies say how (policies.py); `Denoiser` says with which model. Output is the argmax of a canvas's last step. Knows no
text. Source: transformers 5.23.0, generation_diffusion_gemma.py, `_denoising_step`. Same random numbers, same canvases:
draws come in the reference's order (initial canvas, then per step one multinomial and one canvas of noise).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .draws import Draws
from .policies import SamplingPolicy
from .problem import Cancelled, Canvas


class Denoiser(Protocol):
    """The model as the loop sees it, bound to a prompt that is already in the KV cache."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def first_noise_id(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def logits(self, tokens: Tensor, soft: Tensor | None, num_rows: Tensor | None) -> Tensor:
        """One decoder pass. tokens [B, L], soft [B, L, H] or None, num_rows [B] or None -> fp32 logits [B, L, V]."""
        ...

    def soft_embedding(self, logits: Tensor, tokens: Tensor, is_pinned: Tensor) -> Tensor:
        """Self-conditioning of the next step [B, L, H]; logits None stands for no belief yet."""
        ...

    def first_soft_embedding(self, tokens: Tensor, is_pinned: Tensor) -> Tensor | None:
        """Self-conditioning of the first step: None, or known tokens marked where rows are pinned."""
        ...


@dataclass(slots=True)
class Denoised:
    """tokens, entropy, logprob: [B, L], of each canvas's last step. steps: [B]. finished: bool [B], by the rule."""

    tokens: Tensor
    entropy: Tensor
    logprob: Tensor
    steps: Tensor
    finished: Tensor
    is_cancelled: bool
    num_forwards: int


@torch.no_grad()
def denoise(
    model: Denoiser,
    canvases: Sequence[Canvas],
    policy: SamplingPolicy,
    max_steps: int,
    generator: torch.Generator,
    ends: frozenset[int],
    banned: Tensor | None = None,
    deadline: float | None = None,
    cancelled: Cancelled | None = None,
    draws: Draws | None = None,
) -> Denoised:
    """Denoise several canvases over one prompt; each stops on its own, the sweep ends with the last.

    ends: token ids that end an answer. banned: bool [V] or [L, V], tokens that a free row may not become. deadline:
    value of time.monotonic() after which no further step starts. cancelled: polled after every step. draws: random
    numbers in the generator's stead, for comparison with the fast step (pipeline.py).
    """
    device = model.device
    given, is_pinned, in_use, num_rows = stack(canvases, device)
    shape = given.shape
    is_free = in_use & ~is_pinned

    def noise() -> Tensor:
        if draws is not None:
            return draws.noise((shape[0], shape[1]))
        return torch.randint(model.first_noise_id, model.vocab_size, shape, generator=generator, device=device)

    current = torch.where(given >= 0, given, noise())
    soft = model.first_soft_embedding(given.clamp_min(0), is_pinned)
    out = Denoised(
        current, torch.zeros(shape, device=device), torch.zeros(shape, device=device),
        torch.zeros(shape[0], dtype=torch.long, device=device),
        torch.zeros(shape[0], dtype=torch.bool, device=device), False, 0,
    )  # fmt: skip
    history: list[Tensor] = []
    for remaining in range(max_steps, 0, -1):
        logits = model.logits(current, soft, num_rows)
        if banned is not None:
            logits = logits.masked_fill(banned & is_free[..., None], -torch.inf)
        processed = logits / policy.temperature.at(remaining, max_steps)
        logprobs = torch.log_softmax(processed, dim=-1)
        probs = logprobs.exp()
        # a banned token has probability 0 and log-probability -inf; its share of the entropy is 0
        entropy = -(probs * logprobs.clamp_min(-1e9)).sum(-1) * is_free
        best = torch.where(is_pinned, given, logprobs.argmax(-1))
        if policy.choose == "argmax":
            drawn = best
        else:
            drawn = draw(probs, generator) if draws is None else draws.sample(processed)
        accepted = policy.accept.accept(entropy, is_free)
        following = torch.where(accepted, drawn, noise())
        current = torch.where(is_pinned, given, following)
        history.append(torch.where(out.finished[:, None], out.tokens, best))
        running = ~out.finished
        out.num_forwards += 1
        out.tokens = history[-1]
        out.entropy = torch.where(running[:, None], entropy, out.entropy)
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, best[..., None])[..., 0]
        out.logprob = torch.where(running[:, None], chosen * is_free, out.logprob)
        out.steps += running
        out.finished |= policy.stop.done(history, out.entropy, is_free, ends)
        if bool(out.finished.all()):
            break
        if cancelled is not None and cancelled():
            out.is_cancelled = True
            break
        if deadline is not None and time.monotonic() >= deadline:
            break
        soft = model.soft_embedding(processed, given.clamp_min(0), is_pinned)
    return out


def stack(canvases: Sequence[Canvas], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Canvases as (tokens [B, L], is_pinned [B, L], in_use [B, L], num_rows [B], or None when all are equally long)."""
    lengths = [len(c.tokens) for c in canvases]
    L = max(lengths)
    tokens = torch.full((len(canvases), L), -1, dtype=torch.long)
    pinned = torch.zeros((len(canvases), L), dtype=torch.bool)
    for b, canvas in enumerate(canvases):
        tokens[b, : lengths[b]] = torch.tensor(canvas.tokens)
        pinned[b, : lengths[b]] = torch.tensor(canvas.pinned)
    num_rows = torch.tensor(lengths, device=device)
    in_use = torch.arange(L, device=device) < num_rows[:, None]
    return tokens.to(device), pinned.to(device), in_use, None if min(lengths) == L else num_rows


def draw(probs: Tensor, generator: torch.Generator) -> Tensor:
    """One token per row from probs [B, L, V]."""
    return torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view(probs.shape[:2])
