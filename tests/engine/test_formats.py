"""Reading, quantising and packing: every format against the weights it means, every fault named, memory as promised."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine import packed as packed_module
from lacuna_ls.engine.checkpoint import save_folder
from lacuna_ls.engine.config import ModelConfig
from lacuna_ls.engine.errors import CheckpointError, ConfigError, DeviceError, ModelError, ModelNotFoundError
from lacuna_ls.engine.formats import EXACT, Scheme, parts, source_format, stream
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.modelfile import PACKED_MANIFEST as MANIFEST
from lacuna_ls.engine.packed import load_packed, quantize, quantize_main, read_manifest
from lacuna_ls.engine.packed_model import PackedModel, row_ranges
from lacuna_ls.engine.plan import plan_folder
from lacuna_ls.engine.shards import Shards
from lacuna_ls.kernels.attention import row_ranges as row_ranges_truth
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

FP32 = torch.float32
CPU = torch.device("cpu")

SCHEMES = [
    pytest.param(EXACT, id="nothing rounded: the forward itself"),
    pytest.param(Scheme(dtype=FP32), id="the default: experts int4 g64, the rest int8"),
    pytest.param(Scheme(dense="fp8", dtype=FP32), id="fp8 has one scale per row"),
    pytest.param(Scheme(experts_group=32, dense="int4", dense_group=32, dtype=FP32), id="int4 everywhere, g32"),
    pytest.param(Scheme("int8", 64, "bf16", 0, FP32), id="for a large card: experts int8, the rest as stored"),
]


def furthest(truth: DiffusionGemma, model: PackedModel) -> float:
    """The largest difference of any hidden state or logit, over prefills in pieces and canvases with and without
    belief.
    """
    config, worst = truth.config, 0.0
    generator = torch.Generator().manual_seed(1)
    for num_prompt, L, num_rows in ((5, 4, [4, 3]), (40, 8, [8])):
        B = len(num_rows)
        prompt = torch.randint(0, config.vocab_size, (num_prompt,), generator=generator)
        canvas = torch.randint(0, config.vocab_size, (B, L), generator=generator)
        soft = torch.randn(B, L, config.hidden_size, generator=generator)
        caches = KVCache(config, CPU, FP32, 8), KVCache(config, CPU, FP32, 8)
        for piece in (prompt[:3], prompt[3:]):
            states = [m.encode(piece, cache) for m, cache in zip((truth, model), caches, strict=True)]
            worst = max(worst, float((states[0] - states[1]).abs().max()))
        in_use = torch.tensor(num_rows)
        for belief in (None, soft):
            both = [m.logits(m.decode(canvas, c, belief, in_use)) for m, c in zip((truth, model), caches, strict=True)]
            branches = [m.branch(canvas, c) for m, c in zip((truth, model), caches, strict=True)]
            worst = max(worst, float((branches[0] - branches[1]).abs().max()))
            for b, used in enumerate(num_rows):
                worst = max(worst, float((both[0][b, :used] - both[1][b, :used]).abs().max()))
    return worst


@pytest.mark.parametrize("scheme", SCHEMES)
def test_packed_model_equals_its_dequantised_self(tmp_path: Path, scheme: Scheme):
    # a hidden size that is no multiple of a block, and sixteen experts so that most are not chosen
    config = tiny.tiny_config(hidden_size=96, num_experts=16, top_k=3)
    model = tiny.tiny_model(config)
    packed = PackedModel.from_parts(config, stream(tiny.save_shards(model, tmp_path), config, scheme))
    truth = packed.dequantised()
    assert furthest(truth, packed) < 1e-3
    if scheme == EXACT:
        assert furthest(model, packed) < 1e-3
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), truth.state_dict().values(), strict=True)
        )


def test_quantised_weights_are_near_the_originals(tmp_path: Path):
    config = tiny.tiny_config(hidden_size=64)
    model = tiny.tiny_model(config)
    truth = load_packed(tiny.save_shards(model, tmp_path), Scheme(dtype=FP32)).dequantised()
    for name, wanted in model.state_dict().items():
        error = float((truth.state_dict()[name] - wanted).norm() / wanted.norm())
        limit = (
            0.11
            if "experts" in name
            else 0.01
            if wanted.dim() == 2 and "router" not in name and "embed" not in name
            else 0.0
        )
        assert error <= limit, (name, error)


@pytest.mark.parametrize(
    "group_size", [pytest.param(32, id="the published g32"), pytest.param(16, id="g16, which no kernel streams")]
)
def test_published_int4(tmp_path: Path, group_size: int):
    config = tiny.tiny_config(hidden_size=64)
    truth = tiny.tiny_model(config)
    folder = tiny.save_int4(truth, tmp_path, group_size)
    assert source_format(folder) == "pack-quantized"
    scheme = Scheme(dense="bf16", dtype=FP32) if group_size == 32 else EXACT
    packed = load_packed(folder, scheme)
    assert furthest(truth, packed) < 1e-3
    if group_size == 32:
        assert packed.layers[0].experts.gate_up.format == "int4"
        assert packed.layers[0].experts.gate_up.group_size == 32
        assert packed.layers[0].qkv.format == "int4"


@pytest.mark.parametrize(
    ("dtype", "is_said"),
    [
        pytest.param(torch.float16, True, id="three bits more than bf16 has"),
        pytest.param(torch.float32, True, id="sixteen bits more"),
        pytest.param(torch.bfloat16, False, id="as published"),
    ],
)
def test_int4_scales_wider_than_bf16_are_rounded_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: torch.dtype, is_said: bool
):
    truth = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    folder = tiny.save_int4(truth, tmp_path)
    weights = tiny.linear_weights(truth)
    generator = torch.Generator().manual_seed(0)

    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if key.endswith(".weight_scale")]:
            old, weight = tensors[key].float(), weights[key.removesuffix("_scale")]
            new = (old * (1 + 0.003 * torch.rand(old.shape, generator=generator))).to(dtype)
            # what the kernels make of it, and the truth that is promised
            rounded = new.to(torch.bfloat16).float()
            groups = weight.view(*old.shape, -1)
            weight.copy_((groups / old[..., None] * rounded[..., None]).view_as(weight))
            tensors[key] = new

    change_files(folder, widen)
    with caplog.at_level(logging.WARNING):
        packed = load_packed(folder, Scheme(dense="bf16", dtype=FP32))
    assert [record.getMessage().count("rounded to bf16") for record in caplog.records] == ([1] if is_said else [])
    assert furthest(truth, packed) < 1e-3


def test_published_nvfp4(tmp_path: Path):
    config = tiny.tiny_config(hidden_size=64)
    truth = tiny.tiny_model(config)
    folder = tiny.save_nvfp4(truth, tmp_path)
    assert furthest(truth, load_packed(folder, EXACT)) < 1e-3
    # served in int4: the second rounding is measured here and stated in ARCHITECTURE.md
    weight = truth.state_dict()["layers.0.experts.down_proj"]
    again = load_packed(folder).dequantised().state_dict()["layers.0.experts.down_proj"]
    assert 0.01 < float((again - weight).norm() / weight.norm()) < 0.11


def test_published_formats_against_their_own_library(tmp_path: Path):
    # imported here: it takes seconds
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    model = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    tensors = {}
    for file in tiny.save_int4(model, tmp_path).glob("*.safetensors"):
        tensors |= load_file(file)
    name = "model.decoder.layers.0.experts.1.gate_proj.weight"
    codes = unpack_from_int32(tensors[f"{name}_packed"], 4, torch.Size([32, 64]))
    weight = codes.float() * tensors[f"{name}_scale"].float().repeat_interleave(32, 1)
    assert torch.equal(weight, model.state_dict()["layers.0.experts.gate_up_proj"][1, :32])


def test_ranges_are_the_kernels_ranges():
    for window, start, num_causal, rows in ((None, 5, 3, [4, 4]), (4, 9, 0, [6]), (16, 0, 7, [2, 2, 2]), (3, 2, 5, [])):
        L = rows[0] if rows else 0
        wanted = row_ranges_truth(start, num_causal, rows, window)
        assert torch.equal(row_ranges(0, start, num_causal, None, L, len(rows), window, CPU), wanted)
        shifted = wanted + torch.tensor([10, 10, 0, 0], dtype=torch.int32)
        assert torch.equal(row_ranges(10, start, num_causal, None, L, len(rows), window, CPU), shifted)


def change_files(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Apply a change to the tensors of every file."""
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)


