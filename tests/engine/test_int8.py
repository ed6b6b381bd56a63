"""The quick products and layers of a CPU against their fp32 truth, each kind on every machine that can run it.

The weights of a quantised layer are exact (`dequantise` is what they are); only activations are rounded, by 1/254 of a
row's largest value at most (to bf16 where there are few rows). So a product's error has a bound that can be written
down, and the tests use that bound. Products in fp16 and fp32 have rounding errors alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lacuna_ls.engine import int8, local
from lacuna_ls.engine.checkpoint import EMBEDDED, load_checkpoint, save_folder, save_packed
from lacuna_ls.engine.int8 import (
    FEW_MULTIPLE,
    GROUPED_FROM,
    NUM_FEW,
    FloatLinear,
    HalfLinear,
    Int8Linear,
    Norm,
    Products,
    QuickExperts,
    QuickLayer,
    best_products,
    convert,
    dequantise,
    gated,
    has_half,
    product_of,
    quantise,
)
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.local import LocalEngine
from lacuna_ls.engine.model import DiffusionGemma, RMSNorm
from lacuna_ls.engine.problem import Canvas, CanvasProblem
from lacuna_ls.infill.load import load_tokenizer
from random_models import CONFIG, changed, encode, random_model
from torch import Tensor
from torch.nn import functional as F

NO_HALF = pytest.mark.skipif(not has_half(), reason="products in fp16 need an x86 with AVX2")
EXACT = ["float", pytest.param("half", marks=NO_HALF)]
ALL = ["int8", *EXACT]
CLASSES = {"int8": Int8Linear, "half": HalfLinear, "float": FloatLinear}


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
    for products in ["float", *["half"] * has_half()]:
        other = product_of(products, weight)
        assert ((other.weight - weight).abs() <= 2**-11 * weight.abs() + 1e-7).all()
        exact = (x.double() @ other.weight.double().t()).float()
        assert torch.allclose(other(x), exact, rtol=1e-4, atol=1e-4 * magnitude)
    if rows <= NUM_FEW and num_in % FEW_MULTIPLE == 0:
        # bf16 keeps eight bits: of every input, of every scale, and of the sum
        bound = 3 * 2**-8 * (x.abs() @ truth.abs().t())
    else:
        # half a step of the row's scale for every input, times that input's weight
        bound = x.abs().amax(-1, keepdim=True) / 254 * truth.abs().sum(-1)
    assert (error <= bound * 1.01 + 1e-5 * magnitude).all()


@pytest.mark.parametrize("products", ALL)
def test_layers_of_one_input_are_one_product(products: Products):
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(5, 32, generator=generator), torch.randn(3, 32, generator=generator)
    for rows in (1, 9):
        x = torch.randn(rows, 32, generator=generator)
        apart = torch.cat((product_of(products, first)(x), product_of(products, second)(x)), dim=-1)
        assert torch.allclose(product_of(products, first, second)(x), apart, atol=1e-5)
    together = product_of(products, first, second)
    assert isinstance(together, CLASSES[products])
    assert torch.allclose(together(x[0]), together(x[:1])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "engine", "wanted"),
    [
        ({"vnni"}, "x86", "int8"),
        ({"amx_tile", "avx2"}, "x86", "int8"),
        ({"avx2"}, "x86", "half"),
        ({"avx2"}, "fbgemm", "half"),
        # ARM, or an x86 without AVX2
        ({"avx2"}, "qnnpack", "float"),
        (set(), "x86", "float"),
    ],
)
def test_a_cpu_gets_the_products_it_is_quick_at(
    flags: set[str], engine: str, wanted: str, monkeypatch: pytest.MonkeyPatch
):
    for flag in ("vnni", "amx_tile", "avx2"):
        monkeypatch.setattr(torch.cpu, f"_is_{flag}_supported", lambda flag=flag: flag in flags)
    # the module's own attribute is a property that talks to C++
    monkeypatch.setattr(torch.backends, "quantized", type("", (), {"engine": engine}))
    assert best_products.__wrapped__() == wanted


def test_the_vocabulary_is_read_in_fp16_only_where_that_is_quick(monkeypatch: pytest.MonkeyPatch):
    for has in {False, has_half()}:
        monkeypatch.setattr(int8, "has_half", lambda has=has: has)
        for products in ("int8", "float"):
            model = convert(random_model(), products)
            is_half = has and products == "int8"
            assert isinstance(model.to_vocabulary, HalfLinear) == is_half
            assert isinstance(model.from_vocabulary, HalfLinear) == is_half


def test_few_rows_copy_no_weights_where_a_product_would(monkeypatch: pytest.MonkeyPatch):
    """As on ARM: few rows are multiplied one by one, and F.linear is left to many. The answers are the same."""
    generator = torch.Generator().manual_seed(7)
    model, tokens = random_model(seed=7), torch.arange(11) % CONFIG.vocab_size
    monkeypatch.setattr(int8, "copies_weights", lambda: False)
    convert(model, "float")
    assert model.to_vocabulary is None
    linear, layer = F.linear, model.layers[0].mlp.gate_up
    rows = [torch.randn(number, CONFIG.hidden_size, generator=generator) for number in (0, 1, NUM_FEW, NUM_FEW + 1)]
    want, states = [linear(x, layer.weight) for x in rows], model.encode(tokens, KVCache(CONFIG, "cpu", torch.float32))
    logits = model.logits(states)
    monkeypatch.setattr(int8, "copies_weights", lambda: True)
    num_copied: list[int] = []
    monkeypatch.setattr(F, "linear", lambda x, weight: num_copied.append(len(x)) or linear(x, weight))
    assert all(torch.allclose(layer(x), y, atol=1e-5) for x, y in zip(rows, want, strict=True))
    assert num_copied == [0, NUM_FEW + 1]
    model = convert(random_model(seed=7), "float")
    cache = KVCache(CONFIG, model.device, torch.float32)
    num_copied.clear()
    one_by_one = torch.cat([model.logits(model.encode(token[None], cache)) for token in tokens])
    assert num_copied == []
    assert torch.allclose(one_by_one, logits, atol=1e-4)
    assert model.to_vocabulary.weight.data_ptr() == model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("largest", [1e-4, 1e6, 0.0])
def test_a_matrix_that_fp16_does_not_hold_stays_fp32(largest: float):
    weight = torch.full((3, 32), largest)
    assert isinstance(product_of("half", weight), FloatLinear)
    with pytest.raises(ValueError, match="fp16"):
        HalfLinear(weight)


def test_the_gate_is_a_gelu():
    gate, up = torch.linspace(-12, 12, 2001), torch.linspace(3, -3, 2001)
    truth = F.gelu(gate.double(), approximate="tanh") * up.double()
    assert torch.allclose(gated(gate, up).double(), truth, rtol=1e-5, atol=1e-6)
    far = torch.tensor([-1e30, 1e30, 0.0])
    assert torch.equal(gated(far, torch.ones(3)), torch.tensor([0.0, 1e30, 0.0]))


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


@pytest.mark.parametrize("products", ALL)
@pytest.mark.parametrize("num_experts", [4, 12], ids=["dense", "gathered"])
@pytest.mark.parametrize("number", [0, 1], ids=["sliding", "full, no value projection"])
def test_a_layer_of_few_operations_is_the_layer(
    num_experts: int, number: int, products: Products, monkeypatch: pytest.MonkeyPatch
):
    """With exact products what is left is the order of sums; with weights in fp16, their rounding."""
    monkeypatch.setattr(Int8Linear, "forward", lambda self, x: F.linear(x, self.weight))
    model = load_dequantised(random_model(changed(num_experts=num_experts), seed=number))
    truth = model.layers[number]
    quick = QuickLayer(truth, products)
    atol = 1e-2 if products == "half" else 2e-5
    generator = torch.Generator().manual_seed(4)
    spec = model.config.layers[number]
    # the last are enough rows to be sorted by expert
    for num_rows, only_last in ((1, False), (7, False), (7, True), (GROUPED_FROM // 2, False)):
        x = torch.randn(2, num_rows, model.config.hidden_size, generator=generator)
        ropes = model._ropes(torch.arange(num_rows)[None])[number]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            assert layer == number
            assert key.shape == value.shape == (2, spec.num_kv_heads, key.shape[2], spec.head_dim)
            return F.scaled_dot_product_attention(query, key, value, scale=1.0, enable_gqa=True)

        scalar = torch.tensor([0.7])
        (want, chances), (got, logits) = (each(x, ropes, number, attend, scalar, only_last) for each in (truth, quick))
        assert want.shape == got.shape == (2, 1 if only_last else num_rows, x.shape[2])
        assert torch.allclose(got, want, atol=atol)
        assert torch.allclose(torch.softmax(logits, -1), chances, atol=atol)


@pytest.mark.parametrize("products", EXACT)
def test_rows_that_are_sorted_by_expert_get_the_same_answers(products: Products):
    model = random_model()
    scale = torch.tensor([0.5, 1.0, 2.0, 3.0])
    experts = QuickExperts(model.layers[0].experts, scale, products)
    x = torch.randn(9, CONFIG.hidden_size, generator=torch.Generator().manual_seed(5))
    # the last expert is nobody's choice
    ids = torch.tensor([[0, 1], [1, 2], [2, 0]] * 3)
    weights = torch.rand(9, 2, generator=torch.Generator().manual_seed(6))
    want = model.layers[0].experts.gathered(x, ids, weights * scale[ids])
    for got in (experts.grouped(x, ids, weights), experts(x, ids, weights)):
        assert torch.allclose(got, want, atol=1e-2 if products == "half" else 1e-5)


@pytest.mark.parametrize("products", [None, *EXACT], ids=str)
@pytest.mark.parametrize("num_cached", [0, 30])
def test_the_last_state_alone_is_the_last_of_all(
    products: Products | None, num_cached: int, monkeypatch: pytest.MonkeyPatch
):
    """And attention in pieces, under masks that are kept or made anew, is attention token by token."""
    model = random_model(seed=2)
    if products:
        convert(model, products)
    tokens = torch.arange(150) % CONFIG.vocab_size
    states: list[Tensor] = []
    for only_last, longest in ((False, 512), (True, 512), (False, 20)):
        monkeypatch.setattr("lacuna_ls.engine.model.MAX_KNOWN_MASK", longest)
        cache = KVCache(CONFIG, model.device, torch.float32)
        if num_cached:
            model.encode(tokens[:num_cached], cache)
        states.append(model.encode(tokens[num_cached:], cache, only_last))
        assert cache.length == 150
    assert states[1].shape == (1, CONFIG.hidden_size)
    assert torch.allclose(states[0][-1], states[1][0], atol=1e-4)
    assert torch.allclose(states[0], states[2], atol=1e-4)
    cache = KVCache(CONFIG, model.device, torch.float32)
    one_by_one = torch.cat([model.encode(token[None], cache) for token in tokens])
    assert torch.allclose(one_by_one[num_cached:], states[0], atol=1e-3)


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


@pytest.mark.parametrize("products", ALL)
def test_zeros_stay_zeros_and_shapes_stay(products: Products):
    layer = product_of(products, torch.zeros(5, 8))
    assert torch.equal(layer(torch.randn(2, 7, 8)), torch.zeros(2, 7, 5))
    layer = product_of(products, torch.ones(5, 8))
    assert torch.equal(layer(torch.zeros(9, 8)), torch.zeros(9, 5))


def test_quantising_twice_changes_nothing():
    weight = torch.randn(6, 3, 20, generator=torch.Generator().manual_seed(1))
    once = quantise(weight)
    twice = quantise(dequantise(*once))
    assert torch.equal(once[0], twice[0])
    assert torch.allclose(once[1], twice[1])


@pytest.mark.parametrize("products", ALL)
@pytest.mark.parametrize(
    ("num_experts", "is_quick"),
    [
        # as many as run densely
        (4, True),
        # gathered experts are read where they lie, and stay as they are
        (12, False),
    ],
)
def test_what_is_converted(num_experts: int, is_quick: bool, products: Products):
    model = convert(random_model(changed(num_experts=num_experts)), products)
    layer = model.layers[0]
    assert isinstance(layer.experts, QuickExperts) == is_quick
    for product in (layer.self_attn.qkv, layer.mlp.down, model.self_conditioning.up_proj):
        assert isinstance(product, CLASSES[products])
    # a flipped expert choice costs more than the router's few weights; the table is gathered
    assert layer.router.dtype == model.embed_tokens.weight.dtype == torch.float32
    is_half = products == "half" or (products == "int8" and has_half())
    assert isinstance(model.to_vocabulary, HalfLinear) == is_half
    # what a product packs for itself is counted
    packed = sum(2 * m.weight.numel() for m in model.modules() if isinstance(m, HalfLinear))
    assert model.num_bytes == packed + sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("products", ALL)
def test_a_packed_file_is_close_to_itself_in_fp32(products: Products, tmp_path: Path):
    packed = tmp_path / "model.safetensors"
    save_packed(random_model(seed=3, reach=0.3), packed, {})
    exact = load_checkpoint(packed, weights="fp32")
    quick = convert(load_checkpoint(packed, weights="fp32"), products)
    # the same weights: what is packed is quantised row by row as the CPU runs it
    truth = exact.layers[1].self_attn.o_proj.weight
    error = (quick.layers[1].self_attn.out.weight - truth).abs()
    assert (error <= (2**-11 * truth.abs() if products == "half" else 0) + 1e-7).all()
    if products == "int8":
        theirs = torch.cat([exact.layers[1].get_submodule(f"mlp.{name}_proj").weight for name in ("gate", "up")])
        assert torch.allclose(quick.layers[1].mlp.gate_up.weight, theirs, atol=1e-7)
    tokens = torch.arange(3, 33)
    canvas = torch.arange(10, 26)[None]
    (cache, hidden), (quick_cache, quick_hidden) = encode(exact, tokens), encode(quick, tokens)
    relative = (hidden - quick_hidden).norm() / hidden.norm()
    limit = 0.05 if products == "int8" else 5e-3
    assert 0 < relative < limit
    logits = exact.logits(exact.decode(canvas, cache))
    quick_logits = quick.logits(quick.decode(canvas, quick_cache))
    assert (logits - quick_logits).norm() / logits.norm() < limit
    soft, quick_soft = exact.soft_embedding(logits), quick.soft_embedding(logits)
    assert torch.allclose(soft, quick_soft, atol=1e-5 if products == "float" else 1e-2)
    # and what is read from the logits is the same where the model is not torn between two tokens
    top = logits.topk(2).values
    is_clear = top[..., 0] - top[..., 1] > 0.5
    assert is_clear.any()
    assert torch.equal(logits.argmax(-1)[is_clear], quick_logits.argmax(-1)[is_clear])


def test_an_engine_runs_in_what_the_cpu_is_quick_at(tmp_path: Path):
    save_folder(random_model(seed=3), tmp_path)
    engine = LocalEngine.load(tmp_path)
    assert isinstance(engine.model.layers[0].mlp.gate_up, CLASSES[best_products()])
    result = engine.fill(CanvasProblem(tuple(range(20)), (Canvas.free(9),), max_steps=3))[0]
    assert all(0 <= token < CONFIG.vocab_size for token in result.tokens)
    assert torch.tensor(result.entropy).isfinite().all()


def test_a_converted_model_is_not_saved(tmp_path: Path):
    model = convert(random_model())
    for save in (lambda: save_folder(model, tmp_path / "a"), lambda: save_packed(model, tmp_path / "b", {})):
        with pytest.raises(ValueError, match="int8"):
            save()


def test_the_shipped_weights_read_alike_in_int8_and_fp32():
    """What the next token is, all along a module of this engine: where the two part, the choice was a close one."""
    source = Path(local.__file__).read_text(encoding="utf-8")
    tokens = torch.tensor(load_tokenizer(EMBEDDED).encode(source)[:1536]).view(6, 256)
    logprobs = {}
    for weights in ("fp32", "int8"):
        model = load_checkpoint(EMBEDDED, weights=weights)
        caches = [KVCache(model.config, model.device, model.dtype) for _ in tokens]
        states = torch.cat([model.encode(row, cache) for row, cache in zip(tokens, caches, strict=True)])
        logprobs[weights] = torch.log_softmax(model.logits(states), -1)
    chosen, other = logprobs["fp32"].argmax(-1), logprobs["int8"].argmax(-1)
    parted = chosen != other
    assert parted.float().mean() < 0.04
    margin = logprobs["fp32"].gather(1, chosen[:, None]) - logprobs["fp32"].gather(1, other[:, None])
    # a CPU whose products are exact parts nowhere
    assert (margin[parted] < 0.7).all()
