"""`lacuna verify`: passes on what is right, fails on what is not, and names the tensor."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine.checkpoint import load_checkpoint, save_packed
from lacuna_ls.engine.errors import CheckpointError, LacunaError, ModelError, ModelNotFoundError
from lacuna_ls.engine.formats import Scheme
from lacuna_ls.engine.manifest import MANIFEST, check_manifest, manifest_path, write_manifest
from lacuna_ls.engine.modelfile import PACKED_MANIFEST
from lacuna_ls.engine.packed import quantize
from lacuna_ls.engine.reference import Reference
from lacuna_ls.engine.verify import main, verify
from random_models import CONFIG, random_model, reference
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("hf")


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch):
    # generate marks a step of a CUDA graph that is not there, and imports a compiler to do so
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, hf: Any) -> Path:
    """A checkpoint folder that transformers wrote."""
    folder = tmp_path_factory.mktemp("saved")
    reference(seed=4).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def alter(folder: Path, name: str, amount: float = 0.01) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[0] += amount
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_checkpoint_of_transformers_passes(saved: Path):
    report = verify(saved)
    assert report.passed
    assert {quantity.name for quantity in report.quantities} == {
        "encoder keys",
        "encoder values",
        "encoder hidden state",
        "decoder logits, first step",
        "decoder logits, self-conditioned",
        "denoise: wrong canvases",
        "denoise: logits of its steps",
    }
    # four layers of 23 tensors, of which the two full ones have no value projection; and six outside
    assert report.num_tensors == 4 * 23 - 2 + 6
    assert not report.has_manifest


@pytest.mark.parametrize(
    "text",
    [
        # transformers' own first weights: small and nearly the same for all tokens, sizes that are no multiple of four
        {"hidden_size": 50, "moe_intermediate_size": 7, "num_experts": 9, "top_k_experts": 3},
        # no sliding layer: the prompt has no window to be longer than
        {"num_hidden_layers": 1, "layer_types": ["full_attention"], "global_head_dim": 8},
        # room for few positions
        {"max_position_embeddings": 12},
    ],
)
def test_other_shapes_pass(text: dict[str, Any], tmp_path: Path):
    from transformers import DiffusionGemmaForBlockDiffusion

    DiffusionGemmaForBlockDiffusion(reference(**text).config).save_pretrained(tmp_path)
    assert verify(tmp_path).passed


def test_a_checkpoint_in_bf16_passes(tmp_path: Path):
    reference(seed=6).to(torch.bfloat16).save_pretrained(tmp_path)
    assert verify(tmp_path).passed


def test_a_packed_file_passes_and_its_manifest_lies_beside_it(tmp_path: Path):
    packed = tmp_path / "mine.safetensors"
    save_packed(random_model(CONFIG, seed=2), packed, {})
    assert verify(packed).passed
    path = write_manifest(packed)
    assert path == tmp_path / f"mine.{MANIFEST}"
    assert check_manifest(packed) == []


@pytest.mark.parametrize(
    "name",
    [
        # one of each storage: the tied table, an expert, a norm, a scalar of either side
        "model.decoder.embed_tokens.weight",
        "model.decoder.layers.1.experts.down_proj",
        "model.decoder.layers.2.self_attn.k_norm.weight",
        "model.decoder.layers.0.layer_scalar",
        "model.encoder.language_model.layers.3.layer_scalar",
    ],
)
def test_a_file_altered_after_its_manifest_is_named(folder: Path, name: str):
    write_manifest(folder)
    assert verify(folder).passed
    alter(folder, name, 1e-3)
    report = verify(folder)
    assert not report.passed
    assert [item.tensor for item in report.altered] == [name]
    assert report.altered[0].file == str(folder / "model.safetensors")
    # without the manifest both sides read the altered file alike, and there is nothing to find
    assert verify(folder, use_manifest=False).passed


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        # shared by encoder, decoder and output
        ("embed_tokens.weight", "model.decoder.embed_tokens.weight"),
        # shared by encoder and decoder
        ("layers.1.self_attn.q_proj.weight", "model.decoder.layers.1.self_attn.q_proj.weight"),
        # stored as one tensor of all experts
        ("layers.2.experts.gate_up_proj", "model.decoder.layers.2.experts.gate_up_proj"),
        # the encoder's alone
        ("layers.0.encoder_layer_scalar", "model.encoder.language_model.layers.0.layer_scalar"),
        # the decoder's alone
        ("self_conditioning.down_proj.weight", "model.decoder.self_conditioning.down_proj.weight"),
    ],
)
def test_a_weight_altered_in_the_engine_is_named_and_shows_in_the_figures(saved: Path, name: str, theirs: str):
    model = load_checkpoint(saved, weights="fp32")
    model.state_dict()[name].view(-1)[:5] += 0.5
    report = verify(saved, model)
    assert not report.passed
    assert len(report.altered) == 1
    assert report.altered[0].tensor == theirs
    assert report.altered[0].file == str(saved / "model.safetensors")
    assert report.altered[0].reason == "loaded"
    assert "up to 5.00e-01" in report.altered[0].detail
    assert not all(quantity.passed for quantity in report.quantities)


def test_a_wrong_computation_fails_though_all_weights_are_right(saved: Path):
    model = load_checkpoint(saved, weights="fp32")
    for layer in model.layers:
        layer.router.top_k = 1
    report = verify(saved, model)
    assert not report.passed
    assert report.altered == ()


def test_nan_in_the_engine_fails(saved: Path):
    model = load_checkpoint(saved, weights="fp32")
    model.state_dict()["norm.weight"].view(-1)[0] = float("nan")
    report = verify(saved, model)
    assert not report.passed
    assert [item.tensor for item in report.altered] == ["model.decoder.norm.weight"]


def test_tensors_that_come_or_go_after_the_manifest_are_named(folder: Path):
    write_manifest(folder)
    wanted = json.loads(manifest_path(folder).read_text())["tensors"]
    gone = wanted.pop("model.decoder.norm.weight")
    manifest_path(folder).write_text(json.dumps({"tensors": {**wanted, "more": gone}}))
    altered = check_manifest(folder)
    assert altered is not None
    assert [(item.tensor, "not in the files" in item.detail) for item in altered] == [
        ("model.decoder.norm.weight", False),
        ("more", True),
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tensors": 3}', '{"tensors": []}'])
def test_a_broken_manifest_is_an_error_that_says_what_to_do(folder: Path, text: str):
    manifest_path(folder).write_text(text)
    with pytest.raises(CheckpointError, match="--write-manifest"):
        check_manifest(folder)


def test_the_command_prints_and_returns(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([str(folder), "--write-manifest"]) == 0
    out = capsys.readouterr().out
    assert "encoder keys" in out
    assert "passed" in out
    assert str(manifest_path(folder)) in out
    alter(folder, "model.decoder.layers.1.mlp.up_proj.weight")
    assert main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "model.decoder.layers.1.mlp.up_proj.weight" in out
    assert str(folder / "model.safetensors") in out
    assert main([str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert report["altered"][0]["tensor"] == "model.decoder.layers.1.mlp.up_proj.weight"
    # a new manifest is for what the files hold now
    assert main([str(folder), "--write-manifest", "--json"]) == 0
    assert main([str(folder), "--json"]) == 0


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed folder with every kind of scale: two bf16 in a word, whole rows in fp32."""
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config(hidden_size=64)), tmp_path / "source")
    quantize(source, tmp_path / "packed", Scheme(dense="fp8", dtype=torch.float32))
    return tmp_path / "packed"


