"""int8 on the CPU against its fp32 truth.

The weights of a quantised layer are exact (`dequantise` is what they are); only activations are rounded, by 1/254 of a
row's largest value at most (to bf16 where there are few rows). So a product's error has a bound that can be written
down, and the tests use that bound.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.checkpoint import load_checkpoint, save_folder, save_packed
from lacuna_ls.engine.int8 import (
    FEW_MULTIPLE,
    NUM_FEW,
    Int8GatedMLP,
    Int8Layer,
    Int8Linear,
    Norm,
    convert,
    dequantise,
    quantise,
)
from lacuna_ls.engine.local import LocalEngine
from lacuna_ls.engine.model import DiffusionGemma, RMSNorm
from lacuna_ls.engine.problem import Canvas, CanvasProblem
from random_models import CONFIG, changed, encode, random_model
from torch import Tensor
from torch.nn import functional as F


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40), num_in=st.one_of(st.integers(1, 70), st.sampled_from([32, 64, 96])),
    num_out=st.integers(1, 70), seed=st.integers(0, 999), magnitude=st.sampled_from([1e-6, 1.0, 1e6]),
)  # fmt: skip
def test_a_layer_is_within_its_bound_of_the_truth(rows: int, num_in: int, num_out: int, seed: int, magnitude: float):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_out, num_in, generator=generator)
    x = torch.randn(rows, num_in, generator=generator) * magnitude
    truth = dequantise(*quantise(weight))
    assert ((truth - weight).abs() <= weight.abs().amax(-1, keepdim=True) / 254 * 1.001).all()
    error = (Int8Linear(weight)(x) - F.linear(x, truth)).abs()
    if rows <= NUM_FEW and num_in % FEW_MULTIPLE == 0:
        # bf16 keeps eight bits: of every input, of every scale, and of the sum
        bound = 3 * 2**-8 * (x.abs() @ truth.abs().t())
    else:
        # half a step of the row's scale for every input, times that input's weight
        bound = x.abs().amax(-1, keepdim=True) / 254 * truth.abs().sum(-1)
    assert (error <= bound * 1.01 + 1e-5 * magnitude).all()


def test_layers_of_one_input_are_one_product():
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(5, 32, generator=generator), torch.randn(3, 32, generator=generator)
    for rows in (1, 9):
        x = torch.randn(rows, 32, generator=generator)
        apart = torch.cat((Int8Linear(first)(x), Int8Linear(second)(x)), dim=-1)
        assert torch.equal(Int8Linear(first, second)(x), apart)


@pytest.mark.parametrize("has_weight", [True, False])
def test_a_norm_in_two_parts_is_the_norm(has_weight: bool):
    generator = torch.Generator().manual_seed(3)
    truth = RMSNorm(24, 1e-3, has_weight)
    if truth.weight is not None:
        torch.nn.init.normal_(truth.weight, generator=generator)
    norm = Norm(truth)
    for magnitude in (1e-4, 1.0, 1e4):
        x, residual = torch.randn(2, 2, 5, 24, generator=generator) * magnitude
        assert torch.allclose(norm(x), truth(x), rtol=1e-5, atol=1e-7)
        assert torch.allclose(norm.add(residual, x), residual + truth(x), rtol=1e-5, atol=1e-6 * magnitude)
    assert torch.equal(norm(torch.zeros(1, 24)), torch.zeros(1, 24))


@pytest.mark.parametrize("num_experts", [4, 12], ids=["dense", "gathered"])
@pytest.mark.parametrize("number", [0, 1], ids=["sliding", "full, no value projection"])
def test_a_layer_of_few_operations_is_the_layer(num_experts: int, number: int, monkeypatch: pytest.MonkeyPatch):
    """With exact products what is left is the order of sums."""
    monkeypatch.setattr(Int8Linear, "forward", lambda self, x: F.linear(x, self.weight))
    model = load_dequantised(random_model(changed(num_experts=num_experts), seed=number))
    truth = model.layers[number]
    quick = Int8Layer(truth)
    generator = torch.Generator().manual_seed(4)
    spec = model.config.layers[number]
    for num_rows in (1, 7):
        x = torch.randn(2, num_rows, model.config.hidden_size, generator=generator)
        ropes = model._ropes(torch.arange(num_rows)[None])[number]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            assert layer == number
            assert key.shape == value.shape == (2, spec.num_kv_heads, query.shape[2], spec.head_dim)
            return F.scaled_dot_product_attention(query, key, value, scale=1.0, enable_gqa=True)

        scalar = torch.tensor([0.7])
        (want, chances), (got, quick_chances) = (each(x, ropes, number, attend, scalar) for each in (truth, quick))
        assert torch.allclose(got, want, atol=2e-5)
        assert torch.allclose(quick_chances, chances, atol=1e-5)


def load_dequantised(model: DiffusionGemma) -> DiffusionGemma:
    """The same model with weights that int8 holds exactly, as `Int8Linear` will find them."""
    for layer in model.blocks():
        with torch.no_grad():
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear) and module is not layer.router.proj:
                    module.weight.copy_(dequantise(*quantise(module.weight)))
            if layer.experts.is_dense:
                down = layer.experts.down_proj
                flat = down.permute(1, 0, 2).flatten(1)
                down.copy_(dequantise(*quantise(flat)).view(down.shape[1], -1, down.shape[2]).permute(1, 0, 2))
                layer.experts.gate_up_proj.copy_(dequantise(*quantise(layer.experts.gate_up_proj)))
    return model


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
    assert isinstance(layer.experts, Int8GatedMLP) == is_int8
    assert isinstance(layer.self_attn.qkv, Int8Linear)
    assert isinstance(layer.mlp.down, Int8Linear)
    assert isinstance(model.self_conditioning.up_proj, Int8Linear)
    # a flipped expert choice costs more than the router's few weights; the table is gathered
    assert not isinstance(layer.router.proj, Int8Linear)
    assert not isinstance(model.embed_tokens, Int8Linear)


def test_a_packed_file_in_int8_is_close_to_itself_in_fp32(tmp_path: Path):
    packed = tmp_path / "model.safetensors"
    save_packed(random_model(seed=3, reach=0.3), packed, {})
    exact, quick = load_checkpoint(packed, weights="fp32"), load_checkpoint(packed, weights="int8")
    # the same weights: what is packed is quantised row by row as the CPU runs it
    for ours, names in (("self_attn.out", ["self_attn.o_proj"]), ("mlp.gate_up", ["mlp.gate_proj", "mlp.up_proj"])):
        theirs = torch.cat([exact.layers[1].get_submodule(name).weight for name in names])
        assert torch.allclose(quick.layers[1].get_submodule(ours).weight, theirs, atol=1e-7)
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
    assert isinstance(engine.model.layers[0].mlp.gate_up, Int8Linear)
    result = engine.fill(CanvasProblem(tuple(range(20)), (Canvas.free(9),), max_steps=3))[0]
    assert all(0 <= token < CONFIG.vocab_size for token in result.tokens)
    assert torch.tensor(result.entropy).isfinite().all()


def test_a_converted_model_is_not_saved(tmp_path: Path):
    model = convert(random_model())
    for save in (lambda: save_folder(model, tmp_path / "a"), lambda: save_packed(model, tmp_path / "b", {})):
        with pytest.raises(ValueError, match="int8"):
            save()