# -- our own folder
# ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config(hidden_size=64)), folder / "source")
    (source / "tokenizer.json").write_text("{}")
    (source / "calibration.json").write_text('{"kept": 1}')
    # files of a few kilobytes, so that there are several
    quantize(source, folder / "packed", Scheme(dtype=FP32), file_bytes=60_000)
    return folder / "packed"


def test_packed_folder_round_trip(packed_folder: Path):
    assert len(list(packed_folder.glob("weights-*.safetensors"))) > 1
    assert (packed_folder / "tokenizer.json").exists()
    # infill/load.py reads it from the folder of the model
    assert json.loads((packed_folder / "calibration.json").read_text()) == {"kept": 1}
    again = load_packed(packed_folder)
    direct = load_packed(packed_folder.parent / "source", Scheme(dtype=FP32))
    for name, weight in direct.dequantised().state_dict().items():
        assert torch.equal(weight, again.dequantised().state_dict()[name]), name
    assert again.num_bytes == direct.num_bytes
    assert len(read_manifest(packed_folder)["source"]["sha256"]) == 64


def test_command_writes_the_folder_and_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = tiny.tiny_config()
    source = tiny.save_shards(tiny.tiny_model(config), tmp_path / "source")
    assert (
        quantize_main([str(source), str(tmp_path / "new"), "--dense", "fp8", "--group", "32", "--device", "cpu"]) == 0
    )
    assert capsys.readouterr().out == ""
    assert load_packed(tmp_path / "new").layers[0].qkv.format == "fp8"
    with pytest.raises(ModelError, match="not empty"):
        quantize_main([str(source), str(tmp_path / "new")])


