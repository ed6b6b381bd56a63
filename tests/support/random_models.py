"""Random models for the tests of engine/: ours alone, and transformers' own beside ours with the same weights.

Every weight is random, also those that a fresh model has at one (norms, layer scalars, router scales), so that a factor
which is left out or applied twice shows. transformers is imported inside functions: it takes seconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import torch
from lacuna_ls.engine.checkpoint import our_name
from lacuna_ls.engine.config import LayerSpec, ModelConfig
from lacuna_ls.engine.denoise import denoise
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.local import _Bound
from lacuna_ls.engine.model import DiffusionGemma
from torch import Tensor

CPU = torch.device("cpu")

SLIDING = LayerSpec("sliding_attention", 16, 2, 8, 1e4, 8, True)
FULL = LayerSpec("full_attention", 32, 1, None, 1e6, 4, False)

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_heads=4,
    layers=(SLIDING, FULL),
    num_experts=4,
    top_k=2,
    expert_size=24,
    rms_norm_eps=1e-6,
    softcap=30.0,
    max_positions=512,
    pad_id=0,
    bos_id=2,
    eos_ids=(1,),
    canvas_length=8,
    first_noise_id=0,
)

VISION = {
    "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "position_embedding_size": 16,
}  # fmt: skip

TEXT: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "sliding_window": 16,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "max_position_embeddings": 2048,
}
"""Half of each kind of layer, a window that prompts of the tests are longer than, experts that run densely."""


@torch.no_grad()
def randomise(tensors: Sequence[tuple[str, Tensor]], seed: int, sharpness: float = 0.3, reach: float = 1.0) -> None:
    """Fill every tensor in place, by its name.

    sharpness: standard deviation of the embedding, which is the output projection too: more makes logits more certain.
    reach: how much a layer adds to the residual; near 0 the model answers with the token that it sees.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in tensors:
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            value = noise * sharpness
        elif "layer_scalar" in name:
            value = 0.8 + 0.4 * torch.rand(tensor.shape, generator=generator)
        elif "post_attention_layernorm" in name or name.endswith("post_feedforward_layernorm.weight"):
            value = reach * (1 + 0.2 * noise)
        elif tensor.dim() < 2:
            value = 1 + 0.2 * noise
        else:
            value = noise * tensor.shape[-1] ** -0.5
        tensor.copy_(value)


def random_model(
    config: ModelConfig = CONFIG, seed: int = 0, sharpness: float = 0.3, reach: float = 1.0
) -> DiffusionGemma:
    """Ours, in fp32, without transformers."""
    model = DiffusionGemma(config)
    randomise(sorted(model.state_dict().items()), seed, sharpness, reach)
    return model.eval().requires_grad_(False)


def changed(config: ModelConfig = CONFIG, **changes: Any) -> ModelConfig:
    return dataclasses.replace(config, **changes)


def reference(seed: int = 0, canvas_length: int = 8, sharpness: float = 0.3, reach: float = 1.0, **text: Any):
    """transformers' own model on a tiny random checkpoint; text: changes to TEXT, None leaves a key out."""
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    merged = {key: value for key, value in {**TEXT, **text}.items() if value is not None}
    last = merged["vocab_size"] - 1
    config = DiffusionGemmaConfig(
        text_config=merged, vision_config=VISION, canvas_length=canvas_length,
        image_token_id=last, boi_token_id=last, eoi_token_id=last,
    )  # fmt: skip
    model = DiffusionGemmaForBlockDiffusion(config).eval().requires_grad_(False)
    # tied tensors appear under the decoder's name first and are drawn once; encoder scalars are tensors of their own
    seen: set[int] = set()
    own: list[tuple[str, Tensor]] = []
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            own.append((name, tensor))
    randomise(own, seed, sharpness, reach)
    return model


def ours(reference: Any) -> DiffusionGemma:
    """Our model with the reference's config and weights, handed over in memory."""
    config = ModelConfig.from_dict(json.loads(reference.config.to_json_string(use_diff=False)))
    model = DiffusionGemma(config)
    named = ((our_name(name), tensor.clone()) for name, tensor in reference.state_dict().items())
    model.load_state_dict({name: tensor for name, tensor in named if name is not None})
    return model.eval().requires_grad_(False)


def encode(model: DiffusionGemma, tokens: Sequence[int] | Tensor, capacity: int = 4) -> tuple[KVCache, Tensor]:
    """A cold prefill: the cache, and the normed hidden states [T, H]. A small capacity makes the cache grow."""
    cache = KVCache(model.config, CPU, model.dtype, capacity)
    hidden = model.encode(torch.as_tensor(tokens), cache)
    cache.hold(tuple(int(t) for t in tokens))
    return cache, hidden


class Recorder:
    """A Denoiser that writes down every canvas that the model was shown."""

    def __init__(self, inner: Any, after: Any = None) -> None:
        """after: called with the number of forwards so far, after each."""
        self.inner, self.after = inner, after
        self.canvases: list[Tensor] = []
        self.softs: list[Tensor | None] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def logits(self, tokens: Tensor, soft: Tensor | None, num_rows: Tensor | None) -> Tensor:
        self.canvases.append(tokens.clone())
        self.softs.append(None if soft is None else soft.clone())
        logits = self.inner.logits(tokens, soft, num_rows)
        if self.after is not None:
            self.after(len(self.canvases))
        return logits


def run_denoise(model: DiffusionGemma, prompt: Sequence[int], canvases: Sequence[Any], policy: Any, **kwargs: Any):
    """Prefill, denoise, and hand back (Denoised, Recorder)."""
    cache, _ = encode(model, prompt)
    recorder = Recorder(_Bound(model, cache), kwargs.pop("after", None))
    generator = torch.Generator().manual_seed(kwargs.pop("seed", 0))
    ends = frozenset(kwargs.pop("ends", model.config.eos_ids))
    return denoise(recorder, canvases, policy, kwargs.pop("max_steps", 6), generator, ends, **kwargs), recorder
