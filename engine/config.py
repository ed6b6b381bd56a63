"""config.json of a DiffusionGemma checkpoint, read into one frozen value; anything this engine cannot do is refused here.

Source: transformers 5.11-5.23, models/diffusion_gemma/configuration_diffusion_gemma.py. The classes' default values are
not the released model's, so nothing is defaulted silently except what `save_pretrained` itself leaves out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from .errors import ConfigError, ModelNotFoundError

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What differs from layer to layer.

    window: how many positions a causal row sees, itself included; None: all. has_value_proj: full-attention layers have
    none, their value is the scaleless RMSNorm of the raw key projection. num_rotated: pairs of the head that rotate.
    """

    kind: Literal["sliding_attention", "full_attention"]
    head_dim: int
    num_kv_heads: int
    window: int | None
    rope_theta: float
    num_rotated: int
    has_value_proj: bool


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The text model's shape. first_noise_id: the lowest id that uniform noise may draw (specials stand below it)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    layers: tuple[LayerSpec, ...]
    num_experts: int
    top_k: int
    expert_size: int
    rms_norm_eps: float
    softcap: float
    max_positions: int
    pad_id: int
    bos_id: int
    eos_ids: tuple[int, ...]
    canvas_length: int
    first_noise_id: int = 0

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @classmethod
    def load(cls, path: Path) -> ModelConfig:
        """path: config.json. Raises: ModelNotFoundError, ConfigError."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelNotFoundError(f"{path} does not exist; point --model at a folder that save_pretrained wrote") from None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path} is not valid JSON ({error}); copy the model folder again") from None
        return cls.from_dict(raw, source=str(path))

    @classmethod
    def from_dict(cls, raw: Json, source: str = "config.json") -> ModelConfig:
        """raw: the parsed config.json of DiffusionGemmaForBlockDiffusion. Raises: ConfigError, naming key and value."""
        read = _Reader(raw, source)
        read.must_be("model_type", "diffusion_gemma")
        text = read.section("text_config")
        text.must_be("model_type", "diffusion_gemma_text")
        text.must_be("hidden_activation", "gelu_pytorch_tanh")
        text.must_be("attention_bias", False, default=False)
        text.must_be("tie_word_embeddings", True, default=True)
        text.must_be("use_bidirectional_attention", None, default=None, also=("vision",))
        read.must_be("tie_word_embeddings", True, default=True)
        eos = text.raw.get("eos_token_id", 1)
        num_heads, vocab_size = text.positive("num_attention_heads"), text.positive("vocab_size")
        num_experts, top_k = text.positive("num_experts"), text.positive("top_k_experts")
        if top_k > num_experts:
            raise text.error("top_k_experts", top_k, f"at most num_experts ({num_experts})")
        first_noise_id = int(raw.get("lacuna_first_noise_id", 0))
        if not 0 <= first_noise_id < vocab_size:
            raise read.error("lacuna_first_noise_id", first_noise_id, f"in [0, {vocab_size})")
        return cls(
            vocab_size=vocab_size,
            hidden_size=text.positive("hidden_size"),
            intermediate_size=text.positive("intermediate_size"),
            num_heads=num_heads,
            layers=_layers(text, num_heads),
            num_experts=num_experts,
            top_k=top_k,
            expert_size=text.positive("moe_intermediate_size"),
            rms_norm_eps=float(text.raw.get("rms_norm_eps", 1e-6)),
            softcap=float(text.raw.get("final_logit_softcapping") or 30.0),
            max_positions=text.positive("max_position_embeddings"),
            pad_id=int(text.raw.get("pad_token_id") or 0),
            bos_id=int(text.raw.get("bos_token_id") or 2),
            eos_ids=tuple(eos) if isinstance(eos, list) else (int(1 if eos is None else eos),),
            canvas_length=int(raw.get("canvas_length") or 256),
            first_noise_id=first_noise_id,
        )

    def to_dict(self) -> Json:
        """The config.json that from_dict and transformers both read (transformers also wants a vision_config: a minimal one)."""
        first_full = next((s for s in self.layers if s.kind == "full_attention"), self.layers[-1])
        first_sliding = next((s for s in self.layers if s.kind == "sliding_attention"), None)
        overrides = {
            str(i): {"head_dim": s.head_dim, "num_key_value_heads": s.num_kv_heads}
            for i, s in enumerate(self.layers)
            if s.kind == "full_attention"
        }
        text = {
            "model_type": "diffusion_gemma_text",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": (first_sliding or first_full).num_kv_heads,
            "head_dim": (first_sliding or first_full).head_dim,
            "global_head_dim": first_full.head_dim,
            "num_global_key_value_heads": first_full.num_kv_heads,
            "per_layer_config": overrides,
            "layer_types": [s.kind for s in self.layers],
            "sliding_window": (first_sliding.window if first_sliding else None) or 1024,
            "rope_parameters": {
                "sliding_attention": {
                    "rope_type": "default",
                    "rope_theta": first_sliding.rope_theta if first_sliding else 10_000.0,
                },
                "full_attention": {
                    "rope_type": "proportional",
                    "rope_theta": first_full.rope_theta,
                    "partial_rotary_factor": 2 * first_full.num_rotated / first_full.head_dim,
                },
            },
            "num_experts": self.num_experts,
            "top_k_experts": self.top_k,
            "moe_intermediate_size": self.expert_size,
            "rms_norm_eps": self.rms_norm_eps,
            "final_logit_softcapping": self.softcap,
            "max_position_embeddings": self.max_positions,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "tie_word_embeddings": True,
            "pad_token_id": self.pad_id,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) if len(self.eos_ids) > 1 else self.eos_ids[0],
        }
        # transformers insists on a vision tower and on image token ids below the vocabulary; text work never touches them
        vision = {
            "model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16,
        }  # fmt: skip
        last = self.vocab_size - 1
        return {
            "architectures": ["DiffusionGemmaForBlockDiffusion"],
            "model_type": "diffusion_gemma",
            "text_config": text,
            "vision_config": vision,
            "tie_word_embeddings": True,
            "canvas_length": self.canvas_length,
            "boi_token_id": last, "eoi_token_id": last, "image_token_id": last,
            "lacuna_first_noise_id": self.first_noise_id,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Reader:
    """One section of the JSON, with errors that name the file, the key, the value and what would be right."""

    raw: Json
    source: str

    def error(self, key: str, value: object, wanted: str) -> ConfigError:
        return ConfigError(f"{self.source}: {key} is {value!r}, but this engine needs {wanted}")

    def section(self, key: str) -> _Reader:
        value = self.raw.get(key)
        if not isinstance(value, dict):
            raise self.error(key, value, "a JSON object; is this a DiffusionGemma checkpoint?")
        return _Reader(cast(Json, value), f"{self.source}: {key}")

    def must_be(self, key: str, wanted: object, default: object = "", also: tuple[object, ...] = ()) -> None:
        value = self.raw.get(key, default)
        if value != wanted and value not in also:
            raise self.error(key, value, f"{wanted!r}")

    def positive(self, key: str) -> int:
        value = self.raw.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(key, value, "a positive whole number")
        return value


def _layers(text: _Reader, num_heads: int) -> tuple[LayerSpec, ...]:
    num_layers = text.positive("num_hidden_layers")
    kinds = text.raw.get("layer_types") or [
        "full_attention" if (i + 1) % 6 == 0 or i == num_layers - 1 else "sliding_attention" for i in range(num_layers)
    ]
    if len(kinds) != num_layers:
        raise text.error("layer_types", kinds, f"{num_layers} entries, one per hidden layer")
    rope = text.raw.get("rope_parameters") or {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    }
    head_dim, kv_heads = text.positive("head_dim"), text.positive("num_key_value_heads")
    full = {
        "head_dim": text.raw.get("global_head_dim") or 512,
        "num_key_value_heads": text.raw.get("num_global_key_value_heads") or kv_heads,
    }
    # transformers >= 5.2x writes one override per full-attention layer instead of the two global_* keys
    overrides = cast(dict[str, Json], text.raw.get("per_layer_config") or {})
    specs: list[LayerSpec] = []
    for i, kind in enumerate(kinds):
        if kind not in ("sliding_attention", "full_attention"):
            raise text.error(f"layer_types[{i}]", kind, "'sliding_attention' or 'full_attention'")
        is_full = kind == "full_attention"
        base = full if is_full else {"head_dim": head_dim, "num_key_value_heads": kv_heads}
        spec = {**base, **overrides.get(str(i), {})}
        if num_heads % spec["num_key_value_heads"]:
            raise text.error("num_key_value_heads", spec["num_key_value_heads"], f"a divisor of {num_heads} query heads")
        params = cast(Json, rope.get(kind) or {})
        rope_type, wanted = params.get("rope_type", "default"), "proportional" if is_full else "default"
        if rope_type not in ("default", "proportional"):
            raise text.error(f"rope_parameters.{kind}.rope_type", rope_type, f"{wanted!r}")
        factor = float(params.get("partial_rotary_factor", 1.0))
        if rope_type == "default" and factor != 1.0:
            raise text.error(f"rope_parameters.{kind}.partial_rotary_factor", factor, "1.0 with rope_type 'default'")
        specs.append(
            LayerSpec(
                kind=kind,
                head_dim=spec["head_dim"],
                num_kv_heads=spec["num_key_value_heads"],
                window=None if is_full else text.positive("sliding_window"),
                rope_theta=float(params.get("rope_theta", 1e6 if is_full else 1e4)),
                num_rotated=int(factor * spec["head_dim"] // 2),
                has_value_proj=not is_full,
            )
        )
    return tuple(specs)