def test_progress_covers_the_checksum_of_the_source(tmp_path: Path):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path / "source")
    told: list[tuple[int, int, str]] = []
    quantize(source, tmp_path / "packed", progress=lambda *values: told.append(values))
    hashed = [values for values in told if values[2].startswith("checksum of model-0000")]
    size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    assert hashed[-1] == (size, size, "checksum of model-00003-of-00003.safetensors")
    assert [done for done, *_ in hashed] == sorted({done for done, *_ in hashed})
    assert read_manifest(tmp_path / "packed")["source"]["sha256"] == Shards(source).fingerprint()


def full_disk(*_: object, **__: object) -> None:
    # the words of safetensors on a full disk
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def full_gpu(*_: object, **__: object) -> Iterator[object]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB")


@pytest.mark.parametrize(
    ("where", "replaced", "error", "message"),
    [
        pytest.param("file", {}, ModelError, "taken is a file; choose a new folder", id="DST is a file"),
        pytest.param("file/in", {}, ModelError, "cannot be written.*run it again", id="DST is below a file"),
        pytest.param("new", {"save_file": full_disk}, ModelError, "No space left.*make room", id="the disk fills up"),
        pytest.param(
            "new",
            {"free_bytes": lambda folder: 1000},
            ModelError,
            r"GB do not fit on the disk of .*new \(0.0 GB free\); make room",
            id="the disk is too small, which is known before",
        ),
        pytest.param(
            "new", {"stream": full_gpu}, DeviceError, "run it again with --device cpu", id="full GPU"
        ),
    ],
)
def test_what_stops_quantize_is_said_with_a_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    replaced: dict[str, object],
    error: type[Exception],
    message: str,
):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path / "source")
    (tmp_path / "taken").write_text("")
    for name, value in replaced.items():
        monkeypatch.setattr(packed_module, name, value)
    with pytest.raises(error, match=message):
        quantize(source, tmp_path / where.replace("file", "taken"))
    assert not (tmp_path / "new").exists()


def test_an_interrupted_run_leaves_nothing_of_its_own(tmp_path: Path):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path / "source")

    def interrupt(done: int, total: int, what: str) -> None:
        if what.startswith("checksum"):
            # by now there are several files; and somebody else has put one there
            assert len(list(target.glob("weights-*"))) > 1
            (target / "mine").touch()
            raise KeyboardInterrupt

    for target in (tmp_path / "new", tmp_path / "old"):
        if target.name == "old":
            target.mkdir()
        with pytest.raises(KeyboardInterrupt):
            quantize(source, target, progress=interrupt, file_bytes=20_000)
        assert [file.name for file in target.iterdir()] == ["mine"]
        (target / "mine").unlink()
        quantize(source, target)


