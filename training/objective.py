"""The joint loss: next token on encoder rows, clean token on noised canvas rows, in one forward of the shared weights.

Pure function of (model, batch): no optimiser, no schedule, no data.
Source: TRL/NeMo fine-tuning loss of DiffusionGemma (cross-entropy over canvas rows, no 1/t weight, plus the encoder's
next-token loss), with the row weights of training/batches.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.model import DiffusionGemma
from .batches import Batch

LOAD_BALANCE = 0.01
"""Weight of the load-balancing term that keeps every expert in use (Switch Transformer, arXiv 2101.03961, eq. 4)."""


@dataclass(slots=True)
class Losses:
    """total: what is minimised. encoder, canvas: weighted means in nats per row."""

    total: Tensor
    encoder: Tensor
    canvas: Tensor


def encoder_only(batch: Batch) -> Batch:
    """The same batch without its canvases: the first phase trains the language model alone."""
    n = int((~batch.is_canvas).sum())
    return Batch(
        tokens=batch.tokens[:, :n],
        positions=batch.positions[:, :n],
        targets=batch.targets[:, :n],
        weights=batch.weights[:, :n],
        is_pinned=batch.is_pinned[:, :n],
        mask=batch.mask[:, :, :n, :n],
        is_canvas=batch.is_canvas[:n],
    )


def soft_of(model: DiffusionGemma, batch: Batch, believed: Tensor | None) -> Tensor | None:
    """Self-conditioning rows [B, T, H]: a pinned row gets its own token's embedding, the others what was believed.

    None where there is neither. believed: [B, T, H], or None for the zeros of the first step.
    """
    if believed is None and not bool(batch.is_pinned.any()):
        return None
    known = model.embed(batch.tokens)
    base = torch.zeros_like(known) if believed is None else believed
    return torch.where(batch.is_pinned[..., None], known, base)


@torch.no_grad()
def believe(model: DiffusionGemma, batch: Batch) -> Tensor:
    """First pass without gradient: the expected embedding of every canvas row; zeros elsewhere. [B, T, H]."""
    hidden, _ = model.joint(batch.tokens, batch.positions, batch.is_canvas, batch.mask, soft_of(model, batch, None))
    num_encoder = int((~batch.is_canvas).sum())
    soft = model.soft_embedding(model.logits(hidden[:, num_encoder:]))
    return F.pad(soft, (0, 0, num_encoder, 0))


def losses(model: DiffusionGemma, batch: Batch, soft: Tensor | None, encoder_weight: Tensor | float) -> Losses:
    """encoder_weight: share of the next-token loss beside the canvas loss.

    A tensor where this function is compiled: a float that changes from step to step would compile it anew every time.
    """
    hidden, probabilities = model.joint(batch.tokens, batch.positions, batch.is_canvas, batch.mask, soft)
    flat = hidden.flatten(0, 1)
    nll = F.cross_entropy(model.logits(flat), batch.targets.flatten(), reduction="none").view(batch.weights.shape)
    weighted = nll * batch.weights
    is_canvas = batch.is_canvas.float()[None]
    encoder = (weighted * (1 - is_canvas)).sum() / (batch.weights * (1 - is_canvas)).sum().clamp_min(1.0)
    canvas = (weighted * is_canvas).sum() / (batch.weights * is_canvas).sum().clamp_min(1.0)
    # fraction of rows whose first choice is e, times the mean probability of e, summed over experts
    num_experts = probabilities.shape[-1]
    first = F.one_hot(probabilities.argmax(-1), num_experts).float().mean(1)
    balance = num_experts * (first * probabilities.mean(1)).sum(-1).mean()
    return Losses(encoder_weight * encoder + canvas + LOAD_BALANCE * balance, encoder, canvas)
