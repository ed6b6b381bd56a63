"""Reading, quantising and packing: every format against the weights it means, every fault named, memory as promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from lacuna_ls.engine.config import ModelConfig
from lacuna_ls.engine.errors import CheckpointError, ConfigError, ModelError, ModelNotFoundError
from lacuna_ls.engine.formats import EXACT, Scheme, parts, source_format, stream
from lacuna_ls.engine.kv_cache import KVCache
from lacuna_ls.engine.model import DiffusionGemma
from lacuna_ls.engine.packed import MANIFEST, load_packed, quantize, quantize_main, read_manifest
from lacuna_ls.engine.packed_model import PackedModel, row_ranges
from lacuna_ls.kernels.attention import row_ranges as row_ranges_truth
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


# -- our own folder
# ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    source = tiny.save_shards(tiny.tiny_model(tiny.tiny_config(hidden_size=64)), folder / "source")
    (source / "tokenizer.json").write_text("{}")
    # files of a few kilobytes, so that there are several
    quantize(source, folder / "packed", Scheme(dtype=FP32), file_bytes=60_000)
    return folder / "packed"


def test_packed_folder_round_trip(packed_folder: Path):
    assert len(list(packed_folder.glob("weights-*.safetensors"))) > 1
    assert (packed_folder / "tokenizer.json").exists()
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
    save_file(tensors, file)
    if what == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif what == "file":
        file.unlink()
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
        pytest.param("gone", CheckpointError, r"tensor layers.1.out\|data is missing", id="a tensor left out"),
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
        pytest.param("missing", r"tensor layers.2.experts.down_proj missing", id="missing"),
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


def test_another_librarys_export_without_a_word_in_config_json(tmp_path: Path):
    tiny.save_shards(tiny.tiny_model(tiny.tiny_config()), tmp_path)
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    with pytest.raises(ConfigError, match=r"hf_quant_config.json.*modelopt.*choose such a release"):
        load_packed(tmp_path)


def test_faults_of_a_published_folder_are_named(tmp_path: Path):
    model = tiny.tiny_model(tiny.tiny_config(hidden_size=64))
    name = "model.decoder.layers.0.experts.3.up_proj.weight"
    for suffix, message in (
        ("_scale", rf"{name}_scale is missing"),
        ("_packed", r"layers.0.experts.3.up_proj.weight missing"),
    ):
        folder = tiny.save_int4(model, tmp_path / suffix)
        for file in folder.glob("*.safetensors"):
            tensors = load_file(file)
            tensors.pop(f"{name}{suffix}", None)
            save_file(tensors, file)
        with pytest.raises(CheckpointError, match=message):
            load_packed(folder)


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
