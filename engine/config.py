"""config.json of a DiffusionGemma checkpoint, read into one frozen value; what this engine cannot do is refused here.

Longer than most files here, because every key is checked with a message of its own.
Source: transformers 5.11-5.23, models/diffusion_gemma/configuration_diffusion_gemma.py. The classes' default values are
not the released model's, so nothing is defaulted silently except what `save_pretrained` itself leaves out.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from .errors import ConfigError, ModelNotFoundError, shown
from .modelfile import read_json

Json = dict[str, Any]

MAX_SIZE, MAX_VOCAB, MAX_LAYERS = 1 << 24, 1 << 22, 1 << 10
"""No model is near to these. A number beyond them is damage, and would be counted up to before memory is asked for."""


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
            raw = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            message = f"{path} does not exist; point --model at a folder that save_pretrained wrote"
            raise ModelNotFoundError(message) from None
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON ({error}); copy the model folder again") from None
        except OSError as error:
            raise ModelNotFoundError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
        config = cls.from_dict(raw, source=str(path))
        ends = _generation_ends(path.with_name("generation_config.json"), config.vocab_size)
        return dataclasses.replace(config, eos_ids=tuple(dict.fromkeys((*config.eos_ids, *ends))))

    @classmethod
    def from_dict(cls, raw: object, source: str = "config.json") -> ModelConfig:
        """raw: the parsed config.json of DiffusionGemmaForBlockDiffusion. Raises: ConfigError, naming key and value."""
        if not isinstance(raw, dict):
            raise ConfigError(f"{source} holds {type(raw).__name__}, not a JSON object; copy the model folder again")
        read = _Reader(cast(Json, raw), source)
        read.must_be("model_type", "diffusion_gemma")
        text = read.section("text_config")
        text.must_be("model_type", "diffusion_gemma_text")
        text.must_be("hidden_activation", "gelu_pytorch_tanh")
        text.must_be("attention_bias", False, default=False)
        text.must_be("tie_word_embeddings", True, default=True)
        text.must_be("use_bidirectional_attention", None, default=None, also=("vision",))
        read.must_be("tie_word_embeddings", True, default=True)
        num_heads, vocab_size = text.positive("num_attention_heads"), text.positive("vocab_size", most=MAX_VOCAB)
        num_experts, top_k = text.positive("num_experts"), text.positive("top_k_experts")
        if top_k > num_experts:
            raise text.error("top_k_experts", top_k, f"at most num_experts ({num_experts})")
        eos = cast(object, text.raw.get("eos_token_id", 1))
        eos_ids = cast(list[object], eos) if isinstance(eos, list) else [1 if eos is None else eos]
        if not eos_ids:
            raise text.error("eos_token_id", eos_ids, "at least one token id")
        return cls(
            vocab_size=vocab_size,
            hidden_size=text.positive("hidden_size"),
            intermediate_size=text.positive("intermediate_size"),
            num_heads=num_heads,
            layers=_layers(text, num_heads),
            num_experts=num_experts,
            top_k=top_k,
            expert_size=text.positive("moe_intermediate_size"),
            rms_norm_eps=text.number("rms_norm_eps", 1e-6),
            # save_pretrained leaves this one out when it has its default
            softcap=text.number("final_logit_softcapping", 30.0),
            max_positions=text.positive("max_position_embeddings"),
            pad_id=text.token("pad_token_id", 0, vocab_size),
            bos_id=text.token("bos_token_id", 2, vocab_size),
            eos_ids=tuple(text.token("eos_token_id", 1, vocab_size, value) for value in eos_ids),
            canvas_length=read.positive("canvas_length", default=256),
            first_noise_id=read.token("lacuna_first_noise_id", 0, vocab_size),
        )

    def to_dict(self) -> Json:
        """The config.json that from_dict and transformers both read."""
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
                "sliding_attention": _rope_dict(first_sliding),
                "full_attention": _rope_dict(first_full),
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
            "eos_token_id": list(self.eos_ids),
        }
        # transformers insists on a vision tower and on image ids below the vocabulary; text work never touches them
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


def _rope_dict(spec: LayerSpec | None) -> Json:
    """rope_parameters of the layers that are like spec. None: no layer is of this kind, and any values will do."""
    if spec is None:
        return {"rope_type": "default", "rope_theta": 10_000.0}
    if 2 * spec.num_rotated == spec.head_dim:
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    share = 2 * spec.num_rotated / spec.head_dim
    # the share is multiplied out and rounded down when it is read: stay clear of the edge
    if int(share * spec.head_dim // 2) != spec.num_rotated:
        share = (2 * spec.num_rotated + 0.5) / spec.head_dim
    return {"rope_type": "proportional", "rope_theta": spec.rope_theta, "partial_rotary_factor": share}


@dataclass(frozen=True, slots=True)
class _Reader:
    """One section of the JSON, with errors that name the file, the key, the value and what would be right."""

    raw: Json
    source: str

    def error(self, key: str, value: object, wanted: str) -> ConfigError:
        found = "is missing" if key not in self.raw and value in (None, "") else f"is {shown(value)}"
        return ConfigError(f"{self.source}: {key} {found}, but this engine needs {wanted}")

    def section(self, key: str) -> _Reader:
        value = self.raw.get(key)
        if not isinstance(value, dict):
            raise self.error(key, value, "a JSON object; is this a DiffusionGemma checkpoint?")
        return _Reader(cast(Json, value), f"{self.source}: {key}")

    def must_be(self, key: str, wanted: object, default: object = "", also: tuple[object, ...] = ()) -> None:
        value = self.raw.get(key, default)
        if value != wanted and value not in also:
            raise self.error(key, value, f"{wanted!r}")

    def positive(self, key: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """default: what a missing key or null stands for; None: the key must be there."""
        value = default if self.raw.get(key) is None else self.raw[key]
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise self.error(key, value, f"a positive whole number, at most {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0. default: what a missing key stands for; None: the key must be there."""
        value = self.raw.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
            raise self.error(key, value, "a number above 0")
        return float(value)

    def token(self, key: str, default: int, vocab_size: int, value: object = None) -> int:
        """A token id. value: one of several under the key, instead of the key's own; null stands for the default."""
        value = self.raw.get(key) if value is None else value
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocab_size:
            raise self.error(key, value, f"a token id in [0, {vocab_size})")
        return value


