"""int8 on the CPU against its fp32 truth.

The weights of a quantised layer are exact (`dequantise` is what they are); only activations are rounded, by 1/254 of a
row's largest value at most. So a product's error has a bound that can be written down, and the tests use that bound.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.checkpoint import load_checkpoint, save_folder, save_packed
from lacuna_ls.engine.int8 import NUM_ROWS_FLOAT, Int8Experts, Int8Linear, convert, dequantise, quantise
from lacuna_ls.engine.local import LocalEngine
from lacuna_ls.engine.problem import Canvas, CanvasProblem
from random_models import CONFIG, changed, encode, random_model
from torch.nn import functional as F


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40), num_in=st.integers(1, 70), num_out=st.integers(1, 70), seed=st.integers(0, 999),
    magnitude=st.sampled_from([1e-6, 1.0, 1e6]),
)  # fmt: skip
def test_a_layer_is_within_its_bound_of_the_truth(rows: int, num_in: int, num_out: int, seed: int, magnitude: float):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_out, num_in, generator=generator)
    x = torch.randn(rows, num_in, generator=generator) * magnitude
    truth = dequantise(*quantise(weight))
    assert ((truth - weight).abs() <= weight.abs().amax(-1, keepdim=True) / 254 * 1.001).all()
    error = (Int8Linear(weight)(x) - F.linear(x, truth)).abs()
    # half a step of the row's scale for every input, times that input's weight
    bound = x.abs().amax(-1, keepdim=True) / 254 * truth.abs().sum(-1)
    assert (error <= bound * 1.01 + 1e-5 * magnitude).all()
    if rows <= NUM_ROWS_FLOAT:
        assert (error <= 1e-5 * magnitude * num_in).all()


def test_zeros_stay_zeros_and_shapes_stay():
    layer = Int8Linear(torch.zeros(5, 8))
    assert torch.equal(layer(torch.randn(2, 7, 8)), torch.zeros(2, 7, 5))
    layer = Int8Linear(torch.ones(5, 8))
    assert torch.equal(layer(torch.zeros(9, 8)), torch.zeros(9, 5))


def test_quantising_twice_changes_nothing():
    weight = torch.randn(6, 3, 20, generator=torch.Generator().manual_seed(1))
    once = quantise(weight)
    twice = quantise(dequantise(*once))
    assert torch.equal(once[0], twice[0])
    assert torch.allclose(once[1], twice[1])


@pytest.mark.parametrize(
    ("num_experts", "is_int8"),
    [
        # as many as run densely
        (4, True),
        # gathered experts are read where they lie, and stay as they are
        (12, False),
    ],
)
def test_what_is_converted(num_experts: int, is_int8: bool):
    model = convert(random_model(changed(num_experts=num_experts)))
    layer = model.layers[0]
    assert isinstance(layer.experts, Int8Experts) == is_int8
    assert isinstance(layer.self_attn.q_proj, Int8Linear)
    assert isinstance(layer.mlp.down_proj, Int8Linear)
    assert isinstance(model.self_conditioning.up_proj, Int8Linear)
    # a flipped expert choice costs more than the router's few weights; the table is gathered
    assert not isinstance(layer.router.proj, Int8Linear)
    assert not isinstance(model.embed_tokens, Int8Linear)


def test_a_packed_file_in_int8_is_close_to_itself_in_fp32(tmp_path: Path):
    packed = tmp_path / "model.safetensors"
    save_packed(random_model(seed=3, reach=0.3), packed, {})
    exact, quick = load_checkpoint(packed, weights="fp32"), load_checkpoint(packed, weights="int8")
    # the same weights: what is packed is quantised row by row as the CPU runs it
    for name in ("self_attn.k_proj", "mlp.gate_proj"):
        ours, theirs = quick.layers[1].get_submodule(name).weight, exact.layers[1].get_submodule(name).weight
        assert torch.allclose(ours, theirs, atol=1e-7)
    tokens = torch.arange(3, 33)
    canvas = torch.arange(10, 26)[None]
    (cache, hidden), (quick_cache, quick_hidden) = encode(exact, tokens), encode(quick, tokens)
    relative = (hidden - quick_hidden).norm() / hidden.norm()
    assert 0 < relative < 0.05
    logits = exact.logits(exact.decode(canvas, cache))
    quick_logits = quick.logits(quick.decode(canvas, quick_cache))
    assert (logits - quick_logits).norm() / logits.norm() < 0.05
    # and what is read from the logits is the same where the model is not torn between two tokens
    top = logits.topk(2).values
    is_clear = top[..., 0] - top[..., 1] > 0.5
    assert is_clear.any()
    assert torch.equal(logits.argmax(-1)[is_clear], quick_logits.argmax(-1)[is_clear])


def test_an_engine_runs_in_int8(tmp_path: Path):
    save_folder(random_model(seed=3), tmp_path)
    engine = LocalEngine.load(tmp_path)
    assert isinstance(engine.model.layers[0].mlp.up_proj, Int8Linear)
    result = engine.fill(CanvasProblem(tuple(range(20)), (Canvas.free(9),), max_steps=3))[0]
    assert all(0 <= token < CONFIG.vocab_size for token in result.tokens)
    assert torch.tensor(result.entropy).isfinite().all()


def test_a_converted_model_is_not_saved(tmp_path: Path):
    model = convert(random_model())
    for save in (lambda: save_folder(model, tmp_path / "a"), lambda: save_packed(model, tmp_path / "b", {})):
        with pytest.raises(ValueError, match="int8"):
            save()
