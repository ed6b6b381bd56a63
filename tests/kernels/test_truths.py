"""The truths themselves against something else: PyTorch's own operators, published vectors, and arithmetic."""

from __future__ import annotations

import torch
from lacuna_ls.kernels.attention import canvas_attention_reference, row_ranges
from lacuna_ls.kernels.norms import attention_glue_reference, mlp_glue_reference, qkv_norm_rotate_reference
from lacuna_ls.kernels.vocab import gumbel_noise, philox, vocab_stats_reference
from torch.nn import functional as F


def test_philox_gives_the_published_numbers():
    """Random123's known-answer tests for philox4x32-10."""
    zero, ones = torch.zeros(1, dtype=torch.int64), torch.full((1,), 0xFFFFFFFF)
    assert [int(w) for w in philox(0, (zero,) * 4)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(w) for w in philox(-1, (ones,) * 4)] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_gumbel_noise_is_gumbel_and_stateless():
    noise = gumbel_noise(123, 4, torch.arange(40), 5000).double()
    assert bool(torch.isfinite(noise).all())
    # the standard distribution's mean within five standard errors, and its variance pi^2 / 6
    assert abs(float(noise.mean()) - 0.577216) < 5 * 1.2825 / noise.numel() ** 0.5
    assert abs(float(noise.var()) - 1.644934) < 0.03
    assert torch.equal(gumbel_noise(123, 4, torch.tensor([7]), 100)[0], noise[7, :100].float())


def test_samples_follow_the_distribution():
    """10,000 draws from five tokens: every share within five standard errors of its probability."""
    hidden, table = (
        torch.ones(10_000, 1, dtype=torch.float64),
        torch.tensor([[0.0], [1.0], [2.0], [3.0], [-9.0]]).double(),
    )
    stats = vocab_stats_reference(
        hidden, table, softcap=0.0, temperature=torch.full((10_000,), 2.0), noise=torch.tensor([9, 1]), num_top=1,
        row_ids=torch.arange(10_000), is_banned=None,
    )  # fmt: skip
    shares = torch.bincount(stats.sample, minlength=5) / 10_000
    wanted = torch.softmax(table[:, 0] / 2.0, 0)
    assert bool(((shares - wanted).abs() < 5 * (wanted * (1 - wanted) / 10_000).sqrt() + 1e-9).all())
    entropy = -(wanted * wanted.log()).sum()
    assert torch.allclose(stats.entropy, entropy.expand(10_000))


def test_attention_is_pytorchs_on_a_canvas_and_on_a_causal_prefill():
    generator = torch.Generator().manual_seed(0)
    S, L, Hq, Hkv, D = 20, 6, 4, 2, 16
    query, key, value = (torch.randn(L, h, D, generator=generator).double() for h in (Hq, Hkv, Hkv))
    cached_key, cached_value = (torch.randn(Hkv, S, D, generator=generator).double() for _ in range(2))
    for window in (None, 8):
        got = canvas_attention_reference(query, key, value, cached_key, cached_value, row_ranges(S, 0, [L], window))
        first = 0 if window is None else S - (window - 1)
        keys = torch.cat((cached_key[:, first:], key.transpose(0, 1)), 1)
        values = torch.cat((cached_value[:, first:], value.transpose(0, 1)), 1)
        want = F.scaled_dot_product_attention(query.transpose(0, 1), keys, values, scale=1.0, enable_gqa=True)
        assert torch.allclose(got, want.transpose(0, 1))
        # causal rows: the cache holds their own keys already
        ranges = row_ranges(S - L, L, [], window)
        got = canvas_attention_reference(query, key, value, cached_key, cached_value, ranges)
        distance = torch.arange(S - L, S)[:, None] - torch.arange(S)
        mask = (distance >= 0) & (distance < (window or S))
        want = F.scaled_dot_product_attention(
            query.transpose(0, 1), cached_key, cached_value, attn_mask=mask, scale=1.0, enable_gqa=True
        )
        assert torch.allclose(got, want.transpose(0, 1))


def in_parts(whole: torch.Tensor) -> torch.Tensor:
    """Three tensors whose sum is whole."""
    first, second = torch.randn_like(whole), torch.randn_like(whole)
    return torch.stack((first, second, whole - first - second))


def test_norms_and_rotation_are_pytorchs():
    generator = torch.Generator().manual_seed(1)
    T, num_q, num_kv, D, H = 5, 3, 1, 8, 32
    qkv = torch.randn(T, num_q + 2 * num_kv, D, generator=generator).double()
    weight, other = (torch.randn(D, generator=generator).double() for _ in range(2))
    angle = torch.randn(T, D // 2, generator=generator).double()
    rope = (torch.cat((angle, angle), 1).cos(), torch.cat((angle, angle), 1).sin())
    q, k, v = qkv_norm_rotate_reference(in_parts(qkv), num_q, num_kv, weight, other, rope, 1e-6)
    for out, rows, w in ((q, qkv[:, :num_q], weight), (k, qkv[:, num_q:-1], other)):
        complex_rows = F.rms_norm(rows, (D,), w, 1e-6)
        turned = (
            torch.complex(complex_rows[..., : D // 2], complex_rows[..., D // 2 :])
            * torch.polar(torch.ones_like(angle), angle)[:, None]
        )
        assert torch.allclose(out, torch.cat((turned.real, turned.imag), -1))
    assert torch.allclose(v, F.rms_norm(qkv[:, -1:], (D,), None, 1e-6))

    x, a = (torch.randn(T, H, generator=generator).double() for _ in range(2))
    w = [torch.randn(H, generator=generator).double() for _ in range(4)]
    x1, dense, sparse, router = attention_glue_reference(x, in_parts(a), *w, 1e-6)
    assert torch.allclose(x1, x + F.rms_norm(a, (H,), w[0], 1e-6))
    for out, one in ((dense, w[1]), (sparse, w[2]), (router, w[3])):
        assert torch.allclose(out, F.rms_norm(x1, (H,), one, 1e-6))
    slots, share = torch.randn(T, 2, H, generator=generator).double(), torch.rand(T, 2, generator=generator).double()
    x2, following = mlp_glue_reference(x, in_parts(a), slots, share, *w[:3], torch.tensor([0.5]).double(), w[3], 1e-6)
    mixed = slots[:, 0] * share[:, :1] + slots[:, 1] * share[:, 1:]
    both = F.rms_norm(a, (H,), w[0], 1e-6) + F.rms_norm(mixed, (H,), w[1], 1e-6)
    assert torch.allclose(x2, (x + F.rms_norm(both, (H,), w[2], 1e-6)) * 0.5)
    assert torch.allclose(following, F.rms_norm(x2, (H,), w[3], 1e-6))