@pytest.mark.parametrize("device", ["mps", "meta", "xpu"])
def test_a_device_that_the_engine_does_not_know_is_said(tmp_path: Path, device: str):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path / "source")
    with pytest.raises(DeviceError, match="choose cpu or cuda"):
        quantize(source, tmp_path / "new", device=device)


def test_a_home_in_the_target_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path / "source")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert quantize_main([str(source), "~/packed", "--device", "cpu"]) == 0
    assert (tmp_path / "packed" / MANIFEST).exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "config.json", MANIFEST])
def test_json_that_is_nested_too_deeply_is_an_error_of_ours(tmp_path: Path, name: str):
    model = tiny.tiny_model(tiny.tiny_config())
    save_folder(model, tmp_path / "source")
    deep = b"[" * 100_000
    head = len(deep).to_bytes(8, "little") if name == "model.safetensors" else b""
    (tmp_path / "source" / name).write_bytes(head + deep)
    read: dict[str, Callable[[Path], object]] = {MANIFEST: read_manifest, "config.json": source_format}
    with pytest.raises(ModelError):
        read.get(name, Shards)(tmp_path / "source")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("../m.safetensors", id="up"),
        pytest.param("/etc/passwd", id="elsewhere"),
        pytest.param("a" * 5000, id="no name"),
        pytest.param("\u00e9" * 200, id="too many bytes"),
        pytest.param("\ud800", id="cannot be shown"),
    ],
)
def test_an_index_names_files_of_its_folder(tmp_path: Path, name: str):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CheckpointError, match="is not a file of the folder") as caught:
        Shards(tmp_path)
    assert len(str(caught.value)) < 1000


def test_quantize_wants_a_folder_and_a_device(tmp_path: Path):
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path / "source")
    file = next(source.glob("*.safetensors"))
    with pytest.raises(ModelError, match=r"is a file; give the folder that holds config.json"):
        quantize_main([str(file), str(tmp_path / "new")])
    with pytest.raises(DeviceError, match="choose cpu or cuda"):
        quantize_main([str(source), str(tmp_path / "new"), "--device", "abacus"])
    assert not (tmp_path / "new").exists()


def corrupt(folder: Path, copy: Path, what: str) -> None:
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((copy / MANIFEST).read_text())
    file = copy / manifest["parts"]["layers.1.out"]["tensors"]["data"]["file"]
    tensors = load_file(file)
    if what == "bit":
        tensors["layers.1.out|data"].view(torch.uint8).view(-1)[7] ^= 1
    elif what == "shape":
        tensors["layers.1.out|data"] = tensors["layers.1.out|data"][:, :1].contiguous()
    elif what == "gone":
        del tensors["layers.1.out|data"]
    elif what == "more":
        tensors["layers.9.extra"] = torch.zeros(1)
    save_file(tensors, file)
    if what == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif what == "file":
        file.unlink()
    elif what == "another file":
        save_file({"layers.9.extra": torch.zeros(1)}, copy / "weights-00099.safetensors")
    elif what == "interrupted":
        (copy / MANIFEST).unlink()
    elif what == "version":
        (copy / MANIFEST).write_text(json.dumps({**manifest, "version": 2}))
    elif what == "garbled":
        (copy / MANIFEST).write_text("{")


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        pytest.param(
            "bit",
            CheckpointError,
            r"weights-0000\d.safetensors: tensor layers.1.out\|data does not match",
            id="one bit",
        ),
        pytest.param(
            "shape", CheckpointError, r"weights-.*tensor layers.1.out\|data is .*the manifest says", id="misshaped"
        ),
        pytest.param(
            "gone",
            CheckpointError,
            r"weights-0000\d.safetensors: tensor layers.1.out\|data is missing",
            id="a tensor left out",
        ),
        pytest.param(
            "more", CheckpointError, r"weights-0000\d.*tensor layers.9.extra does not belong", id="a tensor more"
        ),
        pytest.param("another file", CheckpointError, r"weights-00099.safetensors does not belong", id="a file more"),
        pytest.param(
            "truncated",
            CheckpointError,
            r"weights-0000\d.safetensors is truncated: tensor .* ends behind",
            id="cut off",
        ),
        pytest.param("file", CheckpointError, r"weights-0000\d.safetensors is missing", id="a file left out"),
        pytest.param("interrupted", CheckpointError, "manifest|model.safetensors", id="quantize was interrupted"),
        pytest.param("version", ConfigError, "version 2", id="written by a later Lacuna"),
        pytest.param("garbled", CheckpointError, "not a manifest", id="manifest is not JSON"),
    ],
)
def test_faults_of_a_packed_folder_are_named(packed_folder: Path, tmp_path: Path, what: str, error: type, message: str):
    corrupt(packed_folder, tmp_path / "copy", what)
    if what == "interrupted":
        # without a manifest it is read as a plain folder, and that has no weights
        error = ModelNotFoundError
    with pytest.raises(error, match=message):
        load_packed(tmp_path / "copy")


