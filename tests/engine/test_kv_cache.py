"""The KV cache: growing, cutting back, and that a cache which was cut and filled again is as good as a new one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.kv_cache import KVCache
from random_models import CONFIG, CPU, encode, random_model

MODEL = random_model(seed=7)
tokens = st.lists(st.integers(0, CONFIG.vocab_size - 1), min_size=1, max_size=40)


@settings(max_examples=20, deadline=None)
@given(old=tokens, new=tokens, cut=st.integers(0, 40), capacity=st.sampled_from([1, 8, 64]))
def test_cut_and_filled_again_equals_a_cold_prefill(old: list[int], new: list[int], cut: int, capacity: int):
    cut = min(cut, len(old))
    cache, _ = encode(MODEL, old, capacity)
    cache.truncate(cut)
    hidden = MODEL.encode(torch.tensor(new), cache)
    cold, cold_hidden = encode(MODEL, [*old[:cut], *new])
    assert torch.allclose(hidden, cold_hidden[cut:], atol=1e-5)
    canvas = torch.tensor([[3, 4, 5]])
    soft = torch.randn(1, 3, CONFIG.hidden_size, generator=torch.Generator().manual_seed(0))
    for belief in (None, soft):
        warm = MODEL.logits(MODEL.decode(canvas, cache, belief))
        assert torch.allclose(warm, MODEL.logits(MODEL.decode(canvas, cold, belief)), atol=1e-4)


def test_the_decoder_leaves_the_cache_alone():
    cache, _ = encode(MODEL, range(20))
    before = [[t.clone() for t in cache.read(i)] for i in range(len(CONFIG.layers))]
    MODEL.decode(torch.tensor([[1, 2, 3], [4, 5, 6]]), cache)
    assert cache.length == 20
    for i, (keys, values) in enumerate(before):
        assert torch.equal(cache.read(i)[0], keys)
        assert torch.equal(cache.read(i)[1], values)


def test_growth_keeps_what_is_held_and_doubles():
    cache = KVCache(CONFIG, CPU, torch.float32, capacity=2)
    sizes = [cache.num_bytes]
    for position in range(33):
        for layer, spec in enumerate(CONFIG.layers):
            row = torch.full((spec.num_kv_heads, 1, spec.head_dim), float(position))
            cache.append(layer, row, -row)
        cache.advance(1)
        sizes.append(cache.num_bytes)
    # 2, 4, 8, 16, 32, 64 positions: five moves for 33 appends
    assert len(set(sizes)) == 6
    for layer in range(len(CONFIG.layers)):
        keys, values = cache.read(layer)
        assert torch.equal(keys[0, :, 0], torch.arange(33.0))
        assert torch.equal(values, -keys)
        assert torch.equal(cache.read(layer, 5)[0], keys[:, 28:])
        assert torch.equal(cache.read(layer, 99)[0], keys)


def test_an_append_counts_only_once_it_is_whole():
    cache, _ = encode(MODEL, range(6))
    spec = CONFIG.layers[0]
    cache.append(0, torch.ones(spec.num_kv_heads, 3, spec.head_dim), torch.ones(spec.num_kv_heads, 3, spec.head_dim))
    # the second layer failed: nothing was added
    assert cache.length == 6
    assert cache.read(0)[0].shape[1] == 6


def test_a_copied_beginning_goes_on_as_its_own():
    source, _ = encode(MODEL, range(12))
    cache, _ = encode(MODEL, [50, 51], capacity=1)
    cache.copy(source, 7)
    assert (cache.length, cache.tokens) == (7, source.tokens[:7])
    hidden = MODEL.encode(torch.tensor([40, 41]), cache)
    assert torch.allclose(hidden, encode(MODEL, [*range(7), 40, 41])[1][7:], atol=1e-5)
    # the source has its own positions still
    assert torch.allclose(
        MODEL.encode(torch.tensor([12]), source), encode(MODEL, range(13))[1][12:], atol=1e-5
    )
    with pytest.raises(ValueError, match="14 positions of a cache of 13"):
        cache.copy(source, 14)


@pytest.mark.parametrize(
    ("held", "wanted", "common"),
    [
        # nothing held yet
        ((), (1, 2), 0),
        # the new prompt goes on where the old one ended
        ((1, 2), (1, 2, 3), 2),
        # it is shorter
        ((1, 2, 3), (1, 2), 2),
        # it departs in the middle
        ((1, 2, 3), (1, 5, 3), 1),
        # and at once
        ((4,), (5,), 0),
        ((1, 2), (1, 2), 2),
    ],
)
def test_the_common_prefix(held: tuple[int, ...], wanted: tuple[int, ...], common: int):
    cache = encode(MODEL, held)[0] if held else KVCache(CONFIG, CPU, torch.float32)
    assert cache.common_prefix(wanted) == common


def test_a_state_stays_as_long_as_its_token():
    cache, hidden = encode(MODEL, range(6))
    cache.hold(tuple(range(6)))
    assert cache.state_after(6) is None
    cache.keep_state(hidden[-1])
    MODEL.encode(torch.tensor([8, 9]), cache)
    cache.truncate(6)
    assert torch.equal(cache.state_after(6), hidden[-1])
    assert cache.state_after(5) is None
    cache.truncate(5)
    MODEL.encode(torch.tensor([8]), cache)
    assert cache.state_after(6) is None


def test_misuse_is_refused():
    cache, _ = encode(MODEL, range(4))
    with pytest.raises(ValueError, match="4 positions to 5"):
        cache.truncate(5)
    with pytest.raises(ValueError, match="3 tokens for 4"):
        cache.hold((1, 2, 3))


def test_released_memory_comes_back_when_needed():
    cache, hidden = encode(MODEL, range(9))
    cache.release()
    assert cache.num_bytes == cache.length == 0
    assert cache.tokens == ()
    assert torch.allclose(MODEL.encode(torch.arange(9), cache), hidden, atol=1e-6)
