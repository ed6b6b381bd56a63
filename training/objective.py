"""The joint loss: next token on encoder rows, clean token on noised canvas rows, in one forward of the shared weights.

Pure function of (model, batch): no optimiser, no schedule, no data.
Source: TRL/NeMo fine-tuning loss of DiffusionGemma (cross-entropy over canvas rows, no 1/t weight, plus the encoder's
next-token loss), with the row weights of training/batches.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.model import DiffusionGemma, JointLayer, capped_logits, joint_layer
from .batches import Batch

LOAD_BALANCE = 0.01
"""Weight of the load-balancing term that keeps every expert in use (Switch Transformer, arXiv 2101.03961, eq. 4)."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """joint_layer and row_means after a compiler. Compiled apart, because layers of a kind share their code: the first
    step on an H200 took 25 s with all that goes before it, where compiling the whole step took 55 s in each phase.
    """

    layer: JointLayer
    means: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]


def compiled() -> Compiled:
    return Compiled(torch.compile(joint_layer, dynamic=False), torch.compile(row_means, dynamic=False))


@dataclass(slots=True)
class Losses:
    """total: what is minimised. encoder, canvas: weighted means in nats per row."""

    total: Tensor
    encoder: Tensor
    canvas: Tensor


def encoder_only(batch: Batch) -> Batch:
    """The same batch without its canvases: the first phase trains the language model alone."""
    n = batch.num_encoder
    return Batch(
        tokens=batch.tokens[:, :n],
        positions=batch.positions[:, :n],
        targets=batch.targets[:, :n],
        weights=batch.weights[:, :n],
        is_pinned=batch.is_pinned[:, :n],
        seen=batch.seen[:, :n],
        canvas=batch.canvas[:n],
        num_encoder=n,
    )


def soft_of(model: DiffusionGemma, batch: Batch, believed: Tensor | None) -> Tensor:
    """Self-conditioning rows [B, T, H]: a pinned row gets its own token's embedding, the others what was believed.

    believed: [B, T, H], or None for the zeros of the first step, which mean the same as no self-conditioning at all.
    """
    known = model.embed(batch.tokens)
    # no look at whether anything is pinned: on a GPU the host would have to wait for the answer
    return torch.where(batch.is_pinned[..., None], known, torch.zeros_like(known) if believed is None else believed)


@torch.no_grad()
def believe(model: DiffusionGemma, batch: Batch, compiled: Compiled | None = None) -> Tensor:
    """First pass without gradient: the expected embedding of every canvas row; zeros elsewhere. [B, T, H]."""
    hidden, _ = model.joint(
        batch.tokens, batch.positions, batch.is_canvas, batch.mask, soft_of(model, batch, None),
        compiled.layer if compiled else None,
    )  # fmt: skip
    soft = model.soft_embedding(model.logits(hidden[:, batch.num_encoder :]))
    return F.pad(soft, (0, 0, batch.num_encoder, 0))


def losses(
    model: DiffusionGemma,
    batch: Batch,
    soft: Tensor | None,
    encoder_weight: Tensor | float,
    compiled: Compiled | None = None,
) -> Losses:
    """encoder_weight: share of the next-token loss beside the canvas loss.

    A tensor where this is compiled: a float that changes from step to step would compile it anew every time.
    """
    run_layer = compiled.layer if compiled else None
    hidden, probabilities = model.joint(batch.tokens, batch.positions, batch.is_canvas, batch.mask, soft, run_layer)
    means = (compiled.means if compiled else row_means)(
        hidden, model.embed_tokens.weight, batch.targets, batch.weights, batch.is_canvas, model.config.softcap
    )
    encoder, canvas = means.unbind()
    # fraction of rows whose first choice is e, times the mean probability of e, summed over experts
    num_experts = probabilities.shape[-1]
    first = F.one_hot(probabilities.argmax(-1), num_experts).float().mean(1)
    balance = num_experts * (first * probabilities.mean(1)).sum(-1).mean()
    return Losses(encoder_weight * encoder + canvas + LOAD_BALANCE * balance, encoder, canvas)


def row_means(
    hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, is_canvas: Tensor, softcap: float
) -> Tensor:
    """Weighted mean cross-entropy of encoder rows and of canvas rows, fp32 [2]. Shapes as in Batch; table: [V, H]."""
    logits = capped_logits(hidden.flatten(0, 1), table, softcap)
    nll = F.cross_entropy(logits, targets.flatten(), reduction="none").view(weights.shape)
    share = weights * torch.stack((~is_canvas, is_canvas)).float()[:, None]
    return (nll * share).sum((1, 2)) / share.sum((1, 2)).clamp_min(1.0)