def set_part(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["parts"]["layers.1.qkv"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda m: m["scheme"].update(foo=1), "not a manifest.*foo", id="a scheme with an unknown key"),
        pytest.param(lambda m: m.update(scheme={}), "not a manifest.*dtype", id="a scheme without a dtype"),
        pytest.param(lambda m: m["scheme"].update(dtype="int3"), "not a manifest.*int3", id="a dtype that is none"),
        pytest.param(
            lambda m: m["scheme"].update(experts="int3"), "not a manifest.*'int3'", id="a format that is none"
        ),
        pytest.param(lambda m: m.update(parts=[]), "not a manifest.*list", id="parts that are a list"),
        pytest.param(lambda m: m["parts"].update({"layers.1.qkv": {}}), "not a manifest.*tensors", id="an empty part"),
        pytest.param(set_part(tensors={}), r"layers.1.qkv has tensors \[\]", id="a part without tensors"),
        pytest.param(
            lambda m: m["parts"]["layers.1.qkv"]["tensors"]["data"].update(file="../a.safetensors"),
            "layers.1.qkv is in '../a.safetensors', which is not a file of the folder",
            id="a file elsewhere",
        ),
        pytest.param(set_part(group_size="64"), "layers.1.qkv has group_size '64'", id="a group size that is text"),
        pytest.param(set_part(group_size=48), "in groups of 48", id="a group size that no kernel has"),
        pytest.param(set_part(num_rows=3), r"is a matrix \[3, 64\], the config asks for", id="another matrix"),
        pytest.param(
            set_part(format="int4"), "layers.1.qkv is said to be int4 in groups of 64", id="a format that it is not"
        ),
        pytest.param(
            set_part(group_size=32), "layers.1.qkv is said to be int8 in groups of 32", id="groups that it has not"
        ),
        pytest.param(
            set_part(group_size=0), "layers.1.qkv is said to be int8 in groups of 0", id="whole rows that it has not"
        ),
        pytest.param(
            lambda m: m["parts"].update({"layers.1.qkv": m["parts"]["norm.weight"]}),
            "tensor layers.1.qkv",
            id="a plain tensor for a matrix",
        ),
    ],
)
def test_a_manifest_that_is_wrong_is_an_error(
    packed_folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
):
    folder = Path(shutil.copytree(packed_folder, tmp_path / "copy"))
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=rf"{MANIFEST}.*{message}|{message}"):
        load_packed(folder)
    if message.startswith("not a manifest"):
        with pytest.raises(CheckpointError, match=message):
            plan_folder(folder)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        pytest.param(
            "nan",
            r"model-0000\d-of-00003.safetensors: tensor model.decoder.layers.2.experts.down_proj holds NaN",
            id="NaN",
        ),
        pytest.param(
            "shape",
            r"tensor model.decoder.layers.2.experts.down_proj has shape \[4, 64, 31\], the config asks for",
            id="shape",
        ),
        pytest.param(
            "missing",
            r"model-0000\d-of-00003.safetensors: tensor model.decoder.layers.2.experts.down_proj missing",
            id="missing",
        ),
        pytest.param("extra", r"tensor model.decoder.layers.9.extra does not belong", id="extra"),
        pytest.param("truncated", r"is truncated: tensor model.decoder.* ends behind the end", id="truncated"),
        pytest.param("twice", r"tensor model.decoder.norm.weight is in .* and again in", id="in two files"),
    ],
)
def test_faults_of_a_float_folder_are_named(tmp_path: Path, what: str, message: str):
    model = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    folder = tiny.save_shards(model, tmp_path)
    name = "model.decoder.layers.2.experts.down_proj"
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        if name in tensors:
            if what == "nan":
                tensors[name][1, 2, 3] = torch.nan
            elif what == "shape":
                tensors[name] = tensors[name][:, :, :-1].contiguous()
            elif what == "missing":
                del tensors[name]
            elif what == "extra":
                tensors["model.decoder.layers.9.extra"] = torch.zeros(1)
        if what == "twice":
            tensors["model.decoder.norm.weight"] = torch.ones(64)
        save_file(tensors, file)
        if what == "truncated":
            file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=message):
        load_packed(folder, EXACT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"quant_method": "modelopt"}, "modelopt", id="another library's"),
        pytest.param({"format": "int-quantized"}, "int-quantized", id="activations quantised"),
        pytest.param({"config_groups": {"g": {"weights": {"num_bits": 8}}}}, "symmetric 4-bit", id="eight bits"),
        pytest.param(
            {"config_groups": {"g": {"weights": {"num_bits": 4, "symmetric": False}}}},
            "symmetric 4-bit",
            id="zero points",
        ),
        pytest.param(
            {
                "format": "mixed-precision",
                "config_groups": {"a": {"format": "nvfp4-pack-quantized"}, "b": {"format": "float-quantized"}},
            },
            "'float-quantized' and 'nvfp4-pack-quantized'.*reads one of",
            id="FP8 beside NVFP4",
        ),
        pytest.param(
            {
                "format": "mixed-precision",
                "config_groups": {"a": {"format": "nvfp4-pack-quantized"}, "b": {"format": "pack-quantized"}},
            },
            "'nvfp4-pack-quantized' and 'pack-quantized'.*reads one of",
            id="INT4 beside NVFP4",
        ),
        pytest.param({"format": "mixed-precision", "config_groups": {}}, "mixed-precision", id="mixed of nothing"),
        pytest.param({"config_groups": [1]}, r"config_groups is \[1\], not a JSON object", id="groups are a list"),
        pytest.param({"config_groups": {"g": 1}}, "config_groups.g is 1, not a JSON object", id="a group is a number"),
    ],
)
def test_schemes_that_cannot_be_read_are_refused(tmp_path: Path, change: dict[str, object], message: str):
    model = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    folder = tiny.save_int4(model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        load_packed(folder)


def test_a_quantisation_that_is_text_is_refused(tmp_path: Path):
    folder = tiny.save_int4(tiny.tiny_model(tiny.tiny_config(hidden_size=64)), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": "int4"}))
    for call in (load_packed, plan_folder, source_format):
        with pytest.raises(ConfigError, match=r"config.json: quantization_config is 'int4', not a JSON object"):
            call(folder)


def test_one_format_in_all_groups_may_be_called_mixed(tmp_path: Path):
    truth = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    folder = tiny.save_nvfp4(truth, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    group = {"format": "nvfp4-pack-quantized", "weights": {"num_bits": 4}}
    config["quantization_config"] |= {"format": "mixed-precision", "config_groups": {"a": group, "b": group}}
    (folder / "config.json").write_text(json.dumps(config))
    assert source_format(folder) == "nvfp4-pack-quantized"
    assert furthest(truth, load_packed(folder, EXACT)) < 1e-3


def test_another_librarys_export_without_a_word_in_config_json(tmp_path: Path):
    tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path)
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    with pytest.raises(ConfigError, match=r"hf_quant_config.json.*modelopt.*choose such a release"):
        load_packed(tmp_path)


def test_faults_of_a_published_folder_are_named(tmp_path: Path):
    model = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    name = "model.decoder.layers.0.experts.3.up_proj.weight"
    for suffix, message in (
        ("_scale", rf"model-0000\d-of-00002.safetensors: tensor {name}_scale is missing"),
        (
            "_packed",
            rf"model-0000\d-of-00002.safetensors: tensor {name}_\w+ belongs to {name}_packed, which is missing",
        ),
    ):
        for save in (tiny.save_int4, tiny.save_nvfp4):
            folder = save(model, tmp_path / f"{save.__name__}{suffix}")
            change_files(folder, lambda tensors, gone=f"{name}{suffix}": tensors.pop(gone, None))
            with pytest.raises(CheckpointError, match=message):
                load_packed(folder)


def set_to(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor], str], object]:
    return lambda tensors, name: tensors.update({name: make(tensors[name])})


