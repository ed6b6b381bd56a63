"""The engine against transformers' own DiffusionGemmaForBlockDiffusion: same weights, same inputs, same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lacuna_ls.engine.verify import cached
from random_models import TEXT, encode, ours, reference
from torch import Tensor

pytestmark = pytest.mark.usefixtures("hf")

TOLERANCE = 1e-4
"""Largest absolute difference, fp32 on a CPU; the logits reach about 10."""

CONFIGS: dict[str, dict[str, Any]] = {
    # half sliding, half full, experts as one dense product
    "mixed": {},
    # more experts than the dense form takes: only chosen ones are read
    "gathered": {"num_experts": 12, "top_k_experts": 2},
    # every expert chosen by every row
    "all-experts": {"num_experts": 3, "top_k_experts": 3},
    # no sliding layer at all
    "full-only": {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2},
    # transformers' own pattern of layers, one full in six
    "six": {"num_hidden_layers": 6, "layer_types": None},
    # one key head for each query head, as many in full layers
    "no-groups": {"num_key_value_heads": 4, "num_global_key_value_heads": 4},
    # what equals the plain value is left out of a saved per_layer_config
    "same-heads": {"global_head_dim": 16, "num_global_key_value_heads": 2},
    "same-head-dim": {"global_head_dim": 16},
    # full layers keep the number of key heads
    "no-global-heads": {"num_global_key_value_heads": None},
    # the format that lists what differs layer by layer
    "per-layer": {
        "global_head_dim": None,
        "num_global_key_value_heads": None,
        "per_layer_config": {n: {"head_dim": 8, "num_key_value_heads": 4} for n in (1, 3)},
    },
    # other rotations than the defaults, proportional in sliding layers too
    "rope": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "proportional", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
            "full_attention": {"rope_type": "default", "rope_theta": 3e5},
        }
    },
    # a soft cap that bites, an epsilon that shows
    "cap-and-eps": {"final_logit_softcapping": 2.5, "rms_norm_eps": 1e-2},
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, hf: Any):
    """(transformers' model, ours) with the same random weights."""
    truth = reference(seed=len(request.param), **CONFIGS[request.param])
    return truth, ours(truth)


def truth_encode(truth: Any, tokens: Tensor) -> tuple[Any, Tensor]:
    """transformers' cache and last hidden state [T, H]."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache(config=truth.config.get_text_config())
    out = truth.model.encoder(input_ids=tokens[None], **cached(cache))
    return cache, out.last_hidden_state[0]


def truth_decode(truth: Any, cache: Any, canvases: Tensor, soft: Tensor | None) -> Tensor:
    """Logits [B, L, V], one canvas at a time."""
    return torch.cat([
        truth(
            **cached(cache),
            decoder_input_ids=canvas[None],
            self_conditioning_logits=None if soft is None else soft[b : b + 1],
        ).logits
        for b, canvas in enumerate(canvases)
    ])  # fmt: skip


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    value = (a - b).abs().max().item()
    # NaN compares as false with everything
    assert value == value
    return value


def compare(
    truth: Any, model: Any, num_prompt: int, num_rows: int, split: int = 0, tolerance: float = TOLERANCE
) -> None:
    """split: the prompt is encoded in two pieces, cut there. tolerance: of logits."""
    V = model.config.vocab_size
    generator = torch.Generator().manual_seed(num_prompt * 1000 + num_rows)
    prompt = torch.randint(0, V, (num_prompt,), generator=generator)
    canvases = torch.randint(0, V, (2, num_rows), generator=generator)
    soft = torch.randn(2, num_rows, V, generator=generator) * 3
    truth_cache, truth_hidden = truth_encode(truth, prompt)
    if split:
        cache, first = encode(model, prompt[:split])
        hidden = torch.cat([first, model.encode(prompt[split:], cache)])
    else:
        cache, hidden = encode(model, prompt)
    assert difference(hidden, truth_hidden) <= TOLERANCE
    for i, spec in enumerate(model.config.layers):
        # transformers keeps only what a sliding window can still see
        kept = truth_cache.layers[i].keys.shape[2]
        keys, values = cache.read(i, kept)
        assert kept == (num_prompt if spec.window is None else min(num_prompt, spec.window - 1))
        assert difference(keys, truth_cache.layers[i].keys[0]) <= TOLERANCE
        assert difference(values, truth_cache.layers[i].values[0]) <= TOLERANCE
    for belief in (None, soft):
        embedded = None if belief is None else model.soft_embedding(belief)
        logits = model.logits(model.decode(canvases, cache, embedded))
        wanted = truth_decode(truth, truth_cache, canvases, belief)
        assert wanted.abs().max() > 1
        assert difference(logits, wanted) <= tolerance
    assert cache.length == num_prompt


@pytest.mark.parametrize(
    ("num_prompt", "num_rows", "split"),
    [
        # the least of everything
        (1, 1, 0),
        # a prompt inside the window
        (9, 7, 0),
        # exactly the window, and one more: where an off-by-one shows
        (16, 7, 0),
        (17, 7, 16),
        # longer than the window, in two pieces
        (40, 32, 23),
        # a piece of one token takes a path of its own
        (40, 7, 39),
        # the reference's canvas
        (100, 256, 0),
    ],
)
def test_encoder_and_decoder_equal_transformers(pair: Any, num_prompt: int, num_rows: int, split: int):
    compare(*pair, num_prompt, num_rows, split)


def test_every_config_reads_the_same_from_a_saved_file(pair: Any, tmp_path: Any):
    from lacuna_ls.engine.config import ModelConfig

    truth, model = pair
    truth.config.save_pretrained(tmp_path)
    assert ModelConfig.load(tmp_path / "config.json") == model.config
    assert ModelConfig.from_dict(model.config.to_dict()) == model.config


@st.composite
def text_configs(draw: st.DrawFn) -> dict[str, Any]:
    """Any small shape that transformers can build."""
    num_layers = draw(st.integers(1, 4))
    kind = st.sampled_from(["sliding_attention", "full_attention"])
    kinds = draw(st.lists(kind, min_size=num_layers, max_size=num_layers))
    kinds[-1] = "full_attention"
    num_heads = draw(st.sampled_from([1, 2, 4, 6]))
    divisors = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
    num_experts = draw(st.integers(1, 20))
    return {
        "vocab_size": draw(st.integers(8, 200)),
        "hidden_size": draw(st.integers(2, 40)) * 2,
        "intermediate_size": draw(st.integers(1, 90)),
        "num_hidden_layers": num_layers,
        "layer_types": kinds,
        "num_attention_heads": num_heads,
        "num_key_value_heads": draw(st.sampled_from(divisors)),
        "num_global_key_value_heads": draw(st.sampled_from([None, *divisors])),
        "head_dim": draw(st.sampled_from([2, 6, 8, 22, 32])),
        "global_head_dim": draw(st.sampled_from([8, 20, 44])),
        "sliding_window": draw(st.integers(2, 40)),
        "num_experts": num_experts,
        "top_k_experts": draw(st.integers(1, num_experts)),
        "moe_intermediate_size": draw(st.integers(1, 30)),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "final_logit_softcapping": draw(st.sampled_from([30.0, 8.0])),
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": draw(st.sampled_from([100.0, 1e4]))},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 1e6,
                "partial_rotary_factor": draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])),
            },
        },
    }


# derandomised: a tie between two experts would be no error of ours, and must not come and go. Examples change all the
# same with the constants of the modules that are loaded, and rounding grows in the smallest shapes: at a hidden size of
# 4, 4.5e-4 were seen, where each of the two was 2.2e-4 away from the logits in fp64
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(text=text_configs(), num_prompt=st.integers(1, 60), num_rows=st.integers(1, 40), data=st.data())
def test_any_config_equals_transformers(text: dict[str, Any], num_prompt: int, num_rows: int, data: st.DataObject):
    assert text.keys() <= TEXT.keys() | {"rms_norm_eps", "final_logit_softcapping", "rope_parameters"}
    truth = reference(seed=num_prompt, sharpness=1.0, **text)
    # its grouped product wants sizes that are multiples of four
    truth.set_experts_implementation("eager")
    compare(truth, ours(truth), num_prompt, num_rows, data.draw(st.integers(0, num_prompt - 1)), tolerance=2e-3)


def test_both_forms_of_the_experts_are_one_sum(pair: Any):
    _, model = pair
    experts = model.layers[0].experts
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(9, model.config.hidden_size, generator=generator)
    weights, ids, _ = model.layers[0].router(x)
    assert difference(experts.dense(x, ids, weights), experts.gathered(x, ids, weights)) <= TOLERANCE


def test_canvases_of_different_length_in_one_sweep_equal_each_alone(pair: Any):
    _, model = pair
    V = model.config.vocab_size
    generator = torch.Generator().manual_seed(3)
    cache, _ = encode(model, torch.randint(0, V, (30,), generator=generator))
    lengths = torch.tensor([3, 11, 7])
    canvases = torch.randint(0, V, (3, 11), generator=generator)
    soft = torch.randn(3, 11, model.config.hidden_size, generator=generator)
    together = model.logits(model.decode(canvases, cache, soft, lengths))
    assert bool(together.isfinite().all())
    for b, rows in enumerate(lengths.tolist()):
        alone = model.logits(model.decode(canvases[b : b + 1, :rows], cache, soft[b : b + 1, :rows]))
        assert difference(together[b, :rows], alone[0]) <= TOLERANCE


def test_the_encoder_uses_its_own_layer_scalars(pair: Any):
    truth, model = pair
    for layer in model.layers:
        assert float(layer.layer_scalar) != float(layer.encoder_layer_scalar)
    with torch.no_grad():
        old = float(truth.model.encoder.language_model.layers[0].layer_scalar)
        truth.model.encoder.language_model.layers[0].layer_scalar.mul_(1.01)
        tokens = torch.arange(5)
        changed = difference(encode(model, tokens)[1], truth_encode(truth, tokens)[1])
        truth.model.encoder.language_model.layers[0].layer_scalar.fill_(old)
    # were the last layer's the only one that counts, a norm would hide it
    assert changed > TOLERANCE or len(model.config.layers) == 1
