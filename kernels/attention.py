"""Attention of canvas rows over [cached prompt ; rows of this forward], the slow truth and the ranges that steer it.

Who sees whom is data: four numbers per row. So one operation serves a canvas (bidirectional), a causal prefill, and
the two fused in one forward, with or without a sliding window. Scale 1.0, because queries and keys are normalised by
the model.
Shapes: T rows, Hq query heads, Hkv key heads (Hq a multiple of it), D head size, S positions of the cache's storage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .norms import wide_dtype


def row_ranges(
    num_cached: int, num_causal: int, canvas_rows: list[int], window: int | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Ranges for num_causal prompt rows followed by canvases of canvas_rows[b] rows each -> int32 [T, 4].

    A row sees cached positions [r0, r1) and rows [r2, r3) of this forward. num_cached: positions that were cached
    before this forward; the causal rows' keys and values must be written to the cache behind them BEFORE the
    attention, so that every canvas can see them. A causal row at position p sees the window positions up to p; every
    row of a canvas sees the last window - 1 positions before the canvas and its whole canvas (transformers' sliding
    cache does the same).
    """
    total = num_cached + num_causal
    ranges: list[tuple[int, int, int, int]] = []
    for position in range(num_cached, total):
        ranges.append((0 if window is None else max(0, position + 1 - window), position + 1, 0, 0))
    first, start = num_causal, 0 if window is None else max(0, total - (window - 1))
    for length in canvas_rows:
        ranges += [(start, total, first, first + length)] * length
        first += length
    return torch.tensor(ranges, dtype=torch.int32, device=device).reshape(-1, 4)


def canvas_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, cached_key: Tensor, cached_value: Tensor, ranges: Tensor
) -> Tensor:
    """query: [T, Hq, D]; key, value: [T, Hkv, D] of this forward; cached_key, cached_value: [Hkv, S, D]; ranges: [T,
    4].

    -> [T, Hq, D] in query's dtype; a row that sees nothing gets zeros. Computed in fp32, or fp64 for fp64 queries.
    Cached positions outside the hull of all ranges may hold anything, NaN too.
    """
    wide = wide_dtype(query)
    (T, Hq, D), Hkv, S = query.shape, key.shape[1], cached_key.shape[1]
    ranges = ranges.long()
    cached = torch.arange(S, device=query.device)
    own = torch.arange(T, device=query.device)
    sees_cached = (cached >= ranges[:, 0, None]) & (cached < ranges[:, 1, None])
    sees_own = (own >= ranges[:, 2, None]) & (own < ranges[:, 3, None])
    mask = torch.cat((sees_cached, sees_own), dim=1)
    keys = torch.cat((cached_key, key.transpose(0, 1)), dim=1).to(wide)
    values = torch.cat((cached_value, value.transpose(0, 1)), dim=1).to(wide)
    # what nobody sees may be uninitialised memory: 0 * NaN would spoil the sum
    is_seen = mask.any(0)
    keys, values = keys.masked_fill(~is_seen[:, None], 0.0), values.masked_fill(~is_seen[:, None], 0.0)
    grouped = query.to(wide).view(T, Hkv, Hq // Hkv, D)
    scores = torch.einsum("thgd,hsd->thgs", grouped, keys).masked_fill(~mask[:, None, None, :], -torch.inf)
    peak = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(wide).min)
    weight = torch.exp(scores - peak)
    total = weight.sum(-1, keepdim=True)
    out = torch.einsum("thgs,hsd->thgd", weight, values) / torch.where(total > 0, total, 1.0)
    return out.reshape(T, Hq, D).to(query.dtype)