def add(added: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor], str], object]:
    return lambda tensors, name: tensors.update({added: value})


NORM = "model.decoder.layers.1.input_layernorm.weight"
GATE = "model.decoder.layers.1.mlp.gate_proj.weight"
ONES = torch.ones(3)


@pytest.mark.parametrize(
    "save", [tiny.save_shards, tiny.save_int4, tiny.save_nvfp4], ids=["float", "published INT4", "published NVFP4"]
)
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        pytest.param(NORM, set_to(torch.Tensor.long), f"{NORM} has dtype I64.*choose a release", id="an integer norm"),
        pytest.param(GATE, set_to(torch.Tensor.int), f"{GATE} has dtype I32.*choose a release", id="an integer weight"),
        pytest.param(
            GATE, set_to(lambda t: t.to(torch.float8_e4m3fn)), f"{GATE} has dtype F8_E4M3", id="FP8 without its scale"
        ),
        pytest.param(NORM, set_to(lambda t: t.double() * 1e300), f"{NORM} holds .* infinite in", id="beyond bf16"),
        pytest.param(GATE, set_to(lambda t: t.double() * 1e300), f"{GATE} holds .* infinite in", id="beyond fp32"),
        pytest.param(
            GATE, add(f"{GATE}_scale", ONES), f"{GATE}_scale belongs to {GATE}_packed", id="a scale of what is whole"
        ),
        pytest.param(
            GATE,
            add("model.decoder.layers.9.mlp.up_proj.weight_scale", ONES),
            r"layers.9.mlp.up_proj.weight_scale belongs to .*which is missing",
            id="a scale of what is not there",
        ),
        pytest.param(
            GATE,
            add("model.encoder.language_model.layers.9.foo.weight", ONES),
            r"model.encoder.language_model.layers.9.foo.weight does not belong",
            id="a copy of nothing",
        ),
        pytest.param(
            GATE,
            add("lm_head.weight_packed", ONES.int()),
            "lm_head.weight_packed is packed and the weight that it must be a copy of is not",
            id="a head of its own",
        ),
    ],
)
def test_what_would_be_read_as_what_it_is_not_is_refused(
    tmp_path: Path,
    save: Callable[[DiffusionGemma, Path], Path],
    name: str,
    change: Callable[[dict[str, torch.Tensor], str], object],
    message: str,
):
    folder = save(tiny.tiny_model(tiny.tiny_config(hidden_size=64)), tmp_path)
    change_files(folder, lambda tensors: change(tensors, name) if name in tensors else None)
    with pytest.raises(CheckpointError, match=rf"model-0000\d-of-0000\d.safetensors: tensor .*{message}"):
        load_packed(folder)


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        pytest.param("_packed", set_to(torch.Tensor.long), "has dtype I64", id="codes of another dtype"),
        pytest.param("_scale", set_to(torch.Tensor.int), "has dtype I32", id="integer scales"),
        pytest.param(
            "_shape",
            set_to(lambda _: torch.tensor([7, 9])),
            r"says \[7, 9\], the config asks for \[64, 128\]",
            id="another shape",
        ),
    ],
)
def test_packed_int4_weights_of_another_kind_are_refused(
    tmp_path: Path, suffix: str, change: Callable[[dict[str, torch.Tensor], str], object], message: str
):
    folder = tiny.save_int4(tiny.tiny_model(tiny.tiny_config(hidden_size=64)), tmp_path)
    name = f"model.decoder.layers.1.self_attn.o_proj.weight{suffix}"
    change_files(folder, lambda tensors: change(tensors, name) if name in tensors else None)
    with pytest.raises(CheckpointError, match=rf"tensor model.decoder.layers.1.self_attn.o_proj.\w+ .*{message}"):
        load_packed(folder)


