"""config.json: every key with a wrong value is refused with file, key and value, and every right one is read."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacuna_ls.engine.config import LayerSpec, ModelConfig
from lacuna_ls.engine.errors import ConfigError, ModelNotFoundError
from random_models import CONFIG, changed

GOOD = changed(eos_ids=(1, 3), first_noise_id=4).to_dict()


def spoiled(path: str, value: Any) -> dict[str, Any]:
    """A copy with one value set; ... takes the key away."""
    raw = copy.deepcopy(GOOD)
    *parents, key = path.split("/")
    at = raw
    for parent in parents:
        at = at[parent]
    if value is ...:
        del at[key]
    else:
        at[key] = value
    return raw


NOT_POSITIVE = [0, -3, 2.5, "8", None, True, [4], ..., 10**12]

CASES: list[tuple[str, list[Any]]] = [
    ("model_type", ["gemma4", None, ...]),
    ("text_config", [None, [], "x", ...]),
    ("tie_word_embeddings", [False]),
    ("canvas_length", [0, "8", -1]),
    ("lacuna_first_noise_id", [-1, 61, "4", 1.5]),
    ("text_config/model_type", ["gemma4_text", ...]),
    ("text_config/hidden_activation", ["silu", None, ...]),
    ("text_config/attention_bias", [True]),
    ("text_config/tie_word_embeddings", [False]),
    ("text_config/use_bidirectional_attention", ["all", 3]),
    *(
        (f"text_config/{key}", NOT_POSITIVE)
        for key in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "num_experts", "top_k_experts", "moe_intermediate_size",
            "max_position_embeddings", "sliding_window",
        )
    ),
    # more experts a token than there are
    ("text_config/top_k_experts", [5]),
    # query heads that the key heads do not divide
    ("text_config/num_key_value_heads", [3]),
    ("text_config/head_dim", [15]),
    ("text_config/rms_norm_eps", [0, -1e-6, "x", None, True, float("inf"), float("nan"), 10**309]),
    ("text_config/final_logit_softcapping", [0, -30.0, "30", None]),
    ("text_config/pad_token_id", [-1, 61, "0", 0.5]),
    ("text_config/bos_token_id", [-1, 61, "2"]),
    ("text_config/eos_token_id", [-1, 61, "1", [], [1, 99], [1, "3"]]),
    (
        "text_config/layer_types",
        [["full_attention"], [], "full_attention", 4, ["sliding_attention", "chunked_attention"], ["x", 3]],
    ),
    # transformers turns a last sliding layer into a full one, and no saved config has it
    ("text_config/layer_types", [["full_attention", "sliding_attention"]]),
    ("text_config/rope_parameters", [3, []]),
    ("text_config/rope_parameters/full_attention", [None, 3, ...]),
    ("text_config/rope_parameters/sliding_attention/rope_type", ["yarn", None, ...]),
    ("text_config/rope_parameters/full_attention/rope_type", ["linear", "default"]),
    ("text_config/rope_parameters/full_attention/rope_theta", [0, "1e6", None, ...]),
    ("text_config/rope_parameters/full_attention/partial_rotary_factor", [-0.1, 1.5, "0.25", None]),
    ("text_config/rope_parameters/full_attention/factor", [8.0]),
    ("text_config/per_layer_config", [3, [1], {"2": {}}, {"x": {}}, {"1": 3}, {"\u0661": {}}]),
    ("text_config/per_layer_config/1", [{"head_dim": 0}, {"head_dim": "8"}]),
    ("text_config/per_layer_config/1/num_key_value_heads", [3, 0, "1"]),
    # what this engine takes to be the same in all layers
    ("text_config/per_layer_config/1", [{"hidden_size": 8}, {"sliding_window": 4}, {"skip": ["mlp"]}]),
]


@pytest.mark.parametrize(
    ("path", "value"), [pytest.param(path, value, id=f"{path}={value!r}") for path, values in CASES for value in values]
)
def test_a_wrong_value_is_named(path: str, value: Any):
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(spoiled(path, value), source="some/config.json")
    message = str(caught.value)
    assert message.startswith("some/config.json")
    # the key itself, or what it is part of
    keys = path.split("/")
    assert keys[-1] in message or keys[-2] in message
    assert "this engine needs" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        # what save_pretrained leaves out, or writes as null, stands for the default
        ("canvas_length", ...),
        ("lacuna_first_noise_id", ...),
        ("text_config/final_logit_softcapping", ...),
        ("text_config/rms_norm_eps", ...),
        ("text_config/pad_token_id", None),
        ("text_config/bos_token_id", None),
        ("text_config/eos_token_id", None),
        ("text_config/use_bidirectional_attention", "vision"),
        ("text_config/attention_bias", ...),
        # keys of later versions are no concern of ours
        ("text_config/initializer_range", 0.02),
        ("dtype", "bfloat16"),
    ],
)
def test_what_may_be_left_out(path: str, value: Any):
    ModelConfig.from_dict(spoiled(path, value))


def test_token_zero_is_a_token():
    config = ModelConfig.from_dict(spoiled("text_config/bos_token_id", 0))
    assert config.bos_id == 0


def test_one_end_token_or_several():
    assert ModelConfig.from_dict(spoiled("text_config/eos_token_id", 7)).eos_ids == (7,)
    assert ModelConfig.from_dict(spoiled("text_config/eos_token_id", [7, 1])).eos_ids == (7, 1)


def test_the_old_keys_and_the_new_section_say_the_same():
    old = copy.deepcopy(GOOD)
    del old["text_config"]["per_layer_config"]
    new = copy.deepcopy(GOOD)
    del new["text_config"]["global_head_dim"]
    del new["text_config"]["num_global_key_value_heads"]
    assert ModelConfig.from_dict(old) == ModelConfig.from_dict(new) == ModelConfig.from_dict(GOOD)
    # the section holds only what differs: an empty one means that nothing does, and not transformers' default of 512
    new["text_config"]["per_layer_config"] = {}
    full = ModelConfig.from_dict(new).layers[1]
    assert (full.head_dim, full.num_kv_heads) == (16, 2)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    head_dims = [draw(st.integers(1, 64)) * 2 for _ in range(2)]
    rotated = [draw(st.integers(0, dim // 2)) for dim in head_dims]
    thetas = [draw(st.floats(1.5, 1e7)) for _ in range(2)]
    sliding = LayerSpec("sliding_attention", head_dims[0], 2, draw(st.integers(1, 4096)), thetas[0], rotated[0], True)
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    full = LayerSpec("full_attention", head_dims[1], kv_heads, None, thetas[1], rotated[1], False)
    return changed(
        layers=(*draw(st.lists(st.sampled_from([sliding, full]), max_size=5)), full),
        eos_ids=tuple(draw(st.lists(st.integers(0, 60), min_size=1, max_size=3))),
        first_noise_id=draw(st.integers(0, 60)),
        softcap=draw(st.floats(0.5, 100)),
    )


@given(config=configs())
def test_a_written_config_reads_the_same(config: ModelConfig):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_long_value_is_quoted_in_part():
    with pytest.raises(ConfigError, match="model_type is 'xxx") as caught:
        ModelConfig.from_dict(spoiled("model_type", "x" * 1_000_000))
    assert len(str(caught.value)) < 1000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    path = tmp_path / "config.json"
    os.mkfifo(path)
    with pytest.raises(ModelNotFoundError, match="no ordinary file"):
        ModelConfig.load(path)


def test_files(tmp_path: Path):
    path = tmp_path / "config.json"
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        ModelConfig.load(path)
    path.mkdir()
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        ModelConfig.load(path)
    path.rmdir()
    path.write_text(json.dumps(CONFIG.to_dict()))
    assert ModelConfig.load(path) == CONFIG


@pytest.mark.parametrize(
    ("listed", "wanted"),
    [
        (None, (1,)),  # the config's own alone
        (1, (1,)),  # the same again
        ([1, 106 % 61, 50], (1, 45, 50)),  # what the released model has, in a small vocabulary
    ],
)
def test_end_tokens_of_generation_config_are_added(tmp_path: Path, listed: object, wanted: tuple[int, ...]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()), "utf-8")
    if listed is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": listed}), "utf-8")
    assert ModelConfig.load(tmp_path / "config.json").eos_ids == wanted


@pytest.mark.parametrize("text", ["[]", "{", '{"eos_token_id": 61}', '{"eos_token_id": "1"}'])
def test_a_broken_generation_config_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_dict()), "utf-8")
    (tmp_path / "generation_config.json").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        ModelConfig.load(tmp_path / "config.json")
