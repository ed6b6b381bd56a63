"""The router of a mixture of experts: which experts a row goes to and with which share, the slow truth."""

from __future__ import annotations

import torch
from torch import Tensor

from .norms import wide_dtype


def router_reference(x: Tensor, proj: Tensor, per_expert_scale: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """x: [T, H], normed; proj: [E, H]; per_expert_scale: fp32 [E] -> ids int32 [T, K] and weights fp32 [T, K].

    The K largest logits, largest first, ties to the lowest id; weights are their softmax (which is the renormalised
    softmax of all) times the scale of each. Computed in fp32, or fp64 for an fp64 x.
    """
    wide = wide_dtype(x)
    logits = x.to(wide) @ proj.to(wide).T
    # a stable sort keeps the lowest id first among equals, which torch.topk does not promise
    top, ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    top, ids = top[:, :top_k], ids[:, :top_k]
    weights = torch.softmax(top, dim=-1) * per_expert_scale.to(wide)[ids]
    return ids.to(torch.int32), weights