def test_copies_that_a_writer_stored_are_passed_over(tmp_path: Path):
    truth = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    folder = tiny.save_int4(truth, tmp_path)
    name = "layers.1.self_attn.o_proj.weight"

    def copy(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if name in key or "embed_tokens" in key]:
            tensors[key.replace("model.decoder.", "model.encoder.language_model.")] = tensors[key].clone()

    change_files(folder, copy)
    assert furthest(truth, load_packed(folder, Scheme(dense="bf16", dtype=FP32))) < 1e-3


# -- memory
# --------------------------------------------------------------------------------------------------------------

MEASURE = """
    import json, re, sys
    from pathlib import Path
    import torch
    from lacuna_ls.engine.packed import load_packed, quantize
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    # the pages of the libraries are no part of the promise
    quantize(Path(sys.argv[3]), Path(sys.argv[4]))
    load_packed(Path(sys.argv[3]))
    # not getrusage's: a child begins with its parent's peak there
    def peak(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    before = peak()
    quantize(source, target)
    written = peak() - before
    size = load_packed(source).num_bytes
    print(json.dumps({"written": written, "loaded": peak() - before, "final": size}))
"""


def test_memory_stays_below_the_result_and_one_shard(tmp_path: Path):
    config = tiny.tiny_config(vocab_size=500, hidden_size=512, num_experts=32, top_k=8, expert_size=256)
    source = tmp_path / "source"
    with torch.device("meta"):
        names = {name: tensor.shape for name, tensor in DiffusionGemma(config).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        tiny.their_name(name): (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)
        for name, shape in names.items()
    }
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config.to_dict()))
    tiny.write_files(tensors, source, 9)
    shards = sorted((file.stat().st_size for file in source.glob("*.safetensors")), reverse=True)
    warm = tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path / "warm")
    folders = [source, tmp_path / "out", warm, tmp_path / "warm-out"]
    # glibc keeps what is freed, a different amount each time, unless the size from which on it maps is fixed
    glibc = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_ARENA_MAX": "1"}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), *map(str, folders)],
        capture_output=True, text=True, check=True, env={**os.environ, **glibc},
    )  # fmt: skip
    measured = json.loads(run.stdout)
    # the intermediate values of one stack of experts
    slack = 25e6
    promised = measured["final"] + shards[0] + slack
    assert measured["written"] < promised
    assert measured["loaded"] < promised
    # and the promise means something: the whole source would be much more
    assert promised < 0.75 * sum(shards)