def test_a_packed_folder_is_checked_against_its_manifest(
    packed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    assert main([str(packed)]) == 0
    out = capsys.readouterr().out
    assert f"checked: checksum, shape and dtype of every tensor against {PACKED_MANIFEST}" in out
    assert "Not compared with transformers" in out
    num_tensors = len(load_file(packed / "weights-00001.safetensors"))
    assert f"passed ({num_tensors} tensors" in out
    # two tensors altered: both are named
    tensors = load_file(packed / "weights-00001.safetensors")
    tensors["layers.1.out|data"].view(torch.uint8).view(-1)[7] ^= 1
    tensors["norm.weight"][0] += 1
    save_file(tensors, packed / "weights-00001.safetensors")
    assert main([str(packed)]) == 1
    out = capsys.readouterr().out
    file = packed / "weights-00001.safetensors"
    for name in ("layers.1.out|data", "norm.weight"):
        assert f"altered: {name} in {file}: does not match its checksum; copy the folder again" in out
    with pytest.raises(ModelError, match="leave --write-manifest out"):
        main([str(packed), "--write-manifest"])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        # both halves of a word of bf16 scales
        ("layers.0.experts.down|scale", lambda t: t.view(-1).__setitem__(0, 0x7F80)),
        ("layers.0.experts.down|scale", lambda t: t.view(-1).__setitem__(0, 0x7FC0 << 16)),
        # a row's scale
        ("layers.1.out|scale", lambda t: t.view(-1).__setitem__(0, float("nan"))),
        # eight-bit floats
        ("layers.1.out|data", lambda t: t.view(torch.uint8).view(-1).__setitem__(0, 0x7F)),
        # what is stored as it is
        ("layers.2.router.scale", lambda t: t.__setitem__(0, float("inf"))),
    ],
)
def test_nan_that_was_packed_is_found_though_every_checksum_is_right(packed: Path, name: str, spoil: Any):
    file = packed / "weights-00001.safetensors"
    tensors = load_file(file)
    spoil(tensors[name])
    save_file(tensors, file)
    manifest = json.loads((packed / PACKED_MANIFEST).read_text())
    part, _, role = name.partition("|")
    data = tensors[name].view(torch.uint8).reshape(-1).numpy().tobytes()
    manifest["parts"][part]["tensors"][role or "plain"]["sha256"] = hashlib.sha256(data).hexdigest()
    (packed / PACKED_MANIFEST).write_text(json.dumps(manifest))
    report = verify(packed)
    assert [(item.tensor, item.detail) for item in report.altered] == [
        (name, "holds NaN or infinity; copy the file again")
    ]


