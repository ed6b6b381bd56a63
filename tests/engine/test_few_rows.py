"""The forward of a few rows in numpy, against the same layers in torch: rows, windows, growing caches, turns taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine import few_rows
from lacuna_ls.engine.few_rows import FewRows
from lacuna_ls.engine.int8 import Products, convert
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.model import MAX_FEW, DiffusionGemma
from random_models import CONFIG, changed, random_model

V = CONFIG.vocab_size
HAS_HALF = torch.backends.quantized.engine in ("x86", "fbgemm") and torch.cpu._is_avx2_supported()
# the first layer's window of 8 is shorter than most of these sequences
MODELS = {products: convert(random_model(seed=5), products) for products in ("int8", "float")}


def run(model: DiffusionGemma, pieces: list[list[int]], is_quick: bool, capacity: int = 512) -> torch.Tensor:
    """Normed states of all pieces, one after the other."""
    few, model.few_rows = model.few_rows, model.few_rows if is_quick else None
    try:
        cache = KVCache(model.config, model.device, torch.float32, capacity)
        return torch.cat([model.encode(torch.tensor(piece), cache) for piece in pieces])
    finally:
        model.few_rows = few


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=MAX_FEW + 3), min_size=1, max_size=9),
    products=st.sampled_from(sorted(MODELS)), capacity=st.sampled_from([1, 16, 512]),
)  # fmt: skip
def test_it_is_the_forward_of_torch(pieces: list[list[int]], products: Products, capacity: int):
    """Pieces of more rows than MAX_FEW go through torch either way, into the same cache."""
    model = MODELS[products]
    assert isinstance(model.few_rows, FewRows)
    truth, quick = run(model, pieces, False), run(model, pieces, True, capacity)
    # int8 rounds its inputs, so that a last bit may become a step of 1/127
    atol = 5e-2 if products == "int8" else 1e-4
    assert torch.allclose(quick, truth, atol=atol)


@pytest.mark.skipif(not HAS_HALF, reason="products in fp16 need an x86 with AVX2")
def test_products_in_fp16():
    model = convert(random_model(seed=6), "half")
    pieces = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16]]
    assert torch.allclose(run(model, pieces, True), run(model, pieces, False), atol=1e-4)


def test_a_router_that_is_very_sure():
    model = random_model(seed=7)
    for layer in model.blocks():
        layer.router.proj.weight.data *= 1e5
    model = convert(model, "float")
    pieces = [[1, 2, 3, 4], [5], [6, 7]]
    assert torch.allclose(run(model, pieces, True), run(model, pieces, False), atol=1e-4)


def test_products_in_pieces_are_the_product(monkeypatch: pytest.MonkeyPatch):
    model, pieces = MODELS["float"], [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]
    whole = run(model, pieces, True)
    # a row of every key head at a time
    monkeypatch.setattr(few_rows, "ALONE", 1)
    assert torch.allclose(run(model, pieces, True), whole, atol=1e-5)


def test_gates_far_below_zero_close():
    gate_up = np.array([[-1e4, -30.0, 0.0, 30.0, 2.0, 2.0, 2.0, 2.0]], np.float32)
    with np.errstate(over="ignore"):
        assert np.allclose(few_rows._gated(gate_up), [[0.0, 0.0, 0.0, 60.0]], atol=1e-6)


def test_a_cut_and_a_longer_table_of_rotations():
    """More positions than MIN_KNOWN_ROPES: the tables are made anew while one sequence grows."""
    model = MODELS["float"]
    tokens = [i % V for i in range(520)]
    cache = KVCache(model.config, model.device, torch.float32)
    model.encode(torch.tensor(tokens[:510]), cache)
    states = torch.cat([model.encode(torch.tensor([token]), cache) for token in tokens[510:]])
    cache.truncate(511)
    again = model.encode(torch.tensor(tokens[511:514]), cache)
    assert torch.allclose(again, states[1:4], atol=1e-4)
    assert torch.allclose(states, run(model, [tokens], False)[510:], atol=1e-3)


def test_models_it_does_not_know_go_on_without():
    # experts that are gathered
    assert convert(random_model(changed(num_experts=12)), "float").few_rows is None
    assert random_model().few_rows is None