def test_parts_and_their_sizes_are_exact(tmp_path: Path):
    for config in (tiny.tiny_config(), tiny.tiny_config(hidden_size=96, expert_size=40, num_experts=6)):
        source = tiny.save_shards(tiny.tiny_model(config), tmp_path / str(config.hidden_size))
        for scheme in (
            Scheme(),
            EXACT,
            Scheme("int8", 32, "fp8", 0, FP32),
            Scheme(experts_group=128, dense="int4", dense_group=128),
        ):
            packed = load_packed(source, scheme)
            assert packed.num_bytes == sum(part.num_bytes(scheme.dtype) for part in parts(config, scheme))


def test_a_bf16_model_computes_in_bf16(tmp_path: Path):
    # every expert is chosen: with random weights a rounding error flips choices, and then nothing can be compared
    config = tiny.tiny_config(hidden_size=64, top_k=4)
    model = tiny.tiny_model(config)
    packed = load_packed(tiny.save_shards(model, tmp_path))
    cache = KVCache(config, CPU, packed.dtype)
    assert packed.dtype == torch.bfloat16
    hidden = packed.encode(torch.arange(9), cache)
    wanted = packed.dequantised().encode(torch.arange(9), KVCache(config, CPU, FP32))
    assert hidden.dtype == torch.bfloat16
    assert float((hidden - wanted).norm() / wanted.norm()) < 0.05


def test_the_released_shape_is_what_the_facts_say():
    config = ModelConfig.load(Path(__file__).parents[2] / "bench" / "diffusiongemma_26b.json")
    sizes: dict[str, float] = {}
    for part in parts(config, Scheme()):
        count = sum(torch.Size(shape).numel() for shape in part.shapes)
        sizes[part.label] = sizes.get(part.label, 0) + count / 1e9
    assert sizes["experts"] == pytest.approx(22.84, abs=0.01)
    assert sizes["attention"] == pytest.approx(1.11, abs=0.01)
    assert sizes["embedding"] == pytest.approx(0.738, abs=0.001)
    assert [i for i, spec in enumerate(config.layers) if spec.kind == "full_attention"] == [5, 11, 17, 23, 29]