@pytest.mark.parametrize("save", [tiny.save_int4, tiny.save_nvfp4], ids=["INT4", "NVFP4"])
def test_a_quantised_folder_is_looked_at_tensor_by_tensor(
    tmp_path: Path, save: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    folder = save(tiny.tiny_model(tiny.tiny_config(hidden_size=64)), tmp_path)
    assert main([str(folder), "--write-manifest"]) == 0
    out = capsys.readouterr().out
    assert "checked: name, shape and dtype of every tensor against config.json" in out
    assert "Not compared with transformers" in out
    assert verify(folder).has_manifest
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        if "model.decoder.norm.weight" in tensors:
            tensors["model.decoder.norm.weight"][0] += 1
            save_file(tensors, file)
    assert [item.tensor for item in verify(folder).altered] == ["model.decoder.norm.weight"]
    # nothing to compare with: what cannot be read is an error all the same
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        tensors.pop("model.decoder.norm.weight", None)
        save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"norm.weight missing"):
        verify(folder, use_manifest=False)


def test_what_cannot_be_loaded_is_an_error_of_ours(folder: Path, tmp_path: Path):
    with pytest.raises(ModelNotFoundError):
        verify(tmp_path / "nowhere")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(LacunaError, match="truncated"):
        verify(folder)


def test_transformers_own_generate_is_seeded(saved: Path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    model, prompt = Reference(saved), (5, 6, 7, 8)
    tokens = model.generate(prompt, model.canvas_length, seed=1)
    assert 0 < len(tokens) <= model.canvas_length
    assert tokens == model.generate(prompt, model.canvas_length, seed=1)
    assert tokens != model.generate(prompt, model.canvas_length, seed=2)


def test_brackets_in_a_path_are_no_markup(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "models[v2]" / "x[" / "y]"
    shutil.copytree(saved, folder)
    assert main([str(folder), "--write-manifest"]) == 0
    told = "".join(capsys.readouterr().out.split())
    assert str(manifest_path(folder)) in told
    assert told.startswith(str(folder))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x12\x34\x56\x78")
    assert main([str(folder)]) == 1
    assert f"in{folder / 'model.safetensors'}:" in "".join(capsys.readouterr().out.split())


def test_a_manifest_that_cannot_be_written_is_said(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    (folder / MANIFEST).mkdir()
    with pytest.raises(ModelError, match="cannot be written"):
        main([str(folder), "--write-manifest"])
