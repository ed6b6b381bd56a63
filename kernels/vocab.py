"""Everything a sampler needs of the vocabulary, from one sweep over the embedding table: the slow truth.

    logit[r, v] = softcap * tanh(hidden[r] . table[v] / softcap), minus infinity where v is banned
    processed = logit / temperature[r]

The random numbers are stateless: Philox4x32-10 with key = seed and counter = (v // 4, row id, step, 0), word v % 4. So
a sample depends on (seed, step, row id, token) and on nothing else: not on the tile, the device, or the other rows.
Knows no sampler: what is accepted or renoised is the engine's.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011); Gumbel-max sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .norms import wide_dtype

MASK32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class VocabStats:
    """Per row r of R. Ids are int64, the rest fp32 (fp64 from the fp64 truth); entropies in nats, >= 0.

    argmax: the lowest id of the largest logit; logit: that logit. sample: one draw from softmax(processed);
    sample_logit: its logit. lse, entropy: of the processed distribution. lse_1, entropy_1: of the same at
    temperature 1. top_ids, top_logits: [R, num_top], largest first, ties by lowest id. Logits are softcapped and NOT
    divided by the temperature.
    """

    argmax: Tensor
    logit: Tensor
    sample: Tensor
    sample_logit: Tensor
    lse: Tensor
    entropy: Tensor
    lse_1: Tensor
    entropy_1: Tensor
    top_ids: Tensor
    top_logits: Tensor


def philox(seed: int, counters: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10. counters: four int64 tensors of 32-bit words, broadcastable -> the same of random words."""
    c0, c1, c2, c3 = counters
    k0, k1 = seed & MASK32, (seed >> 32) & MASK32
    for _ in range(10):
        # the wrapped int64 product has the right 64 bits, so shift and mask give its halves
        low, high = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0 = ((high >> 32) & MASK32) ^ c1 ^ k0
        c1 = high & MASK32
        c2 = ((low >> 32) & MASK32) ^ c3 ^ k1
        c3 = low & MASK32
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c0, c1, c2, c3


def gumbel_noise(seed: int, step: int, row_ids: Tensor, num_tokens: int) -> Tensor:
    """Standard Gumbel noise for rows row_ids [R] and tokens [0, num_tokens) -> fp32 [R, num_tokens]."""
    quads = torch.arange(-(-num_tokens // 4), device=row_ids.device)[None, :]
    rows = row_ids.long()[:, None] & MASK32
    zero = torch.zeros_like(quads)
    words = philox(seed, (quads + zero * rows, rows + zero, zero * rows + (step & MASK32), zero * rows))
    bits = torch.stack(words, dim=-1).flatten(1)[:, :num_tokens]
    # 23 bits and a half: exact in fp32, never 0 and never 1
    uniform = ((bits >> 9).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def logits_reference(hidden: Tensor, table: Tensor, softcap: float, is_banned: Tensor | None) -> Tensor:
    """The capped logits [R, V], which `argmax` and the list are the best of. Operands as below."""
    wide = wide_dtype(hidden)
    logits = hidden.to(wide) @ table.to(wide).T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return logits if is_banned is None else logits.masked_fill(is_banned[None, :], -torch.inf)


def noisy_logits_reference(processed: Tensor, noise: Tensor, row_ids: Tensor) -> Tensor:
    """fp32 [R, V] from logits over the temperature, which the sample is the best of."""
    seed, step = (int(word) for word in noise)
    return processed.to(torch.float32) + gumbel_noise(seed, step, row_ids, processed.shape[1])


def vocab_stats_reference(
    hidden: Tensor,
    table: Tensor,
    *,
    softcap: float,
    temperature: Tensor,
    noise: Tensor,
    num_top: int,
    row_ids: Tensor,
    is_banned: Tensor | None,
) -> VocabStats:
    """hidden: [R, H] after the final norm; table: [V, H]; temperature: fp32 [R]; row_ids: int [R]; is_banned: bool [V]
    or None.

    softcap 0: no cap. Computed in fp32, or fp64 for an fp64 hidden.
    """
    logits = logits_reference(hidden, table, softcap, is_banned)
    processed = logits / temperature.to(logits.dtype)[:, None]
    noisy = noisy_logits_reference(processed, noise, row_ids)
    argmax, sample = _first_argmax(logits), _first_argmax(noisy)
    # a stable sort keeps the lowest id first among equals, which torch.topk does not promise
    top_ids = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :num_top]
    lse, entropy = _entropy(processed)
    lse_1, entropy_1 = _entropy(logits)
    return VocabStats(
        argmax=argmax,
        logit=logits.gather(1, argmax[:, None])[:, 0],
        sample=sample,
        sample_logit=logits.gather(1, sample[:, None])[:, 0],
        lse=lse,
        entropy=entropy,
        lse_1=lse_1,
        entropy_1=entropy_1,
        top_ids=top_ids,
        top_logits=logits.gather(1, top_ids),
    )


def _first_argmax(x: Tensor) -> Tensor:
    columns = torch.arange(x.shape[1], device=x.device)
    # a row that is no number has no largest: any token is as wrong, but one that is none is read past the table's end
    return torch.where(x == x.amax(1, keepdim=True), columns, x.shape[1] - 1).amin(1)


def _entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
    lse = torch.logsumexp(logits, dim=-1)
    probability = torch.exp(logits - lse[:, None])
    expected = torch.where(probability > 0, probability * logits, 0.0).sum(-1)
    return lse, (lse - expected).clamp_min(0.0)
