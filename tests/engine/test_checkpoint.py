"""Checkpoints in both directions, and every way in which one can be wrong: the error names tensor, file and remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine.checkpoint import load_checkpoint, load_config, save_folder, save_packed
from lacuna_ls.engine.errors import CheckpointError, ConfigError, DeviceError, ModelError, ModelNotFoundError
from lacuna_ls.engine.modelfile import CONFIG_KEY, FORMAT_KEY, read_metadata
from lacuna_ls.engine.verify import cached
from random_models import CONFIG, changed, encode, random_model, reference
from safetensors.torch import load_file, save_file

PROMPT = torch.arange(3, 33)
CANVAS = torch.arange(9)[None]


def our_logits(model: Any) -> torch.Tensor:
    cache, _ = encode(model, PROMPT)
    return model.logits(model.decode(CANVAS, cache))


def their_logits(truth: Any) -> torch.Tensor:
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache(config=truth.config.get_text_config())
    truth.model.encoder(input_ids=PROMPT[None], **cached(cache))
    with torch.no_grad():
        return truth(**cached(cache), decoder_input_ids=CANVAS).logits


# -- to and from transformers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "num_files"),
    [
        # one file
        ({}, 1),
        # several, with an index that says which tensor is where
        ({"max_shard_size": "60KB"}, 2),
    ],
)
def test_what_save_pretrained_wrote_loads_with_the_same_logits(
    hf: Any, tmp_path: Path, options: dict[str, Any], num_files: int
):
    truth = reference(seed=8)
    truth.save_pretrained(tmp_path, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) >= num_files
    assert (tmp_path / "model.safetensors.index.json").exists() == (num_files > 1)
    assert torch.allclose(our_logits(load_checkpoint(tmp_path, weights="fp32")), their_logits(truth), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_we_wrote_loads_in_transformers_with_the_same_logits(hf: Any, tmp_path: Path, dtype: torch.dtype):
    model = random_model(changed(eos_ids=(1, 7), first_noise_id=5), seed=8).to(dtype)
    save_folder(model, tmp_path)
    truth, info = hf.DiffusionGemmaForBlockDiffusion.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    # the vision tower alone is not ours to write
    missing = {name for name in info["missing_keys"] if "vision" not in name}
    assert missing == set()
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    again = load_checkpoint(tmp_path, weights="fp32")
    assert again.config == model.config
    assert torch.allclose(our_logits(again), their_logits(truth), atol=1e-4)
    assert truth.config.text_config.eos_token_id == [1, 7]


def test_a_stored_copy_of_a_tied_tensor_is_passed_over(hf: Any, tmp_path: Path):
    model = random_model(seed=8)
    save_folder(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    table = tensors["model.decoder.embed_tokens.weight"]
    tensors["lm_head.weight"] = tensors["model.encoder.language_model.embed_tokens.weight"] = table.clone()
    tensors["model.encoder.embed_vision.embedding_projection.weight"] = torch.zeros(3)
    # clones, because one tensor under two names cannot be written
    save_file({name: t.clone() for name, t in tensors.items()}, tmp_path / "model.safetensors")
    assert torch.equal(our_logits(load_checkpoint(tmp_path, weights="fp32")), our_logits(model))


# -- our packed form -------------------------------------------------------------------------------------------------


def test_a_packed_file_keeps_config_metadata_and_weights_to_a_rounding(tmp_path: Path):
    model = random_model(changed(first_noise_id=3), seed=8)
    path = tmp_path / "one.safetensors"
    save_packed(model, path, {"lacuna.tokenizer": "{}"})
    assert read_metadata(path)["lacuna.tokenizer"] == "{}"
    assert load_config(path) == model.config
    again = load_checkpoint(path, weights="fp32")
    for name, tensor in model.state_dict().items():
        read = again.state_dict()[name]
        if tensor.dim() < 2 or "router" in name:
            assert torch.equal(read, tensor), name
        else:
            over = (0, 2) if "down_proj" in name and tensor.dim() == 3 else (-1,)
            assert ((read - tensor).abs() <= tensor.abs().amax(over, keepdim=True) / 254 * 1.001).all(), name
    assert path.stat().st_size < 0.5 * sum(t.numel() * 4 for t in model.state_dict().values())


def test_packing_what_was_packed_changes_nothing(tmp_path: Path):
    save_packed(random_model(seed=8), tmp_path / "a.safetensors", {})
    save_packed(load_checkpoint(tmp_path / "a.safetensors", weights="fp32"), tmp_path / "b.safetensors", {})
    first, second = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name].float(), second[name].float(), rtol=1e-6) for name in first)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    save_folder(random_model(seed=8), folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def spoil(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def on(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return on


def cut(num_bytes: int) -> Callable[[Path], object]:
    def on(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[:num_bytes])

    return on


def set_config(**text: Any) -> Callable[[Path], object]:
    def on(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text())
        raw["text_config"].update(text)
        (folder / "config.json").write_text(json.dumps(raw))

    return on


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    def on(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return on


NORM = "model.decoder.layers.1.input_layernorm.weight"
EMBED = "model.decoder.embed_tokens.weight"
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("spoiled", "error", "words"),
    [
        # nothing there
        (shutil.rmtree, ModelError, ["does not exist"]),
        (lambda f: (f / "config.json").unlink(), ModelNotFoundError, ["config.json", "does not exist", "point"]),
        (lambda f: (f / "model.safetensors").unlink(), ModelNotFoundError, ["model.safetensors", "point"]),
        # a config that is no config
        (write("config.json", "{'a': 1}"), ConfigError, ["config.json", "not valid JSON", "copy"]),
        (write("config.json", b"\xff\xfe"), ConfigError, ["config.json", "not valid JSON"]),
        (write("config.json", "[" * 100_000), ConfigError, ["config.json", "not valid JSON"]),
        (write("config.json", "[]"), ConfigError, ["config.json", "list"]),
        (write("config.json", "{}"), ConfigError, ["model_type is missing", "diffusion_gemma"]),
        # files that end too early: in the length, in the header, in a tensor
        (cut(0), CheckpointError, ["model.safetensors", "copy it again"]),
        (cut(5), CheckpointError, ["model.safetensors", "copy it again"]),
        (cut(400), CheckpointError, ["model.safetensors", "copy it again"]),
        (cut(-50), CheckpointError, ["model.safetensors", "truncated: tensor model.", "copy it again"]),
        # something else under that name
        (write("model.safetensors", "<html>not found</html>"), CheckpointError, ["model.safetensors", "copy it again"]),
        # tensors that do not belong
        (
            spoil(lambda t: t.pop(NORM)),
            CheckpointError,
            ["model.decoder.layers.1.input_layernorm.weight", "model.safetensors", "missing", "copy"],
        ),
        # a copy of a weight that the config does not have
        (
            spoil(lambda t: t.update({"model.encoder.language_model.layers.9.foo.weight": torch.zeros(1)})),
            CheckpointError,
            ["model.encoder.language_model.layers.9.foo.weight", "model.safetensors", "does not belong"],
        ),
        # numbers that mean nothing by themselves, and one that the engine cannot hold
        (spoil(lambda t: t.update({NORM: t[NORM].long()})), CheckpointError, [NORM, "model.safetensors", "dtype I64"]),
        (
            spoil(lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)})),
            CheckpointError,
            [NORM, "model.safetensors", "dtype F8_E4M3", "choose a release"],
        ),
        (
            spoil(lambda t: t.update({NORM: t[NORM].double() * 1e300})),
            CheckpointError,
            ["layers.1.input_layernorm.weight", "model.safetensors", "infinite in float32"],
        ),
        (
            spoil(lambda t: t.update({"model.decoder.extra": torch.zeros(1)})),
            CheckpointError,
            ["extra", "model.safetensors", "does not belong"],
        ),
        (
            spoil(lambda t: t.update({NORM: torch.zeros(31)})),
            CheckpointError,
            ["layers.1.input_layernorm.weight", "model.safetensors", "[31]", "[32]"],
        ),
        (
            spoil(lambda t: t[NORM].__setitem__(3, float("nan"))),
            CheckpointError,
            ["layers.1.input_layernorm.weight", "model.safetensors", "NaN", "copy"],
        ),
        (
            spoil(lambda t: t[EMBED].view(-1).__setitem__(-1, float("-inf"))),
            CheckpointError,
            ["embed_tokens.weight", "model.safetensors", "infinity"],
        ),
        # config and weights of two models
        (set_config(vocab_size=62), CheckpointError, ["embed_tokens.weight", "[61, 32]", "[62, 32]"]),
        (set_config(hidden_size=30), CheckpointError, ["embed_tokens.weight", "[61, 32]", "[61, 30]"]),
        (
            set_config(num_hidden_layers=1, layer_types=["full_attention"], per_layer_config=None),
            CheckpointError,
            ["layers.", "model.safetensors", "config"],
        ),
        # an index that is none, or names what is not there
        (write(INDEX, "{"), CheckpointError, [INDEX, "copy it again"]),
        (write(INDEX, "[]"), CheckpointError, [INDEX, "copy it again"]),
        (write(INDEX, '{"weight_map": {"a": 3}}'), CheckpointError, [INDEX, "copy it again"]),
        (write(INDEX, '{"weight_map": {"a": "gone.safetensors"}}'), CheckpointError, ["gone.safetensors", "missing"]),
    ],
)
def test_a_spoiled_folder_is_refused_with_names(
    folder: Path, spoiled: Callable[[Path], object], error: type[ModelError], words: list[str]
):
    spoiled(folder)
    with pytest.raises(error) as caught:
        load_checkpoint(folder)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_no_packed_model(good: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"not a packed Lacuna model.*folder"):
        load_checkpoint(good / "model.safetensors")
    path = tmp_path / "bad.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={FORMAT_KEY: "1", CONFIG_KEY: "{"})
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_config(path)
    save_file({"a": torch.zeros(1)}, path, metadata={FORMAT_KEY: "1", CONFIG_KEY: json.dumps(CONFIG.to_dict())})
    with pytest.raises(CheckpointError, match=r"tensor a .*config"):
        load_checkpoint(path)
    save_packed(random_model(seed=8), path, {})
    # copies: what is loaded may be a view of the file that is written anew
    tensors, metadata = {name: each.clone() for name, each in load_file(path).items()}, read_metadata(path)
    save_file({**tensors, "b|scale": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"tensor b\|scale does not belong"):
        load_checkpoint(path)
    tensors.pop("embed_tokens.weight|scale")
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"tensor embed_tokens.weight has dtype I8"):
        load_checkpoint(path)
    tensors.pop("embed_tokens.weight")
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"bad.safetensors: tensor embed_tokens.weight missing; copy the file"):
        load_checkpoint(path)
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(path)
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        load_checkpoint(tmp_path / "nowhere.safetensors")


def test_a_missing_tensor_is_named_with_the_file_that_the_index_gives(tmp_path: Path):
    folder = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path)
    file = json.loads((folder / INDEX).read_text())["weight_map"][NORM]
    tensors = load_file(folder / file)
    tensors.pop(NORM)
    save_file(tensors, folder / file)
    with pytest.raises(CheckpointError, match=rf"{file}: tensor {NORM} missing, though the index says"):
        load_checkpoint(folder)


def test_a_device_that_is_not_there(good: Path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(DeviceError, match="no CUDA device"):
        load_checkpoint(good, device="cuda")
    for device in ("mps", "no device"):
        with pytest.raises(DeviceError, match="choose cpu or cuda"):
            load_checkpoint(good, device=device)
    with pytest.raises(ValueError, match="int3"):
        load_checkpoint(good, weights="int3")