def _generation_ends(path: Path, vocab_size: int) -> tuple[int, ...]:
    """The end tokens that generation_config.json adds to the config's own; the released model has [1, 106, 50] there.

    The file is optional, and everything else in it belongs to other samplers. Raises: ConfigError.
    """
    try:
        ends: object = read_json(path).get("eos_token_id")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is not a JSON object ({error}); copy it again, or remove it") from None
    if ends is None:
        return ()
    quoted = shown(ends)
    listed: list[object] = cast(list[object], ends) if isinstance(ends, list) else [ends]
    found = tuple(end for end in listed if isinstance(end, int) and 0 <= end < vocab_size)
    if len(found) < len(listed):
        raise ConfigError(f"{path}: eos_token_id is {quoted}, but the model knows the tokens 0 to {vocab_size - 1}")
    return found


def _layers(text: _Reader, num_heads: int) -> tuple[LayerSpec, ...]:
    num_layers = text.positive("num_hidden_layers", most=MAX_LAYERS)
    given = cast(object, text.raw.get("layer_types"))
    if given is None:
        kinds: list[object] = ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(num_layers)]
        kinds[-1] = "full_attention"
    else:
        kinds = cast(list[object], given) if isinstance(given, list) else []
    if len(kinds) != num_layers:
        raise text.error("layer_types", text.raw["layer_types"], f"a list of {num_layers} entries, one a layer")
    ropes = _ropes(text)
    overrides = _overrides(text, num_layers)
    plain = {"head_dim": text.positive("head_dim"), "num_key_value_heads": text.positive("num_key_value_heads")}
    # transformers >= 5.2x writes one override per full-attention layer instead of the two global_* keys, and leaves out
    # of it what equals the plain value: so the global keys, and their defaults, speak only where there is no override
    full = plain
    if overrides is None:
        full = {
            "head_dim": text.positive("global_head_dim", default=512),
            "num_key_value_heads": text.positive("num_global_key_value_heads", default=plain["num_key_value_heads"]),
        }
    specs: list[LayerSpec] = []
    head_dims: dict[object, int] = {}
    for i, kind in enumerate(kinds):
        if kind not in ("sliding_attention", "full_attention"):
            raise text.error(f"layer_types[{i}]", kind, "'sliding_attention' or 'full_attention'")
        is_full = kind == "full_attention"
        if i == num_layers - 1 and not is_full:
            raise text.error(f"layer_types[{i}]", kind, "'full_attention' in the last layer, as transformers does")
        spec = {**(full if is_full else plain), **(overrides or {}).get(i, {})}
        head_dim, num_kv_heads = spec["head_dim"], spec["num_key_value_heads"]
        if num_heads % num_kv_heads:
            raise text.error("num_key_value_heads", num_kv_heads, f"a divisor of {num_heads} query heads")
        # one rotary table serves all layers of a kind
        if head_dim % 2 or head_dims.setdefault(kind, head_dim) != head_dim:
            raise text.error("head_dim", head_dim, f"one even number for all layers of {kind}")
        rope = ropes[str(kind)]
        specs.append(
            LayerSpec(
                kind="full_attention" if is_full else "sliding_attention",
                head_dim=head_dim,
                num_kv_heads=num_kv_heads,
                window=None if is_full else text.positive("sliding_window"),
                rope_theta=rope.theta,
                num_rotated=int(rope.share * head_dim // 2),
                has_value_proj=not is_full,
            )
        )
    return tuple(specs)


@dataclass(frozen=True, slots=True)
class _Rope:
    theta: float
    share: float
    """Of the pairs, how many rotate: 0 to 1."""


def _ropes(text: _Reader) -> dict[str, _Rope]:
    """By kind of layer."""
    if text.raw.get("rope_parameters") is None:
        return {"sliding_attention": _Rope(1e4, 1.0), "full_attention": _Rope(1e6, 0.25)}
    section = text.section("rope_parameters")
    ropes: dict[str, _Rope] = {}
    kinds = cast(list[object], text.raw.get("layer_types") or ["sliding_attention", "full_attention"])
    for kind in ("sliding_attention", "full_attention"):
        if kind not in kinds:
            continue
        params = section.section(kind)
        rope_type = params.raw.get("rope_type")
        if rope_type not in ("default", "proportional"):
            raise params.error("rope_type", rope_type, "'default' or 'proportional'")
        params.must_be("factor", 1.0, default=1.0)
        share = params.raw.get("partial_rotary_factor", 1.0)
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
            raise params.error("partial_rotary_factor", share, "a number from 0 to 1")
        if rope_type == "default" and share != 1.0:
            raise params.error("partial_rotary_factor", share, "1.0 with rope_type 'default'")
        ropes[kind] = _Rope(params.number("rope_theta"), float(share))
    return ropes


def _overrides(text: _Reader, num_layers: int) -> dict[int, dict[str, int]] | None:
    """head_dim and num_key_value_heads of single layers, by layer; None where the config has no such section."""
    if text.raw.get("per_layer_config") is None:
        return None
    section = text.section("per_layer_config")
    overrides: dict[int, dict[str, int]] = {}
    for key in section.raw:
        if key not in map(str, range(num_layers)):
            raise section.error(key[:20], section.raw[key], f"layer numbers below {num_layers} as keys")
        layer = section.section(key)
        for name, value in layer.raw.items():
            if name not in ("head_dim", "num_key_value_heads"):
                raise layer.error(name, value, "only head_dim and num_key_value_heads to differ between layers")
        overrides[int(key)] = {name: layer.positive(name) for name in layer.raw}
    return overrides
